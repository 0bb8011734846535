"""Floors: linear zero-shot classifiers in closed form on pooled features, which a trained model has to beat."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from dedn_hf import DednModel
from dedn_hf.data import GzslDataset
from dedn_hf.evaluation import ausuc, best_calibration, gzsl_metrics, seen_unseen_curve

# Regularisation is chosen among these.
PENALTIES = tuple(10.0**exponent for exponent in range(-3, 4))


class LinearMap:
    """
    Attribute scores as a linear function of features: `(x − mean) W + offset`.

    Args:
        weight (`np.ndarray` of shape `(D, A)`): W.
        mean (`np.ndarray` of shape `(D,)`, *optional*, defaults to 0): What is subtracted from features.
        offset (`np.ndarray` of shape `(A,)`, *optional*, defaults to 0): What is added to scores.
    """

    def __init__(self, weight: np.ndarray, mean: np.ndarray | float = 0.0, offset: np.ndarray | float = 0.0):
        self.weight, self.mean, self.offset = weight, mean, offset

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return (features - self.mean) @ self.weight + self.offset


def fit_eszsl(
    features: np.ndarray,
    labels: np.ndarray,
    class_rows: np.ndarray,
    feature_penalty: Sequence[float] = PENALTIES,
    attribute_penalty: Sequence[float] = PENALTIES,
) -> Iterator[tuple[dict[str, float], LinearMap]]:
    """
    ESZSL (Romera-Paredes and Torr, "An embarrassingly simple approach to zero-shot learning", ICML 2015): the V that
    minimises `‖X V Sᵀ − Y‖² + γ‖V Sᵀ‖² + λ‖X V‖² + γλ‖V‖²`, which is `(XᵀX + γI)⁻¹ Xᵀ Y S (SᵀS + λI)⁻¹`, with Y 1 for
    an image's class and −1 for all others.

    Args:
        features (`np.ndarray` of shape `(N, D)`):
            X, of the training images.
        labels (`np.ndarray` of shape `(N,)`):
            Place of each image's class in `class_rows`.
        class_rows (`np.ndarray` of shape `(K, A)`):
            S, the attributes of the classes that are trained on.
        feature_penalty (`Sequence[float]`, *optional*, defaults to `PENALTIES`):
            Values of γ.
        attribute_penalty (`Sequence[float]`, *optional*, defaults to `PENALTIES`):
            Values of λ.

    Returns:
        `Iterator`: for each γ and λ, the two by name, and the [`LinearMap`].
    """
    signs = np.where(labels[:, None] == np.arange(len(class_rows)), 1.0, -1.0)
    of_features, of_attributes = features.T @ features, class_rows.T @ class_rows
    product = features.T @ (signs @ class_rows)
    for gamma in feature_penalty:
        left = _solve(of_features, gamma, product)
        for lam in attribute_penalty:
            weight = _solve(of_attributes, lam, left.T).T
            yield {"feature_penalty": gamma, "attribute_penalty": lam}, LinearMap(weight)


def fit_attribute_regression(
    features: np.ndarray, labels: np.ndarray, class_rows: np.ndarray, penalty: Sequence[float] = PENALTIES
) -> Iterator[tuple[dict[str, float], LinearMap]]:
    """
    Ridge regression from an image's features to the attributes of its class, with an intercept that is not penalised.
    With rows of length 1, the class whose row is nearest to the prediction is the one with the highest inner product.

    Args:
        features (`np.ndarray` of shape `(N, D)`):
            Of the training images.
        labels (`np.ndarray` of shape `(N,)`):
            Place of each image's class in `class_rows`.
        class_rows (`np.ndarray` of shape `(K, A)`):
            The attributes of the classes that are trained on.
        penalty (`Sequence[float]`, *optional*, defaults to `PENALTIES`):
            Weights of the squared norm.

    Returns:
        `Iterator`: for each penalty, it by name, and the [`LinearMap`].
    """
    targets = class_rows[labels]
    mean, offset = features.mean(axis=0), targets.mean(axis=0)
    centred = features - mean
    of_features, product = centred.T @ centred, centred.T @ (targets - offset)
    for value in penalty:
        yield {"penalty": value}, LinearMap(_solve(of_features, value, product), mean, offset)


def _solve(matrix: np.ndarray, penalty: float, right: np.ndarray) -> np.ndarray:
    return cho_solve(cho_factor(matrix + penalty * np.eye(len(matrix))), right)


# Name → what it is, and how it is fitted.
FLOORS = {
    "eszsl": ("ESZSL, in closed form", fit_eszsl),
    "attribute_regression": ("ridge regression of the class's attributes, in closed form", fit_attribute_regression),
}


@torch.inference_mode()
def pool_features(examples: Dataset, model: DednModel | None = None, batch_size: int = 100) -> np.ndarray:
    """
    Feature maps averaged over their regions.

    Args:
        examples (`Dataset` of length `N`):
            Items with `feature_map` or `pixel_values`.
        model ([`DednModel`], *optional*):
            Whose backbone makes feature maps of `pixel_values`.
        batch_size (`int`, *optional*, defaults to 100):
            Images at once.

    Returns:
        `np.ndarray` of shape `(N, C)`, float64.
    """
    pooled = []
    for batch in tqdm(DataLoader(examples, batch_size), desc="Pooling features", unit="batch", leave=False):
        maps = batch["feature_map"] if "feature_map" in batch else model.get_feature_map(batch["pixel_values"])
        pooled.append(maps.double().mean(dim=(2, 3)))
    return torch.cat(pooled).numpy()


def run_floor(name: str, dataset: GzslDataset, features_of: Callable[[str], np.ndarray]) -> dict:
    """
    One floor by the `validated` protocol: penalties, and the calibration γ, are those of highest H on the validation
    images, of a fit to the images of the train classes; then it is fitted to all seen classes, and the test images are
    read once.

    Args:
        name (`str`):
            A key of `FLOORS`.
        dataset ([`GzslDataset`]):
            The data set.
        features_of (`Callable[[str], np.ndarray]`):
            From the name of a split to the features of its images, `(N, D)`.

    Returns:
        `dict`: `chosen`, `validation` and `test` as in `results.json`.
    """
    _, fit = FLOORS[name]
    rows = dataset.class_attributes.astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    labels_of = {split: np.asarray(images["label"]) for split, images in dataset.splits.items()}

    def together(*splits):
        return np.concatenate([features_of(s) for s in splits]), np.concatenate([labels_of[s] for s in splits])

    def fit_classes(split, class_ids, **penalties):
        features, labels = together(split)
        return fit(features, np.searchsorted(class_ids, labels), rows[class_ids], **penalties)

    # While choosing, only the seen classes are known, and those for validation play the unseen ones.
    known = np.array(sorted(dataset.seen_class_ids))
    train = np.setdiff1d(known, dataset.validation_class_ids)
    features, labels = together("validation_seen", "validation_unseen")
    labels, seen = np.searchsorted(known, labels), np.searchsorted(known, train)
    best = None
    for penalties, score in fit_classes("train", train):
        calibration, metrics = best_calibration(score(features) @ rows[known].T, labels, seen)
        if best is None or metrics["H"] > best[0]["H"]:
            best = (metrics, penalties, calibration)
    validation, penalties, calibration = best

    ((_, score),) = fit_classes("trainval", known, **{name: [value] for name, value in penalties.items()})
    features, labels = together("test_seen", "test_unseen")
    logits = score(features) @ rows.T
    test = gzsl_metrics(logits, labels, known, calibration)
    test["AUSUC"] = ausuc(seen_unseen_curve(logits, labels, known))
    return {"chosen": penalties | {"calibration": calibration}, "validation": validation, "test": test}
