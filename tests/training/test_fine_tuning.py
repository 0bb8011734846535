"""Fine-tuning: a pretrained backbone is trained along on images, from the models of a run on its feature maps."""

import json
import re
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from test_inputs import CHANNELS, GRID, IMAGE_SIZE, extract, save_backbone
from tiny_training import make_tiny_arguments, make_tiny_dataset
from transformers import AutoModel

from dedn_hf import DednModel
from dedn_hf.backbone_dedn import load_backbone
from dedn_hf.training import DednTrainer
from dedn_hf.training.inputs import prepare_inputs
from dedn_hf.training.protocol import build_model, run_protocol

CONFIG = {"freeze_backbone": False, "freeze_batch_norm": True}
SETTINGS = {
    "learning_rate": 0.01,
    "backbone_learning_rate": 0.001,
    "random_crop_scale": 0.5,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "num_train_epochs": 2,
}


class Killed(BaseException):
    """What ends a run in these tests; nothing in the package catches it."""


def make_dataset(**changes):
    """The tiny data set with images: noise around a colour of the class, not square."""
    dataset = make_tiny_dataset(**changes)
    for split, images in dataset.splits.items():
        pictures = []
        for label, image_id in zip(images["label"], images["image_id"]):
            random = np.random.default_rng(image_id)
            color = np.random.default_rng(1000 + label).integers(0, 200, 3)
            pictures.append(Image.fromarray((color + random.integers(0, 55, (70, 80, 3))).astype(np.uint8)))
        table = {"image": pictures, "label": images["label"][:], "image_id": images["image_id"][:]}
        features = datasets.Features({"image": datasets.Image(), **images.features})
        dataset.splits[split] = datasets.Dataset.from_dict(table, features)
    return dataset


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """Data set, backbone, and a finished run on its feature maps."""
    folder = tmp_path_factory.mktemp("house")
    dataset, backbone = make_dataset(), save_backbone(folder / "tiny", 0)
    inputs = prepare_inputs(dataset, extract(dataset, backbone, folder / "store"), backbone)
    run_protocol("validated", dataset, inputs, make_tiny_arguments(folder / "first", num_train_epochs=2), [0])
    return dataset, backbone, folder / "first", folder / "store"


@pytest.fixture(scope="module")
def tuned(house, tmp_path_factory):
    """A finished run of fine-tuning, and its results."""
    folder = tmp_path_factory.mktemp("tuned") / "out"
    return folder, fine_tune(house, folder)


def fine_tune(house, output_dir, protocol="validated", seeds=(0,), init_from=None, **changes):
    dataset, backbone, first, _ = house
    inputs = prepare_inputs(dataset, None, backbone, CONFIG, str(init_from or first))
    return run_protocol(protocol, dataset, inputs, make_tiny_arguments(output_dir, **SETTINGS | changes), seeds)


def weights(folder):
    return AutoModel.from_pretrained(folder, local_files_only=True).state_dict()


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_backbone_and_experts_are_trained_and_saved(house, tuned):
    _, backbone, first, _ = house
    folder, results = tuned
    settings = results["settings"]
    assert settings["backbone"] == "tiny" and settings["image_size"] == IMAGE_SIZE
    assert not settings["freeze_backbone"] and settings["freeze_batch_norm"]
    assert settings["backbone_learning_rate"] == 0.001 and settings["random_crop_scale"] == 0.5
    model = AutoModel.from_pretrained(folder, local_files_only=True)
    assert (model.config.feature_channels, model.config.grid_size) == (CHANNELS, GRID)
    before, after = load_backbone(backbone).state_dict(), model.backbone.state_dict()
    for name in before:
        is_statistic = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        assert torch.equal(before[name], after[name]) == is_statistic, name
    assert "/" not in (model.config.backbone_config._name_or_path or "")
    assert (folder / "preprocessor_config.json").is_file()
    assert (folder / "preprocessor_config.json").read_text() == (first / "preprocessor_config.json").read_text()


def test_each_stage_begins_with_the_model_of_the_same_classes(house, tmp_path, monkeypatch):
    _, backbone, first, _ = house
    begun = {}
    original = DednTrainer.__init__

    def init(self, model, args, **kwargs):
        begun[Path(args.output_dir).name] = {name: value.clone() for name, value in model.state_dict().items()}
        original(self, model, args, **kwargs)

    monkeypatch.setattr(DednTrainer, "__init__", init)
    fine_tune(house, tmp_path / "out", num_train_epochs=1)
    of_backbone = load_backbone(backbone).state_dict()
    assert begun.keys() == {"choose", "final"}
    for stage, folder in (("choose", first / "choose"), ("final", first)):
        start = weights(folder)
        for name, value in begun[stage].items():
            if name.startswith(("coarse_expert.", "fine_expert.")):
                assert torch.equal(value, start[name]), name
            if name.startswith("backbone."):
                assert torch.equal(value, of_backbone[name.removeprefix("backbone.")]), name
    assert not torch.equal(
        begun["choose"]["coarse_expert.heads.0.word_vectors"], begun["final"]["coarse_expert.heads.0.word_vectors"]
    )


def test_the_backbone_has_a_learning_rate_of_its_own(house, tmp_path):
    dataset, backbone, first, _ = house
    inputs = prepare_inputs(dataset, None, backbone, CONFIG, str(first))
    model = build_model(dataset, range(10), dataset.unseen_class_ids, **inputs.config)
    model.train()
    arguments = {"weight_decay": 0.1, "lr_scheduler_type": "constant", "warmup_steps": 0}
    trainer = DednTrainer(model, make_tiny_arguments(tmp_path, **SETTINGS | arguments))
    optimizer = trainer.create_optimizer()
    names = {parameter: name for name, parameter in model.named_parameters()}
    settings = {
        names[parameter]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert settings.keys() == set(names.values()) and sum(len(g["params"]) for g in optimizer.param_groups) == len(
        names
    )
    for name, parameter in model.named_parameters():
        of_backbone, is_norm = name.startswith("backbone."), parameter.ndim == 1
        assert settings[name] == (0.001 if of_backbone else 0.01, 0.0 if of_backbone and is_norm else 0.1), name
    # The rate that is logged is the recipe's `learning_rate`; both follow the schedule.
    assert optimizer.param_groups[0]["lr"] == 0.01
    scheduler = trainer.create_scheduler(10)
    assert set(scheduler.get_last_lr()) == {0.01, 0.001}
    assert trainer.create_optimizer() is optimizer and len(optimizer.param_groups) == 4


def test_only_the_named_parameters_of_the_backbone_are_trained(house, tmp_path):
    _, backbone, first, _ = house
    before = load_backbone(backbone).state_dict()
    pattern = r"encoder\.stages\.1\..*convolution\.weight"
    chosen = {name for name in before if re.fullmatch(pattern, name)}
    assert 0 < len(chosen) < len(before)
    results = fine_tune(house, tmp_path / "out", trained_backbone_parameters=pattern)
    assert results["settings"]["trained_backbone_parameters"] == pattern
    after, start = weights(tmp_path / "out"), weights(first)
    for name, value in before.items():
        assert torch.equal(value, after[f"backbone.{name}"]) == (name not in chosen), name
    name = "coarse_expert.heads.0.word_vectors"
    assert not torch.equal(start[name], after[name])


def test_the_step_that_is_timed_for_bfloat16_trains_no_others(house, tmp_path, monkeypatch, speeds):
    dataset, backbone, first, _ = house
    speeds["native"] = True
    pattern, forward, timed = r"encoder\.stages\.1\..*convolution\.weight", DednModel.forward, []

    def record(model, **inputs):
        timed.append({name for name, parameter in model.backbone.named_parameters() if parameter.requires_grad})
        return forward(model, **inputs)

    monkeypatch.setattr(DednModel, "forward", record)
    monkeypatch.setattr(DednTrainer, "train", lambda *args, **kwargs: pytest.fail("trained"))
    inputs = prepare_inputs(dataset, None, backbone, CONFIG, str(first))
    arguments = make_tiny_arguments(tmp_path, **SETTINGS, trained_backbone_parameters=pattern)
    with pytest.raises(pytest.fail.Exception, match="trained"):
        run_protocol("validated", dataset, inputs, arguments, [0], bf16="auto")
    names = load_backbone(backbone).state_dict()
    assert timed == [{name for name in names if re.fullmatch(pattern, name)}] * 2


def test_parameters_that_the_backbone_does_not_have(house, tmp_path):
    with pytest.raises(ValueError, match=r"is 'blocks', but no parameter of the backbone is named so: the last are "):
        fine_tune(house, tmp_path / "out", trained_backbone_parameters="blocks")


@pytest.mark.parametrize("config", [{}, {"freeze_backbone": True}])
def test_a_learning_rate_for_a_backbone_that_is_not_trained(house, tmp_path, config):
    dataset, backbone, first, _ = house
    inputs = prepare_inputs(dataset, None, backbone, CONFIG, str(first))
    changes = inputs.config | config if config else {"feature_channels": CHANNELS, "grid_size": GRID}
    model = build_model(dataset, range(10), dataset.unseen_class_ids, **changes)
    trainer = DednTrainer(model, make_tiny_arguments(tmp_path, backbone_learning_rate=0.1))
    with pytest.raises(ValueError, match=f"but the model has {'a frozen' if config else 'no'} backbone: leave it out"):
        trainer.create_optimizer()


def test_a_fine_tuned_run_can_be_gone_on_from(house, tuned, tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(DednTrainer, "training_step", lambda self, model, *_: begun.append(model) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fine_tune(house, tmp_path / "out", init_from=tuned[0])
    start = weights(tuned[0] / "choose")
    for name, value in begun[0].backbone.state_dict().items():
        assert torch.equal(value, start[f"backbone.{name}"]), name


def test_a_run_that_lacks_the_model_for_choosing_is_refused(house, tmp_path, monkeypatch):
    """The model on top has seen the classes that are to be chosen on."""
    monkeypatch.setattr(DednTrainer, "training_step", lambda *_: pytest.fail("trained"))
    first = shutil.copytree(house[2], tmp_path / "first")
    shutil.rmtree(first / "choose")
    message = (
        r"Training on 6 classes begins with a model that was trained on the same, but .*first has none; .*first was "
        r"also trained on 2 others \(class 6, class 7\)\. There is no .*choose, as of a run of an earlier version"
    )
    for protocol in ("validated", "validation"):
        with pytest.raises(ValueError, match=message):
            fine_tune(house, tmp_path / "out", protocol, init_from=first)
    # Neither may the models change places.
    shutil.copytree(first, first / "choose")
    with pytest.raises(ValueError, match="first/choose was also trained on 2 others"):
        fine_tune(house, tmp_path / "out", init_from=first)
    assert not (tmp_path / "out").exists()


def test_classes_that_were_seen_once_are_not_forgotten(house, tmp_path):
    """A model that was given fewer classes, or others, after training."""
    first = shutil.copytree(house[2], tmp_path / "first")
    model = AutoModel.from_pretrained(first, local_files_only=True)
    names = list(model.config.id2label.values())
    model.set_classes(names[:8], model.class_attributes[:8], seen=[index < 6 for index in range(8)])
    model.save_pretrained(first / "choose")
    with pytest.raises(ValueError, match="choose was also trained on 2 others"):
        fine_tune(house, tmp_path / "out", "validation", init_from=first)


def test_a_run_that_was_chosen_on_the_test_set(house, tmp_path, monkeypatch):
    first = shutil.copytree(house[2], tmp_path / "first")
    results = json.loads((first / "results.json").read_text())
    (first / "results.json").write_text(json.dumps(results | {"protocol": "reference"}))
    for protocol in ("validated", "validation"):
        with pytest.raises(ValueError, match=r"first was chosen on the test set .* Take a run of the validated"):
            fine_tune(house, tmp_path / "out", protocol, init_from=first)
    assert fine_tune(house, tmp_path / "out", "reference", init_from=first, num_train_epochs=1)["test"]


def test_the_choice_of_a_validation_run_is_enough_for_another(house, tmp_path):
    dataset, backbone, _, store = house
    inputs = prepare_inputs(dataset, str(store), backbone)
    arguments = make_tiny_arguments(tmp_path / "first", num_train_epochs=1)
    run_protocol("validation", dataset, inputs, arguments, [3, 4])
    run = {"init_from": tmp_path / "first", "num_train_epochs": 1}
    with pytest.raises(ValueError, match=r"seed_3 has none; .*seed_3/choose was not trained on 2 others \(class 6"):
        fine_tune(house, tmp_path / "out", **run)
    # Of several seeds that of the same is taken, else the first.
    for seed, other in ((3, 3), (4, 4), (0, 3)):
        fine_tune(house, tmp_path / f"{seed}", "validation", [seed], learning_rate=0, backbone_learning_rate=0, **run)
        ours, theirs = (
            weights(folder / "choose") for folder in (tmp_path / f"{seed}", tmp_path / f"first/seed_{other}")
        )
        assert torch.equal(*(each["coarse_expert.heads.0.word_vectors"] for each in (ours, theirs)))


@pytest.mark.parametrize("stage", ["choose", "final"])
def test_killed_run_goes_on(house, tuned, tmp_path, monkeypatch, stage):
    step = DednTrainer.training_step

    def killed_in_second_epoch(self, *args):
        if self.args.output_dir.endswith(stage) and self.state.epoch > (1 if stage == "choose" else 0):
            raise Killed
        return step(self, *args)

    folder = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(DednTrainer, "training_step", killed_in_second_epoch)
        fine_tune(house, folder)
    assert fine_tune(house, folder) == tuned[1] and same(weights(folder), weights(tuned[0]))
    logs = [json.loads((each / "training_log.json").read_text()) for each in (folder, tuned[0])]
    for name in ("choose", "final"):
        ours, theirs = ([entry["loss"] for entry in log[name] if "loss" in entry] for log in logs)
        assert ours == theirs


def test_workers_that_stay_see_the_same_images(house, tuned, tmp_path):
    results = fine_tune(house, tmp_path / "out", dataloader_num_workers=2, dataloader_persistent_workers=True)
    assert results["test"] == tuned[1]["test"] and same(weights(tmp_path / "out"), weights(tuned[0]))


def test_evaluation_sees_images_as_the_backbone_does(house, tuned):
    """Of a model whose batch norms are as before, the figures are those of the images' centres."""
    dataset, backbone, first, _ = house
    folder, results = tuned
    inputs = prepare_inputs(dataset, None, backbone, CONFIG, str(first))
    model = AutoModel.from_pretrained(folder, local_files_only=True)
    split = dataset.splits["test_unseen"]
    examples = inputs.make(split)
    pixel_values = inputs.image_processor([row["image"] for row in split], return_tensors="pt")["pixel_values"]
    seen = torch.stack([item["pixel_values"] for item in examples.__getitems__(list(range(len(examples))))])
    assert torch.equal(seen, pixel_values) and seen.shape[2:] == (IMAGE_SIZE, IMAGE_SIZE)
    with torch.no_grad():
        found = model(pixel_values=seen).logits.argmax(dim=1).numpy()
    per_class = [np.mean(found[examples.labels == label] == label) for label in np.unique(examples.labels)]
    assert results["test"]["U"] == pytest.approx(100 * np.mean(per_class))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"feature_maps": "store"}, r"takes images, which stored feature maps .*: leave --feature_maps out"),
        ({"init_from": None}, r"name it with --backbone, and with --init_from the output folder"),
        ({"backbone": None}, r"name it with --backbone, and with --init_from the output folder"),
        ({"init_from": "nowhere"}, "nowhere holds no finished run of `dedn train`"),
        ({"config": {}}, "--init_from is what fine-tuning of a pretrained backbone begins with"),
    ],
)
def test_wrong_inputs(house, arguments, message):
    dataset, backbone, first, _ = house
    given = {"feature_maps": None, "backbone": backbone, "config": CONFIG, "init_from": str(first)}
    with pytest.raises(ValueError, match=message):
        prepare_inputs(dataset, **given | arguments)


def test_run_of_another_backbone_or_split(house, tmp_path):
    _, backbone, first, _ = house
    with pytest.raises(ValueError, match=r"cannot begin with .*first: its backbone \(SHA-256\) is .* here"):
        prepare_inputs(house[0], None, save_backbone(tmp_path / "other", 1), CONFIG, str(first))
    with pytest.raises(ValueError, match=r"its split \(SHA-256\) is 0{64}, and 1{64} here"):
        prepare_inputs(make_dataset(split_sha256="1" * 64), None, backbone, CONFIG, str(first))
    # Of images and classes as before, but with attributes that are no longer the same.
    renamed = make_dataset(attribute_names=["renamed", *house[0].attribute_names[1:]])
    with pytest.raises(ValueError, match=r"cannot begin with .*choose: `attribute_names` is \['attribute 0'"):
        fine_tune((renamed, *house[1:]), tmp_path / "out")


@pytest.mark.parametrize("output_dir", ["first", "first/finer", "."])
def test_the_run_that_it_begins_with_is_not_written_into(house, tmp_path, output_dir):
    first = shutil.copytree(house[2], tmp_path / "first")
    with pytest.raises(ValueError, match="are one, or one lies in the other: choose another --output_dir"):
        fine_tune(house, tmp_path / output_dir, init_from=first)
    assert (first / "model.safetensors").is_file() and not (first / "finer").exists()


def test_another_run_to_begin_with_is_another_run(house, tuned, tmp_path):
    first = shutil.copytree(house[2], tmp_path / "first")
    results = json.loads((first / "results.json").read_text())
    (first / "results.json").write_text(json.dumps(results | {"seeds": [7]}))
    with pytest.raises(ValueError, match="other settings: init_from_sha256 is"):
        fine_tune(house, tuned[0], init_from=first)


def test_feature_maps_cannot_be_cropped(house, tmp_path):
    dataset, backbone, _, store = house
    inputs = prepare_inputs(dataset, str(store), backbone)
    with pytest.raises(ValueError, match=r"`random_crop_scale` is 0\.5, but stored feature maps are of whole images"):
        run_protocol("validated", dataset, inputs, make_tiny_arguments(tmp_path / "out", random_crop_scale=0.5), [0])


@pytest.mark.parametrize("argument", [{"backbone_learning_rate": 0.1}, {"trained_backbone_parameters": ".*"}])
def test_a_backbone_that_made_feature_maps_is_not_trained(house, tmp_path, argument):
    dataset, backbone, _, store = house
    inputs = prepare_inputs(dataset, str(store), backbone)
    with pytest.raises(ValueError, match=rf"`{next(iter(argument))}` is .*, but no backbone is trained: leave it out"):
        run_protocol("validated", dataset, inputs, make_tiny_arguments(tmp_path / "out", **argument), [0])
