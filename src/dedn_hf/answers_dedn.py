"""What a person's answers about attributes say of the candidates, and which to ask for next."""

import math
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import TypeVar

import torch

Attribute = TypeVar("Attribute", bound=Hashable)

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


def value_chances(strengths: torch.Tensor, properties: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    How likely a person who is asked for a property, such as the wing color, picks each of its values where the image
    is of a class, and how likely none of them: in proportion to the values' strengths, kept as far from 0 and 1 as in
    [`answer_log_likelihoods`], and to how likely all of them are denied where each is asked for alone.

    Args:
        strengths (`torch.Tensor` of shape `(K, A)`):
            As in [`answer_log_likelihoods`].
        properties (`torch.Tensor` of shape `(A,)`, int64):
            Which property each attribute is a value of, from 0 to P - 1.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]` of shapes `(K, A)` and `(K, P)`: of the values and of none of them, which
        sum to 1 over a property.
    """
    chance = strengths.clamp(LEAST_CHANCE, 1 - LEAST_CHANCE)
    none = _sum_by_property((1 - chance).log(), properties).exp()
    total = none + _sum_by_property(chance, properties)
    return chance / total[:, properties], none / total


def property_gains(probabilities: torch.Tensor, strengths: torch.Tensor, properties: torch.Tensor) -> torch.Tensor:
    """
    As [`information_gains`], of which value of a property a person picks, or none: the mutual information of choice
    and class, in bits. Of a property of one attribute it is that of a yes or no.

    Args:
        probabilities (`torch.Tensor` of shape `(…, K)`):
            Of each candidate, as far as is known.
        strengths, properties:
            As in [`value_chances`].

    Returns:
        `torch.Tensor` of shape `(…, P)`, 0 or more.
    """
    values, none = value_chances(strengths, properties)

    def entropy(values, none):
        return (_sum_by_property(-torch.xlogy(values, values), properties) - torch.xlogy(none, none)) / math.log(2)

    return (entropy(probabilities @ values, probabilities @ none) - probabilities @ entropy(values, none)).clamp(min=0)


def picked_answers(values: Iterable[Attribute], picked: Collection[Attribute] | None) -> dict[Attribute, float | None]:
    """
    What a person says of attributes by picking among the values of a property: yes to those picked, and no to the
    others.

    Args:
        values (`Iterable`):
            The attributes to pick from.
        picked (`Collection`, *optional*):
            Those picked: empty for none of these, `None` for what is not known.

    Returns:
        `dict`: attribute → answer, as `observed` of the pipeline has it.
    """
    return {value: None if picked is None else float(value in picked) for value in values}


def _sum_by_property(of_attributes: torch.Tensor, properties: torch.Tensor) -> torch.Tensor:
    sums = of_attributes.new_zeros(*of_attributes.shape[:-1], int(properties.max()) + 1)
    return sums.index_add_(-1, properties, of_attributes)


def _entropy(chance: torch.Tensor) -> torch.Tensor:
    """Of a yes or no, in bits."""
    return -(torch.xlogy(chance, chance) + torch.xlogy(1 - chance, 1 - chance)) / math.log(2)


__all__ = [
    "LEAST_CHANCE",
    "answer_log_likelihoods",
    "information_gains",
    "picked_answers",
    "property_gains",
    "value_chances",
]
