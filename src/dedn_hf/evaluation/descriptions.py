"""Unseen classes that are described in prose, in place of their rows of the class-attribute matrix."""

import os
from pathlib import Path

from transformers.utils import logging

from ..candidates_dedn import class_rows, prose_of, read_candidates
from ..files import read_json
from ..modeling_dedn import DednModel
from ..names_dedn import NameMatcher
from ..words_dedn import UnderstoodResult

logger = logging.get_logger(__name__)


def read_descriptions(file: str | os.PathLike) -> dict[str, list[str]]:
    """
    Reads a JSON file of classes that are described in prose.

    Args:
        file (`str` or `os.PathLike`):
            Name of a class, such as `001.Black_footed_Albatross`, → a text or a list of sentences.

    Raises:
        ValueError: If it is no such file.
    """
    try:
        content = read_json(Path(file))
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror or error}") from error
    if not content:
        raise ValueError(f"{file} must hold names of classes and their descriptions.")
    descriptions = {name: [text] if isinstance(text, str) else text for name, text in content.items()}
    for name, texts in descriptions.items():
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{file}: the description of {name!r} must be a text or a list of sentences: {texts!r}.")
    return descriptions


def describe_unseen_classes(
    model: DednModel, descriptions: dict[str, list[str]], unnamed_attributes: str = "likely"
) -> dict[str, UnderstoodResult]:
    """
    Gives the unseen classes of a model the rows that the pipeline would make of their descriptions. Seen classes keep
    theirs, as the model was trained with them.

    Args:
        model ([`DednModel`]):
            The model; its class attributes are changed.
        descriptions (`dict[str, list[str]]`):
            Class → sentences, also of further classes; names may be written in any usual way.
        unnamed_attributes (`str`, *optional*, defaults to `"likely"`):
            As in the pipeline.

    Returns:
        `dict[str, UnderstoodResult]`: for each unseen class what was understood.

    Raises:
        ValueError: If an unseen class is not described, or nothing is understood of its description.
    """
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    unseen = [name for name, seen in zip(names, model.seen_classes.tolist()) if not seen]
    if not unseen:
        raise ValueError("All classes of the model are seen, so that there is none to describe.")
    by_name = dict(zip(NameMatcher(names).find_all(descriptions), descriptions.values()))
    missing = [name for name in unseen if name not in by_name]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(unseen)} unseen classes are not described, such as {missing[0]!r}. Describe each."
        )
    if left_out := len(by_name) - len(unseen):
        logger.warning(f"Descriptions of {left_out} classes that are seen or are none of the model's are not used.")
    candidates = read_candidates(model.config, {name: {"text": by_name[name]} for name in unseen})
    rows = class_rows(model, candidates, unnamed_attributes)
    class_attributes = model.class_attributes.clone()
    class_attributes[~model.seen_classes] = rows.to(class_attributes)
    model.set_classes(names, class_attributes, seen=model.seen_classes.tolist())
    return prose_of(candidates)


__all__ = ["describe_unseen_classes", "read_descriptions"]
