"""What a model understands of a text, from its config alone."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from command_line import CommandFailed
from synthetic_model import SYNTHETIC_MODEL
from tiny_pipeline import make_image
from transformers import pipeline

from dedn_hf.data.class_table import load_class_table
from dedn_hf.registration import DEFAULT_MODEL


@pytest.fixture
def config_only(tmp_path):
    shutil.copy(DEFAULT_MODEL / "config.json", tmp_path)
    return tmp_path


def test_a_config_is_enough(dedn, config_only, capsys):
    dedn("describe", "--model", config_only, "--text", "a red belly, often a blue head, no crest and a heart")
    printed = capsys.readouterr()
    lines = [line.split(None, 1) for line in printed.out.splitlines()]
    assert ["1.00", "belly color: red", "red belly"] in [[a, *map(str.strip, b.split("  ", 1))] for a, b in lines]
    assert [float(strength) for strength, _ in lines] == [1.0, 0.7, 0.7, 0.7, 0.0]
    assert printed.err.startswith("not read: ") and "heart" in printed.err


def test_json(dedn, config_only, capsys):
    dedn("describe", "--model", config_only, "--json", "--text", "a red belly and a heart")
    assert json.loads(capsys.readouterr().out) == {
        "attributes": {"has_belly_color::red": 1.0},
        "sources": {"has_belly_color::red": "red belly"},
        "unread": ["heart"],
    }


def test_nothing_understood(dedn, config_only):
    with pytest.raises(CommandFailed, match="of 'hello' nothing is understood"):
        dedn("describe", "--model", config_only, "--text", "hello")
    with pytest.raises(CommandFailed, match="no model folder nowhere"):
        dedn("describe", "--model", "nowhere", "--text", "a red belly")


def test_another_kind_of_model(dedn, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}')
    with pytest.raises(CommandFailed, match="a model of type 'resnet', but one of DEDN is needed"):
        dedn("describe", "--model", tmp_path, "--text", "a red belly")


def test_no_weights_are_read(dedn, config_only, monkeypatch):
    monkeypatch.setitem(sys.modules, "dedn_hf.modeling_dedn", None)  # importing it fails
    dedn("describe", "--model", config_only, "--text", "a red belly")


PHOTOS = [f"photos/{number}.png" for number in range(2)]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for number, path in enumerate(PHOTOS):
        make_image(number, width=80, height=60).save(path)
    return tmp_path


def test_photos_begin_a_table_and_go_on_with_it(dedn, photos, capsys):
    dedn("describe", *PHOTOS, "--name", "Lantern", "--classes", "birds.csv", "--model", SYNTHETIC_MODEL)
    assert "birds.csv: Lantern, 62 attributes" in capsys.readouterr().out
    before = Path("birds.csv").read_bytes()
    dedn("describe", "photos", "--name", "Marsh Flute", "--classes", "birds.csv", "--model", SYNTHETIC_MODEL)
    assert Path("birds.csv").read_bytes().startswith(before)
    table = load_class_table("birds.csv")
    assert table.class_names == ["Lantern", "Marsh Flute"]
    classifier = pipeline("zero-shot-attribute-classification", model=str(SYNTHETIC_MODEL), device="cpu")
    described = classifier.describe(PHOTOS)
    for strengths in table.descriptions().values():
        assert strengths == pytest.approx(described, abs=0.005)


def test_photos_and_words_are_shown(dedn, photos, capsys):
    dedn("describe", PHOTOS[0], "--text", "a red wing", "--model", SYNTHETIC_MODEL, "--json")
    printed = capsys.readouterr()
    strengths = json.loads(printed.out)["attributes"]
    assert len(strengths) == 62 and all(0 <= strength <= 1 for strength in strengths.values())
    assert len(printed.err.splitlines()) == 20
    dedn("describe", PHOTOS[0], "--model", SYNTHETIC_MODEL, "--json")
    without = json.loads(capsys.readouterr().out)["attributes"]
    assert {name for name in strengths if strengths[name] != pytest.approx(without[name])} == {"has_wing_color::red"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "say what to describe: photos, or --text"),
        (["photos/0.png", "--name", "x"], "--name and --classes go together"),
        (["nothing.png"], "'nothing.png', cannot be read"),
        (["photos/0.png", "--name", "x", "--classes", "a.csv", "--json"], "leave one of them out"),
        (["--text", "a nice fellow", "--name", "x", "--classes", "a.csv"], "of which nothing is understood"),
        (["photos/0.png", "--name", "x", "--classes", "birds.xlsx"], "birds.xlsx is no CSV file"),
        (["photos/0.png", "--name", "One", "--classes", "mine.csv"], "mine.csv has the class 'one' already"),
        (["photos/0.png", "--name", "x", "--classes", "other.csv"], "no attributes of the model: corolla"),
    ],
)
def test_photos_that_cannot_be_described(dedn, photos, capsys, arguments, message):
    Path("mine.csv").write_text("class,wing color: red\none,1\n")
    Path("other.csv").write_text("class,corolla\none,1\n")
    before = {path: path.read_bytes() for path in photos.glob("*.csv")}
    with pytest.raises(CommandFailed, match=re.escape(message)):
        dedn("describe", *arguments, "--model", SYNTHETIC_MODEL)
    assert {path: path.read_bytes() for path in photos.glob("*.csv")} == before


def test_words_alone_make_a_row_of_a_table(dedn, photos, capsys):
    """The class that the same words are elsewhere, on the scale of tables."""
    text = "a red wing and a forked tail"
    dedn("describe", "--text", text, "--name", "Lantern", "--classes", "birds.csv", "--model", SYNTHETIC_MODEL)
    classifier = pipeline("zero-shot-attribute-classification", model=str(SYNTHETIC_MODEL), device="cpu")
    described = load_class_table("birds.csv").descriptions()
    labels = classifier(PHOTOS[0], described | {"Owl": ["has_tail_shape::pointed"]})["labels"]
    expected = classifier(PHOTOS[0], {"Lantern": text, "Owl": ["has_tail_shape::pointed"]})["labels"]
    for entry, other in zip(labels, expected):
        assert entry["label"] == other["label"] and entry["score"] == pytest.approx(other["score"], abs=0.01)
