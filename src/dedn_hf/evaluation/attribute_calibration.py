"""What makes attribute scores readable: a logistic curve for each attribute."""

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit


def fit_attribute_calibration(attribute_scores, targets) -> np.ndarray:
    """
    Fits `σ(a·score + b)` to how strongly the class of an image has an attribute, for each attribute by itself (Platt
    scaling, with soft targets).

    The fit is the maximum of the likelihood, with targets drawn towards ½ by two virtual images, as Platt does, so
    that it is finite whatever the scores. Slopes are never negative: where a score runs against its attribute, or
    either of them is constant, the slope is 0 and the curve is the attribute's mean.

    Args:
        attribute_scores (`np.ndarray` or `torch.Tensor` of shape `(N, A)`):
            `attribute_scores` of N training images, in evaluation mode and with the mixes that the model is saved
            with.
        targets (`np.ndarray` or `torch.Tensor` of shape `(N, A)`):
            Strength of each attribute in each image's class, from 0 to 1. A matrix on another scale is divided by its
            largest entry first.

    Returns:
        `np.ndarray` of shape `(2, A)`, float32: slopes a and offsets b, for [`DednModel.set_attribute_calibration`].

    Raises:
        ValueError: If the shapes differ, there is no image, a score is not finite or a target not from 0 to 1.
    """
    scores, targets = np.asarray(attribute_scores, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    if scores.shape != targets.shape or scores.ndim != 2 or len(scores) == 0:
        raise ValueError(
            f"Scores and targets must both be of images × attributes, but their shapes are {scores.shape} and "
            f"{targets.shape}. A target is the image's row of the class-attribute matrix: `class_attributes[labels]`."
        )
    if not np.isfinite(scores).all():
        raise ValueError(f"{(~np.isfinite(scores)).sum()} of the attribute scores are not finite: training diverged.")
    if not ((targets >= 0) & (targets <= 1)).all():
        raise ValueError(
            f"Targets must be from 0 to 1, but they are from {targets.min():g} to {targets.max():g}. Set negative "
            "strengths to 0 and divide the class-attribute matrix by its largest entry."
        )

    num_images, num_attributes = scores.shape
    targets = (num_images * targets + 1) / (num_images + 2)
    mean, std = scores.mean(axis=0), scores.std(axis=0)
    std[std <= 1e-9 * np.abs(mean)] = np.inf
    scores = (scores - mean) / std

    def loss(parameters):
        slope, offset = parameters.reshape(2, num_attributes)
        logits = slope * scores + offset
        difference = expit(logits) - targets
        gradient = np.stack([(difference * scores).mean(axis=0), difference.mean(axis=0)])
        return (np.logaddexp(0, logits) - targets * logits).mean(axis=0).sum(), gradient.ravel()

    start = np.stack([np.zeros(num_attributes), logit(targets.mean(axis=0))])
    bounds = [(0, None)] * num_attributes + [(None, None)] * num_attributes
    # One problem for all attributes: their parts of the loss are independent of one another.
    options = {"ftol": 0, "gtol": 1e-6, "maxiter": 1000, "maxfun": 10000}
    solution = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    slope, offset = solution.x.reshape(2, num_attributes)
    return np.stack([slope / std, offset - slope * mean / std]).astype(np.float32)
