"""How well a class is recognised from a short description instead of its whole row of class attributes."""

from collections.abc import Sequence

import numpy as np

from .calibration import mix_expert_scores
from .metrics import gzsl_metrics

UNNAMED = ("zero", "mean")


def describe_classes(
    class_attributes: np.ndarray,
    class_ids: Sequence[int],
    seen_class_ids: Sequence[int],
    count: int,
    unnamed: str,
    with_strengths: bool = True,
) -> np.ndarray:
    """
    What is left of classes' rows when a description names only their most distinctive attributes, those in which they
    are furthest above the mean of the seen classes.

    Args:
        class_attributes (`np.ndarray` of shape `(K, A)`):
            The class-attribute matrix.
        class_ids (`Sequence[int]` of length `N`):
            The classes that are described.
        seen_class_ids (`Sequence[int]`):
            The seen classes.
        count (`int`):
            Attributes named for each class; A or more is all of them.
        unnamed (`str`):
            What the other attributes are taken for: `"zero"`, or `"mean"`, the mean over the seen classes.
        with_strengths (`bool`, *optional*, defaults to `True`):
            Whether the description says how strongly a class has an attribute, or only that it does: then it counts as
            strong as in the class that has it most, among those that are not described.

    Returns:
        `np.ndarray` of shape `(N, A)`: rows as the pipeline makes them from such descriptions.
    """
    mean = class_attributes[list(seen_class_ids)].mean(axis=0)
    rows = class_attributes[list(class_ids)]
    strongest = np.delete(class_attributes, list(class_ids), axis=0).max(axis=0)
    described = np.tile(np.zeros_like(mean) if unnamed == "zero" else mean, (len(rows), 1))
    named = np.argsort(mean - rows, axis=1, kind="stable")[:, :count]
    values = rows if with_strengths else np.tile(strongest, (len(rows), 1))
    np.put_along_axis(described, named, np.take_along_axis(values, named, axis=1), axis=1)
    return described


def short_description_accuracy(
    expert_scores: np.ndarray,
    labels: Sequence[int],
    class_attributes: np.ndarray,
    seen_class_ids: Sequence[int],
    region_mix: float,
    coarse_mix: float,
    counts: Sequence[int] = (3, 5, 10, 20),
) -> list[dict]:
    """
    T1 when each unseen class keeps only its most distinctive attributes, see [`describe_classes`].

    Args:
        expert_scores (`np.ndarray` of shape `(N, 2, 2, A)`):
            Attribute scores of images of unseen classes, [coarse, fine] × [region, channel].
        labels (`Sequence[int]` of length `N`):
            Their classes.
        class_attributes (`np.ndarray` of shape `(K, A)`):
            The class-attribute matrix.
        seen_class_ids (`Sequence[int]`):
            The seen classes; all others are unseen.
        region_mix (`float`):
            c, as in [`DednConfig`].
        coarse_mix (`float`):
            e, as in [`DednConfig`].
        counts (`Sequence[int]`, *optional*, defaults to 3, 5, 10, 20):
            How many attributes a description names; the whole row is added.

    Returns:
        `list[dict]`: `attributes`, `with_strengths`, `unnamed` and `T1` (per cent) of each combination.
    """
    seen = set(seen_class_ids)
    unseen = [class_id for class_id in range(len(class_attributes)) if class_id not in seen]
    table = []
    for count in (*counts, class_attributes.shape[1]):
        for with_strengths in (True, False):
            for unnamed in UNNAMED:
                rows = class_attributes.copy()
                rows[unseen] = describe_classes(rows, unseen, seen_class_ids, count, unnamed, with_strengths)
                logits = mix_expert_scores(expert_scores, rows, region_mix, coarse_mix)
                accuracy = gzsl_metrics(logits, labels, seen_class_ids)["T1"]
                table.append(
                    {"attributes": count, "with_strengths": with_strengths, "unnamed": unnamed, "T1": accuracy}
                )
    return table
