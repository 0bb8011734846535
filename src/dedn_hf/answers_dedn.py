"""What a person's answers about attributes say of the candidates, and which to ask for next."""

import math
from collections.abc import Mapping

import torch

# People err, and see what is not there: no answer is impossible, however strong or weak an attribute is in a class.
LEAST_CHANCE = 0.1


def answer_log_likelihoods(strengths: torch.Tensor, answers: Mapping[int, float]) -> torch.Tensor:
    """
    Logarithm of how likely each answer is where the image is of a class. A class's strength of an attribute is the
    share of people who say yes, but for [`LEAST_CHANCE`]; an answer between no and yes counts as that much of each.

    Args:
        strengths (`torch.Tensor` of shape `(K, A)`):
            Of each attribute in each candidate, from 0 to 1.
        answers (`Mapping[int, float]`):
            Index of an attribute → answer, from 0 (no) to 1 (yes).

    Returns:
        `torch.Tensor` of shape `(K, A)`: 0 for attributes without an answer.
    """
    result = torch.zeros_like(strengths)
    if answers:
        indices = torch.tensor(list(answers), device=strengths.device)
        values = strengths.new_tensor(list(answers.values()))
        chance = strengths[:, indices].clamp(LEAST_CHANCE, 1 - LEAST_CHANCE)
        result[:, indices] = values * chance.log() + (1 - values) * (1 - chance).log()
    return result


def information_gains(probabilities: torch.Tensor, strengths: torch.Tensor) -> torch.Tensor:
    """
    How many bits of the uncertainty about the class a yes or no on each attribute is expected to take away: the mutual
    information of answer and class.

    Args:
        probabilities (`torch.Tensor` of shape `(…, K)`):
            Of each candidate, as far as is known.
        strengths (`torch.Tensor` of shape `(K, A)`):
            As in [`answer_log_likelihoods`].

    Returns:
        `torch.Tensor` of shape `(…, A)`, 0 or more.
    """
    chance = strengths.clamp(LEAST_CHANCE, 1 - LEAST_CHANCE)
    return (_entropy(probabilities @ chance) - probabilities @ _entropy(chance)).clamp(min=0)


def _entropy(chance: torch.Tensor) -> torch.Tensor:
    """Of a yes or no, in bits."""
    return -(torch.xlogy(chance, chance) + torch.xlogy(1 - chance, 1 - chance)) / math.log(2)


__all__ = ["LEAST_CHANCE", "answer_log_likelihoods", "information_gains"]
