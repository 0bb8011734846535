"""
Trains and evaluates DEDN.

    python scripts/train.py                        # the built-in synthetic birds
    python scripts/train.py settings.yaml          # all arguments from one YAML or JSON file
    accelerate launch scripts/train.py --dataset cub --data_dir DATA --feature_maps STORE --backbone BACKBONE
"""

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from dedn_hf.training import RECIPES, DednTrainingArguments


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
        metadata={"help": "Pretrained backbone, kept frozen: of the images, or the one that made the feature maps."},
    )
    protocol: str = field(
        default="validated",
        metadata={"help": "validated: choose on validation classes; reference: as released.", "choices": list(RECIPES)},
    )
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "Seeds; one run each."})
    word_vectors: str | None = field(
        default=None, metadata={"help": "A .npy file of one word vector an attribute, or `random`."}
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Start anew although the output folder holds a run, which is deleted."}
    )


def defaults(protocol: str, dataset: str) -> dict:
    recipe = RECIPES.get(protocol, {}).get(dataset, {})
    return {"output_dir": f"outputs/{dataset}", **recipe}


def parse_arguments() -> tuple[ScriptArguments, DednTrainingArguments]:
    parser = HfArgumentParser((ScriptArguments, DednTrainingArguments), description=__doc__)
    if len(sys.argv) == 2 and sys.argv[1].endswith((".yaml", ".yml", ".json")):
        import yaml

        # JSON is YAML, too.
        given = yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8"))
        dataset, protocol = given.get("dataset", "synthetic_birds"), given.get("protocol", "validated")
        script, training = parser.parse_dict({**defaults(protocol, dataset), **given})
    else:
        known, _ = HfArgumentParser(ScriptArguments, add_help=False).parse_known_args()
        parser.set_defaults(**defaults(known.protocol, known.dataset))
        script, training = parser.parse_args_into_dataclasses()
    return script, training


def main():
    script, training = parse_arguments()

    from dedn_hf.data.load import load_gzsl_dataset
    from dedn_hf.training.inputs import prepare_inputs
    from dedn_hf.training.protocol import format_results, run_protocol

    if script.overwrite_output_dir and training.process_index == 0 and Path(training.output_dir).exists():
        shutil.rmtree(training.output_dir)
    training.distributed_state.wait_for_everyone()
    dataset = load_gzsl_dataset(script.dataset, script.data_dir, script.word_vectors)
    inputs = prepare_inputs(dataset, script.feature_maps, script.backbone)
    results = run_protocol(script.protocol, dataset, inputs, training, script.seeds)
    if training.should_save:
        print(f"\n{script.dataset}, {script.protocol} protocol, seeds {results['seeds']}, per cent")
        print(format_results(results))
        print(f"Model and results.json: {training.output_dir}")


if __name__ == "__main__":
    main()
