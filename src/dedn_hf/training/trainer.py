"""The Trainer of DEDN."""

import math
import os
import re
import shutil
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import torch
from safetensors import safe_open
from torch.utils.data import Dataset, IterableDataset
from transformers import (
    EvalPrediction,
    PreTrainedModel,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)
from transformers.trainer_utils import has_length

from ..evaluation import gzsl_metrics
from .arguments import SCHEDULED_BY_METRIC, DednTrainingArguments
from .dataset import check_dataset, read_labels
from .sampler import ClassBalancedSampler

_FIGURES = ("T1", "U", "S", "H")
_UNBALANCED = "set `balanced_batches=False` in `DednTrainingArguments`"
_NOT_SHOWN = ("epoch", "grad_norm", "total_flos", "runtime", "seconds", "samples_per_second", "steps_per_second")


class _SetEpoch(TrainerCallback):
    """
    Tells the sampler and a data set with random crops the epoch. The Trainer does so itself, except where several
    ranks go on in the middle of an epoch: what accelerate then puts around the sampler hides it, and it would draw the
    first epoch again. A data set it does not tell either where there are several ranks.
    """

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        train_dataloader.set_epoch(int(state.epoch))
        if hasattr(train_dataloader.dataset, "set_epoch"):
            train_dataloader.dataset.set_epoch(int(state.epoch))


class _LossParts:
    """Adds up the terms of the loss between two logs, where they are: nothing waits for the device before a log."""

    def __init__(self):
        self.names, self.sums, self.number = [], 0, 0

    def add(self, parts: dict[str, torch.Tensor]):
        self.names = list(parts)
        self.sums += torch.stack([part.detach() for part in parts.values()])
        self.number += 1

    def mean(self) -> torch.Tensor:
        # Several GPUs without a launcher give one value each.
        return (self.sums / self.number).view(len(self.names), -1).mean(dim=1)


class _ReadableProgress(ProgressCallback):
    """The progress bar, with one line of short figures for each log."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or self.training_bar is None or "train_runtime" in logs:
            return
        evaluation = any(name.startswith("eval_") for name in logs)
        figures = {name.removeprefix("eval_").removeprefix("loss_"): value for name, value in logs.items()}
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items() if name not in _NOT_SHOWN)
        self.training_bar.write(f"epoch {state.epoch:.4g}  {'evaluation' if evaluation else 'training'}  {shown}")


class DednTrainer(Trainer):
    """
    [`Trainer`] for a [`DednModel`]: class-balanced batches, every term of the loss logged, and T1, U, S and H at each
    evaluation.

    H needs images of seen and of unseen classes together: give both as one `eval_dataset`.

    Args:
        model (`DednModel`, *optional*):
            The model; its classes must be those of the data sets' labels. Or give `model_init`.
        args (`DednTrainingArguments` or `TrainingArguments`, *optional*):
            The arguments. Batches are class-balanced, unless [`DednTrainingArguments`] say `balanced_batches=False`.
        write_card (`Callable[[Path], None]`, *optional*):
            Writes the model card into a folder, wherever a model is saved.
        positional, kwargs (*optional*):
            As in [`Trainer`]; an image processor given as `processing_class` is saved with the model. Class-balanced
            batches need the labels of `train_dataset`, see [`read_labels`]. `compute_metrics` is by default
            [`gzsl_metrics`] of the logits.

    Raises:
        ValueError: If something is asked for that does not go with the loss or with class-balanced batches, or the
            repository of `push_to_hub` cannot be made.
    """

    def __init__(
        self,
        model=None,
        args: TrainingArguments | None = None,
        *positional,
        write_card: Callable[[Path], None] | None = None,
        **kwargs,
    ):
        args = DednTrainingArguments("tmp_trainer") if args is None else args
        if args.label_smoothing_factor:
            raise ValueError(
                "`label_smoothing_factor` is not for DEDN's loss, which has margins instead: leave it at 0 and set "
                "`target_margin` and `seen_margin` of the config, or give a loss of your own as `compute_loss_func`."
            )
        self.write_card = write_card
        self._loss_parts, self._evaluated = _LossParts(), []
        # When the last log was, in training.
        self._logged = None
        super().__init__(model, args, *positional, **kwargs)
        if self.compute_metrics is None:
            self.compute_metrics = self._gzsl_metrics
        self.add_callback(_SetEpoch)
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(_ReadableProgress)

    def _inner_training_loop(self, *args, **kwargs):
        # What an attempt with too large a batch has left, or a search's trial that was ended.
        self._loss_parts = _LossParts()
        # What the evaluations in between would stumble over is told before the first step.
        if self.args.eval_strategy != "no":
            several = isinstance(self.eval_dataset, dict)
            for dataset in self.eval_dataset.values() if several else [self.eval_dataset]:
                self._check_dataset(dataset, "evaluation")
            if self._needs_best:
                self._check_best_metric()
        self._logged = time.monotonic()
        try:
            return super()._inner_training_loop(*args, **kwargs)
        finally:
            self._logged = None

    @property
    def _needs_best(self) -> bool:
        scheduled = self.args.lr_scheduler_type in SCHEDULED_BY_METRIC
        return self.args.load_best_model_at_end or self.args.save_strategy == "best" or scheduled

    def _check_best_metric(self):
        name, dataset = self.args.metric_for_best_model.removeprefix("eval_"), self.eval_dataset
        figure = name
        if isinstance(dataset, dict):
            of = next((key for key in dataset if name.startswith(f"{key}_")), None)
            if of is None:
                raise ValueError(
                    f"`metric_for_best_model` is {name!r}, but there are several evaluation sets, "
                    f"{', '.join(dataset)}: name the one that it is of, such as '{next(iter(dataset))}_{name}'."
                )
            figure, dataset = name.removeprefix(f"{of}_"), dataset[of]
        if self.compute_metrics != self._gzsl_metrics or figure == "loss":
            return
        if figure not in _FIGURES:
            raise ValueError(
                f"`metric_for_best_model` is {name!r}, but an evaluation gives loss, {', '.join(_FIGURES)}: name "
                "one of them, or give a `compute_metrics` of your own."
            )
        labels = read_labels(dataset)
        if labels is None:
            return
        of_seen = np.isin(labels, self.accelerator.unwrap_model(self.model).config.seen_class_ids)
        undefined = ["T1", "U", "H"] if of_seen.all() else ["S", "H"] if not of_seen.any() else []
        if figure in undefined:
            raise ValueError(
                f"`metric_for_best_model` is {name!r}, of which the evaluation set says nothing: "
                f"{_reason(undefined)}. Give images of both as one `eval_dataset`, or name another figure."
            )

    def _determine_best_metric(self, metrics, trial):
        name = self.args.metric_for_best_model
        # H is the default, and metrics of the user's own need not have it where nothing asks for the best.
        if not self._needs_best and name and f"eval_{name.removeprefix('eval_')}" not in metrics:
            return False
        return super()._determine_best_metric(metrics, trial)

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        self._evaluated = []
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        if description != "Evaluation":
            return output
        if f"{metric_key_prefix}_loss" not in output.metrics:
            raise ValueError(
                "The items of the evaluation set have no `labels`, without which there is no figure: add them, or use "
                "`predict`."
            )
        undefined = [name for name in _FIGURES if f"{metric_key_prefix}_{name}" not in output.metrics]
        if self.compute_metrics == self._gzsl_metrics and len(undefined) < len(_FIGURES) and undefined:
            warnings.warn(
                f"There is no {', '.join(undefined)} of this evaluation set: {_reason(undefined)}. For H, give images "
                "of seen and of unseen classes as one `eval_dataset`.",
                stacklevel=3,
            )
        return output

    def _gzsl_metrics(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        """T1, U, S and H of all batches until `compute_result`, without those that no image speaks of."""
        batches = [(prediction.predictions, prediction.label_ids)]
        if isinstance(prediction.predictions, list):  # with `eval_do_concat_batches=False`
            batches = zip(prediction.predictions, prediction.label_ids)
        for logits, labels in batches:
            # More than the logits where `ignore_keys` lets it through.
            logits = logits[0] if isinstance(logits, tuple) else logits
            self._evaluated.append([torch.as_tensor(logits).float().cpu(), torch.as_tensor(labels).flatten().cpu()])
        if not compute_result:
            return {}
        logits, labels = (torch.cat(batches).numpy() for batches in zip(*self._evaluated))
        metrics = gzsl_metrics(logits, labels, self.accelerator.unwrap_model(self.model).config.seen_class_ids)
        return {name: value for name, value in metrics.items() if not math.isnan(value)}

    @property
    def _balanced_batches(self) -> bool:
        return getattr(self.args, "balanced_batches", True)

    def _get_train_sampler(self, train_dataset=None):
        if not self._balanced_batches:
            return super()._get_train_sampler(train_dataset)
        if self.args.train_sampling_strategy != "random":
            raise ValueError(
                f"`train_sampling_strategy={self.args.train_sampling_strategy!r}` cannot go with class-balanced "
                f"batches, which are drawn at random: leave it out, or {_UNBALANCED}."
            )
        train_dataset = self.train_dataset if train_dataset is None else train_dataset
        labels = read_labels(train_dataset)
        if labels is None:
            raise ValueError(
                f"Class-balanced batches need the label of each training image, but {type(train_dataset).__name__} "
                "does not say them: give it an attribute `labels`, or a column `labels` or `label`, or "
                f"{_UNBALANCED}."
            )
        # Not that of the arguments, which `auto_find_batch_size` makes smaller.
        global_batch_size = (
            self._train_batch_size * self.args.gradient_accumulation_steps * self.accelerator.num_processes
        )
        return ClassBalancedSampler(labels, global_batch_size, seed=self.args.seed)

    def create_optimizer(self, model=None):
        rate = getattr(self.args, "backbone_learning_rate", None)
        pattern = getattr(self.args, "trained_backbone_parameters", None)
        if self.optimizer is not None or (rate is None and pattern is None):
            return super().create_optimizer(model)
        backbone = self.accelerator.unwrap_model(self.model if model is None else model).backbone
        for name, value in (("backbone_learning_rate", rate), ("trained_backbone_parameters", pattern)):
            if value is not None and (backbone is None or not any(p.requires_grad for p in backbone.parameters())):
                raise ValueError(
                    f"`{name}` is {value}, but the model has {'no' if backbone is None else 'a frozen'} backbone: "
                    "leave it out, or train a backbone along (`freeze_backbone=False`)."
                )
        if pattern is not None:
            train_parameters(backbone, pattern)
        super().create_optimizer(model)
        if rate is None:
            return self.optimizer
        trained = {parameter for parameter in backbone.parameters() if parameter.requires_grad}
        groups = []
        for group in self.optimizer.param_groups:
            of_backbone = [parameter for parameter in group["params"] if parameter in trained]
            # Norms have one dimension; by the Trainer's names, batch norms are none. The rate of the first is logged.
            parts = (
                ([p for p in group["params"] if p not in trained], {}),
                ([p for p in of_backbone if p.ndim > 1], {"lr": rate}),
                ([p for p in of_backbone if p.ndim <= 1], {"lr": rate, "weight_decay": 0.0}),
            )
            groups += [{**group, "params": parameters, **changes} for parameters, changes in parts if parameters]
        self.optimizer.param_groups[:] = groups
        return self.optimizer

    def _get_dataloader(self, *args, is_training: bool = False, **kwargs):
        # The Trainer would drop the last images of an evaluation, too.
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and is_training
        try:
            return super()._get_dataloader(*args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last

    def get_train_dataloader(self):
        if self._balanced_batches and isinstance(self.train_dataset, IterableDataset):
            raise ValueError(
                "Class-balanced batches are drawn from all of the training images, but an iterable data set gives "
                f"them one after the other: {_UNBALANCED}."
            )
        if self.train_dataset is not None:
            self._check_dataset(self.train_dataset, "training")
        return super().get_train_dataloader()

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None):
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is not None:
            self._check_dataset(self.eval_dataset[dataset] if isinstance(dataset, str) else dataset, "evaluation")
        return super().get_eval_dataloader(eval_dataset)

    def _check_dataset(self, dataset: Dataset, which: str):
        if isinstance(dataset, dict):
            raise ValueError(f"The {which} set is several, {', '.join(dataset)}: give one of them.")
        if has_length(dataset) and len(dataset) == 0:
            raise ValueError(f"The {which} set is empty: give one with images.")
        # One of the user's own may make labels and inputs of anything.
        if self.data_collator is default_data_collator:
            check_dataset(dataset, which, self.accelerator.unwrap_model(self.model).config)

    def _remove_unused_columns(self, dataset: datasets.Dataset, description: str | None = None):
        # A transform reads columns that the model does not take: they are dropped after it.
        if not self.args.remove_unused_columns or dataset.format["type"] != "custom":
            return super()._remove_unused_columns(dataset, description)
        self._set_signature_columns_if_needed()
        read, transform = dataset.format["columns"], dataset.format["format_kwargs"]["transform"]
        unused = set(dataset.column_names) - set(read) - set(self._signature_columns)
        return dataset.remove_columns(sorted(unused)).with_transform(
            partial(_keep_columns, transform, self._signature_columns),
            columns=read,
            output_all_columns=dataset.format["output_all_columns"],
        )

    def _save_checkpoint(self, model, trial):
        # By their times the Trainer tells which checkpoints are old, and a clock may jump.
        folders = Path(self._get_output_dir(trial)).glob("checkpoint-*")
        names = ((path.name.removeprefix("checkpoint-"), path) for path in folders)
        steps = {int(name): path for name, path in names if name.isdecimal()}
        for age, step in enumerate(sorted(steps, reverse=True), start=1):
            latest = time.time() - 2 * age
            if self.args.should_save and steps[step].stat().st_mtime > latest:
                os.utime(steps[step], (latest, latest))
        super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, state_dict=None):
        super()._save(output_dir, state_dict)
        # The Trainer calls this on every rank.
        if self.write_card is not None and self.args.should_save:
            self.write_card(Path(output_dir or self.args.output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None):
        super()._load_optimizer_and_scheduler(checkpoint)
        weights = Path(checkpoint, "model.safetensors") if checkpoint is not None else None
        if weights is None or not weights.is_file():
            return
        with safe_open(weights, "pt") as file:
            transposed = any(name.endswith(".region_value") for name in file.keys())  # noqa: SIM118
        if transposed:  # as until version 0.2; the model sees to its weights itself
            for name, parameter in self.accelerator.unwrap_model(self.model).named_parameters():
                if "_expert.heads." in name and name.endswith(".weight"):
                    state = self.optimizer.state[parameter]
                    state |= {key: value.T.contiguous() for key, value in state.items() if value.ndim == 2}

    def create_model_card(self, *args, **kwargs):
        # The one that was saved stays.
        if self.write_card is None:
            super().create_model_card(*args, **kwargs)

    def _push_from_checkpoint(self, checkpoint_folder: str):
        # The Trainer takes weights and config out of it, but without the code beside them nobody could load them.
        if self.is_world_process_zero():
            for file in [*Path(checkpoint_folder).glob("*.py"), *Path(checkpoint_folder).glob("README.md")]:
                shutil.copy(file, self.args.output_dir)
        super()._push_from_checkpoint(checkpoint_folder)

    def init_hf_repo(self, *args, **kwargs):
        try:
            super().init_hf_repo(*args, **kwargs)
        # No network, no token, a wrong name: of what kinds these are depends on the version of the Hub's client.
        except Exception as error:
            raise ValueError(
                f"The repository that `push_to_hub` is for cannot be made: {' '.join(str(error).split())}. Go online, "
                "without HF_HUB_OFFLINE, and log in with `hf auth login`; or leave `push_to_hub` out and publish the "
                "folder later with `dedn publish`."
            ) from error

    def prediction_step(self, model, inputs, *args, **kwargs):
        if "labels" not in inputs:
            # Else they go through `compute_loss`.
            self._check_inputs(inputs)
        return super().prediction_step(model, inputs, *args, **kwargs)

    def _check_inputs(self, inputs: dict):
        self._set_signature_columns_if_needed()
        unknown = [name for name in inputs if name not in self._signature_columns]
        if unknown:
            raise ValueError(
                f"A batch holds {', '.join(unknown)}, which the model does not take: leave it out, or set "
                "`remove_unused_columns=True`."
            )

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        self._check_inputs(inputs)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        # A loss of the user's own has no such parts.
        parts = outputs.get("loss_parts") if isinstance(outputs, dict) else None
        if model.training and parts is not None:
            self._loss_parts.add(parts)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """
        Adds the mean of each term since the last log, over micro-batches and ranks, to that of the loss; and, in
        training, `seconds`: how long it has taken, with the earlier sittings of a run that goes on.
        """
        if "loss" in logs and self._loss_parts.number:
            means = self.accelerator.reduce(self._loss_parts.mean(), reduction="mean")
            logs |= {f"loss_{name}": mean for name, mean in zip(self._loss_parts.names, means.tolist())}
            self._loss_parts = _LossParts()
        if self._logged is not None:
            before = next((entry["seconds"] for entry in reversed(self.state.log_history) if "seconds" in entry), 0.0)
            since, self._logged = self._logged, time.monotonic()
            logs = logs | {"seconds": before + self._logged - since}
        super().log(logs, start_time)


def train_parameters(backbone: PreTrainedModel, pattern: str):
    """
    Has those parameters of a backbone trained alone whose whole name matches a regular expression.

    Raises:
        ValueError: If there is none.
    """
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad &= re.fullmatch(pattern, name) is not None
    if not any(parameter.requires_grad for parameter in backbone.parameters()):
        names = [name for name, _ in backbone.named_parameters()]
        raise ValueError(
            f"`trained_backbone_parameters` is {pattern!r}, but no parameter of the backbone is named so: the "
            f"last are {', '.join(names[-4:])}."
        )


def _keep_columns(transform: Callable, columns: list[str], batch: dict) -> dict:
    return {name: values for name, values in transform(batch).items() if name in columns}


def _reason(undefined: list[str]) -> str:
    return f"all of its images are of {'unseen' if 'S' in undefined else 'seen'} classes"
