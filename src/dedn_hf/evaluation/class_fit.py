"""What [`ClassFit`] goes by: statistics of training images, and logistic curves from classes that were strangers."""

import numpy as np
from scipy.linalg import eigh
from sklearn.linear_model import LogisticRegression

# Shares of the mean variance. The first keeps a within-class covariance of few images from being singular.
_SHRINKAGE = 0.1
_RIDGES = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def class_fit_statistics(attribute_scores, labels, strengths) -> dict[str, np.ndarray] | None:
    """
    How the attribute scores of classes differ, and those of images of a class: linear discriminant analysis.

    The ridge with which means follow from strengths is the one that foretells each trained class best from the others.

    Args:
        attribute_scores (`np.ndarray` of shape `(N, A)`):
            Of the training images, in evaluation mode and with the mixes that the model is saved with.
        labels (`np.ndarray` of shape `(N,)`):
            Trained class of each image, from 0 to n − 1.
        strengths (`np.ndarray` of shape `(n, A)`):
            Of the attributes in the trained classes, as [`DednModel.strengths`] gives them.

    Returns:
        `dict[str, np.ndarray]`: the buffers of a [`ClassFit`] but for `coefficients`; `None` where there are less than
        three classes with images, or one of the n has none, or no class has images that differ.

    Raises:
        ValueError: If a score is not finite.
    """
    scores, labels = np.asarray(attribute_scores, dtype=np.float64), np.asarray(labels)
    strengths = np.asarray(strengths, dtype=np.float64)
    num_classes, num_attributes = strengths.shape
    if not np.isfinite(scores).all():
        raise ValueError(f"{(~np.isfinite(scores)).sum()} of the attribute scores are not finite: training diverged.")
    counts = np.bincount(labels, minlength=num_classes)
    if num_classes < 3 or not counts.all():
        return None
    means = np.stack([np.bincount(labels, column, num_classes) / counts for column in scores.T], axis=1)
    within = scores - means[labels]
    covariance = within.T @ within / len(scores)
    variance = np.trace(covariance) / num_attributes
    if variance <= 1e-9 * scores.var():
        return None
    covariance += _SHRINKAGE * variance * np.eye(num_attributes)
    centre = means.mean(axis=0)
    between = (means - centre).T @ (means - centre) / (num_classes - 1)
    num_directions = min(num_classes - 1, num_attributes)
    variances, directions = eigh(
        between, covariance, subset_by_index=(num_attributes - num_directions, num_attributes - 1)
    )
    projected = (means - centre) @ directions
    from_strengths, offset = _ridge(strengths, projected)
    found = {
        "centre": centre,
        "projection": directions,
        "variances": variances.clip(min=0),
        "means": projected,
        "from_strengths": from_strengths,
        "offset": offset,
    }
    return {name: np.ascontiguousarray(values, dtype=np.float32) for name, values in found.items()}


def _ridge(inputs: np.ndarray, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regression, of the ridge with the least error where one row at a time is left out; outputs have mean 0."""
    centre = inputs.mean(axis=0)
    inputs = inputs - centre
    products, size = inputs @ inputs.T, len(inputs)
    unit = max(np.trace(products) / size, 1e-12)
    best = None
    for ridge in _RIDGES:
        inverse = np.linalg.inv(products + ridge * unit * np.eye(size))
        # The mean is of the row that is left out, too.
        hat = products @ inverse + 1 / size
        error = np.square((outputs - hat @ outputs) / (1 - np.diag(hat))[:, None]).sum()
        if best is None or error < best[0]:
            best = (error, inputs.T @ inverse @ outputs)
    return best[1], -centre @ best[1]


def fit_coefficients(distances, candidate) -> np.ndarray:
    """
    Slope a, offset b and c of the probability σ(a·r + b + c·ln K) that an image is of one of K candidates, given the
    highest r among them: the likeliest such curve over candidates that are drawn, from one to all of them, where
    strangers, whose class is none of the candidates, are as many as the others.

    Args:
        distances (`np.ndarray` of shape `(N, K)`):
            r of images and candidates.
        candidate (`np.ndarray` of shape `(N,)`):
            Which candidate is the class of an image; −1 for none.

    Returns:
        `np.ndarray` of shape `(3,)`: a, never negative, b and c; all are 0, which says nothing, where there are no
        strangers, no others, or r does not tell them apart.
    """
    distances, candidate = np.asarray(distances, dtype=np.float64), np.asarray(candidate)
    num_candidates, random = distances.shape[1], np.random.default_rng(0)
    nothing = np.zeros(3, dtype=np.float32)
    if (candidate >= 0).all() or (candidate < 0).all():
        return nothing
    inputs, truth, weights = [], [], []
    for count in np.unique(np.geomspace(1, num_candidates, 6).round().astype(int)):
        order = random.permutation(num_candidates)
        parts = [order[start : start + count] for start in range(0, num_candidates - count + 1, count)]
        highest = np.concatenate([distances[:, part].max(axis=1) for part in parts])
        is_own = np.concatenate([np.isin(candidate, part) for part in parts])
        inputs.append(np.stack([highest, np.full(len(highest), np.log(count))], axis=1))
        truth.append(is_own)
        weights.append(np.where(is_own, 1 / max(is_own.sum(), 1), 1 / max((~is_own).sum(), 1)))
    inputs, truth, weights = np.concatenate(inputs), np.concatenate(truth), np.concatenate(weights)
    mean, std = inputs.mean(axis=0), inputs.std(axis=0)
    std[std <= 1e-9] = 1
    weights *= len(weights) / weights.sum()
    curve = LogisticRegression().fit((inputs - mean) / std, truth, sample_weight=weights)
    slope, by_number = curve.coef_[0] / std
    if slope <= 0:
        return nothing
    offset = curve.intercept_.item() - slope * mean[0] - by_number * mean[1]
    return np.array([slope, offset, by_number], dtype=np.float32)
