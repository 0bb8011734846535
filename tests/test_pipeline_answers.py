"""What a person answers, in the pipeline."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from tiny_pipeline import TASK, check_same, make_classifier, make_image, make_model, make_processor
from transformers import pipeline

from dedn_hf.answers_dedn import picked_answers, property_gains, value_chances

IMAGE = make_image()
EVERYTHING = {"top_k": None, "top_attributes": None}
NEW = {"new": {"attribute 3": 1.0, "attribute 5": 0.4}, "owl": None, "crow": None}


@pytest.fixture(scope="module")
def classifier():
    classifier = make_classifier()
    classifier.model.config.score_scale = 0.25
    return classifier


def labels_of(result):
    return {entry["label"]: entry["score"] for entry in result["labels"]}


def strengths_of(classifier, names):
    matrix = classifier.model.class_attributes / classifier.model.class_attributes.max()
    return {name: matrix[classifier.model.config.label2id[name]] for name in names}


def test_labels_follow_answers_as_likelihoods(classifier):
    before = labels_of(classifier(IMAGE, **EVERYTHING))
    result = classifier(IMAGE, observed={"attribute 1": True, "attribute 4": 0.0, "attribute 6": 0.25}, **EVERYTHING)
    expected = {}
    for name, strengths in strengths_of(classifier, before).items():
        first, second, third = strengths[[1, 4, 6]].clamp(0.1, 0.9).tolist()
        expected[name] = before[name] * first * (1 - second) * third**0.25 * (1 - third) ** 0.75
    expected = {name: value / sum(expected.values()) for name, value in expected.items()}
    assert labels_of(result) == pytest.approx(expected, rel=1e-4)
    assert list(labels_of(result)) == sorted(expected, key=expected.get, reverse=True)
    assert result["observed"] == {"attribute 1": 1.0, "attribute 4": 0.0, "attribute 6": 0.25}
    assert json.loads(json.dumps(result)) == result
    rows = {entry["label"]: entry for entry in result["attributes"]}
    assert {name: row["observed"] for name, row in rows.items() if "observed" in row} == result["observed"]
    shown = {entry["label"]: entry["score"] for entry in classifier(IMAGE, **EVERYTHING)["attributes"]}
    assert {name: row["score"] for name, row in rows.items()} == shown


def test_contributions_are_to_the_difference_of_the_two_that_are_first_now(classifier):
    plain = classifier(IMAGE, **EVERYTHING)
    last = strengths_of(classifier, [plain["labels"][-1]["label"]]).popitem()[1]
    observed = {f"attribute {index}": strength.item() >= 0.5 for index, strength in enumerate(last)}
    result = classifier(IMAGE, observed=observed, **EVERYTHING)
    first, second = (entry["label"] for entry in result["labels"][:2])
    assert first != plain["labels"][0]["label"]  # the answers have changed something
    pixel_values = classifier.image_processor(IMAGE, return_tensors="pt")["pixel_values"]
    model = classifier.model
    rows = model.class_attributes[[model.config.label2id[name] for name in (first, second)]]
    prediction = model.predict(pixel_values)
    expected = model.contributions(prediction.attribute_scores, rows[:1], rows[1:])[0]
    strengths = strengths_of(classifier, [first, second])
    for index, answer in enumerate(observed.values()):
        chances = [strengths[name][index].clamp(0.1, 0.9).item() for name in (first, second)]
        ratio = chances[0] / chances[1] if answer else (1 - chances[0]) / (1 - chances[1])
        expected[index] += math.log(ratio) / 0.25
    found = {entry["label"]: entry["contribution"] for entry in result["attributes"]}
    assert found == pytest.approx({f"attribute {i}": value for i, value in enumerate(expected.tolist())}, abs=1e-5)
    amounts = [abs(value) for value in found.values()]
    assert amounts == sorted(amounts, reverse=True)


@pytest.mark.parametrize("observed", [{}, {"attribute 2": None}])
def test_nobody_has_answered_yet(classifier, observed):
    result = classifier(IMAGE, observed=observed)
    assert result.pop("observed") == observed
    assert result == classifier(IMAGE)
    assert classifier(IMAGE, observed=None) == classifier(IMAGE)


def test_names_of_attributes_as_people_write_them(classifier):
    result = classifier(IMAGE, observed={"Attribute_1": np.True_, "ATTRIBUTE 4": torch.tensor(0.5)})
    assert result["observed"] == {"attribute 1": 1.0, "attribute 4": 0.5}


@pytest.mark.parametrize(
    "observed, message",
    [
        (["attribute 1"], r"`observed` must be a dict of attributes with True, False, .*\['attribute 1'\]"),
        ({"attribute 99": True}, "`observed` has 'attribute 99', which is no attribute of the model; the closest are"),
        ({"attribute 1": 1.5}, "`observed` answers 'attribute 1' with 1.5, but an answer is True, False, a strength"),
        ({"attribute 1": "yes"}, "`observed` answers 'attribute 1' with 'yes', but an answer is"),
        ({"attribute 1": float("nan")}, "`observed` answers 'attribute 1' with nan"),
        ({"attribute 1": True, "Attribute 1": False}, "`observed` has 'attribute 1' more than once: answer it once"),
    ],
)
def test_answers_that_are_not_as_they_should_be(classifier, observed, message):
    with pytest.raises(ValueError, match=message):
        classifier(IMAGE, observed=observed)
    with pytest.raises(ValueError, match=message):
        classifier.rescore(classifier(IMAGE, **EVERYTHING), observed)


@pytest.mark.parametrize("candidates", [None, ["owl", "jay", "crow"], NEW])
@pytest.mark.parametrize("earlier", [None, {}, {"attribute 0": True, "attribute 4": 0.5}])
def test_rescoring_is_the_call_with_these_answers(classifier, candidates, earlier):
    options = {"candidate_labels": candidates, "attention": "grid", **EVERYTHING}
    observed = {"attribute 1": True, "attribute 3": 0.25, "attribute 6": None}
    before = classifier(IMAGE, observed=earlier, **options)
    kept = copy.deepcopy(before)
    found = classifier.rescore(before, observed, ask=3, candidate_labels=candidates)
    assert before == kept
    expected = classifier(IMAGE, observed=observed, ask=3, **options)
    check_same(found, expected)
    assert found["observed"] == expected["observed"] == observed
    assert [entry["attribute"] for entry in found["ask"]] == [entry["attribute"] for entry in expected["ask"]]
    # Answers can be taken back.
    check_same(classifier.rescore(found, {}, candidate_labels=candidates), classifier(IMAGE, observed={}, **options))


def test_rescoring_keeps_the_attributes_that_there_are(classifier):
    result = classifier.rescore(classifier(IMAGE, top_k=None, top_attributes=2), {"attribute 1": True})
    assert len(result["attributes"]) == 2
    single = classifier.rescore(
        classifier(IMAGE, ["owl"], **EVERYTHING), {"attribute 1": True}, ask=2, candidate_labels=["owl"]
    )
    assert labels_of(single) == {"owl": 1.0} and single["ask"] == []
    assert not any(entry["contribution"] for entry in single["attributes"])


def test_results_that_cannot_be_rescored(classifier):
    with pytest.raises(ValueError, match="has 2 of 5 labels: call with `top_k=None` and no `threshold`"):
        classifier.rescore(classifier(IMAGE, top_k=2), {})
    with pytest.raises(
        ValueError, match=r"has 'new', which is none of the candidates: .* `candidate_labels` of the call"
    ):
        classifier.rescore(classifier(IMAGE, NEW, top_k=None), {})
    with pytest.raises(ValueError, match="`rescore` is for one image: give the candidates of that one"):
        classifier.rescore(classifier(IMAGE), {}, candidate_labels=[["owl"], ["jay"]])


def test_questions_are_those_that_tell_most(classifier):
    result = classifier(IMAGE, ask=20, observed={"attribute 5": None, "attribute 2": True})
    questions = result["ask"]
    asked = [entry["attribute"] for entry in questions]
    assert set(asked) == {"attribute 0", "attribute 1", "attribute 3", "attribute 4", "attribute 6"}
    gains = [entry["gain"] for entry in questions]
    assert gains == sorted(gains, reverse=True) and gains[-1] > 0
    assert questions[0]["question"] == f"Does it have this: {asked[0]}?"
    groups = {entry["label"]: entry["group"] for entry in classifier(IMAGE, top_attributes=None)["attributes"]}
    assert all(entry["group"] == groups[entry["attribute"]] for entry in questions)
    assert classifier(IMAGE, ask=2, observed=result["observed"])["ask"] == questions[:2]
    # Among those that are likely still: two that are alike in all but one attribute need that one.
    model = classifier.model
    rows = (model.class_attributes[0] + 0.1).tolist()
    twins = {"one": rows, "other": [*rows[:4], 0.0, *rows[5:]]}
    (question,) = classifier(IMAGE, twins, ask=5)["ask"]
    assert question["attribute"] == "attribute 4"


@pytest.mark.parametrize("ask", [-1, 1.5, "all", True])
def test_numbers_of_questions(classifier, ask):
    with pytest.raises(ValueError, match="`ask` must be a whole number from 0 on, but it is"):
        classifier(IMAGE, ask=ask)


def test_answers_go_with_lists_of_images_and_of_candidates(classifier):
    images, lists = [IMAGE, make_image(1)], [["owl", "jay"], NEW]
    observed = {"attribute 1": True}
    results = classifier(images, lists, observed=observed, ask=2, batch_size=2)
    for image, candidates, result in zip(images, lists, results):
        check_same(result, classifier(image, candidates, observed=observed, ask=2))
        assert result["observed"] == {"attribute 1": 1.0}
    assert len(make_classifier(observed=observed)(IMAGE)["observed"]) == 1


COLOR = ["has_wing_color::blue", "has_wing_color::dark_grey", "has_wing_color::red"]
SIZE = ["size: small", "size: large"]
BY_PROPERTY = {"ask": 20, "ask_by": "property"}


@pytest.fixture(scope="module")
def named():
    """Of the attributes three are wing colors, two are sizes, and two have no value in their names."""
    model = make_model(attribute_names=[COLOR[0], "striped", SIZE[0], COLOR[1], "has_tail", COLOR[2], SIZE[1]])
    model.config.score_scale = 0.25
    return pipeline(TASK, model=model, image_processor=make_processor(), device="cpu")


def test_questions_for_properties_are_those_that_tell_most(named):
    result = named(IMAGE, top_k=None, **BY_PROPERTY)
    questions = {entry["property"]: entry for entry in result["ask"]}
    names, model = named.model.config.attribute_names, named.model
    assert {what: entry["question"] for what, entry in questions.items()} == {
        "wing color": "What is the wing color?",
        "size": "What is the size?",
        "striped": "Does it have this: striped?",
        "has tail": "Does it have this: has tail?",
    }
    values = {"wing color": COLOR, "size": SIZE, "striped": ["striped"], "has tail": ["has_tail"]}
    properties = torch.tensor([list(values).index(what) for name in names for what in values if name in values[what]])
    probabilities = torch.tensor([labels_of(result)[name] for name in model.config.label2id])
    strengths = model.strengths(model.class_attributes)
    picks, none = value_chances(strengths, properties)
    gains = property_gains(probabilities, picks, none, properties).tolist()
    assert {what: entry["gain"] for what, entry in questions.items()} == pytest.approx(
        dict(zip(values, gains)), abs=1e-5
    )
    assert list(questions) == sorted(questions, key=lambda what: -questions[what]["gain"])
    chances = dict(zip(names, (probabilities @ picks).tolist()))
    for what, entry in questions.items():
        found = {answer["attribute"]: answer["chance"] for answer in entry["answers"]}
        assert found == pytest.approx({name: chances[name] for name in values[what]}, abs=1e-5)
        assert list(found.values()) == sorted(found.values(), reverse=True) and sum(found.values()) < 1
        assert entry["group"] == named.group_of_attribute[min(names.index(name) for name in values[what])]
    labels = {answer["attribute"]: answer["label"] for entry in result["ask"] for answer in entry["answers"]}
    assert [labels[name] for name in (*COLOR, *SIZE)] == ["blue", "dark grey", "red", "small", "large"]
    assert labels["striped"] == "striped" and labels["has_tail"] == "has tail"
    assert json.loads(json.dumps(result)) == result
    assert named(IMAGE, ask=2, ask_by="property")["ask"] == result["ask"][:2]


def test_what_is_known_of_a_property_is_not_asked_again(named):
    def asked(**observed):
        result = named(IMAGE, observed={COLOR[0]: None} | observed, **BY_PROPERTY)
        return {
            entry["property"]: (entry["question"], {answer["attribute"] for answer in entry["answers"]})
            for entry in result["ask"]
        }

    assert asked()["wing color"] == ("What is the wing color?", set(COLOR[1:]))
    assert asked(**{COLOR[1]: 0.2})["wing color"] == ("Is the wing color red?", {COLOR[2]})
    # It is none of them, nobody knows, or one was picked.
    for answers in ({COLOR[1]: False, COLOR[2]: False}, {COLOR[1]: None, COLOR[2]: False}, {COLOR[2]: True}):
        assert set(asked(**answers)) == {"size", "striped", "has tail"}
    everything = dict.fromkeys(named.model.config.attribute_names)
    assert named(IMAGE, observed=everything, **BY_PROPERTY)["ask"] == []


def test_a_picked_value_and_then_the_next_question(named):
    before = named(IMAGE, top_k=None, top_attributes=None, **BY_PROPERTY)
    question = next(entry for entry in before["ask"] if entry["property"] == "wing color")
    observed = picked_answers([answer["attribute"] for answer in question["answers"]], [COLOR[1]])
    found = named.rescore(before, observed, **BY_PROPERTY)
    expected = named(IMAGE, top_k=None, top_attributes=None, observed=observed, **BY_PROPERTY)
    check_same(found, expected)
    for entry, other in zip(found["ask"], expected["ask"], strict=True):
        assert entry["question"] == other["question"] and entry["gain"] == pytest.approx(other["gain"], abs=1e-5)
    assert [entry["property"] for entry in found["ask"]].count("wing color") == 0
    # The default asks for attributes, as it always did.
    assert all("attribute" in entry for entry in named.rescore(before, observed, ask=3)["ask"])
    assert named(IMAGE, ask=3) == named(IMAGE, ask=3, ask_by="attribute")


@pytest.mark.parametrize("ask_by", ["value", 3, ["property"]])
def test_there_is_nothing_else_to_ask_by(classifier, ask_by):
    message = "`ask_by` must be 'attribute' or 'property', but it is"
    with pytest.raises(ValueError, match=message):
        classifier(IMAGE, ask_by=ask_by)
    with pytest.raises(ValueError, match=message):
        classifier.rescore(classifier(IMAGE, **EVERYTHING), {}, ask=1, ask_by=ask_by)
