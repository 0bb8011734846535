"""Names of CUB and others, as they are official, as people read them and as birders write them."""

import pytest

from dedn_hf.names_dedn import (
    NameMatcher,
    describe_attribute,
    question_about,
    readable_attribute,
    readable_classes,
    split_attribute,
)

OFFICIAL = [
    *("001.Black_footed_Albatross", "024.Red_faced_Cormorant", "023.Brandt_Cormorant", "047.American_Goldfinch"),
    *("114.Black_throated_Sparrow", "122.Harris_Sparrow", "124.Le_Conte_Sparrow", "144.Common_Tern"),
    *("145.Elegant_Tern", "146.Forsters_Tern", "022.Chuck_will_Widow", "039.Least_Flycatcher", "021.Gray_Catbird"),
]
READABLE = [
    *("Black footed Albatross", "Red faced Cormorant", "Brandt Cormorant", "American Goldfinch"),
    *("Black throated Sparrow", "Harris Sparrow", "Le Conte Sparrow", "Common Tern"),
    *("Elegant Tern", "Forsters Tern", "Chuck will Widow", "Least Flycatcher", "Gray Catbird"),
]
ATTRIBUTES = [
    *("has_wing_color::blue", "has_wing_color::grey", "has_bill_length::shorter_than_head"),
    *("has_size::small_(5_-_9_in)", "has_bill_shape::curved_(up_or_down)", "has_head_pattern::eyebrow", "man-made"),
]


def test_names_of_classes_are_readable():
    assert readable_classes(OFFICIAL) == readable_classes(READABLE) == READABLE
    # Not CUB's: nothing is taken away that may mean something.
    others = ["airplane_cabin", "killer+whale", "7.62 mm", "1.Bundesliga", "123", "12.a"]
    assert readable_classes(others) == others
    assert readable_classes(["001.Crow", "002.Crow"]) == ["001.Crow", "002.Crow"]


@pytest.mark.parametrize("names", [OFFICIAL, READABLE])
@pytest.mark.parametrize(
    "written, place",
    [
        *[("Brandt's Cormorant", 2), ("brandt’s cormorant", 2), ("Black-footed Albatross", 0), ("Forster's Tern", 9)],
        *[("Harris's Sparrow", 5), ("Harris' Sparrow", 5), ("LeConte's Sparrow", 6), ("Chuck-will's-widow", 10)],
        *[("grey catbird", 12), ("047.American_Goldfinch", 3), ("AMERICAN GOLDFINCH", 3), ("american_goldfinch", 3)],
    ],
)
def test_a_birders_spelling_is_understood(names, written, place):
    assert NameMatcher(names).find(written) == names[place]


def test_official_and_readable_names_are_the_same():
    assert NameMatcher(OFFICIAL).find_all(READABLE) == OFFICIAL
    assert NameMatcher(READABLE).find_all(OFFICIAL) == READABLE
    assert not NameMatcher(OFFICIAL).twins() and not NameMatcher(READABLE).twins()


def test_names_of_which_the_numbers_differ_are_two():
    matcher = NameMatcher(["001.Crow", "002.Crow"])
    assert matcher.find("002.crow") == "002.Crow" and matcher.find("003.Crow") is None and not matcher.twins()
    assert matcher.find("Crow") is None and matcher.closest("Crow") == "; closest: '001.Crow', '002.Crow'"
    assert NameMatcher(["1.Bundesliga"]).find("2.Bundesliga") is None


def test_a_name_that_may_be_two_is_neither_but_in_the_list():
    matcher = NameMatcher(["023.Brandt_Cormorant", "Brandt Cormorant"])
    assert matcher.find("Brandt's Cormorant") is None and "Brandt's Cormorant" in matcher
    assert "Brandts Cormoran" not in matcher


@pytest.mark.parametrize(
    "name, readable",
    [
        ("has_wing_color::blue", "wing color: blue"),
        ("has_size::small_(5_-_9_in)", "size: small (5 - 9 in)"),
        ("has_bill_length::shorter_than_head", "bill length: shorter than head"),
        ("man-made", "man-made"),
        ("new_world", "new world"),
    ],
)
def test_names_of_attributes_are_readable(name, readable):
    assert readable_attribute(name) == readable == readable_attribute(readable)


@pytest.mark.parametrize(
    "written, place",
    [
        *[("wing color: blue", 0), ("wing colour: blue", 0), ("Wing Colour Blue", 0), ("has_wing_colour::blue", 0)],
        *[("has wing color: blue", 0), ("wing_color::blue", 0), ("blue wing", 0), ("wing color: gray", 1)],
        *[("grey wing", 1), ("has_wing_color::gray", 1), ("bill length: shorter-than-head", 2)],
        *[("size: small (5 - 9 in)", 3), ("bill shape: curved (up or down)", 4), ("eyebrow head", 5), ("man made", 6)],
    ],
)
def test_an_attribute_is_found_however_it_is_written(written, place):
    assert NameMatcher(ATTRIBUTES).find(written) == ATTRIBUTES[place]


@pytest.mark.parametrize(
    "name, words",
    [
        ("has_wing_color::red", "red wing"),
        ("has_upper_tail_color::buff", "buff upper tail"),
        ("has_bill_shape::hooked", "hooked bill"),
        ("has_back_pattern::multi-colored", "multi-colored back"),
        ("has_tail_shape::forked_tail", "forked tail"),
        ("has_wing_shape::rounded-wings", "rounded wings"),
        ("has_bill_length::shorter_than_head", "bill length: shorter than head"),
        ("has_bill_shape::hooked_seabird", "bill shape: hooked seabird"),
        ("has_size::small_(5_-_9_in)", "size: small (5 - 9 in)"),
        ("has_size::small", "small size"),
        ("has_shape::round", "round shape"),
        ("has_primary_color::red", "primary color: red"),
        ("man-made", "man-made"),
        ("new_world", "new world"),
    ],
)
def test_attributes_in_words(name, words):
    assert describe_attribute(name) == words
    assert NameMatcher([name, "another"]).find(words) == name


def test_what_is_less_than_usual_in_words():
    assert describe_attribute("has_breast_color::pink", is_less=True, score=0.02) == "no pink breast"
    assert describe_attribute("has_breast_color::pink", is_less=True, score=0.4) == "less pink breast"
    assert describe_attribute("has_primary_color::red", is_less=True) == "primary color: not red"


def test_questions_about_attributes():
    assert question_about("has_wing_color::blue") == "Is the wing color blue?"
    assert question_about("has_bill_length::shorter_than_head") == "Is the bill length shorter than head?"
    assert question_about("red_wing") == "Does it have this: red wing?"


@pytest.mark.parametrize(
    "name, expected",
    [
        ("has_wing_color::blue", ("wing color", "blue")),
        ("has_size::small_(5_-_9_in)", ("size", "small (5 - 9 in)")),
        ("wing_color::dark_blue", ("wing color", "dark blue")),
        ("wing color: blue", ("wing color", "blue")),
        ("man-made", ("man-made", "")),
        ("has_tail", ("has tail", "")),
        ("ratio 3:1", ("ratio 3:1", "")),
    ],
)
def test_a_property_and_its_value(name, expected):
    assert split_attribute(name) == expected
