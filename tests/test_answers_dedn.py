import numpy as np
import pytest
import torch

from dedn_hf.answers_dedn import (
    answer_log_likelihoods,
    information_gains,
    picked_answers,
    property_gains,
    value_chances,
)

STRENGTHS = torch.tensor([[0.0, 0.3, 1.0, 0.5], [0.9, 0.3, 0.2, 0.5], [0.6, 0.3, 0.05, 0.5]])


def test_an_answer_is_as_likely_as_the_class_has_the_attribute():
    found = answer_log_likelihoods(STRENGTHS, {0: 1.0, 2: 0.0, 3: 0.25})
    expected = np.zeros((3, 4))
    expected[:, 0] = np.log([0.1, 0.9, 0.6])
    expected[:, 2] = np.log([0.1, 0.8, 0.9])
    expected[:, 3] = np.log(0.5)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert not answer_log_likelihoods(STRENGTHS, {}).any()


def test_the_gain_of_a_question_is_the_expected_fall_of_the_entropy():
    probabilities = torch.tensor([0.2, 0.5, 0.3])

    def entropy(p):
        return -(p * p.log2()).sum()

    expected = []
    for attribute in range(4):
        after = 0
        for answer in (0.0, 1.0):
            likelihoods = answer_log_likelihoods(STRENGTHS, {attribute: answer}).sum(dim=-1).exp()
            joint = probabilities * likelihoods
            after += joint.sum() * entropy(joint / joint.sum())
        expected.append(entropy(probabilities) - after)
    gains = information_gains(probabilities, STRENGTHS)
    torch.testing.assert_close(gains, torch.stack(expected), atol=1e-6, rtol=1e-5)
    # All candidates have these alike.
    assert gains[1] == pytest.approx(0, abs=1e-6) and gains[3] == pytest.approx(0, abs=1e-6)
    assert gains.argmax() == 0


def test_there_is_nothing_to_ask_of_one_that_is_certain():
    assert information_gains(torch.tensor([0.0, 1.0, 0.0]), STRENGTHS).max() < 1e-6


# Attributes 0 and 2 are values of the first property, 3 is alone, and 1 is that of the last.
PROPERTIES = torch.tensor([0, 2, 0, 1])


def test_a_value_is_picked_in_proportion_to_its_strength():
    values, none = value_chances(STRENGTHS, PROPERTIES)
    for row, (first, second) in enumerate([(0.1, 0.9), (0.9, 0.2), (0.6, 0.1)]):
        parts = np.array([first, second, (1 - first) * (1 - second)])
        np.testing.assert_allclose([*values[row, [0, 2]], none[row, 0]], parts / parts.sum(), atol=1e-6)
    # Alone in its property, it is there or not.
    torch.testing.assert_close(values[:, [3, 1]], STRENGTHS[:, [3, 1]])
    torch.testing.assert_close(none[:, 1:], 1 - STRENGTHS[:, [3, 1]])


def test_the_gain_of_a_property_is_the_expected_fall_of_the_entropy():
    probabilities = torch.tensor([[0.2, 0.5, 0.3], [0.9, 0.05, 0.05]])

    def entropy(p):
        return -torch.xlogy(p, p).sum() / np.log(2)

    values, none = value_chances(STRENGTHS, PROPERTIES)
    gains = property_gains(probabilities, values, none, PROPERTIES)
    for row, gain in zip(probabilities, gains):
        expected = entropy(row)
        for likelihoods in (values[:, 0], values[:, 2], none[:, 0]):
            joint = row * likelihoods
            expected -= joint.sum() * entropy(joint / joint.sum())
        assert gain[0].item() == pytest.approx(expected.item(), rel=1e-4)
        torch.testing.assert_close(gain[[1, 2]], information_gains(row, STRENGTHS)[[3, 1]], atol=1e-6, rtol=0)


def test_of_a_property_of_which_each_attribute_is_one_it_is_the_gain_of_each():
    probabilities = torch.tensor([0.2, 0.5, 0.3])
    gains = property_gains(probabilities, *value_chances(STRENGTHS, torch.arange(4)), torch.arange(4))
    torch.testing.assert_close(gains, information_gains(probabilities, STRENGTHS), atol=1e-6, rtol=0)


def test_what_is_picked_is_there_and_nothing_else():
    values = ["red", "blue", "grey"]
    assert picked_answers(values, ["blue"]) == {"red": 0.0, "blue": 1.0, "grey": 0.0}
    assert picked_answers(values, {"red", "grey"}) == {"red": 1.0, "blue": 0.0, "grey": 1.0}
    assert picked_answers(values, []) == dict.fromkeys(values, 0.0)
    assert picked_answers(values, None) == dict.fromkeys(values)
