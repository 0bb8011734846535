"""
Measures whether attributes that nobody trained on can be scored by their word vectors: draws in which a part of the
attributes is held out, a model of the `validation` protocol trained without them, and images that it was not trained
on scored for them.

    python scripts/lab/measure_new_attributes.py --dataset cub --data_dir DATA --feature_maps STORE --bf16 true \
        --use_cpu --output_dir OUT
    python scripts/lab/measure_new_attributes.py … --fixed_word_vectors true --word_vectors ENCODER --output_dir OTHER

Reports the AUROC of held-out attributes against classes (a strength of 0.5 or more), averaged over attributes, and T1
with and without them, as mean and standard deviation over draws. Reads no test image. Writes new_attributes.json;
given again, the same command goes on where it was.
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import RidgeCV
from sklearn.metrics import roc_auc_score
from training_data import load_training_data
from transformers.utils import logging

from dedn_hf import DednConfig, DednModel
from dedn_hf.cli.train import DataArguments, parse_command_line
from dedn_hf.data import GzslDataset
from dedn_hf.evaluation import gzsl_metrics, mix_expert_scores
from dedn_hf.evaluation.report import predict_examples
from dedn_hf.files import write_json
from dedn_hf.results import provenance
from dedn_hf.training.inputs import ModelInputs, prepare_inputs
from dedn_hf.training.protocol import run_protocol
from dedn_hf.training.run_folder import leave_process_group

SHARE = 0.2
NEAREST = 5
# A class has an attribute from this strength on.
HAS = 0.5
# How held-out attributes are scored, and for comparison the others.
WAYS = {
    "trained": "not at all; the AUROC is of the trained attributes",
    "word vector": "the model, by the word vector as it is",
    "mapped": "the model, by the word vector that ridge regression maps it to, fitted on trained attributes",
    "nearest": f"mean of the scores of the {NEAREST} trained attributes with the nearest word vectors",
}


@dataclass
class ScriptArguments(DataArguments):
    """What is held out, and of what."""

    draws: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds of the draws."})
    fixed_word_vectors: bool = field(
        default=False, metadata={"help": "Whether the word vectors are left as they are in training."}
    )


def draw_held_out(num_attributes: int, seed: int) -> np.ndarray:
    """Which attributes are held out: `(A,)`, boolean."""
    held_out = np.zeros(num_attributes, dtype=bool)
    held_out[np.random.default_rng(seed).permutation(num_attributes)[: round(SHARE * num_attributes)]] = True
    return held_out


def without_attributes(dataset: GzslDataset, held_out: np.ndarray) -> GzslDataset:
    """
    A data set that lacks some attributes.

    Raises:
        ValueError: If a group would be left without any.
    """
    place = np.cumsum(~held_out) - 1
    groups = {name: [int(place[i]) for i in of if not held_out[i]] for name, of in dataset.attribute_groups.items()}
    empty = [name for name, of in groups.items() if not of]
    if empty:
        raise ValueError(f"No attribute would be left in {', '.join(empty)}: take another draw.")
    return dataclasses.replace(
        dataset,
        attribute_names=[name for name, out in zip(dataset.attribute_names, held_out) if not out],
        attribute_groups=groups,
        class_attributes=dataset.class_attributes[:, ~held_out],
        word_vectors=dataset.word_vectors[~held_out],
    )


def with_attributes(model: DednModel, dataset: GzslDataset, held_out: np.ndarray, mapped: bool) -> DednModel:
    """
    A model that has been given the attributes that it was trained without: their word vectors are rows more.

    Args:
        model ([`DednModel`]):
            Trained on [`without_attributes`].
        dataset ([`GzslDataset`]):
            The data set with all A attributes.
        held_out (`np.ndarray` of shape `(A,)`):
            Those that it was trained without.
        mapped (`bool`):
            Whether their word vectors are moved as those of the trained ones were.
    """
    of_attributes = {"attribute_names": dataset.attribute_names, "attribute_groups": dataset.attribute_groups}
    config = model.config.to_dict() | of_attributes | {"class_fit_size": None, "attribute_terms": {}}
    whole = DednModel(DednConfig.from_dict(config))
    matrices = {name: tensor for name, tensor in model.state_dict().items() if name.endswith(".weight")}
    whole.load_state_dict({name: tensor for name, tensor in matrices.items() if "expert." in name}, strict=False)
    start = F.normalize(torch.from_numpy(dataset.word_vectors), dim=-1)
    for trained, expert in ((model.coarse_expert, whole.coarse_expert), (model.fine_expert, whole.fine_expert)):
        vectors = start.clone()
        found = torch.cat([head.word_vectors for head in trained.heads])[trained.attribute_order].detach()
        if mapped:
            ridge = RidgeCV(alphas=np.logspace(-3, 3, 13)).fit(start[~held_out].numpy(), found.numpy())
            vectors[held_out] = torch.from_numpy(ridge.predict(start[held_out].numpy()).astype(np.float32))
        vectors[~held_out] = found
        expert.set_word_vectors(vectors)
    class_ids = [dataset.class_names.index(label) for label in model.config.label2id]
    whole.set_classes(
        list(model.config.label2id), dataset.class_attributes[class_ids], seen=model.seen_classes.tolist()
    )
    return whole.eval()


def measure_draw(
    model: DednModel, dataset: GzslDataset, inputs: ModelInputs, held_out: np.ndarray
) -> dict[str, dict[str, float]]:
    """
    Args:
        model ([`DednModel`]):
            Trained on [`without_attributes`], without the validation classes.
        dataset ([`GzslDataset`]):
            The data set with all attributes.
        inputs ([`ModelInputs`]):
            What its images are read from.
        held_out (`np.ndarray` of shape `(A,)`):
            The attributes that it was trained without.

    Returns:
        `dict`: each of [`WAYS`] → `AUROC` over all validation images, `AUROC of unseen` over those of validation
        classes, the number of attributes that either is the mean of, since some class must have an attribute and some
        not, and `T1`, all in per cent.
    """
    config = model.config
    class_ids = [dataset.class_names.index(config.id2label[label]) for label in range(config.num_labels)]
    rows = dataset.class_attributes[class_ids]
    strengths = rows / rows.max()
    images = [inputs.make(dataset.splits[f"validation_{kind}"]) for kind in ("unseen", "seen")]

    def scores_of(model: DednModel) -> tuple[np.ndarray, np.ndarray, int]:
        """Scores of both experts, ids of classes, and how many images are of unseen classes."""
        unseen, seen = (predict_examples(model, examples) for examples in images)
        labels = np.concatenate([unseen.labels, seen.labels])
        labels = np.array([config.label2id[dataset.class_names[label]] for label in labels])
        return np.concatenate([unseen.expert_scores, seen.expert_scores]), labels, len(unseen.labels)

    def judge(scores: np.ndarray, labels: np.ndarray, num_unseen: int, judged: np.ndarray) -> dict[str, float]:
        """AUROC of the attributes that are judged, and T1 of these and the trained ones together."""
        figures, columns = {}, judged | ~held_out
        # [coarse, fine] × [region, channel]
        mixes = np.outer([config.coarse_mix, 1 - config.coarse_mix], [config.region_mix, 1 - config.region_mix])
        of_attribute = np.einsum("nijh,ij->nh", scores, mixes)
        for name, part in (("AUROC", slice(None)), ("AUROC of unseen", slice(num_unseen))):
            there = strengths[labels[part]] >= HAS
            told = [
                roc_auc_score(there[:, index], of_attribute[part, index])
                for index in np.flatnonzero(judged & there.any(axis=0) & ~there.all(axis=0))
            ]
            figures |= {name: 100 * float(np.mean(told)) if told else float("nan"), f"{name}: attributes": len(told)}
        logits = mix_expert_scores(
            scores[:num_unseen][..., columns], rows[:, columns], config.region_mix, config.coarse_mix
        )
        return figures | {"T1": gzsl_metrics(logits, labels[:num_unseen], config.seen_class_ids)["T1"]}

    by_word_vector = scores_of(with_attributes(model, dataset, held_out, mapped=False))
    by_mapped = scores_of(with_attributes(model, dataset, held_out, mapped=True))
    start = dataset.word_vectors / np.linalg.norm(dataset.word_vectors, axis=1, keepdims=True)
    near = np.argsort(-start[held_out] @ start[~held_out].T, axis=1)[:, :NEAREST]
    by_nearest = by_word_vector[0].copy()
    by_nearest[..., held_out] = by_word_vector[0][..., ~held_out][..., near].mean(axis=-1)
    return {
        "trained": judge(*by_word_vector, ~held_out),
        "word vector": judge(*by_word_vector, held_out),
        "mapped": judge(*by_mapped, held_out),
        "nearest": judge(by_nearest, *by_word_vector[1:], held_out),
    }


def format_figures(draws: Sequence[dict]) -> str:
    """Mean and, of several draws, standard deviation, as a Markdown table."""
    figures = ("AUROC", "AUROC of unseen", "T1")
    lines = [f"| held-out attributes scored by | {' | '.join(figures)} |", "|---" * 4 + "|"]
    for way in draws[0]:
        cells = []
        for figure in figures:
            values = [draw[way][figure] for draw in draws]
            cells.append(f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""))
        lines.append(f"| {WAYS[way]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None):
    script, training, recipe = parse_command_line(
        sys.argv[1:] if arguments is None else arguments,
        ScriptArguments,
        "outputs/new_attributes_{}".format,
        prog="measure_new_attributes.py",
        description=__doc__.strip(),
    )
    if script.bf16 == "auto":
        sys.exit("error: --bf16 is true or false here: all draws are to be computed in the same way.")
    # Each checkpoint would have a bar for its one file of weights.
    logging.disable_progress_bar()
    dataset, config = load_training_data(script, training, recipe)
    # Which may name attributes that are held out.
    inputs = prepare_inputs(dataset, script.feature_maps, config=config | {"attribute_terms": {}})

    def fix(model: DednModel):
        for name, parameter in model.named_parameters():
            if name.endswith("word_vectors"):
                parameter.requires_grad_(not script.fixed_word_vectors)

    draws = []
    for seed in script.draws:
        held_out, folder = draw_held_out(len(dataset.attribute_names), seed), f"{training.output_dir}/draw_{seed}"
        print(f"\ndraw {seed}: {held_out.sum()} of {len(held_out)} attributes are held out", flush=True)
        told = {"held_out": seed, "fixed_word_vectors": script.fixed_word_vectors}
        run_protocol(
            "validation",
            without_attributes(dataset, held_out),
            dataclasses.replace(inputs, source=inputs.source | told),
            dataclasses.replace(training, output_dir=folder),
            [seed],
            prepare_model=fix,
        )
        draws.append(measure_draw(DednModel.from_pretrained(f"{folder}/choose"), dataset, inputs, held_out))
        write_json(Path(training.output_dir, "new_attributes.json"), {"draws": draws} | provenance())
        print(format_figures(draws), flush=True)
    leave_process_group()


if __name__ == "__main__":
    main()
