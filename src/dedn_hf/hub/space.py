"""A Space of the Hub with the page of `dedn demo`: a folder that runs as it stands."""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path

import yaml
from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id

from ..registration import DEFAULT_MODEL
from .push import PublishingError, files_to_push

GRADIO = "6.31.0"
APP = '''"""The page of `dedn demo`, with the wheel beside this file."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
if importlib.util.find_spec("dedn_hf") is None:
    # Its dependencies are in requirements.txt, which a Space installs before this folder is there.
    wheel = next(HERE.glob("dedn_hf-*.whl"))
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)], check=True)

from dedn_hf.cli.predict import load_classifier
from dedn_hf.demo import Page, launch
from dedn_hf.registration import DEFAULT_MODEL

model = HERE / "model"
page = Page(load_classifier(str(model if model.is_dir() else DEFAULT_MODEL)))
launch(page, "0.0.0.0", int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
'''
README = """---
{metadata}---

# {title}

Names for your photos, with reasons, by [DEDN](https://arxiv.org/abs/2404.16348): classes of the model's own, and
classes that you describe by attributes, in words or by photos. On a machine of yours `python app.py` runs it, once
`requirements.txt` is installed.
"""


def write_space(folder: str | os.PathLike, repo_id: str, model: str | os.PathLike | None = None) -> list[Path]:
    """
    Writes the folder of a Space: `app.py`, `requirements.txt`, `README.md` with the Space's settings, the wheel of
    this package, and a model if it is not the built-in one.

    Args:
        folder (`str` or `os.PathLike`):
            The folder; it must not be there yet, or be empty.
        repo_id (`str`):
            `"NAMESPACE/NAME"` of the Space.
        model (`str` or `os.PathLike`, *optional*, defaults to the built-in one):
            Folder of a model with its backbone, see [`files_to_push`].

    Returns:
        `list[Path]`: what is in it, sorted.

    Raises:
        PublishingError: If the folder holds something, the name or the model is not as it should be, or there is no
            wheel to be had.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PublishingError(f"{folder} is there already: name another --output_dir, or take it away.")
    try:
        validate_repo_id(repo_id)
    except ValueError as error:
        raise PublishingError(f"{repo_id!r} is no name of a Space: {error}") from error
    if repo_id.count("/") != 1:
        raise PublishingError(f"{repo_id!r} is no name of a Space: it is NAMESPACE/NAME.")
    files, card = {}, None
    if model is not None and Path(model).resolve() != DEFAULT_MODEL.resolve():
        files, card = files_to_push(model), ModelCard.load(Path(model, "README.md")).data
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        space = Path(temporary, "space")
        space.mkdir()
        _write_wheel(space)
        if files:
            (space / "model").mkdir()
            for name in files:
                shutil.copy(Path(model, name), space / "model" / name)
        (space / "app.py").write_text(APP, encoding="utf-8")
        requirements = [line for line in distribution("dedn-hf").requires or [] if "extra ==" not in line]
        (space / "requirements.txt").write_text(
            "\n".join([*requirements, f"gradio=={GRADIO}"]) + "\n", encoding="utf-8"
        )
        metadata = {"title": repo_id.split("/")[1], "sdk": "gradio", "sdk_version": GRADIO, "app_file": "app.py"}
        # The built-in model's, see NOTICE; a model's own card says its.
        license = "other" if card is None else card.get("license")
        metadata |= {"license": license} if license else {}
        readme = README.format(metadata=yaml.safe_dump(metadata, sort_keys=False), title=metadata["title"])
        (space / "README.md").write_text(readme, encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        os.replace(space, folder)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _write_wheel(folder: Path):
    """The wheel of this package: built where this is a clone, else made again of what was installed."""
    root = Path(__file__).parents[3]
    if (root / "pyproject.toml").is_file():
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(root)]
        # Which would have to be downloaded otherwise.
        command += ["--no-build-isolation"] if find_spec("hatchling") else []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            *_, reason = done.stderr.strip().splitlines() or ["pip failed"]
            raise PublishingError(f"The wheel cannot be built of {root}: {reason}")
        return
    try:
        installed = distribution("dedn-hf")
    except PackageNotFoundError as error:
        raise PublishingError("This package is not installed, so that there is no wheel of it.") from error
    name = f"dedn_hf-{version('dedn-hf')}-py3-none-any.whl"
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as wheel:
        for file in installed.files or []:
            # Programs and compiled files are made anew; pip needs no hashes of what it unpacks, but a list.
            if ".." not in file.parts and file.suffix != ".pyc" and file.name not in ("INSTALLER", "REQUESTED"):
                if file.name == "RECORD":
                    lines = file.read_text(encoding="utf-8").splitlines()
                    kept = [line for line in lines if not line.startswith("..") and ".pyc," not in line]
                    kept = [line for line in kept if not line.split(",")[0].endswith(("/INSTALLER", "/REQUESTED"))]
                    wheel.writestr(str(file), "\n".join(kept) + "\n")
                else:
                    wheel.write(file.locate(), str(file))
