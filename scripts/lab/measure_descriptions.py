"""
Measures how well unseen classes are recognised from short descriptions: T1 when each keeps only its most distinctive
attributes, and the others count as none or as the mean of the seen classes.

    python scripts/lab/measure_descriptions.py --model outputs/synthetic_birds --dataset synthetic_birds
    python scripts/lab/measure_descriptions.py --model MODEL --dataset cub --data_dir DATA --feature_maps STORE
"""

import argparse
from collections.abc import Sequence

import numpy as np

from dedn_hf import DednModel
from dedn_hf.data import load_gzsl_dataset
from dedn_hf.evaluation import gzsl_metrics, mix_expert_scores
from dedn_hf.evaluation.report import predict_examples
from dedn_hf.recipes import read_recipe
from dedn_hf.training.inputs import prepare_inputs

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


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub id of a model")
    parser.add_argument("--dataset", required=True, help="what it was trained for")
    parser.add_argument("--data_dir", help="folder of the data set's files")
    parser.add_argument("--feature_maps", help="read a store of `dedn features` instead of images")
    args = parser.parse_args(arguments)

    model = DednModel.from_pretrained(args.model)
    dataset = load_gzsl_dataset(args.dataset, args.data_dir, word_vectors="random")
    examples = prepare_inputs(dataset, args.feature_maps, config=read_recipe(args.dataset).model).make(
        dataset.splits["test_unseen"]
    )
    predictions = predict_examples(model, examples)
    table = short_description_accuracy(
        predictions.expert_scores,
        predictions.labels,
        dataset.class_attributes,
        dataset.seen_class_ids,
        model.config.region_mix,
        model.config.coarse_mix,
    )
    print(f"T1, per cent, on {len(predictions.labels)} images of {len(dataset.unseen_class_ids)} unseen classes")
    print(f"{'attributes':>10} {'strengths':>10} {'unnamed = zero':>16} {'unnamed = mean':>16}")
    for zero, mean in zip(table[::2], table[1::2], strict=True):
        strengths = "given" if zero["with_strengths"] else "not given"
        print(f"{zero['attributes']:>10} {strengths:>10} {zero['T1']:>16.1f} {mean['T1']:>16.1f}")


if __name__ == "__main__":
    main()
