"""A data set, inputs and arguments with which training takes a second."""

import datasets
import numpy as np
import torch
from transformers import CLIPImageProcessorPil

from dedn_hf.data import GzslDataset
from dedn_hf.training import DednTrainingArguments
from dedn_hf.training.inputs import ModelInputs
from dedn_hf.training.protocol import build_model

NUM_ATTRIBUTES, CHANNELS, GRID = 8, 12, 2
TRAIN, VALIDATION, UNSEEN = range(6), range(6, 8), range(8, 10)
# Split → classes, and which of a class's six images. As it must be, trainval is the union of the three after it.
SPLITS = {
    "train": (TRAIN, range(4)),
    "validation_seen": (TRAIN, range(4, 5)),
    "validation_unseen": (VALIDATION, range(5)),
    "test_seen": ([*TRAIN, *VALIDATION], range(5, 6)),
    "test_unseen": (UNSEEN, range(6)),
}


def make_tiny_dataset(**changes) -> GzslDataset:
    """Ten classes of six images: six train classes, two for validation, two unseen."""
    names = [f"class {index}" for index in range(10)]
    features = datasets.Features({"label": datasets.ClassLabel(names=names), "image_id": datasets.Value("int64")})
    splits = datasets.DatasetDict()
    for split, (classes, numbers) in SPLITS.items():
        pairs = [(label, 6 * label + number) for label in classes for number in numbers]
        labels, image_ids = map(list, zip(*pairs))
        splits[split] = datasets.Dataset.from_dict({"label": labels, "image_id": image_ids}, features=features)
    splits["trainval"] = datasets.concatenate_datasets(
        [splits[name] for name in ("train", "validation_seen", "validation_unseen")]
    )
    random = np.random.default_rng(0)
    return GzslDataset(
        **{
            "name": "folder",
            "splits": splits,
            "class_names": names,
            "attribute_names": [f"attribute {index}" for index in range(NUM_ATTRIBUTES)],
            "attribute_groups": {"wing": [0, 3], "tail": [1, 2, 7], "body": [4, 5, 6]},
            "class_attributes": (random.random((10, NUM_ATTRIBUTES)) > 0.6).astype(np.float32),
            "seen_class_ids": [*TRAIN, *VALIDATION],
            "validation_class_ids": list(VALIDATION),
            "split_name": "tiny split",
            "split_sha256": "0" * 64,
            "word_vectors": random.normal(size=(NUM_ATTRIBUTES, 5)).astype(np.float32),
        }
        | changes
    )


class TinyFeatureMaps(torch.utils.data.Dataset):
    """Maps in which the attributes of the class shine through noise; `read` is the image ids that were asked for."""

    def __init__(self, images: datasets.Dataset, class_attributes: np.ndarray, read: list | None = None):
        self.labels, self.image_ids = np.array(images["label"]), np.array(images["image_id"])
        self.class_attributes = class_attributes
        self.projection = np.random.default_rng(1).normal(size=(NUM_ATTRIBUTES, CHANNELS))
        self.read = [] if read is None else read

    def __len__(self):
        return len(self.labels)

    def __getitems__(self, indices):
        self.read += self.image_ids[indices].tolist()
        items = []
        for index in indices:
            noise = np.random.default_rng(self.image_ids[index]).normal(scale=0.3, size=(CHANNELS, GRID, GRID))
            channels = self.class_attributes[self.labels[index]] @ self.projection
            feature_map = torch.tensor(channels[:, None, None] + noise, dtype=torch.float16)
            items.append({"feature_map": feature_map, "labels": int(self.labels[index])})
        return items


def make_tiny_inputs(dataset: GzslDataset, read: list | None = None) -> ModelInputs:
    return ModelInputs(
        lambda images: TinyFeatureMaps(images, dataset.class_attributes, read),
        CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size=8),
        {"feature_channels": CHANNELS, "grid_size": GRID},
    )


def make_tiny_arguments(output_dir, **changes) -> DednTrainingArguments:
    return DednTrainingArguments(
        **{
            "output_dir": str(output_dir),
            "use_cpu": True,
            "disable_tqdm": True,
            "learning_rate": 0.05,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.1,
            "max_grad_norm": 0.0,
            "per_device_train_batch_size": 4,
            "num_train_epochs": 3,
            "save_strategy": "no",
        }
        | changes
    )


def make_trainval_model(dataset: GzslDataset):
    torch.manual_seed(0)
    return build_model(dataset, range(10), dataset.unseen_class_ids, feature_channels=CHANNELS, grid_size=GRID)
