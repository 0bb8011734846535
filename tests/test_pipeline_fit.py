"""Whether any of the candidates explains an image: `fit`, and `none_of_these`."""

import json
import math

import pytest
import torch
from tiny_pipeline import make_classifier, make_image

from dedn_hf import DednModel

EVERYTHING = {"top_k": None, "top_attributes": None}
NEW = {"new": {"attribute 3": 1.0, "attribute 5": 0.4}, "owl": None, "crow": None}


def teach(model):
    """Statistics of two trained classes, by which an image fits more or less."""
    torch.manual_seed(0)
    num_attributes = len(model.config.attribute_names)
    num_trained = len(model.config.trained_class_names)
    model.set_class_fit(
        {
            "centre": torch.randn(num_attributes),
            "projection": torch.randn(num_attributes, 2),
            "variances": torch.tensor([3.0, 1.0]),
            "means": torch.randn(num_trained, 2),
            "from_strengths": torch.randn(num_attributes, 2) / 3,
            "offset": torch.zeros(2),
            "coefficients": torch.tensor([[0.1, 0.5, -0.2], [0.05, -0.5, -0.1]]),
        }
    )


@pytest.fixture(scope="module")
def classifier():
    classifier = make_classifier()
    teach(classifier.model)
    return classifier


def expected_fit(classifier, image, rows, trained):
    """The formula, class by class."""
    model = classifier.model
    pixel_values = classifier.image_processor(image, return_tensors="pt")["pixel_values"]
    fit = model.class_fit
    z = (model.predict(pixel_values).attribute_scores[0] - fit.centre) @ fit.projection
    best = 0.0
    for row, index in zip(rows / model.class_attributes.max(), trained):
        mean = row @ fit.from_strengths + fit.offset if index is None else fit.means[index]
        slope, offset, by_number = fit.coefficients[int(index is None)]
        offset = offset + by_number * math.log(len(rows))
        distance = ((z**2 / (1 + fit.variances)).sum() - ((z - mean) ** 2).sum()) / 2
        best = max(best, torch.sigmoid(slope * distance + offset).item())
    return best


def test_fit_is_that_of_the_best_of_the_candidates(classifier):
    model, image = classifier.model, make_image()
    names = list(model.config.id2label.values())
    known = model.config.trained_class_names
    trained = [known.index(name) if name in known else None for name in names]
    assert None in trained and any(index is not None for index in trained)
    result = classifier(image)
    assert result["fit"] == pytest.approx(expected_fit(classifier, image, model.class_attributes, trained), rel=1e-4)
    assert json.loads(json.dumps(result)) == result
    for place, name in enumerate(names):
        row = model.class_attributes[[place]]
        fit = expected_fit(classifier, image, row, [trained[place]])
        assert classifier(image, [name])["fit"] == pytest.approx(fit, rel=1e-4)
        # By its description alone it is a class like any other.
        fit = expected_fit(classifier, image, row, [None])
        assert classifier(image, {"another": model.strengths(row)[0]})["fit"] == pytest.approx(fit, rel=1e-4)


def test_the_same_fit_is_worth_less_among_many(classifier):
    """Beside candidates that fit less: only their number counts."""
    image, names = make_image(1), list(classifier.model.config.id2label.values())
    fits = {name: classifier(image, [name])["fit"] for name in names}
    best, *others = sorted(names, key=fits.get, reverse=True)
    logits = [math.log(fit / (1 - fit)) for fit in (classifier(image, [best, *others[:n]])["fit"] for n in range(3))]
    assert logits[0] > logits[1] > logits[2]
    assert (logits[0] - logits[1]) / math.log(2) == pytest.approx((logits[0] - logits[2]) / math.log(3), rel=1e-3)


def test_none_of_these_is_a_row_and_all_sum_to_one(classifier):
    image = make_image()
    plain, result = (classifier(image, none_of_these=value, **EVERYTHING) for value in (False, True))
    scores = {entry["label"]: entry["score"] for entry in result["labels"]}
    assert scores.pop("none of these") == pytest.approx(1 - plain["fit"])
    assert scores == pytest.approx({entry["label"]: plain["fit"] * entry["score"] for entry in plain["labels"]})
    assert sum(entry["score"] for entry in result["labels"]) == pytest.approx(1)
    assert [entry["score"] for entry in result["labels"]] == sorted(
        (entry["score"] for entry in result["labels"]), reverse=True
    )
    assert result["fit"] == plain["fit"] and result["attributes"] == plain["attributes"]
    assert classifier(image, none_of_these=True, top_k=2)["labels"] == result["labels"][:2]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_lists_of_candidates_have_fits_of_their_own(classifier, batch_size):
    images, lists = [make_image(0), make_image(1), make_image(2)], [["owl", "crow"], NEW, ["owl"]]
    results = classifier(images, lists, none_of_these=True, batch_size=batch_size, **EVERYTHING)
    for image, candidates, result in zip(images, lists, results):
        alone = classifier(image, candidates, none_of_these=True, **EVERYTHING)
        assert result["fit"] == pytest.approx(alone["fit"], rel=1e-4)
        assert [entry["label"] for entry in result["labels"]] == [entry["label"] for entry in alone["labels"]]


@pytest.mark.parametrize("none_of_these", [False, True])
def test_answers_move_labels_and_not_the_fit(classifier, none_of_these):
    image, answers = make_image(), {"attribute 1": True, "attribute 4": 0.0}
    options = {"none_of_these": none_of_these, **EVERYTHING}
    plain, expected = classifier(image, **options), classifier(image, observed=answers, **options)
    assert plain["fit"] == expected["fit"]
    result = classifier.rescore(plain, answers)
    assert result["fit"] == expected["fit"]
    assert [entry["label"] for entry in result["labels"]] == [entry["label"] for entry in expected["labels"]]
    for entry, other in zip(result["labels"], expected["labels"]):
        assert entry["score"] == pytest.approx(other["score"], rel=1e-4)


def test_fit_survives_saving_and_halves(classifier, tmp_path):
    classifier.model.save_pretrained(tmp_path)
    loaded = DednModel.from_pretrained(tmp_path, local_files_only=True)
    assert loaded.config.class_fit_size == [len(loaded.config.trained_class_names), 2]
    scores = torch.randn(3, len(loaded.config.attribute_names))
    expected, actual = (
        model.class_probabilities(scores, model.class_targets()) for model in (classifier.model, loaded)
    )
    torch.testing.assert_close(actual, expected)
    half = loaded.to(torch.bfloat16)
    torch.testing.assert_close(half.class_probabilities(scores, half.class_targets()), expected, atol=0.05, rtol=0)


def test_other_classes_keep_what_images_said_of_the_trained_ones(classifier, tmp_path):
    model = make_classifier().model
    teach(model)
    names, rows = list(model.config.id2label.values()), model.class_attributes.clone()
    before = model.class_targets()
    model.set_classes([*names[::-1], "new"], torch.cat([rows.flip(0), rows[:1]]))
    after = model.class_targets()
    torch.testing.assert_close(after.means[: len(names)].flip(0), before.means)
    assert after.coefficients[-1].tolist() == model.class_fit.coefficients[1].tolist()


def test_a_model_that_was_not_taught_it(tmp_path):
    classifier = make_classifier()
    assert classifier(make_image())["fit"] is None
    with pytest.raises(ValueError, match=r"not taught how well a class explains an image.*`validated`"):
        classifier(make_image(), none_of_these=True)
    # A new model with the config of one that was.
    teach(classifier.model)
    new = DednModel(classifier.model.config)
    assert new.class_fit is not None and new.class_targets() is None
    classifier.model.set_class_fit(None)
    assert classifier.model.config.class_fit_size is None and classifier(make_image())["fit"] is None


def test_wrong_use(classifier):
    with pytest.raises(ValueError, match="`none_of_these` must be True or False"):
        classifier(make_image(), none_of_these="yes")
    with pytest.raises(ValueError, match="'none of these', which is that of the row"):
        classifier(make_image(), {"none of these": ["attribute 1"], "owl": None}, none_of_these=True)
    assert classifier(make_image(), {"none of these": ["attribute 1"], "owl": None})["fit"] is not None
    config = classifier.model.config.to_dict()
    for size in ([3], [3, 0], "3"):
        with pytest.raises(ValueError, match="class_fit_size"):
            type(classifier.model.config)(**config | {"class_fit_size": size})
