"""The one shape in which every data set reaches the rest of the package."""

from dataclasses import dataclass, field

import numpy as np
from datasets import DatasetDict


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
        attribute_groups (`dict[str, list[int]]`):
            Name of each group of the fine expert → indices of its attributes; a partition of `range(A)`.
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
        part_names (`list[str]`, *optional*, defaults to `[]`):
            Names of the rows of `part_points`.
    """

    name: str
    splits: DatasetDict
    class_names: list[str]
    attribute_names: list[str]
    attribute_groups: dict[str, list[int]]
    class_attributes: np.ndarray
    seen_class_ids: list[int]
    validation_class_ids: list[int]
    split_name: str
    split_sha256: str
    word_vectors: np.ndarray | None = None
    part_names: list[str] = field(default_factory=list)

    @property
    def unseen_class_ids(self) -> list[int]:
        seen = set(self.seen_class_ids)
        return [index for index in range(len(self.class_names)) if index not in seen]
