import copy
import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path

import box
import pytest
import render_model_cards
import torch
from box import make_box
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from synthetic_model import SYNTHETIC_MODEL
from transformers import AutoModel, pipeline

from dedn_hf import DednModel
from dedn_hf.data import load_gzsl_dataset
from dedn_hf.registration import TASK

RESULTS = Path(__file__).parents[2] / "model_cards" / "results" / "synthetic-birds.json"
EVALUATION = {
    "test": {"T1": 71.04, "U": 60.0, "S": 70.0, "H": 64.62, "AUSUC": 55.5},
    "expected_calibration_error": 12.34,
    "reliability": [
        {"confidence": 20.4, "accuracy": 30.2, "images": 1},
        {"confidence": 95.0, "accuracy": 90.0, "images": 3},
    ],
    "classes": {f"00{n}.Some_{n}_Sparrow": {"accuracy": 10.0 * n, "images": 5, "seen": True} for n in range(1, 5)}
    | {"005.Blue_Jay": {"accuracy": 90.0, "images": 5, "seen": False}},
    "confusions": [{"label": "001.Some_1_Sparrow", "prediction": "005.Blue_Jay", "count": 2, "percent": 40.0}],
    "command": "dedn evaluate --model src/dedn_hf/default_model",
}


@pytest.fixture(scope="module")
def dataset():
    return load_gzsl_dataset("synthetic_birds")


@pytest.fixture(autouse=True)
def of_synthetic_birds(monkeypatch, dataset, tmp_path):
    """The box of these tests is for another data set than CUB, and elsewhere."""
    monkeypatch.setattr(box, "DATASET", "synthetic_birds")
    monkeypatch.setattr(box, "NAME", "synthetic-birds")
    monkeypatch.setattr(box, "NUM_IMAGES", 20)
    monkeypatch.setattr(box, "DEFAULT_MODEL", tmp_path / "box")
    monkeypatch.setattr(box, "load_gzsl_dataset", lambda *args, **options: dataset)


@pytest.fixture
def trained(tmp_path):
    folder = shutil.copytree(SYNTHETIC_MODEL, tmp_path / "trained")
    command = "dedn train --data_dir ../../some/data --feature_maps ../store --output_dir outputs/birds"
    results = json.loads(RESULTS.read_text()) | {"command": command}
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def test_weights_are_halved_and_loaded_whole(trained, dataset, tmp_path):
    results = make_box(trained, dataset, tmp_path / "box")
    assert sorted(file.name for file in (tmp_path / "box").iterdir()) == sorted(box.MODEL_FILES)
    assert all(file.stat().st_mode & 0o777 == 0o644 for file in (tmp_path / "box").iterdir())
    stored, trained_model = load_file(tmp_path / "box" / "model.safetensors"), DednModel.from_pretrained(trained)
    assert {stored[name].dtype for name, _ in trained_model.named_parameters()} == {torch.float16}
    assert all(torch.equal(stored[name], buffer) for name, buffer in trained_model.named_buffers())
    assert results["box"]["bytes"] == (tmp_path / "box" / "model.safetensors").stat().st_size < 1.05e6
    differences = results["box"]["differences"]
    assert 0 < differences["float16"]["largest"] < differences["bfloat16"]["largest"]
    assert results["test"] == json.loads(RESULTS.read_text())["test"]
    assert results["command"] == "dedn train --data_dir data --feature_maps store --output_dir outputs/birds"

    assert json.loads((tmp_path / "box" / "config.json").read_text())["dtype"] == "float32"
    for options in ({}, {"dtype": "auto"}):
        model = AutoModel.from_pretrained(tmp_path / "box", **options)
        assert {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()} == {
            torch.float32
        }
    assert AutoModel.from_pretrained(tmp_path / "box", dtype=torch.bfloat16).dtype == torch.bfloat16
    model.save_pretrained(tmp_path / "again")
    again = AutoModel.from_pretrained(tmp_path / "again")
    assert again.dtype == torch.float32 and again.config.dtype == torch.float32
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_it_names_as_the_trained_model_does(trained, dataset, tmp_path):
    make_box(trained, dataset, tmp_path / "box")
    images = [dataset.splits["test_unseen"][index]["image"] for index in range(0, 800, 100)]
    before, after = (pipeline(TASK, model=str(folder), device="cpu")(images) for folder in (trained, tmp_path / "box"))
    assert [result["labels"][0]["label"] for result in before] == [result["labels"][0]["label"] for result in after]
    for one, other in zip(before, after):
        assert one["labels"][0]["score"] == pytest.approx(other["labels"][0]["score"], abs=0.01)


def test_classes_are_called_as_the_data_set_has_them(trained, dataset, tmp_path):
    names = [name.upper().replace(" ", "_") for name in dataset.class_names]
    make_box(trained, dataclasses.replace(dataset, class_names=names), tmp_path / "box")
    before, after = (AutoModel.from_pretrained(folder).config for folder in (trained, tmp_path / "box"))
    assert [name.upper().replace(" ", "_") for name in before.id2label.values()] == list(after.id2label.values())
    assert after.seen_class_ids == before.seen_class_ids
    assert Counter(after.trained_class_names) == Counter(after.id2label[index] for index in after.seen_class_ids)


def test_the_half_that_holds_all_numbers_is_taken(trained, dataset, tmp_path):
    state = load_file(trained / "model.safetensors")
    state["coarse_expert.heads.0.word_vectors"][0] = 1e5
    save_file(state, trained / "model.safetensors", metadata={"format": "pt"})
    assert make_box(trained, dataset, tmp_path / "box")["box"]["dtype"] == "bfloat16"


def change_json(**changes):
    def change(file):
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def drop_backbone(folder):
    model = DednModel.from_pretrained(folder)
    model.backbone = model.config.backbone_config = None
    model.save_pretrained(folder)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (shutil.rmtree, "there is no model folder"),
        (lambda folder: (folder / "results.json").unlink(), "has no results.json: name the folder of a finished"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "has no preprocessor_config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is damaged, or no JSON"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "vit"}'), "model of type 'vit'"),
        (lambda folder: change_json(dataset="sun")(folder / "results.json"), "is a run on sun by the protocol valid"),
        (lambda folder: change_json(protocol="reference")(folder / "results.json"), "by the protocol reference"),
        (lambda folder: change_json(test=None)(folder / "results.json"), "with test figures"),
        (drop_backbone, "has no backbone and takes no photo"),
        (
            lambda folder: save_file(
                {"class_attributes": load_file(folder / "model.safetensors")["class_attributes"]},
                folder / "model.safetensors",
                metadata={"format": "pt"},
            ),
            "lacks .* of its weights",
        ),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 99), "."),
    ],
)
def test_anything_else_is_refused_in_a_line(trained, tmp_path, spoil, message):
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "config.json").write_text("as it was")
    spoil(trained)
    with pytest.raises(SystemExit, match=f"^error: .*{message}") as end:
        box.main([str(trained), "--data_dir", "data"])
    assert "\n" not in str(end.value)
    assert [file.name for file in (tmp_path / "box").iterdir()] == ["config.json"]
    assert (tmp_path / "box" / "config.json").read_text() == "as it was"


def test_other_classes_and_too_many_bytes_are_refused(trained, dataset, tmp_path, monkeypatch):
    names = ["Stranger", *dataset.class_names[1:]]
    with pytest.raises(ValueError, match=r"The classes of the model and of synthetic_birds differ.*Stranger"):
        make_box(trained, dataclasses.replace(dataset, class_names=names), tmp_path / "box")
    monkeypatch.setattr(box, "MAX_BYTES", 9e5)
    with pytest.raises(ValueError, match=r"has 1\.0 MB of weights in float16, more than the 1 of the box"):
        make_box(trained, dataset, tmp_path / "box")
    assert not (tmp_path / "box").exists()


def interrupt(data_dir):
    raise KeyboardInterrupt


def test_one_command_fills_in_the_card(trained, tmp_path, monkeypatch, capsys):
    (tmp_path / "model_cards" / "results").mkdir(parents=True)
    monkeypatch.setattr(render_model_cards, "MODEL_CARDS", tmp_path / "model_cards")
    evaluation_file = tmp_path / "model_cards" / "results" / "synthetic-birds_evaluation.json"
    evaluation_file.write_text("of other weights")
    monkeypatch.setattr(box, "evaluate_box", interrupt)
    with pytest.raises(KeyboardInterrupt):
        box.main([str(trained), "--data_dir", "data"])
    assert not evaluation_file.exists()
    assert "in the box" not in (tmp_path / "model_cards" / "dedn-synthetic-birds.md").read_text()

    monkeypatch.setattr(box, "evaluate_box", lambda data_dir: copy.deepcopy(EVALUATION))
    box.main([str(trained), "--data_dir", "data"])
    assert "1.0 MB in float16" in capsys.readouterr().out
    card = ModelCard.load(tmp_path / "model_cards" / "dedn-synthetic-birds.md")
    text = " ".join(card.text.split())
    assert "`model.safetensors` has 1.0 MB: weights are float16, tables and batch statistics float32" in text
    assert "| 71.0 | 60.0 | 70.0 | 64.6 | 55.5 | ``` dedn evaluate --model src/dedn_hf/default_model ```" in text
    assert "| Sparrow | 4 | 20 | 25.0 | | all others | 1 | 5 | 90.0 |" in text
    assert "(expected calibration error) is 12.3" in text and "| 20 % | 30 % | 25.0 % |" in text
    assert "Some 1 Sparrow, taken for Blue Jay in 40 % of its images" in text
    # What the card is of is what is in the box.
    results = json.loads((tmp_path / "model_cards" / "results" / "synthetic-birds.json").read_text())
    assert results["box"]["bytes"] == (tmp_path / "box" / "model.safetensors").stat().st_size
