"""The model that travels with the package: what its card says of it holds."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from real_data import DATA_DIR
from safetensors import safe_open
from transformers import AutoModel, pipeline

import dedn_hf.cli.predict
from dedn_hf import DednModel
from dedn_hf.data import load_gzsl_dataset
from dedn_hf.data.cub import CARD
from dedn_hf.registration import DEFAULT_MODEL, TASK

ROOT = Path(__file__).parents[1]
RESULTS, EVALUATION = (ROOT / "model_cards" / "results" / name for name in ("cub.json", "cub_evaluation.json"))


@pytest.fixture(scope="module")
def box():
    return json.loads(RESULTS.read_text(encoding="utf-8"))["box"]


def test_it_is_what_its_card_is_of(box):
    weights = DEFAULT_MODEL / "model.safetensors"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == box["sha256"], "only scripts/lab/box.py writes it"
    assert weights.stat().st_size == box["bytes"] <= 30e6
    card = (ROOT / "model_cards" / "dedn-cub.md").read_text(encoding="utf-8")
    assert "non-commercial research only" in card


@pytest.mark.skipif(
    not EVALUATION.is_file(), reason="what is in the box was not measured yet: scripts/lab/box.py does"
)
def test_its_figures_are_those_of_the_stored_weights(box):
    evaluation = json.loads(EVALUATION.read_text(encoding="utf-8"))
    assert evaluation["split"]["sha256"] == CARD.split_sha256
    assert evaluation["command"].startswith("dedn evaluate --model src/dedn_hf/default_model --dataset cub")
    card = (ROOT / "model_cards" / "dedn-cub.md").read_text(encoding="utf-8")
    cells = " | ".join(f"{evaluation['test'][name]:.1f}" for name in ("T1", "U", "S", "H", "AUSUC"))
    assert f"| {cells} |" in card


def test_halves_are_loaded_whole(box, tmp_path):
    with safe_open(DEFAULT_MODEL / "model.safetensors", "pt") as file:
        stored = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    model = AutoModel.from_pretrained(DEFAULT_MODEL)
    half = getattr(torch, box["dtype"])
    assert {stored[name] for name, _ in model.named_parameters()} == {half}
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert again.dtype == model.dtype == torch.float32
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert AutoModel.from_pretrained(DEFAULT_MODEL, dtype=half).dtype == half


def test_it_names_the_birds_of_cub():
    config = DednModel.from_pretrained(DEFAULT_MODEL).config
    assert (config.num_labels, len(config.attribute_names), len(config.seen_class_ids)) == (200, 312, 150)
    image = Image.effect_noise((300, 200), 60).convert("RGB")
    (first, *_) = pipeline(TASK)(image)["labels"]
    assert first["label"] in config.label2id and 0 < first["score"] < 1
    assert any("American" in name and "Goldfinch" in name for name in config.label2id)


def test_its_terms_are_said_before_it_is_used(capsys):
    with pytest.raises(SystemExit):
        dedn_hf.cli.predict.parse_arguments(["--help"])
    terms = "model trained on CUB"
    assert f"A {terms}, such as the built-in one, is for non-commercial research only" in capsys.readouterr().out
    for page in ("README.md", "NOTICE"):
        text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
        assert f"{terms} is for non-commercial research only, as CUB is" in text, page


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif(not DATA_DIR.is_dir(), reason=f"CUB is not in {DATA_DIR}")
def test_it_names_most_goldfinches():
    dataset = load_gzsl_dataset("cub", DATA_DIR, word_vectors="random")
    splits = [dataset.splits[name] for name in ("test_seen", "test_unseen")]
    (label,) = (index for index, name in enumerate(dataset.class_names) if "American" in name and "Goldfinch" in name)
    images = [
        split[index]["image"] for split in splits for index, other in enumerate(split["label"]) if other == label
    ]
    results = pipeline(TASK)(images)
    assert sum("Goldfinch" in result["labels"][0]["label"] for result in results) > 0.6 * len(images)
