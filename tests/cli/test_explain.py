from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import CommandFailed
from PIL import Image

import dedn_hf.data
from dedn_hf.data.synthetic_birds import load as load_synthetic_birds
from dedn_hf.recipes import read_recipe
from dedn_hf.training.inputs import prepare_inputs
from dedn_hf.training.protocol import build_model

RECIPE = read_recipe("synthetic_birds").model


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("cache"))
    return load_synthetic_birds(images_per_class=6, image_size=64, cache_dir=cache)


@pytest.fixture(scope="module")
def model_folder(birds, tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    model = build_model(birds, range(110), birds.unseen_class_ids, **RECIPE | {"grid_size": 4})
    model.save_pretrained(folder)
    prepare_inputs(birds, config=RECIPE).image_processor.save_pretrained(folder)
    return folder


@pytest.fixture
def run(birds, model_folder, dedn, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dedn_hf.data, "load_gzsl_dataset", lambda *args, **kwargs: birds)
    monkeypatch.chdir(tmp_path)

    def run(*arguments, model=model_folder):
        dedn("explain", "--model", model, *arguments)
        return capsys.readouterr().out

    return run


def test_image_of_an_unseen_class(run, birds, tmp_path):
    printed = run("--dataset", "synthetic_birds", "--index", 7, "--top_classes", 3, "--top_attributes", 4)
    truth = birds.class_names[birds.splits["test_unseen"][7]["label"]]
    assert f"True class: {truth}, a class of which the model was never shown an image." in printed
    classes, attributes = printed.split("What sets ")
    assert classes.count("(seen)") + classes.count("(unseen)") == 3
    assert ", in points of their scores' difference:" in attributes
    # "+0.01  red wing": a number and words, not has_wing_color::red.
    lines = [line for line in attributes.splitlines() if line.startswith("  ")]
    assert len(lines) == 4 and "has_" not in attributes
    path = tmp_path / "synthetic_birds_test_unseen_7_explanation.png"
    assert str(path.name) in printed
    with Image.open(path) as picture:
        picture.verify()
        assert picture.size[0] == 1200


@pytest.mark.parametrize(
    "split, known",
    [("test_seen", "but this image was not in training"), ("trainval", "one of those it may have learned from")],
)
def test_image_of_a_seen_class(run, birds, split, known):
    printed = run("--dataset", "synthetic_birds", "--split", split, "--output", "out/picture.png")
    assert f"True class: {birds.class_names[birds.splits[split][0]['label']]}, a class that the model" in printed
    assert known in printed
    assert Path("out/picture.png").is_file()


def test_image_file_that_is_not_square(run, birds):
    image = birds.splits["test_unseen"][0]["image"]
    wide = Image.new("L", (200, 90))
    wide.paste(image.convert("L"), (70, 10))
    wide.save("bird.jpg")
    printed = run("bird.jpg")
    assert "True class" not in printed and "What it may be" in printed
    assert Path("bird_explanation.png").is_file()


def test_image_of_sixteen_bits(run, birds):
    grey = birds.splits["test_unseen"][0]["image"].convert("L")
    grey.save("bird.png")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save("fine.png")
    assert run("fine.png").replace("fine", "bird") == run("bird.png")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "name either an image file or a --dataset"),
        (["bird.png", "--dataset", "synthetic_birds"], "name either an image file or a --dataset"),
        (["bird.png"], "there is no image file bird.png"),
        (["--dataset", "synthetic_birds", "--top_attributes", "0"], "--top_attributes is 0"),
        (["--dataset", "synthetic_birds", "--output", "bird.jpg"], "must be a .png file"),
        (["--dataset", "synthetic_birds", "--split", "test"], "invalid choice"),
    ],
)
def test_bad_arguments(run, arguments, message):
    with pytest.raises(CommandFailed) as error:
        run(*arguments)
    assert error.value.status == 2 and message in str(error.value) and str(error.value).count("\n") == 1


def test_other_errors_without_traceback(run, birds, tmp_path):
    with pytest.raises(CommandFailed, match=r"error: test_unseen has images from 0 to 119, and no 120"):
        run("--dataset", "synthetic_birds", "--index", 120)
    Path("text.jpg").write_text("no image")
    with pytest.raises(CommandFailed, match=r"error: text\.jpg cannot be read: it is no image"):
        run("text.jpg")
    Image.new("RGB", (64, 64)).save("bird.png")
    with pytest.raises(CommandFailed):
        run("bird.png", "--output", "./bird.png")
    with Image.open("bird.png") as image:
        assert image.size == (64, 64)
    build_model(birds, range(110), birds.unseen_class_ids, **RECIPE | {"backbone_config": None}).save_pretrained(
        tmp_path / "maps"
    )
    prepare_inputs(birds, config=RECIPE).image_processor.save_pretrained(tmp_path / "maps")
    with pytest.raises(CommandFailed, match="error: This model has no backbone"):
        run("bird.png", model=tmp_path / "maps")
