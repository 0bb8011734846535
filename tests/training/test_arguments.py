import dataclasses

import pytest

from dedn_hf.training import RECIPES, DednTrainingArguments, recipe

# Data set → classes with training images, at most: while `validated` chooses, and of all trainval images.
NUM_CLASSES = {"cub": (100, 150), "sun": (580, 645), "awa2": (27, 40), "synthetic_birds": (70, 90), "folder": (1, 2)}


@pytest.mark.parametrize("protocol", RECIPES)
def test_recipes_make_arguments(protocol, tmp_path):
    for dataset, settings in RECIPES[protocol].items():
        args = DednTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **settings)
        for name, value in settings.items():
            assert getattr(args, name) == value
        choosing, all_seen = NUM_CLASSES[dataset]
        if args.balanced_batches:
            # A batch has one image each of different classes.
            assert args.per_device_train_batch_size <= (choosing if protocol == "validated" else all_seen)


def test_reference_is_as_released():
    for dataset in ("cub", "sun", "awa2"):
        settings = RECIPES["reference"][dataset]
        assert settings["optim"] == "rmsprop" and settings["optim_args"] == "momentum=0.9"
        assert settings["learning_rate"] == settings["weight_decay"] == 1e-4
        assert settings["lr_scheduler_type"] == "constant" and settings["max_grad_norm"] == 0
    assert [RECIPES["reference"][name]["num_train_epochs"] for name in ("cub", "sun", "awa2")] == [80, 80, 20]
    assert [RECIPES["reference"][name]["balanced_batches"] for name in ("cub", "sun", "awa2")] == [True, False, True]


@pytest.mark.parametrize("world_size, per_device", [(1, 50), (2, 25), (4, 12), (64, 1)])
def test_devices_share_the_batch_of_a_recipe(monkeypatch, world_size, per_device):
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    assert recipe("validated", "cub") == RECIPES["validated"]["cub"] | {"per_device_train_batch_size": per_device}


def test_arguments_can_be_replaced(tmp_path):
    args = DednTrainingArguments(output_dir=str(tmp_path), use_cpu=True, warmup_steps=0.1, bf16=True)
    again = dataclasses.replace(args, seed=3, eval_strategy="epoch")
    assert again.seed == 3 and again.bf16 and again.warmup_steps == 0.1
    differing = [
        f.name for f in dataclasses.fields(args) if f.init and getattr(args, f.name) != getattr(again, f.name)
    ]
    assert set(differing) <= {"seed", "eval_strategy", "do_eval", "accelerator_config"}
