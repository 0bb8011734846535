"""
The two protocols of training and evaluation.

`reference` is as released: train on trainval, look at the test set after every epoch, report the best epoch. Its figures
are comparable with published ones, and too good. `validated` chooses on validation classes, trains anew and reads the
test set once. See the README for what each is good for.
"""

import dataclasses
import json
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from torch.utils.data import ConcatDataset, Dataset
from transformers import TrainerCallback, set_seed
from transformers.trainer_utils import get_last_checkpoint

from ..configuration_dedn import PRESETS, DednConfig
from ..data import GzslDataset
from ..evaluation import ausuc, choose_mixes, gzsl_metrics, seen_unseen_curve
from ..files import write_json
from ..modeling_dedn import DednModel
from .arguments import DednTrainingArguments
from .dataset import ClassSubset
from .inputs import ModelInputs
from .trainer import DednTrainer

PROTOCOLS = ("validated", "reference")
_RECORDED_ARGUMENTS = (
    "optim",
    "optim_args",
    "learning_rate",
    "weight_decay",
    "lr_scheduler_type",
    "warmup_steps",
    "max_grad_norm",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "balanced_batches",
    "bf16",
)
_RECORDED_SETTINGS = (
    "class_bias",
    "target_margin",
    "seen_margin",
    "self_calibration_weight",
    "distillation_weight",
    "alignment_weight",
    "region_value_rank",
    "freeze_backbone",
    "feature_channels",
    "grid_size",
    "word_vector_size",
)


class _StopAfterEpoch(TrainerCallback):
    def __init__(self, epoch: int):
        self.epoch = epoch

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_training_stop = round(state.epoch) >= self.epoch


def build_model(dataset: GzslDataset, class_ids: Sequence[int], unseen_class_ids: Sequence[int], **config) -> DednModel:
    """
    A new model for some classes of a data set, with its word vectors and class attributes.

    Args:
        dataset (`GzslDataset`):
            The data set; the settings are its preset's.
        class_ids (`Sequence[int]`):
            The classes that the model knows; its ids are places in this list.
        unseen_class_ids (`Sequence[int]`):
            Those of them without training images.
        config (*optional*):
            What differs from the preset, see [`DednConfig`].
    """
    names = [dataset.class_names[class_id] for class_id in class_ids]
    seen = [class_id not in set(unseen_class_ids) for class_id in class_ids]
    model = DednModel(
        DednConfig.from_preset(
            dataset.name,
            **{
                "attribute_names": dataset.attribute_names,
                "attribute_groups": dataset.attribute_groups,
                "word_vector_size": dataset.word_vectors.shape[1],
                "id2label": dict(enumerate(names)),
                "seen_class_ids": np.flatnonzero(seen).tolist(),
                **config,
            },
        )
    )
    model.set_word_vectors(dataset.word_vectors)
    model.set_classes(names, dataset.class_attributes[list(class_ids)], seen=seen)
    return model


def run_protocol(
    protocol: str,
    dataset: GzslDataset,
    inputs: ModelInputs,
    args: DednTrainingArguments,
    seeds: Sequence[int],
) -> dict:
    """
    Trains and evaluates on a data set; writes the model and `results.json` into `args.output_dir`.

    With several seeds each has a folder `seed_<n>` below it, and the first seed's model is on top. What was finished
    is not done again: the same call goes on from the last checkpoint.

    Args:
        protocol (`str`):
            `"validated"` or `"reference"`.
        dataset (`GzslDataset`):
            The data set.
        inputs (`ModelInputs`):
            What the model is trained on, see [`prepare_inputs`].
        args (`DednTrainingArguments`):
            Arguments of training; the protocol sets seed, evaluation and saving.
        seeds (`Sequence[int]`):
            One run each.

    Returns:
        `dict`: what `results.json` holds.

    Raises:
        ValueError: If there is no such protocol, a seed occurs twice, or `output_dir` holds a run with other settings.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"There is no protocol {protocol!r}; choose one of {', '.join(PROTOCOLS)}.")
    if len(set(seeds)) != len(seeds) or not seeds:
        raise ValueError(f"Seeds must be given and differ, but they are {list(seeds)}.")
    output_dir = Path(args.output_dir)
    preset = {name: PRESETS[dataset.name][name] for name in _RECORDED_SETTINGS if name in PRESETS[dataset.name]}
    settings = {name: getattr(args, name) for name in _RECORDED_ARGUMENTS}
    settings |= preset | {name: inputs.config[name] for name in _RECORDED_SETTINGS if name in inputs.config}
    request = {
        "dataset": dataset.name,
        "protocol": protocol,
        "split": {"name": dataset.split_name, "sha256": dataset.split_sha256},
        "settings": {key: getattr(value, "value", value) for key, value in settings.items()},
    }

    runs = []
    for seed in seeds:
        folder = output_dir / f"seed_{seed}" if len(seeds) > 1 else output_dir
        seed_request = request | {"seeds": [seed]}
        with args.main_process_first(desc="checking what the output folder holds"):
            _start(folder, seed_request)
        if not (folder / "results.json").is_file():
            run = _Run(dataset, inputs, args, seed, folder)
            figures = run.validated() if protocol == "validated" else run.reference()
            if args.should_save:
                write_json(folder / "results.json", seed_request | figures | _provenance())
                shutil.rmtree(folder / "unfinished")
            args.distributed_state.wait_for_everyone()
        runs.append(json.loads((folder / "results.json").read_text()))

    if len(seeds) == 1:
        return runs[0]
    results = request | {"seeds": list(seeds)} | _mean_and_std(runs) | _provenance()
    if args.should_save:
        for file in (output_dir / f"seed_{seeds[0]}").iterdir():
            if file.is_file() and file.name != "results.json":
                shutil.copy2(file, output_dir / file.name)
        write_json(output_dir / "results.json", results)
    return results


class _Run:
    """One seed of a protocol."""

    def __init__(self, dataset, inputs, args, seed, folder):
        self.dataset, self.inputs, self.args, self.seed, self.folder = dataset, inputs, args, seed, folder
        self.all_class_ids = list(range(len(dataset.class_names)))

    def validated(self) -> dict:
        dataset = self.dataset
        class_ids = sorted(dataset.seen_class_ids)
        model = self._model(class_ids, dataset.validation_class_ids)
        class_attributes, seen = model.class_attributes.numpy(), model.config.seen_class_ids

        def choose(prediction):
            choice = choose_mixes(prediction.predictions[-1], class_attributes, prediction.label_ids, seen)
            mixes = {name: getattr(choice, name) for name in ("region_mix", "coarse_mix", "calibration")}
            return choice.metrics | mixes

        chooser = self._trainer(
            "choose",
            model,
            train_dataset=self._examples(["train"], class_ids),
            eval_dataset=self._examples(["validation_seen", "validation_unseen"], class_ids),
            compute_metrics=choose,
            eval_strategy="epoch",
        )
        chooser.train(resume_from_checkpoint=get_last_checkpoint(chooser.args.output_dir))
        history = [entry for entry in chooser.state.log_history if "eval_H" in entry]
        best = max(history, key=lambda entry: entry["eval_H"])
        chosen = {name: best[f"eval_{name}"] for name in ("region_mix", "coarse_mix", "calibration")}
        epochs = round(best["epoch"])

        trainer = self._trainer(
            "final",
            self._model(self.all_class_ids, dataset.unseen_class_ids),
            train_dataset=self._examples(["trainval"], self.all_class_ids),
            callbacks=[_StopAfterEpoch(epochs)],
        )
        trainer.train(resume_from_checkpoint=get_last_checkpoint(trainer.args.output_dir))
        for name, value in chosen.items():
            setattr(trainer.model.config, name, value)
        test = self._test(trainer)
        self._save(trainer, chooser.state.log_history, trainer.state.log_history)
        return {
            "chosen": {"epochs": epochs, **chosen},
            "validation": {name: best[f"eval_{name}"] for name in ("T1", "U", "S", "H")},
            "test": test,
        }

    def reference(self) -> dict:
        trainer = self._trainer(
            "final",
            self._model(self.all_class_ids, self.dataset.unseen_class_ids),
            train_dataset=self._examples(["trainval"], self.all_class_ids),
            eval_dataset=self._examples(["test_seen", "test_unseen"], self.all_class_ids),
            eval_strategy="epoch",
            load_best_model_at_end=True,
            metric_for_best_model="H",
            greater_is_better=True,
        )
        trainer.train(resume_from_checkpoint=get_last_checkpoint(trainer.args.output_dir))
        history = [entry for entry in trainer.state.log_history if "eval_H" in entry]
        best = max(history, key=lambda entry: entry["eval_H"])
        test = self._test(trainer)
        self._save(trainer, trainer.state.log_history)
        return {"chosen": {"epochs": round(best["epoch"]), "on": "the test set, as released"}, "test": test}

    def _model(self, class_ids, unseen_class_ids) -> DednModel:
        set_seed(self.seed)
        return build_model(self.dataset, class_ids, unseen_class_ids, **self.inputs.config)

    def _examples(self, splits, class_ids) -> Dataset:
        examples = [ClassSubset(self.inputs.make(self.dataset.splits[split]), class_ids) for split in splits]
        return examples[0] if len(examples) == 1 else ConcatDataset(examples)

    def _trainer(self, stage, model, callbacks=(), compute_metrics=None, eval_dataset=None, train_dataset=None, **args):
        args = dataclasses.replace(
            self.args,
            output_dir=str(self.folder / "unfinished" / stage),
            seed=self.seed,
            save_strategy="epoch",
            save_total_limit=1,
            **args,
        )
        os.makedirs(args.output_dir, exist_ok=True)
        metrics = {} if compute_metrics is None else {"compute_metrics": compute_metrics}
        return DednTrainer(
            model,
            args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            callbacks=list(callbacks),
            **metrics,
        )

    def _test(self, trainer) -> dict:
        prediction = trainer.predict(self._examples(["test_seen", "test_unseen"], self.all_class_ids))
        logits, labels, seen = prediction.predictions[0], prediction.label_ids, self.dataset.seen_class_ids
        return gzsl_metrics(logits, labels, seen) | {"AUSUC": ausuc(seen_unseen_curve(logits, labels, seen))}

    def _save(self, trainer, *histories):
        if not self.args.should_save:
            return
        model = trainer.accelerator.unwrap_model(trainer.model)
        if self.inputs.backbone is not None:
            model.set_backbone(self.inputs.backbone)
        model.save_pretrained(self.folder)
        self.inputs.image_processor.save_pretrained(self.folder)
        write_json(self.folder / "training_log.json", dict(zip(("choose", "final")[-len(histories) :], histories)))


def _start(folder: Path, request: dict):
    """Leaves a record of what is run in the folder, or checks that a run that is there already is the same."""
    record = folder / "unfinished" / "request.json"
    results = folder / "results.json"
    for file in (record, results):
        if file.is_file():
            there = json.loads(file.read_text())
            differing = [key for key in request if there.get(key) != request[key]]
            if differing:
                changes = "; ".join(f"{key} is {there.get(key)} there, {request[key]} here" for key in differing)
                raise ValueError(
                    f"{folder} holds a run with other settings: {changes}. Choose another --output_dir, or start anew "
                    "with --overwrite_output_dir."
                )
            return
    if folder.is_dir() and any(file.name in ("config.json", "model.safetensors") for file in folder.iterdir()):
        raise ValueError(f"{folder} holds a model that is not of such a run. Choose another --output_dir.")
    write_json(record, request)


def _mean_and_std(runs: list[dict]) -> dict:
    figures = {"std": {}}
    for part in ("validation", "test"):
        if part in runs[0]:
            values = {name: [run[part][name] for run in runs] for name in runs[0][part]}
            figures[part] = {name: float(np.mean(value)) for name, value in values.items()}
            figures["std"][part] = {name: float(np.std(value, ddof=1)) for name, value in values.items()}
    return figures


def _provenance() -> dict:
    packages = ("dedn-hf", "torch", "transformers", "accelerate", "datasets", "numpy")
    arguments = [os.path.relpath(part) if os.path.isabs(part) else part for part in sys.argv]
    return {
        "versions": {"python": platform.python_version()} | {package: version(package) for package in packages},
        "command": " ".join(["python", *arguments]),
    }


def format_results(results: dict) -> str:
    """A table of `results.json` for the terminal, per cent."""
    names = ["T1", "U", "S", "H", "AUSUC"]
    std = results.get("std", {})
    lines = [f"{'':12}" + "".join(f"{name:>15}" for name in names)]
    for part in ("validation", "test"):
        if part in results:
            cells = []
            for name in names:
                value = results[part].get(name)
                spread = std.get(part, {}).get(name)
                cells.append("–" if value is None else f"{value:.1f}" + (f" ± {spread:.1f}" if spread is not None else ""))
            lines.append(f"{part:12}" + "".join(f"{cell:>15}" for cell in cells))
    return "\n".join(lines)


__all__ = ["PROTOCOLS", "build_model", "format_results", "run_protocol"]
