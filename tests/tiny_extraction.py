"""A backbone and images with which extracting feature maps takes a second."""

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage
from transformers import CLIPImageProcessor, ResNetConfig, ResNetModel

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
IMAGE_SIZE, GRID, CHANNELS = 64, 8, 16
NUM_IMAGES, SHARD_ROWS = 8, 3
LABELS, IMAGE_IDS = [i % 3 for i in range(NUM_IMAGES)], [40, 7, 3, 21, 15, 9, 30, 2]


def save_tiny_backbone(folder):
    torch.manual_seed(0)
    ResNetModel(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, CHANNELS], depths=[1, 1], layer_type="basic")
    ).save_pretrained(folder)
    CLIPImageProcessor(image_mean=MEAN, image_std=STD, size={"shortest_edge": 999}).save_pretrained(folder)


def save_tiny_images(folder):
    """Eight images of different shapes, one of them grey."""
    generator = np.random.default_rng(0)
    for i in range(NUM_IMAGES):
        shape = (70 + 9 * i, 130 - 7 * i) if i == 5 else (70 + 9 * i, 130 - 7 * i, 3)
        PILImage.fromarray(generator.integers(0, 256, shape, np.uint8)).save(folder / f"{i}.jpg", format="PNG")


def make_tiny_images(folder) -> Dataset:
    """The images with ids that are neither contiguous nor in order."""
    features = {"image": Image(), "label": ClassLabel(names=["auk", "bunting", "crow"]), "image_id": Value("int64")}
    paths = [str(folder / f"{i}.jpg") for i in range(NUM_IMAGES)]
    return Dataset.from_dict({"image": paths, "label": LABELS, "image_id": IMAGE_IDS}, Features(features))


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
