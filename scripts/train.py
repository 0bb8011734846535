"""
Trains and evaluates DEDN.

    python scripts/train.py                        # the built-in synthetic birds
    python scripts/train.py settings.yaml          # all arguments from one YAML or JSON file
    accelerate launch scripts/train.py --dataset cub --data_dir DATA --feature_maps STORE --backbone BACKBONE
    python scripts/train.py --dataset folder --data_dir FOLDER --check
"""

import sys
from dataclasses import dataclass, field

from dedn_hf.training import RECIPES, DednTrainingArguments, recipe, recipe_config
from dedn_hf.training.arguments import DataArguments, parse_command_line


@dataclass
class ScriptArguments(DataArguments):
    """What to train on, and how it is judged."""

    backbone: str | None = field(
        default=None,
        metadata={"help": "The backbone that made the feature maps: the saved model then takes images, too."},
    )
    protocol: str = field(
        default="validated",
        metadata={
            "help": "validated: choose on validation classes, then train anew and test; validation: choose only; "
            "reference: as released.",
            "choices": list(RECIPES),
        },
    )
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "Seeds; one run each."})
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


def parse_arguments() -> tuple[ScriptArguments, DednTrainingArguments]:
    def defaults(known):
        return {"output_dir": f"outputs/{known.dataset}", **recipe(known.protocol, known.dataset)}

    return parse_command_line(ScriptArguments, __doc__.strip().splitlines()[0], defaults)


def main():
    script, training = parse_arguments()

    from transformers.utils import logging

    from dedn_hf.data.load import check_gzsl_dataset, load_gzsl_dataset
    from dedn_hf.results import format_results
    from dedn_hf.training.inputs import prepare_inputs
    from dedn_hf.training.protocol import leave_process_group, run_protocol

    of_dataset = (script.dataset, script.data_dir, script.word_vectors, script.num_groups)
    if script.check:
        understood, problems = check_gzsl_dataset(*of_dataset)
        print("\n".join([*understood, *(f"WRONG: {problem}" for problem in problems)]))
        sys.exit(f"Found wrong: {len(problems)}" if problems else print("Nothing wrong was found."))

    config = recipe_config(script.protocol, script.dataset, script.config_overrides)
    # Each checkpoint would have a bar for its one file of weights.
    logging.disable_progress_bar()
    with training.main_process_first(desc="data set"):
        dataset = load_gzsl_dataset(*of_dataset, check_files=script.feature_maps is None)
    inputs = prepare_inputs(dataset, script.feature_maps, script.backbone, config)
    results = run_protocol(
        script.protocol, dataset, inputs, training, script.seeds, overwrite=script.overwrite_output_dir
    )
    if training.process_index == 0:
        print(f"\n{script.dataset}, {script.protocol} protocol, seeds {results['seeds']}, per cent")
        print(format_results(results))
        left = "results.json" if script.protocol == "validation" else "Model and results.json"
        print(f"{left}: {training.output_dir}")
    leave_process_group()


if __name__ == "__main__":
    main()
