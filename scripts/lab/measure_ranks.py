"""
Measures the ranks of results: how often an image is sure to be of a class or of a rank above it, see
[`~ranks_dedn.sure_ranks`], how often the finest of them is right, and how often it is the class itself.

    python scripts/lab/measure_ranks.py --model MODEL --dataset cub --data_dir DATA --feature_maps STORE

Where the model's config has no `class_parents`, the rank above a class is the last word of its name, as for CUB's
birds: "American Goldfinch" is a Goldfinch. Of a model that has not seen the validation classes, `choose/` of a run, it
takes the validation images.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from measuring import make_parser, predict_held_out
from scipy.special import softmax
from tqdm.auto import tqdm

from dedn_hf import DednModel
from dedn_hf.ranks_dedn import SURE, ranks_of, sure_ranks

COLUMNS = {
    "images": "images",
    "label": "first label right",
    "parent": "rank above it right",
    "sure": "sure of a rank",
    "class": "which is the class",
    "right": "finest rank right",
    "class_right": "where it is the class",
    "rank_right": "where it is above",
}


def last_words(names: Sequence[str]) -> dict[str, str]:
    """The rank above each class by the last word of its name; those of a single word have none."""
    return {name: name.split()[-1] for name in names if len(name.split()) > 1}


def rank_figures(
    scores: np.ndarray, labels: np.ndarray, names: Sequence[str], parents: Mapping[str, str]
) -> dict[str, float]:
    """
    How good the finest sure ranks are.

    Args:
        scores (`np.ndarray` of shape `(N, K)`):
            Shares of the classes in images; those of an image sum to 1.
        labels (`np.ndarray` of shape `(N,)`):
            Their classes.
        names (`Sequence[str]` of length `K`):
            The classes.
        parents (`Mapping[str, str]`):
            Class or rank → the rank above it.

    Returns:
        `dict[str, float]`: the number of `images`, and in per cent of them how often the first label (`label`) and the
        rank just above it (`parent`) are right, or a rank is `sure`. In per cent of these, how often the finest is a
        class (`class`) and how often it is `right`; likewise of those where it is a class (`class_right`) and where it
        is above one (`rank_right`). NaN is a share of nothing.
    """
    lines = [{name, *ranks_of([name], parents).values()} for name in names]
    above = [parents.get(name, name) for name in names]
    first = scores.argmax(axis=1)
    said = []
    for row in tqdm(scores, desc="Summing", unit="image", disable=None):
        ranks = sure_ranks(dict(zip(names, row.tolist())), parents) or []
        said.append(ranks[0]["label"] if ranks else None)
    sure = np.array([rank is not None for rank in said])
    is_class = np.array([rank in names for rank in said])
    right = np.array([rank in lines[label] for rank, label in zip(said, labels)])

    def share(what: np.ndarray) -> float:
        return 100 * float(what.mean()) if len(what) else float("nan")

    return {
        "images": len(labels),
        "label": share(first == labels),
        "parent": share(np.array([above[guess] == above[label] for guess, label in zip(first, labels)])),
        "sure": share(sure),
        "class": share(is_class[sure]),
        "right": share(right[sure]),
        "class_right": share(right[sure & is_class]),
        "rank_right": share(right[sure & ~is_class]),
    }


def main(arguments: list[str] | None = None):
    parser = make_parser(__doc__)
    args = parser.parse_args(arguments)

    model = DednModel.from_pretrained(args.model).eval()
    config = model.config
    names = list(config.id2label.values())
    parents = config.class_parents or last_words(names)
    _, held_out = predict_held_out(model, args.dataset, args.data_dir, args.feature_maps)
    rows = [
        (each.split, softmax(config.score_scale * each.predictions.logits.astype(np.float64), axis=1), each.labels)
        for each in held_out
    ]
    scores, labels = (np.concatenate(parts) for parts in list(zip(*rows))[1:])

    print(f"{len(names)} classes under {len(set(parents.values()))} ranks, sure from {SURE} on, per cent")
    for split, *examples in [*rows, ("both", scores, labels)]:
        figures = rank_figures(*examples, names, parents)
        print(f"\n{split}")
        for name, words in COLUMNS.items():
            print(f"  {words:24}{figures[name]:>8.{0 if name == 'images' else 1}f}")


if __name__ == "__main__":
    main()
