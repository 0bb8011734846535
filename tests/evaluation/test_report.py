import json
from functools import partial

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch.utils.data import ConcatDataset
from transformers import CLIPImageProcessorPil

from dedn_hf.data import GzslDataset
from dedn_hf.evaluation import report
from dedn_hf.evaluation.metrics import gzsl_metrics, top_confusions
from dedn_hf.evaluation.report import (
    EvaluationReport,
    Predictions,
    accuracy_by_family,
    attribute_ranking,
    attributes_of_classes,
    check_output_dir,
    costliest_confusions,
    differing_classes,
    evaluate_model,
    match_class_attributes,
    match_classes,
    predict_examples,
    seen_unseen_auroc,
)

LOOKS = ("coarse", "fine", "mixed", "uniform", "centre")


class FeatureMaps(torch.utils.data.Dataset):
    """Random feature maps, in the order of the data set's labels, that count how often each was read."""

    def __init__(self, labels, seed=0):
        self.labels = np.asarray(labels)
        self.image_ids = 1000 * seed + np.arange(len(labels))
        generator = torch.Generator().manual_seed(seed)
        self.maps = torch.randn(len(labels), 6, 3, 3, generator=generator)
        self.reads = np.zeros(len(labels), dtype=int)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        self.reads[index] += 1
        return {"feature_map": self.maps[index], "labels": int(self.labels[index])}


# The classes of the tiny model in another order: swift, wren and jay are seen.
NAMES = ["crow", "swift", "owl", "wren", "jay"]


@pytest.fixture
def dataset(tiny_model):
    place = [tiny_model.config.label2id[name] for name in NAMES]
    return GzslDataset(
        name="birds",
        splits=DatasetDict(),
        class_names=NAMES,
        attribute_names=tiny_model.config.attribute_names,
        attribute_groups=tiny_model.config.attribute_groups,
        class_attributes=tiny_model.class_attributes.numpy()[place],
        seen_class_ids=[1, 3, 4],
        validation_class_ids=[],
        split_name="",
        split_sha256="",
    )


@pytest.fixture
def examples():
    return {"test_seen": FeatureMaps([1] * 9 + [3] * 6 + [4] * 3), "test_unseen": FeatureMaps([0] * 8 + [2] * 4, 1)}


def test_attribute_ranking():
    class_attributes = np.array([[0.9, 0.1, 0.0, 0.8], [0.1, 0.7, 0.0, 0.9], [0.2, 0.6, 0.0, 0.7]])
    has_attribute = attributes_of_classes(class_attributes)[[0, 0, 1, 2]].astype(float)
    # The scale of the matrix is of no importance.
    assert (attributes_of_classes(100 * class_attributes) == attributes_of_classes(class_attributes)).all()
    scores = np.array([[3.0, 2, 0, 1], [2.0, 1, 0, 2], [0.0, 3, 0, 3], [1.0, 4, 0, 4]])
    groups = {"ranked": [0, 1], "had by none or all": [2, 3]}
    ranking = attribute_ranking(scores, has_attribute, groups)
    assert ranking["ranked"] == ranking["all"] == {"mAP": 100.0, "chance": 50.0, "AUROC": 100.0, "attributes": 2}
    assert ranking["had by none or all"] == {"mAP": None, "chance": None, "AUROC": None, "attributes": 0}
    # Turned round, the two images that have an attribute come third and fourth: (1/3 + 2/4) / 2.
    turned = attribute_ranking(-scores, has_attribute, groups)["all"]
    assert (turned["mAP"], turned["AUROC"]) == (pytest.approx(100 * 5 / 12), 0)


def test_images_of_which_an_attribute_is_not_known_do_not_count():
    scores = np.array([[4.0, 1], [3.0, 2], [2.0, 3], [1.0, 4], [9.0, 9]])
    has_attribute = np.array([[1, np.nan], [0, np.nan], [1, np.nan], [0, 1], [np.nan, np.nan]])
    ranking = attribute_ranking(scores, has_attribute, {"a": [0], "b": [1]})
    # Those that have it come first and third of four, and three of the four pairs are in order.
    assert ranking["a"] == {
        "mAP": pytest.approx(100 * (1 + 2 / 3) / 2),
        "chance": 50.0,
        "AUROC": pytest.approx(75),
        "attributes": 1,
    }
    assert ranking["b"]["attributes"] == 0 and ranking["all"] == ranking["a"]


def test_attributes_seen_in_images(tiny_model, dataset, examples):
    """The images of a split that there are examples of, in their order, and attributes in the model's."""
    for split in examples.values():
        split.maps, split.labels, split.image_ids = split.maps[2:], split.labels[2:], split.image_ids[2:]
    plain = evaluate_model(tiny_model, dataset, examples)
    assert "image_attribute_ranking" not in plain.figures
    order = np.array([6, 0, 5, 1, 4, 2, 3])
    dataset.attribute_names = [tiny_model.config.attribute_names[index].title() for index in order]
    dataset.class_attributes = dataset.class_attributes[:, order]
    ids = np.concatenate([split.image_ids for split in examples.values()])
    predictions = predict_examples(tiny_model, ConcatDataset([*examples.values()]))
    votes = predictions.attribute_scores > np.median(predictions.attribute_scores, axis=0)
    # One of three saw in the first image what was not there; two of three are most.
    votes = np.where(votes, 2 / 3, 0)
    votes[0] = np.where(votes[0] > 0, 1, 1 / 3)
    dataset.image_attributes = dict(zip(ids.tolist(), votes[:, order])) | {0: np.full(7, np.nan)}
    report = evaluate_model(tiny_model, dataset, examples)
    assert "attribute ranking by image" in str(report) and "attribute ranking by image" not in str(plain)
    ranking = report.figures.pop("image_attribute_ranking")
    assert ranking["all"] == {"mAP": 100.0, "chance": pytest.approx(50), "AUROC": 100.0, "attributes": 7}
    assert report.figures == plain.figures


def test_seen_unseen_auroc_is_scikit_learns_and_knows_no_bias():
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 5
    logits = np.round(4 * (generator.normal(size=(200, 5)) + np.eye(5)[labels])) / 4  # with ties
    seen = [0, 2, 3]
    difference = logits[:, seen].max(axis=1) - logits[:, [1, 4]].max(axis=1)
    expected = 100 * roc_auc_score(np.isin(labels, seen), difference)
    assert seen_unseen_auroc(logits, labels, seen) == pytest.approx(expected)
    assert seen_unseen_auroc(logits + 4 * np.isin(range(5), seen), labels, seen) == pytest.approx(expected)
    assert np.isnan(seen_unseen_auroc(logits[:1], labels[:1], seen))


def test_costliest_confusions_weigh_classes_as_s_and_u_do():
    names = ["a", "b", "c", "d"]
    labels = np.array([0] * 10 + [1] * 2 + [2] * 4 + [3] * 4)
    predictions = labels.copy()
    predictions[:3] = 1  # 3 of 10 images of one of three seen classes: 10 points of S
    predictions[10] = 0  # 1 of 2: 16.7 points of S
    predictions[16] = 2  # 1 of 4 of the one unseen class: 25 points of U
    confusions = costliest_confusions(predictions, labels, names, [0, 1, 2])
    assert [(c["label"], c["prediction"], c["figure"]) for c in confusions] == [
        ("d", "c", "U"),
        ("b", "a", "S"),
        ("a", "b", "S"),
    ]
    assert [c["cost"] for c in confusions] == pytest.approx([25, 50 / 3, 10])
    # The most frequent one comes first where images are counted.
    assert top_confusions(predictions, labels, names)[0]["label"] == "a"
    logits = np.eye(4)[predictions]
    metrics = gzsl_metrics(logits, labels, [0, 1, 2])
    assert sum(c["cost"] for c in confusions if c["figure"] == "S") == pytest.approx(100 - metrics["S"])
    assert sum(c["cost"] for c in confusions if c["figure"] == "U") == pytest.approx(100 - metrics["U"])


def test_classes_are_matched_by_name(tiny_model, dataset):
    place = match_classes(tiny_model.config, dataset)
    assert [tiny_model.config.id2label[index] for index in place] == NAMES


def test_class_attributes_are_matched_by_name(tiny_model, dataset):
    of_model = tiny_model.class_attributes.numpy()
    order = np.array([6, 0, 5, 1, 4, 2, 3])
    dataset.attribute_names = [tiny_model.config.attribute_names[index] for index in order]
    dataset.class_attributes = dataset.class_attributes[:, order]
    matched = match_class_attributes(tiny_model.config, dataset)
    np.testing.assert_array_equal(matched, of_model)
    assert not differing_classes(of_model, matched, tiny_model.config)


def test_names_that_are_written_otherwise_are_matched(tiny_model, dataset):
    of_model = tiny_model.class_attributes.numpy()
    expected = match_classes(tiny_model.config, dataset)
    dataset.class_names = [name.upper() for name in dataset.class_names]
    dataset.attribute_names = [f" {name.replace(' ', '_')}\u200b" for name in dataset.attribute_names]
    np.testing.assert_array_equal(match_classes(tiny_model.config, dataset), expected)
    np.testing.assert_array_equal(match_class_attributes(tiny_model.config, dataset), of_model)


def test_a_model_that_was_trained_when_classes_had_their_official_names(tiny_model, dataset):
    expected = match_classes(tiny_model.config, dataset)
    config = tiny_model.config
    config.trained_class_names = []
    config.id2label = {index: f"{index + 1:03d}.{name}_Bird" for index, name in config.id2label.items()}
    dataset.class_names = [f"{name} Bird" for name in dataset.class_names]
    np.testing.assert_array_equal(match_classes(config, dataset), expected)
    np.testing.assert_array_equal(match_class_attributes(config, dataset), tiny_model.class_attributes.numpy())


def test_differing_classes(tiny_model):
    config, of_model = tiny_model.config, tiny_model.class_attributes.numpy()
    assert not differing_classes(of_model, 100 * of_model * np.arange(1, 6)[:, None], config)
    edited = of_model.copy()
    edited[1, 2] += 0.01
    edited[4, 0] += 1
    names = config.attribute_names
    assert [*differing_classes(of_model, edited, config).items()] == [
        (config.id2label[4], (names[0], of_model[4, 0], edited[4, 0])),
        (config.id2label[1], (names[2], of_model[1, 2], edited[1, 2])),
    ]


def test_other_classes_are_an_error(tiny_model, dataset):
    dataset.class_names = ["crow", "swift", "owl", "wren", "emu"]
    with pytest.raises(ValueError, match=r"classes of the model and of birds differ: 1 \(jay\).* 1 \(emu\)"):
        match_classes(tiny_model.config, dataset)
    dataset.class_names = NAMES
    dataset.seen_class_ids = [0, 3, 4]
    with pytest.raises(ValueError, match=r"seen classes .* differ: 1 \(swift\).* 1 \(crow\)"):
        match_classes(tiny_model.config, dataset)


def test_each_image_is_read_once(tiny_model, dataset, examples):
    evaluate_model(tiny_model, dataset, examples, batch_size=7)
    assert all((split.reads == 1).all() for split in examples.values())


@pytest.mark.parametrize("calibration", [None, 0.3])
def test_figures_are_those_of_the_models_own_logits(tiny_model, dataset, examples, calibration):
    tiny_model.config.calibration = calibration
    tiny_model.config.region_mix, tiny_model.config.coarse_mix = 0.7, 0.4
    tiny_model.train()  # what was done with the model before is of no importance
    report = evaluate_model(tiny_model, dataset, examples)

    maps = torch.cat([split.maps for split in examples.values()])
    names = [NAMES[label] for split in examples.values() for label in split.labels]
    labels = np.array([tiny_model.config.label2id[name] for name in names])
    with torch.no_grad():
        logits = tiny_model.eval()(feature_map=maps).logits.numpy()
    metrics = gzsl_metrics(logits, labels, tiny_model.config.seen_class_ids)
    assert {name: report.figures["test"][name] for name in metrics} == pytest.approx(metrics)
    assert report.figures["calibration"]["model"] == (2.0 if calibration is None else 0.3)
    shares = torch.from_numpy(logits).softmax(dim=-1).amax(dim=-1).numpy()
    np.testing.assert_allclose(report.confidences, shares, rtol=1e-4)
    np.testing.assert_array_equal(report.correct, logits.argmax(axis=1) == labels)

    classes = report.figures["classes"]
    assert {name: classes[name]["images"] for name in NAMES} == {"crow": 8, "swift": 9, "owl": 4, "wren": 6, "jay": 3}
    for figure, seen in (("S", True), ("U", False)):
        accuracies = [c["accuracy"] for c in classes.values() if c["seen"] == seen]
        assert np.mean(accuracies) == pytest.approx(metrics[figure])
    assert report.figures["calibration"]["best_in_hindsight"]["H"] >= metrics["H"] - 1e-9
    bins = report.figures["reliability"]
    assert sum(of_bin["images"] for of_bin in bins) == len(labels) and all(of_bin["images"] for of_bin in bins)
    distance = sum(of_bin["images"] * abs(of_bin["accuracy"] - of_bin["confidence"]) for of_bin in bins) / len(labels)
    assert distance == pytest.approx(report.figures["expected_calibration_error"])


def test_accuracy_by_family():
    classes = {
        "001.Green_Jay": {"accuracy": 50.0, "images": 4},
        "Field Sparrow": {"accuracy": 20.0, "images": 1},
        "Brewer_Sparrow": {"accuracy": 40.0, "images": 9},
        "Fox_Sparrow": {"accuracy": None, "images": 0},
        "Blue Jay": {"accuracy": 100.0, "images": 2},
        "Ovenbird": {"accuracy": 70.0, "images": 3},
        "Rhino Auklet": {"accuracy": None, "images": 0},
    }
    assert list(accuracy_by_family(classes).items()) == [
        ("Jay", {"accuracy": 75.0, "classes": 2, "images": 6}),
        ("Sparrow", {"accuracy": 30.0, "classes": 2, "images": 10}),
        ("Ovenbird", {"accuracy": 70.0, "classes": 1, "images": 3}),
    ]


def test_experts_alone_and_mixed(tiny_model, dataset, examples):
    tiny_model.config.region_mix, tiny_model.config.coarse_mix = 0.7, 0.4
    report = evaluate_model(tiny_model, dataset, examples)
    experts = report.figures["experts"]
    assert experts["mixed"]["mixed"].items() >= report.figures["test"].items()
    for expert, coarse_mix in (("coarse", 1.0), ("fine", 0.0)):
        for attention, region_mix in (("region", 1.0), ("channel", 0.0)):
            tiny_model.config.region_mix, tiny_model.config.coarse_mix = region_mix, coarse_mix
            alone = evaluate_model(tiny_model, dataset, examples).figures["test"]
            assert experts[expert][attention].items() >= alone.items()
    # They are not all the same, or nothing was compared.
    assert len({tuple(values.values()) for of_expert in experts.values() for values in of_expert.values()}) > 4


def test_class_without_images(tiny_model, dataset, examples, tmp_path):
    del examples["test_seen"]
    examples["test_seen"] = FeatureMaps([1] * 4 + [3] * 4)
    report = evaluate_model(tiny_model, dataset, examples)
    assert report.figures["classes"]["jay"] == {"accuracy": None, "images": 0, "seen": True}
    report.write(tmp_path, {})


def test_written_files(tiny_model, dataset, examples, tmp_path):
    report = evaluate_model(tiny_model, dataset, examples)
    report.write(tmp_path / "out", {"model": "outputs/birds", "dataset": "birds"})
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["model"] == "outputs/birds" and results["test"] == report.figures["test"]
    assert {"versions", "command", "experts", "confusions", "attribute_ranking"} <= results.keys()
    pictures = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert pictures == ["per_class_accuracy.png", "reliability.png", "seen_unseen_curve.png"]
    for name in pictures:
        with Image.open(tmp_path / "out" / name) as image:
            image.verify()


def test_table(tiny_model, dataset, examples):
    report = evaluate_model(tiny_model, dataset, examples)
    lines = str(report).splitlines()
    model = next(line for line in lines if line.startswith("model, γ = 2"))
    expected = [f"{report.figures['test'][name]:.1f}" for name in ("T1", "U", "S", "H", "AUSUC")]
    assert model.split()[-5:] == expected
    assert sum(line.startswith(("coarse, ", "fine, ", "mixed, ")) for line in lines) == 9
    assert {"wing", "tail", "body"} <= {line.split()[0] for line in lines if line}


def test_localisation_is_gathered_while_images_are_read_once(tiny_model, dataset, examples, tmp_path):
    """Parts lie where the coarse expert's attention peaks, of all images of the seen classes and of no others."""
    processor = CLIPImageProcessorPil(size={"shortest_edge": 30}, crop_size=30)
    tiny_model.set_classes(
        list(tiny_model.config.id2label.values()),
        np.eye(5, 7) + np.eye(5, 7, 5),
        seen=tiny_model.seen_classes.tolist(),
    )
    names = [f"has_{part}_color::red" for part in ("head", "bill", "breast", "wing", "tail")]
    names += ["has_size::big", "has_size::small"]
    dataset.attribute_names = tiny_model.config.attribute_names = names
    dataset.part_names = ["head", "bill", "breast", "wing", "tail", "leg"]
    dataset.attribute_parts = {part: (part,) for part in dataset.part_names}
    for split, of_split in examples.items():
        with torch.no_grad():
            attention = tiny_model(feature_map=of_split.maps, output_attentions=True).attentions["coarse"]
        rows, columns = np.divmod(attention.flatten(2).argmax(dim=2).numpy(), 3)
        wrong = split == "test_unseen"
        points = np.zeros((len(of_split), 6, 3))
        points[:, :5, 0] = (columns[:, :5] + wrong) % 3 * 10 + 5
        points[:, :5, 1], points[:, :, 2] = rows[:, :5] * 10 + 5, 1
        dataset.splits[split] = Dataset.from_dict(
            {
                "image": [Image.new("RGB", (30, 30))] * len(of_split),
                "label": of_split.labels,
                "image_id": of_split.image_ids,
                "part_points": points.tolist(),
                "box": [[0.0, 0, 30, 30]] * len(of_split),
            },
            features=Features(
                image=ImageFeature(),
                label=Value("int64"),
                image_id=Value("int64"),
                part_points=List(List(Value("float32"))),
                box=List(Value("float32")),
            ),
        )
    report = evaluate_model(tiny_model, dataset, examples, batch_size=7, image_processor=processor)
    assert all((split.reads == 1).all() for split in examples.values())
    localisation = report.figures["localisation"]
    # Each class has the attribute of one part, and three of the five classes are seen; two also have one of the whole
    # body.
    assert localisation["part"]["all"]["attributes"] == 5 and localisation["box"]["all"]["attributes"] == 7
    assert localisation["part"]["all"]["coarse"] == pytest.approx(100 * 3 / 5)
    assert localisation["part_within_one_cell"]["all"]["coarse"] > 100 * 3 / 5
    assert localisation["part"]["all"]["fine"] < 100 * 3 / 5
    assert localisation["box"]["all"]["uniform"] == pytest.approx(100)

    lines = str(report).splitlines()
    row = lines[lines.index(next(line for line in lines if line.startswith("attention peaks on the part"))) + 1]
    assert row.split() == ["all", "60.0", *(f"{localisation['part']['all'][n]:.1f}" for n in LOOKS[1:]), "5"]
    report.write(tmp_path, {})
    assert json.loads((tmp_path / "results.json").read_text())["localisation"] == localisation
    assert (tmp_path / "localisation.png").is_file()


def test_no_localisation_without_part_points(tiny_model, dataset, examples, tmp_path):
    processor = CLIPImageProcessorPil(size={"shortest_edge": 30}, crop_size=30)
    report = evaluate_model(tiny_model, dataset, examples, image_processor=processor)
    assert "localisation" not in report.figures and "attention" not in str(report).split("attribute ranking")[1]


def test_report_without_unseen_images_says_what_is_missing(tiny_model):
    predictions = Predictions(np.zeros((3, 5)), np.zeros((3, 7)), np.zeros((3, 2, 2, 7)), np.array([0, 1, 3]))
    with pytest.raises(ValueError, match="0 of unseen"):
        EvaluationReport(tiny_model.config, tiny_model.class_attributes.numpy(), predictions)


def test_predictions_do_not_depend_on_the_batch(tiny_model, examples):
    one = predict_examples(tiny_model, examples["test_seen"], batch_size=1)
    all_at_once = predict_examples(tiny_model, examples["test_seen"], batch_size=50)
    assert one.expert_scores.shape == (18, 2, 2, 7)
    for name in ("logits", "attribute_scores", "expert_scores"):
        np.testing.assert_allclose(getattr(one, name), getattr(all_at_once, name), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(one.labels, examples["test_seen"].labels)


def test_other_results_are_not_overwritten(tmp_path):
    check_output_dir(tmp_path / "new", "model", "cub")
    (tmp_path / "results.json").write_text(json.dumps({"model": "model", "dataset": "cub"}))
    check_output_dir(tmp_path, "model", "cub")
    with pytest.raises(ValueError, match="other results"):
        check_output_dir(tmp_path, "another model", "cub")
    (tmp_path / "results.json").write_text(json.dumps({"dataset": "cub", "protocol": "validated"}))
    with pytest.raises(ValueError, match="Choose another --output_dir"):
        check_output_dir(tmp_path, "model", "cub")
    with pytest.raises(ValueError, match="is a file"):
        check_output_dir(tmp_path / "results.json", "model", "cub")


def test_localisation_without_a_progress_bar(tiny_model, examples, monkeypatch):
    """As where nobody watches: the places of a batch are its own."""
    places = []

    class Localisation:
        add = staticmethod(lambda rows, attentions: places.append(rows))

    monkeypatch.setattr(report, "tqdm", partial(report.tqdm, disable=True))
    report.predict_examples(tiny_model, examples["test_seen"], batch_size=2, localisation=Localisation)
    assert len(places) > 1 and [rows.start for rows in places] == [0, *(rows.stop for rows in places[:-1])]
