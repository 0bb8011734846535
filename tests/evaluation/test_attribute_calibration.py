import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from dedn_hf.evaluation.attribute_calibration import fit_attribute_calibration


def make_scores(num_images=300, num_attributes=5, seed=0):
    """Scores on different scales that tell soft targets from 0 to 1."""
    random = np.random.default_rng(seed)
    targets = random.beta(0.5, 1.0, (20, num_attributes))[random.integers(0, 20, num_images)]
    scores = 2 * targets + random.normal(0, 0.7, targets.shape)
    return scores * np.logspace(-2, 2, num_attributes) + np.linspace(-3, 30, num_attributes), targets


def test_fit_is_that_of_logistic_regression():
    scores, targets = make_scores()
    slope, offset = fit_attribute_calibration(scores, targets)
    smoothed = (300 * targets + 1) / 302
    for index in range(5):
        # A soft target is a positive and a negative example, weighted. Scaled, since its tolerance is absolute.
        column = scores[:, index]
        scaled = (column - column.mean()) / column.std()
        weights = np.concatenate([smoothed[:, index], 1 - smoothed[:, index]])
        reference = LogisticRegression(C=np.inf, tol=1e-8).fit(
            np.tile(scaled, 2)[:, None], np.repeat([1, 0], 300), sample_weight=weights
        )
        expected = reference.predict_proba(scaled[:, None])[:, 1]
        np.testing.assert_allclose(expit(slope[index] * column + offset[index]), expected, atol=1e-4)


def test_mean_is_the_targets_mean_and_scores_rise_with_targets():
    scores, targets = make_scores(num_images=2000)
    slope, offset = fit_attribute_calibration(scores, targets)
    assert slope.dtype == offset.dtype == np.float32 and (slope > 0).all()
    probabilities = expit(slope * scores + offset)
    np.testing.assert_allclose(probabilities.mean(axis=0), targets.mean(axis=0), atol=1e-3)
    for index in range(5):  # calibrated: of images with about the same probability, targets have that mean
        order = probabilities[:, index].argsort()
        for part in np.array_split(order, 4):
            assert probabilities[part, index].mean() == pytest.approx(targets[part, index].mean(), abs=0.06)


def test_attributes_do_not_depend_on_one_another():
    scores, targets = make_scores()
    together = fit_attribute_calibration(scores, targets)
    for index in range(5):
        alone = fit_attribute_calibration(scores[:, [index]], targets[:, [index]])
        np.testing.assert_allclose(together[:, [index]], alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_constant_targets_give_a_constant(target):
    scores, targets = make_scores()
    targets[:, 2] = target
    slope, offset = fit_attribute_calibration(scores, targets)
    assert np.isfinite([slope, offset]).all()
    probabilities = expit(slope[2] * scores[:, 2] + offset[2])
    np.testing.assert_allclose(probabilities, (300 * target + 1) / 302, atol=1e-3)


def test_constant_scores_give_the_mean():
    scores, targets = make_scores()
    for constant in (0.0, 0.1, 1e8):
        scores[:, 1] = constant
        slope, offset = fit_attribute_calibration(scores, targets)
        assert slope[1] == 0
        assert expit(offset[1]) == pytest.approx(targets[:, 1].mean(), abs=0.01)


def test_score_that_runs_against_its_attribute_gives_the_mean():
    scores, targets = make_scores()
    scores[:, 3] *= -1
    slope, offset = fit_attribute_calibration(scores, targets)
    assert slope[3] == 0 and (np.delete(slope, 3) > 0).all()
    assert expit(offset[3]) == pytest.approx(targets[:, 3].mean(), abs=0.01)


def test_separable_scores_give_a_finite_fit():
    targets = np.repeat([[0.0], [1.0]], 50, axis=0)
    slope, offset = fit_attribute_calibration(10 * targets, targets)
    low, high = expit(slope * np.array([0.0, 10.0]) + offset)
    assert low == pytest.approx(1 / 102, abs=1e-3) and high == pytest.approx(101 / 102, abs=1e-3)


def test_tensors_and_a_single_image():
    scores, targets = make_scores()
    from_tensors = fit_attribute_calibration(torch.tensor(scores), torch.tensor(targets))
    np.testing.assert_array_equal(from_tensors, fit_attribute_calibration(scores, targets))
    assert np.isfinite(fit_attribute_calibration(scores[:1], targets[:1])).all()


@pytest.mark.parametrize(
    "scores, targets, message",
    [
        (np.zeros((3, 2)), np.zeros((2, 2)), r"shapes are \(3, 2\) and \(2, 2\)"),
        (np.zeros(3), np.zeros(3), "images × attributes"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "images × attributes"),
        (np.array([[0, np.nan], [np.inf, 1]]), np.zeros((2, 2)), "2 of the attribute scores are not finite"),
        (np.zeros((2, 2)), np.array([[0, 50], [100, 3]]), "from 0 to 100.*largest entry"),
        (np.zeros((2, 2)), np.array([[0, -1], [1, 1]]), "from -1 to 1.*negative strengths to 0"),
    ],
)
def test_bad_input(scores, targets, message):
    with pytest.raises(ValueError, match=message):
        fit_attribute_calibration(scores, targets)
