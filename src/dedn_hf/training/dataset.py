"""Data sets as the Trainer takes them: items with `labels` and either `feature_map` or `pixel_values`."""

from collections.abc import Sequence

import datasets
import numpy as np
import torch


class PixelValueDataset(torch.utils.data.Dataset):
    """
    Images of one split, preprocessed when they are asked for.

    Args:
        images (`datasets.Dataset`):
            A split with columns `image`, `label` and `image_id`.
        image_processor (`BaseImageProcessor`):
            What turns an image into `pixel_values`.
        keep_in_memory (`bool`, *optional*, defaults to `False`):
            Whether to preprocess each image once only: for small data sets.
    """

    def __init__(self, images: datasets.Dataset, image_processor, keep_in_memory: bool = False):
        self.images = images.select_columns(["image"])
        self.image_processor = image_processor
        self.labels = np.asarray(images["label"])
        self.image_ids = np.asarray(images["image_id"])
        self.kept = {} if keep_in_memory else None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict]:
        if self.kept is None:
            pixel_values = self._preprocess(indices)
        else:
            missing = [index for index in dict.fromkeys(indices) if index not in self.kept]
            if missing:
                self.kept.update(zip(missing, self._preprocess(missing), strict=True))
            pixel_values = [self.kept[index] for index in indices]
        return [{"pixel_values": p, "labels": int(self.labels[i])} for p, i in zip(pixel_values, indices, strict=True)]

    def _preprocess(self, indices: list[int]) -> torch.Tensor:
        images = [image.convert("RGB") for image in self.images[indices]["image"]]
        return self.image_processor(images, return_tensors="pt")["pixel_values"]


class ClassSubset(torch.utils.data.Dataset):
    """
    A data set for a model that knows only some of the classes: a label is the place of the image's class among them.

    Args:
        dataset (`PixelValueDataset` or `FeatureMapDataset`):
            Items with `labels`, all of them among the classes.
        class_ids (`Sequence[int]`):
            The classes.
    """

    def __init__(self, dataset: torch.utils.data.Dataset, class_ids: Sequence[int]):
        self.dataset = dataset
        place = {class_id: place for place, class_id in enumerate(class_ids)}
        self.labels = np.array([place[label] for label in dataset.labels.tolist()])

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict]:
        items = self.dataset.__getitems__(indices)
        return [{**item, "labels": int(self.labels[index])} for item, index in zip(items, indices, strict=True)]
