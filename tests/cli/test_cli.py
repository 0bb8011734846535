"""What all commands have in common."""

import importlib
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from command_line import CommandFailed
from PIL import Image
from safetensors.torch import load_file, save_file
from synthetic_model import SYNTHETIC_MODEL
from transformers import ResNetConfig

from dedn_hf import __version__
from dedn_hf.cli import COMMANDS, main

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "datasets", "numpy", "matplotlib")
WITH_A_MODEL = (
    ["predict", "bird.png", "--model"],
    ["explain", "bird.png", "--model"],
    ["export", "--output", "model.onnx", "--model"],
    ["evaluate", "--dataset", "synthetic_birds", "--output_dir", "out", "--model"],
)


def run(*arguments, **options):
    command = [sys.executable, "-m", "dedn_hf", *arguments]
    return subprocess.run(command, capture_output=True, text=True, **options)


def test_there_is_a_file_for_each_command():
    files = {file.stem for file in (ROOT / "src/dedn_hf/cli").glob("*.py")} - {"__init__"}
    assert files == set(COMMANDS)


def test_the_version_stands_in_one_place(capsys):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == __version__
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_names_the_commands(arguments):
    process = run(*arguments)
    assert process.returncode == 0 and process.stderr == ""
    assert all(f"  {name} " in process.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_imports_nothing_heavy(command):
    code = (
        f"import sys; from dedn_hf.cli import main\ntry: main({[*filter(None, [command]), '--help']!r})\n"
        f"except SystemExit as end: assert not end.code\nprint(*sys.modules, file=sys.stderr)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0 and process.stdout.startswith("usage: dedn"), process.stderr
    assert not set(HEAVY) & set(process.stderr.split())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["trian"], "there is no command 'trian'; did you mean train?"),
        (["xyz"], "there is no command 'xyz'; choose predict, explain,"),
        (["--model"], "unrecognized arguments: --model"),
        (["evaluate"], "the following arguments are required: --model"),
        (["publish", "--model", "nowhere", "--repo_id", "a/b"], "There is no folder nowhere"),
        (["export", "--model", "nowhere", "--output", "no/such/model.onnx"], "there is no folder no/such"),
        (["export", "--model", "nowhere", "--output", "model.onnx"], "there is no model folder nowhere"),
        (["predict", "a.jpg", "--model", "/no/such"], "there is no model folder /no/such"),
        (["explain", "pyproject.toml", "--model", "src/no_model"], "there is no model folder src/no_model"),
        (["evaluate", "--model", "a/b/c", "--dataset", "cub", "--output_dir", "o"], "there is no model folder a/b/c"),
    ],
)
def test_a_wrong_call_is_told_in_one_line(dedn, monkeypatch, arguments, message):
    monkeypatch.chdir(ROOT)
    with pytest.raises(CommandFailed, match=f"^error: .*{message.replace('?', '.')}.*\n$") as error:
        dedn(*arguments)
    assert error.value.status == 2 and str(error.value).count("\n") == 1


@pytest.fixture
def raising(monkeypatch):
    """Makes `dedn evaluate` raise an error."""

    def raising(error):
        def main(arguments):
            raise error

        monkeypatch.setattr(importlib.import_module("dedn_hf.cli.evaluate"), "main", main)

    return raising


@pytest.mark.parametrize("error", [ValueError, FileNotFoundError, ImportError])
def test_our_errors_have_no_traceback_unless_it_is_asked_for(raising, monkeypatch, capsys, error):
    raising(error("line 3\n  is odd"))
    assert main(["evaluate"]) == 2
    assert capsys.readouterr().err == "error: line 3 is odd\n"
    monkeypatch.setenv("DEDN_DEBUG", "1")
    with pytest.raises(error):
        main(["evaluate"])


def test_other_errors_are_not_hidden(raising):
    raising(KeyError("label"))
    with pytest.raises(KeyError):
        main(["evaluate"])


def test_an_interruption_is_quiet(raising, capsys):
    raising(KeyboardInterrupt())
    assert main(["evaluate"]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="pipes that close are a matter of POSIX")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["train --help", "--help", "train --dataset synthetic_birds --check"])
def test_a_closed_pipe_is_quiet(command, unbuffered):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        process = subprocess.run(
            [sys.executable, "-m", "dedn_hf", *command.split()],
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
        )
    # argparse ignores that its help cannot be written at once.
    assert process.stderr == "" and process.returncode in ((0, 141) if "help" in command else (141,))


@pytest.mark.parametrize("arguments", WITH_A_MODEL)
def test_another_kind_of_model_is_named(dedn, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (96, 96)).save("bird.png")
    ResNetConfig().save_pretrained("model")
    with pytest.raises(CommandFailed, match="error: model is a model of type 'resnet', but one of DEDN is needed"):
        dedn(*arguments, "model")


@pytest.mark.parametrize("arguments", WITH_A_MODEL)
def test_weights_that_a_file_lacks_are_not_drawn(dedn, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (96, 96)).save("bird.png")
    shutil.copytree(SYNTHETIC_MODEL, "model")
    state = load_file("model/model.safetensors")
    del state["coarse_expert.heads.0.word_vectors"]
    save_file(state, "model/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CommandFailed, match=r"error: model lacks 1 of its weights, such as coarse_expert\.heads\.0"):
        dedn(*arguments, "model")
    assert sorted(os.listdir()) == ["bird.png", "model"]
