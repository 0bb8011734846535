import json
import os
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_training import (
    CHANNELS,
    GRID,
    TinyFeatureMaps,
    make_tiny_arguments,
    make_tiny_dataset,
    make_tiny_inputs,
)
from transformers import AutoModel, Trainer

from dedn_hf import DednModel
from dedn_hf.evaluation import choose_mixes, gzsl_metrics
from dedn_hf.training import DednTrainer, protocol
from dedn_hf.training.protocol import build_model, run_protocol

FIGURES = {"T1", "U", "S", "H"}


class Killed(BaseException):
    """What ends a run in these tests; nothing in the package catches it."""


def run(output_dir, name="validated", seeds=(0,), dataset=None, read=None, overwrite=False, **changes):
    dataset = dataset or make_tiny_dataset()
    inputs = make_tiny_inputs(dataset, read)
    return run_protocol(name, dataset, inputs, make_tiny_arguments(output_dir, **changes), seeds, overwrite)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def weights(folder):
    return AutoModel.from_pretrained(folder, local_files_only=True).state_dict()


def assert_same_run(folder, other):
    """The same figures, losses and weights."""
    ours, theirs = (json.loads((f / "results.json").read_text()) for f in (folder, other))
    assert ours == theirs
    ours, theirs = (json.loads((f / "training_log.json").read_text()) for f in (folder, other))
    assert ours.keys() == theirs.keys()
    for stage in ours:
        for name in ("loss", "eval_H", "loss_distillation"):
            assert [e[name] for e in ours[stage] if name in e] == [e[name] for e in theirs[stage] if name in e]
    ours, theirs = weights(folder), weights(other)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0)


@pytest.fixture(scope="module")
def validated(tmp_path_factory):
    """A finished run, its results and the image ids that were read, in order."""
    folder, read = tmp_path_factory.mktemp("run") / "out", []
    return folder, run(folder, read=read), read


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "out"
    return folder, run(folder, "reference")


def test_results_of_validated(validated):
    folder, results, _ = validated
    assert json.loads((folder / "results.json").read_text()) == results
    assert {"dataset", "protocol", "split", "seeds", "settings", "validation", "test", "versions", "command"} <= set(
        results
    )
    assert results["dataset"] == "folder" and results["protocol"] == "validated" and results["seeds"] == [0]
    assert results["validation"].keys() == FIGURES and results["test"].keys() == FIGURES | {"AUSUC"}
    assert all(0 <= figure <= 100 for figure in [*results["validation"].values(), *results["test"].values()])
    assert 1 <= results["chosen"]["epochs"] <= 3
    settings = results["settings"]
    assert settings["lr_scheduler_type"] == "cosine" and settings["feature_channels"] == CHANNELS
    assert "std" not in results and not (folder / "unfinished").exists()


def test_choice_is_that_of_the_validation_images(validated):
    folder, results, _ = validated
    log = json.loads((folder / "training_log.json").read_text())
    evaluations = [entry for entry in log["choose"] if "eval_H" in entry]
    best = max(evaluations, key=lambda entry: entry["eval_H"])
    assert len(evaluations) == 3 and results["chosen"]["epochs"] == best["epoch"]
    assert results["validation"] == {name: best[f"eval_{name}"] for name in FIGURES}
    configs = [AutoModel.from_pretrained(path, local_files_only=True).config for path in (folder, folder / "choose")]
    for name in ("region_mix", "coarse_mix", "calibration", "score_scale"):
        assert all(getattr(config, name) == results["chosen"][name] == best[f"eval_{name}"] for config in configs)
    assert max(entry["epoch"] for entry in log["final"]) == results["chosen"]["epochs"]


def test_saved_model_has_the_figures_of_the_results(validated):
    folder, results, _ = validated
    dataset = make_tiny_dataset()
    model = AutoModel.from_pretrained(folder, local_files_only=True)
    assert list(model.config.id2label.values()) == dataset.class_names and not model.training
    images = datasets.concatenate_datasets([dataset.splits["test_seen"], dataset.splits["test_unseen"]])
    examples = TinyFeatureMaps(images, dataset.class_attributes)
    maps = torch.stack([item["feature_map"] for item in examples.__getitems__(list(range(len(examples))))])
    with torch.no_grad():
        logits = model(feature_map=maps).logits.numpy()
    figures = gzsl_metrics(logits, examples.labels, dataset.seen_class_ids)
    assert figures == pytest.approx({name: results["test"][name] for name in FIGURES})


def test_what_fits_is_of_training_images_and_judged_by_validation_images(validated):
    folder = validated[0]
    chosen, final = (DednModel.from_pretrained(path, local_files_only=True) for path in (folder / "choose", folder))
    # The model of the first stage has not seen the validation classes.
    assert chosen.config.class_fit_size == [6, 5] and final.config.class_fit_size == [8, 7]
    torch.testing.assert_close(chosen.class_fit.coefficients, final.class_fit.coefficients)
    assert final.class_targets() is not None
    for model in (chosen, final):
        assert model.attribute_calibration[1].any() and model.attribute_statistics[1].all()
    dataset = make_tiny_dataset()
    examples = TinyFeatureMaps(dataset.splits["trainval"], dataset.class_attributes)
    maps = torch.stack([item["feature_map"] for item in examples.__getitems__(list(range(len(examples))))])
    scores = final.predict(feature_map=maps.float()).attribute_scores
    z = (scores - final.class_fit.centre) @ final.class_fit.projection
    torch.testing.assert_close(scores.mean(dim=0), final.attribute_statistics[0], atol=1e-3, rtol=1e-3)
    for index, name in enumerate(final.config.trained_class_names):
        images = examples.labels == dataset.class_names.index(name)
        torch.testing.assert_close(z[images].mean(dim=0), final.class_fit.means[index], atol=1e-3, rtol=1e-3)


def test_test_images_are_read_once_and_last(validated):
    _, _, read = validated
    dataset = make_tiny_dataset()
    test = [*dataset.splits["test_seen"]["image_id"], *dataset.splits["test_unseen"]["image_id"]]
    assert read[-len(test) :] == test
    assert not set(read[: -len(test)]) & set(test)


def test_choosing_does_not_see_test_classes(tmp_path, monkeypatch):
    known = []
    original = DednTrainer.__init__

    def init(self, model, args, **kwargs):
        known.append((list(model.config.id2label.values()), model.config.seen_class_ids))
        original(self, model, args, **kwargs)

    monkeypatch.setattr(DednTrainer, "__init__", init)
    run(tmp_path / "out", num_train_epochs=1)
    assert known[0] == ([f"class {index}" for index in range(8)], list(range(6)))
    assert known[1] == ([f"class {index}" for index in range(10)], list(range(8)))


def test_validation_is_the_choice_of_validated_alone(validated, tmp_path):
    read, dataset = [], make_tiny_dataset()
    results = run(tmp_path / "out", "validation", read=read)
    assert results["protocol"] == "validation" and "test" not in results
    for part in ("chosen", "validation"):
        assert results[part] == validated[1][part]
    test = [*dataset.splits["test_seen"]["image_id"], *dataset.splits["test_unseen"]["image_id"]]
    assert not set(read) & set(test)
    # No model but that which fine-tuning begins with: it knows half of the seen classes only.
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert files == {"choose", "results.json", "training_log.json"}
    ours, theirs = (load_file(folder / "choose" / "model.safetensors") for folder in (tmp_path / "out", validated[0]))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)
    assert json.loads((tmp_path / "out/results.json").read_text()) == results


def test_validation_of_several_seeds(tmp_path):
    results = run(tmp_path / "out", "validation", seeds=(0, 1), num_train_epochs=1)
    runs = [json.loads((tmp_path / f"out/seed_{seed}/results.json").read_text()) for seed in (0, 1)]
    assert results["validation"]["H"] == np.mean([run["validation"]["H"] for run in runs])
    assert results["std"].keys() == {"validation"} and "test" not in results


def test_mixes_are_chosen_from_the_expert_scores(tmp_path, monkeypatch):
    taken = []

    def choose(expert_scores, class_attributes, labels, seen):
        taken.append((expert_scores, class_attributes, labels, seen))
        return choose_mixes(expert_scores, class_attributes, labels, seen)

    monkeypatch.setattr(protocol, "choose_mixes", choose)
    saved = []
    save = Trainer._save_checkpoint

    def save_checkpoint(self, model, trial):
        saved.append({name: value.clone() for name, value in self.model.state_dict().items()})
        save(self, model, trial)

    monkeypatch.setattr(Trainer, "_save_checkpoint", save_checkpoint)
    dataset = make_tiny_dataset()
    run(tmp_path / "out", dataset=dataset, num_train_epochs=1)
    ((expert_scores, class_attributes, labels, seen),) = taken
    np.testing.assert_array_equal(class_attributes, dataset.class_attributes[:8])
    assert seen == list(range(6))
    images = datasets.concatenate_datasets([dataset.splits["validation_seen"], dataset.splits["validation_unseen"]])
    examples = TinyFeatureMaps(images, dataset.class_attributes)
    assert labels.tolist() == examples.labels.tolist()
    model = build_model(dataset, range(8), [6, 7], feature_channels=CHANNELS, grid_size=GRID)
    model.load_state_dict(saved[0])
    maps = torch.stack([item["feature_map"] for item in examples.__getitems__(list(range(len(examples))))])
    with torch.no_grad():
        expected = model.eval()(feature_map=maps).expert_scores
    np.testing.assert_allclose(expert_scores, expected, rtol=1e-5, atol=1e-5)


def test_reference_reports_its_best_epoch(reference):
    folder, results = reference
    log = json.loads((folder / "training_log.json").read_text())["final"]
    best = max((entry for entry in log if "eval_H" in entry), key=lambda entry: entry["eval_H"])
    assert results["chosen"] == {"epochs": best["epoch"], "on": "the test set, as released"}
    assert {name: results["test"][name] for name in FIGURES} == {name: best[f"eval_{name}"] for name in FIGURES}
    assert "validation" not in results and results["test"].keys() == FIGURES | {"AUSUC"}


@pytest.mark.parametrize("stage", ["choose", "final"])
def test_killed_run_goes_on(validated, tmp_path, monkeypatch, stage):
    step = DednTrainer.training_step

    def killed_in_second_epoch(self, *args):
        if self.args.output_dir.endswith(stage) and self.state.epoch > (1 if stage == "choose" else 0):
            raise Killed
        return step(self, *args)

    folder = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(DednTrainer, "training_step", killed_in_second_epoch)
        run(folder)
    assert not (folder / "results.json").exists()
    run(folder)
    assert_same_run(folder, validated[0])


@pytest.mark.parametrize("name", ["validated", "reference"])
def test_run_killed_after_training_does_not_train_again(name, tmp_path, monkeypatch, request):
    # Before training is forbidden, for the whole run may still have to be made.
    whole, folder = request.getfixturevalue(name)[0], tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(protocol._Run, "_test", lambda self, trainer: (_ for _ in ()).throw(Killed))
        run(folder, name)
    monkeypatch.setattr(DednTrainer, "training_step", lambda *args: pytest.fail("trained again"))
    run(folder, name)
    assert_same_run(folder, whole)


def test_run_of_few_steps_killed_after_training_does_not_train_again(tmp_path, monkeypatch):
    results = run(tmp_path / "whole", max_steps=4)
    assert results["chosen"]["epochs"] == 1
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(protocol._Run, "_test", lambda self, trainer: (_ for _ in ()).throw(Killed))
        run(tmp_path / "out", max_steps=4)
    run(tmp_path / "out", max_steps=4)
    assert_same_run(tmp_path / "out", tmp_path / "whole")


def test_checkpoint_that_was_not_written_to_its_end_is_passed_over(validated, tmp_path, monkeypatch):
    folder, save = tmp_path / "out", Trainer._save_checkpoint

    def save_half(self, model, trial):
        save(self, model, trial)
        if self.args.output_dir.endswith("choose") and self.state.epoch == 2:
            checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            (checkpoint / "trainer_state.json").write_text('{"best_')
            (checkpoint / "optimizer.pt").write_bytes(b"")
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Trainer, "_save_checkpoint", save_half)
        run(folder)
    run(folder)
    assert_same_run(folder, validated[0])


def test_nothing_half_written_among_the_results(tmp_path, monkeypatch):
    save = DednModel.save_pretrained

    def killed(self, folder, **kwargs):
        if Path(folder).name != "model":  # a checkpoint of training
            return save(self, folder, **kwargs)
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("dedn_hf.DednModel.save_pretrained", killed)
        run(tmp_path / "out", num_train_epochs=1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["unfinished"]
    run(tmp_path / "out", num_train_epochs=1)
    assert weights(tmp_path / "out")


def test_files_can_be_read_by_others(validated):
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in validated[0].iterdir())


def test_finished_run_is_not_repeated(validated, tmp_path, monkeypatch):
    folder = shutil.copytree(validated[0], tmp_path / "out")
    before = contents(folder)
    monkeypatch.setattr(protocol, "_Run", None)
    assert run(folder) == validated[1]
    assert contents(folder) == before


@pytest.mark.parametrize(
    "changes, difference",
    [
        ({"learning_rate": 0.5}, "learning_rate is 0.05 there, 0.5 here"),
        ({"name": "reference"}, "protocol is validated there, reference here"),
        ({"seeds": [3]}, r"seeds is \[0\] there, \[3\] here"),
        ({"seeds": [0, 1]}, r"seeds is \[0\] there, \[0, 1\] here"),
    ],
)
def test_folder_of_another_run_is_refused(validated, changes, difference):
    before = contents(validated[0])
    with pytest.raises(ValueError, match=f"holds a run with other settings: {difference}. Choose another"):
        run(validated[0], **changes)
    assert contents(validated[0]) == before


def test_folder_of_another_unfinished_run_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(protocol, "_Run", None)
    with pytest.raises(TypeError):
        run(tmp_path)
    dataset = make_tiny_dataset()
    dataset.word_vectors = dataset.word_vectors + 1
    with pytest.raises(ValueError, match=r"other settings: word_vectors_sha256 is [0-9a-f]{64} there"):
        run(tmp_path, dataset=dataset)
    # What a checkpoint was trained towards must not change on the way, and neither may a finished run stand for it.
    dataset = make_tiny_dataset()
    dataset.class_attributes = dataset.class_attributes.copy()
    dataset.class_attributes[0, 0] += 0.5
    with pytest.raises(ValueError, match=r"other settings: class_attributes_sha256 is [0-9a-f]{64} there"):
        run(tmp_path, dataset=dataset)
    dataset = make_tiny_dataset(attribute_names=["renamed", *make_tiny_dataset().attribute_names[1:]])
    with pytest.raises(ValueError, match="class_attributes_sha256"):
        run(tmp_path, dataset=dataset)


def test_setting_that_an_earlier_version_did_not_record(validated, tmp_path):
    folder = shutil.copytree(validated[0], tmp_path / "out")
    results = json.loads((folder / "results.json").read_text())
    del results["settings"]["word_vectors_sha256"]
    (folder / "results.json").write_text(json.dumps(results))
    assert run(folder) == results


def test_model_of_other_origin_is_not_overwritten(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"precious")
    for overwrite in (False, True):
        with pytest.raises(
            ValueError, match=r"holds a model that is not of such a run|deletes the folder of a run only"
        ):
            run(tmp_path, overwrite=overwrite)
    assert contents(tmp_path) == {Path("model.safetensors"): b"precious"}


def test_several_seeds(validated, tmp_path):
    folder = tmp_path / "out"
    results = run(folder, seeds=[0, 1])
    assert_same_run(folder / "seed_0", validated[0])
    seeds = [json.loads((folder / f"seed_{seed}" / "results.json").read_text()) for seed in (0, 1)]
    assert seeds[1]["seeds"] == [1] and results["seeds"] == [0, 1]
    assert seeds[0]["test"] != seeds[1]["test"] or seeds[0]["validation"] != seeds[1]["validation"]
    for part in ("validation", "test"):
        for name, mean in results[part].items():
            values = [seed[part][name] for seed in seeds]
            assert mean == pytest.approx(np.mean(values))
            assert results["std"][part][name] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    for file in ("model.safetensors", "config.json", "preprocessor_config.json"):
        assert (folder / file).read_bytes() == (folder / "seed_0" / file).read_bytes()
    assert not (folder / "unfinished").exists()
    before = contents(folder)
    assert run(folder, seeds=[0, 1]) == results
    assert contents(folder) == before


def test_several_seeds_go_on_with_the_unfinished_one(tmp_path, monkeypatch):
    original = protocol._Run.run

    def killed_at_second(self, name):
        if self.seed == 1:
            raise Killed
        return original(self, name)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(protocol._Run, "run", killed_at_second)
        run(tmp_path, seeds=[0, 1], num_train_epochs=1)
    done = contents(tmp_path / "seed_0")
    results = run(tmp_path, seeds=[0, 1], num_train_epochs=1)
    assert contents(tmp_path / "seed_0") == done and "std" in results


def test_overwriting_a_run(validated, tmp_path):
    folder = shutil.copytree(validated[0], tmp_path / "out")
    results = run(folder, "reference", overwrite=True, num_train_epochs=1)
    assert results["protocol"] == "reference" and "choose" not in json.loads(
        (folder / "training_log.json").read_text()
    )
    assert run(tmp_path / "new", overwrite=True, num_train_epochs=1)["protocol"] == "validated"


@pytest.mark.parametrize("current", [".", "below"])
def test_overwriting_spares_the_current_folder(validated, tmp_path, monkeypatch, current):
    folder = shutil.copytree(validated[0], tmp_path / "out")
    (folder / "below").mkdir()
    before = contents(folder)
    monkeypatch.chdir(folder / current)
    with pytest.raises(ValueError, match="which is or holds the current folder"):
        run(folder if current == "below" else ".", "reference", overwrite=True)
    assert contents(folder) == before


def test_overwriting_waits_for_the_settings_to_be_right(validated, tmp_path):
    folder = shutil.copytree(validated[0], tmp_path / "out")
    with pytest.raises(ValueError, match="Seeds must be given and differ"):
        run(folder, seeds=[1, 1], overwrite=True)
    assert contents(folder) == contents(validated[0])


def without(dataset, *splits):
    for split in splits:
        dataset.splits[split] = dataset.splits[split].select([])
    return dataset


def test_without_test_images_of_unseen_classes(tmp_path):
    results = run(tmp_path / "out", dataset=without(make_tiny_dataset(), "test_unseen"), num_train_epochs=1)
    figures = results["test"]
    assert figures["S"] is not None and all(figures[name] is None for name in ("T1", "U", "H", "AUSUC"))
    assert "NaN" not in (tmp_path / "out" / "results.json").read_text()
    several = run(
        tmp_path / "several", dataset=without(make_tiny_dataset(), "test_unseen"), seeds=[0, 1], num_train_epochs=1
    )
    assert several["test"]["H"] is None and several["std"]["test"]["U"] is None and several["test"]["S"] >= 0


@pytest.mark.parametrize("name, split", [("validated", "validation_unseen"), ("reference", "test_unseen")])
def test_split_that_the_protocol_needs_is_empty(tmp_path, name, split):
    with pytest.raises(
        ValueError, match=f"the {name} protocol needs .* but folder has none in {split}".replace("the", "The", 1)
    ):
        run(tmp_path / "out", name, dataset=without(make_tiny_dataset(), split))
    assert not (tmp_path / "out").exists()


def test_unknown_protocol(tmp_path):
    with pytest.raises(ValueError, match="no protocol 'fast'; choose one of validated, validation, reference"):
        run(tmp_path / "out", "fast")


def test_batch_that_is_too_big_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(DednTrainer, "training_step", lambda *args: pytest.fail("trained"))
    with pytest.raises(ValueError, match="a batch has 7 images and the training images are of 6 classes"):
        run(tmp_path / "out", per_device_train_batch_size=7)


def test_bf16_and_other_arguments_reach_both_stages(tmp_path, monkeypatch):
    taken = []
    original = DednTrainer.__init__

    def init(self, model, args, **kwargs):
        taken.append(args)
        original(self, model, args, **kwargs)

    monkeypatch.setattr(DednTrainer, "__init__", init)
    run(
        tmp_path / "out",
        seeds=[5],
        num_train_epochs=1,
        bf16=True,
        optim="sgd",
        lr_scheduler_kwargs='{"num_cycles": 0.4}',
    )
    assert [Path(args.output_dir).name for args in taken] == ["choose", "final"]
    for args in taken:
        assert args.seed == 5 and args.bf16 and args.mixed_precision == "bf16" and args.optim == "sgd"
        assert args.warmup_steps == 0.1 and args.lr_scheduler_kwargs == {"num_cycles": 0.4}
        assert not args.dataloader_pin_memory
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.slow
def test_two_processes_have_the_results_of_one(tmp_path, launch):
    options = {"name": "validated", "seeds": [0, 1], "num_train_epochs": 2}
    (alone,) = launch(tmp_path / "one", 1, "protocol", per_device_train_batch_size=4, **options)
    ranks = launch(tmp_path / "two", 2, "protocol", per_device_train_batch_size=2, **options)
    assert {path.name for path in (tmp_path / "two/run").iterdir()} == {
        path.name for path in (tmp_path / "one/run").iterdir()
    }
    for results in ranks:
        assert results["settings"]["world_size"] == 2
        assert results["validation"] == pytest.approx(alone["validation"])
        assert results["test"] == pytest.approx(alone["test"])
    logs = [json.loads((tmp_path / name / "run/training_log.json").read_text()) for name in ("one", "two")]
    for stage in ("choose", "final"):
        one, two = ([entry["loss"] for entry in log[stage] if "loss" in entry] for log in logs)
        np.testing.assert_allclose(two, one, atol=1e-4, rtol=0)
    # Again: nothing is left to be done.
    before = contents(tmp_path / "two/run")
    launch(tmp_path / "two", 2, "protocol", per_device_train_batch_size=2, **options)
    assert contents(tmp_path / "two/run") == before


@pytest.mark.slow
def test_an_error_of_the_main_process_is_one_of_all(tmp_path, launch):
    ranks = launch(tmp_path / "run", 2, "error")
    assert [rank["error"] for rank in ranks] == ["a picture has changed"] * 2


def drop(dataset, split, *labels):
    """Images of classes, no images of which are in the split any more."""
    images = dataset.splits[split]
    dataset.splits[split] = images.select(np.flatnonzero(~np.isin(images["label"][:], labels)))
    return dataset


@pytest.mark.parametrize(
    "protocol, split, labels, message",
    [
        (
            "validated",
            "train",
            [2],
            "of each seen class in train, but there are none of class 2. Add some, or make it no",
        ),
        ("validated", "trainval", [7], "of each seen class in trainval, but there are none of class 7"),
        ("reference", "trainval", [0, 4], "of each seen class in trainval, but there are none of class 0, class 4"),
        (
            "validation",
            "validation_unseen",
            [6],
            "of each validation class in validation_unseen, but there are none of",
        ),
    ],
)
def test_classes_without_images_are_found_before_training(tmp_path, protocol, split, labels, message):
    with pytest.raises(ValueError, match=f"^The {protocol} protocol needs images {message}"):
        run(tmp_path / "run", protocol, dataset=drop(make_tiny_dataset(), split, *labels))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "protocol, split, labels",
    [
        ("validated", "validation_unseen", [6, 7]),
        ("validated", "validation_unseen", [7]),
        ("validated", "validation_seen", range(6)),
        ("validation", "train", [3]),
        ("reference", "trainval", [5]),
        ("reference", "test_unseen", [8, 9]),
    ],
)
def test_classes_without_feature_maps_are_found_before_training(tmp_path, protocol, split, labels):
    """As those of which all images were skipped."""
    dataset = make_tiny_dataset()
    inputs, skipped = make_tiny_inputs(dataset), set(dataset.splits[split]["image_id"][:])
    make = inputs.make
    inputs.make = lambda images: make(
        images.select(
            [i for i, row in enumerate(images) if not (row["label"] in labels and row["image_id"] in skipped)]
        )
    )
    names = ", ".join(dataset.class_names[label] for label in list(labels)[:5])
    message = (
        rf"of each .*class in \w+, but there are none of {names}.*`dedn features` skipped them: put their files right"
    )
    with pytest.raises(ValueError, match=message):
        run_protocol(protocol, dataset, inputs, make_tiny_arguments(tmp_path / "run"), [0])
    assert not (tmp_path / "run").exists()


def test_a_class_without_images_to_validate_on_is_no_error(tmp_path):
    """A class of a single image has none."""
    results = run(tmp_path / "run", dataset=drop(make_tiny_dataset(), "validation_seen", 3), num_train_epochs=1)
    assert results["validation"].keys() == FIGURES


def test_a_model_knows_the_ranks_of_its_classes():
    dataset = make_tiny_dataset()
    first, second, third, *_ = dataset.class_names
    dataset.class_parents = {first: "Bird", second: "Bird", third: "Fish", "Bird": "Animal", "Fish": "Animal"}
    model = build_model(dataset, [0, 1], [1], feature_channels=CHANNELS, grid_size=GRID)
    assert model.config.class_parents == {first: "Bird", second: "Bird", "Bird": "Animal"}
