"""What a person's answers about attributes say of the candidates, and which to ask for next."""

import math
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import TypedDict, TypeVar

import torch

from .names_dedn import question_about, split_attribute

Attribute = TypeVar("Attribute", bound=Hashable)

# People err, and see what is not there: no answer is impossible, however strong or weak an attribute is in a class.
LEAST_CHANCE = 0.1


class QuestionResult(TypedDict):
    """
    A question that a person may answer next.

    Args:
        attribute (`str`):
            The attribute, as `config.attribute_names` has it.
        group (`str`):
            The group that it is of.
        question (`str`):
            The question in words, to be answered by yes or no.
        gain (`float`):
            How many bits of the uncertainty among the candidates an answer is expected to take away.
    """

    attribute: str
    group: str
    question: str
    gain: float


class ValueResult(TypedDict):
    """
    A value of a property that a person is asked for.

    Args:
        attribute (`str`):
            The attribute, as `config.attribute_names` has it.
        label (`str`):
            The value in words: "blue".
        chance (`float`):
            How likely it is to be picked, as far as is known; what is missing to 1 is how likely none of them is.
    """

    attribute: str
    label: str
    chance: float


class PropertyQuestionResult(TypedDict):
    """
    A question for a property, such as the wing color, of which a person picks a value. Attributes whose names tell no
    value are a property each, and so is the last value that nothing is known of: they are asked for by yes or no, and
    have a single answer.

    Args:
        property (`str`):
            The property in words, without the value: "wing color".
        group (`str`):
            The group that it is of.
        question (`str`):
            The question in words.
        gain (`float`):
            How many bits of the uncertainty among the candidates an answer is expected to take away.
        answers (`list[ValueResult]`):
            The values to pick from, the most likely first: none that was answered, also by not knowing.
    """

    property: str
    group: str
    question: str
    gain: float
    answers: list[ValueResult]


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


def property_gains(
    probabilities: torch.Tensor, values: torch.Tensor, none: torch.Tensor, properties: torch.Tensor
) -> torch.Tensor:
    """
    As [`information_gains`], of which value of a property a person picks, or none: the mutual information of choice
    and class, in bits. Of a property of one attribute it is that of a yes or no.

    Args:
        probabilities (`torch.Tensor` of shape `(…, K)`):
            Of each candidate, as far as is known.
        values, none:
            What [`value_chances`] gives.
        properties (`torch.Tensor` of shape `(A,)`, int64):
            As there.

    Returns:
        `torch.Tensor` of shape `(…, P)`, 0 or more.
    """

    def entropy(values, none):
        return (_sum_by_property(-torch.xlogy(values, values), properties) - torch.xlogy(none, none)) / math.log(2)

    return (entropy(probabilities @ values, probabilities @ none) - probabilities @ entropy(values, none)).clamp(min=0)


def attribute_questions(
    names: Sequence[str],
    groups: Sequence[str],
    probabilities: torch.Tensor,
    strengths: torch.Tensor,
    observed: Mapping[str, float | None],
) -> list[QuestionResult]:
    """
    All questions about one attribute that tell something, best first.

    Args:
        names (`Sequence[str]` of length `A`):
            The attributes.
        groups (`Sequence[str]` of length `A`):
            The group of each.
        probabilities (`torch.Tensor` of shape `(K,)`):
            Of each candidate, as far as is known.
        strengths (`torch.Tensor` of shape `(K, A)`):
            As in [`answer_log_likelihoods`].
        observed (`Mapping[str, float | None]`):
            What was answered, which is not asked again.
    """
    gains = information_gains(probabilities, strengths)
    return [
        {
            "attribute": names[index],
            "group": groups[index],
            "question": question_about(names[index]),
            "gain": gains[index].item(),
        }
        for index in _best(gains)
        if names[index] not in observed
    ]


def property_questions(
    names: Sequence[str],
    groups: Sequence[str],
    probabilities: torch.Tensor,
    strengths: torch.Tensor,
    observed: Mapping[str, float | None],
) -> list[PropertyQuestionResult]:
    """All questions for a property that tell something, best first, as [`attribute_questions`]."""
    split = [split_attribute(name) for name in names]
    answered = {split_attribute(name)[0] for name, answer in observed.items() if (answer or 0) >= 0.5}
    values_of = {}
    for index, (what, _) in enumerate(split):
        if names[index] not in observed and what not in answered:
            values_of.setdefault(what, []).append(index)
    if not values_of:
        return []
    columns = [index for indices in values_of.values() for index in indices]
    properties = torch.tensor([place for place, indices in enumerate(values_of.values()) for _ in indices])
    values, none = value_chances(strengths[:, columns], properties)
    gains = property_gains(probabilities, values, none, properties)
    chances = dict(zip(columns, (probabilities @ values).tolist()))
    questions, whats = [], list(values_of)
    for place in _best(gains):
        what = whats[place]
        first, *others = sorted(values_of[what], key=lambda index: -chances[index])
        questions.append(
            {
                "property": what,
                "group": groups[values_of[what][0]],
                "question": f"What is the {what}?" if others else question_about(names[first]),
                "gain": gains[place].item(),
                "answers": [
                    {"attribute": names[index], "label": split[index][1] or what, "chance": chances[index]}
                    for index in (first, *others)
                ],
            }
        )
    return questions


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


def _best(gains: torch.Tensor) -> list[int]:
    """Places of what tells something, the largest first."""
    return [place for place in gains.argsort(descending=True, stable=True).tolist() if gains[place] > 1e-6]


def _sum_by_property(of_attributes: torch.Tensor, properties: torch.Tensor) -> torch.Tensor:
    sums = of_attributes.new_zeros(*of_attributes.shape[:-1], int(properties.max()) + 1)
    return sums.index_add_(-1, properties, of_attributes)


def _entropy(chance: torch.Tensor) -> torch.Tensor:
    """Of a yes or no, in bits."""
    return -(torch.xlogy(chance, chance) + torch.xlogy(1 - chance, 1 - chance)) / math.log(2)


__all__ = [
    "LEAST_CHANCE",
    "PropertyQuestionResult",
    "QuestionResult",
    "ValueResult",
    "answer_log_likelihoods",
    "attribute_questions",
    "information_gains",
    "picked_answers",
    "property_gains",
    "property_questions",
    "value_chances",
]
