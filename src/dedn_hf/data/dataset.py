"""The one shape in which every data set reaches the rest of the package, and what is to be said of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value


@dataclass(frozen=True)
class DatasetCard:
    """
    What is known of a data set before its files are read: for the cards of models that were trained on it.

    Args:
        title (`str`):
            Its name in a text.
        id (`str`):
            Its name in metadata.
        subject (`str`):
            What its images show.
        summary (`str`):
            What it consists of, in a few sentences.
        license (`dict[str, str]`):
            `license`, and `license_name` and `license_link` where it is `"other"`, as the Hub wants them.
        terms (`str`):
            What weights that were trained on it may be used for.
        caution (`str`):
            What its figures do not say.
        image (`str`), new_class (`str`), description (`tuple[str, ...]`):
            For the examples: a file name, and a class that is none of its own, by some of its attributes.
        groups (`str`, *optional*):
            Its attribute groups in words.
        split_name (`str`, *optional*), split_sha256 (`str`, *optional*), split_counts (`tuple[int, ...]`, *optional*):
            The split that published figures rest on: its name, [`fingerprint_split`], and its numbers of `trainval`,
            `test_seen` and `test_unseen` images.
        citations (`tuple[str, ...]`, *optional*, defaults to `()`):
            BibTeX entries.
        backbone (`str`, *optional*):
            The backbone that its recipe is made for, in a sentence.
        built_in (`bool`, *optional*, defaults to `False`):
            Whether it comes with this package, word vectors and all, and needs no files.
    """

    title: str
    id: str
    subject: str
    summary: str
    license: dict[str, str]
    terms: str
    caution: str
    image: str
    new_class: str
    description: tuple[str, ...]
    groups: str | None = None
    split_name: str | None = None
    split_sha256: str | None = None
    split_counts: tuple[int, ...] | None = None
    citations: tuple[str, ...] = ()
    backbone: str | None = None
    built_in: bool = False


@dataclass
class GzslDataset:
    """
    A generalized zero-shot learning data set: its images, and what is known of its classes.

    Args:
        name (`str`):
            Short name, as on the command line (`"synthetic_birds"`, `"cub"`, …).
        splits (`DatasetDict`):
            `trainval`, `train`, `validation_seen`, `validation_unseen`, `test_seen` and `test_unseen`. `trainval` is
            the union of the three after it. Columns: `image`, `label` (`ClassLabel` over `class_names`), `image_id`
            (`int64`, unique over all splits), and, where the data set has them, `part_points` (one `[x, y, visible]` a
            part, in pixels of the stored image) and `box` (`[x, y, width, height]`).
        class_names (`list[str]`):
            The K classes; a label is an index into this list.
        attribute_names (`list[str]`):
            The A attributes.
        attribute_groups (`dict[str, list[int]]`, *optional*):
            Name of each group of the fine expert → indices of its attributes; a partition of `range(A)`. A reader that
            knows none leaves it to [`load_gzsl_dataset`] to cluster them.
        class_attributes (`np.ndarray` of shape `(K, A)`, float32):
            Strength of each attribute in each class, not normalised.
        seen_class_ids (`list[int]`):
            Classes of the training images (`trainval`). All others are unseen.
        validation_class_ids (`list[int]`):
            The seen classes that play the unseen ones while hyper-parameters are chosen.
        split_name (`str`):
            What the split is called in results and cards.
        split_sha256 (`str`):
            Fingerprint of the split, see [`fingerprint_split`].
        word_vectors (`np.ndarray` of shape `(A, D)`, *optional*):
            One vector an attribute.
        word_vector_source (`str`, *optional*):
            Where they are from: `"random"`, a Hub id, or the name of a file or folder. `None` for the data set's own.
        part_names (`list[str]`, *optional*, defaults to `[]`):
            Names of the rows of `part_points`.
        attribute_parts (`dict[str, tuple[str, ...]]`, *optional*, defaults to `{}`):
            What an attribute's name speaks of (`has_wing_color::red`: wing) → the names of its parts.
        image_attributes (`dict[int, np.ndarray of shape (A,)]`, *optional*):
            Image id → what people said of that image alone: 1 where it shows the attribute, 0 where it does not,
            between them where they disagreed, NaN where nobody could tell.
        attribute_descriptions (`dict[str, str]`, *optional*, defaults to `{}`):
            Attribute → a sentence on it, for word vectors that are made of sentences.
        class_parents (`dict[str, str]`, *optional*, defaults to `{}`):
            Class → the rank above it, for models that are trained on it, see [`DednConfig`].
        notes (`list[str]`, *optional*, defaults to `[]`):
            What its files say that could have been meant otherwise, or is out of the ordinary, one line each.
            [`load_gzsl_dataset`] warns of it, and so does `--check`.
    """

    name: str
    splits: DatasetDict
    class_names: list[str]
    attribute_names: list[str]
    attribute_groups: dict[str, list[int]] | None
    class_attributes: np.ndarray
    seen_class_ids: list[int]
    validation_class_ids: list[int]
    split_name: str
    split_sha256: str
    word_vectors: np.ndarray | None = None
    word_vector_source: str | None = None
    part_names: list[str] = field(default_factory=list)
    attribute_parts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    image_attributes: dict[int, np.ndarray] | None = None
    attribute_descriptions: dict[str, str] = field(default_factory=dict)
    class_parents: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def unseen_class_ids(self) -> list[int]:
        seen = set(self.seen_class_ids)
        return [index for index in range(len(self.class_names)) if index not in seen]


def image_features(class_names: Sequence[str]) -> Features:
    """Columns of a data set of which no more is known than images and classes."""
    return Features({"image": Image(), "label": ClassLabel(names=list(class_names)), "image_id": Value("int64")})


def make_splits(rows: Mapping[int, dict], parts: Mapping[str, Sequence[int]], features: Features) -> DatasetDict:
    """
    The splits of a data set that is read from files: tables that refer to the image files.

    Args:
        rows (`Mapping[int, dict]`):
            Image id → its row.
        parts (`Mapping[str, Sequence[int]]`):
            Name of each split → the ids of its images. An image may be in several.
        features (`datasets.Features`):
            Types of the columns.
    """
    tables = {part: {name: [rows[i][name] for i in ids] for name in features} for part, ids in parts.items()}
    return DatasetDict({part: Dataset.from_dict(table, features=features) for part, table in tables.items()})


def describe_groups(groups: Mapping[str, Sequence[int]]) -> str:
    """Groups of attributes and how many are in each, in words."""
    return f"{len(groups)} groups: " + ", ".join(f"{name} ({len(indices)})" for name, indices in groups.items())
