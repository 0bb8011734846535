"""bfloat16 or float32 in training: as the run that is there, or as one step of a new one is faster."""

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import default_data_collator

from ..files import read_json
from ..modeling_dedn import DednModel
from ..precision import choose_bf16
from .arguments import DednTrainingArguments
from .run_folder import from_main
from .trainer import train_parameters


def settle_bf16(
    asked: bool | str, args: DednTrainingArguments, make_model: Callable[[], DednModel], examples: Dataset
) -> DednTrainingArguments:
    """
    The arguments with `bf16` as it is to be. The first process decides, see [`choose_bf16`]; what the run in
    `args.output_dir` was begun with stays, also on another machine.

    Args:
        asked (`bool` or `str`):
            `True`, `False` or `"auto"`.
        args (`DednTrainingArguments`):
            The arguments.
        make_model (`Callable[[], DednModel]`):
            Makes a model like the one that is to be trained, of which a step is timed.
        examples (`Dataset`):
            What it is trained on.
    """

    def prepare() -> tuple[Callable[[bool], object], int]:
        model = make_model().to(args.device).train()
        if args.trained_backbone_parameters is not None:
            train_parameters(model.backbone, args.trained_backbone_parameters)
        indices = range(min(args.per_device_train_batch_size, len(examples)))
        batch = default_data_collator(examples.__getitems__([*indices]))
        batch = {name: value.to(args.device) for name, value in batch.items()}

        def step(bf16: bool):
            with torch.autocast(args.device.type, torch.bfloat16, enabled=bf16):
                loss = model(**batch).loss
            loss.backward()
            model.zero_grad()

        return step, len(indices)

    bf16 = from_main(lambda: choose_bf16(asked, args.device, prepare, lambda: _recorded_bf16(Path(args.output_dir))))
    return args if bf16 == args.bf16 else dataclasses.replace(args, bf16=bf16)


def _recorded_bf16(output_dir: Path) -> bool | None:
    """What the run that is in a folder, finished or not, computes in; `None` if there is none, or it does not say."""
    for file in (output_dir / "results.json", output_dir / "unfinished/request.json"):
        # One that is damaged is refused when it is gone on with.
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            return bool(read_json(file)["settings"]["bf16"])
    return None
