"""Prose is read as the attributes that it names, by the names of whatever attributes a model has."""

import json
import random
from pathlib import Path

import pytest

from dedn_hf import DednConfig
from dedn_hf.names_dedn import describe_attribute, readable_attribute
from dedn_hf.recipes import read_recipe
from dedn_hf.registration import DEFAULT_MODEL
from dedn_hf.words_dedn import understand

SENTENCES = json.loads((Path(__file__).parent / "words_sentences.json").read_text(encoding="utf-8"))
STRANGER = [
    "blue wing",
    "red wing",
    "long tail",
    "short tail",
    "petal color: red",
    "leaf shape: round",
    "hooves",
    "stripes",
]


@pytest.fixture(scope="module")
def cub():
    if not (DEFAULT_MODEL / "config.json").is_file():
        pytest.skip("the default model, which has CUB's attributes, is not in the package")
    return DednConfig.from_pretrained(DEFAULT_MODEL)


def read(names, text, **terms):
    return understand(DednConfig(attribute_names=names, attribute_terms=terms), text)


def test_there_are_a_hundred_sentences_and_all_differ():
    assert len({entry["text"] for entry in SENTENCES}) == len(SENTENCES) >= 100


@pytest.mark.parametrize("entry", SENTENCES, ids=lambda entry: entry["text"])
def test_sentence(cub, entry):
    found = understand(cub, entry["text"])["attributes"]
    assert sorted(name for name, strength in found.items() if strength > 0) == entry["has"]
    assert sorted(name for name, strength in found.items() if strength == 0) == entry["lacks"]
    assert set(entry["has"] + entry["lacks"]) <= set(cub.attribute_names)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a bird with blue wings and a long tail", {"blue wing": 1, "long tail": 1}),
        ("Its wings are red.", {"red wing": 1}),
        ("red petals, no hooves", {"petal color: red": 1, "hooves": 0}),
        ("the tail is short and the leaves are round", {"short tail": 1, "leaf shape: round": 1}),
        ("a striped animal", {"stripes": 1}),
        ("nothing of the kind", {}),
        ("", {}),
    ],
)
def test_attributes_of_a_stranger(text, expected):
    assert read(STRANGER, text)["attributes"] == expected


@pytest.mark.parametrize("hedge", ["often", "sometimes", "rarely", "slightly"])
def test_hedges_weaken(cub, hedge):
    (strength,) = understand(cub, f"{hedge} a red belly")["attributes"].values()
    assert 0 < strength < 1


def test_males_and_females_count_half_each(cub):
    found = understand(cub, "Males have a red crown and a white belly, females a brown crown and a white belly.")
    strengths = found["attributes"]
    assert strengths["has_crown_color::red"] == strengths["has_crown_color::brown"] == 0.5
    assert strengths["has_belly_color::white"] == 1


def test_alternatives_are_weaker_than_what_is_said_alone(cub):
    found = understand(cub, "a yellow or white throat")["attributes"]
    assert set(found) == {"has_throat_color::yellow", "has_throat_color::white"}
    assert all(0 < strength < 1 for strength in found.values())


def test_tells_the_words_and_what_was_not_read(cub):
    found = understand(cub, ["a blue head", "it sings loudly"])
    assert found["sources"]["has_crown_color::blue"] == "blue head"
    assert set(found["sources"]) == set(found["attributes"])
    assert "sings" in found["unread"] and "blue" not in found["unread"]


def test_terms_of_a_model():
    assert read(STRANGER, "red corolla")["attributes"] == {}
    assert read(STRANGER, "red corolla", corolla=["petal"])["attributes"] == {"petal color: red": 1}
    assert read(STRANGER, "an ungulate", ungulate=["hooves"])["attributes"] == {"hooves": 1}
    with pytest.raises(ValueError, match="reads 'ungulate' as 'hoofs of horn', which is neither an attribute"):
        read(STRANGER, "an ungulate", ungulate=["hoofs of horn"])


def test_terms_of_cub_are_those_of_the_default_model(cub):
    assert cub.attribute_terms == read_recipe("cub").model["attribute_terms"]


def test_any_text_is_read_without_an_error(cub):
    for text in (
        "!!!",
        "- - -",
        "a a a",
        "no",
        "except",
        "and, or",
        "12",
        "🐦 blau",
        "not not",
        "with with of",
        "males",
    ):
        assert set(understand(cub, text)) == {"attributes", "sources", "unread"}


def test_attributes_as_a_result_words_them_are_read_as_themselves(cub):
    for name in cub.attribute_names:
        for text in (readable_attribute(name), describe_attribute(name)):
            assert name in understand(cub, text)["attributes"], text


def test_a_mark_of_the_face_is_told_as_it_is_written(cub):
    found = understand(cub, "a white stripe above its eye and a dark line through the eye")
    assert found["sources"] == {
        "has_head_pattern::eyebrow": "stripe above its eye",
        "has_head_pattern::eyeline": "line through the eye",
    }
    assert found["unread"] == ["white stripe above its eye", "dark line through the eye"]


def test_any_order_of_words_is_read(cub):
    words = sorted({word for entry in SENTENCES for word in entry["text"].split()})
    shuffle = random.Random(0)
    for _ in range(300):
        found = understand(cub, " ".join(shuffle.choices(words, k=12)))
        assert set(found["attributes"]) == set(found["sources"]) <= set(cub.attribute_names)
        assert all(0 <= strength <= 1 for strength in found["attributes"].values())
