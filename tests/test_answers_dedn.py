import numpy as np
import pytest
import torch

from dedn_hf.answers_dedn import answer_log_likelihoods, information_gains

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
