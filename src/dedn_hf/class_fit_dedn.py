"""How well a class explains an image, whichever classes there are beside it: what is behind `fit` of a result."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn


class ClassTargets(NamedTuple):
    """
    What candidates make one expect of an image's attribute scores.

    Args:
        means (`torch.Tensor` of shape `(K, d)`):
            Of each candidate.
        coefficients (`torch.Tensor` of shape `(K, 3)`):
            a, b and c of each candidate's logistic curve.
    """

    means: torch.Tensor
    coefficients: torch.Tensor


class ClassFit(nn.Module):
    """
    How well classes explain the attribute scores of images: their relative Mahalanobis distance (Ren et al., "A Simple
    Fix to Mahalanobis Distance for Improving Near-OOD Detection", arXiv 2106.09022) as a probability.

    Scores are projected to the d directions in which the trained classes differ most for how much images of a class
    differ; there the images of a class are spread with variance 1 around its mean m, and all images around 0 with
    variance 1 + λ. The distance is r = ½(Σ z²/(1 + λ) − Σ (z − m)²), and the probability σ(a·r + b + c·ln K), since
    the more candidates there are, the better one fits by chance. The mean of a class that the model was trained on is
    that of its images; that of any other follows from its strengths, which is less sure and has a, b and c of its own.
    Where they are 0, as in a new model, nothing is known.

    Args:
        num_attributes (`int`):
            A.
        num_classes (`int`):
            Trained classes n, the first n of `config.trained_class_names`.
        num_directions (`int`):
            d.
    """

    def __init__(self, num_attributes: int, num_classes: int, num_directions: int):
        super().__init__()
        self.register_buffer("centre", torch.zeros(num_attributes))
        self.register_buffer("projection", torch.zeros(num_attributes, num_directions))
        self.register_buffer("variances", torch.zeros(num_directions))
        self.register_buffer("means", torch.zeros(num_classes, num_directions))
        # m = strengths · from_strengths + offset
        self.register_buffer("from_strengths", torch.zeros(num_attributes, num_directions))
        self.register_buffer("offset", torch.zeros(num_directions))
        # a, b and c, of a trained class and of another
        self.register_buffer("coefficients", torch.zeros(2, 3))

    def targets(self, strengths: torch.Tensor, trained: Sequence[int | None]) -> ClassTargets:
        """
        Args:
            strengths (`torch.Tensor` of shape `(K, A)`):
                Of the candidates, as [`DednModel.strengths`] gives them.
            trained (`Sequence[int | None]` of length `K`):
                Which of the trained classes each of them is; `None` for any other.
        """
        means = strengths.float() @ self.from_strengths.float() + self.offset.float()
        is_other = torch.ones(len(trained), dtype=torch.long, device=means.device)
        for row, index in enumerate(trained):
            if index is not None:
                means[row], is_other[row] = self.means[index].float(), 0
        return ClassTargets(means, self.coefficients.float()[is_other])

    def distances(self, attribute_scores: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
        """r of every image and class, `(B, K)`; `attribute_scores` is `(B, A)`, `means` `(K, d)`."""
        projected = (attribute_scores.float() - self.centre.float()) @ self.projection.float()
        of_all = (projected.square() / (1 + self.variances.float())).sum(dim=1)
        # Not by `torch.cdist`, which takes a root.
        of_class = projected.square().sum(dim=1)[:, None] - 2 * projected @ means.T + means.square().sum(dim=1)
        return (of_all[:, None] - of_class) / 2

    def forward(self, attribute_scores: torch.Tensor, targets: ClassTargets) -> torch.Tensor:
        """The probability that each candidate explains each image, `(B, K)`; `attribute_scores` is `(B, A)`."""
        slope, offset, by_number = targets.coefficients.T
        offset = offset + by_number * math.log(len(targets.means))
        return (slope * self.distances(attribute_scores, targets.means) + offset).sigmoid()


__all__ = ["ClassFit", "ClassTargets"]
