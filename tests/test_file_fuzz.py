"""Files of models, settings, predictions and word vectors that are not as they should be."""

import os

import numpy as np
import pytest
import torch
from fuzzing import fuzz
from safetensors.torch import save_file
from tiny_model import make_tiny_config, make_tiny_model

from dedn_hf import DednConfig, DednModel
from dedn_hf.cli.train import TrainArguments, parse_command_line
from dedn_hf.convert_original_checkpoint import load_original_state_dict
from dedn_hf.data.word_vectors import load_word_vectors
from dedn_hf.prediction_file import PredictionFile
from dedn_hf.recipes import read_recipe

# In the default suite, and in the slow tests.
FEW, MANY = 60, 1000


def cases(few=FEW, many=MANY):
    return pytest.mark.parametrize("cases", [few, pytest.param(many, marks=pytest.mark.slow)])


@cases()
def test_mutated_configs(tmp_path, cases):
    folder = tmp_path / "a model"
    make_tiny_config(calibration=0.5, trained_class_names=["jay"]).save_pretrained(folder)

    def read():
        config = DednConfig.from_pretrained(folder)
        config.validate()
        DednModel(config)

    # What is wrong with a setting is the same wherever it is from.
    print(fuzz(folder, read, cases, naming="`"))


@cases(few=40, many=500)
def test_mutated_models(tmp_path, cases):
    folder = tmp_path / "a model"
    make_tiny_model().save_pretrained(folder)
    for file in folder.glob("*.py"):
        file.unlink()

    def read():
        model = DednModel.from_pretrained(folder)
        model(feature_map=torch.zeros(1, model.config.feature_channels, *[model.config.grid_size] * 2))

    print(fuzz(folder, read, cases, naming="`"))


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@cases()
def test_mutated_predictions(tmp_path, suffix, cases):
    folder = tmp_path / "answers"
    folder.mkdir()
    file = folder / f"birds.{suffix}"
    answer = {
        "labels": [{"label": "jay", "score": 0.75, "seen": True}, {"label": "owl", "score": 0.1, "seen": False}],
        "attributes": [{"label": 'a "long" tail', "score": 0.25, "contribution": 0.5}],
    }
    rows = [("a.jpg", answer), ("b, c\n.jpg", answer), ("no.jpg", "it is no image"), ("\udcff.jpg", answer)]
    first = PredictionFile(file, 2, 1)
    first.write(rows)
    first.file.close()

    def read():
        PredictionFile.check(file, resume=True)
        there = PredictionFile(file, 2, 1, resume_labels={"jay", "owl"})
        before = there.done.total()
        there.write([("d.jpg", answer)])
        there.file.close()
        again = PredictionFile(file, 2, 1, resume_labels={"jay", "owl"})
        again.file.close()
        assert again.done.total() == before + 1 and again.done["d.jpg"]

    print(fuzz(folder, read, cases))


@cases(many=500)
def test_mutated_settings_and_recipes(tmp_path, cases, monkeypatch):
    folder = tmp_path / "settings"
    folder.mkdir()
    (folder / "settings.yaml").write_text(
        f"dataset: cub\nrecipe: {folder / 'recipe.yaml'}\nseeds: [0, 1]\nlearning_rate: 0.01\nbf16: false\n"
        "config_overrides: distillation_weight=0.05\nlr_scheduler_kwargs: {num_cycles: 0.4}\nmax_steps: 5\n"
    )
    (folder / "settings.json").write_text('{"dataset": "cub", "num_train_epochs": 3, "seeds": [1]}')
    (folder / "recipe.yaml").write_text(
        "dataset: cub\nmodel: {class_bias: 0.5, attribute_groups: {wing: '1-3,5', tail: '4'}}\n"
        "training: {learning_rate: 0.1}\nprotocols:\n  reference: {model: {coarse_mix: 0.2}, training: {}}\n"
    )
    monkeypatch.chdir(tmp_path)

    def read():
        read_recipe(folder / "recipe.yaml")
        read_recipe(folder / "recipe.yaml", "reference")
        for file in ("settings.yaml", "settings.json"):
            try:
                parse_command_line(
                    [str(folder / file)], TrainArguments, "outputs/{}".format, prog="dedn train", description=""
                )
            except SystemExit as end:
                raise ValueError(f"{file}: as the parser says") from end

    print(fuzz(folder, read, cases, naming="The recipe sets|--config_overrides|no data set"))


@pytest.mark.parametrize("suffix", ["npy", "safetensors", "txt"])
@cases(many=1500)
def test_mutated_word_vectors(tmp_path, suffix, cases):
    folder, names = tmp_path / "vectors", ["red wing", "blue tail"]
    folder.mkdir()
    file = folder / f"vectors.{suffix}"
    if suffix == "npy":
        np.save(file, np.arange(8, dtype=np.float32).reshape(2, 4))
    elif suffix == "safetensors":
        save_file({"vectors": torch.arange(8.0).reshape(2, 4)}, file)
    else:
        file.write_text("".join(f"{word} 0.5 1.5 2 -1e-3\n" for word in ("the", "red", "wing", "blue", "tail")))

    def read():
        vectors = load_word_vectors(file, names)
        assert vectors.shape[0] == 2 and vectors.dtype == np.float32 and np.isfinite(vectors).all()

    print(fuzz(folder, read, cases))


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@cases(few=30, many=300)
def test_mutated_checkpoints_of_the_released_program(tmp_path, suffix, cases):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    file = folder / f"cub.{suffix}"
    state = {"att": torch.rand(3, 4), "bias": torch.ones(1)}
    torch.save(state, file) if suffix == "pt" else save_file(state, file)
    print(fuzz(folder, lambda: load_original_state_dict(file), cases))


def test_damaged_weights_are_named(tmp_path):
    make_tiny_model().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:-10])
    with pytest.raises(OSError, match=f"weights of {tmp_path} are damaged, or were cut off"):
        DednModel.from_pretrained(tmp_path)


def test_misspelt_setting_in_a_file_is_a_wrong_value(tmp_path):
    make_tiny_config().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace("seen_class_ids", "seen_classCids"))
    with pytest.raises(ValueError, match=r"no setting `seen_classCids`\. Do you mean `seen_class_ids`"):
        DednConfig.from_pretrained(tmp_path)


def test_array_file_with_a_damaged_header(tmp_path):
    np.save(tmp_path / "vectors.npy", np.ones((2, 4)))
    content = (tmp_path / "vectors.npy").read_bytes()
    (tmp_path / "vectors.npy").write_bytes(content.replace(b"'fortran_order'", b"'fortran_order("))
    with pytest.raises(ValueError, match=r"vectors\.npy cannot be read"):
        load_word_vectors(tmp_path / "vectors.npy", ["red", "blue"])


@pytest.mark.parametrize("name", ["cub.pt", "cub.safetensors"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half an archive"])
def test_damaged_checkpoint_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is damaged, or no such file"):
        load_original_state_dict(tmp_path / name)


def test_pipe_is_no_file_of_predictions(tmp_path):
    os.mkfifo(tmp_path / "birds.csv")
    with pytest.raises(ValueError, match=r"birds\.csv is no ordinary file"):
        PredictionFile.check(tmp_path / "birds.csv", resume=True)
