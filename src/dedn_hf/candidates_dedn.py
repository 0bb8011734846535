"""
What people write about classes and attributes, as a model understands it: candidates by name or described by
attributes, answers about an image, and the rows of class attributes that they make.
"""

import difflib
import math
import numbers
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from .names_dedn import matcher_of, readable_attribute
from .words_dedn import UnderstoodResult, understand

# What a class may be made of.
PARTS = frozenset({"images", "text", "attributes"})
# A description counts like so many photos of the class, chosen on CUB's validation classes.
DESCRIPTION_IN_PHOTOS = 5


class Prose(dict):
    """
    What a description in prose is understood as: attribute → strength, of the attributes `by_text` as a share of that
    of the class which has it most. (Taken for shares of the matrix's largest entry, prose recognises less: T1 11.6 in
    place of 13.9 on CUB's validation classes.)

    Args:
        understood ([`UnderstoodResult`]):
            As [`understand`] gives it.
    """

    def __init__(self, understood: UnderstoodResult):
        super().__init__(understood["attributes"])
        self.understood, self.by_text = understood, frozenset(understood["attributes"])

    def __or__(self, attributes: Mapping[str, float]) -> "Prose":
        """What is said in attributes, too, goes before what was understood."""
        joined = Prose(self.understood)
        joined.update({**self, **attributes})
        joined.by_text = self.by_text - attributes.keys()
        return joined


def read_candidates(
    config: PreTrainedConfig, candidate_labels, describe: Callable[[Any], tuple[dict[str, float], int]] | None = None
) -> dict[str, dict[str, float] | None] | list[dict[str, dict[str, float] | None]]:
    """
    Candidates by name, each with `None` or strengths of attributes by name as its description; or a list of them, one
    for each image.

    Args:
        config ([`DednConfig`]):
            Of the model.
        candidate_labels:
            What the pipeline was given.
        describe (`Callable`, *optional*):
            Images of a class → strengths of its attributes, and how many images they are; for classes with images.

    Raises:
        ValueError: If they are not as they should be; names the class and the closest of what it may be.
    """
    if isinstance(candidate_labels, Mapping):
        descriptions = list(candidate_labels.items())
    elif isinstance(candidate_labels, str):
        descriptions = [(candidate_labels, None)] if candidate_labels else []
    elif not isinstance(candidate_labels, Iterable):
        raise ValueError(
            "`candidate_labels` must be names of classes or, by name, their descriptions, but it is "
            f"{candidate_labels!r}. Give a list or a dict."
        )
    else:
        entries = list(candidate_labels)
        are_lists = [isinstance(entry, Iterable) and not isinstance(entry, (str, bytes)) for entry in entries]
        if entries and all(are_lists):
            found = [read_candidates(config, entry, describe) for entry in entries]
            if any(isinstance(candidates, list) for candidates in found):
                raise ValueError("`candidate_labels` is a list of lists of lists. Give one list for each image.")
            return found
        if any(are_lists):
            raise ValueError(
                "`candidate_labels` has both names and lists. Give names for all images, or a list of names or a "
                "dict for each image."
            )
        descriptions = [(name, None) for name in entries]
    if not descriptions:
        raise ValueError("`candidate_labels` is empty. Name one class at least, or leave it out for all classes.")
    for name, _ in descriptions:
        if not isinstance(name, str) or not name.strip():
            known = ", ".join(repr(known) for known in list(config.label2id)[:3])
            raise ValueError(f"`candidate_labels` has {name!r}, which is no name of a class, such as {known}.")
    # Some systems store `é` as two characters.
    twice = _first_repeated(unicodedata.normalize("NFC", name).strip() for name, _ in descriptions)
    if twice is not None:
        raise ValueError(f"`candidate_labels` has {twice!r} more than once. Name each class once.")
    return {str(name): _read_class(config, name, description, describe) for name, description in descriptions}


def _read_class(config: PreTrainedConfig, name: str, description, describe) -> dict[str, float] | None:
    if not (isinstance(description, Mapping) and description and PARTS.issuperset(description)):
        return _read_description(config, name, description)
    strengths = {}
    if description.get("text") is not None:
        strengths = read_prose(config, name, description["text"])
    if description.get("attributes") is not None:
        strengths = strengths | _read_description(config, name, description["attributes"])
    if description.get("images") is not None:
        try:
            in_images, number = describe(description["images"])
        except ValueError as error:
            raise ValueError(f"Class {name!r}: {error}") from error
        share = number / (number + DESCRIPTION_IN_PHOTOS)
        blended = in_images | {
            attribute: share * in_images[attribute] + (1 - share) * strength
            for attribute, strength in strengths.items()
        }
        strengths = strengths | blended
    if not strengths:
        raise ValueError(f"Class {name!r} is described by nothing: give it images, a text or attributes.")
    return strengths


def _read_description(config: PreTrainedConfig, name: str, description) -> dict[str, float] | None:
    if description is None:
        return None
    if isinstance(description, str):
        if not matcher_of(tuple(config.attribute_names)).find_like(description):
            return read_prose(config, name, description)
        description = [description]
    if not isinstance(description, Mapping) and hasattr(description, "keys"):  # a row of a pandas table
        by_key = dict(description)
        description = by_key if all(isinstance(key, str) for key in by_key) else list(by_key.values())
    if not isinstance(description, Mapping):
        if isinstance(description, (bytes, bytearray)) or not isinstance(description, Iterable):
            raise ValueError(
                f"The description of class {name!r} must be attributes, strengths of attributes or a row of "
                f"numbers, but it is {description!r}. Give a list or a dict."
            )
        if isinstance(description, (torch.Tensor, np.ndarray)):
            description = description.tolist()
        entries = list(description) if isinstance(description, Iterable) else [description]
        if not all(isinstance(entry, str) for entry in entries):
            return _read_row(config, name, entries)
    else:
        entries = list(description)

    found = [_find_attribute(config, f"Class {name!r} is described by", attribute) for attribute in entries]
    if not entries:
        raise ValueError(f"The description of class {name!r} names no attribute. Name at least one.")
    if (twice := _first_repeated(entries)) is not None:
        raise ValueError(f"The description of class {name!r} has {twice!r} more than once. Name it once.")
    if (twice := _first_repeated(found)) is not None:
        written = " and ".join(repr(entry) for entry, other in zip(entries, found) if other == twice)
        raise ValueError(f"The description of class {name!r} has {written}, which are one attribute: name it once.")
    if not isinstance(description, Mapping):
        return dict.fromkeys(found, 1.0)
    strengths = {attribute: as_number(strength) for attribute, strength in zip(found, description.values())}
    for attribute, (written, given) in zip(found, description.items()):
        if not 0 <= strengths[attribute] <= 1:
            raise ValueError(
                f"Attribute {written!r} of class {name!r} has strength {given!r}, but "
                "strengths are numbers from 0 to 1, where 1 is the largest entry of the model's matrix of classes and "
                "attributes: `model.strengths(rows)` brings rows of a matrix to this scale."
            )
    return strengths


def read_prose(config: PreTrainedConfig, name: str, text) -> Prose:
    """The attributes that a class described in prose has, one text or several."""
    texts = [text] if isinstance(text, str) else text
    if not isinstance(texts, (list, tuple)) or not all(isinstance(entry, str) for entry in texts):
        raise ValueError(
            f"The text that describes class {name!r} must be a text or a list of them, but it is {text!r}."
        )
    understood = understand(config, texts)
    if not any(understood["attributes"].values()):
        said = " ".join(" ".join(texts).split())
        closest = closest_names(said, map(readable_attribute, config.attribute_names))
        raise ValueError(
            f"Class {name!r} is described by {said[:200]!r}, of which nothing is understood"
            + (" but what it lacks" if understood["attributes"] else "")
            + f". Name attributes of the model; {closest}. `config.attribute_terms` adds words."
        )
    return Prose(understood)


def read_answers(config: PreTrainedConfig, observed) -> dict[str, float | None]:
    """Answers by the model's names of attributes: from 0 to 1, or `None`."""
    if not isinstance(observed, Mapping):
        raise ValueError(
            "`observed` must be a dict of attributes with True, False, a strength or None, but it is "
            f"{observed!r}: give `{{attribute: True}}`."
        )
    answers = {}
    for written, answer in observed.items():
        attribute = _find_attribute(config, "`observed` has", written)
        if attribute in answers:
            raise ValueError(f"`observed` has {attribute!r} more than once: answer it once.")
        if isinstance(answer, (bool, np.bool_)):
            answer = float(answer)
        elif answer is not None:
            answer = as_number(answer)
            if not 0 <= answer <= 1:
                raise ValueError(
                    f"`observed` answers {written!r} with {observed[written]!r}, but an answer is True, False, a "
                    "strength from 0 to 1, or None for what is not known."
                )
        answers[attribute] = answer
    return answers


def _find_attribute(config: PreTrainedConfig, complaint: str, attribute) -> str:
    names = config.attribute_names
    if attribute in names:
        return attribute
    matcher = matcher_of(tuple(names))
    found = matcher.find(attribute) if isinstance(attribute, str) else None
    if found is not None:
        return found
    may_be = matcher.find_like(attribute) if isinstance(attribute, str) else []
    if may_be:
        problem = f"which may be {_or(may_be)}"
    else:
        problem = f"which is no attribute of the model; {closest_names(attribute, map(readable_attribute, names))}"
    raise ValueError(f"{complaint} {attribute!r}, {problem}.")


def _find_class(config: PreTrainedConfig, name: str) -> str:
    """The model's name of a class."""
    label2id = config.label2id
    if name in label2id:
        return name
    matcher = matcher_of(tuple(label2id))
    found, may_be = matcher.find(name), matcher.find_like(name)
    if found is None and may_be:
        raise ValueError(f"Class {name!r} may be {_or(may_be)}. Write it as one of them.")
    if found is None:
        raise ValueError(
            f"The model has no class {name!r}; {closest_names(name, label2id)}. To add a class, describe it: "
            f"`candidate_labels={{{name!r}: [attributes it has]}}`."
        )
    return found


def _read_row(config: PreTrainedConfig, name: str, entries: list) -> dict[str, float]:
    num_attributes = len(config.attribute_names)
    row = [as_number(entry) for entry in entries]
    wrong = [entry for entry, number in zip(entries, row) if not 0 <= number <= 1]
    if wrong or len(row) != num_attributes:
        found = f"it has {wrong[0]!r}" if wrong else f"it has {len(row)}"
        raise ValueError(
            f"The row of class {name!r} must be {num_attributes} strengths from 0 to 1, one for each of the model's "
            f"attributes (`config.attribute_names`), but {found}. `model.strengths(rows)` brings rows of a matrix to "
            "this scale."
        )
    return dict(zip(config.attribute_names, row))


def names_and_seen(config: PreTrainedConfig, candidates: dict[str, Any] | None) -> tuple[list[str], list[bool]]:
    id2label, label2id, seen_ids = config.id2label, config.label2id, set(config.seen_class_ids)
    if candidates is None:
        indices = range(len(id2label))
        return [id2label[index] for index in indices], [index in seen_ids for index in indices]
    found = {name: _find_class(config, name) for name, description in candidates.items() if description is None}
    if (twice := _first_repeated(found.values())) is not None:
        written = " and ".join(repr(name) for name, other in found.items() if other == twice)
        raise ValueError(f"`candidate_labels` has {written}, which are one class. Name each class once.")
    trained = matcher_of(tuple(config.trained_class_names))
    seen = [
        label2id[found[name]] in seen_ids if description is None else name in trained
        for name, description in candidates.items()
    ]
    return list(candidates), seen


def prose_of(candidates) -> dict[str, dict] | list[dict[str, dict]]:
    """What was understood of each candidate that is described in prose; of each list, where there are several."""
    if isinstance(candidates, list):
        return [prose_of(entry) for entry in candidates]
    descriptions = (candidates or {}).items()
    return {name: description.understood for name, description in descriptions if isinstance(description, Prose)}


def class_rows(model: PreTrainedModel, candidates: dict[str, Any] | None, unnamed_attributes: str) -> torch.Tensor:
    """A row of the class-attribute matrix for each candidate, on the scale of the model's own matrix."""
    known = rows = model.class_attributes.float()
    if candidates is not None:
        fill = _filling(model, unnamed_attributes)
        rows = torch.stack([_class_row(model.config, name, candidates[name], known, fill) for name in candidates])
    has_some = (rows > 0).any(dim=1).tolist()
    if not all(has_some):
        name = names_and_seen(model.config, candidates)[0][has_some.index(False)]
        raise ValueError(
            f"Class {name!r} has no attribute above 0, so that it has no score of its own. Describe it by what it "
            "has in `candidate_labels`, or give the model its rows with `model.set_classes`."
        )
    return rows


def class_strengths(model: PreTrainedModel, candidates: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Candidate → attribute → strength from 0 to 1, of all attributes: what the candidate is taken to be."""
    rows = model.strengths(class_rows(model, candidates, "likely")).tolist()
    return {name: dict(zip(model.config.attribute_names, row)) for name, row in zip(candidates, rows)}


def _class_row(config: PreTrainedConfig, name: str, description, known, fill) -> torch.Tensor:
    if description is None:
        return known[config.label2id[_find_class(config, name)]]
    index_of = {attribute: index for index, attribute in enumerate(config.attribute_names)}
    named = torch.tensor([index_of[attribute] for attribute in description], device=known.device)
    strengths = known.new_tensor(list(description.values()))
    if not ((strengths > 0) & (known.amax(dim=0)[named] > 0)).any():
        nothing = "no class of the model has what it names" if strengths.any() else "all its strengths are 0"
        raise ValueError(f"Class {name!r} is described by nothing: {nothing}. Name an attribute that it has.")
    by_text = description.by_text if isinstance(description, Prose) else ()
    is_by_text = torch.tensor([attribute in by_text for attribute in description], device=known.device)
    values = strengths * torch.where(is_by_text, known.amax(dim=0)[named], known.max())
    return fill(named, values).index_put((named,), values)


def _filling(model: PreTrainedModel, unnamed_attributes: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Indices of named attributes and their values → a row that has something for the others."""
    known = model.class_attributes.float()
    seen = known[model.seen_classes] if model.seen_classes.any() else known
    if unnamed_attributes == "likely":
        largest, strengths = known.max().clamp(min=1e-12), model.strengths(seen)
        return lambda named, values: likely_attributes(strengths, named, values / largest) * largest
    others = seen.mean(dim=0) if unnamed_attributes == "mean" else torch.zeros_like(known[0])
    return lambda named, values: others


def likely_attributes(strengths: torch.Tensor, named: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """
    What a class that has these attributes so strongly is expected to have of all.

    It is the mean of a normal distribution over classes, given that the named attributes are seen, each with as much
    noise as it spreads itself; mixed with the mean of the classes that are nearest in them. Both are of the roots of
    strengths, whose spread does not go with their size. Of this the mean over all classes is moved by the share that
    would be best for the known classes, each estimated by the others: by little where attributes tell nothing of each
    other. Found on CUB's validation classes.

    Args:
        strengths (`torch.Tensor` of shape `(K, A)`):
            Of attributes in the classes that are known, from 0 to 1.
        named (`torch.Tensor` of shape `(N,)`, int64):
            Attributes that are named.
        values (`torch.Tensor` of shape `(N,)`):
            Their strengths.

    Returns:
        `torch.Tensor` of shape `(A,)`, from 0 to 1.
    """
    known, target = strengths.double().cpu(), values.double().cpu().clamp(min=0).sqrt()
    named, count = named.cpu(), len(known)
    mean, roots = known.mean(dim=0), known.sqrt()
    if count < 3 or len(named) == known.shape[1]:
        return mean.to(strengths)
    mean_root, of_named = roots.mean(dim=0), roots[:, named]
    spread, others = of_named - mean_root[named], roots - mean_root
    covariance = spread.T @ spread / count
    weights = torch.linalg.solve(covariance + covariance.diagonal().diag() + 0.01 * torch.eye(len(named)), spread.T)

    def estimate(regressed, distances):
        nearest = (-distances / (2 * 0.2**2)).softmax(dim=-1) @ roots
        return (0.7 * (mean_root + regressed).clamp(0, 1) + 0.3 * nearest).square()

    expected = estimate(
        (target - mean_root[named]) @ weights @ others / count, (of_named - target).square().sum(dim=1)
    )
    # The same for each known class, had it not been known.
    influence = spread @ weights / count
    of_itself = influence.diagonal().unsqueeze(1)
    distances = torch.cdist(of_named, of_named).square().fill_diagonal_(math.inf)
    again = estimate((influence @ others - of_itself * others) / (1 - of_itself), distances)
    without = (mean * count - known) / (count - 1)
    unnamed = torch.ones_like(mean).index_fill(0, named, 0).bool()
    moved, wanted = (again - without)[:, unnamed], (known - without)[:, unnamed]
    share = ((moved * wanted).sum() / moved.square().sum().clamp(min=1e-12)).clamp(0, 1)
    return (mean + share * (expected - mean)).to(strengths)


def _first_repeated(names: Iterable[str]) -> str | None:
    met = set()
    for name in names:
        if name in met:
            return name
        met.add(name)
    return None


def _or(names: Sequence[str]) -> str:
    return " or ".join(map(repr, names))


def as_number(value) -> float:
    """A number of any library as Python's, and NaN for what is none, such as truth values and text."""
    if isinstance(value, (np.ndarray, np.generic, torch.Tensor)) and value.ndim == 0:
        value = value.item()
    return float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan


def as_integer(name: str, value, least: int, or_else: str = "") -> int:
    number = as_number(value)
    if not (number >= least and number.is_integer()):
        raise ValueError(f"`{name}` must be a whole number from {least} on{or_else}, but it is {value!r}.")
    return int(number)


def closest_names(name: str, names) -> str:
    """The names that are most alike, whatever the order of their words."""

    def words(text):
        return " ".join(sorted(re.findall(r"[^\W_]+", str(text).lower())))

    by_words = {words(candidate): candidate for candidate in names}
    closest = difflib.get_close_matches(words(name), by_words, n=3, cutoff=0.3) or list(by_words)[:3]
    return "the closest are " + ", ".join(repr(by_words[match]) for match in closest)
