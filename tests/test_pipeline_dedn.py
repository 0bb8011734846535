import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from tiny_model import make_tiny_config
from tiny_pipeline import BACKBONE, TASK, check_same, make_image, make_model, make_processor
from transformers import ConvNextImageProcessorPil, ViTImageProcessorPil, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from dedn_hf import DednModel, ZeroShotAttributeClassificationPipeline, candidates_dedn
from dedn_hf.images_dedn import attention_in_image, load_any_image

NAMES = ["jay", "wren", "owl", "swift", "crow"]


@pytest.fixture
def image():
    return make_image()


@pytest.fixture
def processor():
    return make_processor()


@pytest.fixture
def classifier(processor):
    return pipeline(TASK, model=make_model(), image_processor=processor, device="cpu")


def run_model(classifier, image, **inputs):
    pixel_values = classifier.image_processor(image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        return classifier.model(pixel_values, **inputs)


def scores_of(result):
    return {label["label"]: label["score"] for label in result["labels"]}


# What is returned


def test_result(classifier, image):
    assert isinstance(classifier, ZeroShotAttributeClassificationPipeline)
    result = classifier(image)
    assert set(result) == {"labels", "fit", "attributes"}
    assert len(result["labels"]) == 5 and len(result["attributes"]) == 7
    for entry in result["labels"]:
        assert set(entry) == {"label", "score", "seen"} and isinstance(entry["score"], float)
        assert entry["seen"] is (entry["label"] in ("jay", "wren", "swift"))
    groups = {1: "wing", 6: "wing", 2: "tail", 4: "tail", 0: "body", 3: "body", 5: "body"}
    for entry in result["attributes"]:
        assert list(entry) == ["label", "group", "score", "contribution"]
        assert isinstance(entry["score"], float) and isinstance(entry["contribution"], float)
        assert entry["group"] == groups[int(entry["label"].split()[1])]
    scores = [entry["score"] for entry in result["labels"]]
    assert scores == sorted(scores, reverse=True)


def test_label_scores_are_the_softmax_of_the_models_logits(classifier, image):
    expected = dict(zip(NAMES, run_model(classifier, image).logits[0].softmax(-1).tolist(), strict=True))
    assert scores_of(classifier(image)) == pytest.approx(expected)
    assert sum(expected.values()) == pytest.approx(1)


def test_label_scores_are_the_softmax_over_the_candidates(classifier, image):
    logits = run_model(classifier, image).logits[0]
    expected = logits[[2, 0]].softmax(-1).tolist()
    assert scores_of(classifier(image, ["owl", "jay"])) == pytest.approx(dict(zip(["owl", "jay"], expected)))
    assert scores_of(classifier(image, ["owl"])) == scores_of(classifier(image, "owl")) == {"owl": 1.0}


def test_attribute_scores_are_the_calibrated_ones(classifier, image):
    scores = run_model(classifier, image).attribute_scores[0]
    slope, offset = classifier.model.attribute_calibration
    expected = {f"attribute {i}": 1 / (1 + math.exp(-(slope[i] * scores[i] + offset[i]))) for i in range(7)}
    for candidates in (None, ["jay"], {"new": ["attribute 3"]}):
        result = classifier(image, candidates)
        assert {entry["label"]: entry["score"] for entry in result["attributes"]} == pytest.approx(expected)
    assert all(0 < score < 1 for score in expected.values())


@pytest.mark.parametrize("candidates", [None, [["owl", "jay"], {"new": ["attribute 3"], "jay": None}]])
def test_the_mean_of_an_image_and_its_mirror_image(classifier, image, candidates):
    """What each says alone, in either order."""
    images = [image, ImageOps.mirror(image)]
    plain, averaged = (
        classifier(images, candidates, attention="grid", top_attributes=None, average_flips=flips, batch_size=2)
        for flips in (False, True)
    )
    if candidates is None:
        assert scores_of(plain[0]) != scores_of(plain[1])
        assert scores_of(averaged[0]) == pytest.approx(scores_of(averaged[1]))
        logits = [run_model(classifier, each).logits[0] for each in images]
        expected = (sum(logits) / 2).softmax(-1).tolist()
        assert scores_of(averaged[0]) == pytest.approx(dict(zip(NAMES, expected, strict=True)))
        assert scores_of(classifier(image, average_flips=True)) == pytest.approx(scores_of(averaged[0]))
    maps = [{entry["label"]: np.array(entry["attention"]) for entry in result["attributes"]} for result in plain]
    for entry in averaged[0]["attributes"]:
        expected = (maps[0][entry["label"]] + maps[1][entry["label"]][:, ::-1]) / 2
        np.testing.assert_allclose(entry["attention"], expected, atol=1e-6)


@pytest.mark.parametrize("candidates", [None, ["owl", "jay"], {"new": ["attribute 3"], "jay": None, "crow": None}])
def test_attributes_come_by_what_sets_the_first_candidate_apart(classifier, image, candidates):
    by_score = classifier(image, candidates, attributes_by="score")["attributes"]
    scores = [entry["score"] for entry in by_score]
    assert scores == sorted(scores, reverse=True)
    by_contribution = classifier(image, candidates)["attributes"]
    assert by_contribution == classifier(image, candidates, attributes_by="contribution")["attributes"]
    assert {tuple(entry.values()) for entry in by_contribution} == {tuple(entry.values()) for entry in by_score}
    amounts = [abs(entry["contribution"]) for entry in by_contribution]
    assert amounts == sorted(amounts, reverse=True) and any(amounts)
    best = classifier(image, candidates, top_attributes=2, attention="image")
    assert [entry.pop("attention").shape for entry in best["attributes"]] == [(30, 40)] * 2
    assert best["attributes"] == by_contribution[:2]
    if not isinstance(candidates, dict):  # only the two best count
        labels = [entry["label"] for entry in classifier(image, candidates)["labels"][:2]]
        assert classifier(image, labels)["attributes"] == by_contribution


def test_attributes_of_a_single_candidate_come_by_score(classifier, image):
    attributes = classifier(image, ["owl"])["attributes"]
    assert not any(entry["contribution"] for entry in attributes)
    assert attributes == sorted(attributes, key=lambda entry: -entry["score"])


def test_an_attribute_in_words(classifier, image):
    model = classifier.model
    usual = model.attribute_probabilities(model.attribute_levels)
    rows = classifier(image)["attributes"]
    less = [row["score"] < usual[int(row["label"].split()[1])] for row in rows]
    assert any(less) and not all(less)
    for row, is_less in zip(rows, less, strict=True):
        words = f"{'no' if row['score'] < 0.25 else 'less'} {row['label']}" if is_less else row["label"]
        assert classifier.in_words(row) == words


def test_number_of_entries(classifier, image):
    full = classifier(image, top_k=100, top_attributes=100)
    part = classifier(image, top_k=2, top_attributes=3)
    assert part == {"labels": full["labels"][:2], "fit": None, "attributes": full["attributes"][:3]}
    assert classifier(image, top_k=0, top_attributes=0) == {"labels": [], "fit": None, "attributes": []}
    middle = full["labels"][2]["score"]
    above = classifier(image, threshold=middle)
    assert above == {"labels": full["labels"][:3], "fit": None, "attributes": full["attributes"]}


def test_defaults_of_numbers(processor, image):
    names = [f"attribute {index}" for index in range(12)]
    model = DednModel(make_tiny_config(attribute_names=names, attribute_groups=None, backbone_config=BACKBONE))
    model.set_classes([f"class {index}" for index in range(8)], torch.rand(8, 12))
    result = pipeline(TASK, model=model, image_processor=processor, device="cpu")(image)
    assert len(result["labels"]) == 5 and len(result["attributes"]) == 10


def test_parameters_can_be_given_to_the_pipeline_and_changed_in_a_call(processor, image):
    parameters = {"top_k": 2, "candidate_labels": ["jay", "owl", "crow"], "top_attributes": 1}
    classifier = pipeline(TASK, model=make_model(), image_processor=processor, device="cpu", **parameters)
    everything = classifier(image, top_k=5)
    assert {entry["label"] for entry in everything["labels"]} == {"jay", "owl", "crow"}
    assert classifier(image)["labels"] == everything["labels"][:2]
    assert [entry["label"] for entry in classifier(image, ["wren"])["labels"]] == ["wren"]
    assert len(classifier(image)["attributes"]) == 1


# Calibration


def test_calibration_is_the_configs_by_default(processor, image):
    logits = {}
    for calibration in (None, 1.5):
        model = make_model(calibration=calibration, class_bias=0.4)
        classifier = pipeline(TASK, model=model, image_processor=processor, device="cpu")
        logits[calibration] = run_model(classifier, image).logits[0]
        expected = dict(zip(NAMES, logits[calibration].softmax(-1).tolist()))
        assert scores_of(classifier(image)) == pytest.approx(expected)
        assert scores_of(classifier(image, calibration=1.5 if calibration else 0.8)) == pytest.approx(expected)


def test_calibration_takes_from_the_seen_candidates(classifier, image):
    none, some = (scores_of(classifier(image, calibration=gamma)) for gamma in (0.0, 0.7))
    for unseen in ("owl", "crow"):
        for seen in ("jay", "wren", "swift"):
            ratio = (some[seen] / some[unseen]) / (none[seen] / none[unseen])
            assert ratio == pytest.approx(math.exp(-0.7))
    assert some["owl"] / some["crow"] == pytest.approx(none["owl"] / none["crow"])


@pytest.mark.parametrize("candidates", [["jay", "swift"], ["owl", "crow"], {"new": ["attribute 1"], "owl": None}])
def test_calibration_does_nothing_among_seen_or_among_unseen_candidates(classifier, image, candidates):
    assert scores_of(classifier(image, candidates, calibration=5)) == pytest.approx(
        scores_of(classifier(image, candidates, calibration=0))
    )


# Classes that are described on the spot


def scores_of_rows(classifier, image, rows):
    """Of unseen classes."""
    return run_model(classifier, image, class_attributes=torch.stack(rows)).logits[0].softmax(-1).tolist()


def test_descriptions(classifier, image):
    known = classifier.model.class_attributes
    mean = known[classifier.model.seen_classes].mean(dim=0)
    listed, weighted = mean.clone(), mean.clone()
    listed[[1, 4]] = known.max()
    weighted[2], weighted[5] = 0.25 * known.max(), 0.0
    row = torch.rand(7)
    candidates = {
        "listed": ["attribute 1", "attribute 4"],
        "weighted": {"attribute 2": 0.25, "attribute 5": 0},
        "tensor": row,
        "array": row.numpy(),
        "numbers": row.tolist(),
        "crow": None,
    }
    expected = scores_of_rows(classifier, image, [listed, weighted, row, row, row, known[4]])
    result = classifier(image, candidates, top_k=6, unnamed_attributes="mean")
    assert scores_of(result) == pytest.approx(dict(zip(candidates, expected)))
    assert not any(entry["seen"] for entry in result["labels"])


def test_unnamed_attributes_as_zero(classifier, image):
    known = classifier.model.class_attributes
    rows = torch.zeros(2, 7)
    rows[0, 1] = rows[1, 2] = known.max()
    candidates = {"one": ["attribute 1"], "two": "attribute 2"}
    expected = scores_of_rows(classifier, image, list(rows))
    zero = scores_of(classifier(image, candidates, unnamed_attributes="zero"))
    assert zero == pytest.approx(dict(zip(candidates, expected)))
    assert zero != pytest.approx(scores_of(classifier(image, candidates)))


def test_full_description_of_a_class_is_that_class(classifier, image):
    known = classifier.model.class_attributes
    strengths = classifier.model.strengths(known)[2].tolist()
    description = {f"attribute {index}": value for index, value in enumerate(strengths)}
    for candidate in (description, strengths):
        scores = scores_of(classifier(image, {"described": candidate, "owl": None, "crow": None}))
        assert scores["described"] == pytest.approx(scores["owl"], rel=1e-5)


def test_description_of_a_trained_class_counts_as_seen(classifier, image):
    labels = classifier(image, {"jay": ["attribute 1"], "new": ["attribute 1"]}, calibration=1.0)["labels"]
    assert {entry["label"]: entry["seen"] for entry in labels} == {"jay": True, "new": False}
    scores = {entry["label"]: entry["score"] for entry in labels}
    assert scores["jay"] / scores["new"] == pytest.approx(math.exp(-1))


def test_classes_that_the_model_is_given_later(classifier, image):
    classifier.model.set_classes(["tit", "jay"], torch.rand(2, 7))
    assert {entry["label"]: entry["seen"] for entry in classifier(image)["labels"]} == {"tit": False, "jay": True}


def test_rows_are_prepared_once_per_call(classifier, monkeypatch):
    calls = []
    prepare = candidates_dedn._class_row
    monkeypatch.setattr(candidates_dedn, "_class_row", lambda *args: calls.append(args[1]) or prepare(*args))
    classifier([make_image(seed) for seed in range(5)], {"one": ["attribute 1"], "two": ["attribute 2"]})
    assert calls == ["one", "two"]
    classifier(make_image(), {"one": ["attribute 1"]})
    assert calls == ["one", "two", "one"]


# Inputs


def test_kinds_of_input(classifier, tmp_path):
    images = [make_image(seed) for seed in range(3)]
    paths = [str(tmp_path / f"{index}.png") for index in range(3)]
    for image, path in zip(images, paths):
        image.save(path)
    expected = [classifier(image) for image in images]
    assert classifier(paths[1]) == expected[1]
    assert classifier(images) == classifier(paths) == expected
    assert list(classifier(path for path in paths)) == expected
    assert list(classifier(KeyDataset([{"image": image} for image in images], "image"))) == expected


def test_images_that_are_not_rgb(classifier):
    image = make_image()
    grey = image.convert("L")
    assert classifier(grey) == classifier(grey.convert("RGB"))
    on_white = Image.blend(Image.new("RGB", image.size, "white"), image, 128 / 255)
    image.putalpha(128)
    assert np.abs(np.asarray(load_any_image(image)).astype(int) - np.asarray(on_white)).max() <= 1
    assert classifier(image) == classifier(load_any_image(image))


@pytest.mark.parametrize("batch_size", [2, 3, 5])
def test_batching_changes_nothing(classifier, batch_size):
    images = [make_image(seed, width=30 + 5 * seed) for seed in range(5)]
    parameters = {"candidate_labels": {"new": ["attribute 3"], "jay": None}, "attention": "image"}
    expected = [classifier(image, **parameters) for image in images]
    for inputs in (images, (image for image in images)):
        results = list(classifier(inputs, batch_size=batch_size, **parameters))
        assert len(results) == 5
        for result, single in zip(results, expected):
            check_same(result, single)


def test_half_precision(processor, image):
    expected = scores_of(pipeline(TASK, model=make_model(), image_processor=processor, device="cpu")(image))
    model = make_model().to(torch.bfloat16)
    result = pipeline(TASK, model=model, image_processor=processor, device="cpu")(image, attention="image")
    assert scores_of(result) == pytest.approx(expected, abs=0.1)
    assert result["attributes"][0]["attention"].dtype == np.float32


def test_model_in_training_mode_is_put_into_evaluation_mode(processor, image):
    trained = pipeline(TASK, model=make_model().train(), image_processor=processor, device="cpu")
    assert trained(image) == pipeline(TASK, model=make_model(), image_processor=processor, device="cpu")(image)


# Attention


def test_attention_is_the_experts_mix_in_the_image(classifier, image):
    share = classifier.model.config.coarse_mix
    attentions = run_model(classifier, image, output_attentions=True).attentions
    mixed = (share * attentions["coarse"] + (1 - share) * attentions["fine"])[0]
    attributes = classifier(image, top_attributes=3, attention="image")["attributes"]
    assert len(attributes) == 3
    for entry in attributes:
        grid = mixed[[int(entry["label"].split()[1])]]
        expected = attention_in_image(grid, classifier.image_processor, 40, 30)[0]
        assert entry["attention"].shape == (30, 40)
        np.testing.assert_allclose(entry["attention"], expected)


def test_attention_lies_where_its_region_is_in_the_image(processor):
    # An image is 80 × 48: its shorter side is halved to 24, and the crop is columns 16 to 63.
    for row in range(3):
        for column in range(3):
            grid = torch.zeros(1, 3, 3)
            grid[0, row, column] = 1
            (attention,) = attention_in_image(grid, processor, 80, 48)
            assert attention.shape == (48, 80)
            assert attention.sum().item() == pytest.approx(1)
            assert not attention[:, :16].any() and not attention[:, 64:].any()
            inside = attention[16 * row : 16 * row + 16, 16 + 16 * column : 32 + 16 * column]
            assert inside.max() == attention.max() and inside.sum() > 0.5
    uniform = attention_in_image(torch.full((1, 3, 3), 1 / 9), processor, 80, 48)[0]
    torch.testing.assert_close(uniform[:, 16:64], torch.full((48, 48), 1 / 48**2))


def test_attention_agrees_with_what_the_image_processor_does(processor):
    # A bright square, as the processor shows it in the grid, comes back to where it is.
    image = Image.new("RGB", (90, 61))
    image.paste((255, 255, 255), (50, 35, 65, 50))
    shown = processor(image, return_tensors="pt")["pixel_values"][0].mean(dim=0, keepdim=True)
    attention = attention_in_image(shown - shown.min(), processor, 90, 61)[0]
    y, x = torch.meshgrid(torch.arange(61) + 0.5, torch.arange(90) + 0.5, indexing="ij")
    assert (attention * x).sum().item() == pytest.approx(57.5, abs=0.5)
    assert (attention * y).sum().item() == pytest.approx(42.5, abs=0.5)


def test_attention_with_an_image_processor_that_does_not_crop():
    grid = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    (attention,) = attention_in_image(grid, ViTImageProcessorPil(size={"height": 24, "width": 24}), 60, 20)
    assert attention[:10, :30].sum() > 0.5 and attention[0, 0] == attention.max() and not attention[15:, 45:].any()


def test_attention_with_an_image_processor_that_is_not_understood(image):
    model = make_model()
    classifier = pipeline(TASK, model=model, image_processor=ConvNextImageProcessorPil(size={"shortest_edge": 24}))
    assert classifier(image)["labels"]
    with pytest.raises(ValueError, match=r"cannot tell what part of an image a ConvNextImageProcessorPil.*CLIPImage"):
        classifier(image, attention="image")


# Errors


@pytest.mark.parametrize(
    "candidates, message",
    [
        (["jay", "wrenn"], "no class 'wrenn'; the closest are 'wren'.*describe it"),
        ({"jay": None, "wrenn": None}, "no class 'wrenn'; the closest are 'wren'"),
        ({"new": ["attribute 1", "atribute 2"]}, "'new' is described by 'atribute 2'.*closest are 'attribute 2'"),
        ({"new": {"attribute 9": 1}}, "'new' is described by 'attribute 9', which is no attribute"),
        ({"new": {"attribute 1": 1.5}}, "'attribute 1' of class 'new' has strength 1.5.*from 0 to 1"),
        ({"new": {"attribute 1": -1}}, "strength -1"),
        ({"new": {"attribute 1": float("nan")}}, "strength nan"),
        ({"new": []}, "description of class 'new' names no attribute"),
        ({"new": {}}, "description of class 'new' names no attribute"),
        ({"new": [0.5] * 6}, "row of class 'new' must be 7 strengths from 0 to 1.*it has 6"),
        ({"new": torch.full((7,), torch.nan)}, "row of class 'new' must be 7 strengths from 0 to 1"),
        (["jay", "owl", "jay"], "'jay' more than once"),
        ([], "`candidate_labels` is empty"),
        ({}, "`candidate_labels` is empty"),
    ],
)
def test_candidates_that_are_not_as_they_should_be(classifier, monkeypatch, candidates, message):
    # Before any image is read.
    monkeypatch.setattr(classifier, "preprocess", lambda *args, **kwargs: pytest.fail("an image was read"))
    for inputs in (make_image(), [make_image()], (make_image() for _ in range(2))):
        with pytest.raises(ValueError, match=message):
            classifier(inputs, candidates)


def test_closest_names_do_not_depend_on_the_order_of_words(processor, image):
    names = [f"has_{part}_color::{color}" for part in ("wing", "back", "belly") for color in ("red", "blue")]
    model = make_model(attribute_names=[*names, "has_size::small"])
    classifier = pipeline(TASK, model=model, image_processor=processor, device="cpu")
    with pytest.raises(ValueError, match=r"closest are 'wing color: red'"):
        classifier(image, {"new": ["color of wing red"]})


def test_attributes_and_classes_may_be_written_as_people_do(processor, image):
    names = [f"has_{part}_color::{color}" for part in ("wing", "back", "belly") for color in ("red", "gray")]
    official = ["001.Black_footed_Albatross", "002.Brandt_Cormorant", "003.Crow", "004.Crow_", "005.Tern"]
    model = make_model(attribute_names=[*names, "has_size::small"], id2label=dict(enumerate(official)))
    classifier = pipeline(TASK, model=model, image_processor=processor, device="cpu")
    expected = classifier(image, {"new": {"has_wing_color::gray": 1, "has_back_color::red": 0.5}, official[1]: None})
    written = {"new": {"wing colour: grey": 1, "red back": 0.5}, "Brandt's Cormorant": None}
    found = classifier(image, written)
    assert found["attributes"] == expected["attributes"]
    assert [(row["score"], row["seen"]) for row in found["labels"]] == [
        (row["score"], row["seen"]) for row in expected["labels"]
    ]
    # A label is what it was called in the call, an attribute what it is called in the config.
    assert {row["label"] for row in found["labels"]} == set(written)
    assert {row["label"] for row in found["attributes"]} == set(model.config.attribute_names)
    # Whoever describes a class anew under another spelling of its name has not made it unseen.
    (row,) = classifier(image, {"Black-footed albatross": ["red wing"]})["labels"]
    assert row["seen"]
    with pytest.raises(ValueError, match=r"'crow' may be '003.Crow' or '004.Crow_'. Write it as one of them"):
        classifier(image, ["crow"])
    with pytest.raises(ValueError, match=r"no class 'Brandts Cormorants'; the closest are '002.Brandt_Cormorant'"):
        classifier(image, ["Brandts Cormorants"])
    with pytest.raises(ValueError, match="'has_wing_color::gray' and 'wing colour: grey', which are one"):
        classifier(image, {"new": ["has_wing_color::gray", "wing colour: grey"]})


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"top_k": -1}, "`top_k` must be a whole number from 0 on, or None for all, but it is -1"),
        ({"top_attributes": -2}, "`top_attributes` must be a whole number from 0 on"),
        ({"threshold": 50}, "`threshold` is for scores from 0 to 1, but it is 50"),
        ({"attributes_by": "name"}, "`attributes_by` must be 'score' or 'contribution', but it is 'name'"),
        ({"unnamed_attributes": "half"}, "`unnamed_attributes` must be 'likely', 'mean' or 'zero', but it is 'half'"),
    ],
)
def test_parameters_that_are_not_as_they_should_be(classifier, image, parameters, message):
    with pytest.raises(ValueError, match=message):
        classifier(image, **parameters)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_broken_image_is_named(classifier, tmp_path, batch_size):
    paths = [tmp_path / f"{index}.png" for index in range(4)]
    for path in paths:
        make_image().save(path)
    paths[2].write_bytes(paths[2].read_bytes()[:200])
    inputs = [str(path) for path in paths]
    with pytest.raises(ValueError, match=r"Image 2 \(counted from 0\), '.*2\.png', cannot be read"):
        classifier(inputs, batch_size=batch_size)
    with pytest.raises(ValueError, match=r"Image 2 \(counted from 0\), '.*2\.png', cannot be read"):
        list(classifier((path for path in inputs), batch_size=batch_size))
    opened = [Image.open(path) for path in paths]
    with pytest.raises(ValueError, match=r"Image 2 \(counted from 0\), '.*2\.png', cannot be read"):
        classifier(opened, batch_size=batch_size)
    with pytest.raises(ValueError, match=r"The image, '.*2\.png', cannot be read"):
        classifier(inputs[2])


def test_other_inputs_that_are_no_images(classifier, tmp_path):
    with pytest.raises(ValueError, match=r"Image 1 \(counted from 0\), '.*nowhere.png', cannot be read"):
        classifier([make_image(), str(tmp_path / "nowhere.png")])
    with pytest.raises(ValueError, match=r"Image 0 \(counted from 0\), of type int, cannot be read"):
        classifier([3])


def test_data_set_that_cannot_decode_an_image_is_named(classifier):
    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            if index == 1:
                raise OSError("broken data stream")
            return make_image()

    with pytest.raises(ValueError, match=r"Image 1 \(counted from 0\) cannot be read: broken data stream"):
        list(classifier(Images()))


def test_model_without_a_backbone(tiny_model, processor):
    with pytest.raises(ValueError, match=r"no backbone.*set_backbone"):
        pipeline(TASK, model=tiny_model, image_processor=processor, device="cpu")


# The model's part


def test_attribute_calibration_is_the_identity_by_default(tiny_model):
    scores = torch.randn(3, 7)
    torch.testing.assert_close(tiny_model.attribute_probabilities(scores), scores.sigmoid())


def test_attribute_calibration_is_stored(tiny_model, tmp_path):
    calibration = np.stack([np.linspace(0, 3, 7), np.linspace(-2, 1, 7)])
    tiny_model.set_attribute_calibration(calibration)
    tiny_model.save_pretrained(tmp_path)
    loaded = type(tiny_model).from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.attribute_calibration, torch.tensor(calibration, dtype=torch.float32))
    scores = torch.randn(3, 7)
    expected = torch.sigmoid(torch.tensor(calibration[0]) * scores + torch.tensor(calibration[1])).float()
    torch.testing.assert_close(loaded.attribute_probabilities(scores), expected)


@pytest.mark.parametrize(
    "calibration, message",
    [
        (torch.ones(2, 6), r"shape \(2, 6\), but the model has 7 attributes"),
        (torch.full((2, 7), torch.nan), "must be finite"),
        (-torch.ones(2, 7), "no slope may be negative"),
    ],
)
def test_attribute_calibration_that_is_not_as_it_should_be(tiny_model, calibration, message):
    with pytest.raises(ValueError, match=message):
        tiny_model.set_attribute_calibration(calibration)


def test_class_rows_need_no_normalisation(classifier, image):
    row = torch.rand(7)
    scores = scores_of(classifier(image, {"row": row, "scaled": 0.01 * row, "owl": None}))
    assert scores["row"] == pytest.approx(scores["scaled"])
    logits = run_model(classifier, image, class_attributes=F.normalize(row, dim=0)[None]).logits
    owl = run_model(classifier, image, class_attributes=classifier.model.class_attributes[2:3]).logits
    assert math.log(scores["row"] / scores["owl"]) == pytest.approx((logits - owl).item(), abs=1e-4)
