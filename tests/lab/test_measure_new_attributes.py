import json

import measure_new_attributes
import numpy as np
import pytest
import torch
import training_data
from measure_new_attributes import draw_held_out, main, with_attributes, without_attributes
from tiny_training import NUM_ATTRIBUTES, make_tiny_dataset, make_tiny_inputs

from dedn_hf.training.protocol import build_model


@pytest.fixture
def dataset():
    """Each class has something of each attribute."""
    strengths = np.random.default_rng(1).random((10, NUM_ATTRIBUTES), np.float32)
    strengths[6:8] = [[0.1], [0.9]]  # of the validation classes one has each, and one has none
    return make_tiny_dataset(class_attributes=strengths)


def test_a_fifth_is_held_out():
    draws = [draw_held_out(312, seed) for seed in range(3)]
    assert [draw.sum() for draw in draws] == [62, 62, 62]
    assert (draws[0] != draws[1]).any() and (draws[0] == draw_held_out(312, 0)).all()


def test_data_set_without_attributes(dataset):
    held_out = np.isin(np.arange(NUM_ATTRIBUTES), [1, 3])
    lacking = without_attributes(dataset, held_out)
    for group, indices in lacking.attribute_groups.items():
        kept = [dataset.attribute_names[i] for i in dataset.attribute_groups[group] if i not in (1, 3)]
        assert [lacking.attribute_names[i] for i in indices] == kept
    np.testing.assert_array_equal(lacking.class_attributes, np.delete(dataset.class_attributes, [1, 3], axis=1))
    np.testing.assert_array_equal(lacking.word_vectors, np.delete(dataset.word_vectors, [1, 3], axis=0))
    with pytest.raises(ValueError, match="No attribute would be left in wing: take another draw"):
        without_attributes(dataset, np.isin(np.arange(NUM_ATTRIBUTES), [0, 3]))


def test_attributes_are_given_to_a_model_as_word_vectors(dataset):
    """A model that was trained without some scores the others as before, and these by its own matrices."""
    held_out = np.isin(np.arange(NUM_ATTRIBUTES), [1, 3])
    lacking = without_attributes(dataset, held_out)
    settings = {**make_tiny_inputs(dataset).config, "backbone_config": None}
    torch.manual_seed(0)
    model = build_model(lacking, range(8), [6, 7], **settings).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    whole = with_attributes(model, dataset, held_out, mapped=False)
    feature_map = torch.randn(2, settings["feature_channels"], settings["grid_size"], settings["grid_size"])
    with torch.inference_mode():
        of_model, of_whole = (one(feature_map=feature_map).expert_scores for one in (model, whole))
    torch.testing.assert_close(of_whole[..., ~held_out], of_model)
    # Of the held-out attributes, 3 stands behind 0 in the group wing, which is the last by name.
    vector = torch.nn.functional.normalize(torch.from_numpy(dataset.word_vectors[3]), dim=0)
    torch.testing.assert_close(whole.fine_expert.heads[2].word_vectors[1], vector)
    torch.testing.assert_close(whole.coarse_expert.heads[0].word_vectors[3], vector)
    mapped = with_attributes(model, dataset, held_out, mapped=True)
    assert not torch.allclose(mapped.coarse_expert.heads[0].word_vectors[3], vector)
    torch.testing.assert_close(
        mapped.coarse_expert.heads[0].word_vectors[~held_out], model.coarse_expert.heads[0].word_vectors
    )


@pytest.mark.parametrize("fixed", [False, True])
def test_draws_are_trained_measured_and_not_again(dataset, tmp_path, monkeypatch, capsys, fixed):
    monkeypatch.setattr(training_data, "load_gzsl_dataset", lambda *args, **options: dataset)
    monkeypatch.setattr(measure_new_attributes, "prepare_inputs", lambda *args, **options: make_tiny_inputs(dataset))
    monkeypatch.setattr(measure_new_attributes, "draw_held_out", lambda num, seed: np.arange(num) == seed + 1)
    command = "--dataset folder --data_dir DATA --use_cpu true --disable_tqdm true --bf16 false --num_train_epochs 2"
    command += f" --draws 0 1 --output_dir {tmp_path} --fixed_word_vectors {fixed}"
    command = command.split()
    main(command)
    draws = json.loads((tmp_path / "new_attributes.json").read_text())["draws"]
    ways = ["trained", "word vector", "mapped", "nearest"]
    assert len(draws) == 2 and all(list(draw) == ways for draw in draws)
    for draw in draws:
        assert all(0 <= draw[way][figure] <= 100 for way in ways for figure in ("AUROC", "AUROC of unseen", "T1"))
        assert draw["word vector"]["AUROC: attributes"] <= 1 < draw["trained"]["AUROC: attributes"]
    assert capsys.readouterr().out.count(" ± ") == 4 * 3

    model = measure_new_attributes.DednModel.from_pretrained(tmp_path / "draw_0/choose")
    start = np.delete(dataset.word_vectors, 1, axis=0)
    start = torch.nn.functional.normalize(torch.from_numpy(start), dim=-1)
    assert torch.equal(model.coarse_expert.heads[0].word_vectors, start) == fixed

    monkeypatch.setattr(measure_new_attributes, "measure_draw", lambda *args: draws[0])
    before = (tmp_path / "draw_0/choose/model.safetensors").stat().st_mtime_ns
    main(command)
    assert (tmp_path / "draw_0/choose/model.safetensors").stat().st_mtime_ns == before
