import importlib.util
import sys
from pathlib import Path

import pytest
from tiny_training import make_tiny_dataset, make_tiny_inputs

from dedn_hf.data import load
from dedn_hf.training import inputs


@pytest.fixture
def script(request, monkeypatch, tmp_path):
    """The script that the tests are named after, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    name = request.path.stem.removeprefix("test_")
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[2] / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def main(script, monkeypatch):
    """
    Runs a script that trains, with the tiny data set in place of the one that is asked for; gives what was asked,
    which is also in `main.asked`.
    """
    asked = []
    monkeypatch.setattr(
        load, "load_gzsl_dataset", lambda *names, **options: asked.append((*names, options)) or make_tiny_dataset()
    )
    monkeypatch.setattr(
        inputs,
        "prepare_inputs",
        lambda dataset, *names, **options: asked.append((*names, *options.values())) or make_tiny_inputs(dataset),
    )

    def main(*arguments):
        options = ["--use_cpu", "--disable_tqdm", "True", "--per_device_train_batch_size", "4"]
        monkeypatch.setattr(sys, "argv", [f"scripts/{Path(script.__file__).name}", *options, *arguments])
        asked.clear()
        script.main()
        return asked

    main.asked = asked
    return main
