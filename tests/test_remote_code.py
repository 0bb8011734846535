"""What a saved model is to people who never installed this package, and to those who did."""

import ast
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_model import make_tiny_model
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForZeroShotImageClassification,
    CLIPImageProcessorPil,
    ResNetConfig,
    Trainer,
    TrainingArguments,
    pipeline,
)

# Which older transformers hide behind torchvision, though it works without.
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.pipelines import PIPELINE_REGISTRY

import dedn_hf
from dedn_hf import DednConfig, DednModel, ZeroShotAttributeClassificationPipeline

TASK = "zero-shot-attribute-classification"
REPO_ID = "org/dedn-tiny.birds"
PACKAGE = Path(dedn_hf.__file__).parent
CODE_FILES = (
    "answers_dedn.py",
    "attentive_pooling_dedn.py",
    "backbone_dedn.py",
    "candidates_dedn.py",
    "class_fit_dedn.py",
    "configuration_dedn.py",
    "images_dedn.py",
    "modeling_dedn.py",
    "names_dedn.py",
    "pipeline_dedn.py",
    "ranks_dedn.py",
    "words_dedn.py",
)
CANDIDATES = {"jay": None, "owl": None, "new": ["attribute 1", "attribute 2"]}


def nearly(expected):
    """The same but for rounding: a matrix product goes by where in memory a file's weights happen to lie."""
    if isinstance(expected, dict):
        return {key: nearly(value) for key, value in expected.items()}
    if isinstance(expected, list):
        return [nearly(value) for value in expected]
    return pytest.approx(expected, abs=1e-5) if isinstance(expected, float) else expected


def make_processor():
    return CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size=24, resample=2)


def check_complete(folder):
    """The folder has all that loading it needs, and its config tells where."""
    assert {file.name for file in folder.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        *CODE_FILES,
    }
    for name in CODE_FILES:
        assert (folder / name).read_bytes() == (PACKAGE / name).read_bytes()
    text = (folder / "config.json").read_text()
    config = json.loads(text)
    assert config["auto_map"] == {
        "AutoConfig": "configuration_dedn.DednConfig",
        "AutoModel": "modeling_dedn.DednModel",
        "AutoModelForImageClassification": "modeling_dedn.DednModel",
        "AutoModelForZeroShotImageClassification": "modeling_dedn.DednModel",
    }
    assert config["custom_pipelines"] == {
        TASK: {
            "impl": "pipeline_dedn.ZeroShotAttributeClassificationPipeline",
            "pt": ["AutoModelForZeroShotImageClassification"],
        }
    }
    assert str(PACKAGE) not in text
    assert (folder / "model.safetensors").stat().st_mode & 0o777 == 0o644
    assert all(
        value.dtype == torch.float32
        for value in load_file(folder / "model.safetensors").values()
        if value.is_floating_point()
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    paths = [str(folder / f"{index}.png") for index in range(3)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(path)
    return paths


@pytest.fixture(scope="module")
def trainer(tmp_path_factory, images):
    """A Trainer after two steps, whose model has a backbone that it trained."""
    processor = make_processor()
    backbone = ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 6], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    model = make_tiny_model(backbone_config=backbone, freeze_backbone=False, calibration=0.8)
    pixel_values = processor([Image.open(path) for path in images], return_tensors="pt")["pixel_values"]
    args = TrainingArguments(
        str(tmp_path_factory.mktemp("training")),
        max_steps=2,
        save_steps=1,
        save_only_model=True,
        per_device_train_batch_size=3,
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(
        model,
        args,
        train_dataset=[{"pixel_values": p, "labels": label} for p, label in zip(pixel_values, (0, 1, 3))],
        processing_class=processor,
    )
    trainer.train()
    model.set_attribute_calibration(torch.stack([torch.linspace(0.5, 2, 7), torch.linspace(-1, 1, 7)]))
    trainer.save_model(str(Path(args.output_dir) / "saved"))
    return trainer


@pytest.fixture(scope="module")
def folder(trainer):
    return Path(trainer.args.output_dir) / "saved"


@pytest.fixture(scope="module")
def expected(trainer, images):
    """Outputs of the trained model."""
    model = trainer.model.eval()
    pixel_values = make_processor()([Image.open(path) for path in images], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        output = model(pixel_values, labels=torch.tensor([0, 1, 4]))
    classifier = pipeline(TASK, model=model, image_processor=make_processor(), device="cpu")
    return {
        "logits": output.logits.tolist(),
        "attribute_scores": output.attribute_scores.tolist(),
        "loss": output.loss.item(),
        "own": classifier(images),
        "new": classifier(images, CANDIDATES),
    }


# Where this package is not installed


@pytest.fixture(scope="module")
def clean_python(tmp_path_factory):
    """Python of a second virtual environment with the packages of this one, but for ours."""
    environment = tmp_path_factory.mktemp("environment")
    venv.EnvBuilder(symlinks=True).create(environment)
    paths = {"base": str(environment), "platbase": str(environment)}
    packages = Path(sysconfig.get_path("purelib", "venv", paths))
    for source in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(source).iterdir():
            # Files of paths are how editable installations are found.
            if not entry.name.startswith("dedn_hf") and entry.suffix != ".pth":
                (packages / entry.name).symlink_to(entry)
    return Path(sysconfig.get_path("scripts", "venv", paths)) / "python"


LOAD = """
import importlib.util, json, sys
from pathlib import Path

assert importlib.util.find_spec("dedn_hf") is None
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification, pipeline
from transformers.models.auto.image_processing_auto import AutoImageProcessor

request = json.loads(sys.argv[1])
out, images = Path(request["out"]), request["images"]
results = {}
for number, source in enumerate(request["sources"]):
    config = AutoConfig.from_pretrained(source, trust_remote_code=True)
    assert config.model_type == "dedn" and config.calibration == 0.8
    processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=True)
    pixel_values = processor([Image.open(path) for path in images], return_tensors="pt")["pixel_values"]
    classifier = pipeline(request["task"], model=source, trust_remote_code=True, device="cpu")
    auto_classes = (AutoModel, AutoModelForZeroShotImageClassification)
    models = [auto_class.from_pretrained(source, trust_remote_code=True) for auto_class in auto_classes]
    for model in models:
        assert type(model).__module__.startswith("transformers_modules.") and not model.training
        with torch.no_grad():
            output = model(pixel_values, labels=torch.tensor([0, 1, 4]))
        results[f"{source} {len(results)}"] = {
            "logits": output.logits.tolist(),
            "attribute_scores": output.attribute_scores.tolist(),
            "loss": output.loss.item(),
            "own": classifier(images),
            "new": classifier(images, request["candidates"]),
        }
    if request["save"]:
        for kind, model in zip(("model", "zero-shot model"), models):
            model.save_pretrained(out / f"{kind} {number}")
            processor.save_pretrained(out / f"{kind} {number}")
        classifier.save_pretrained(out / f"pipeline {number}")
(out / "results.json").write_text(json.dumps(results))
"""


@pytest.fixture(scope="module")
def run_clean(clean_python, images, tmp_path_factory):
    """Loads models in a new process without this package, offline and with a cache that holds `REPO_ID` alone."""

    def run(out, sources, repository=None, save=False):
        cache = tmp_path_factory.mktemp("hf_home")
        if repository is not None:
            snapshot = cache / "hub" / f"models--{REPO_ID.replace('/', '--')}" / "snapshots" / ("0123456789" * 4)
            shutil.copytree(repository, snapshot)
            (snapshot.parents[1] / "refs").mkdir()
            (snapshot.parents[1] / "refs" / "main").write_text(snapshot.name)
        request = {
            "task": TASK,
            "out": str(out),
            "images": images,
            "sources": list(map(str, sources)),
            "candidates": CANDIDATES,
            "save": save,
        }
        variables = {
            "HF_HOME": str(cache),
            "HF_HUB_CACHE": str(cache / "hub"),
            "HF_MODULES_CACHE": str(cache / "modules"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
        }
        subprocess.run(
            [clean_python, "-E", "-c", LOAD, json.dumps(request)], env=os.environ | variables, cwd=out, check=True
        )
        return json.loads((out / "results.json").read_text())

    return run


@pytest.fixture(scope="module")
def second_generation(run_clean, folder, tmp_path_factory):
    """Results of the first generation, loaded by remote code, and the folder where it was saved again."""
    out = tmp_path_factory.mktemp("second generation")
    return run_clean(out, [folder, REPO_ID], repository=folder, save=True), out


def test_first_generation_without_the_package(second_generation, expected):
    results, _ = second_generation
    assert len(results) == 4  # a folder and a repository, with two auto classes
    for source, result in results.items():
        assert result == nearly(expected), source


def test_second_generation_is_complete(second_generation):
    _, out = second_generation
    folders = [path for path in out.iterdir() if path.is_dir()]
    assert len(folders) == 6
    for folder in folders:
        check_complete(folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["model", "zero-shot model", "pipeline"])
def test_second_generation_without_the_package(kind, second_generation, run_clean, expected, tmp_path):
    _, out = second_generation
    from_folder, from_repository = out / f"{kind} 0", out / f"{kind} 1"
    results = run_clean(tmp_path, [from_folder, from_repository, REPO_ID], repository=from_folder)
    assert len(results) == 6
    for source, result in results.items():
        assert result == nearly(expected), source


# What is printed

USE_THE_PACKAGE = """
import sys
import dedn_hf.evaluation.report, dedn_hf.features.extraction, dedn_hf.training
from transformers import pipeline

pipeline("zero-shot-attribute-classification", model=sys.argv[1])(sys.argv[2])
"""
USE_REMOTE_CODE = """
import sys
sys.modules["dedn_hf"] = None
from transformers import pipeline

pipeline("zero-shot-attribute-classification", model=sys.argv[1], trust_remote_code=True)(sys.argv[2])
"""


@pytest.mark.parametrize("code", [USE_THE_PACKAGE, USE_REMOTE_CODE], ids=["package", "remote code"])
def test_nothing_is_printed_that_nobody_asked_for(code, folder, images, tmp_path):
    """No warning that a user can do nothing about, such as that torchvision is not installed."""
    source = PACKAGE / "default_model" if code == USE_THE_PACKAGE else folder
    saved = json.loads((source / "preprocessor_config.json").read_text())
    # The name that loads with torchvision and without.
    assert saved["image_processor_type"] == "CLIPImageProcessor"
    # Progress bars are no warnings.
    variables = {"HF_MODULES_CACHE": str(tmp_path), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    process = subprocess.run(
        [sys.executable, "-c", code, str(source), images[0]],
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")


# What is saved


def test_saved_model_and_checkpoints_are_complete(trainer, folder):
    check_complete(folder)
    for step in (1, 2):
        check_complete(Path(trainer.args.output_dir) / f"checkpoint-{step}")


def test_saved_pipeline_is_complete(folder, tmp_path):
    pipeline(TASK, model=str(folder), device="cpu").save_pretrained(tmp_path)
    check_complete(tmp_path)


def test_model_that_was_loaded_from_elsewhere_is_saved_with_its_own_code(folder, tmp_path):
    model = DednModel.from_pretrained(folder)
    # As the Hub's loading leaves it.
    model.config.auto_map = {name: f"org/other--{value}" for name, value in model.config.auto_map.items()}
    model.save_pretrained(tmp_path)
    make_processor().save_pretrained(tmp_path)
    check_complete(tmp_path)


@pytest.mark.parametrize("file", CODE_FILES)
def test_code_files_need_torch_and_what_transformers_needs_only(file):
    imported, relative = set(), set()
    for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imported.add(node.module.partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 1 and node.module, "transformers finds `from .module import name` only"
            relative.add(f"{node.module}.py")
    assert imported - sys.stdlib_module_names <= {"torch", "transformers", "numpy", "PIL"}
    # Older transformers look one level deep: what a model or a pipeline needs, its own file names.
    expected = {
        "answers_dedn.py": {"names_dedn.py"},
        "candidates_dedn.py": {"names_dedn.py", "words_dedn.py"},
        "modeling_dedn.py": set(CODE_FILES) - {file},
        "pipeline_dedn.py": {
            "answers_dedn.py",
            "candidates_dedn.py",
            "images_dedn.py",
            "names_dedn.py",
            "ranks_dedn.py",
            "words_dedn.py",
        },
        "ranks_dedn.py": {"names_dedn.py"},
        "configuration_dedn.py": {"names_dedn.py", "ranks_dedn.py"},
        "words_dedn.py": {"names_dedn.py"},
    }
    assert relative == expected.get(file, set())


# Where this package is installed


@pytest.mark.parametrize("trust", [{}, {"trust_remote_code": False}, {"trust_remote_code": True}])
def test_with_the_package_no_trust_is_needed(folder, images, expected, trust):
    assert type(AutoConfig.from_pretrained(folder, **trust)) is DednConfig
    assert type(AutoModel.from_pretrained(folder, **trust)) is DednModel
    assert type(AutoModelForZeroShotImageClassification.from_pretrained(folder, **trust)) is DednModel
    assert AutoImageProcessor.from_pretrained(folder, **trust).crop_size["width"] == 24
    classifier = pipeline(TASK, model=str(folder), device="cpu", **trust)
    assert type(classifier) is ZeroShotAttributeClassificationPipeline
    assert classifier(images, CANDIDATES) == nearly(expected["new"])


def test_default_model(images):
    if not (PACKAGE / "default_model").is_dir():
        pytest.skip("the default model is not in the package: src/dedn_hf/default_model is not there")
    assert (PACKAGE / "default_model" / "model.safetensors").stat().st_size <= 30e6
    classifier = pipeline("zero-shot-attribute-classification")
    assert type(classifier) is ZeroShotAttributeClassificationPipeline
    name, other = classifier.model.config.attribute_names[:2]
    result = classifier(images[0], candidate_labels={"described": [name], "other": [other]})
    assert {entry["label"] for entry in result["labels"]} == {"described", "other"}
    assert sum(entry["score"] for entry in result["labels"]) == pytest.approx(1)


def test_default_is_what_the_folder_in_the_package_holds(folder, images, expected, monkeypatch, tmp_path):
    task = PIPELINE_REGISTRY.supported_tasks[TASK]
    assert task["default"]["model"] == (str(PACKAGE / "default_model"), None)
    # Which has no need of a second copy of the code.
    shutil.copytree(folder, tmp_path / "model", ignore=shutil.ignore_patterns("*.py"))
    monkeypatch.setitem(task, "default", {"model": (str(tmp_path / "model"), None)})
    assert pipeline("zero-shot-attribute-classification", device="cpu")(images) == nearly(expected["own"])
