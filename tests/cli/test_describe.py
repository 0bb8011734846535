"""What a model understands of a text, from its config alone."""

import json
import shutil
import sys

import pytest
from command_line import CommandFailed

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
