import dataclasses

import pytest

from dedn_hf.configuration_dedn import PRESETS, DednConfig
from dedn_hf.training import CONFIG_RECIPES, RECIPES, DednTrainingArguments, recipe, recipe_config
from dedn_hf.training.arguments import CONFIG_SETTINGS

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


def test_config_recipes():
    assert CONFIG_RECIPES.keys() == RECIPES.keys()
    for protocol, recipes in CONFIG_RECIPES.items():
        assert recipes.keys() == RECIPES[protocol].keys()
        for settings in recipes.values():
            assert settings.keys() <= set(CONFIG_SETTINGS)
            config = DednConfig(**settings)
            assert {name: getattr(config, name) for name in settings} == settings
    # As released.
    assert not any(CONFIG_RECIPES["reference"].values())
    assert CONFIG_RECIPES["validation"] == CONFIG_RECIPES["validated"]


def test_every_loss_weight_of_a_preset_can_be_set():
    weights = {name for preset in PRESETS.values() for name in preset if name.endswith(("_weight", "margin", "bias"))}
    assert weights and weights <= set(CONFIG_SETTINGS)


@pytest.mark.parametrize(
    "given, expected",
    [
        (None, {}),
        ("", {}),
        ("distillation_weight=0", {"distillation_weight": 0.0}),
        ("target_margin = 1, class_bias=0", {"target_margin": 1.0, "class_bias": 0.0}),
    ],
)
def test_config_overrides_go_over_the_recipe(given, expected):
    recipe = CONFIG_RECIPES["validated"]["cub"]
    assert recipe_config("validated", "cub", given) == recipe | expected
    # The recipe itself is not changed.
    assert recipe_config("validated", "cub") == recipe


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
        recipe_config("validated", "cub", given)


def test_arguments_can_be_replaced(tmp_path):
    args = DednTrainingArguments(output_dir=str(tmp_path), use_cpu=True, warmup_steps=0.1, bf16=True)
    again = dataclasses.replace(args, seed=3, eval_strategy="epoch")
    assert again.seed == 3 and again.bf16 and again.warmup_steps == 0.1
    differing = [
        f.name for f in dataclasses.fields(args) if f.init and getattr(args, f.name) != getattr(again, f.name)
    ]
    assert set(differing) <= {"seed", "eval_strategy", "do_eval", "accelerator_config"}
