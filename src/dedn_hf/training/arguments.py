"""Arguments of training, and what of a model's config may be set beside them."""

import math
import os
import re
from dataclasses import dataclass, field

import torch
from transformers import IntervalStrategy, TrainingArguments
from transformers.utils import is_torch_xla_available

from ..configuration_dedn import DednConfig

# What of the model's config a user may set from the command line. `results.json` records it.
CONFIG_SETTINGS = (
    "class_bias",
    "target_margin",
    "seen_margin",
    "self_calibration_weight",
    "distillation_weight",
    "alignment_weight",
)

# Schedules of the learning rate that go by `metric_for_best_model`, and take it for one that is best when it is low.
SCHEDULED_BY_METRIC = ("reduce_lr_on_plateau", "greedy")


def arguments_of_process(training: dict) -> dict:
    """
    Arguments of training of a recipe for one process. The batch of a recipe is the global one: each process of a
    launcher (`WORLD_SIZE`) gets its share, so that the number of devices changes nothing.

    Args:
        training (`dict`):
            `training` of a [`Recipe`].
    """
    if "per_device_train_batch_size" not in training:
        return dict(training)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    share = max(1, training["per_device_train_batch_size"] // world_size)
    return training | {"per_device_train_batch_size": share}


def parse_config_overrides(text: str | None) -> dict:
    """
    What of the model's config is to differ from the recipe.

    Args:
        text (`str`, *optional*):
            Some of `CONFIG_SETTINGS` with their values: `"distillation_weight=0,target_margin=1"`.

    Raises:
        ValueError: If there is no such setting, or it does not take that value; names it.
    """
    settings, config = {}, DednConfig()
    for item in filter(None, (text or "").replace(" ", "").split(",")):
        name, _, value = item.partition("=")
        if name not in CONFIG_SETTINGS:
            raise ValueError(f"--config_overrides cannot set {name!r}, only {', '.join(CONFIG_SETTINGS)}.")
        try:
            config.update_from_string(f"{name}={value}")
        except ValueError as error:
            raise ValueError(f"--config_overrides sets {name} to {value!r}, which it cannot be: {error}.") from error
        settings[name] = getattr(config, name)
    return settings


@dataclass
class DednTrainingArguments(TrainingArguments):
    """
    [`TrainingArguments`] with what [`DednTrainer`] adds, and defaults that fit it.

    Args:
        balanced_batches (`bool`, *optional*, defaults to `True`):
            Whether each batch has one image each of different classes, as released for most data sets, see
            [`ClassBalancedSampler`].
        backbone_learning_rate (`float`, *optional*):
            Highest learning rate of a backbone that is trained along, on the schedule of all others. Its norms and
            biases have no weight decay then. By default it is `learning_rate`.
        trained_backbone_parameters (`str`, *optional*):
            Regular expression of whole names of the backbone's parameters that are trained where it is trained along;
            all others stay as they are. What comes before the first of them costs a forward pass alone. By default all
            are trained.
        random_crop_scale (`float`, *optional*):
            Training images are flipped at random, and show a random part of this share of their area at least, see
            [`RandomCrop`]. By default they are as in evaluation.

    Raises:
        ValueError: If `backbone_learning_rate` is negative, `trained_backbone_parameters` is no regular expression, or
            `random_crop_scale` is no share; if `bf16` is neither `True` nor `False`. Where there is no accelerator,
            it needs no `use_cpu`.
    """

    balanced_batches: bool = field(
        default=True, metadata={"help": "Make batches of one image each of different classes."}
    )
    backbone_learning_rate: float | None = field(
        default=None, metadata={"help": "Highest learning rate of a backbone that is trained along."}
    )
    trained_backbone_parameters: str | None = field(
        default=None,
        metadata={"help": "Regular expression of names of a backbone's parameters: the others are not trained along."},
    )
    random_crop_scale: float | None = field(
        default=None,
        metadata={"help": "Flip training images at random, and crop to this share of their area at least, as 0.5."},
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "Where results go; outputs/<dataset> if not given."}
    )
    per_device_eval_batch_size: int = field(default=100, metadata={"help": "Batch size per device in evaluation."})
    logging_strategy: IntervalStrategy | str = field(default="epoch", metadata={"help": "When to log."})
    bf16: bool = field(
        default=False, metadata={"help": "Compute in bfloat16; `dedn train` takes auto, too, and by default."}
    )
    metric_for_best_model: str | None = field(default="H", metadata={"help": "What the best checkpoint is best in."})

    def __post_init__(self):
        if self.bf16 not in (True, False, None):
            raise ValueError(
                f"`bf16` is {self.bf16!r}, but must be True or False here. `dedn train --bf16 auto` and "
                "`run_protocol(…, bf16='auto')` find out which is faster."
            )
        if self.bf16 or self.bf16_full_eval:
            # TrainingArguments would ask for it.
            self.use_cpu = self.use_cpu or not (torch.accelerator.is_available() or is_torch_xla_available())
        super().__post_init__()
        if self.backbone_learning_rate is not None and not 0 <= self.backbone_learning_rate < math.inf:
            raise ValueError(f"`backbone_learning_rate` must be 0 or more, but it is {self.backbone_learning_rate}.")
        if self.trained_backbone_parameters is not None:
            try:
                re.compile(self.trained_backbone_parameters)
            except re.error as error:
                raise ValueError(
                    f"`trained_backbone_parameters` is {self.trained_backbone_parameters!r}, which is no regular "
                    f"expression: {error}."
                ) from error
        if self.random_crop_scale is not None and not 0 < self.random_crop_scale <= 1:
            raise ValueError(
                f"`random_crop_scale` is a share of an image's area, above 0 and up to 1, but it is "
                f"{self.random_crop_scale}."
            )
        # There is nothing to pin memory for, and torch would warn of it at every pass.
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False
        if self.lr_scheduler_type in SCHEDULED_BY_METRIC and self.greater_is_better:
            self.lr_scheduler_kwargs = {"mode": "max"} | (self.lr_scheduler_kwargs or {})
