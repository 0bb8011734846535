"""
Measures how well unseen classes are recognised from short descriptions: T1 when each keeps only its most distinctive
attributes, and the others count as none, as the mean of the seen classes, or as what the named ones let expect.

    python scripts/lab/measure_descriptions.py --model outputs/synthetic_birds --dataset synthetic_birds
    python scripts/lab/measure_descriptions.py --model MODEL --dataset cub --data_dir DATA --feature_maps STORE

Of a model that has not seen the validation classes, `choose/` of a run, it takes the validation images.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from measuring import make_parser, predict_held_out

from dedn_hf import DednModel
from dedn_hf.candidates_dedn import likely_attributes
from dedn_hf.evaluation import gzsl_metrics, mix_expert_scores

UNNAMED = ("zero", "mean", "likely")


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
            What the other attributes are taken for: `"zero"`, `"mean"`, the mean over the seen classes, or `"likely"`,
            see [`likely_attributes`].
        with_strengths (`bool`, *optional*, defaults to `True`):
            Whether the description says how strongly a class has an attribute, or only that it does: then it counts as
            the largest entry of the matrix.

    Returns:
        `np.ndarray` of shape `(N, A)`: rows as the pipeline makes them from such descriptions.
    """
    seen = class_attributes[list(seen_class_ids)]
    mean, largest = seen.mean(axis=0), class_attributes.max()
    rows = class_attributes[list(class_ids)]
    named = np.argsort(mean - rows, axis=1, kind="stable")[:, :count]
    values = np.take_along_axis(rows if with_strengths else np.full_like(rows, largest), named, axis=1)
    described = np.tile(np.zeros_like(mean) if unnamed == "zero" else mean, (len(rows), 1))
    if unnamed == "likely":
        strengths = torch.from_numpy(seen / largest)
        pairs = zip(torch.from_numpy(named), torch.from_numpy(values / largest))
        described = largest * np.stack([likely_attributes(strengths, *pair).numpy() for pair in pairs])
    np.put_along_axis(described, named, values, axis=1)
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


def read_scores(
    model: DednModel,
    dataset: str,
    data_dir: str | None = None,
    feature_maps: str | None = None,
    scores: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """
    Attribute scores of images of the unseen classes of a model: test images, or validation images where it has not
    seen the validation classes and knows no test classes.

    Args:
        model ([`DednModel`]):
            The model.
        dataset, data_dir, feature_maps:
            What its images are read from.
        scores (`str`, *optional*):
            File to read them from, or to write them to if it is not there.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: of shape `(N, 2, 2, A)`, [coarse, fine] × [region, channel], and ids of their
        classes, `(N,)`.
    """
    if scores and Path(scores).is_file():
        with np.load(scores, allow_pickle=False) as file:
            return file["expert_scores"], file["labels"]
    _, (held_out,) = predict_held_out(model, dataset, data_dir, feature_maps, ["unseen"])
    expert_scores, labels = held_out.predictions.expert_scores, held_out.labels
    if scores:
        np.savez(scores, expert_scores=expert_scores, labels=labels)
    return expert_scores, labels


def main(arguments: list[str] | None = None):
    parser = make_parser(__doc__)
    parser.add_argument("--scores", metavar="FILE.npz", help="attribute scores: read, or written if it is not there")
    args = parser.parse_args(arguments)

    model = DednModel.from_pretrained(args.model)
    scores = read_scores(model, args.dataset, args.data_dir, args.feature_maps, args.scores)
    matrix = model.class_attributes.float().numpy()
    table = short_description_accuracy(
        *scores, matrix, model.config.seen_class_ids, model.config.region_mix, model.config.coarse_mix
    )
    print(f"T1, per cent, on {len(scores[1])} images of {len(np.unique(scores[1]))} unseen classes")
    print(f"{'attributes':>10} {'strengths':>10}" + "".join(f"{'unnamed = ' + unnamed:>18}" for unnamed in UNNAMED))
    for first in range(0, len(table), len(UNNAMED)):
        row = table[first : first + len(UNNAMED)]
        strengths = "given" if row[0]["with_strengths"] else "not given"
        print(f"{row[0]['attributes']:>10} {strengths:>10}" + "".join(f"{entry['T1']:>18.1f}" for entry in row))


if __name__ == "__main__":
    main()
