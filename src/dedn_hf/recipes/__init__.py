"""
The settings of each data set, one YAML file each. Its first lines say the command, the machine, the time and the
figures to expect. `dedn train --dataset cub` reads `cub.yaml`. A data set may have further recipes, which are no data
sets of their own: `--recipe cub_finetune` reads `cub_finetune.yaml`, and `--recipe FILE` any other:

    dataset: cub                # the module of dedn_hf.data that reads it
    model: {…}                  # fields of DednConfig, for every protocol
    training: {…}               # fields of DednTrainingArguments
    protocols:                  # what differs by protocol, over what stands above
      validated: {model: {…}, training: {…}}
      reference: {model: {…}, training: {…}}

`attribute_groups` may be written as attribute lists are numbered, 1-based and inclusive: `wing: 10-24,213-217`.
"""

import os
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml

FOLDER = Path(__file__).parent
# `validation` is the first half of `validated`, with the same settings.
PROTOCOLS = ("validated", "validation", "reference")
# `xlsa17/APY`: the data set in `xlsa17/data/APY`, of the Proposed Split release.
RELEASE = "xlsa17/"
# What `datasets.load_dataset("imagefolder", data_dir=…)` reads.
IMAGEFOLDER = "imagefolder"


@dataclass
class Recipe:
    """
    What a data set is trained with under one protocol.

    Args:
        dataset (`str`):
            Name of the data set.
        model (`dict`):
            Fields of [`DednConfig`] that differ from its defaults.
        training (`dict`):
            Fields of [`DednTrainingArguments`] that differ from its defaults. The batch is the global one, see
            [`arguments_of_process`].
    """

    dataset: str
    model: dict = field(default_factory=dict)
    training: dict = field(default_factory=dict)


@cache
def _datasets_of_recipes() -> dict[str, str]:
    """Name of each recipe that comes along → the data set that it is for."""
    texts = {file.stem: file.read_text(encoding="utf-8") for file in sorted(FOLDER.glob("*.yaml"))}
    return {name: re.search(r"^dataset: *(\w+)", text, re.MULTILINE)[1] for name, text in texts.items()}


def recipe_names() -> list[str]:
    """The data sets that there are: a data set has a recipe of its name."""
    return sorted(set(_datasets_of_recipes().values()))


def further_recipes() -> list[str]:
    """Recipes beside those that have the name of their data set: `--recipe` takes them."""
    return sorted(name for name, dataset in _datasets_of_recipes().items() if name != dataset)


class DatasetNames(list):
    """What may be said on a command line: the names of [`recipe_names`], and those with the settings of `folder`."""

    def __init__(self):
        super().__init__([*recipe_names(), IMAGEFOLDER, f"{RELEASE}NAME", "ORG/NAME"])

    def __contains__(self, name) -> bool:
        return name in recipe_names() or has_settings_of_folder(name)


def name_in_release(name: str) -> str | None:
    """`"APY"` of `"xlsa17/APY"`; `None` for what is no data set of the Proposed Split release."""
    member = str(name).removeprefix(RELEASE)
    return None if member == str(name) or not re.fullmatch(r"\w[\w.+-]*", member) else member


def is_of_datasets(name: str) -> bool:
    """Whether Hugging Face `datasets` reads it: `"imagefolder"`, `"org/name"` of the Hub or a folder, `"./birds"`."""
    name = str(name)
    on_hub = re.fullmatch(r"[\w.-]*\w[\w.-]*/[\w.-]+", name) and not name.endswith((".yaml", ".yml"))
    return name == IMAGEFOLDER or (
        not name.startswith(RELEASE) and bool(on_hub or ("/" in name and os.path.isdir(name)))
    )


def has_settings_of_folder(name: str) -> bool:
    """Whether it is a data set that is known when it is named only, and has no recipe of its own."""
    return name_in_release(name) is not None or is_of_datasets(name)


def short_name(name: str) -> str:
    """
    A data set's name in stores, results and folders: `"apy"` of `"xlsa17/APY"`, `"birds"` of `"org/Birds"`, and
    `"cub-imagefolder"` of `"org/CUB"`, which need not be the CUB that is known.
    """
    if not has_settings_of_folder(name):
        return name
    short = Path(name).name.lower()
    return f"{short}-{IMAGEFOLDER}" if is_of_datasets(name) and short in recipe_names() else short


def read_recipe(name_or_file: str | os.PathLike, protocol: str = "validated") -> Recipe:
    """
    Reads a recipe.

    Args:
        name_or_file (`str` or `os.PathLike`):
            Name of a data set, see [`DatasetNames`], or of a further recipe, see [`further_recipes`], or a file that
            ends in `.yaml` or `.yml`; one that comes along need not lie in the current folder.
        protocol (`str`, *optional*, defaults to `"validated"`):
            `"validated"`, `"validation"` or `"reference"`.

    Raises:
        ValueError: If there is no such recipe or protocol, or the file does not hold what a recipe must; names it.
    """
    file, name = Path(name_or_file), str(name_or_file).removesuffix(".yaml")
    if name in _datasets_of_recipes() and (file.suffix != ".yaml" or not file.exists()):
        file = FOLDER / f"{name}.yaml"
    as_folder = has_settings_of_folder(str(name_or_file))
    if as_folder:
        file = FOLDER / "folder.yaml"
    elif file.suffix not in (".yaml", ".yml"):
        raise ValueError(
            f"There is no data set {str(name_or_file)!r}; choose one of {', '.join(DatasetNames())} (such as "
            f"xlsa17/APY, or a data set of the Hub). Recipes beside theirs: {', '.join(further_recipes())}."
        )
    if protocol not in PROTOCOLS:
        raise ValueError(f"There is no protocol {protocol!r}; choose one of {', '.join(PROTOCOLS)}.")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"The recipe {file} cannot be read: {error}") from error
    _check(file, content)
    of_protocol = content.get("protocols", {}).get("validated" if protocol == "validation" else protocol, {})
    model, training = (content.get(key, {}) | of_protocol.get(key, {}) for key in ("model", "training"))
    try:
        if "attribute_groups" in model:
            model["attribute_groups"] = {
                group: parse_indices(indices) if isinstance(indices, str) else indices
                for group, indices in model["attribute_groups"].items()
            }
    except (AttributeError, ValueError) as error:
        raise ValueError(f"The recipe {file} has no ranges such as 1-9,95 as `attribute_groups`: {error}.") from error
    return Recipe(str(name_or_file) if as_folder else content["dataset"], model, training)


def parse_indices(ranges: str) -> list[int]:
    """`"1-3,7"`, 1-based and inclusive as attribute lists are numbered, to `[0, 1, 2, 6]`."""
    bounds = [part.split("-") for part in ranges.split(",")]
    return [index - 1 for first, *last in bounds for index in range(int(first), int((last or [first])[0]) + 1)]


def _check(file: Path, content):
    if not isinstance(content, dict) or content.get("dataset") not in DatasetNames():
        raise ValueError(f"The recipe {file} must say `dataset:` with one of {', '.join(DatasetNames())}.")

    def check(place: str, section, known=None):
        if not isinstance(section, dict):
            raise ValueError(f"The recipe {file} has no names and values at {place}, but {section!r}.")
        unknown = sorted(section.keys() - (known or section.keys()))
        if unknown:
            raise ValueError(
                f"The recipe {file} has {', '.join(unknown)} at {place}; there may be {', '.join(sorted(known))}."
            )

    protocols = content.get("protocols", {})
    check("the top", content, {"dataset", "model", "training", "protocols"})
    check("protocols", protocols, {"validated", "reference"})
    for name, part in protocols.items():
        check(name, part, {"model", "training"})
    for part in (content, *protocols.values()):
        for name in ("model", "training"):
            check(name, part.get(name, {}))
