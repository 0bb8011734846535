import json
import math
import time
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_training import (
    TinyFeatureMaps,
    make_tiny_arguments,
    make_tiny_dataset,
    make_trainval_model,
)
from transformers import CLIPImageProcessorPil

from dedn_hf.evaluation import gzsl_metrics
from dedn_hf.hub import write_model_card
from dedn_hf.training import DednTrainer, DednTrainingArguments
from dedn_hf.training.sampler import ClassBalancedSampler

PARTS = {
    "coarse_margin": 1.0,
    "fine_margin": 1.0,
    "coarse_calibration": 0.3,
    "fine_calibration": 0.3,
    "distillation": 0.1,
    "coarse_alignment": 0.001,
    "fine_alignment": 0.001,
}


def make_trainer(output_dir, dataset=None, read=None, **changes):
    """A trainer on trainval of the tiny data set, evaluated on the test images."""
    dataset = dataset or make_tiny_dataset()
    test = datasets.concatenate_datasets([dataset.splits["test_seen"], dataset.splits["test_unseen"]])
    return DednTrainer(
        make_trainval_model(dataset),
        make_tiny_arguments(output_dir, **changes),
        train_dataset=TinyFeatureMaps(dataset.splits["trainval"], dataset.class_attributes, read),
        eval_dataset=TinyFeatureMaps(test, dataset.class_attributes),
    )


def losses(trainer, name="loss"):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def test_loss_parts_are_logged_and_add_up(tmp_path):
    trainer = make_trainer(tmp_path, logging_strategy="steps", logging_steps=2, num_train_epochs=2)
    trainer.model.config.self_calibration_weight = 0.3
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(entries) == 10  # 2 epochs of 40 // 4 batches
    for entry in entries:
        total = sum(weight * entry[f"loss_{name}"] for name, weight in PARTS.items())
        assert entry["loss"] == pytest.approx(total, rel=1e-5)


def test_loss_parts_are_the_mean_over_micro_batches(tmp_path):
    options = {"logging_strategy": "steps", "logging_steps": 1, "num_train_epochs": 1}
    whole = make_trainer(tmp_path / "whole", **options)
    parts = make_trainer(tmp_path / "parts", per_device_train_batch_size=2, gradient_accumulation_steps=2, **options)
    whole.train(), parts.train()
    for name in ["coarse_margin", "distillation", "fine_alignment"]:
        assert losses(parts, f"loss_{name}") == pytest.approx(losses(whole, f"loss_{name}"), rel=1e-4)


def test_evaluation_is_not_mixed_into_the_loss_parts(tmp_path):
    options = {"logging_strategy": "steps", "logging_steps": 7}
    without, between = (
        make_trainer(tmp_path / "a", **options),
        make_trainer(tmp_path / "b", eval_strategy="steps", eval_steps=3, **options),
    )
    without.train(), between.train()
    for name in PARTS:
        assert losses(without, f"loss_{name}") == losses(between, f"loss_{name}")


def test_metrics_at_each_evaluation(tmp_path):
    trainer = make_trainer(tmp_path, eval_strategy="epoch")
    trainer.train()
    evaluations = [entry for entry in trainer.state.log_history if "eval_H" in entry]
    assert [entry["epoch"] for entry in evaluations] == [1, 2, 3]
    prediction = trainer.predict(trainer.eval_dataset)
    expected = gzsl_metrics(prediction.predictions, prediction.label_ids, trainer.model.config.seen_class_ids)
    assert {name: evaluations[-1][f"eval_{name}"] for name in expected} == expected


def test_logits_are_what_is_predicted_and_more_on_request(tmp_path):
    trainer = make_trainer(tmp_path)
    prediction = trainer.predict(trainer.eval_dataset)
    batch = trainer.data_collator(trainer.eval_dataset.__getitems__(list(range(20))))
    with torch.no_grad():
        output = trainer.model(**batch)
    np.testing.assert_allclose(prediction.predictions, output.logits, rtol=1e-5, atol=1e-6)
    ignored = [name for name in trainer.model.config.keys_to_ignore_at_inference if name != "expert_scores"]
    more = trainer.predict(trainer.eval_dataset, ignore_keys=ignored)
    logits, expert_scores = more.predictions
    np.testing.assert_array_equal(logits, prediction.predictions)
    np.testing.assert_allclose(expert_scores, output.expert_scores, rtol=1e-5, atol=1e-6)
    # The metrics are of the logits, whatever comes beside them.
    figures = [f"test_{name}" for name in ("T1", "U", "S", "H")]
    assert [more.metrics[name] for name in figures] == [prediction.metrics[name] for name in figures]


@pytest.mark.parametrize("where", ["model", "checkpoint"])
def test_what_is_saved_is_complete(tmp_path, where):
    trainer = make_trainer(tmp_path, save_strategy="steps", save_steps=1, max_steps=1)
    trainer.processing_class = CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size=8)
    trainer.write_card = partial(write_model_card, results=None, dataset="folder")
    trainer.train()
    trainer.save_model(tmp_path / "model")
    folder = tmp_path / ("model" if where == "model" else "checkpoint-1")
    saved = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
    assert saved | {f"{name}_dedn.py" for name in ("configuration", "modeling", "pipeline")} <= {
        path.name for path in folder.iterdir()
    }
    assert "Not measured" in (folder / "README.md").read_text(encoding="utf-8")


def test_rank_that_does_not_save_writes_nothing(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path / "out")
    # On every rank but the first; the Trainer asks all of them to save.
    monkeypatch.setattr(DednTrainingArguments, "should_save", False)
    trainer.save_model(str(tmp_path / "saved"))
    assert not (tmp_path / "saved").exists()


def test_learns(tmp_path):
    trainer = make_trainer(tmp_path, num_train_epochs=15, eval_strategy="epoch")
    trainer.train()
    assert losses(trainer)[-1] < 0.5 * losses(trainer)[0]
    assert losses(trainer, "eval_S")[-1] > 60


def test_a_folder_of_ones_own_beside_the_checkpoints(tmp_path):
    (tmp_path / "checkpoint-best").mkdir()
    make_trainer(tmp_path, num_train_epochs=2, save_strategy="epoch").train()
    names = {path.name for path in tmp_path.glob("checkpoint-*")}
    assert names == {"checkpoint-10", "checkpoint-20", "checkpoint-best"}


def test_keeps_the_checkpoint_of_the_highest_h(tmp_path):
    trainer = make_trainer(
        tmp_path, num_train_epochs=6, eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True
    )
    heights = iter([10.0, 30.0, 20.0, 30.0, 5.0, 0.0])
    trainer.compute_metrics = lambda prediction: {"H": next(heights)}
    trainer.train()
    assert trainer.state.best_metric == 30 and Path(trainer.state.best_model_checkpoint).name == "checkpoint-20"


def test_accumulated_gradients_are_those_of_one_big_batch(tmp_path):
    options = {"logging_strategy": "steps", "logging_steps": 1, "num_train_epochs": 2}
    whole = make_trainer(tmp_path / "whole", **options)
    parts = make_trainer(tmp_path / "parts", per_device_train_batch_size=1, gradient_accumulation_steps=4, **options)
    whole.train(), parts.train()
    assert len(losses(whole)) == 20
    np.testing.assert_allclose(losses(parts), losses(whole), rtol=1e-4)


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("stop", [10, 14], ids=["between epochs", "within an epoch"])
def test_resumed_run_has_the_losses_of_an_uninterrupted_one(tmp_path, stop, balanced):
    options = {"logging_strategy": "steps", "logging_steps": 1, "balanced_batches": balanced}
    options |= {"save_strategy": "steps", "save_steps": stop}
    whole, read = make_trainer(tmp_path, read=(seen := []), **options), []
    whole.train()
    resumed = make_trainer(tmp_path / "resumed", read=read, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{stop}"))
    assert losses(whole) == losses(resumed) and len(losses(whole)) == 30
    assert read == seen[4 * stop :]


def test_every_epoch_has_its_own_batches(tmp_path):
    trainer = make_trainer(tmp_path, read=(read := []))
    trainer.train()
    labels = np.array(make_tiny_dataset().splits["trainval"]["label"])
    image_ids = trainer.train_dataset.image_ids
    sampler, expected = ClassBalancedSampler(labels, 4, seed=trainer.args.seed), []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        expected += image_ids[list(sampler)].tolist()
    assert read == expected


def test_more_images_than_classes_in_a_batch(tmp_path):
    with pytest.raises(ValueError, match="a batch has 16 images and the training images are of 8 classes"):
        make_trainer(tmp_path, gradient_accumulation_steps=4).train()


def test_lines_of_the_progress_bar(tmp_path, capsys):
    make_trainer(tmp_path, disable_tqdm=False, eval_strategy="epoch", num_train_epochs=2).train()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [line.split("  ")[:2] for line in lines] == [
        ["epoch 1", "training"],
        ["epoch 1", "evaluation"],
        ["epoch 2", "training"],
        ["epoch 2", "evaluation"],
    ]
    assert " coarse_margin " in lines[0] and " H " in lines[1] and not any("runtime" in line for line in lines)


def test_seconds_of_training_go_on_with_it(tmp_path):
    settings = {"eval_strategy": "epoch", "save_strategy": "epoch", "num_train_epochs": 3}
    trainer = make_trainer(tmp_path, **settings)
    began = time.monotonic()
    trainer.train()
    took = time.monotonic() - began
    seconds = [entry["seconds"] for entry in trainer.state.log_history]
    assert len(seconds) == 7 and seconds == sorted(seconds) and 0 < seconds[0] < seconds[-1] <= took
    trainer.evaluate()
    assert "seconds" not in trainer.state.log_history[-1]
    # An earlier sitting of an hour.
    checkpoint = min(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    state["log_history"][-1]["seconds"] += 3600
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    resumed = make_trainer(tmp_path, **settings)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    later = [entry["seconds"] for entry in resumed.state.log_history]
    assert later[:2] == [seconds[0], seconds[1] + 3600]
    assert later[2:] == sorted(later[2:]) and later[1] < later[2]


@pytest.mark.slow
def test_two_processes_are_one_big_batch(tmp_path, launch):
    options = {"logging_strategy": "steps", "logging_steps": 1, "num_train_epochs": 2}
    options |= {"save_strategy": "steps", "save_steps": 14}
    (alone,) = launch(tmp_path / "one", 1, "train", **options)
    first, second = launch(
        tmp_path / "two", 2, "train", per_device_train_batch_size=1, gradient_accumulation_steps=2, **options
    )
    assert len(alone["losses"]) == 20 and all(map(math.isfinite, alone["losses"]))
    for ours in (first, second):
        np.testing.assert_allclose(ours["losses"], alone["losses"], atol=1e-4, rtol=0)
        np.testing.assert_allclose(ours["margins"], alone["margins"], atol=1e-4, rtol=0)
        assert ours["metrics"] == pytest.approx(alone["metrics"])
    union = np.sort(np.concatenate([np.reshape(rank["read"], (20, 2)) for rank in (first, second)], axis=1))
    assert union.tolist() == np.sort(np.reshape(alone["read"], (20, 4))).tolist()

    resumed = launch(
        tmp_path / "resumed",
        2,
        "train",
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        resume=str(tmp_path / "two" / "checkpoint-14"),
        **options,
    )
    for ours, uninterrupted in zip(resumed, (first, second)):
        assert ours["losses"] == uninterrupted["losses"]
        assert ours["read"] == uninterrupted["read"][2 * 14 :]


def test_a_checkpoint_of_before_the_experts_were_modules_goes_on(tmp_path):
    """Until version 0.2 a matrix was (D, C) where the weight of its module is (C, D), in the optimizer too."""
    options = {"logging_strategy": "steps", "logging_steps": 1, "save_strategy": "steps", "save_steps": 14}
    whole = make_trainer(tmp_path, **options)
    whole.train()
    checkpoint = tmp_path / "checkpoint-14"
    state = load_file(checkpoint / "model.safetensors")
    is_matrix = [name.endswith(".weight") for name, _ in whole.model.named_parameters()]
    state = {
        name.removesuffix(".weight"): value.T.contiguous() if name.endswith(".weight") else value
        for name, value in state.items()
    }
    save_file(state, checkpoint / "model.safetensors", metadata={"format": "pt"})
    optimizer = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    ordered = [parameter for group in whole.optimizer.param_groups for parameter in group["params"]]
    parameters = {parameter: index for index, parameter in enumerate(ordered)}
    for (_, parameter), transposed in zip(whole.model.named_parameters(), is_matrix):
        values = optimizer["state"][parameters[parameter]]
        if transposed:
            values.update({key: value.T.contiguous() for key, value in values.items() if value.ndim == 2})
    torch.save(optimizer, checkpoint / "optimizer.pt")
    resumed = make_trainer(tmp_path / "resumed", **options)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert losses(resumed) == pytest.approx(losses(whole), rel=1e-6) and sum(is_matrix) > 10
