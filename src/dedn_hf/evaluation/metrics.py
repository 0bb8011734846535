"""
The figures of generalized zero-shot learning, in plain NumPy. Accuracies are in per cent and averaged per class, never
per image (Xian et al., "Zero-Shot Learning - A Comprehensive Evaluation of the Good, the Bad and the Ugly", TPAMI
2019, arXiv 1707.00600).
"""

from collections.abc import Sequence

import numpy as np


def check_class_ids(name: str, class_ids: Sequence[int], num_classes: int) -> np.ndarray:
    """
    Class ids as an `int64` array, or a reason why they are none.

    Args:
        name (`str`):
            What the ids are called in the error.
        class_ids (`Sequence[int]` of length `N`):
            The ids.
        num_classes (`int`):
            K; an id lies in `[0, K)`.

    Returns:
        `np.ndarray` of shape `(N,)`.

    Raises:
        ValueError: not one-dimensional, not integers, or an id out of range.
    """
    class_ids = np.asarray(class_ids)
    if class_ids.ndim != 1:
        raise ValueError(f"`{name}` has shape {class_ids.shape}; a flat list of class ids is needed.")
    if class_ids.size and not np.issubdtype(class_ids.dtype, np.integer):
        raise ValueError(f"`{name}` has dtype {class_ids.dtype}; class ids are integers.")
    outside = np.unique(class_ids[(class_ids < 0) | (class_ids >= num_classes)])
    if outside.size:
        raise ValueError(f"`{name}` holds the ids {outside[:10].tolist()}, outside of the {num_classes} classes.")
    return class_ids.astype(np.int64)


def check_gzsl_inputs(
    logits: np.ndarray, labels: Sequence[int], seen_class_ids: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    The inputs of every GZSL figure, checked: `(logits, labels, is_seen)`.

    Args:
        logits (`np.ndarray` of shape `(N, K)`):
            Class scores.
        labels (`Sequence[int]` of length `N`):
            True class of each row.
        seen_class_ids (`Sequence[int]`):
            The seen classes, each once.

    Returns:
        `tuple`: the logits in float64 `(N, K)`, the labels in int64 `(N,)`, and whether each class is seen `(K,)`.

    Raises:
        ValueError: sizes that do not fit each other, ids out of range or given twice, or scores that are not finite.
    """
    logits = np.asarray(logits, dtype=np.float64)
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise ValueError(f"`logits` has shape {logits.shape}; (images, classes) is needed.")
    num_images, num_classes = logits.shape
    labels = check_class_ids("labels", labels, num_classes)
    if len(labels) != num_images:
        raise ValueError(f"{num_images} rows of `logits`, but {len(labels)} `labels`.")
    seen_class_ids = check_class_ids("seen_class_ids", seen_class_ids, num_classes)
    times = np.bincount(seen_class_ids, minlength=num_classes)
    if times.max() > 1:
        raise ValueError(f"`seen_class_ids` holds the ids {np.flatnonzero(times > 1)[:10].tolist()} more than once.")
    broken = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if broken.size:
        raise ValueError(
            f"{broken.size} of {num_images} rows of `logits` are not finite (the first is row {broken[0]}): "
            "a model that gives NaN or infinite scores cannot be evaluated."
        )
    return logits, labels, times > 0


def _check_predictions(
    predictions: Sequence[int], labels: Sequence[int], num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    predictions = check_class_ids("predictions", predictions, num_classes)
    labels = check_class_ids("labels", labels, num_classes)
    if len(predictions) != len(labels):
        raise ValueError(f"{len(predictions)} `predictions`, but {len(labels)} `labels`.")
    return predictions, labels


def per_class_accuracy(predictions: Sequence[int], labels: Sequence[int], num_classes: int) -> np.ndarray:
    """
    Share of right predictions in each class.

    Args:
        predictions (`Sequence[int]` of length `N`):
            Predicted class of each image.
        labels (`Sequence[int]` of length `N`):
            True class of each image.
        num_classes (`int`):
            K.

    Returns:
        `np.ndarray` of shape `(K,)`: per cent; NaN for a class without images.

    Raises:
        ValueError: different lengths, or ids that are not integers in `[0, K)`.
    """
    predictions, labels = _check_predictions(predictions, labels, num_classes)
    images = np.bincount(labels, minlength=num_classes)
    right = np.bincount(labels[predictions == labels], minlength=num_classes)
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        return 100.0 * right / images


def mean_per_class_accuracy(predictions: Sequence[int], labels: Sequence[int]) -> float:
    """
    Accuracy averaged over the classes that have images, each class counting the same whatever its number of images.

    Args:
        predictions (`Sequence[int]` of length `N`):
            Predicted class of each image. A prediction may be a class that no image has.
        labels (`Sequence[int]` of length `N`):
            True class of each image.

    Returns:
        `float`: per cent; NaN without images.

    Raises:
        ValueError: different lengths, or ids that are negative or not integers.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if labels.size == 0 and predictions.size == 0:
        return float("nan")
    num_classes = 1 + int(max(predictions.max(initial=0), labels.max(initial=0)))
    accuracies = per_class_accuracy(predictions, labels, num_classes)
    return float(accuracies[~np.isnan(accuracies)].mean())


def harmonic_mean(seen: float | np.ndarray, unseen: float | np.ndarray) -> float | np.ndarray:
    """
    H = 2SU / (S + U), the headline figure of GZSL.

    Args:
        seen (`float` or `np.ndarray`):
            S, unrounded.
        unseen (`float` or `np.ndarray`):
            U, unrounded, of the same shape.

    Returns:
        `float` or `np.ndarray`: H in the unit of its inputs; 0 where both are 0, NaN where either is NaN.
    """
    seen, unseen = np.asarray(seen, dtype=np.float64), np.asarray(unseen, dtype=np.float64)
    total = seen + unseen
    mean = np.divide(2 * seen * unseen, total, out=np.zeros_like(total), where=total != 0)
    return float(mean) if mean.ndim == 0 else mean


def gzsl_metrics(
    logits: np.ndarray, labels: Sequence[int], seen_class_ids: Sequence[int], calibration: float = 0.0
) -> dict[str, float]:
    """
    T1, U, S and H of one set of scores: all four figures from one model.

    The scores are taken as they are given. DEDN's own class bias, −β for seen and +β for unseen classes, is a
    calibration of γ = 2β: the logits of a model in evaluation mode contain it already, and `calibration` comes on top.
    Equal scores go to the class with the lowest id.

    Args:
        logits (`np.ndarray` of shape `(N, K)`):
            Class scores, with or without a class bias.
        labels (`Sequence[int]` of length `N`):
            True class of each image, seen or unseen.
        seen_class_ids (`Sequence[int]`):
            Classes that the model was trained on; all others are unseen.
        calibration (`float`, *optional*, defaults to 0.0):
            γ of calibrated stacking (Chao et al., ECCV 2016, arXiv 1605.04253): subtracted from the scores of the seen
            classes before the best class is taken. T1 does not depend on it.

    Returns:
        `dict[str, float]`: per cent, each averaged over those classes that have images. `"T1"`: images of unseen
        classes, predicting among the unseen ones; `"U"`: the same images, predicting among all classes; `"S"`: images
        of seen classes, predicting among all; `"H"`: harmonic mean of the unrounded S and U. A figure is NaN where no
        image speaks of it: S without images of seen classes, T1 and U without images of unseen ones, H without either.

    Raises:
        ValueError: see [`check_gzsl_inputs`]; also a calibration that is not finite.
    """
    logits, labels, is_seen = check_gzsl_inputs(logits, labels, seen_class_ids)
    if not np.isfinite(calibration):
        raise ValueError(f"`calibration` is {calibration}; a finite number is needed.")
    predictions = (logits - calibration * is_seen).argmax(axis=1)
    of_seen = is_seen[labels]
    seen = mean_per_class_accuracy(predictions[of_seen], labels[of_seen])
    unseen = mean_per_class_accuracy(predictions[~of_seen], labels[~of_seen])
    among_unseen = np.where(is_seen, -np.inf, logits[~of_seen]).argmax(axis=1)
    conventional = mean_per_class_accuracy(among_unseen, labels[~of_seen])
    return {"T1": conventional, "U": unseen, "S": seen, "H": harmonic_mean(seen, unseen)}


def reliability_bins(
    confidences: Sequence[float], correct: Sequence[bool], bins: int = 15
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Confidence and accuracy of predictions, gathered in bins of equal width: the numbers of a reliability diagram
    (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, arXiv 1706.04599, section 2).

    Args:
        confidences (`Sequence[float]` of length `N`):
            Probability of the predicted class, in [0, 1].
        correct (`Sequence[bool]` of length `N`):
            Whether the prediction is right.
        bins (`int`, *optional*, defaults to 15):
            Number of bins; bin m holds the confidences in (m/bins, (m+1)/bins], the first one also 0.

    Returns:
        `tuple` of three `np.ndarray` of shape `(bins,)`: mean confidence and accuracy, both in per cent and NaN in an
        empty bin, and the number of predictions.

    Raises:
        ValueError: different lengths, no bins, or a confidence outside of [0, 1].
    """
    confidences, correct = np.asarray(confidences, dtype=np.float64), np.asarray(correct)
    if confidences.ndim != 1 or confidences.shape != correct.shape:
        raise ValueError(
            f"`confidences` has shape {confidences.shape}, but `correct` {correct.shape}; (N,) is needed."
        )
    if bins < 1:
        raise ValueError(f"`bins` is {bins}; at least one is needed.")
    outside = np.flatnonzero(~((confidences >= 0) & (confidences <= 1)))
    if outside.size:
        raise ValueError(
            f"`confidences` holds {confidences[outside[0]]} at index {outside[0]} ({outside.size} such values); "
            "probabilities in [0, 1] are needed, such as the highest softmax value of each row."
        )
    upper_edges = np.arange(1, bins + 1) / bins
    index = np.searchsorted(upper_edges, confidences, side="left")
    counts = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        confidence = 100 * np.bincount(index, weights=confidences, minlength=bins) / counts
        accuracy = 100 * np.bincount(index, weights=correct, minlength=bins) / counts
    return confidence, accuracy, counts


def expected_calibration_error(confidences: Sequence[float], correct: Sequence[bool], bins: int = 15) -> float:
    """
    Mean distance between confidence and accuracy over the bins of [`reliability_bins`], each weighted by its number of
    predictions. It speaks of probabilities, not of the γ of calibrated stacking.

    Args:
        confidences (`Sequence[float]` of length `N`):
            Probability of the predicted class, in [0, 1].
        correct (`Sequence[bool]` of length `N`):
            Whether the prediction is right.
        bins (`int`, *optional*, defaults to 15):
            Number of bins.

    Returns:
        `float`: per cent; NaN without predictions.

    Raises:
        ValueError: see [`reliability_bins`].
    """
    confidence, accuracy, counts = reliability_bins(confidences, correct, bins)
    filled = counts > 0
    if not filled.any():
        return float("nan")
    return float(np.average(np.abs(confidence - accuracy)[filled], weights=counts[filled]))


def top_confusions(
    predictions: Sequence[int], labels: Sequence[int], class_names: Sequence[str], k: int = 10
) -> list[dict[str, str | int | float]]:
    """
    The pairs of classes that are taken for each other most often.

    Args:
        predictions (`Sequence[int]` of length `N`):
            Predicted class of each image.
        labels (`Sequence[int]` of length `N`):
            True class of each image.
        class_names (`Sequence[str]` of length `K`):
            Name of each class.
        k (`int`, *optional*, defaults to 10):
            How many pairs at most.

    Returns:
        `list[dict]`: `"label"` and `"prediction"` (names), `"count"` (images of the one taken for the other) and
        `"percent"` (of the images of `"label"`). Highest count first; equal counts by the higher percentage, then by
        class id.

    Raises:
        ValueError: different lengths, or ids that are not integers in `[0, K)`.
    """
    num_classes = len(class_names)
    predictions, labels = _check_predictions(predictions, labels, num_classes)
    images = np.bincount(labels, minlength=num_classes)
    wrong = predictions != labels
    pairs, counts = np.unique(labels[wrong] * num_classes + predictions[wrong], return_counts=True)
    true, predicted = np.divmod(pairs, max(num_classes, 1))
    percent = 100 * counts / images[true]
    order = np.lexsort((pairs, -percent, -counts))[:k]
    return [
        {
            "label": class_names[true[index]],
            "prediction": class_names[predicted[index]],
            "count": int(counts[index]),
            "percent": float(percent[index]),
        }
        for index in order
    ]
