"""
Calibrated stacking (Chao et al., "An Empirical Study and Analysis of Generalized Zero-Shot Learning for Object
Recognition in the Wild", ECCV 2016, arXiv 1605.04253): predict `argmax s_k − γ·1[k seen]`.

An image goes to its best seen class while γ is below its *critical value* `max_seen s − max_unseen s`, and to its
best unseen class above it. So S and U as functions of γ are staircases whose every step is known, and the best γ and
the area under the curve are exact: no grid of γ. DEDN's own class bias ∓β equals γ = 2β (b = −γ/2 for seen, +γ/2 for
unseen classes).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from .metrics import check_gzsl_inputs, gzsl_metrics, harmonic_mean

# Accuracies are sums of many fractions: figures closer than this (in per cent) are equal.
_TIE = 1e-9


@dataclass
class SeenUnseenCurve:
    """
    S and U as functions of the calibration γ: staircases with n steps and n+1 treads.

    Args:
        calibrations (`np.ndarray` of shape `(n,)`):
            The critical values at which S or U changes: sorted, each once.
        seen (`np.ndarray` of shape `(n+1,)`):
            S in per cent; `seen[i]` holds for γ between `calibrations[i-1]` and `calibrations[i]`. Falls to 0.
        unseen (`np.ndarray` of shape `(n+1,)`):
            U in per cent over the same intervals. Rises from 0 to T1.
    """

    calibrations: np.ndarray
    seen: np.ndarray
    unseen: np.ndarray

    def at(self, calibration: float) -> tuple[float, float]:
        """
        `(S, U)` in per cent at a γ. At a critical value itself, where a seen and an unseen class score the same, these
        are the figures just below it; [`gzsl_metrics`] then gives the image to the class with the lower id.

        Args:
            calibration (`float`):
                γ.
        """
        index = np.searchsorted(self.calibrations, calibration, side="left")
        return float(self.seen[index]), float(self.unseen[index])


@dataclass
class SelectedCalibration:
    """
    What [`choose_mixes`] found to be best.

    Args:
        region_mix (`float`):
            c, the share of the region attention in an expert's attribute scores.
        coarse_mix (`float`):
            e, the share of the coarse expert in the class scores.
        calibration (`float`):
            γ.
        score_scale (`float`):
            See [`fit_score_scale`].
        metrics (`dict[str, float]`):
            T1, U, S and H with the first three, per cent.
    """

    region_mix: float
    coarse_mix: float
    calibration: float
    score_scale: float
    metrics: dict[str, float]


def _curve(logits: np.ndarray, labels: np.ndarray, is_seen: np.ndarray) -> SeenUnseenCurve:
    """[`seen_unseen_curve`] of what [`~metrics.check_gzsl_inputs`] gave."""
    of_seen = is_seen[labels]
    if of_seen.all() or not of_seen.any():
        raise ValueError(
            f"There are {of_seen.sum()} images of seen and {(~of_seen).sum()} of unseen classes; "
            "calibrated stacking weighs the two against each other and needs both."
        )
    images = np.bincount(labels, minlength=len(is_seen))
    classes = np.where(of_seen, np.sum(is_seen & (images > 0)), np.sum(~is_seen & (images > 0)))
    # An image's share of its class-averaged figure: the ends of the curve are then the per-class S and U.
    weights = 100.0 / (images[labels] * classes)

    seen_logits, unseen_logits = logits[:, is_seen], logits[:, ~is_seen]
    best_seen = np.flatnonzero(is_seen)[seen_logits.argmax(axis=1)]
    best_unseen = np.flatnonzero(~is_seen)[unseen_logits.argmax(axis=1)]
    critical = seen_logits.max(axis=1) - unseen_logits.max(axis=1)
    # An image whose best class of its own kind is wrong is never right, so nothing changes at its critical value.
    right = np.where(of_seen, best_seen, best_unseen) == labels
    calibrations, step = np.unique(critical[right], return_inverse=True)
    falls = np.bincount(step, weights=(weights * of_seen)[right], minlength=len(calibrations))
    rises = np.bincount(step, weights=(weights * ~of_seen)[right], minlength=len(calibrations))
    # Both are summed from their zero end, so that they end at exactly 0.
    seen = np.append(np.cumsum(falls[::-1])[::-1], 0.0)
    unseen = np.append(0.0, np.cumsum(rises))
    return SeenUnseenCurve(calibrations, seen, unseen)


def _best_of_curve(curve: SeenUnseenCurve, largest_logit: float) -> tuple[float, float]:
    """`(γ, H)` in the middle of the widest interval of highest H; γ = 0 where H is 0 everywhere."""
    # Below the first critical value U is 0 and above the last one S is 0, so only the intervals between can win.
    heights = harmonic_mean(curve.seen, curve.unseen)[1:-1]
    lower, upper = curve.calibrations[:-1], curve.calibrations[1:]
    widths = upper - lower
    # Two critical values that differ by rounding only are one: no γ can be told to lie between them.
    rounding = 8 * np.finfo(np.float64).eps * largest_logit
    heights = np.where(widths > rounding, heights, 0.0)
    if heights.max(initial=0.0) <= _TIE:
        return 0.0, 0.0
    widths = np.where(heights >= heights.max() - _TIE, widths, 0.0)
    index = int(widths.argmax())
    return float((lower[index] + upper[index]) / 2), float(heights[index])


def seen_unseen_curve(logits: np.ndarray, labels: Sequence[int], seen_class_ids: Sequence[int]) -> SeenUnseenCurve:
    """
    The exact seen–unseen accuracy curve of calibrated stacking.

    Each image has weight 1 / (images of its class × classes with images of its kind), so that every point of the curve
    agrees with the per-class S and U of [`gzsl_metrics`]. Among the seen (and among the unseen) classes, equal scores
    go to the lowest id, as there.

    Args:
        logits (`np.ndarray` of shape `(N, K)`):
            Class scores, with or without a class bias; γ counts from these scores.
        labels (`Sequence[int]` of length `N`):
            True class of each image.
        seen_class_ids (`Sequence[int]`):
            Classes that the model was trained on; all others are unseen.

    Returns:
        [`SeenUnseenCurve`].

    Raises:
        ValueError: see [`~metrics.check_gzsl_inputs`]; also if either kind has no images.
    """
    return _curve(*check_gzsl_inputs(logits, labels, seen_class_ids))


def ausuc(curve: SeenUnseenCurve) -> float:
    """
    Area under the seen–unseen accuracy curve, S over U (Chao et al. 2016).

    Exact, by the trapezoidal rule: where one kind of image changes sides the curve runs along an axis and the rule
    equals the area under the staircase; where seen and unseen images share a critical value the straight line between
    the two points is the mean over the orders in which they could change, as in the area under an ROC curve.

    Args:
        curve ([`SeenUnseenCurve`]):
            The curve.

    Returns:
        `float`: 100 × the area in the unit square.
    """
    return float(np.trapezoid(curve.seen, curve.unseen) / 100)


def best_calibration(
    logits: np.ndarray, labels: Sequence[int], seen_class_ids: Sequence[int]
) -> tuple[float, dict[str, float]]:
    """
    The γ of highest H, exactly and in O(N log N) once the best classes are known.

    H is constant between neighbouring critical values. Of the intervals of highest H the widest is taken (the first of
    equally wide ones), and γ in its middle, where small changes of the scores change least. If H is 0 for every γ,
    there is nothing to choose, and γ is 0.

    Args:
        logits (`np.ndarray` of shape `(N, K)`):
            Class scores, with or without a class bias; γ is counted from these scores.
        labels (`Sequence[int]` of length `N`):
            True class of each image.
        seen_class_ids (`Sequence[int]`):
            Classes that the model was trained on; all others are unseen.

    Returns:
        `tuple[float, dict[str, float]]`: γ, and [`gzsl_metrics`] at γ.

    Raises:
        ValueError: see [`seen_unseen_curve`].
    """
    curve = seen_unseen_curve(logits, labels, seen_class_ids)
    calibration, _ = _best_of_curve(curve, np.abs(logits).max())
    return calibration, gzsl_metrics(logits, labels, seen_class_ids, calibration)


def _class_scores(expert_scores: np.ndarray, class_attributes: np.ndarray) -> np.ndarray:
    """Scores of the four parts against the class rows: (2, 2, N, K), [coarse, fine] × [region, channel]."""
    expert_scores = np.asarray(expert_scores, dtype=np.float64)
    class_attributes = np.asarray(class_attributes, dtype=np.float64)
    if expert_scores.ndim != 4 or expert_scores.shape[1:3] != (2, 2):
        raise ValueError(
            f"`expert_scores` has shape {expert_scores.shape}; (images, 2, 2, attributes) is needed: "
            "[coarse, fine] × [region, channel]."
        )
    num_images, _, _, num_attributes = expert_scores.shape
    if class_attributes.ndim != 2 or class_attributes.shape[1] != num_attributes:
        raise ValueError(
            f"`class_attributes` has shape {class_attributes.shape}, but `expert_scores` has {num_attributes} "
            "attributes; (classes, attributes) is needed."
        )
    norms = np.linalg.norm(class_attributes, axis=1, keepdims=True)
    class_rows = class_attributes / np.maximum(norms, 1e-12)
    # One matrix product for all four parts.
    scores = expert_scores.transpose(1, 2, 0, 3).reshape(-1, num_attributes) @ class_rows.T
    return scores.reshape(2, 2, num_images, len(class_rows))


def _mix(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    return share * first + (1 - share) * second


def _check_mixes(**mixes: Sequence[float]):
    for name, shares in mixes.items():
        wrong = [share for share in shares if not 0 <= share <= 1]
        if wrong or not len(shares):
            raise ValueError(f"`{name}` holds {wrong}; it takes shares in [0, 1], at least one.")


def mix_expert_scores(
    expert_scores: np.ndarray, class_attributes: np.ndarray, region_mix: float, coarse_mix: float
) -> np.ndarray:
    """
    Class scores from the attribute scores of the two experts and their two attentions, as DEDN mixes them in
    evaluation, but without class bias: e·⟨a, c·p_region + (1−c)·p_channel⟩ of the coarse expert plus (1−e)· the same
    of the fine one.

    Args:
        expert_scores (`np.ndarray` of shape `(N, 2, 2, A)`):
            Attribute scores, [coarse, fine] × [region, channel].
        class_attributes (`np.ndarray` of shape `(K, A)`):
            Class-attribute matrix; its rows are L2-normalised here (a row of zeros stays as it is).
        region_mix (`float`):
            c in [0, 1].
        coarse_mix (`float`):
            e in [0, 1].

    Returns:
        `np.ndarray` of shape `(N, K)`: logits, float64.

    Raises:
        ValueError: shapes that do not fit each other, or a share outside of [0, 1].
    """
    _check_mixes(region_mix=[region_mix], coarse_mix=[coarse_mix])
    coarse, fine = _class_scores(expert_scores, class_attributes)
    return _mix(_mix(*coarse, region_mix), _mix(*fine, region_mix), coarse_mix)


def choose_mixes(
    expert_scores: np.ndarray,
    class_attributes: np.ndarray,
    labels: Sequence[int],
    seen_class_ids: Sequence[int],
    region_mixes: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0),
    coarse_mixes: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0),
) -> SelectedCalibration:
    """
    The mixes c and e, of a grid, and the exact γ that together give the highest H: the choice that the `validated`
    protocol makes on validation data. The scores of the four parts are computed once.

    Of points with the same H the one nearest to c = e = ½ is taken, then the first.

    Args:
        expert_scores (`np.ndarray` of shape `(N, 2, 2, A)`):
            Attribute scores, [coarse, fine] × [region, channel].
        class_attributes (`np.ndarray` of shape `(K, A)`):
            Class-attribute matrix; its rows are L2-normalised here.
        labels (`Sequence[int]` of length `N`):
            True class of each image.
        seen_class_ids (`Sequence[int]`):
            Classes that the model was trained on; all others are unseen.
        region_mixes (`Sequence[float]`, *optional*, defaults to 0, 0.1, …, 1 and 0.95):
            Values of c to try.
        coarse_mixes (`Sequence[float]`, *optional*, defaults to 0, 0.1, …, 1 and 0.95):
            Values of e to try.

    Returns:
        [`SelectedCalibration`].

    Raises:
        ValueError: shapes that do not fit each other, a share outside of [0, 1], images of one kind only, or what
            [`~metrics.check_gzsl_inputs`] raises.
    """
    _check_mixes(region_mixes=region_mixes, coarse_mixes=coarse_mixes)
    parts = _class_scores(expert_scores, class_attributes)
    # Every mix is finite if its parts are: one check stands for the whole grid.
    _, labels, is_seen = check_gzsl_inputs(parts.sum(axis=(0, 1)), labels, seen_class_ids)
    largest_logit = np.abs(parts).max(initial=0.0)

    best = None
    for region_mix in region_mixes:
        coarse, fine = (_mix(*expert, region_mix) for expert in parts)
        for coarse_mix in coarse_mixes:
            logits = _mix(coarse, fine, coarse_mix)
            calibration, height = _best_of_curve(_curve(logits, labels, is_seen), largest_logit)
            distance = (region_mix - 0.5) ** 2 + (coarse_mix - 0.5) ** 2
            higher = best is None or height > best[0] + _TIE
            if higher or (height >= best[0] - _TIE and distance < best[1] - _TIE):
                best = (height, distance, region_mix, coarse_mix, calibration, logits)

    _, _, region_mix, coarse_mix, calibration, logits = best
    metrics = gzsl_metrics(logits, labels, seen_class_ids, calibration)
    score_scale = fit_score_scale(logits - calibration * is_seen, labels)
    return SelectedCalibration(float(region_mix), float(coarse_mix), calibration, score_scale, metrics)


def fit_score_scale(logits: np.ndarray, labels: Sequence[int]) -> float:
    """
    What logits are to be multiplied with so that their softmax says how often it is right: the scale with the highest
    likelihood of the true classes, all of which count alike (temperature scaling of Guo et al., "On Calibration of
    Modern Neural Networks", ICML 2017, arXiv 1706.04599).

    Args:
        logits (`np.ndarray` of shape `(N, K)`):
            Class scores, after calibration.
        labels (`Sequence[int]` of length `N`):
            True class of each image.

    Returns:
        `float`: from 0.001 to 1,000.
    """
    labels = np.asarray(labels)
    differences = logits - logits[np.arange(len(labels)), labels][:, None]
    weights = 1 / np.bincount(labels)[labels]

    def loss(log_scale: float) -> float:
        return np.average(logsumexp(np.exp(log_scale) * differences, axis=1), weights=weights)

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(1e-3), np.log(1e3)), method="bounded").x))
