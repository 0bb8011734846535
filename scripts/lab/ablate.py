"""
What each part of DEDN is worth: variants without it, on the same data, with the same seeds and budget, and closed-form
floors. Writes ablation.json, ablation.md and ablation.png; given again, the same command goes on where it was.

    python scripts/lab/ablate.py                       # the built-in synthetic birds: all variants, seeds 0 1 2
    python scripts/lab/ablate.py --dataset cub --data_dir DATA --feature_maps STORE --seeds 0
"""

import sys
from dataclasses import dataclass, field

from ablation import DEFAULT_VARIANTS, run_ablation
from ablation_report import format_ablation
from training_data import load_training_data
from transformers.utils import logging

from dedn_hf.cli.train import DataArguments, parse_command_line
from dedn_hf.data.word_vectors import load_word_vectors
from dedn_hf.training.inputs import prepare_inputs
from dedn_hf.training.run_folder import leave_process_group


@dataclass
class ScriptArguments(DataArguments):
    """What is compared, and on what; the word vectors are those of all variants without others of their own."""

    variants: list[str] | None = field(
        default=None,
        metadata={"help": "Variants; all on the synthetic birds if not given, otherwise the six that tell most."},
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds of each variant."})
    word2vec: str | None = field(
        default=None, metadata={"help": "Text file of word2vec vectors, for `word2vec_word_vectors`."}
    )
    sentence_model: str | None = field(
        default=None, metadata={"help": "Sentence-embedding model (folder or id), for `sentence_word_vectors`."}
    )


def main(arguments: list[str] | None = None):
    arguments = sys.argv[1:] if arguments is None else arguments
    script, training, recipe = parse_command_line(
        arguments, ScriptArguments, "outputs/ablation_{}".format, prog="ablate.py", description=__doc__.strip()
    )
    if script.bf16 == "auto":
        sys.exit("error: --bf16 is true or false here: all variants of a table are to be computed in the same way.")
    sources = {"word2vec_word_vectors": script.word2vec, "sentence_word_vectors": script.sentence_model}
    for name, source in sources.items():
        if source is None and name in (script.variants or []):
            sys.exit(f"error: {name} needs word vectors: name their source with --word2vec or --sentence_model.")
    variants = script.variants or DEFAULT_VARIANTS.get(script.dataset, DEFAULT_VARIANTS["cub"])
    variants = [*variants, *(name for name, source in sources.items() if source and name not in variants)]

    # Each checkpoint would have a bar for its one file of weights.
    logging.disable_progress_bar()
    dataset, config = load_training_data(script, training, recipe)
    names = dataset.attribute_names
    vectors = {name: load_word_vectors(source, names) for name, source in sources.items() if source is not None}
    inputs = prepare_inputs(dataset, script.feature_maps, config=config)
    ablation = run_ablation(dataset, inputs, training, variants, script.seeds, vectors)
    if training.process_index == 0:
        print(f"\n{script.dataset}, validated protocol, test images, per cent")
        print(format_ablation(ablation))
        print(f"Table, figures and chart: ablation.md, ablation.json and ablation.png in {training.output_dir}")
    leave_process_group()


if __name__ == "__main__":
    main()
