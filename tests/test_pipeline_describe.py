"""Classes that are described by images of them, and the one scale of strengths."""

import csv

import pytest
import torch
from tiny_pipeline import make_classifier, make_image

from dedn_hf.candidates_dedn import class_rows, read_candidates
from dedn_hf.data.class_table import load_class_table

IMAGES = [make_image(seed) for seed in range(3)]
NAMED = {"attribute 1": 0.25, "attribute 4": 1.0}


@pytest.fixture(scope="module")
def classifier():
    classifier = make_classifier()
    model = classifier.model
    scores = model.predict(classifier.image_processor(IMAGES, return_tensors="pt")["pixel_values"]).attribute_scores
    statistics = torch.stack([scores.mean(dim=0) - 0.02, scores.std(dim=0) + 0.1])
    model.set_attribute_calibration(model.attribute_calibration, statistics)
    return classifier


def test_images_say_how_strong_attributes_are(classifier):
    model = classifier.model
    scores = model.predict(classifier.image_processor(IMAGES, return_tensors="pt")["pixel_values"]).attribute_scores
    mean, std = model.attribute_statistics
    known = (model.class_attributes / model.class_attributes.max())[model.seen_classes]
    expected = known.mean(dim=0) + known.std(dim=0, correction=0) * (scores.mean(dim=0) - mean) / std
    described = classifier.describe(IMAGES, batch_size=2)
    assert list(described) == model.config.attribute_names
    assert list(described.values()) == pytest.approx(expected.clamp(0, 1).tolist(), abs=1e-5)
    assert len(set(described.values())) == len(described)
    assert classifier.describe(IMAGES[0]) == pytest.approx(classifier.describe(IMAGES[:1]))


def test_an_attribute_whose_score_tells_nothing_is_as_in_other_classes(classifier):
    model = make_classifier().model
    calibration = model.attribute_calibration.clone()
    calibration[0, 2] = 0
    model.set_attribute_calibration(calibration, torch.stack([torch.zeros(7), torch.ones(7)]))
    strengths = model.strengths_in_images(torch.full((2, 7), 0.5))
    known = model.strengths(model.class_attributes)[model.seen_classes]
    assert strengths[2].item() == pytest.approx(known[:, 2].mean().item())
    assert strengths[1].item() == pytest.approx((known[:, 1].mean() + 0.5 * known[:, 1].std(correction=0)).item())


def test_images_are_a_description(classifier):
    expected = classifier(make_image(5), {"new": classifier.describe(IMAGES), "owl": None})
    assert classifier(make_image(5), {"new": {"images": IMAGES}, "owl": None}) == expected
    alone = classifier(make_image(5), {"new": classifier.describe(IMAGES[0]), "owl": None})
    assert classifier(make_image(5), {"new": {"images": IMAGES[0]}, "owl": None}) == alone


def test_a_description_counts_like_five_images(classifier):
    in_images = classifier.describe(IMAGES[:2])
    expected = in_images | {name: (2 * in_images[name] + 5 * value) / 7 for name, value in NAMED.items()}
    result = classifier(make_image(5), {"new": {"images": IMAGES[:2], "attributes": NAMED}, "owl": None})
    reference = classifier(make_image(5), {"new": expected, "owl": None})
    for entry, other in zip(result["labels"], reference["labels"]):
        assert entry["label"] == other["label"] and entry["score"] == pytest.approx(other["score"], rel=1e-5)
    attributes = {"new": {"attributes": NAMED}, "owl": None}
    assert classifier(make_image(5), attributes) == classifier(make_image(5), {"new": NAMED, "owl": None})


def test_one_scale_from_image_to_table_and_back(classifier, tmp_path):
    """What describes a class is the strengths of its row, over the largest entry of the matrix, wherever it goes."""
    model, names = classifier.model, classifier.model.config.attribute_names
    described = classifier.describe(IMAGES)
    with open(tmp_path / "classes.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["class", *names], ["new", *described.values()]])
    candidates = load_class_table(str(tmp_path / "classes.csv")).descriptions()
    candidates = read_candidates(model.config, candidates, classifier._describe)
    rows = class_rows(model, candidates, "mean")
    torch.testing.assert_close(model.strengths(rows)[0], torch.tensor(list(described.values())))
    # As a class of the model's own it has the same strengths again, in attributes that are asked for and observed.
    model = make_classifier().model
    scale = model.class_attributes.max()
    model.set_classes(
        ["new", "owl"], torch.cat([rows, model.class_attributes[2:3] / model.class_attributes[2].max() * scale])
    )
    assert model.strengths(model.class_attributes)[0].tolist() == pytest.approx(list(described.values()), abs=1e-6)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"images": []}, "Class 'new': There are no images"),
        ({"images": ["no such file.png"]}, r"Class 'new': Image 0 .*'no such file.png', cannot be read"),
        ({"images": None}, "Class 'new' is described by nothing: give it images, a text or attributes"),
        ({"images": IMAGES, "attributes": ["attribute 9"]}, "Class 'new' is described by 'attribute 9'"),
        ({"images": IMAGES, "attribute 1": 0.5}, "Class 'new' is described by 'images', which is no attribute"),
    ],
)
def test_what_is_no_description(classifier, description, message):
    with pytest.raises(ValueError, match=message):
        classifier(make_image(), {"new": description, "owl": None})


def test_a_model_without_statistics_goes_by_its_calibration(tmp_path):
    classifier = make_classifier()
    pixel_values = classifier.image_processor(IMAGES, return_tensors="pt")["pixel_values"]
    expected = classifier.model.predict(pixel_values).attribute_probabilities.mean(dim=0)
    assert list(classifier.describe(IMAGES).values()) == pytest.approx(expected.tolist(), abs=1e-6)


@pytest.mark.parametrize("statistics", [torch.zeros(7), -torch.ones(2, 7), torch.full((2, 7), torch.nan)])
def test_statistics_that_are_not_as_they_should_be(statistics):
    with pytest.raises(ValueError, match="`statistics` must be a row of means and a row of standard deviations"):
        model = make_classifier().model
        model.set_attribute_calibration(model.attribute_calibration, statistics)
