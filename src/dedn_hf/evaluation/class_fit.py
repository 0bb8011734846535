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
        hat = products @ inverse
        error = np.square((outputs - hat @ outputs) / (1 - np.diag(hat))[:, None]).sum()
        if best is None or error < best[0]:
            best = (error, inputs.T @ inverse @ outputs)
    return best[1], -centre @ best[1]


def fit_coefficients(distances, is_acquaintance) -> np.ndarray:
    """
    Slope a and offset b of the probability that an image is of one of the candidates, given its highest r: the
    likeliest logistic curve where strangers, whose class is none of the candidates, are as many as acquaintances.

    Args:
        distances (`np.ndarray` of shape `(N,)`):
            The highest r over the candidates, of images.
        is_acquaintance (`np.ndarray` of shape `(N,)`):
            Whether the image's class is among the candidates.

    Returns:
        `np.ndarray` of shape `(2,)`: a, never negative, and b; both are 0, which says nothing, where there are no
        strangers or no acquaintances.
    """
    distances, is_acquaintance = np.asarray(distances, dtype=np.float64), np.asarray(is_acquaintance, dtype=bool)
    if is_acquaintance.all() or not is_acquaintance.any():
        return np.zeros(2, dtype=np.float32)
    mean, std = distances.mean(), distances.std() or 1.0
    curve = LogisticRegression(class_weight="balanced").fit((distances[:, None] - mean) / std, is_acquaintance)
    slope = max(0.0, curve.coef_.item() / std)
    return np.array([slope, curve.intercept_.item() - slope * mean if slope else 0.0], dtype=np.float32)
