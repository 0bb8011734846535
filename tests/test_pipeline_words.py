"""Candidates described in prose, and what the attributes that a description names let expect of the others."""

import pickle

import pytest
import torch
from tiny_pipeline import TASK, check_same, make_image, make_model, make_processor
from transformers import pipeline

from dedn_hf.candidates_dedn import class_rows, likely_attributes, read_candidates

NAMES = ["wing color: red", "wing color: blue", "bill length: long", "crown color: red", "tail shape: forked"]
NAMES += ["belly color: white", "size: small"]
PROSE = "A small bird with red wings and no forked tail. It sings."
ATTRIBUTES = {"size: small": 1.0, "wing color: red": 1.0, "tail shape: forked": 0.0}
IMAGE = make_image()


@pytest.fixture(scope="module")
def classifier():
    model = make_model(attribute_names=NAMES)
    return pipeline(TASK, model=model, image_processor=make_processor(), device="cpu")


def as_strong_as_any(classifier, attributes):
    """What prose says, on the scale of all strengths: as much of what the class has that has it most."""
    model = classifier.model
    strongest = dict(zip(NAMES, model.strengths(model.class_attributes).amax(dim=0).tolist()))
    return {name: strength * strongest[name] for name, strength in attributes.items()}


@pytest.mark.parametrize("description", [PROSE, {"text": PROSE}, {"text": [PROSE]}, {"text": PROSE.split(". ")}])
def test_prose_is_the_attributes_that_it_names(classifier, description):
    result = classifier(IMAGE, {"new": description, "jay": None})
    understood = result.pop("understood")
    check_same(result, classifier(IMAGE, {"new": as_strong_as_any(classifier, ATTRIBUTES), "jay": None}))
    assert understood == {
        "new": {
            "attributes": ATTRIBUTES,
            "sources": {
                "size: small": "small bird",
                "wing color: red": "red wings",
                "tail shape: forked": "no forked tail",
            },
            "unread": ["sings"],
        }
    }


def test_the_name_of_an_attribute_is_that_attribute(classifier):
    result = classifier(IMAGE, {"new": "Wing colour: red", "jay": None})
    assert "understood" not in result
    check_same(result, classifier(IMAGE, {"new": ["wing color: red"], "jay": None}))


def test_attributes_go_before_prose(classifier):
    both = {"new": {"text": PROSE, "attributes": {"wing color: red": 0.2, "belly color: white": 1}}, "jay": None}
    result = classifier(IMAGE, both)
    assert result.pop("understood")["new"]["attributes"] == ATTRIBUTES
    given = {"wing color: red": 0.2, "belly color: white": 1}
    check_same(result, classifier(IMAGE, {"new": as_strong_as_any(classifier, ATTRIBUTES) | given, "jay": None}))


def test_each_list_of_candidates_has_its_own(classifier):
    lists = [{"a": "red wings", "jay": None}, ["jay", "owl"], {"b": "a blue wing", "jay": None}]
    first, second, third = classifier([IMAGE] * 3, candidate_labels=lists)
    assert list(first["understood"]) == ["a"] and list(third["understood"]) == ["b"] and "understood" not in second
    results = classifier([IMAGE] * 2, candidate_labels=lists[0])
    results[0]["understood"]["a"]["unread"].append("changed by a user")
    assert results[1]["understood"]["a"]["unread"] == []


def test_a_pipeline_with_prose_can_be_pickled(classifier):
    again = pickle.loads(pickle.dumps(read_candidates(classifier.model.config, {"new": PROSE})))
    assert again["new"].understood["unread"] == ["sings"]


@pytest.mark.parametrize(
    "description, message",
    [
        ("a nice fellow", "Class 'new' is described by 'a nice fellow', of which nothing is understood"),
        ("rde wing", "'new' is described by 'rde wing'.*closest are 'wing color: red'"),
        ("no red wings", "of which nothing is understood but what it lacks"),
        ({"text": 3}, "text that describes class 'new' must be a text or a list of them, but it is 3"),
        ({"text": [PROSE, None]}, "must be a text or a list of them"),
        (
            {"text": None, "attributes": None},
            "Class 'new' is described by nothing: give it images, a text or attributes",
        ),
        ({"text": PROSE, "attributes": ["beak"]}, "'new' is described by 'beak', which is no attribute"),
    ],
)
def test_what_is_not_understood(classifier, description, message):
    with pytest.raises(ValueError, match=message):
        classifier(IMAGE, {"new": description, "jay": None})


def test_rescoring_has_what_was_understood(classifier):
    candidates = {"new": PROSE, "jay": None}
    result = classifier(IMAGE, candidates, top_k=None)
    answered = classifier.rescore(result, {"wing color: red": True}, candidate_labels=candidates)
    assert answered["understood"] == result["understood"]


# Unnamed attributes


def make_table(num_classes=40):
    """Attribute 1 goes with attribute 0, 2 against it; the others are by chance, 3 in half of the classes."""
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(num_classes, generator=generator)
    others = torch.rand(num_classes, 3, generator=generator)
    others[:, 0] = (others[:, 0] > 0.5).float()
    return torch.cat([torch.stack([first, first, 1 - first], dim=1), others], dim=1)


def test_what_goes_together_is_likely_together():
    table = make_table()
    high = likely_attributes(table, torch.tensor([0]), torch.tensor([1.0]))
    low = likely_attributes(table, torch.tensor([0]), torch.tensor([0.0]))
    assert high[1] > 0.6 > 0.3 > low[1] and high[2] < 0.4 < 0.7 < low[2]
    assert ((high >= 0) & (high <= 1)).all()


def test_where_attributes_tell_nothing_of_each_other_the_mean_stays():
    table = torch.rand(60, 8, generator=torch.Generator().manual_seed(1)).round()
    found = likely_attributes(table, torch.tensor([0, 1]), torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(found[2:], table.mean(dim=0)[2:], atol=0.1, rtol=0)


@pytest.mark.parametrize("num_classes", [1, 2])
def test_of_two_classes_only_the_mean_is_known(num_classes):
    table = make_table(num_classes)
    found = likely_attributes(table, torch.tensor([0]), torch.tensor([1.0]))
    torch.testing.assert_close(found, table.mean(dim=0))


def test_any_scale_of_the_matrix_and_all_attributes_named(classifier):
    model = make_model(attribute_names=NAMES)
    candidates = {"new": {"wing color: red": 0.5, "belly color: white": 1.0}}
    rows = class_rows(model, candidates, "likely")
    model.set_classes(list(model.config.label2id), 100 * model.class_attributes, seen=model.seen_classes.tolist())
    torch.testing.assert_close(class_rows(model, candidates, "likely"), 100 * rows, rtol=1e-4, atol=1e-3)
    everything = {"new": dict.fromkeys(NAMES, 0.5)}
    found = [class_rows(model, everything, unnamed) for unnamed in ("likely", "mean", "zero")]
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


def test_likely_is_the_default(classifier):
    candidates = {"new": ["wing color: red"], "jay": None}
    check_same(classifier(IMAGE, candidates), classifier(IMAGE, candidates, unnamed_attributes="likely"))
    with pytest.raises(AssertionError):
        check_same(classifier(IMAGE, candidates), classifier(IMAGE, candidates, unnamed_attributes="zero"))
