"""
All that is said of one model on one data set. The test images are read once, for what the model predicts and for its
expert scores: attribute scores of [coarse, fine] expert × [region, channel] attention. What is said of the model as it
is follows from its predictions, and for any other mix or γ from the expert scores, in NumPy.
"""

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
from scipy.special import softmax
from sklearn.metrics import average_precision_score, roc_auc_score
from torch.utils.data import ConcatDataset, DataLoader, Dataset
from tqdm.auto import tqdm
from transformers.utils import logging

from ..configuration_dedn import DednConfig
from ..data import GzslDataset
from ..files import clear_faults, read_json, write_json
from ..modeling_dedn import DednModel
from ..names_dedn import NameMatcher
from ..results import provenance
from .calibration import ausuc, best_calibration, mix_expert_scores, seen_unseen_curve
from .localisation import LOOKS, AttributeLocalisation
from .metrics import (
    check_gzsl_inputs,
    expected_calibration_error,
    gzsl_metrics,
    per_class_accuracy,
    reliability_bins,
    top_confusions,
)
from .plots import plot_localisation, plot_per_class_accuracy, plot_reliability, plot_seen_unseen_curve

logger = logging.get_logger(__name__)

TEST_SPLITS = ("test_seen", "test_unseen")
_PEAKS = {
    "part": "attention peaks on the part",
    "part_within_one_cell": "… or in a cell beside it",
    "box": "… in the bird's box",
}


def match_classes(config: DednConfig, dataset: GzslDataset) -> np.ndarray:
    """
    Finds the classes of a data set among those of a model, by name.

    Args:
        config ([`DednConfig`]):
            Config of the model.
        dataset ([`GzslDataset`]):
            The data set.

    Returns:
        `np.ndarray` of shape `(K,)`, int64: for each label of the data set, the model's id of the class.

    Raises:
        ValueError: If the two differ in classes, or in which of them are seen; names the differences.
    """
    place = {name: index for index, name in config.id2label.items()}
    seen = {config.id2label[index] for index in config.seen_class_ids}
    names = _as_model_names("classes", place, dataset.name, dataset.class_names)
    way_out = "give it the data set's classes with `set_classes`"
    _require_same("classes", set(place), set(names), dataset.name, way_out)
    _require_same("seen classes", seen, {names[index] for index in dataset.seen_class_ids}, dataset.name, way_out)
    return np.array([place[name] for name in names], dtype=np.int64)


def match_class_attributes(config: DednConfig, dataset: GzslDataset) -> np.ndarray:
    """
    The class attributes of a data set as a model has them: classes and attributes in the model's order, by name.

    Args:
        config ([`DednConfig`]):
            Config of the model.
        dataset ([`GzslDataset`]):
            The data set.

    Returns:
        `np.ndarray` of shape `(K, A)`, float32.

    Raises:
        ValueError: see [`match_classes`] and [`match_attributes`].
    """
    rows = np.argsort(match_classes(config, dataset))
    return dataset.class_attributes[rows][:, match_attributes(config, dataset)]


def match_attributes(config: DednConfig, dataset: GzslDataset) -> list[int]:
    """
    Finds the attributes of a model among those of a data set, by name.

    Args:
        config ([`DednConfig`]):
            Config of the model.
        dataset ([`GzslDataset`]):
            The data set.

    Returns:
        `list[int]` of length `A`: the data set's column of each attribute of the model.

    Raises:
        ValueError: If the two differ in attributes; names the differences.
    """
    names = _as_model_names("attributes", config.attribute_names, dataset.name, dataset.attribute_names)
    _require_same("attributes", set(config.attribute_names), set(names), dataset.name, "train it anew")
    return [names.index(name) for name in config.attribute_names]


def _require_same(kind: str, of_model: set[str], of_dataset: set[str], dataset_name: str, way_out: str):
    if of_model != of_dataset:
        only_model, only_dataset = sorted(of_model - of_dataset), sorted(of_dataset - of_model)
        raise ValueError(
            f"The {kind} of the model and of {dataset_name} differ: {_some(only_model)} only in the model's "
            f"{len(of_model)}, {_some(only_dataset)} only in the data set's {len(of_dataset)}. Evaluate the model on "
            f"the data set that it was trained for, or {way_out}."
        )


def differing_classes(
    of_model: np.ndarray, of_dataset: np.ndarray, config: DednConfig
) -> dict[str, tuple[str, float, float]]:
    """
    Classes that a model and a data set describe differently. A class is scored by the direction of its row alone, so
    that rows which differ in length only, as those of the released program do, are the same.

    Args:
        of_model (`np.ndarray` of shape `(K, A)`):
            The model's class attributes.
        of_dataset (`np.ndarray` of shape `(K, A)`):
            The data set's, see [`match_class_attributes`].
        config ([`DednConfig`]):
            Config of the model.

    Returns:
        `dict[str, tuple[str, float, float]]`: class → the attribute in which it differs most, and its strength for the
        model and for the data set; in the order in which they differ most.
    """
    directions = [rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12) for rows in (of_model, of_dataset)]
    difference = np.abs(directions[0] - directions[1])
    largest = difference.max(axis=1)
    # Less is rounding: a per cent of the official files has six digits or more.
    order = [row for row in np.argsort(-largest, kind="stable") if largest[row] > 1e-5]
    columns = difference.argmax(axis=1)
    return {
        config.id2label[int(row)]: (
            config.attribute_names[columns[row]],
            float(of_model[row, columns[row]]),
            float(of_dataset[row, columns[row]]),
        )
        for row in order
    }


def _as_model_names(kind: str, of_model: Iterable[str], source: str, of_dataset: Sequence[str]) -> list[str]:
    """A data set's names as a model has them, which is said where they are written otherwise."""
    matcher = NameMatcher(of_model)
    names = matcher.find_all(of_dataset)
    for note in matcher.notes(f"{kind} of {source}", "the model"):
        logger.warning_once(note)
    return names


def _some(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})" if names else "none"


@dataclass
class Predictions:
    """
    What a model predicts for N images, see [`DednPrediction`]; float32.

    Args:
        logits (`np.ndarray` of shape `(N, K)`):
            Class scores after calibration.
        attribute_scores (`np.ndarray` of shape `(N, A)`):
            Attribute scores of both experts, mixed.
        expert_scores (`np.ndarray` of shape `(N, 2, 2, A)`):
            Attribute scores apart, [coarse, fine] × [region, channel].
        labels (`np.ndarray` of shape `(N,)`):
            True classes.
    """

    logits: np.ndarray
    attribute_scores: np.ndarray
    expert_scores: np.ndarray
    labels: np.ndarray


def predict_examples(
    model: DednModel,
    examples: Dataset,
    batch_size: int = 100,
    localisation: AttributeLocalisation | None = None,
    average_flips: bool = False,
) -> Predictions:
    """
    Reads each example once, with the model in evaluation mode.

    Args:
        model ([`DednModel`]):
            The model, on the device where it is to run.
        examples (`Dataset` of length `N`):
            Items with `labels` and either `feature_map` or `pixel_values`.
        batch_size (`int`, *optional*, defaults to 100):
            Examples in the model at once.
        localisation ([`AttributeLocalisation`], *optional*):
            Of these N examples: it is given their region attention.
        average_flips (`bool`, *optional*, defaults to `False`):
            See [`DednModel.predict`].

    Returns:
        [`Predictions`], with the labels of the examples.
    """
    model.eval()
    kept, done = None, 0
    with tqdm(total=len(examples), desc="Reading images", unit="image") as progress:
        for batch in DataLoader(examples, batch_size=batch_size):
            labels = batch.pop("labels")
            inputs = {name: tensor.to(model.device) for name, tensor in batch.items()}
            prediction = model.predict(
                **inputs, output_attentions=localisation is not None, average_flips=average_flips
            )
            scores = (prediction.logits, prediction.attribute_scores, prediction.expert_scores, labels)
            scores = [tensor.cpu().numpy() for tensor in scores]
            if kept is None:
                # All at once: bit by bit they would lie between activations, whose room could not be had again.
                kept = [np.empty((len(examples), *array.shape[1:]), array.dtype) for array in scores]
            rows = slice(done, done + len(labels))
            for array, of_batch in zip(kept, scores):
                array[rows] = of_batch
            if localisation is not None:
                localisation.add(rows, prediction.attentions)
            # The bar itself does not count where it is not shown.
            done += len(labels)
            progress.update(len(labels))
    return Predictions(*kept)


def attribute_ranking(
    attribute_scores: np.ndarray, has_attribute: np.ndarray, attribute_groups: Mapping[str, Sequence[int]]
) -> dict[str, dict[str, float | int | None]]:
    """
    Do the images that score highest in an attribute have it? Mean average precision and area under the ROC curve, over
    attributes. Attributes that all images or none have are left out.

    Args:
        attribute_scores (`np.ndarray` of shape `(N, A)`):
            Attribute scores of the images.
        has_attribute (`np.ndarray` of shape `(N, A)`):
            1 where an image has an attribute, 0 where it does not, NaN where that is not known: such an image does not
            count for that attribute.
        attribute_groups (`Mapping[str, Sequence[int]]`):
            Name → indices of attributes.

    Returns:
        `dict[str, dict]`: for `"all"` and each group `"mAP"`, `"chance"` (the mAP that a random order would give: the
        mean share of images that have the attribute) and `"AUROC"` (of a random order: 50), per cent, `None` without
        attributes to rank by, and `"attributes"`, the number of attributes that were averaged.
    """
    num_attributes = attribute_scores.shape[1]
    precision, share, auroc = (np.full(num_attributes, np.nan) for _ in range(3))
    for index in range(num_attributes):
        known = ~np.isnan(has_attribute[:, index])
        positive, scores = has_attribute[known, index], attribute_scores[known, index]
        if 0 < positive.sum() < len(positive):
            share[index] = positive.mean()
            precision[index] = average_precision_score(positive, scores)
            auroc[index] = roc_auc_score(positive, scores)

    def over(indices) -> dict[str, float | int | None]:
        indices = [index for index in indices if not np.isnan(share[index])]
        means = (float(100 * values[indices].mean()) if indices else None for values in (precision, share, auroc))
        return {**dict(zip(("mAP", "chance", "AUROC"), means)), "attributes": len(indices)}

    groups = {name: over(indices) for name, indices in attribute_groups.items()}
    return {"all": over(range(num_attributes))} | groups


def attributes_of_classes(class_attributes: np.ndarray) -> np.ndarray:
    """
    Which classes have an attribute: those that are described by it more strongly than the mean over the whole
    class-attribute matrix, a threshold that needs no scale. (At one half, 124 of CUB's 312 attributes would belong to
    no class.)

    Args:
        class_attributes (`np.ndarray` of shape `(K, A)`):
            Class-attribute matrix, not normalised.

    Returns:
        `np.ndarray` of shape `(K, A)`, bool.
    """
    return class_attributes > class_attributes.mean()


def seen_unseen_auroc(logits: np.ndarray, labels: Sequence[int], seen_class_ids: Sequence[int]) -> float:
    """
    How well the scores tell images of seen classes from images of unseen ones: the probability that of one image of
    each kind the one of a seen class has the higher `max_seen s − max_unseen s`. That is the critical γ of calibrated
    stacking, so the figure depends on no γ.

    Args:
        logits (`np.ndarray` of shape `(N, K)`):
            Class scores.
        labels (`Sequence[int]` of length `N`):
            True class of each image.
        seen_class_ids (`Sequence[int]`):
            Classes that the model was trained on.

    Returns:
        `float`: area under the ROC curve over images, per cent; 50 is chance. NaN without images of either kind.

    Raises:
        ValueError: see [`~metrics.check_gzsl_inputs`].
    """
    logits, labels, is_seen = check_gzsl_inputs(logits, labels, seen_class_ids)
    of_seen = is_seen[labels]
    if of_seen.all() or not of_seen.any():
        return float("nan")
    return float(100 * roc_auc_score(of_seen, logits[:, is_seen].max(axis=1) - logits[:, ~is_seen].max(axis=1)))


def costliest_confusions(
    predictions: Sequence[int],
    labels: Sequence[int],
    class_names: Sequence[str],
    seen_class_ids: Sequence[int],
    k: int = 20,
) -> list[dict]:
    """
    The pairs of classes whose confusion takes most from S or U. An image weighs the more the fewer its class has, and
    the fewer classes of its kind, seen or unseen, there are.

    Args:
        predictions (`Sequence[int]` of length `N`):
            Predicted class of each image.
        labels (`Sequence[int]` of length `N`):
            True class of each image.
        class_names (`Sequence[str]` of length `K`):
            Name of each class.
        seen_class_ids (`Sequence[int]`):
            Classes that the model was trained on.
        k (`int`, *optional*, defaults to 20):
            How many pairs at most.

    Returns:
        `list[dict]`: as [`~metrics.top_confusions`], and `"figure"` (`"S"` or `"U"`) and `"cost"`, the points of it
        that are lost; highest cost first.
    """
    seen = {class_names[index] for index in seen_class_ids}
    present = {class_names[label] for label in np.unique(labels)}
    kinds = {"S": len(present & seen), "U": len(present - seen)}
    confusions = top_confusions(predictions, labels, class_names, k=len(labels))
    for confusion in confusions:
        confusion["figure"] = "S" if confusion["label"] in seen else "U"
        confusion["cost"] = confusion["percent"] / kinds[confusion["figure"]]
    return sorted(confusions, key=lambda confusion: -confusion["cost"])[:k]


def accuracy_by_family(classes: Mapping[str, Mapping]) -> dict[str, dict]:
    """
    Accuracy over classes that have the last word of their names in common, as the species of a family of birds often
    do: `Brewer_Sparrow` and `Field_Sparrow`.

    Args:
        classes (`Mapping[str, Mapping]`):
            `classes` of [`EvaluationReport.figures`].

    Returns:
        `dict[str, dict]`: the word → `accuracy`, the mean over its classes in per cent, `classes` and `images`, how
        many there are; most classes first. Classes without images do not count.
    """
    families = {}
    for name, figures in classes.items():
        if figures["images"]:
            families.setdefault(re.split(r"[\s_]", name)[-1], []).append(figures)
    return {
        family: {
            "accuracy": float(np.mean([figures["accuracy"] for figures in members])),
            "classes": len(members),
            "images": sum(figures["images"] for figures in members),
        }
        for family, members in sorted(families.items(), key=lambda item: (-len(item[1]), item[0]))
    }


class EvaluationReport:
    """
    The figures of a model, from its predictions.

    Args:
        config ([`DednConfig`]):
            Config of the model: its mixes, calibration, classes and attribute groups.
        class_attributes (`np.ndarray` of shape `(K, A)`):
            The model's class attributes.
        predictions ([`Predictions`]):
            From [`predict_examples`], with labels that are ids of the model.
        localisation ([`AttributeLocalisation`], *optional*):
            What it gathered, where the data set has part points.
        image_attributes (`np.ndarray` of shape `(N, A)`, *optional*):
            What people said of each image alone, see [`GzslDataset`]; in the order of the model's attributes.
        true_attributes (`np.ndarray` of shape `(K, A)`, *optional*, defaults to `class_attributes`):
            What classes truly have, where `class_attributes` are made of descriptions.

    Attributes:
        figures (`dict`):
            What goes into `results.json`, see [`~EvaluationReport.write`]. In per cent, except for γ (`calibration`):
            - `test`: T1, U, S, H and AUSUC as the model is.
            - `calibration`: the model's γ, and `best_in_hindsight`: the γ that would have been best on these very
              images, with its figures, which no protocol may report as its own.
            - `experts`: for `coarse`, `fine` and `mixed` expert and in it `region`, `channel` and `mixed` attention:
              T1, U, S and H at the model's γ, AUSUC, and `best_H` with the γ that is best in hindsight.
            - `seen_unseen_auroc`: see [`seen_unseen_auroc`].
            - `expected_calibration_error`: of the label scores, the softmax over the model's logits, by its γ
              and `score_scale`.
            - `reliability`: the curve of which that is the distance, see [`~metrics.reliability_bins`]: a dict for
              each bin that is not empty, from the lowest.
            - `attribute_ranking`: see [`attribute_ranking`], of the mixed attribute scores; an image has what its
              class has, see [`attributes_of_classes`].
            - `image_attribute_ranking`: the same, but an image has what most people saw in it; only where the data set
              says so.
            - `localisation`: see [`AttributeLocalisation`]; only with part points.
            - `classes`: for each class `accuracy` among all classes (`None` without images), `images`, `seen`.
            - `confusions`: see [`costliest_confusions`].
    """

    def __init__(
        self,
        config: DednConfig,
        class_attributes: np.ndarray,
        predictions: Predictions,
        localisation: AttributeLocalisation | None = None,
        image_attributes: np.ndarray | None = None,
        true_attributes: np.ndarray | None = None,
    ):
        true_attributes = class_attributes if true_attributes is None else true_attributes
        self.class_names = [config.id2label[index] for index in range(config.num_labels)]
        self.seen_class_ids = seen = list(config.seen_class_ids)
        self.calibration = config.gamma
        labels, expert_scores = predictions.labels, predictions.expert_scores
        logits, _, is_seen = check_gzsl_inputs(predictions.logits, labels, seen)
        predicted = logits.argmax(axis=1)
        self.accuracies = per_class_accuracy(predicted, labels, len(self.class_names))
        self.confidences = softmax(config.score_scale * logits, axis=1).max(axis=1)
        self.correct = predicted == labels

        # Before calibration, for every γ.
        mixed = mix_expert_scores(expert_scores, class_attributes, config.region_mix, config.coarse_mix)
        self.curve = seen_unseen_curve(mixed, labels, seen)
        self.best_calibration, best = best_calibration(mixed, labels, seen)
        test = gzsl_metrics(logits, labels, seen) | {"AUSUC": ausuc(self.curve)}
        counts = np.bincount(labels, minlength=len(self.class_names))
        self.figures = {
            "test": test,
            "calibration": {
                "model": self.calibration,
                "best_in_hindsight": {"calibration": self.best_calibration, **best},
            },
            "experts": self._experts(config, class_attributes, expert_scores, labels),
            "seen_unseen_auroc": seen_unseen_auroc(mixed, labels, seen),
            "expected_calibration_error": expected_calibration_error(self.confidences, self.correct),
            "reliability": [
                {"confidence": float(confidence), "accuracy": float(accuracy), "images": int(images)}
                for confidence, accuracy, images in zip(*reliability_bins(self.confidences, self.correct))
                if images
            ],
            "attribute_ranking": attribute_ranking(
                predictions.attribute_scores,
                attributes_of_classes(true_attributes)[labels].astype(float),
                config.attribute_groups,
            ),
            **({} if localisation is None else {"localisation": localisation.figures()}),
            "classes": {
                name: {"accuracy": float(accuracy) if count else None, "images": int(count), "seen": bool(of_seen)}
                for name, accuracy, count, of_seen in zip(self.class_names, self.accuracies, counts, is_seen)
            },
            "confusions": costliest_confusions(predicted, labels, self.class_names, seen),
        }
        if image_attributes is not None:
            has_attribute = np.where(np.isnan(image_attributes), np.nan, image_attributes > 0.5)
            self.figures["image_attribute_ranking"] = attribute_ranking(
                predictions.attribute_scores, has_attribute, config.attribute_groups
            )

    def _experts(self, config, class_attributes, expert_scores, labels) -> dict[str, dict[str, dict[str, float]]]:
        experts = {}
        for expert, coarse_mix in (("coarse", 1.0), ("fine", 0.0), ("mixed", config.coarse_mix)):
            experts[expert] = {}
            for attention, region_mix in (("region", 1.0), ("channel", 0.0), ("mixed", config.region_mix)):
                logits = mix_expert_scores(expert_scores, class_attributes, region_mix, coarse_mix)
                experts[expert][attention] = gzsl_metrics(logits, labels, self.seen_class_ids, self.calibration) | {
                    "AUSUC": ausuc(seen_unseen_curve(logits, labels, self.seen_class_ids)),
                    "best_H": best_calibration(logits, labels, self.seen_class_ids)[1]["H"],
                }
        return experts

    def __str__(self) -> str:
        """Tables for the terminal."""
        figures = self.figures
        best = figures["calibration"]["best_in_hindsight"]
        names = ("T1", "U", "S", "H", "AUSUC")
        lines = [f"{'':34}" + "".join(f"{name:>8}" for name in names)]
        lines.append(_row(f"model, γ = {self.calibration:.3g}", figures["test"], names))
        label = f"best γ in hindsight, {best['calibration']:.3g}"
        lines.append(_row(label, best | {"AUSUC": figures["test"]["AUSUC"]}, names))

        lines += ["", f"{'expert, attention':34}" + "".join(f"{name:>8}" for name in (*names, "best H"))]
        for expert, attentions in figures["experts"].items():
            for attention, values in attentions.items():
                lines.append(_row(f"{expert}, {attention}", values, (*names, "best_H")))

        rankings = {"attribute_ranking": "attribute ranking by class"}
        rankings["image_attribute_ranking"] = "attribute ranking by image"
        for ranking, title in rankings.items():
            if ranking in figures:
                lines += ["", f"{title:34}{'mAP':>8}{'chance':>8}{'AUROC':>8}{'attributes':>12}"]
                for group, values in figures[ranking].items():
                    lines.append(_row(group, values, ("mAP", "chance", "AUROC")) + f"{values['attributes']:>12}")

        for measure, groups in figures.get("localisation", {}).items():
            lines += ["", f"{_PEAKS[measure]:34}" + "".join(f"{name:>8}" for name in LOOKS) + f"{'attributes':>12}"]
            for group, values in groups.items():
                lines.append(_row(group, values, LOOKS) + f"{values['attributes']:>12}")

        lines += ["", "confusions that cost most"]
        for confusion in figures["confusions"][:5]:
            lines.append(
                f"  {confusion['label']} taken for {confusion['prediction']}: {confusion['count']} images "
                f"({confusion['percent']:.0f} %), {confusion['cost']:.2f} points of {confusion['figure']}"
            )
        lines += [
            "",
            f"AUROC of seen against unseen images            {figures['seen_unseen_auroc']:6.1f}",
            f"expected calibration error of the label scores {figures['expected_calibration_error']:6.1f}",
        ]
        return "\n".join(lines)

    def write(self, output_dir: str | os.PathLike, description: dict):
        """
        Writes `results.json` and the figures `seen_unseen_curve.png`, `per_class_accuracy.png`, `reliability.png` and,
        with part points, `localisation.png`.

        Args:
            output_dir (`str` or `os.PathLike`):
                Folder; it is made.
            description (`dict`):
                What `results.json` says before the figures: model, data set, protocol and so on.
        """
        with clear_faults(output_dir):
            self._write(Path(output_dir), description)

    def _write(self, output_dir: Path, description: dict):
        plot_seen_unseen_curve(
            self.curve, output_dir / "seen_unseen_curve.png", chosen=self.calibration, best=self.best_calibration
        )
        plot_per_class_accuracy(
            self.accuracies, self.class_names, self.seen_class_ids, output_dir / "per_class_accuracy.png"
        )
        plot_reliability(self.confidences, self.correct, output_dir / "reliability.png")
        if "localisation" in self.figures:
            plot_localisation(self.figures["localisation"], output_dir / "localisation.png")
        write_json(output_dir / "results.json", description | self.figures | provenance())


def _row(label: str, values: dict[str, float | None], names: Sequence[str]) -> str:
    cells = ("–" if values[name] is None else f"{values[name]:.1f}" for name in names)
    return f"{label:34}" + "".join(f"{cell:>8}" for cell in cells)


def evaluate_model(
    model: DednModel,
    dataset: GzslDataset,
    examples: Mapping[str, Dataset],
    batch_size: int = 100,
    image_processor=None,
    average_flips: bool = False,
    true_attributes: np.ndarray | None = None,
) -> EvaluationReport:
    """
    Evaluates a model on the test images of a data set, each of which is read once. Classes are what the model's own
    class attributes say; [`differing_classes`] tells where the data set's have become others.

    Args:
        model ([`DednModel`]):
            The model, on the device where it is to run.
        dataset ([`GzslDataset`]):
            The data set that it was trained for.
        examples (`Mapping[str, Dataset]`):
            `"test_seen"` and `"test_unseen"` → images of the split as items for the model, see [`predict_examples`].
            Where the data set has part points or `image_attributes`, they have an attribute `image_ids`.
        batch_size (`int`, *optional*, defaults to 100):
            Images in the model at once.
        image_processor (`CLIPImageProcessor`, *optional*):
            What the images go through, or went through before their feature maps were made. With it, and part points
            in the data set, the report has `localisation`.
        average_flips (`bool`, *optional*, defaults to `False`):
            See [`DednModel.predict`].
        true_attributes (`np.ndarray` of shape `(K, A)`, *optional*):
            See [`EvaluationReport`].

    Returns:
        [`EvaluationReport`].

    Raises:
        ValueError: see [`match_classes`], [`match_attributes`] and [`~images_dedn.crop_in_image`].
    """
    place, columns = match_classes(model.config, dataset), match_attributes(model.config, dataset)
    dataset = dataclasses.replace(dataset, attribute_names=model.config.attribute_names)  # in the order of its scores
    class_attributes = model.class_attributes.float().cpu().numpy()
    localisation = image_attributes = None
    if dataset.image_attributes is not None:
        rows = [dataset.image_attributes[image_id] for split in TEST_SPLITS for image_id in examples[split].image_ids]
        image_attributes = np.stack(rows)[:, columns]
    if image_processor is not None and dataset.part_names and dataset.attribute_parts:
        images = datasets.concatenate_datasets([_select_images(dataset.splits[s], examples[s]) for s in TEST_SPLITS])
        of_classes = class_attributes if true_attributes is None else true_attributes
        has_attribute = attributes_of_classes(of_classes)[place[np.asarray(images["label"])]]
        localisation = AttributeLocalisation.of_images(dataset, images, has_attribute, image_processor, model.config)
    inputs = ConcatDataset([examples[split] for split in TEST_SPLITS])
    predictions = predict_examples(model, inputs, batch_size, localisation, average_flips)
    predictions.labels = place[predictions.labels]
    return EvaluationReport(
        model.config, class_attributes, predictions, localisation, image_attributes, true_attributes
    )


def _select_images(images: datasets.Dataset, examples: Dataset) -> datasets.Dataset:
    """The images of a split of which there are examples: a store lacks those that could not be read."""
    row_of = {image_id: row for row, image_id in enumerate(images["image_id"])}
    return images.select([row_of[image_id] for image_id in examples.image_ids.tolist()])


def check_output_dir(output_dir: str | os.PathLike, model: str, dataset: str):
    """
    Makes sure that an evaluation replaces nothing but an earlier one of the same model on the same data set.

    Args:
        output_dir (`str` or `os.PathLike`):
            The folder that is to be written.
        model (`str`):
            Folder or id of the model.
        dataset (`str`):
            Name of the data set.

    Raises:
        ValueError: If the folder holds other results, or is a file.
    """
    output_dir = Path(output_dir)
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"--output_dir {output_dir} is a file. Name a folder.")
    results = output_dir / "results.json"
    if results.is_file():
        there = read_json(results)
        if (there.get("model"), there.get("dataset")) != (model, dataset):
            raise ValueError(
                f"{results} holds other results than an evaluation of {model} on {dataset}. Choose another "
                "--output_dir."
            )
