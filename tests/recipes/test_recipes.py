import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from golden_cases import VARIANTS, load_case
from PIL import Image
from tiny_training import CHANNELS, GRID, NUM_ATTRIBUTES, make_tiny_dataset

import dedn_hf
from dedn_hf import DednConfig
from dedn_hf.data.load import dataset_card, dataset_module
from dedn_hf.recipes import FOLDER, DatasetNames, further_recipes, parse_indices, read_recipe, recipe_names, short_name
from dedn_hf.training import DednTrainingArguments
from dedn_hf.training.arguments import CONFIG_SETTINGS
from dedn_hf.training.protocol import build_model

SOURCE = Path(dedn_hf.__file__).parent


def released(variant, **changes):
    model = read_recipe(variant, "reference").model
    names = [f"attribute {index}" for index in range(sum(map(len, model["attribute_groups"].values())))]
    return DednConfig(**model | {"attribute_names": names} | changes)


@pytest.mark.parametrize(
    "variant, sizes",
    [
        ("cub", {"head": 112, "torso": 87, "wing": 24, "tail": 40, "leg": 15, "whole body": 34}),
        ("sun", {"function": 64, "element": 27, "environment and material": 9, "other": 2}),
        ("awa2", {"texture": 18, "limb": 15, "abstract": 38, "environment": 14}),
    ],
)
def test_reference_groups_have_the_released_sizes(variant, sizes):
    groups = read_recipe(variant, "reference").model["attribute_groups"]
    assert {name: len(indices) for name, indices in groups.items()} == sizes


@pytest.mark.parametrize("variant", VARIANTS)
def test_reference_groups_are_the_golden_ones(variant):
    case, _ = load_case(variant)
    for group, indices in enumerate(read_recipe(variant, "reference").model["attribute_groups"].values()):
        assert indices == (case["input.attribute_group"] == group).nonzero().flatten().tolist()


def test_new_models_of_sun_have_the_groups_that_were_meant():
    groups = read_recipe("sun").model["attribute_groups"]
    assert {name: len(indices) for name, indices in groups.items()} == {
        "function": 38,
        "element": 27,
        "environment and material": 17,
        "other": 20,
    }
    assert list(groups) == list(read_recipe("sun", "reference").model["attribute_groups"])


@pytest.mark.parametrize(
    "variant, grid, rank, target, seen, calibration, region_mix, coarse_mix",
    [
        ("cub", 14, None, 2, 1, 0, 0.8, 0.9),
        ("sun", 14, 256, 1, 1, 0, 0.95, 0.3),
        ("awa2", 7, None, 1, 1, 0.11, 0.8, 0.5),
    ],
)
def test_reference_settings_are_the_released_ones(
    variant, grid, rank, target, seen, calibration, region_mix, coarse_mix
):
    config = released(variant)
    assert (config.feature_channels, config.grid_size, config.word_vector_size) == (2048, grid, 300)
    assert (config.region_value_rank, config.region_value_std) == (rank, None if rank is None else 1)
    assert (config.target_margin, config.seen_margin, config.class_bias) == (target, seen, 1)
    assert config.self_calibration_weight == calibration
    assert (config.distillation_weight, config.alignment_weight) == (0.1, 0.001)
    assert (config.region_mix, config.coarse_mix) == (region_mix, coarse_mix)
    assert config.backbone_config is None and config.calibration is None and config.normalize_features


def test_reference_trains_as_released():
    for name in recipe_names():
        training = read_recipe(name, "reference").training
        assert training["optim"] == "rmsprop" and training["optim_args"] == "momentum=0.9"
        assert training["learning_rate"] == training["weight_decay"] == 1e-4
        assert training["lr_scheduler_type"] == "constant" and training["max_grad_norm"] == 0
    trainings = [read_recipe(name, "reference").training for name in ("cub", "sun", "awa2")]
    assert [training["num_train_epochs"] for training in trainings] == [80, 80, 20]
    assert [training["balanced_batches"] for training in trainings] == [True, False, True]


@pytest.mark.parametrize("protocol", ["validated", "validation", "reference"])
@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_makes_arguments_and_a_config(name, protocol, tmp_path):
    recipe = read_recipe(name, protocol)
    assert recipe.dataset == name
    arguments = DednTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **recipe.training)
    assert {key: getattr(arguments, key) for key in recipe.training} == recipe.training
    known = set(DednConfig().to_dict()) | {"backbone_config", "freeze_backbone"}
    assert set(recipe.model) <= known
    # What is tuned can be set from the command line, too.
    assert {key for key in recipe.model if key.endswith(("_weight", "margin", "bias"))} <= set(CONFIG_SETTINGS)


@pytest.mark.parametrize("protocol", ["validated", "reference"])
@pytest.mark.parametrize("name", recipe_names())
def test_word_vectors_may_have_any_width(name, protocol):
    dataset = make_tiny_dataset(word_vectors=np.ones((NUM_ATTRIBUTES, 5), np.float32))
    small = {"feature_channels": CHANNELS, "grid_size": GRID, "backbone_config": None}
    config = read_recipe(name, protocol).model | small | {"attribute_groups": dataset.attribute_groups}
    assert build_model(dataset, range(3), [2], **config).config.word_vector_size == 5


@pytest.mark.parametrize("name", recipe_names())
def test_validation_is_the_first_half_of_validated(name):
    assert read_recipe(name, "validation") == read_recipe(name, "validated")


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_headed_by_its_command_and_belongs_to_a_module(name):
    head = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").split("dataset:")[0]
    assert re.search(r"^#   dedn train", head, re.MULTILINE)
    module = dataset_module(name)
    assert callable(module.load) and (module.CARD.built_in or callable(module.load_images))
    assert all(getattr(module.CARD, field.name) for field in fields(module.CARD)[:10])


def test_a_data_set_without_a_recipe_has_the_card_of_own_images():
    assert dataset_card("my_flowers") is dataset_card("folder")


def test_parse_indices():
    assert parse_indices("1-3,7") == [0, 1, 2, 6]


def test_what_stands_under_a_protocol_goes_over_what_stands_above(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "dataset: cub\ntraining: {max_steps: 3}\n"
        "model: {class_bias: 2.0, coarse_mix: 0.5, attribute_groups: {all: 1-3}}\n"
        "protocols: {reference: {model: {coarse_mix: 0.1}, training: {learning_rate: 0.1}}}\n"
    )
    groups = {"all": [0, 1, 2]}
    recipe = read_recipe(file)
    assert recipe.model == {"class_bias": 2.0, "coarse_mix": 0.5, "attribute_groups": groups}
    assert recipe.training == {"max_steps": 3}
    recipe = read_recipe(file, "reference")
    assert recipe.model == {"class_bias": 2.0, "coarse_mix": 0.1, "attribute_groups": groups}
    assert recipe.training == {"max_steps": 3, "learning_rate": 0.1}


@pytest.mark.parametrize(
    "text, message",
    [
        ("- cub\n", "must say `dataset:` with one of awa2, cub"),
        ("model: {}\n", "must say `dataset:`"),
        ("dataset: flowers\n", "must say `dataset:`"),
        ("dataset: cub\nmodels: {}\n", "has models at the top; there may be dataset, model, protocols, training"),
        ("dataset: cub\nprotocols: {fast: {}}\n", "has fast at protocols; there may be reference, validated"),
        ("dataset: cub\nprotocols: {reference: {optim: x}}\n", "has optim at reference"),
        ("dataset: cub\nprotocols: [a]\n", "no names and values at protocols"),
        ("dataset: cub\nmodel: 3\n", "no names and values at model"),
        ("dataset: cub\nmodel: {attribute_groups: {a: 1-x}}\n", "no ranges such as 1-9,95"),
        ("a: [\n", "cannot be read"),
        (None, "cannot be read: .*No such file"),
    ],
)
def test_a_wrong_recipe_is_named(tmp_path, text, message):
    file = tmp_path / "mine.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=f"mine.yaml.*{message}"):
        read_recipe(file)


@pytest.mark.parametrize("name", further_recipes())
def test_further_recipes_are_no_data_sets(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = read_recipe(name)
    assert (
        recipe
        == read_recipe(f"{name}.yaml")
        == read_recipe(FOLDER / f"{name}.yaml")
        == read_recipe(name, "validation")
    )
    assert recipe.dataset in recipe_names() and recipe.dataset != name
    assert name not in recipe_names() and name not in DatasetNames()
    head = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").split("dataset:")[0]
    assert re.search(rf"^#   dedn train .*--recipe {name}\b", head, re.MULTILINE)
    arguments = DednTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **recipe.training)
    assert {key: getattr(arguments, key) for key in recipe.training} == recipe.training
    DednConfig(**recipe.model)
    with pytest.raises(ValueError, match=f"'{name}' is no data set, but a recipe of {recipe.dataset}: name that, and"):
        dataset_module(name)
    # A file of one's own of that name goes before it.
    (tmp_path / f"{name}.yaml").write_text("dataset: sun\n")
    (tmp_path / "cub").mkdir()
    assert read_recipe(f"{name}.yaml").dataset == "sun"
    assert read_recipe(name) == recipe and read_recipe("cub").dataset == "cub"


def test_fine_tuning_has_the_losses_of_its_first_run():
    first, finer = read_recipe("cub"), read_recipe("cub_finetune")
    assert set(finer.model) - set(first.model) == {"freeze_backbone", "freeze_batch_norm"}
    assert all(first.model[name] == value for name, value in finer.model.items() if name in first.model)
    batches = [
        training["per_device_train_batch_size"] * training.get("gradient_accumulation_steps", 1)
        for training in (first.training, finer.training)
    ]
    assert batches[0] == batches[1]


def test_no_such_recipe_or_protocol():
    with pytest.raises(
        ValueError, match=r"no data set 'cub_finer'; choose one of .*Recipes beside theirs: cub_finetune"
    ):
        read_recipe("cub_finer")
    with pytest.raises(ValueError, match="There is no data set 'flowers'; choose one of awa2, cub, folder, sun, syn"):
        read_recipe("flowers")
    with pytest.raises(
        ValueError, match="There is no protocol 'fast'; choose one of validated, validation, reference"
    ):
        read_recipe("cub", "fast")


def test_data_sets_of_the_proposed_split_release_have_the_settings_of_a_folder():
    recipe = read_recipe("xlsa17/APY")
    assert recipe.dataset == "xlsa17/APY" and recipe.training == read_recipe("folder").training
    assert short_name("xlsa17/APY") == "apy" and short_name("cub") == "cub"
    assert short_name("org/Birds") == "birds" and short_name("imagefolder") == "imagefolder"
    assert short_name("org/CUB") == "cub-imagefolder"
    assert "xlsa17/AWA1" in DatasetNames() and "cub" in DatasetNames()
    for name in ("xlsa17", "xlsa17/", "xlsa17/..", "xlsa17/a/b", "flowers"):
        assert name not in DatasetNames()


def test_a_data_set_is_spoken_of_in_its_own_files_alone():
    """Only its module, its recipe, and where the released variants are converted."""
    files = [file for file in SOURCE.rglob("*") if file.suffix in (".py", ".yaml", ".md", ".json")]
    named = {file.relative_to(SOURCE).as_posix() for file in files if "awa2" in file.read_text("utf-8").lower()}
    assert named == {"data/awa2.py", "recipes/awa2.yaml", "convert_original_checkpoint.py"}


TOY = """
import numpy as np
from datasets import Dataset, DatasetDict

from .dataset import DatasetCard, GzslDataset, image_features

NAMES = ["ball", "block", "top"]
CARD = DatasetCard("Toy", "toy", "toys", "Toys.", {"license": "mit"}, "Any.", "None.", "toy.png", "ball", ("round",))


def load_images(data_dir, check_files=True):
    if check_files:
        raise ValueError("toys have no images")
    rows = {"image": ["ball.png", "block.png"], "label": [0, 1], "image_id": [0, 1]}
    return Dataset.from_dict(rows, features=image_features(NAMES))


def load(data_dir, check_files=True):
    parts = ("train", "validation_seen", "validation_unseen", "test_seen", "test_unseen", "trainval")
    return GzslDataset(
        name="toy",
        splits=DatasetDict({part: Dataset.from_dict({"label": [0, 1], "image_id": [0, 1]}) for part in parts}),
        class_names=NAMES,
        attribute_names=["round", "flat"],
        attribute_groups=None,
        class_attributes=np.eye(3, 2, dtype=np.float32),
        seen_class_ids=[0, 1],
        validation_class_ids=[1],
        split_name="toys",
        split_sha256="0" * 64,
    )
"""


@pytest.mark.slow
def test_two_files_add_a_data_set(tmp_path):
    shutil.copytree(SOURCE, tmp_path / "dedn_hf", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "dedn_hf/data/toy.py").write_text(TOY)
    (tmp_path / "dedn_hf/recipes/toy.yaml").write_text("dataset: toy\nmodel: {attribute_groups: {shape: 1-2}}\n")
    for name, color in (("ball", "red"), ("block", "blue")):
        Image.new("RGB", (8, 8), color).save(tmp_path / f"{name}.png")

    def run(*arguments):
        process = subprocess.run(
            [sys.executable, "-m", "dedn_hf", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        return process.returncode, process.stdout + process.stderr

    status, printed = run("train", "--dataset", "toy", "--data_dir", ".", "--word_vectors", "random", "--check")
    assert status == 0 and "classes: 3, of them 2 seen" in printed, printed
    assert "toy" in run("train", "--help")[1]
    status, printed = run("train", "--dataset", "toy", "--data_dir", ".", "--word_vectors", "random")
    assert (status, printed.count("\n")) == (2, 1) and "Training on toy with a frozen backbone takes stored" in printed
    status, printed = run(
        "features", "--dataset", "toy", "--data_dir", ".", "--backbone", "b", "--image_size", "9", "--output_dir", "s"
    )
    assert (status, printed) == (2, "error: toys have no images\n")
