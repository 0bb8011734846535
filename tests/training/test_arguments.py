import dataclasses

import pytest
import torch

from dedn_hf.recipes import read_recipe
from dedn_hf.training import DednTrainingArguments
from dedn_hf.training.arguments import arguments_of_process, parse_config_overrides

# Data set → classes with training images, at most: while `validated` chooses, and of all trainval images.
NUM_CLASSES = {"cub": (100, 150), "sun": (580, 645), "awa2": (27, 40), "synthetic_birds": (70, 90), "folder": (1, 2)}


@pytest.mark.parametrize("protocol", ["validated", "reference"])
def test_balanced_batches_of_a_recipe_fit_the_classes(protocol):
    for dataset, (choosing, all_seen) in NUM_CLASSES.items():
        training = read_recipe(dataset, protocol).training
        if training["balanced_batches"]:
            # A batch has one image each of different classes.
            assert training["per_device_train_batch_size"] <= (choosing if protocol == "validated" else all_seen)


@pytest.mark.parametrize("world_size, per_device", [(1, 50), (2, 25), (4, 12), (64, 1)])
def test_devices_share_the_batch_of_a_recipe(monkeypatch, world_size, per_device):
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    training = read_recipe("cub").training
    assert arguments_of_process(training) == training | {"per_device_train_batch_size": per_device}
    assert arguments_of_process({"max_steps": 3}) == {"max_steps": 3}


@pytest.mark.parametrize(
    "given, expected",
    [
        (None, {}),
        ("", {}),
        ("distillation_weight=0", {"distillation_weight": 0.0}),
        ("target_margin = 1, class_bias=0", {"target_margin": 1.0, "class_bias": 0.0}),
    ],
)
def test_config_overrides(given, expected):
    assert parse_config_overrides(given) == expected


@pytest.mark.parametrize(
    "given, message",
    [
        ("grid_size=3", "cannot set 'grid_size', only class_bias, target_margin"),
        ("distillation_weight", "sets distillation_weight to '', which it cannot be: could not convert"),
        ("target_margin=large", "sets target_margin to 'large', which it cannot be: could not convert"),
    ],
)
def test_wrong_config_overrides(given, message):
    with pytest.raises(ValueError, match=message):
        parse_config_overrides(given)


def test_arguments_can_be_replaced(tmp_path):
    args = DednTrainingArguments(output_dir=str(tmp_path), use_cpu=True, warmup_steps=0.1, bf16=True)
    again = dataclasses.replace(args, seed=3, eval_strategy="epoch")
    assert again.seed == 3 and again.bf16 and again.warmup_steps == 0.1
    differing = [
        f.name for f in dataclasses.fields(args) if f.init and getattr(args, f.name) != getattr(again, f.name)
    ]
    assert set(differing) <= {"seed", "eval_strategy", "do_eval", "accelerator_config"}


@pytest.mark.parametrize("value", ["auto", "false", 0.5])
def test_bf16_of_the_trainer_is_a_bool(tmp_path, value):
    with pytest.raises(ValueError, match=rf"`bf16` is {value!r}, but must be True or False here"):
        DednTrainingArguments(str(tmp_path), bf16=value)


@pytest.mark.parametrize("option", ["bf16", "bf16_full_eval"])
def test_bf16_needs_no_use_cpu_where_there_is_no_gpu(tmp_path, monkeypatch, option):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    args = DednTrainingArguments(str(tmp_path), **{option: True})
    assert args.use_cpu and args.device.type == "cpu" and args.mixed_precision == ("bf16" if args.bf16 else "no")
    assert not DednTrainingArguments(str(tmp_path)).bf16


@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "greedy"])
def test_schedule_that_goes_by_a_metric(tmp_path, schedule):
    options = {"output_dir": str(tmp_path), "lr_scheduler_type": schedule, "eval_strategy": "epoch", "use_cpu": True}
    assert DednTrainingArguments(**options).lr_scheduler_kwargs == {"mode": "max"}
    given = DednTrainingArguments(**options, lr_scheduler_kwargs='{"patience": 3}')
    assert given.lr_scheduler_kwargs == {"mode": "max", "patience": 3}
    assert dataclasses.replace(given, seed=1).lr_scheduler_kwargs == given.lr_scheduler_kwargs
    assert not DednTrainingArguments(**options, metric_for_best_model="loss").lr_scheduler_kwargs


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"backbone_learning_rate": -0.1}, "`backbone_learning_rate` must be 0 or more, but it is -0.1"),
        ({"trained_backbone_parameters": "("}, r"`trained_backbone_parameters` is '\(', which is no regular ex"),
        ({"backbone_learning_rate": float("nan")}, "`backbone_learning_rate` must be 0 or more, but it is nan"),
        ({"random_crop_scale": 0.0}, r"`random_crop_scale` is a share of an image's area, above 0 .* it is 0\.0"),
        ({"random_crop_scale": 50.0}, r"`random_crop_scale` is a share of an image's area, above 0 .* it is 50\.0"),
    ],
)
def test_wrong_settings_of_fine_tuning(tmp_path, setting, message):
    with pytest.raises(ValueError, match=message):
        DednTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **setting)
