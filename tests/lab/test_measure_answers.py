import json

import numpy as np
import pytest
from measure_answers import answer_curve, main, plot_curves
from synthetic_model import SYNTHETIC_MODEL

# Three properties, of two, two and one attribute.
PROPERTIES = ["a", "b", "a", "c", "b"]
STRENGTHS = np.array([[1, 0, 0, 1, 0.5], [0, 1, 0, 1, 0.5], [0, 0, 1, 1, 0.5], [0, 0, 1, 0, 0.5]], np.float32)
LABELS = np.arange(4)
LOGITS = np.tile([3.0, 2.0, 1.0, 0.0], (4, 1))


def accuracies(*args, **kwargs):
    return [100 * (shares.argmax(axis=1) == LABELS).mean() for shares in answer_curve(*args, **kwargs)]


@pytest.mark.parametrize("choice", ["ask", "property", "random"])
def test_right_answers_find_the_class(choice):
    curve = accuracies(LOGITS, LABELS, STRENGTHS, choice, PROPERTIES, counts=(0, 5))
    assert curve == [25, 100]


def test_a_question_that_tells_more_is_asked_first():
    # The first three classes are equally likely: whether it is the first or the second is what half a bit hangs on.
    logits = np.array([[0.0, 0.0, -9.0, -9.0]])
    (shares,) = answer_curve(logits, np.array([1]), STRENGTHS, "ask", PROPERTIES, counts=(1,))
    assert np.exp(shares[0, 1]) == pytest.approx(0.9, abs=0.01)


def test_a_picked_value_is_one_answer_and_a_no_to_the_others():
    # Of the first property the value of class 1 is 1, and the likely classes 0 and 1 differ in no other.
    strengths = np.array([[0.9, 0.8, 0.0], [0.9, 0.0, 0.0], [0.0, 0.0, 1.0]], np.float32)
    logits, labels = np.array([[0.0, 0.0, -50.0]]), np.array([1])
    shares, alone = (
        np.exp(answer_curve(logits, labels, strengths, choice, ["a", "a", "b"], counts=(1,))[0][0])
        for choice in ("ask by property", "ask by property (yes alone)")
    )
    assert shares[1] == pytest.approx(0.9 / (0.9 + 0.2), abs=0.01) and alone[1] == pytest.approx(0.5, abs=0.01)
    # There are no more questions than properties.
    two, many = answer_curve(LOGITS, LABELS, STRENGTHS, "ask by property", PROPERTIES, counts=(3, 9))
    np.testing.assert_array_equal(two, many)


def test_wrong_values_are_so_many():
    labels, logits, strengths = np.zeros(4000, int), np.zeros((4000, 3)), np.eye(3, dtype=np.float32)
    (shares,) = answer_curve(logits, labels, strengths, "ask by property", ["a"] * 3, wrong=0.1, counts=(1,))
    picked = np.bincount(shares.argmax(axis=1), minlength=3) / 4000
    assert picked == pytest.approx([0.9, 0.05, 0.05], abs=0.02)


def test_values_are_picked_in_proportion():
    labels, logits = np.zeros(4000, int), np.zeros((4000, 3))
    strengths = np.array([[0.6, 0.2, 0.0], [0.0, 0.9, 0.0], [0.0, 0.0, 0.9]], np.float32)
    choice = "ask by property (in proportion)"
    (shares,) = answer_curve(logits, labels, strengths, choice, ["a"] * 3, counts=(1,))
    assert np.bincount(shares.argmax(axis=1), minlength=3) / 4000 == pytest.approx([0.75, 0.25, 0], abs=0.02)


def test_wrong_answers_are_so_many():
    labels = np.zeros(4000, int)
    logits = np.zeros((4000, 4))
    right, wrong = (
        answer_curve(logits, labels, STRENGTHS, "ask", PROPERTIES, wrong=share, counts=(1,))[0] for share in (0.0, 0.1)
    )
    assert (right != wrong).any(axis=1).mean() == pytest.approx(0.1, abs=0.02)
    assert np.isfinite(wrong).all()


def test_a_property_is_asked_to_its_end():
    # No answer but that on the fourth attribute tells class 2 from class 3; those on one property come together.
    logits, labels = np.tile([-50.0, -50.0, 0.0, 0.0], (3000, 1)), np.full(3000, 2)
    told = [
        shares[:, 2] > np.log(0.6)
        for shares in answer_curve(logits, labels, STRENGTHS, "property", PROPERTIES, counts=(1, 2, 3, 4))
    ]
    # It is alone in its property: the first of all, or after two or four others.
    assert np.mean(told[0]) == pytest.approx(1 / 3, abs=0.03) and np.array_equal(told[0], told[1])
    assert np.mean(told[2]) == pytest.approx(2 / 3, abs=0.03) and np.array_equal(told[2], told[3])


def test_a_picture(tmp_path):
    curves = {
        f"{choice}, {wrong} wrong": {"T1": [50, 60, 70, 80, 90, 95], "H": [40, 50, 60, 70, 80, 90]}
        for choice in ("ask", "random")
        for wrong in ("0%", "10%")
    }
    plot_curves(curves, tmp_path / "answers.png")
    assert (tmp_path / "answers.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_on_the_synthetic_birds(tmp_path, capsys):
    main(["--model", str(SYNTHETIC_MODEL), "--dataset", "synthetic_birds", "--output_dir", str(tmp_path)])
    curves = json.loads((tmp_path / "answers.json").read_text())["curves"]
    none = curves["ask, 0% wrong"]["T1"][0]
    assert 60 < none == curves["random, 0% wrong"]["T1"][0]
    assert curves["ask, 0% wrong"]["T1"][4] > none + 10
    assert curves["ask by property, 0% wrong"]["T1"][1] > curves["ask, 0% wrong"]["T1"][1]
    assert "ask, 0% wrong" in capsys.readouterr().out
