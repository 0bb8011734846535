import json
from pathlib import Path

import ablation
import baselines
import numpy as np
import pytest
import torch
from ablation import DEFAULT_VARIANTS, VARIANTS, run_ablation
from tiny_training import CHANNELS, GRID, NUM_ATTRIBUTES, make_tiny_arguments, make_tiny_dataset, make_tiny_inputs
from transformers import AutoModel

from dedn_hf.data.load import cluster_attributes
from dedn_hf.recipes import read_recipe
from dedn_hf.training import DednTrainer, protocol
from dedn_hf.training.protocol import build_model, run_protocol

TRAINED = (
    "full",
    "no_fine_expert",
    "no_coarse_expert",
    "region_only",
    "channel_only",
    "word2vec_word_vectors",
    "sentence_word_vectors",
)
SENTENCE_VECTORS = np.random.default_rng(5).normal(size=(NUM_ATTRIBUTES, 3)).astype(np.float32)


class Killed(BaseException):
    """What ends a run in these tests; nothing in the package catches it."""


def run(output_dir, variants=("full", "no_margin"), seeds=(0,), word_vectors=None, changes=None, **arguments):
    dataset = make_tiny_dataset(**changes or {})
    arguments = make_tiny_arguments(output_dir, **{"num_train_epochs": 1} | arguments)
    return run_ablation(dataset, make_tiny_inputs(dataset), arguments, variants, seeds, word_vectors)


@pytest.fixture(autouse=True, scope="module")
def _no_chart():
    # Drawn anew after each run, which takes as long as the run. tests/lab/test_ablate.py has it drawn.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablation, "plot_ablation", lambda summary, path: None)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One seed of variants that differ in kind: the folder and what came back."""
    folder, dataset = tmp_path_factory.mktemp("trained") / "out", make_tiny_dataset()
    inputs = make_tiny_inputs(dataset)
    inputs.config["region_value_rank"] = 2
    arguments = make_tiny_arguments(folder, num_train_epochs=2)
    return folder, run_ablation(dataset, inputs, arguments, TRAINED, [3], {"sentence_word_vectors": SENTENCE_VECTORS})


def load(trained, name):
    return AutoModel.from_pretrained(trained[0] / name / "seed_3", local_files_only=True)


@torch.no_grad()
def expert_scores(model):
    """(images, [coarse, fine], [region, channel], attributes)"""
    torch.manual_seed(1)
    return model.eval()(feature_map=torch.randn(4, CHANNELS, GRID, GRID)).expert_scores


@pytest.mark.parametrize(
    "name, dropped",
    [
        ("no_fine_expert", (slice(None), 1)),
        ("no_coarse_expert", (slice(None), 0)),
        ("region_only", (slice(None), slice(None), 1)),
        ("channel_only", (slice(None), slice(None), 0)),
    ],
)
def test_what_is_dropped_gives_exactly_nothing_and_the_rest_is_trained(trained, name, dropped):
    scores = expert_scores(load(trained, name))
    assert (scores[dropped] == 0).all()
    kept = torch.ones_like(scores, dtype=torch.bool)
    kept[dropped] = False
    assert (scores[kept] != 0).all()
    log = json.loads((trained[0] / name / "seed_3" / "training_log.json").read_text())
    losses = [entry["loss"] for entry in log["choose"] if "loss" in entry]
    assert len(losses) == 2 and losses[1] < losses[0]
    assert (expert_scores(load(trained, "full")) != 0).all()


def test_what_is_dropped_is_frozen_and_nothing_else():
    dataset = make_tiny_dataset()
    birds = {key: read_recipe("synthetic_birds").model[key] for key in ("backbone_config", "freeze_backbone")}
    config = {"feature_channels": 128, "grid_size": 6, "region_value_rank": 2}
    for name, expected in {
        "full": [],
        "no_margin": [],
        "no_fine_expert": ["fine_expert."],
        "no_coarse_expert": ["coarse_expert."],
        "region_only": ["channel_value", "channel_weight"],
        "channel_only": ["region_value", "region_value_out", "region_weight"],
    }.items():
        model = build_model(dataset, range(10), dataset.unseen_class_ids, **birds, **config)
        VARIANTS[name].prepare_model(model)
        for parameter_name, parameter in model.named_parameters():
            is_dropped = parameter_name.startswith(tuple(e for e in expected if "." in e)) or (
                parameter_name.split(".")[-2] in expected
            )
            assert parameter.requires_grad != is_dropped, (name, parameter_name)
            assert not (is_dropped and parameter.any())


def test_what_each_variant_is_trained_with(tmp_path, monkeypatch):
    asked = {}

    def record(protocol, dataset, inputs, args, seeds, prepare_model):
        asked[inputs.source["variant"]] = (dataset, inputs.config, Path(args.output_dir), prepare_model)
        assert protocol == "validated" and seeds == [7]

    monkeypatch.setattr(ablation, "run_protocol", record)
    monkeypatch.setattr(ablation, "run_floor", lambda *args: {"chosen": {}, "validation": {}, "test": {"H": 1.0}})
    monkeypatch.setattr(ablation, "describe_ablation", lambda summary: "")
    run(tmp_path, tuple(VARIANTS), seeds=[7], word_vectors={"sentence_word_vectors": SENTENCE_VECTORS})
    assert list(asked) == [name for name in VARIANTS if name != "word2vec_word_vectors"]

    full, own = make_tiny_dataset(), make_tiny_inputs(make_tiny_dataset()).config
    changed = {
        "no_fine_expert": {"distillation_weight": 0},
        "no_coarse_expert": {"distillation_weight": 0},
        "region_only": {"alignment_weight": 0},
        "channel_only": {"alignment_weight": 0},
        "no_distillation": {"distillation_weight": 0},
        "no_alignment": {"alignment_weight": 0},
        "no_margin": {"target_margin": 0, "seen_margin": 0},
    }
    for name, (dataset, config, folder, prepare_model) in asked.items():
        assert config == own | changed.get(name, {}) and folder == tmp_path / name / "seed_7"
        assert prepare_model == VARIANTS[name].prepare_model
        assert (dataset.attribute_groups != full.attribute_groups) == name.endswith("_groups")
        assert np.array_equal(dataset.word_vectors, full.word_vectors) != name.endswith("_word_vectors")
        assert dataset.word_vector_source == (name if name.endswith("_word_vectors") else None)
        np.testing.assert_array_equal(dataset.class_attributes, full.class_attributes)
    random = asked["random_groups"][0].attribute_groups
    assert sorted(map(len, random.values())) == [2, 3, 3] and sorted(i for g in random.values() for i in g) == list(
        range(8)
    )
    assert sorted(random.values()) != sorted(map(sorted, full.attribute_groups.values()))
    clustered = cluster_attributes(full.attribute_names, full.word_vectors, 3)
    assert asked["clustered_groups"][0].attribute_groups == clustered
    np.testing.assert_array_equal(asked["sentence_word_vectors"][0].word_vectors, SENTENCE_VECTORS)


def test_what_is_random_follows_the_seed():
    dataset = make_tiny_dataset()
    for change in (ablation._random_groups, ablation._random_word_vectors):
        one, again, other = (change(dataset, seed) for seed in (0, 0, 1))
        assert str(one) == str(again) != str(other)


def test_the_full_variant_is_what_training_alone_gives(trained, tmp_path):
    dataset = make_tiny_dataset()
    inputs = make_tiny_inputs(dataset)
    inputs.config["region_value_rank"] = 2
    alone = run_protocol("validated", dataset, inputs, make_tiny_arguments(tmp_path / "out", num_train_epochs=2), [3])
    (of_variant,) = trained[1]["variants"]["full"]["runs"]
    for part in ("chosen", "validation", "test"):
        assert of_variant[part] == alone[part]
    state = AutoModel.from_pretrained(tmp_path / "out", local_files_only=True).state_dict()
    for name, value in load(trained, "full").state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0)


def test_figures_and_table(trained):
    folder, summary = trained
    assert json.loads((folder / "ablation.json").read_text()) == summary
    assert list(summary["variants"]) == list(TRAINED) and set(summary["floors"]) == set(baselines.FLOORS)
    assert summary["seeds"] == [3] and summary["protocol"] == "validated" and summary["versions"]
    assert load(trained, "sentence_word_vectors").config.word_vector_size == 3
    for name, row in (summary["variants"] | summary["floors"]).items():
        if name == "word2vec_word_vectors":
            assert row["runs"] == [] and "test" not in row
            continue
        (of_seed,) = row["runs"]
        assert row["test"] == of_seed["test"] and row["validation"] == of_seed["validation"] and "std" not in row
        on_disk = folder / name / ("results.json" if name in summary["floors"] else "seed_3/results.json")
        assert json.loads(on_disk.read_text())["test"] == row["test"]
        assert row["difference_of_H_to_full"] == pytest.approx(
            row["test"]["H"] - summary["variants"]["full"]["test"]["H"]
        )
    assert summary["variants"]["full"]["runs"][0]["steps"]["choose"] == 2 * 6
    text = (folder / "ablation.md").read_text()
    assert text.count("not measured") == 1 and f"{summary['variants']['region_only']['test']['H']:.1f}" in text
    assert not list(folder.rglob("*.tmp"))


def test_more_seeds_and_variants_join_what_is_there(tmp_path, monkeypatch):
    first = run(tmp_path, ["no_margin", "full"])
    assert list(first["variants"]) == ["full", "no_margin"]
    monkeypatch.setattr(ablation, "run_floor", lambda *args: pytest.fail("fitted again"))
    summary = run(tmp_path, ["full"], seeds=[0, 1])
    full, no_margin = summary["variants"]["full"], summary["variants"]["no_margin"]
    assert full["seeds"] == [0, 1] and no_margin["seeds"] == [0] and no_margin == first["variants"]["no_margin"]
    heights = [of_seed["test"]["H"] for of_seed in full["runs"]]
    assert full["test"]["H"] == pytest.approx(np.mean(heights))
    assert full["std"]["test"]["H"] == pytest.approx(np.std(heights, ddof=1))
    # Seed 0 is what both have; a floor on frozen features has none, and is compared with all.
    assert no_margin["difference_of_H_to_full"] == pytest.approx(no_margin["test"]["H"] - heights[0])
    eszsl = summary["floors"]["eszsl"]
    assert eszsl["seeds"] == [] and eszsl["difference_of_H_to_full"] == pytest.approx(
        eszsl["test"]["H"] - np.mean(heights)
    )


@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_finished_training_is_taken_for_the_full_variant(tmp_path, monkeypatch, capsys, seeds):
    dataset = make_tiny_dataset()
    arguments = make_tiny_arguments(tmp_path / "full", num_train_epochs=1)
    alone = run_protocol("validated", dataset, make_tiny_inputs(dataset), arguments, seeds)
    monkeypatch.setattr(DednTrainer, "training_step", lambda *args: pytest.fail("trained again"))
    full = run(tmp_path, ["full"], seeds)["variants"]["full"]
    assert "0 of" in capsys.readouterr().out
    assert full["seeds"] == seeds and [of_seed["seeds"] for of_seed in full["runs"]] == [[seed] for seed in seeds]
    for part in ("validation", "test"):
        assert full[part] == alone[part]


def test_seed_that_is_there_twice_counts_once(tmp_path):
    dataset = make_tiny_dataset()
    for folder in (tmp_path / "full", tmp_path / "full/seed_0"):
        arguments = make_tiny_arguments(folder, num_train_epochs=1)
        run_protocol("validated", dataset, make_tiny_inputs(dataset), arguments, [0])
    full = run(tmp_path, ["full"])["variants"]["full"]
    assert full["seeds"] == [0] and len(full["runs"]) == 1 and "std" not in full


def test_floors_of_a_trained_backbone_are_of_the_training_that_was_brought(tmp_path, monkeypatch):
    dataset = make_tiny_dataset()
    inputs, arguments = make_tiny_inputs(dataset), make_tiny_arguments(tmp_path / "full", num_train_epochs=1)
    run_protocol("validated", dataset, inputs, arguments, [0])
    monkeypatch.setattr(ablation, "fingerprint_weights", lambda backbone: "0")
    monkeypatch.setattr(ablation, "run_floor", lambda *args: {})
    ablation._run_floors(tmp_path, dataset, inputs, arguments, {}, 0)
    for name in baselines.FLOORS:
        assert json.loads((tmp_path / name / "seed_0/results.json").read_text())["seeds"] == [0]


def test_training_is_no_other_variant_and_has_the_same_settings(tmp_path):
    dataset = make_tiny_dataset()
    arguments = make_tiny_arguments(tmp_path / "no_margin", num_train_epochs=1)
    run_protocol("validated", dataset, make_tiny_inputs(dataset), arguments, [0])
    with pytest.raises(ValueError, match="no_margin holds a run of the variant full: delete it, or move it to full"):
        run(tmp_path)
    (tmp_path / "no_margin").rename(tmp_path / "full")
    with pytest.raises(
        ValueError, match=r"full holds a run with other settings: learning_rate is 0.05 there, 0.5 here"
    ):
        run(tmp_path, learning_rate=0.5)


def test_killed_ablation_goes_on(tmp_path, monkeypatch, capsys):
    step = DednTrainer.training_step

    def killed(self, *args):
        if "no_fine_expert" in self.args.output_dir and self.state.epoch > 1:
            raise Killed
        return step(self, *args)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(DednTrainer, "training_step", killed)
        run(tmp_path / "out", ["full", "no_fine_expert"], num_train_epochs=2)
    partial = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert partial["variants"]["full"]["runs"] and not partial["variants"]["no_fine_expert"]["runs"]
    assert (tmp_path / "out" / "ablation.md").read_text().count("not measured") == 1
    capsys.readouterr()
    summary = run(tmp_path / "out", ["full", "no_fine_expert"], num_train_epochs=2)
    said = capsys.readouterr().out
    assert "1 of 2 runs are left" in said and "no_fine_expert, seed 0: run 1 of 1" in said
    whole = run(tmp_path / "whole", ["full", "no_fine_expert"], num_train_epochs=2)
    for part in ("chosen", "validation", "test"):
        ours, theirs = (s["variants"]["no_fine_expert"]["runs"][0][part] for s in (summary, whole))
        assert ours == theirs
    models = [AutoModel.from_pretrained(tmp_path / f / "no_fine_expert/seed_0") for f in ("out", "whole")]
    assert (expert_scores(models[0])[:, 1] == 0).all()
    torch.testing.assert_close(*map(expert_scores, models), rtol=0, atol=0)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/seed_0/*")}
    monkeypatch.setattr(DednTrainer, "training_step", lambda *args: pytest.fail("trained again"))
    assert run(tmp_path / "out", ["full", "no_fine_expert"], num_train_epochs=2)["variants"] == summary["variants"]
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"variants": ["no_head"]}, "There are no variants no_head; choose from full, "),
        ({"seeds": [1, 1]}, "Seeds must be given and differ"),
        ({"learning_rate": 0.5}, r"seed_0 holds a run with other settings: learning_rate is 0.05 there, 0.5 here"),
        ({"changes": {"split_sha256": "1" * 64}}, "holds a run with other settings: split is"),
    ],
)
def test_wrong_requests_are_refused_before_anything_runs(tmp_path, monkeypatch, changes, message):
    # What an interrupted run leaves.
    with monkeypatch.context() as patch, pytest.raises(TypeError):
        patch.setattr(protocol, "_Run", None)
        run(tmp_path, ["no_margin"])
    monkeypatch.setattr(ablation, "run_protocol", None)
    monkeypatch.setattr(ablation, "run_floor", None)
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **changes)


def test_default_variants():
    assert DEFAULT_VARIANTS["synthetic_birds"] == tuple(VARIANTS)
    assert set(DEFAULT_VARIANTS["cub"]) < set(VARIANTS) and DEFAULT_VARIANTS["cub"][0] == "full"
