"""
What each of some departures from the recipe is worth on validation classes: one run of the `validation` protocol each,
which reads no test image. Given again, the same command goes on where it was; `compare_runs.py` makes a table of the
folders.

    python scripts/lab/measure_levers.py --dataset cub --data_dir DATA --feature_maps STORE --bf16 true --use_cpu
    python scripts/lab/compare_runs.py outputs/levers_cub/*
"""

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from training_data import load_training_data
from transformers.utils import logging

from dedn_hf import DednModel
from dedn_hf.cli.train import DataArguments, parse_command_line
from dedn_hf.training.inputs import prepare_inputs
from dedn_hf.training.protocol import run_protocol
from dedn_hf.training.run_folder import leave_process_group


def change_maps(model: DednModel, change: Callable[[torch.Tensor], torch.Tensor]):
    """Training sees feature maps `(B, C, H, W)` that are changed at random."""

    def hook(module, args, kwargs):
        return args, kwargs | ({"feature_map": change(kwargs["feature_map"])} if module.training else {})

    model.register_forward_pre_hook(hook, with_kwargs=True)


def noise_class_attributes(model: DednModel, deviation: float):
    """In each step of training, each class attribute is another one by a factor `1 + deviation · N(0, 1)`."""
    loss = model._loss

    def noisy_loss(coarse, fine, class_rows, seen, labels):
        if model.training:
            class_rows = F.normalize(class_rows * (1 + deviation * torch.randn_like(class_rows)), dim=-1)
        return loss(coarse, fine, class_rows, seen, labels)

    model._loss = noisy_loss


def smooth_labels(model: DednModel, share: float, temperature: float):
    """
    A share of each label goes to all classes, unseen ones too, by a softmax of the cosines of their class attributes
    over a temperature.
    """
    loss, config = model._loss, model.config

    def smooth_loss(coarse, fine, class_rows, seen, labels):
        total, parts = loss(coarse, fine, class_rows, seen, labels)
        class_rows = class_rows.float()
        target = (class_rows[labels] @ class_rows.T / temperature).softmax(dim=-1)
        margins = (config.seen_margin * seen.float()).expand(len(labels), -1)
        margins = margins.scatter(1, labels[:, None], -config.target_margin)
        for name, (by_region, by_channel) in (("coarse", coarse), ("fine", fine)):
            scores = (by_region.float() + by_channel.float()) @ class_rows.T + margins
            # The loss has the whole of the label already: a share of it is replaced.
            total = total + share * (F.cross_entropy(scores, target) - parts[f"{name}_margin"])
        return total, parts

    model._loss = smooth_loss


def average_weights(model: DednModel, decay: float):
    """What is evaluated and saved is an exponential mean of the weights of all steps; training goes on without it."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    averages, current, train = [], [], model.train

    @torch.no_grad()
    def accumulate(module, args):
        if not module.training:
            return
        if not averages:
            averages.extend(parameter.clone() for parameter in trained)
        torch._foreach_lerp_(averages, trained, 1 - decay)

    @torch.no_grad()
    def switch(mode: bool = True):
        if model.training and not mode and averages:
            current.extend(parameter.clone() for parameter in trained)
            torch._foreach_copy_(trained, averages)
        elif not model.training and mode and current:
            torch._foreach_copy_(trained, current)
            current.clear()
        return train(mode)

    model.register_forward_pre_hook(accumulate)
    model.train = switch


# What differs from the recipe → what is done to a new model.
LEVERS = {
    "recipe": lambda model: None,
    "map_dropout": partial(change_maps, change=partial(F.dropout, p=0.3)),
    "channel_dropout": partial(change_maps, change=partial(F.dropout2d, p=0.2)),
    "map_noise": partial(change_maps, change=lambda maps: maps * (1 + 0.3 * torch.randn_like(maps))),
    "attribute_noise": partial(noise_class_attributes, deviation=0.3),
    "smooth_labels": partial(smooth_labels, share=0.2, temperature=0.05),
    "weight_averaging": partial(average_weights, decay=0.98),
}


@dataclass
class ScriptArguments(DataArguments):
    """What is compared, and on what."""

    levers: list[str] = field(default_factory=lambda: list(LEVERS), metadata={"help": f"Of {', '.join(LEVERS)}."})
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "Seeds of each."})


def main(arguments: list[str] | None = None):
    script, training, recipe = parse_command_line(
        sys.argv[1:] if arguments is None else arguments,
        ScriptArguments,
        "outputs/levers_{}".format,
        prog="measure_levers.py",
        description=__doc__.strip(),
    )
    unknown = [name for name in script.levers if name not in LEVERS]
    if unknown:
        sys.exit(f"error: there is no lever {', '.join(unknown)}; choose from {', '.join(LEVERS)}.")
    if script.bf16 == "auto":
        sys.exit("error: --bf16 is true or false here: all runs are to be computed in the same way.")
    # Each checkpoint would have a bar for its one file of weights.
    logging.disable_progress_bar()
    dataset, config = load_training_data(script, training, recipe)
    inputs = prepare_inputs(dataset, script.feature_maps, config=config)
    for name in script.levers:
        results = run_protocol(
            "validation",
            dataset,
            dataclasses.replace(inputs, source=inputs.source | {"lever": name}),
            dataclasses.replace(training, output_dir=str(Path(training.output_dir, name))),
            script.seeds,
            prepare_model=LEVERS[name],
        )
        figures = "  ".join(f"{figure} {value:.1f}" for figure, value in results["validation"].items())
        print(f"{name}: {figures}", flush=True)
    leave_process_group()


if __name__ == "__main__":
    main()
