"""Candidates and parameters as people write them: understood, or refused by name before any image is read."""

from decimal import Decimal
from fractions import Fraction

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from tiny_pipeline import check_same, make_classifier, make_image, make_model

IMAGE = make_image()
NAMED = "attribute 1"
ROW = [0.5, 0.1, 0.9, 0.0, 0.3, 0.2, 0.7]


@pytest.fixture(scope="module")
def classifier():
    return make_classifier()


@pytest.fixture
def unread(classifier, monkeypatch):
    """The pipeline, where no image may be read."""
    monkeypatch.setattr(classifier, "preprocess", lambda *args, **kwargs: pytest.fail("an image was read"))
    return classifier


def refused(unread, message, *args, error=ValueError, **parameters):
    """Whatever the form of the images."""
    for images in (IMAGE, [IMAGE, IMAGE], (pytest.fail("an image was made") for _ in range(2))):
        with pytest.raises(error, match=message):
            unread(images, *args, **parameters)


# Names


@pytest.mark.parametrize(
    "make",
    [
        lambda names: tuple(names),
        lambda names: set(names),
        lambda names: (name for name in names),
        lambda names: np.array(names),
        lambda names: pd.Series(names, index=[3, 4]),
        lambda names: pd.Index(names),
        lambda names: datasets.ClassLabel(names=names).names,
        lambda names: dict.fromkeys(names),
        lambda names: dict.fromkeys(names).keys(),
    ],
)
def test_names(classifier, make):
    expected = classifier(IMAGE, ["jay", "owl"])
    result = classifier(IMAGE, make(["jay", "owl"]))
    check_same(result, expected)
    assert {type(label["label"]) for label in result["labels"]} == {str}


@pytest.mark.parametrize(
    "candidates, message",
    [
        ("", "`candidate_labels` is empty"),
        ((), "`candidate_labels` is empty"),
        (iter([]), "`candidate_labels` is empty"),
        ([""], "`candidate_labels` has '', which is no name of a class, such as 'jay', 'wren', 'owl'"),
        ([" "], "`candidate_labels` has ' ', which is no name of a class"),
        ([None], "`candidate_labels` has None, which is no name"),
        ([0, 2], "`candidate_labels` has 0, which is no name"),
        (b"jay", "`candidate_labels` has 106, which is no name"),
        ([b"jay"], "`candidate_labels` has b'jay', which is no name"),
        ({0: [NAMED]}, "`candidate_labels` has 0, which is no name"),
        ({None: [NAMED]}, "`candidate_labels` has None, which is no name"),
        (3, "`candidate_labels` must be names of classes or, by name, their descriptions, but it is 3"),
        (True, "`candidate_labels` must be names of classes .* but it is True"),
        (datasets.ClassLabel(names=["jay"]), "`candidate_labels` must be names of classes .* but it is ClassLabel"),
        ("jay, owl", "no class 'jay, owl'; the closest are"),
        (["Jayy"], "no class 'Jayy'; the closest are 'jay'"),
        (["jay", "JAY"], "`candidate_labels` has 'jay' and 'JAY', which are one class. Name each class once"),
        (np.array(["jay", "jay"]), "'jay' more than once"),
        (["jay", np.str_("jay")], "'jay' more than once"),
        ({"new": [NAMED], "new ": [NAMED]}, "'new' more than once"),
        ({"caf\u00e9": [NAMED], "cafe\u0301": [NAMED]}, "more than once"),
    ],
)
def test_what_is_no_name(unread, candidates, message):
    if not hasattr(candidates, "__next__"):
        refused(unread, message, candidates)
    with pytest.raises(ValueError, match=message):
        unread(IMAGE, candidate_labels=candidates)


# Descriptions


@pytest.mark.parametrize(
    "description",
    [
        (NAMED, "attribute 4"),
        {NAMED, "attribute 4"},
        (name for name in (NAMED, "attribute 4")),
        np.array([NAMED, "attribute 4"]),
        pd.Series([NAMED, "attribute 4"]),
        {NAMED: 1, "attribute 4": Fraction(1)},
        {NAMED: np.float32(1), "attribute 4": torch.tensor(1)},
        pd.Series({"attribute 4": 1.0, NAMED: 1.0}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_descriptions(classifier, description):
    expected = classifier(IMAGE, {"new": [NAMED, "attribute 4"], "jay": None})
    check_same(classifier(IMAGE, {"new": description, "jay": None}), expected)


@pytest.mark.parametrize(
    "row",
    [
        tuple(ROW),
        np.array(ROW),
        torch.tensor(ROW, dtype=torch.float64, requires_grad=True),
        pd.Series(ROW),
        (number for number in ROW),
        list(np.array(ROW)),
        list(torch.tensor(ROW, dtype=torch.float64)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_rows(classifier, row):
    check_same(classifier(IMAGE, {"new": row, "jay": None}), classifier(IMAGE, {"new": ROW, "jay": None}))


def test_a_row_of_a_table_goes_by_the_names_of_its_columns(classifier):
    known = classifier.model.class_attributes
    strength = (known[2] / known.max()).tolist()
    table = pd.DataFrame([strength], index=["owl"], columns=classifier.model.config.attribute_names)
    described = table[table.columns[::-1]].loc["owl"]
    scores = [label["score"] for label in classifier(IMAGE, {"described": described, "owl": None})["labels"]]
    assert scores == pytest.approx([0.5, 0.5], abs=1e-5)


@pytest.mark.parametrize(
    "strength", ["0.5", None, True, False, np.True_, torch.tensor(True), [0.5], 1j, Decimal("0.5")]
)
def test_what_is_no_strength(unread, strength):
    refused(
        unread, f"Attribute '{NAMED}' of class 'new' has strength .*numbers from 0 to 1", {"new": {NAMED: strength}}
    )


@pytest.mark.parametrize(
    "description, message",
    [
        ([NAMED, NAMED], "description of class 'new' has 'attribute 1' more than once"),
        ([NAMED, "Attribute_1"], "class 'new' has 'attribute 1' and 'Attribute_1', which are one"),
        ([NAMED, "attribute one"], "'new' is described by 'attribute one', which is no attribute"),
        ("", "'new' is described by '', of which nothing is understood"),
        ({3: 1}, "'new' is described by 3, which is no attribute"),
        (["0.5"] * 7, "'new' is described by '0.5', which is no attribute"),
        ([NAMED, 0.5], "row of class 'new' must be 7 strengths from 0 to 1.*it has 'attribute 1'"),
        ([True] * 7, "row of class 'new' must be 7 strengths from 0 to 1.*it has True"),
        (np.ones(7, dtype=bool), "row of class 'new' must be 7 strengths from 0 to 1.*it has True"),
        ([None] * 7, "row of class 'new' must be 7 strengths from 0 to 1.*it has None"),
        ([0.5] * 6 + [float("inf")], "row of class 'new' must be 7 strengths from 0 to 1.*it has inf"),
        (np.ones((1, 7)), r"row of class 'new' must be 7 strengths from 0 to 1.*it has \[1.0"),
        (np.ones(6), "row of class 'new' must be 7 strengths from 0 to 1.*it has 6"),
        (0.5, "description of class 'new' must be attributes, strengths .* but it is 0.5"),
        (True, "description of class 'new' must be attributes, strengths .* but it is True"),
        (b"red", "description of class 'new' must be attributes, strengths .* but it is b'red'"),
        (torch.tensor(0.5), "row of class 'new' must be 7 strengths from 0 to 1"),
    ],
)
def test_what_is_no_description(unread, description, message):
    refused(unread, message, {"new": description, "jay": None})


@pytest.mark.parametrize("unnamed_attributes", ["mean", "zero"])
@pytest.mark.parametrize(
    "description",
    [
        [],
        (),
        {},
        np.array([]),
        torch.tensor([]),
        {NAMED: 0},
        {NAMED: 0.0, "attribute 2": -0.0},
        [0] * 7,
        torch.zeros(7),
        [-1.0] * 7,
        np.array([-1, 0] * 3 + [0]),
    ],
)
def test_a_class_that_is_described_by_nothing(unread, description, unnamed_attributes):
    message = "[Cc]lass 'new' (names no attribute|is described by nothing|has no attribute above 0|must be 7)"
    refused(unread, message, {"jay": None, "new": description}, unnamed_attributes=unnamed_attributes)


@pytest.mark.parametrize("unnamed_attributes", ["mean", "zero"])
def test_an_attribute_that_no_class_has_describes_nothing(unnamed_attributes):
    classifier = make_classifier()
    classifier.model.class_attributes[:, 1] = 0
    message = "Class 'new' is described by nothing: no class of the model has what it names"
    with pytest.raises(ValueError, match=message):
        classifier(IMAGE, {"new": [NAMED]}, unnamed_attributes=unnamed_attributes)
    assert classifier(IMAGE, {"new": [NAMED, "attribute 2"]}, unnamed_attributes=unnamed_attributes)["labels"]


@pytest.mark.parametrize("candidates", [None, ["owl"], {"owl": None, "new": [NAMED]}])
def test_a_class_of_the_model_without_attributes(candidates):
    classifier = make_classifier()
    classifier.model.class_attributes[2] = 0
    with pytest.raises(ValueError, match=r"Class 'owl' has no attribute above 0.*`model.set_classes`"):
        classifier(IMAGE, candidates)
    assert classifier(IMAGE, ["jay", "crow"])["labels"]


# A list for each image


def test_a_list_of_candidates_for_each_image(classifier):
    images = [make_image(seed, width=30 + 5 * seed) for seed in range(5)]
    lists = [["jay", "owl"], {"new": [NAMED], "jay": None}, "crow", ("owl", "wren", "jay"), {"row": ROW}]
    lists[2] = [lists[2]]
    parameters = {"unnamed_attributes": "zero", "calibration": 0.7, "attention": "grid", "top_attributes": 3}
    expected = [classifier(image, candidates, **parameters) for image, candidates in zip(images, lists)]
    for batch_size in (1, 2, 5):
        results = classifier(images, lists, batch_size=batch_size, **parameters)
        for result, single in zip(results, expected, strict=True):
            check_same(result, single)
    for result, single in zip(classifier(images, tuple(lists), num_workers=1, **parameters), expected, strict=True):
        check_same(result, single)
    check_same(classifier(images[1], [lists[1]], **parameters), expected[1])


@pytest.mark.parametrize(
    "images, candidates, message",
    [
        (
            [IMAGE] * 3,
            [["jay"], ["owl"]],
            "has a list of candidates for each image, 2 in all, but the number of images is 3",
        ),
        (IMAGE, [["jay"], ["owl"]], "2 in all, but the number of images is 1"),
        ([], [["jay"]], "1 in all, but the number of images is 0"),
        (iter([IMAGE]), [["jay"]], "the number of images is not known. Give a list"),
        ([IMAGE] * 2, ["jay", ["owl"]], "has both names and lists"),
        ([IMAGE] * 2, [None, ["owl"]], "has both names and lists"),
        ([IMAGE] * 2, [["jay"], []], "`candidate_labels` is empty"),
        ([IMAGE] * 2, [[["jay"]], [["owl"]]], "list of lists of lists"),
        ([IMAGE] * 2, [["jay"], ["owll"]], "no class 'owll'; the closest are 'owl'"),
        ([IMAGE] * 2, [["jay"], {"new": [0] * 7}], "'new' is described by nothing: all its strengths are 0"),
    ],
)
def test_lists_that_do_not_go_with_the_images(unread, images, candidates, message):
    with pytest.raises(ValueError, match=message):
        unread(images, candidates)


def test_a_call_that_is_prepared_takes_one_list(classifier):
    with pytest.raises(ValueError, match="the number of images is not known"):
        classifier.prepare_call(candidate_labels=[["jay"], ["owl"]])


def test_an_iterator_of_names_serves_all_calls_of_the_pipeline_that_it_is_given_to():
    classifier = make_classifier(candidate_labels=(name for name in ["jay", "owl"]))
    assert classifier(IMAGE) == classifier(IMAGE) == classifier(IMAGE, ["jay", "owl"])


# Parameters


def test_none_is_all_of_them_whatever_the_pipeline_was_given():
    classifier = make_classifier(top_k=2, top_attributes=1, candidate_labels=["jay", "owl", "crow"], calibration=3.0)
    result = classifier(IMAGE, top_k=None, top_attributes=None)
    assert len(result["labels"]) == 3 and len(result["attributes"]) == 7
    everything = classifier(IMAGE, candidate_labels=None, calibration=None, top_k=None)
    assert everything["labels"] == make_classifier()(IMAGE)["labels"]
    assert len(classifier(IMAGE)["labels"]) == 2
    assert len(make_classifier(top_k=None)(IMAGE)["labels"]) == 5


def test_none_of_the_others_is_as_if_it_were_not_given(classifier):
    parameters = dict.fromkeys(
        ["unnamed_attributes", "attributes_by", "threshold", "timeout", "attention", "average_flips", "batch_size"]
    )
    assert classifier([IMAGE], **parameters) == [classifier(IMAGE)]


def test_numbers_of_other_libraries(classifier):
    expected = classifier(IMAGE, top_k=2, calibration=0.5, threshold=0.25)
    for top_k in (np.int64(2), torch.tensor(2), np.array(2)):
        for number in (np.float32, torch.tensor, Fraction):
            result = classifier(IMAGE, top_k=top_k, calibration=number(0.5), threshold=number(0.25))
            assert result == expected


BAD_VALUES = [
    ({"top_k": 2.5}, "`top_k` must be a whole number from 0 on, or None for all, but it is 2.5"),
    ({"top_k": True}, "`top_k` must be a whole number .* but it is True"),
    ({"top_k": "3"}, "`top_k` must be a whole number .* but it is '3'"),
    ({"top_k": [3]}, r"`top_k` must be a whole number .* but it is \[3\]"),
    ({"top_attributes": float("inf")}, "`top_attributes` must be a whole number .* but it is inf"),
    ({"top_attributes": float("nan")}, "`top_attributes` must be a whole number .* but it is nan"),
    ({"threshold": "a"}, "`threshold` is for scores from 0 to 1, but it is 'a'"),
    ({"threshold": True}, "`threshold` is for scores from 0 to 1, but it is True"),
    ({"threshold": float("nan")}, "`threshold` is for scores from 0 to 1, but it is nan"),
    ({"calibration": float("nan")}, "`calibration` must be a number from -10000 to 10000, but it is nan"),
    ({"calibration": float("inf")}, "`calibration` must be a number .* but it is inf"),
    ({"calibration": 1e39}, "`calibration` must be a number .* but it is 1e"),
    ({"calibration": "1"}, "`calibration` must be a number .* but it is '1'"),
    ({"calibration": False}, "`calibration` must be a number .* but it is False"),
    ({"calibration": torch.ones(2)}, "`calibration` must be a number .* but it is tensor"),
    ({"timeout": "long"}, "`timeout` must be a number of seconds above 0 or None, but it is 'long'"),
    ({"timeout": 0}, "`timeout` must be a number of seconds above 0 or None, but it is 0"),
    ({"timeout": float("nan")}, "`timeout` must be a number of seconds"),
    ({"attention": True}, "`attention` must be 'grid' or 'image', but it is True"),
    ({"attention": "pixels"}, "`attention` must be 'grid' or 'image', but it is 'pixels'"),
    ({"average_flips": 1}, "`average_flips` must be True or False, but it is 1"),
    ({"unnamed_attributes": 0}, "`unnamed_attributes` must be 'likely', 'mean' or 'zero', but it is 0"),
    ({"attributes_by": ["score"]}, r"`attributes_by` must be 'score' or 'contribution', but it is \['score'\]"),
    ({"batch_size": 0}, "`batch_size` must be a whole number from 1 on, but it is 0"),
    ({"batch_size": "2"}, "`batch_size` must be a whole number from 1 on, but it is '2'"),
    ({"batch_size": True}, "`batch_size` must be a whole number from 1 on, but it is True"),
    ({"num_workers": -1}, "`num_workers` must be a whole number from 0 on, but it is -1"),
    ({"num_workers": "x"}, "`num_workers` must be a whole number from 0 on, but it is 'x'"),
]


@pytest.mark.parametrize("parameters, message", BAD_VALUES)
def test_bad_values(unread, parameters, message):
    refused(unread, message, **parameters)
    with pytest.raises(ValueError, match=message):
        make_classifier(**parameters)
    if not {"batch_size", "num_workers"} & set(parameters):
        with pytest.raises(ValueError, match=message):
            unread.prepare_call(**parameters)


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"top_K": 3}, "The pipeline has no parameter 'top_K'; the closest are 'top_k'"),
        ({"batchsize": 3}, "no parameter 'batchsize'; the closest are 'batch_size'"),
        ({"candidates": ["jay"]}, "no parameter 'candidates'; the closest are 'candidate_labels'"),
        ({"hypothesis_template": "a {}"}, "no parameter 'hypothesis_template'; the closest are"),
        ({"return_attention": True}, "`return_attention` is now `attention`: 'image' for arrays"),
        ({"return_attention": False}, "`return_attention` is now `attention`"),
    ],
)
def test_parameters_that_do_not_exist(unread, parameters, message):
    refused(unread, message, error=TypeError, **parameters)
    with pytest.raises(TypeError, match=message):
        make_classifier(**parameters)
    with pytest.raises(TypeError, match=message):
        unread.prepare_call(**parameters)
    with pytest.raises(TypeError, match="no parameter 'img'; the closest are 'image'"):
        unread(img=IMAGE)


def test_candidates_are_checked_when_the_pipeline_is_made():
    for candidates, message in (({"new": ["atribute 1"]}, "closest are 'attribute 1'"), (3, "but it is 3")):
        with pytest.raises(ValueError, match=message):
            make_classifier(candidate_labels=candidates)


def test_classes_of_a_pipeline_are_those_that_the_model_has_when_it_is_called():
    classifier = make_classifier(candidate_labels=["jay", "owl"])
    model = make_model()
    classifier.model.set_classes(["owl", "jay"], model.class_attributes[[2, 0]], seen=[False, True])
    check_same(classifier(IMAGE), make_classifier()(IMAGE, ["jay", "owl"]))
