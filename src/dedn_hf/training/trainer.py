"""The Trainer of DEDN."""

from collections import defaultdict

import torch
from transformers import EvalPrediction, Trainer

from ..evaluation import gzsl_metrics
from .arguments import DednTrainingArguments
from .sampler import ClassBalancedSampler


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
        kwargs (*optional*):
            As in [`Trainer`]. With class-balanced batches `train_dataset` must have an attribute `labels`, as
            [`PixelValueDataset`] and [`FeatureMapDataset`] have. `compute_metrics` is by default [`gzsl_metrics`] of the
            logits.
    """

    def __init__(self, model, args: DednTrainingArguments, **kwargs):
        kwargs.setdefault("compute_metrics", self._gzsl_metrics)
        self._loss_parts = defaultdict(list)
        super().__init__(model=model, args=args, **kwargs)

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

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(
            model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
        )
        if model.training:
            for name, part in outputs["loss_parts"].items():
                self._loss_parts[name].append(part.detach())
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean of each term of the loss since the last log, over all ranks, to the training loss's."""
        if "loss" in logs and self._loss_parts:
            means = torch.stack([torch.stack(parts).mean() for parts in self._loss_parts.values()])
            means = self.accelerator.reduce(means, reduction="mean")
            logs |= {f"loss_{name}": mean for name, mean in zip(self._loss_parts, means.tolist())}
            self._loss_parts.clear()
        super().log(logs, start_time)
