"""
Trains and evaluates DEDN.

    python scripts/train.py                        # the built-in synthetic birds
    python scripts/train.py settings.yaml          # all arguments from one YAML or JSON file
    accelerate launch scripts/train.py --dataset cub --data_dir DATA --feature_maps STORE --backbone BACKBONE
    python scripts/train.py --dataset folder --data_dir FOLDER --check
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from transformers import HfArgumentParser

from dedn_hf.training import RECIPES, DednTrainingArguments, recipe


@dataclass
class ScriptArguments:
    """What to train on, and how it is judged."""

    dataset: str = field(
        default="synthetic_birds", metadata={"help": "Data set.", "choices": list(RECIPES["validated"])}
    )
    data_dir: str | None = field(default=None, metadata={"help": "Folder of the data set's files."})
    feature_maps: str | None = field(
        default=None, metadata={"help": "Train on a store of scripts/extract_features.py instead of images."}
    )
    backbone: str | None = field(
        default=None,
        metadata={"help": "The backbone that made the feature maps: the saved model then takes images, too."},
    )
    protocol: str = field(
        default="validated",
        metadata={
            "help": "validated: choose on validation classes; reference: as released.",
            "choices": list(RECIPES),
        },
    )
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "Seeds; one run each."})
    word_vectors: str | None = field(
        default=None,
        metadata={
            "help": "Word vectors of the attributes: .npy, .safetensors, GloVe or word2vec text, a sentence-embedding "
            "model, or `random`."
        },
    )
    num_groups: int | None = field(
        default=None,
        metadata={"help": "For a folder without groups of attributes: how many to make by their word vectors."},
    )
    check: bool = field(
        default=False, metadata={"help": "Say what is understood of the data set and what is wrong, and stop."}
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Start anew although the output folder holds a run, which is deleted."}
    )


def read_settings(file: str) -> list[str]:
    """The settings of a YAML or JSON file as they would be on the command line, where types and names are checked."""
    text = Path(file).read_text(encoding="utf-8")
    settings = json.loads(text) if file.endswith(".json") else yaml.safe_load(text)
    if not isinstance(settings, dict):
        raise ValueError(f"{file} must hold names and values of arguments, such as `dataset: cub`.")
    arguments = []
    for name, value in settings.items():
        if isinstance(value, list):
            arguments += [f"--{name}", *map(str, value)]
        elif value is not None:
            arguments.append(f"--{name}={json.dumps(value) if isinstance(value, dict) else value}")
    return arguments


def parse_arguments() -> tuple[ScriptArguments, DednTrainingArguments]:
    options = {"description": __doc__.strip().splitlines()[0], "allow_abbrev": False}
    parser = HfArgumentParser((ScriptArguments, DednTrainingArguments), **options)
    given = sys.argv[1:]
    if given and given[0].endswith((".yaml", ".yml", ".json")):
        try:
            given = read_settings(given[0]) + given[1:]
        except (OSError, ValueError, yaml.YAMLError) as error:
            parser.error(f"{given[0]} cannot be read: {error}")
    known, _ = HfArgumentParser(ScriptArguments, add_help=False, **options).parse_known_args(given)
    parser.set_defaults(output_dir=f"outputs/{known.dataset}", **recipe(known.protocol, known.dataset))
    script, training, unknown = parser.parse_args_into_dataclasses(given, return_remaining_strings=True)
    if unknown:
        parser.error(f"there are no such arguments: {' '.join(unknown)}")
    if training.seed != DednTrainingArguments.seed:
        parser.error("name seeds with --seeds, also a single one; --seed is set from it")
    return script, training


def main():
    script, training = parse_arguments()

    from transformers.utils import logging

    from dedn_hf.data.load import check_gzsl_dataset, load_gzsl_dataset
    from dedn_hf.results import format_results
    from dedn_hf.training.inputs import prepare_inputs
    from dedn_hf.training.protocol import run_protocol

    of_dataset = (script.dataset, script.data_dir, script.word_vectors, script.num_groups)
    if script.check:
        understood, problems = check_gzsl_dataset(*of_dataset)
        print("\n".join([*understood, *(f"WRONG: {problem}" for problem in problems)]))
        sys.exit(f"Found wrong: {len(problems)}" if problems else print("Nothing wrong was found."))

    # Each checkpoint would have a bar for its one file of weights.
    logging.disable_progress_bar()
    with training.main_process_first(desc="data set"):
        dataset = load_gzsl_dataset(*of_dataset, check_files=script.feature_maps is None)
    inputs = prepare_inputs(dataset, script.feature_maps, script.backbone)
    results = run_protocol(
        script.protocol, dataset, inputs, training, script.seeds, overwrite=script.overwrite_output_dir
    )
    if training.process_index == 0:
        print(f"\n{script.dataset}, {script.protocol} protocol, seeds {results['seeds']}, per cent")
        print(format_results(results))
        print(f"Model and results.json: {training.output_dir}")


if __name__ == "__main__":
    main()
