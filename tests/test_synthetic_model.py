"""The model of the synthetic birds that `make demo` trains: what its card says of it holds."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from synthetic_model import SYNTHETIC_MODEL

from dedn_hf import DednModel
from dedn_hf.data import load_gzsl_dataset
from dedn_hf.evaluation.report import TEST_SPLITS, evaluate_model
from dedn_hf.recipes import read_recipe
from dedn_hf.training.inputs import prepare_inputs

RESULTS = Path(__file__).parents[1] / "model_cards" / "results" / "synthetic-birds.json"


def test_it_is_small_and_float32():
    assert (SYNTHETIC_MODEL / "model.safetensors").stat().st_size <= 8e6
    with safe_open(SYNTHETIC_MODEL / "model.safetensors", "pt") as file:
        tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
    assert {tensor.dtype for tensor in tensors if tensor.is_floating_point()} == {torch.float32}


def test_its_figures_are_those_of_its_card(tmp_path):
    dataset = load_gzsl_dataset("synthetic_birds")
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert results["split"]["sha256"] == dataset.split_sha256
    inputs = prepare_inputs(dataset, config=read_recipe("synthetic_birds").model)
    examples = {split: inputs.make(dataset.splits[split]) for split in TEST_SPLITS}
    report = evaluate_model(DednModel.from_pretrained(SYNTHETIC_MODEL), dataset, examples)
    # Another machine's rounding may move an image over a border: of 800 and 900, one is about 0.1 points.
    for name, figure in results["test"].items():
        assert report.figures["test"][name] == pytest.approx(figure, abs=0.4), name
