"""Arguments of training, and the settings that each data set starts from."""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from transformers import HfArgumentParser, IntervalStrategy, TrainingArguments

from ..configuration_dedn import DednConfig

_RELEASED = {
    "optim": "rmsprop",
    "optim_args": "momentum=0.9",
    "learning_rate": 1e-4,
    "weight_decay": 1e-4,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "per_device_train_batch_size": 50,
    "num_train_epochs": 80,
    "balanced_batches": True,
}
_OURS = {
    "optim": "adamw_torch",
    "learning_rate": 1e-2,
    "weight_decay": 1e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "max_grad_norm": 0.0,
    "per_device_train_batch_size": 50,
    "num_train_epochs": 8,
    "balanced_batches": True,
}

# Protocol → data set → arguments. `reference` is as released. A class-balanced batch cannot have more images than
# there are classes: AWA2 trains on 40, and on 27 while the `validated` protocol chooses. A folder may have any number.
RECIPES = {
    "reference": {
        "cub": _RELEASED,
        "sun": _RELEASED | {"balanced_batches": False},
        "awa2": _RELEASED | {"num_train_epochs": 20, "per_device_train_batch_size": 40},
        "synthetic_birds": _RELEASED,
        "folder": _RELEASED | {"balanced_batches": False},
    },
    "validated": {
        "cub": _OURS,
        "sun": _OURS | {"balanced_batches": False},
        "awa2": _OURS | {"num_train_epochs": 4, "per_device_train_batch_size": 20},
        "synthetic_birds": _OURS | {"learning_rate": 3e-3, "num_train_epochs": 12},
        "folder": _OURS | {"balanced_batches": False},
    },
}
RECIPES["validation"] = RECIPES["validated"]


# What of the model's config a recipe or a user may set. `results.json` records it.
CONFIG_SETTINGS = (
    "class_bias",
    "target_margin",
    "seen_margin",
    "self_calibration_weight",
    "distillation_weight",
    "alignment_weight",
)
_OUR_CONFIG = {"distillation_weight": 0.02}
# Protocol → data set → what of the config differs from the preset.
CONFIG_RECIPES = {
    "reference": {"cub": {}, "sun": {}, "awa2": {}, "synthetic_birds": {}, "folder": {}},
    "validated": {
        "cub": _OUR_CONFIG,
        "sun": _OUR_CONFIG,
        "awa2": _OUR_CONFIG,
        "synthetic_birds": {},
        "folder": _OUR_CONFIG,
    },
}
CONFIG_RECIPES["validation"] = CONFIG_RECIPES["validated"]


def recipe(protocol: str, dataset: str) -> dict:
    """
    The arguments that a data set starts from. The batch of `RECIPES` is the global one: each process of a launcher
    (`WORLD_SIZE`) gets its share, so that the number of devices changes nothing.

    Args:
        protocol (`str`):
            A key of `RECIPES`.
        dataset (`str`):
            Name of the data set.
    """
    arguments = dict(RECIPES[protocol][dataset])
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    arguments["per_device_train_batch_size"] = max(1, arguments["per_device_train_batch_size"] // world_size)
    return arguments


def recipe_config(protocol: str, dataset: str, config_overrides: str | None = None) -> dict:
    """
    What of the model's config differs from the preset of a data set.

    Args:
        protocol (`str`):
            A key of `RECIPES`.
        dataset (`str`):
            Name of the data set.
        config_overrides (`str`, *optional*):
            What is to differ from the recipe, some of `CONFIG_SETTINGS` with their values:
            `"distillation_weight=0,target_margin=1"`.

    Raises:
        ValueError: If there is no such setting, or it does not take that value; names it.
    """
    settings, config = dict(CONFIG_RECIPES[protocol][dataset]), DednConfig()
    for item in filter(None, (config_overrides or "").replace(" ", "").split(",")):
        name, _, value = item.partition("=")
        if name not in CONFIG_SETTINGS:
            raise ValueError(f"--config_overrides cannot set {name!r}, only {', '.join(CONFIG_SETTINGS)}.")
        try:
            config.update_from_string(f"{name}={value}")
        except ValueError as error:
            raise ValueError(f"--config_overrides sets {name} to {value!r}, which it cannot be: {error}.") from error
        settings[name] = getattr(config, name)
    return settings


@dataclass
class DednTrainingArguments(TrainingArguments):
    """
    [`TrainingArguments`] with what [`DednTrainer`] adds, and defaults that fit it.

    Args:
        balanced_batches (`bool`, *optional*, defaults to `True`):
            Whether each batch has one image each of different classes, as released for CUB and AWA2, see
            [`ClassBalancedSampler`].
    """

    balanced_batches: bool = field(
        default=True, metadata={"help": "Make batches of one image each of different classes."}
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "Where results go; outputs/<dataset> if not given."}
    )
    # The columns are named as the model's inputs; the Trainer would look for them in a signature and drop others.
    remove_unused_columns: bool = field(default=False, metadata={"help": "Drop columns that the model does not take."})
    per_device_eval_batch_size: int = field(default=100, metadata={"help": "Batch size per device in evaluation."})
    logging_strategy: IntervalStrategy | str = field(default="epoch", metadata={"help": "When to log."})
    metric_for_best_model: str | None = field(default="H", metadata={"help": "What the best checkpoint is best in."})

    def __post_init__(self):
        super().__post_init__()
        # There is nothing to pin memory for, and torch would warn of it at every pass.
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False


@dataclass
class DataArguments:
    """What to train on: the part of a script's command line that all scripts which train share."""

    dataset: str = field(
        default="synthetic_birds", metadata={"help": "Data set.", "choices": list(RECIPES["validated"])}
    )
    data_dir: str | None = field(default=None, metadata={"help": "Folder of the data set's files."})
    feature_maps: str | None = field(
        default=None, metadata={"help": "Train on a store of scripts/extract_features.py instead of images."}
    )
    word_vectors: str | None = field(
        default=None,
        metadata={
            "help": "Word vectors of the attributes: .npy, .safetensors, GloVe or word2vec text, a sentence-embedding "
            "model, or `random`."
        },
    )
    config_overrides: str | None = field(
        default=None,
        metadata={
            "help": "What of the model's config is to differ from the recipe, name=value,…, such as "
            "distillation_weight=0,target_margin=1."
        },
    )


def read_settings(file: str | os.PathLike) -> list[str]:
    """
    The settings of a YAML or JSON file as they would be on the command line, where types and names are checked.

    Args:
        file (`str` or `os.PathLike`):
            The file: names and values of arguments.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it holds something else.
    """
    text = Path(file).read_text(encoding="utf-8")
    settings = json.loads(text) if str(file).endswith(".json") else yaml.safe_load(text)
    if not isinstance(settings, dict):
        raise ValueError(f"{file} must hold names and values of arguments, such as `dataset: cub`.")
    arguments = []
    for name, value in settings.items():
        if isinstance(value, list):
            arguments += [f"--{name}", *map(str, value)]
        elif value is not None:
            arguments.append(f"--{name}={json.dumps(value) if isinstance(value, dict) else value}")
    return arguments


def parse_command_line(
    script_class: type, description: str, defaults: Callable[[Namespace], dict]
) -> tuple[DataArguments, DednTrainingArguments]:
    """
    The command line of a script that trains; its first argument may be a YAML or JSON file of arguments. Wrong ones
    end the program with a message.

    Args:
        script_class (`type`):
            Dataclass of the script's own arguments, a subclass of [`DataArguments`].
        description (`str`):
            What the script does, for `--help`.
        defaults (`Callable`):
            From what is given of `script_class` to defaults of the training arguments.
    """
    options = {"description": description, "allow_abbrev": False}
    parser = HfArgumentParser((script_class, DednTrainingArguments), **options)
    given = sys.argv[1:]
    if given and given[0].endswith((".yaml", ".yml", ".json")):
        try:
            given = read_settings(given[0]) + given[1:]
        except (OSError, ValueError, yaml.YAMLError) as error:
            parser.error(f"{given[0]} cannot be read: {error}")
    known, _ = HfArgumentParser(script_class, add_help=False, **options).parse_known_args(given)
    parser.set_defaults(**defaults(known))
    script, training, unknown = parser.parse_args_into_dataclasses(given, return_remaining_strings=True)
    if unknown:
        parser.error(f"there are no such arguments: {' '.join(unknown)}")
    if training.seed != DednTrainingArguments.seed:
        parser.error("name seeds with --seeds, also a single one; --seed is set from it")
    return script, training
