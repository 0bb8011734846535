"""The pipeline goes to other processes and to the cache of a data set, and is the same there."""

import copy
import logging
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import datasets
import dill
import pytest
from datasets.fingerprint import Hasher
from tiny_pipeline import check_same, make_classifier, make_image

IMAGES = [make_image(seed) for seed in range(4)]


@pytest.fixture
def classifier():
    return make_classifier(top_k=3, candidate_labels={"jay": None, "owl": None, "new": ["attribute 3"]})


@pytest.fixture
def data_set():
    features = datasets.Features({"image": datasets.Image()})
    return datasets.Dataset.from_dict({"image": IMAGES}, features=features)


@pytest.fixture(autouse=True)
def without_warnings(caplog, monkeypatch):
    monkeypatch.setattr(datasets.utils.logging.get_logger(), "propagate", True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize(
    "copied",
    [
        lambda value: pickle.loads(pickle.dumps(value)),
        lambda value: dill.loads(dill.dumps(value)),
        copy.deepcopy,
    ],
    ids=["pickle", "dill", "deepcopy"],
)
def test_copies(classifier, copied, called):
    if called:
        classifier(IMAGES[0])
    expected = make_classifier(**classifier._forward_params, top_k=3)(IMAGES[0], attention="grid")
    other = copied(classifier)
    check_same(other(IMAGES[0], attention="grid"), expected)
    model = copied(classifier.model)
    # A copy is its own.
    model.set_classes(["tit"], model.class_attributes[:1] + 1)
    other.model.set_classes(["robin"], model.class_attributes[:1])
    check_same(classifier(IMAGES[0], attention="grid"), expected)


@pytest.mark.parametrize("options", [{}, {"batched": True, "batch_size": 2}], ids=["rows", "batches"])
def test_map_with_processes(classifier, data_set, options):
    expected = [result["labels"][0]["label"] for result in classifier(IMAGES)]

    def name(rows):
        results = classifier(rows["image"], batch_size=2)
        names = [result["labels"][0]["label"] for result in results] if options else results["labels"][0]["label"]
        return {"name": names}

    for num_proc in (None, 2):
        assert data_set.map(name, num_proc=num_proc, load_from_cache_file=False, **options)["name"][:] == expected


def test_map_over_results_with_lists(classifier, data_set):
    mapped = data_set.map(lambda row: classifier(row["image"], attention="grid"), num_proc=2)
    for row, image in zip(mapped.remove_columns("image"), IMAGES, strict=True):
        check_same(row, classifier(image, attention="grid"))


WITH_THREADS = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from datasets import Dataset
from tiny_pipeline import make_classifier, make_image

torch.set_num_threads(2)
a = torch.randn(500, 500)
for _ in range(3):
    a = (a @ a).softmax(1)
IMAGES = [make_image(seed) for seed in range(4)]
classifier = make_classifier()
expected = [result["labels"] for result in classifier(IMAGES)]
rows = Dataset.from_dict({"number": range(len(IMAGES))})
rows = rows.map(lambda row: {"labels": classifier(IMAGES[row["number"]])["labels"]}, num_proc=2)
assert [[entry["label"] for entry in row] for row in rows["labels"]] == [[e["label"] for e in r] for r in expected]
"""


def test_processes_after_threads():
    """In a process of its own, that it may hang."""
    command = [sys.executable, "-c", WITH_THREADS, str(Path(__file__).parent)]
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "2"}, check=True, timeout=120)


HASH = """
import sys
sys.path.insert(0, sys.argv[1])
from datasets.fingerprint import Hasher
from tiny_pipeline import make_classifier
print(Hasher.hash(make_classifier(top_k=3)))
"""


@pytest.mark.slow
def test_the_same_pipeline_has_the_same_hash_in_another_process():
    command = [sys.executable, "-c", HASH, str(Path(__file__).parent)]
    first, second = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert first == second


def test_pipelines_that_were_made_alike_have_the_same_hash():
    assert Hasher.hash(make_classifier(top_k=3)) == Hasher.hash(make_classifier(top_k=3))


def test_pipelines_of_other_parameters_have_other_hashes(classifier):
    before = Hasher.hash(classifier)
    classifier._postprocess_params["top_k"] = 2
    assert Hasher.hash(classifier) != before


WITH_REMOTE_CODE = """
import sys, warnings
sys.modules["dedn_hf"] = None
warnings.simplefilter("error")
import datasets, dill
from PIL import Image
from transformers import pipeline

classifier = pipeline("zero-shot-attribute-classification", model=sys.argv[1], trust_remote_code=True, device="cpu")
image = Image.new("RGB", (40, 30), (200, 30, 30))
expected = classifier(image)
# Its code is named, not sent along.
assert max(len(dill.dumps(type(value))) for value in (classifier, classifier.model, classifier.model.config)) < 1000
def about(result):
    return [(label["label"], round(label["score"], 4)) for label in result["labels"]]

assert about(dill.loads(dill.dumps(classifier))(image)) == about(expected)
rows = datasets.Dataset.from_dict({"number": [0, 1]}).map(lambda row: classifier(image), num_proc=2)
assert [about(row) for row in rows] == [about(expected)] * 2
"""


def test_a_model_that_brings_its_own_code(classifier, tmp_path):
    classifier.save_pretrained(tmp_path / "model")
    variables = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_DATASETS_CACHE": str(tmp_path / "data")}
    command = [sys.executable, "-c", WITH_REMOTE_CODE, str(tmp_path / "model")]
    process = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")


def test_a_call_leaves_the_hash_as_it_was(classifier, data_set):
    of_pipeline, of_model = Hasher.hash(classifier), Hasher.hash(classifier.model)
    for _ in range(2):
        classifier(IMAGES, batch_size=2, attention="image")
        classifier(IMAGES[0], ["jay"])
        list(classifier(iter(IMAGES)))
    assert Hasher.hash(classifier.model) == of_model
    assert Hasher.hash(classifier) == of_pipeline


def test_a_call_leaves_the_pipeline_but_for_its_model_as_it_was(classifier):
    def state():
        # What a data set's cache goes by.
        return Hasher.hash(classifier.__getstate__() | {"model": None})

    before = state()
    classifier(IMAGES, attention="image")
    classifier(IMAGES[0], ["jay"])
    assert state() == before


def test_a_data_set_that_was_mapped_is_not_mapped_again(classifier, data_set, tmp_path):
    data_set.save_to_disk(tmp_path / "birds")
    data_set = datasets.load_from_disk(tmp_path / "birds")
    classifier(IMAGES[0])
    fingerprints = {
        data_set.map(lambda row: {"name": classifier(row["image"])["labels"][0]["label"]})._fingerprint
        for _ in range(2)
    }
    assert len(fingerprints) == 1
