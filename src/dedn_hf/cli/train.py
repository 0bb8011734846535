"""
Trains and evaluates DEDN.

    dedn train                                    # the built-in synthetic birds
    dedn train settings.yaml                      # all arguments from one YAML or JSON file
    dedn train --dataset folder --data_dir FOLDER --check
    accelerate launch -m dedn_hf train --dataset cub --data_dir DATA --feature_maps STORE --backbone BACKBONE

Settings come from the recipe of the data set; what is given here goes over it.
"""

import difflib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import partial
from inspect import signature
from pathlib import Path

import yaml

from ..recipes import PROTOCOLS, DatasetNames, Recipe, read_recipe, short_name
from . import CommandParser, read_bf16


def _option(text: str, default=None, **metadata):
    return field(default=default, metadata={"help": text, **metadata})


@dataclass
class DataArguments:
    """What to train on."""

    dataset: str | None = _option(
        "Data set; by default that of --recipe, or else synthetic_birds.", choices=DatasetNames()
    )
    data_dir: str | None = _option("Folder of the data set's files.")
    feature_maps: str | None = _option("Train on a store of `dedn features` instead of images.")
    word_vectors: str | None = _option(
        "Word vectors of the attributes: .npy, .safetensors, GloVe or word2vec text, a sentence-embedding model, or "
        "`random`."
    )
    attribute_scale: str | None = _option(
        "What strengths in a folder's classes.csv are: unit (0 to 1), percent, or the top of the scale, such as 5; by "
        "default as the table says."
    )
    recipe: str | None = _option(
        "Settings in place of the data set's own recipe: a YAML file, or a recipe that comes along, such as "
        "cub_finetune."
    )
    config_overrides: str | None = _option(
        "What of the model's config is to differ from the recipe, name=value,…, such as "
        "distillation_weight=0,target_margin=1."
    )
    # `--bf16` also says `auto`, which the Trainer's own argument cannot.
    bf16: bool | str = field(default=False, init=False)


@dataclass
class TrainArguments(DataArguments):
    """How it is trained and judged."""

    backbone: str | None = _option(
        "The backbone that made the feature maps: the saved model then takes images, too; or the one that is trained "
        "along, with a recipe such as cub_finetune."
    )
    init_from: str | None = _option(
        "Output folder of a finished run on feature maps of --backbone, with whose models fine-tuning begins."
    )
    protocol: str = _option(
        "validated: choose on validation classes, then train anew and test; validation: choose only; reference: as "
        "released.",
        "validated",
        choices=list(PROTOCOLS),
    )
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "Seeds; one run each."})
    num_groups: int | None = _option("For attributes without groups: how many to make by their word vectors.")
    check: bool = _option("Say what is understood of the data set and what is wrong, and stop.", False)
    strict: bool = _option("With --check: end with 1 for warnings and ignored files, too.", False)
    json: str | None = _option("With --check: a file for all that was found, for programs.")
    overwrite_output_dir: bool = _option("Start anew although the output folder holds a run, which is deleted.", False)
    bf16: bool | str = field(default="auto", init=False)


# What --help shows of the Trainer's options, beside all those above; --help_all has all of them.
SHOWN = {
    "settings, by default those of the recipe": {
        "output_dir": "Where results go; outputs/<dataset> if not given.",
        "num_train_epochs": "Epochs; `validated` chooses the best of so many, and then trains for as many.",
        "max_steps": "Steps, in place of epochs.",
        "learning_rate": "Learning rate at its highest.",
        "lr_scheduler_type": "Schedule of the learning rate, such as cosine or constant.",
        "optim": "Optimizer, such as adamw_torch or rmsprop.",
        "weight_decay": "Weight decay.",
        "per_device_train_batch_size": "Images in a batch of each device.",
        "gradient_accumulation_steps": "Batches that make one step.",
        "balanced_batches": "Whether a batch has one image each of different classes.",
    },
    "machine": {
        "bf16": "Compute in bfloat16: true, false or auto (by default, if the recipe does not say): as a run that is "
        "there, else where the machine has bfloat16 and a step is 1.2 times as fast in it.",
        "use_cpu": "Train on the CPU where there is a GPU.",
        "per_device_eval_batch_size": "Images at once in evaluation.",
        "disable_tqdm": "Show no progress bar.",
        "report_to": "Where logs go, such as tensorboard.",
    },
}


def print_short_help():
    """What `--help` shows, of which nothing needs torch."""
    usage = "dedn train [SETTINGS.yaml] [--OPTION VALUE …]"
    parser = CommandParser("dedn train", description=__doc__.strip(), usage=usage)
    parser.add_argument("--help_all", action="store_true", help="show the Trainer's other options, too")
    for command_class in (DataArguments, TrainArguments):
        section = parser.add_argument_group(command_class.__doc__.rstrip(".").lower())
        for name in command_class.__annotations__:
            option = command_class.__dataclass_fields__[name]
            if not option.init:
                continue
            if option.type is bool:
                section.add_argument(f"--{name}", action="store_true", help=option.metadata["help"])
            else:
                metavar = "|".join(option.metadata.get("choices", [name.upper()]))
                section.add_argument(f"--{name}", metavar=metavar, help=option.metadata["help"])
    for group, options in SHOWN.items():
        section = parser.add_argument_group(group)
        for name, text in options.items():
            section.add_argument(f"--{name}", help=text)
    parser.print_help()


def read_settings(file: str | os.PathLike) -> list[str]:
    """
    The settings of a YAML or JSON file as they would be on the command line, where types and names are checked.

    Args:
        file (`str` or `os.PathLike`):
            The file: names and values of arguments.

    Raises:
        ValueError: If it cannot be read, or holds something else.
    """
    try:
        text = Path(file).read_text(encoding="utf-8")
        settings = json.loads(text) if str(file).endswith(".json") else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
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
    arguments: list[str], command_class: type[DataArguments], output_dir: Callable[[str], str], **parser_options
):
    """
    The command line of what trains: flags go over the recipe, and the recipe over defaults. The first argument may be
    a YAML or JSON file of arguments. Wrong ones end the program with one line.

    Args:
        arguments (`list[str]`):
            The command line.
        command_class (`type`):
            Dataclass of the command's own arguments.
        output_dir (`Callable[[str], str]`):
            From the name of the data set to the output folder that is taken if none is given.
        parser_options (*optional*):
            As in [`CommandParser`].

    Returns:
        `tuple`: the command's arguments, [`DednTrainingArguments`], and the [`Recipe`] with `model` as it is to be.
        `bf16` of the first may be `"auto"`, for which it is false in the second.
    """
    from transformers import HfArgumentParser

    from ..configuration_dedn import DednConfig
    from ..training.arguments import DednTrainingArguments, arguments_of_process, parse_config_overrides

    class Parser(CommandParser, HfArgumentParser):
        pass

    if arguments and arguments[0].endswith((".yaml", ".yml", ".json")):
        arguments = read_settings(arguments[0]) + arguments[1:]
    chooser = CommandParser(add_help=False, **parser_options)
    chooser.add_argument("--bf16", nargs="?", const=True, type=read_bf16)
    typed, arguments = chooser.parse_known_args(arguments)
    known, _ = Parser(dataclass_types=command_class, add_help=False, **parser_options).parse_known_args(arguments)
    recipe = read_recipe(known.recipe or known.dataset or "synthetic_birds", getattr(known, "protocol", "validated"))
    dataset = known.dataset or recipe.dataset
    _check_names("training", recipe.training, {setting.name for setting in fields(DednTrainingArguments)})
    _check_names("model", recipe.model, set(signature(DednConfig.__init__).parameters) - {"self", "kwargs"})

    parser = Parser(dataclass_types=(command_class, DednTrainingArguments), add_help=False, **parser_options)
    parser.add_argument("--help", "--help_all", action="help", help="show this")
    defaults = {"output_dir": output_dir(short_name(dataset)), **arguments_of_process(recipe.training)}
    parser.set_defaults(**defaults | {"dataset": dataset, "bf16": False})
    command, training, *_, unknown = parser.parse_args_into_dataclasses(arguments, return_remaining_strings=True)
    if unknown:
        parser.error(f"there are no such arguments: {' '.join(unknown)}")
    if training.seed != DednTrainingArguments.seed:
        parser.error("name seeds with --seeds, also a single one; --seed is set from it")
    # Said by `accelerate launch --mixed_precision`, or by --fp16.
    precision = training.mixed_precision
    command.bf16 = recipe.training.get("bf16", command_class.bf16) if typed.bf16 is None else typed.bf16
    if typed.bf16 in (None, "auto") and precision != "no":
        command.bf16 = precision == "bf16"
    if typed.bf16 is False and precision == "bf16":
        parser.error(
            "`accelerate launch` says --mixed_precision bf16, and here is --bf16 false: leave one of them out"
        )
    if command.bf16 and command.bf16 != "auto":
        training = replace(training, bf16=True)
    model = recipe.model | parse_config_overrides(command.config_overrides)
    return command, training, Recipe(dataset, model, recipe.training)


def _check_names(kind: str, given: dict, known: set[str]):
    for name in given:
        if name not in known:
            closest = difflib.get_close_matches(name, known, n=1)
            raise ValueError(
                f"The recipe sets {name!r} under `{kind}`, which there is not"
                + (f"; did you mean {closest[0]!r}?" if closest else ".")
            )


def main(arguments: list[str]) -> int | None:
    if {"-h", "--help"} & set(arguments):
        return print_short_help()
    command, training, recipe = parse_command_line(
        arguments, TrainArguments, "outputs/{}".format, prog="dedn train", description=__doc__.strip()
    )
    if not command.check and (command.strict or command.json is not None):
        raise ValueError(f"--{'strict' if command.strict else 'json'} is of use with --check only")

    from transformers.utils import logging

    from ..data.load import check_gzsl_dataset, load_gzsl_dataset
    from ..files import require_writable, write_json
    from ..hub.model_card import write_model_card
    from ..results import format_results
    from ..training.inputs import prepare_inputs
    from ..training.protocol import run_protocol
    from ..training.run_folder import leave_process_group

    of_dataset = (command.dataset, command.data_dir, command.word_vectors, command.num_groups)
    scale = {} if command.attribute_scale is None else {"attribute_scale": command.attribute_scale}
    if command.check:
        if command.json is not None:
            require_writable(command.json)
        report = check_gzsl_dataset(*of_dataset, **scale, check_files=command.feature_maps is None)
        status = report.exit_status(command.strict)
        print(report)
        if command.json is not None:
            write_json(command.json, {"dataset": command.dataset, **report.to_dict(), "exit_status": status})
        return status

    # Each checkpoint would have a bar for its one file of weights.
    logging.disable_progress_bar()
    config = dict(recipe.model)
    with training.main_process_first(desc="data set"):
        dataset = load_gzsl_dataset(
            *of_dataset,
            check_files=command.feature_maps is None,
            attribute_groups=config.pop("attribute_groups", None),
            **scale,
        )
    inputs = prepare_inputs(dataset, command.feature_maps, command.backbone, config, command.init_from)
    results = run_protocol(
        command.protocol,
        dataset,
        inputs,
        training,
        command.seeds,
        overwrite=command.overwrite_output_dir,
        bf16=command.bf16,
        write_card=partial(write_model_card, dataset=command.dataset),
    )
    if training.process_index == 0:
        print(f"\n{command.dataset}, {command.protocol} protocol, seeds {results['seeds']}, per cent")
        print(format_results(results))
        left = "results.json" if command.protocol == "validation" else "Model and results.json"
        print(f"{left}: {training.output_dir}")
    leave_process_group()
