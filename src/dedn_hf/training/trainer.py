"""The Trainer of DEDN."""

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import EvalPrediction, ProgressCallback, Trainer, TrainerCallback

from ..evaluation import gzsl_metrics
from .arguments import DednTrainingArguments
from .sampler import ClassBalancedSampler

_NOT_SHOWN = ("epoch", "grad_norm", "total_flos", "runtime", "samples_per_second", "steps_per_second")


class _SetEpoch(TrainerCallback):
    """
    Tells the sampler the epoch. The Trainer does so itself, except where several ranks go on in the middle of an
    epoch: what accelerate then puts around the sampler hides it, and it would draw the first epoch again.
    """

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        train_dataloader.set_epoch(int(state.epoch))


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
        model (`DednModel`):
            The model; its classes must be those of the data sets' labels.
        args (`DednTrainingArguments`):
            The arguments.
        write_card (`Callable[[Path], None]`, *optional*):
            Writes the model card into a folder, wherever a model is saved.
        kwargs (*optional*):
            As in [`Trainer`]; an image processor given as `processing_class` is saved with the model. With
            class-balanced batches `train_dataset` must have an attribute `labels`, as [`PixelValueDataset`] and
            [`FeatureMapDataset`] have. `compute_metrics` is by default [`gzsl_metrics`] of the logits.
    """

    def __init__(self, model, args: DednTrainingArguments, write_card: Callable[[Path], None] | None = None, **kwargs):
        kwargs.setdefault("compute_metrics", self._gzsl_metrics)
        self.write_card = write_card
        self._loss_part_names, self._loss_part_sums, self._num_losses = [], 0, 0
        super().__init__(model=model, args=args, **kwargs)
        self.add_callback(_SetEpoch)
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(_ReadableProgress)

    def _gzsl_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        config = self.accelerator.unwrap_model(self.model).config
        return gzsl_metrics(prediction.predictions[0], prediction.label_ids, config.seen_class_ids)

    def _get_train_sampler(self, train_dataset=None):
        if not self.args.balanced_batches:
            return super()._get_train_sampler(train_dataset)
        train_dataset = self.train_dataset if train_dataset is None else train_dataset
        global_batch_size = (
            self.args.train_batch_size * self.args.gradient_accumulation_steps * self.accelerator.num_processes
        )
        return ClassBalancedSampler(train_dataset.labels, global_batch_size, seed=self.args.seed)

    def _save(self, output_dir: str | None = None, state_dict=None):
        super()._save(output_dir, state_dict)
        # The Trainer calls this on every rank.
        if self.write_card is not None and self.args.should_save:
            self.write_card(Path(output_dir or self.args.output_dir))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if model.training:
            # Summed where they are: nothing waits for the device before a log does.
            self._loss_part_names = list(outputs["loss_parts"])
            self._loss_part_sums += torch.stack([part.detach() for part in outputs["loss_parts"].values()])
            self._num_losses += 1
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean of each term since the last log, over micro-batches and ranks, to that of the loss."""
        if "loss" in logs and self._num_losses:
            # Several GPUs without a launcher give one value each.
            means = (self._loss_part_sums / self._num_losses).view(len(self._loss_part_names), -1).mean(dim=1)
            means = self.accelerator.reduce(means, reduction="mean")
            logs |= {f"loss_{name}": mean for name, mean in zip(self._loss_part_names, means.tolist())}
            self._loss_part_sums, self._num_losses = 0, 0
        super().log(logs, start_time)
