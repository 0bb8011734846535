import json

import measure_levers
import pytest
import torch
import torch.nn.functional as F
from measure_levers import LEVERS, average_weights, change_maps, main, noise_class_attributes, smooth_labels
from safetensors.torch import load_file
from tiny_model import make_tiny_model
from tiny_training import make_tiny_dataset, make_tiny_inputs


@pytest.fixture
def model():
    return make_tiny_model().train()


@pytest.fixture
def batch(model):
    config = model.config
    torch.manual_seed(0)
    maps = torch.rand(4, config.feature_channels, config.grid_size, config.grid_size)
    return {"feature_map": maps, "labels": torch.tensor(config.seen_class_ids[:2] * 2)}


def test_maps_are_changed_in_training_alone(model, batch):
    plain = model(**batch).loss
    evaluated = model.eval()(**batch).logits
    change_maps(model, lambda maps: 0 * maps)
    assert torch.equal(model(**batch).logits, evaluated)
    assert not torch.equal(model.train()(**batch).loss, plain)
    assert torch.equal(model(**batch).loss, model(**batch | {"feature_map": 0 * batch["feature_map"]}).loss)


def test_class_attributes_are_others_in_each_step_of_training(model, batch):
    attributes, evaluated = model.class_attributes.clone(), model.eval()(**batch).loss
    noise_class_attributes(model, 0.3)
    assert torch.equal(model(**batch).loss, evaluated)
    model.train()
    torch.manual_seed(0)
    first, second = model(**batch).loss, model(**batch).loss
    torch.manual_seed(0)
    assert torch.equal(model(**batch).loss, first) and not torch.equal(first, second)
    assert torch.equal(model.class_attributes, attributes)


def test_a_share_of_each_label_goes_to_similar_classes(model, batch):
    plain, parts = (model(**batch)[name] for name in ("loss", "loss_parts"))
    smooth_labels(model, share=1.0, temperature=0.5)
    smooth = model(**batch).loss
    rows = F.normalize(model.class_attributes, dim=-1)
    target = (rows[batch["labels"]] @ rows.T / 0.5).softmax(dim=-1)
    expected = plain - parts["coarse_margin"] - parts["fine_margin"]
    own = F.one_hot(batch["labels"], len(rows)).bool()
    margins = (model.config.seen_margin * model.seen_classes.float()).expand_as(target)
    margins = margins.masked_fill(own, -model.config.target_margin)
    for scores in model(**batch).expert_scores.sum(dim=2).unbind(dim=1):
        expected = expected - (target * (scores @ rows.T + margins).log_softmax(dim=-1)).sum(dim=-1).mean()
    torch.testing.assert_close(smooth, expected)


def test_what_is_evaluated_is_the_mean_of_the_weights(model, batch):
    parameter = next(model.parameters())
    first = parameter.detach().clone()
    average_weights(model, decay=0.75)
    for value in (first, first + 1, first + 2):
        parameter.data.copy_(value)
        model(**batch)
    model.eval()
    # first; ¾ first + ¼ (first + 1); and so on.
    torch.testing.assert_close(parameter.detach(), first + 0.75 * 0.25 + 0.5)
    model.eval()
    torch.testing.assert_close(parameter.detach(), first + 0.75 * 0.25 + 0.5)
    model.train()
    torch.testing.assert_close(parameter.detach(), first + 2)


def run(tmp_path, monkeypatch, *arguments):
    dataset = make_tiny_dataset()
    inputs = make_tiny_inputs(dataset)
    monkeypatch.setattr(measure_levers, "load_training_data", lambda *_: (dataset, {}))
    monkeypatch.setattr(measure_levers, "prepare_inputs", lambda *_, **__: inputs)
    short = ["--num_train_epochs", "1", "--per_device_train_batch_size", "6", "--use_cpu"]
    where = ["--dataset", "cub", "--data_dir", str(tmp_path), "--output_dir", str(tmp_path / "out")]
    main([*where, "--bf16", "false", *short, *arguments])


def test_runs_of_some_levers(tmp_path, monkeypatch, capsys):
    run(tmp_path, monkeypatch, "--levers", "recipe", "weight_averaging")
    told, weights = capsys.readouterr().out, []
    for name in ("recipe", "weight_averaging"):
        results = json.loads((tmp_path / "out" / name / "results.json").read_text())
        assert results["settings"]["lever"] == name and "test" not in results
        assert f"{name}: T1 {results['validation']['T1']:.1f}  U " in told
        weights.append(load_file(tmp_path / "out" / name / "choose/model.safetensors"))
    trained = [key for key in weights[0] if "_expert.heads." in key]
    assert trained and not any(torch.equal(weights[0][key], weights[1][key]) for key in trained)


def test_unknown_lever_is_named(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=f"there is no lever luck; choose from {', '.join(LEVERS)}"):
        run(tmp_path, monkeypatch, "--levers", "recipe", "luck")
