"""Data sets as the Trainer takes them: items with `labels` and either `feature_map` or `pixel_values`."""

import warnings
from collections.abc import Mapping, Sequence

import datasets
import numpy as np
import torch
from torch.utils.data import ConcatDataset, Subset

from ..configuration_dedn import DednConfig
from ..data.random_crop import RandomCrop
from ..images_dedn import load_any_image
from ..names_dedn import NameMatcher


def read_labels(dataset: torch.utils.data.Dataset) -> np.ndarray | None:
    """
    Label of each item of a data set, without reading anything else of it.

    Args:
        dataset (`Dataset` of length `N`):
            A `datasets.Dataset` with a column `labels` or `label`, a data set with an attribute `labels`, or torch's
            `Subset` or `ConcatDataset` of such.

    Returns:
        `np.ndarray` of shape `(N,)`, or `None` where it does not say them.
    """
    if isinstance(dataset, Subset):
        labels = read_labels(dataset.dataset)
        return None if labels is None else labels[np.asarray(dataset.indices, dtype=np.int64)]
    if isinstance(dataset, ConcatDataset):
        labels = [read_labels(part) for part in dataset.datasets]
        return None if any(part is None for part in labels) else np.concatenate(labels)
    if isinstance(dataset, datasets.Dataset):
        column = _label_column(dataset.column_names)
        if column is None:
            return None
        labels = dataset.select_columns(column).with_format("numpy")[:][column]
    else:
        labels = getattr(dataset, "labels", None)
    if labels is None or len(labels) != len(dataset):
        return None
    return np.asarray(labels).reshape(len(dataset), -1)[:, 0]


def check_dataset(dataset: torch.utils.data.Dataset, which: str, config: DednConfig):
    """
    Whether a data set is what a model can be trained or evaluated on, by what can be said without reading its images.

    Args:
        dataset (`Dataset`):
            The data set. What a transform makes of its columns is not looked at.
        which (`str`):
            What it is called in the error, such as `"training"`.
        config ([`DednConfig`]):
            The model's.

    Raises:
        ValueError: If it has no labels or nothing for the model to see, labels are no ids of the model's classes, or
            the column's names of classes are in another order than the model's.
    """
    parts = _parts(dataset)
    transformed = any(isinstance(part, datasets.Dataset) and part.format["type"] == "custom" for part in parts)
    for part in parts:
        if isinstance(part, (datasets.Dataset, datasets.IterableDataset)) and part.column_names is not None:
            column = _label_column(part.column_names)
            _check_names(part, column, which, config.label2id, transformed)
            if not transformed:
                _check_columns(part, column, which)
    # A transform may give other labels; an iterable data set would have to be read.
    unknown = transformed or isinstance(dataset, torch.utils.data.IterableDataset)
    labels = None if unknown else read_labels(dataset)
    if labels is not None and np.issubdtype(labels.dtype, np.integer):
        outside = np.unique(labels[(labels < 0) | (labels >= config.num_labels)])
        if len(outside):
            raise ValueError(
                f"The {which} set has labels {', '.join(map(str, outside[:5]))}, but the model has "
                f"{config.num_labels} classes, with ids from 0. Name all classes with `set_classes`."
            )


def _check_columns(dataset: datasets.Dataset | datasets.IterableDataset, column: str | None, which: str):
    for needed in (("labels", "label"), ("feature_map", "pixel_values")):
        if not set(needed) & set(dataset.column_names):
            raise ValueError(
                f"The {which} set has no column `{'` or `'.join(needed)}`, only {', '.join(dataset.column_names)}: "
                "rename one with `rename_column`, or make it with `map` or `with_transform`."
            )
    feature = (dataset.features or {}).get(column)
    kind = getattr(feature, "feature", feature)
    if isinstance(kind, datasets.Value) and "int" not in kind.dtype:
        raise ValueError(
            f"The {which} set's column `{column}` holds {kind.dtype}, but a label is the id of a class, an integer: "
            "cast it, or map names to ids with `model.config.label2id`."
        )


def _check_names(
    dataset: datasets.Dataset | datasets.IterableDataset,
    column: str | None,
    which: str,
    label2id: Mapping[str, int],
    transformed: bool,
):
    feature = (dataset.features or {}).get(column)
    names = feature.names if isinstance(feature, datasets.ClassLabel) else []
    found = NameMatcher(label2id).find_all(names)
    moved = [index for index, name in enumerate(found) if label2id.get(name, index) != index]
    if not moved:
        return
    index = moved[0]
    way_out = f"`dataset.align_labels_with_mapping(model.config.label2id, {column!r})`"
    if found != names:  # which are to be the model's own for that
        way_out = f"with the model's names in `ClassLabel`, then {way_out}"
    message = (
        f"In the {which} set's column `{column}`, {names[index]!r} is {index}, but for the model it is "
        f"{label2id[found[index]]}: use the model's order, {way_out}"
    )
    if not transformed:
        raise ValueError(f"{message}.")
    warnings.warn(f"{message}, unless the transform does so.", stacklevel=2)


def _parts(dataset: torch.utils.data.Dataset) -> list[torch.utils.data.Dataset]:
    """What torch's `Subset` and `ConcatDataset` are made of."""
    if isinstance(dataset, Subset):
        return _parts(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        return [part for whole in dataset.datasets for part in _parts(whole)]
    return [dataset]


def _label_column(names: Sequence[str]) -> str | None:
    # Where there are both, transformers' collator takes `labels`.
    return next((name for name in ("labels", "label") if name in names), None)


class PixelValueDataset(torch.utils.data.Dataset):
    """
    Images of one split, preprocessed when they are asked for.

    An image that cannot be read is a ValueError that names it.

    Args:
        images (`datasets.Dataset`):
            A split with columns `image`, `label` and `image_id`.
        image_processor (`BaseImageProcessor`):
            What turns an image into `pixel_values`.
        keep_in_memory (`bool`, *optional*, defaults to `False`):
            Whether to preprocess each image once only: for small data sets.
        random_crop (`RandomCrop`, *optional*):
            For training: what is seen of an image in each epoch, in place of the image processor's resizing and crop.

    Raises:
        ValueError: If there is a `random_crop`, and images are to be kept in memory or have negative ids.
    """

    def __init__(
        self,
        images: datasets.Dataset,
        image_processor,
        keep_in_memory: bool = False,
        random_crop: RandomCrop | None = None,
    ):
        if random_crop is not None and keep_in_memory:
            raise ValueError("Images that are cropped anew in each epoch cannot be kept: leave `keep_in_memory` out.")
        self.images = images.select_columns(["image"])
        if isinstance(self.images.features["image"], datasets.Image):  # what opens it is to be the one reader
            self.images = self.images.cast_column("image", datasets.Image(decode=False))
        self.image_processor = image_processor
        self.labels = np.asarray(images["label"])
        self.image_ids = np.asarray(images["image_id"])
        self.kept = {} if keep_in_memory else None
        if random_crop is not None and len(self.image_ids) and self.image_ids.min() < 0:
            raise ValueError(
                f"`random_crop` draws by image ids, which must be 0 or more, but there is {self.image_ids.min()}."
            )
        self.random_crop = random_crop
        # Workers that stay from epoch to epoch see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int):
        """Makes random crops those of this epoch."""
        self._epoch.fill_(epoch)

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
        images = [self._read(image) for image in self.images[indices]["image"]]
        options = {}
        if self.random_crop is not None:
            size, resample = self.image_processor.crop_size["height"], self.image_processor.resample
            epoch, options = self._epoch.item(), {"do_resize": False, "do_center_crop": False}
            images = [
                self.random_crop(image, size, resample, epoch, int(self.image_ids[index]))
                for image, index in zip(images, indices, strict=True)
            ]
        return self.image_processor(images, return_tensors="pt", **options)["pixel_values"]

    def _read(self, image):
        try:
            return load_any_image(image)
        except Exception as error:  # Pillow raises whatever a damaged byte leads to
            path = (image.get("path") if isinstance(image, dict) else None) or "An image"
            raise ValueError(f"{path} cannot be read: {error}. `dedn train --check` finds all such images.") from error


class ClassSubset(torch.utils.data.Dataset):
    """
    A data set for a model that knows only some of the classes: a label is the place of the image's class among them.

    Args:
        dataset (`PixelValueDataset` or `FeatureMapDataset`):
            Items with `labels`, all of them among the classes.
        class_ids (`Sequence[int]`):
            The classes.

    Raises:
        ValueError: If there is an image of another class.
    """

    def __init__(self, dataset: torch.utils.data.Dataset, class_ids: Sequence[int]):
        self.dataset = dataset
        place = {class_id: place for place, class_id in enumerate(class_ids)}
        others = sorted(set(dataset.labels.tolist()) - set(place))
        if others:
            raise ValueError(f"There are images of classes {others}, which are not among the given {len(place)}.")
        self.labels = np.array([place[label] for label in dataset.labels.tolist()])

    def set_epoch(self, epoch: int):
        """Tells the data set the epoch, if it is one that has random crops."""
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict]:
        items = self.dataset.__getitems__(indices)
        return [{**item, "labels": int(self.labels[index])} for item, index in zip(items, indices, strict=True)]
