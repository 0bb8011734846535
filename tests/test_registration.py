import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    AutoTokenizer,
    pipeline,
)

# Which older transformers hide behind torchvision, though it works without.
from transformers.models.auto.image_processing_auto import AutoImageProcessor

import dedn_hf
from dedn_hf import DednConfig, DednModel, ZeroShotAttributeClassificationPipeline
from dedn_hf.registration import DEFAULT_MODEL, TASK

FOLDER = repr(str(DEFAULT_MODEL))
# Neither comes before the other by chance: isort puts dedn_hf first, habit transformers.
BEFORE, AFTER = "import dedn_hf\nfrom transformers import {0}\n", "from transformers import {0}\nimport dedn_hf\n"


def run(code: str) -> str:
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


def test_importing_the_package_imports_nothing_heavy():
    loaded = run("import sys, dedn_hf; print(*sys.modules)").split()
    for module in ("torch", "transformers", "numpy", "datasets", "evaluate", "matplotlib", "dedn_hf.modeling_dedn"):
        assert module not in loaded


def test_looking_for_a_module_is_not_importing_it():
    code = "import dedn_hf; from importlib.util import find_spec; find_spec('transformers.pipelines'); "
    assert run(code + f"from transformers import pipeline; print(type(pipeline({TASK!r})).__module__)") == (
        "dedn_hf.pipeline_dedn"
    )


@pytest.mark.parametrize("order", [BEFORE, AFTER])
@pytest.mark.parametrize(
    "name, call, expected",
    [
        ("AutoConfig", f"AutoConfig.from_pretrained({FOLDER})", "configuration_dedn"),
        ("AutoModel", f"AutoModel.from_pretrained({FOLDER})", "modeling_dedn"),
        ("pipeline", f"pipeline({TASK!r})", "pipeline_dedn"),
    ],
)
def test_transformers_knows_the_model(order, name, call, expected):
    assert run(order.format(name) + f"print(type({call}).__module__)") == f"dedn_hf.{expected}"


@pytest.mark.parametrize("module", sorted(file.stem for file in DEFAULT_MODEL.parent.glob("[a-z]*.py")))
def test_whichever_module_is_imported_first(module):
    """Some of them import the registry that waits for them."""
    code = (
        f"import dedn_hf.{module}; from transformers import pipeline; print(type(pipeline({TASK!r}).model).__name__)"
    )
    assert run(code) == "DednModel"


def test_a_saved_model_takes_its_code_along(tmp_path):
    run(f"import dedn_hf; dedn_hf.DednModel.from_pretrained({FOLDER}).save_pretrained({str(tmp_path)!r})")
    saved = {file.name for file in tmp_path.glob("*.py")}
    assert saved == {file.name for file in Path(dedn_hf.__file__).parent.glob("*_dedn.py")}


# What people write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as it is published."""
    path = tmp_path_factory.mktemp("org") / "dedn-birds"
    pipeline(TASK, device="cpu").save_pretrained(path)
    return path


AUTO_CLASSES = (AutoModel, AutoModelForImageClassification, AutoModelForZeroShotImageClassification)
IMAGE = Image.new("RGB", (40, 30), "red")


@pytest.mark.parametrize("options", [{}, {"trust_remote_code": False}, {"revision": "main", "token": "hf_none"}])
def test_auto_classes(folder, options):
    assert type(AutoConfig.from_pretrained(folder, **options)) is DednConfig
    for auto_class in AUTO_CLASSES:
        assert type(auto_class.from_pretrained(folder, **options)) is DednModel
        assert type(auto_class.from_config(DednConfig(attribute_names=["a"]))) is DednModel
    for auto_class in (AutoImageProcessor, AutoProcessor):
        assert auto_class.from_pretrained(folder, **options).size == {"shortest_edge": 448}


@pytest.mark.parametrize("options", [{}, {"trust_remote_code": True}])
def test_pipeline_finds_its_task(folder, options):
    assert type(pipeline(model=folder, **options)) is ZeroShotAttributeClassificationPipeline


def test_pipeline_finds_its_task_in_the_config_of_a_model_that_was_saved(folder, tmp_path):
    model = AutoModel.from_pretrained(folder)
    model.save_pretrained(tmp_path)
    assert model.config.custom_pipelines.keys() == {TASK}
    for task in (None, TASK):
        assert type(pipeline(task, model=folder, config=model.config)) is ZeroShotAttributeClassificationPipeline


def test_a_folder_that_is_named_as_on_the_hub(folder, monkeypatch):
    monkeypatch.chdir(folder.parent.parent)
    name = "/".join(folder.parts[-2:])
    assert type(AutoModel.from_pretrained(name)) is DednModel
    classifier = pipeline(TASK, model=AutoModel.from_pretrained(name))
    assert classifier(IMAGE) == pipeline(model=name)(IMAGE)


def test_pipeline_of_a_model_that_is_loaded_already(folder):
    model = AutoModel.from_pretrained(folder)
    expected = pipeline(TASK, model=folder)(IMAGE)
    processor = AutoImageProcessor.from_pretrained(folder)
    for given in (
        {},
        {"image_processor": processor},
        {"image_processor": str(folder)},
        {"feature_extractor": processor},
        {"processor": processor},
    ):
        assert pipeline(TASK, model=model, **given)(IMAGE) == expected


def test_pipeline_without_an_image_processor(folder, tmp_path):
    model = AutoModel.from_pretrained(folder)
    model.save_pretrained(tmp_path)
    model.name_or_path = ""
    for source, place in ((model, ""), (str(tmp_path), rf" \({re.escape(str(tmp_path))}\)")):
        with pytest.raises(ValueError, match=rf"loaded from{place}\. Pass `image_processor=`"):
            pipeline(TASK, model=source)


def test_pipeline_of_a_model_that_knows_nothing_of_its_classes(folder):
    model = AutoModel.from_config(AutoConfig.from_pretrained(folder))
    with pytest.raises(ValueError, match=r"The model knows nothing of .*`set_classes\("):
        pipeline(TASK, model=model, image_processor=str(folder))


@pytest.mark.parametrize("options", [{}, {"id2label": {index: f"class {index}" for index in range(200)}}])
def test_pipeline_takes_the_names_of_its_own_classes(folder, options):
    num_classes = AutoConfig.from_pretrained(folder).num_labels
    names = options.get("id2label", {})
    options = {"id2label": {index: names[index] for index in range(num_classes)}} if names else {}
    model = AutoModel.from_pretrained(folder, **options)
    model.config.id2label[0] = "renamed from inside"
    classifier = pipeline(TASK, model=model)
    names = list(model.config.id2label.values())
    own, named = (classifier(IMAGE, candidates, top_k=num_classes)["labels"] for candidates in (None, names))
    assert [entry["label"] for entry in own] == [entry["label"] for entry in named]
    assert {entry["label"] for entry in own} == set(names)


def test_pipeline_of_a_config_that_asks_for_other_outputs(folder):
    model = AutoModel.from_pretrained(folder, return_dict=False, output_attentions=True)
    assert pipeline(TASK, model=model)(IMAGE) == pipeline(TASK, model=folder)(IMAGE)


def test_image_classification_pipeline(folder):
    """The same order; its scores are the softmax of the logits as they are, without the model's `score_scale`."""
    classifier = pipeline(TASK, model=folder)
    assert classifier.model.config.score_scale != 1
    classifier.model.config.score_scale = 1.0
    expected = classifier(IMAGE)["labels"]
    labels = pipeline("image-classification", model=folder)(IMAGE)
    assert [entry["label"] for entry in labels] == [entry["label"] for entry in expected]
    assert [entry["score"] for entry in labels] == pytest.approx([entry["score"] for entry in expected], abs=1e-6)


def test_what_asks_for_a_tokenizer_is_told_what_to_write(folder):
    message = rf"no tokenizer, for a DednModel reads no text.*`pipeline\(\"{TASK}\", model=…\)`"
    with pytest.raises(ValueError, match=message):
        pipeline("zero-shot-image-classification", model=folder)
    with pytest.raises(ValueError, match=message):
        AutoTokenizer.from_pretrained(folder)


# All that a folder is loaded by, with the package imported, not imported, or hidden.
LOAD = """
import socket, sys

def no_network(*args, **kwargs):
    raise AssertionError("the network was asked about a folder")

socket.getaddrinfo = socket.create_connection = no_network
how, folder = sys.argv[1:]
if how == "import":
    import dedn_hf
elif how == "hidden":
    sys.modules["dedn_hf"] = None
from PIL import Image
from transformers import (
    AutoConfig, AutoModel, AutoModelForImageClassification, AutoModelForZeroShotImageClassification, AutoProcessor,
    pipeline,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor

options = {} if how == "import" else {"trust_remote_code": True}
task = "zero-shot-attribute-classification"
config = AutoConfig.from_pretrained(folder, **options)
classes = (AutoModel, AutoModelForImageClassification, AutoModelForZeroShotImageClassification)
models = [auto_class.from_pretrained(folder, **options) for auto_class in classes]
assert {type(model).__name__ for model in models} == {"DednModel"}
for auto_class in (AutoImageProcessor, AutoProcessor):
    assert auto_class.from_pretrained(folder, **options).size == {"shortest_edge": 448}
image = Image.new("RGB", (40, 30), "red")
classifiers = [pipeline(model=folder, **options), pipeline(task, model=folder, **options)]
if how == "import":
    classifiers += [pipeline(task), pipeline(task, model=models[0])]
else:
    # Nobody knows the task; its class does.
    classifiers += [type(classifiers[0])(model=models[0])]
results = [classifier(image) for classifier in classifiers]
assert all(result == results[0] for result in results)
labels = pipeline("image-classification", model=folder, **options)(image)
assert [entry["label"] for entry in labels] == [entry["label"] for entry in results[0]["labels"]]
print(type(config).__module__)
"""


@pytest.mark.parametrize(
    "how, offline, code",
    [("import", False, "dedn_hf"), ("trust", False, "transformers_modules"), ("hidden", True, "transformers_modules")],
)
def test_folders_are_loaded_without_the_network(folder, how, offline, code, tmp_path):
    variables = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": str(int(offline))}
    process = subprocess.run(
        [sys.executable, "-c", LOAD, how, str(folder)], capture_output=True, text=True, env=variables, cwd=tmp_path
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith(code)
