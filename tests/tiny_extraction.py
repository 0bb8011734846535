"""A backbone and images with which extracting feature maps takes a second."""

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage
from transformers import CLIPImageProcessorPil, ResNetConfig, ResNetModel

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
IMAGE_SIZE, GRID, CHANNELS = 64, 8, 16
NUM_IMAGES, SHARD_ROWS = 8, 3
LABELS, IMAGE_IDS = [i % 3 for i in range(NUM_IMAGES)], [40, 7, 3, 21, 15, 9, 30, 2]


def save_tiny_backbone(folder):
    torch.manual_seed(0)
    ResNetModel(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, CHANNELS], depths=[1, 1], layer_type="basic")
    ).save_pretrained(folder)
    CLIPImageProcessorPil(image_mean=MEAN, image_std=STD, size={"shortest_edge": 999}).save_pretrained(folder)


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


def make_state_dict(kind="bottleneck", depths=(2, 1, 3, 1), stem=8, widths=(4, 8, 8, 16), classes=5):
    """Random weights and running statistics with the names of torchvision's ResNet."""
    generator = torch.Generator().manual_seed(0)
    state = {}

    def add(convolution, norm, out_channels, in_channels, side):
        weight = torch.randn(out_channels, in_channels, side, side, generator=generator)
        state[f"{convolution}.weight"] = weight / (in_channels * side**2) ** 0.5
        state[f"{norm}.weight"] = torch.rand(out_channels, generator=generator) + 0.5
        state[f"{norm}.bias"] = torch.randn(out_channels, generator=generator) / 10
        state[f"{norm}.running_mean"] = torch.randn(out_channels, generator=generator) / 10
        state[f"{norm}.running_var"] = torch.rand(out_channels, generator=generator) + 0.5
        state[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    add("conv1", "bn1", stem, 3, 7)
    channels = stem
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
        out_channels = 4 * width if kind == "bottleneck" else width
        for block in range(depth):
            name = f"layer{stage}.{block}"
            if kind == "bottleneck":
                add(f"{name}.conv1", f"{name}.bn1", width, channels, 1)
                add(f"{name}.conv2", f"{name}.bn2", width, width, 3)
                add(f"{name}.conv3", f"{name}.bn3", out_channels, width, 1)
            else:
                add(f"{name}.conv1", f"{name}.bn1", width, channels, 3)
                add(f"{name}.conv2", f"{name}.bn2", width, width, 3)
            if block == 0 and (stage > 1 or channels != out_channels):
                add(f"{name}.downsample.0", f"{name}.downsample.1", out_channels, channels, 1)
            channels = out_channels
    state["fc.weight"] = torch.randn(classes, channels, generator=generator)
    state["fc.bias"] = torch.randn(classes, generator=generator)
    return state
