"""What is installed is enough: the commands, in an environment that has never seen a clone."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def dedn(wheel, tmp_path_factory):
    """Runs the `dedn` of an environment with the wheel and what it depends on, in an empty folder."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True, capture_output=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # Dependencies are those of this environment: its own .pth files, such as that of a clone, are not read from there.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    empty = tmp_path_factory.mktemp("empty")

    def dedn(*arguments):
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [folder / "bin" / "dedn", *arguments]
        return subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True)

    dedn.folder, dedn.packages = empty, packages
    return dedn


@pytest.mark.slow
def test_what_is_in_the_wheel(wheel):
    assert wheel.stat().st_size < 60e6
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
        (notice,) = (archive.read(name).decode() for name in names if name.endswith("/licenses/NOTICE"))
    for name in (
        "cli/predict.py",
        "recipes/cub.yaml",
        "default_model/model.safetensors",
        "hub/model_card_template.md",
    ):
        assert f"dedn_hf/{name}" in names
    # The laboratory stays in the clone, and so do the models of tests.
    assert not [name for name in names if re.search(r"bench|ablat|baseline|compar|contact|box|synthetic_birds/", name)]
    # Under what the weights are.
    assert notice == (ROOT / "NOTICE").read_text(encoding="utf-8")
    assert "License-Expression: Apache-2.0 AND LicenseRef-CUB-200-2011\n" in metadata
    assert "LicenseRef-CUB-200-2011" in notice


@pytest.mark.slow
def test_the_notice_is_in_the_source_distribution(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (file,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        assert {"NOTICE", "LICENSE"} <= {Path(name).name for name in archive.getnames()}


@pytest.mark.slow
def test_from_photo_to_publishing(dedn):
    code = "import dedn_hf; print(dedn_hf.__file__)"
    python = dedn.packages.parents[2] / "bin" / "python"
    where = subprocess.run([python, "-c", code], cwd=dedn.folder, capture_output=True, text=True, check=True).stdout
    assert where.startswith(str(dedn.packages))

    Image.effect_noise((120, 90), 60).convert("RGB").save(dedn.folder / "some.jpg")
    steps = [
        ("--version",),
        ("train", "--help"),
        ("predict", "some.jpg"),
        ("explain", "some.jpg"),
        ("train", "--max_steps", "20", "--use_cpu", "--output_dir", "x"),
        ("evaluate", "--model", "x", "--dataset", "synthetic_birds", "--output_dir", "evaluation"),
        ("explain", "--model", "x", "--dataset", "synthetic_birds", "--index", "3", "--output", "why.png"),
        ("predict", "some.jpg", "--model", "x", "--top_k", "2", "--output", "names.csv"),
        ("publish", "--model", "x", "--repo_id", "somebody/dedn-birds", "--dry_run"),
        ("export", "--model", "x", "--output", "x.onnx"),
    ]
    printed = {}
    for step in steps:
        process = dedn(*step)
        assert process.returncode == 0, f"{step}: {process.stderr[-3000:]}"
        assert "requires torchvision" not in process.stderr
        printed[step[:3]] = process.stdout
    assert "some.jpg" in printed[("predict", "some.jpg")]
    assert (dedn.folder / "names.csv").read_text(encoding="utf-8").startswith("image,label,score,seen,error,label_2")
    made = {path.name for path in dedn.folder.iterdir()}
    assert made == {"some.jpg", "some_explanation.png", "x", "evaluation", "why.png", "names.csv", "x.onnx"}
    assert len(list((dedn.folder / "evaluation").glob("*.png"))) >= 3
