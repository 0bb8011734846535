import ast
import importlib.metadata
import zipfile
from pathlib import Path

import pytest
import yaml
from model_folder import make_model_folder

from dedn_hf.hub import space
from dedn_hf.hub.push import PublishingError
from dedn_hf.hub.space import write_space


@pytest.fixture
def without_wheel(monkeypatch):
    """Building one takes its time."""
    monkeypatch.setattr(space, "_write_wheel", lambda folder: (folder / "dedn_hf-0-py3-none-any.whl").write_bytes(b""))


def test_what_is_in_it(without_wheel, tmp_path):
    files = write_space(tmp_path / "space", "me/birds")
    names = ["README.md", "app.py", "dedn_hf-0-py3-none-any.whl", "requirements.txt"]
    assert [str(file.relative_to(tmp_path / "space")) for file in files] == names
    _, metadata, text = (tmp_path / "space" / "README.md").read_text().split("---\n", 2)
    metadata = yaml.safe_load(metadata)
    assert metadata["sdk"] == "gradio" and metadata["app_file"] == "app.py" and metadata["title"] == "birds"
    requirements = (tmp_path / "space" / "requirements.txt").read_text().splitlines()
    assert f"gradio=={metadata['sdk_version']}" in requirements
    assert any(line.startswith("torch") for line in requirements) and not any("extra" in line for line in requirements)
    ast.parse((tmp_path / "space" / "app.py").read_text())
    assert "# birds" in text


def test_the_page_of_a_space_is_the_one_that_was_tested():
    constraints = (Path(__file__).parents[2] / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"gradio=={space.GRADIO}" in constraints


def test_a_model_of_ones_own(without_wheel, tmp_path):
    model = make_model_folder(tmp_path / "model")
    (model / "optimizer.pt").write_bytes(b"0")
    write_space(tmp_path / "space", "me/birds", model)
    names = {file.name for file in (tmp_path / "space" / "model").iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= names and "optimizer.pt" not in names


@pytest.mark.parametrize("repo_id", ["birds", "a/b/c", "me/bi rds", "me/"])
def test_what_is_no_space(without_wheel, tmp_path, repo_id):
    with pytest.raises(PublishingError, match="is no name of a Space"):
        write_space(tmp_path / "space", repo_id)
    assert not (tmp_path / "space").exists()


def test_a_folder_that_is_there_stays(without_wheel, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(PublishingError, match="is there already"):
        write_space(tmp_path, "me/birds")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_incomplete_model(without_wheel, tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(PublishingError, match="is not complete"):
        write_space(tmp_path / "space", "me/birds", tmp_path / "model")
    assert not (tmp_path / "space").exists()


@pytest.mark.slow
@pytest.mark.parametrize("is_clone", [True, False])
def test_the_wheel_is_whole(tmp_path, monkeypatch, is_clone):
    """Built of a clone, or made again of what is installed."""
    if not is_clone:
        write_space(tmp_path / "built", "me/birds")
        with zipfile.ZipFile(next((tmp_path / "built").glob("*.whl"))) as wheel:
            wheel.extractall(tmp_path / "lib" / "site")
        (found,) = importlib.metadata.distributions(path=[str(tmp_path / "lib" / "site")])
        monkeypatch.setattr(space, "distribution", lambda name: found)
        monkeypatch.setattr(space, "__file__", str(tmp_path / "lib" / "site" / "dedn_hf" / "hub" / "space.py"))
    write_space(tmp_path / "space", "me/birds")
    with zipfile.ZipFile(next((tmp_path / "space").glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    assert {"dedn_hf/demo.py", "dedn_hf/default_model/model.safetensors", "dedn_hf/recipes/cub.yaml"} <= names
    assert any(name.endswith(".dist-info/METADATA") for name in names)
    assert any(name.endswith(".dist-info/RECORD") for name in names) and not any(".pyc" in name for name in names)
