import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
from command_line import CommandFailed
from datasets import Dataset, Features, concatenate_datasets
from datasets import Image as ImageFeature
from PIL import Image
from transformers import CLIPImageProcessorPil, ResNetConfig, ResNetModel

import dedn_hf.data
from dedn_hf import DednModel
from dedn_hf.candidates_dedn import class_rows, read_candidates
from dedn_hf.data.synthetic_birds import load as load_synthetic_birds
from dedn_hf.evaluation import gzsl_metrics
from dedn_hf.evaluation.descriptions import describe_unseen_classes
from dedn_hf.features.extraction import extract_feature_maps
from dedn_hf.names_dedn import readable_attribute
from dedn_hf.recipes import read_recipe
from dedn_hf.training import DednTrainingArguments, PixelValueDataset
from dedn_hf.training.inputs import prepare_inputs
from dedn_hf.training.protocol import build_model, run_protocol

RECIPE = read_recipe("synthetic_birds").model


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    """Six small images of each class: one of each seen and six of each unseen class are for testing."""
    cache = str(tmp_path_factory.mktemp("cache"))
    return load_synthetic_birds(images_per_class=6, image_size=64, cache_dir=cache)


def make_model(birds, folder, **changes):
    torch.manual_seed(0)
    inputs = prepare_inputs(birds, config=RECIPE)
    settings = {
        "backbone_config": {
            "model_type": "resnet",
            "embedding_size": 8,
            "hidden_sizes": [8, 16],
            "depths": [1, 1],
            "layer_type": "basic",
            "out_features": ["stage2"],
        },
        "feature_channels": 16,
        "grid_size": 8,
        "calibration": 0.02,
    }
    model = build_model(birds, range(110), birds.unseen_class_ids, **RECIPE | settings | changes)
    model.save_pretrained(folder)
    inputs.image_processor.save_pretrained(folder)
    return model.eval(), inputs.image_processor


@pytest.fixture
def run(birds, dedn, monkeypatch):
    monkeypatch.setattr(dedn_hf.data, "load_gzsl_dataset", lambda *args, **kwargs: birds)

    def run(model, output_dir, *more):
        dedn("evaluate", "--model", model, "--dataset", "synthetic_birds", "--output_dir", output_dir, *more)

    return run


def test_evaluation_from_images(run, birds, tmp_path, capsys):
    model, processor = make_model(birds, tmp_path / "model")
    record = {"dataset": "synthetic_birds", "protocol": "validated", "seeds": [3, 4], "test": {"H": 1.0}}
    (tmp_path / "model/results.json").write_text(json.dumps(record))
    run(tmp_path / "model", tmp_path / "out", "--batch_size", "60")

    results = json.loads((tmp_path / "out/results.json").read_text())
    images = [PixelValueDataset(birds.splits[split], processor) for split in ("test_seen", "test_unseen")]
    logits, labels = [], np.concatenate([split.labels for split in images])
    with torch.no_grad():
        for split in images:
            pixel_values = torch.stack([item["pixel_values"] for item in split.__getitems__(list(range(len(split))))])
            logits.append(model(pixel_values=pixel_values).logits.numpy())
    expected = gzsl_metrics(np.concatenate(logits), labels, birds.seen_class_ids)
    assert {name: results["test"][name] for name in expected} == pytest.approx(expected)
    assert (results["dataset"], results["protocol"], results["seeds"]) == ("synthetic_birds", "validated", [3])
    assert results["split"] == {"name": birds.split_name, "sha256": birds.split_sha256}
    assert results["settings"]["calibration"] == 0.02
    assert len(list((tmp_path / "out").glob("*.png"))) == 4
    # A new model attends to all cells alike, and all six parts are visible in every image.
    for measure, share in (("part", 100 / 64), ("part_within_one_cell", None), ("box", None)):
        figures = results["localisation"][measure]["all"]
        assert figures["coarse"] == figures["fine"] == pytest.approx(figures["uniform"])
        assert share is None or figures["uniform"] == pytest.approx(share)
    printed = capsys.readouterr().out
    assert "attention peaks on the part" in printed
    assert "210 test images" in printed and "best γ in hindsight" in printed
    # What was there remains.
    assert json.loads((tmp_path / "model/results.json").read_text()) == record
    with pytest.raises(CommandFailed, match="other results"):
        run(tmp_path / "model", tmp_path / "model")


def test_evaluation_of_images_and_their_mirror_images(run, birds, tmp_path):
    model, processor = make_model(birds, tmp_path / "model")
    run(tmp_path / "model", tmp_path / "out", "--average_flips")
    results = json.loads((tmp_path / "out/results.json").read_text())
    images = [PixelValueDataset(birds.splits[split], processor) for split in ("test_seen", "test_unseen")]
    labels = np.concatenate([split.labels for split in images])
    pixel_values = torch.stack([item["pixel_values"] for split in images for item in split])
    with torch.no_grad():
        logits = sum(model(pixel_values=values).logits for values in (pixel_values, pixel_values.flip(-1))) / 2
    expected = gzsl_metrics(logits.numpy(), labels, birds.seen_class_ids)
    assert {name: results["test"][name] for name in expected} == pytest.approx(expected)
    assert results["settings"]["average_flips"]


@pytest.mark.parametrize("asked, most", [((), 20), (("--batch_size", "7"), 7)])
def test_images_in_a_model_at_once(run, birds, tmp_path, monkeypatch, asked, most):
    """Few, since their activations are large."""
    make_model(birds, tmp_path / "model")
    predict, sizes = DednModel.predict, []
    monkeypatch.setattr(
        DednModel,
        "predict",
        lambda self, **inputs: sizes.append(len(inputs["pixel_values"])) or predict(self, **inputs),
    )
    run(tmp_path / "model", tmp_path / "out", *asked)
    assert max(sizes) == most


def test_evaluation_from_feature_maps(run, birds, tmp_path):
    backbone = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"))
    backbone.save_pretrained(tmp_path / "backbone")
    CLIPImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(tmp_path / "backbone")
    images = concatenate_datasets([birds.splits["test_seen"], birds.splits["test_unseen"]])
    extract_feature_maps(
        images, str(tmp_path / "backbone"), 64, tmp_path / "store", "synthetic_birds", batch_size=50, num_workers=0
    )
    inputs = prepare_inputs(birds, config=RECIPE)
    model = build_model(
        birds,
        range(110),
        birds.unseen_class_ids,
        **RECIPE | {"backbone_config": None, "feature_channels": 16, "grid_size": 8},
    )
    model.save_pretrained(tmp_path / "maps only")
    with pytest.raises(CommandFailed, match=r"no backbone .* with --feature_maps"):
        run(tmp_path / "maps only", tmp_path / "out")
    run(tmp_path / "maps only", tmp_path / "out", "--feature_maps", tmp_path / "store")
    results = json.loads((tmp_path / "out/results.json").read_text())
    from_maps = results["test"]
    assert results["localisation"]["part"]["all"]["uniform"] == pytest.approx(100 / 64)

    # A store from an HDF5 file knows no image processor: it gives the same, but for where attention looks.
    metadata = json.loads((tmp_path / "store/store.json").read_text())
    unknown = dict.fromkeys(("backbone", "backbone_sha256", "image_size", "processor"))
    (tmp_path / "store/store.json").write_text(json.dumps(metadata | unknown))
    run(tmp_path / "maps only", tmp_path / "unknown", "--feature_maps", tmp_path / "store")
    results = json.loads((tmp_path / "unknown/results.json").read_text())
    assert results["test"] == from_maps and "localisation" not in results
    (tmp_path / "store/store.json").write_text(json.dumps(metadata))

    # The same model with the backbone gives the same figures from the maps, and from images but for float16.
    model.set_backbone(backbone.eval())
    model.save_pretrained(tmp_path / "model")
    inputs.image_processor.save_pretrained(tmp_path / "model")
    run(tmp_path / "model", tmp_path / "both", "--feature_maps", tmp_path / "store")
    assert json.loads((tmp_path / "both/results.json").read_text())["test"] == from_maps

    other, _ = make_model(birds, tmp_path / "other")
    assert isinstance(other, DednModel)
    with pytest.raises(CommandFailed, match="backbone_sha256"):
        run(tmp_path / "other", tmp_path / "out 2", "--feature_maps", tmp_path / "store")
    make_model(birds, tmp_path / "wide", backbone_config=None, feature_channels=32)
    with pytest.raises(CommandFailed, match=r"shape is \[16, 8, 8\], where \[32, 8, 8\] is asked for"):
        run(tmp_path / "wide", tmp_path / "out 3", "--feature_maps", tmp_path / "store")


def test_images_that_changed_since_the_store_was_made(run, birds, tmp_path, monkeypatch):
    import dedn_hf.evaluation.report as report

    backbone = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"))
    backbone.save_pretrained(tmp_path / "backbone")
    CLIPImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(tmp_path / "backbone")
    images = concatenate_datasets([birds.splits["test_seen"], birds.splits["test_unseen"]])
    table = images.select_columns(["image", "label", "image_id"]).cast_column("image", ImageFeature(decode=False))[:]
    table["image"][7], table["image"][150] = table["image"][150], table["image"][7]
    features = {name: images.features[name] for name in table}
    images = Dataset.from_dict(table, Features(features))
    extract_feature_maps(
        images, str(tmp_path / "backbone"), 64, tmp_path / "store", "synthetic_birds", batch_size=50, num_workers=0
    )
    make_model(birds, tmp_path / "model", backbone_config=None)
    monkeypatch.setattr(report, "predict_examples", None)  # nothing may be computed
    with pytest.raises(CommandFailed, match=r"error: 2 of 210 images have changed since .*/store was made of them"):
        run(tmp_path / "model", tmp_path / "out", "--feature_maps", tmp_path / "store")


def test_errors_before_long_work(run, birds, tmp_path, monkeypatch):
    import dedn_hf.evaluation.report as report

    monkeypatch.setattr(report, "predict_examples", None)  # nothing may be computed
    with pytest.raises(CommandFailed, match=r"error: .*nowhere"):
        run(tmp_path / "nowhere", tmp_path / "out")
    torch.manual_seed(0)
    model = build_model(birds, birds.seen_class_ids, birds.validation_class_ids, **RECIPE)
    model.save_pretrained(tmp_path / "chooser")
    with pytest.raises(CommandFailed, match=r"classes of the model and of synthetic_birds differ: none only"):
        run(tmp_path / "chooser", tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandFailed, match="is a file"):
        run(tmp_path / "chooser", tmp_path / "file")
    with pytest.raises(CommandFailed, match="--batch_size is 0"):
        run(tmp_path / "chooser", tmp_path / "out", "--batch_size", "0")
    with pytest.raises(CommandFailed, match="--average_flips is of images: leave --feature_maps out"):
        run(tmp_path / "chooser", tmp_path / "out", "--average_flips", "--feature_maps", "store")
    assert not (tmp_path / "out").exists()


def test_classes_edited_after_training(run, birds, dedn, tmp_path, capsys, monkeypatch):
    model, _ = make_model(birds, tmp_path / "model")
    run(tmp_path / "model", tmp_path / "as trained")
    assert "described otherwise" not in capsys.readouterr().out
    as_trained = json.loads((tmp_path / "as trained/results.json").read_text())
    assert as_trained["class_attributes"] == {"of": "model", "differing_classes": 0}

    # Columns in another order are none; one row is edited, and all are multiplied, which no score depends on.
    order = np.random.default_rng(0).permutation(len(birds.attribute_names))
    rows = 0.5 * birds.class_attributes
    rows[3] = np.roll(rows[3], 1)
    edited = dataclasses.replace(
        birds, class_attributes=rows[:, order], attribute_names=[birds.attribute_names[i] for i in order]
    )
    monkeypatch.setattr(dedn_hf.data, "load_gzsl_dataset", lambda *args, **kwargs: edited)
    run(tmp_path / "model", tmp_path / "models")
    printed = capsys.readouterr().out
    assert "1 of 110 classes are described otherwise in the data set now" in printed
    assert f"  {birds.class_names[3]}: most in '" in printed and "--class_attributes data takes" in printed
    of_model = json.loads((tmp_path / "models/results.json").read_text())
    assert of_model["test"] == as_trained["test"]
    assert of_model["localisation"] == as_trained["localisation"]
    assert of_model["class_attributes"] == {"of": "model", "differing_classes": 1}

    run(tmp_path / "model", tmp_path / "datas", "--class_attributes", "data")
    assert "The data set's are used." in capsys.readouterr().out
    of_data = json.loads((tmp_path / "datas/results.json").read_text())
    assert of_data["class_attributes"] == {"of": "data", "differing_classes": 1}
    given = model.class_attributes.clone()
    given[3] = given[3].roll(1)
    model.set_classes(birds.class_names, given, seen=model.seen_classes.tolist())
    model.save_pretrained(tmp_path / "model")
    run(tmp_path / "model", tmp_path / "expected", "--class_attributes", "model")
    expected = json.loads((tmp_path / "expected/results.json").read_text())
    for name, value in expected["test"].items():
        assert of_data["test"][name] == pytest.approx(value, abs=1e-4), name

    renamed = dataclasses.replace(birds, attribute_names=["a new one", *birds.attribute_names[1:]])
    monkeypatch.setattr(dedn_hf.data, "load_gzsl_dataset", lambda *args, **kwargs: renamed)
    with pytest.raises(CommandFailed, match=r"attributes of the model and of synthetic_birds differ.*a new one"):
        run(tmp_path / "model", tmp_path / "renamed")


@pytest.mark.slow
def test_figures_are_those_of_the_training_run(run, birds, tmp_path):
    args = DednTrainingArguments(
        output_dir=str(tmp_path / "run"),
        num_train_epochs=1,
        per_device_train_batch_size=50,
        learning_rate=1e-3,
        use_cpu=True,
        report_to=[],
    )
    inputs = prepare_inputs(birds, config=RECIPE)
    inputs.config["grid_size"] = 4  # of images of 64 pixels
    trained = run_protocol("validated", birds, inputs, args, [0])
    run(tmp_path / "run", tmp_path / "evaluation")
    results = json.loads((tmp_path / "evaluation/results.json").read_text())
    assert results["test"] == pytest.approx(trained["test"])
    assert (results["protocol"], results["seeds"]) == ("validated", [0])
    with Image.open(tmp_path / "evaluation/seen_unseen_curve.png") as image:
        image.verify()


def test_unseen_classes_in_prose(run, birds, tmp_path, capsys):
    make_model(birds, tmp_path / "model")
    names = [birds.class_names[index] for index in birds.unseen_class_ids]
    texts = {
        name: [f"{readable_attribute(attribute)}."]
        for name, attribute in zip(names, itertools.cycle(birds.attribute_names[:6]))
    }
    file = tmp_path / "descriptions.json"
    file.write_text(json.dumps(texts | {"no class of these": "red wings"}))
    run(tmp_path / "model", tmp_path / "out", "--descriptions", file)
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["class_attributes"] == {"of": "descriptions", "differing_classes": 0}
    assert set(results["understood"]) == set(names)
    assert f"{len(names)} unseen classes are described in prose" in capsys.readouterr().out
    run(tmp_path / "model", tmp_path / "own")
    own = json.loads((tmp_path / "own/results.json").read_text())
    # Seen classes are as they were, and what images have goes by what classes truly have.
    assert results["attribute_ranking"] == own["attribute_ranking"] and results["test"] != own["test"]
    described = DednModel.from_pretrained(tmp_path / "model")
    candidates = {name: {"text": text} for name, text in texts.items()}
    rows = class_rows(described, read_candidates(described.config, candidates), "likely")
    understood = describe_unseen_classes(described, texts)
    order = [list(understood).index(name) for name in texts]
    torch.testing.assert_close(described.class_attributes[~described.seen_classes][order], rows)

    for content, match in (
        ({names[0]: ["red wings"]}, f"{len(names) - 1} of {len(names)} unseen classes are not described"),
        ({names[0]: 3}, "must be a text or a list of sentences"),
        ({}, "must hold names of classes and their descriptions"),
        ([], "descriptions.json must hold names and values"),
    ):
        file.write_text(json.dumps(content))
        with pytest.raises(CommandFailed, match=match):
            run(tmp_path / "model", tmp_path / "other", "--descriptions", file)
    with pytest.raises(CommandFailed, match=r"missing\.json"):
        run(tmp_path / "model", tmp_path / "other", "--descriptions", tmp_path / "missing.json")
    assert not (tmp_path / "other").exists()
