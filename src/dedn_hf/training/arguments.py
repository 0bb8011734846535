"""Arguments of training, and the settings that each data set starts from."""

from dataclasses import dataclass, field

from transformers import TrainingArguments

_RELEASED = {
    "optim": "rmsprop",
    "optim_args": "momentum=0.9",
    "learning_rate": 1e-4,
    "weight_decay": 1e-4,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "per_device_train_batch_size": 50,
    "num_train_epochs": 80,
    "balanced_batches": True,
}
_OURS = {
    "optim": "adamw_torch",
    "learning_rate": 1e-3,
    "weight_decay": 1e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "max_grad_norm": 0.0,
    "per_device_train_batch_size": 50,
    "num_train_epochs": 24,
    "balanced_batches": True,
}

# Protocol → data set → arguments. `reference` is as released; AWA2 has 40 seen classes, hence its batch of 40.
RECIPES = {
    "reference": {
        "cub": _RELEASED,
        "sun": _RELEASED | {"balanced_batches": False},
        "awa2": _RELEASED | {"num_train_epochs": 20, "per_device_train_batch_size": 40},
        "synthetic_birds": _RELEASED,
    },
    "validated": {
        "cub": _OURS,
        "sun": _OURS | {"balanced_batches": False},
        "awa2": _OURS | {"num_train_epochs": 8, "per_device_train_batch_size": 20},
        "synthetic_birds": _OURS,
    },
}


@dataclass
class DednTrainingArguments(TrainingArguments):
    """
    [`TrainingArguments`] with what [`DednTrainer`] adds, and defaults that fit it.

    Args:
        balanced_batches (`bool`, *optional*, defaults to `True`):
            Whether each batch has one image each of different classes, as released for CUB and AWA2, see
            [`ClassBalancedSampler`].
    """

    balanced_batches: bool = field(
        default=True, metadata={"help": "Make batches of one image each of different classes."}
    )
    output_dir: str | None = field(default=None, metadata={"help": "Where results go; outputs/<dataset> if not given."})
    # The columns are named as the model's inputs; the Trainer would look for them in a signature and drop others.
    remove_unused_columns: bool = field(default=False, metadata={"help": "Drop columns that the model does not take."})
    per_device_eval_batch_size: int = field(default=100, metadata={"help": "Batch size per device in evaluation."})
    logging_steps: float = field(default=50, metadata={"help": "Log every so many steps."})
