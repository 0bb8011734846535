import numpy as np
import pytest
import torch

from dedn_hf.class_fit_dedn import ClassFit
from dedn_hf.evaluation import class_fit
from dedn_hf.evaluation.class_fit import class_fit_statistics, fit_coefficients

NUM_CLASSES, NUM_ATTRIBUTES, NUM_IMAGES = 30, 12, 20


@pytest.fixture
def world():
    """Attribute scores that follow a class's strengths, with noise; more classes than are trained on."""
    random = np.random.default_rng(0)
    strengths = random.random((NUM_CLASSES + 10, NUM_ATTRIBUTES))
    slopes = random.uniform(1, 4, NUM_ATTRIBUTES)

    def draw(class_ids):
        labels = np.repeat(class_ids, NUM_IMAGES)
        noise = random.normal(scale=0.3, size=(len(labels), NUM_ATTRIBUTES))
        return slopes * strengths[labels] - 1 + noise, labels

    return strengths, draw


def make_fit(statistics) -> ClassFit:
    buffers = {name: torch.tensor(values) for name, values in statistics.items()}
    fit = ClassFit(NUM_ATTRIBUTES, *buffers["means"].shape)
    fit.load_state_dict(buffers | {"coefficients": torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])})
    return fit


@pytest.fixture
def statistics(world):
    strengths, draw = world
    return class_fit_statistics(*draw(np.arange(NUM_CLASSES)), strengths[:NUM_CLASSES])


def test_classes_are_white_within(world, statistics):
    scores, labels = world[1](np.arange(NUM_CLASSES))
    z = (scores - statistics["centre"]) @ statistics["projection"]
    within = z - statistics["means"][labels]
    assert statistics["projection"].shape == (NUM_ATTRIBUTES, NUM_ATTRIBUTES)
    # Less than 1 by what keeps the covariance from being singular.
    assert 0.8 < within.var(axis=0).mean() < 1.05
    np.testing.assert_allclose(statistics["means"].var(axis=0, ddof=1), statistics["variances"], rtol=1e-3)


def test_distances_are_of_gaussians(world, statistics):
    scores, _ = world[1](np.arange(2))
    fit = make_fit(statistics)
    z = (scores - statistics["centre"]) @ statistics["projection"]
    expected = np.stack(
        [(z**2 / (1 + statistics["variances"]) - (z - mean) ** 2).sum(axis=1) / 2 for mean in statistics["means"]],
        axis=1,
    )
    actual = fit.distances(torch.tensor(scores), fit.means)
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("trained", [True, False])
def test_own_images_fit_and_others_do_not(world, statistics, trained):
    """By means of images, and by means that follow from the strengths of classes without any."""
    strengths, draw = world
    ids = np.arange(10) if trained else np.arange(NUM_CLASSES, NUM_CLASSES + 10)
    fit = make_fit(statistics)
    targets = fit.targets(torch.tensor(strengths[ids]), ids.tolist() if trained else [None] * 10)
    own, others = draw(ids)[0], draw(np.arange(10, NUM_CLASSES))[0]
    distances = [fit.distances(torch.tensor(scores), targets.means).numpy() for scores in (own, others)]
    best = [values.max(axis=1) for values in distances]
    assert np.median(best[0]) > np.quantile(best[1], 0.9)
    candidate = np.concatenate([np.repeat(np.arange(10), NUM_IMAGES), np.full(len(others), -1)])
    slope, offset, by_number = fit_coefficients(np.concatenate(distances), candidate)
    assert slope > 0 and by_number < 0
    probabilities = [1 / (1 + np.exp(-(slope * r + offset + by_number * np.log(10)))) for r in best]
    assert probabilities[0].mean() > 0.8 and probabilities[1].mean() < 0.2


def test_trained_and_other_classes_have_coefficients_of_their_own(statistics, world):
    fit = make_fit(statistics)
    fit.coefficients.copy_(torch.tensor([[1.0, 2.0, 0.0], [3.0, 4.0, 1.0]]))
    targets = fit.targets(torch.tensor(world[0][:3]), [None, 5, None])
    assert targets.coefficients.tolist() == [[3, 4, 1], [1, 2, 0], [3, 4, 1]]
    torch.testing.assert_close(targets.means[1], fit.means[5])
    row = torch.tensor(world[0][2], dtype=torch.float32)
    torch.testing.assert_close(targets.means[2], row @ fit.from_strengths + fit.offset)


def test_coefficients_do_not_go_by_how_many_strangers_there_are():
    random = np.random.default_rng(0)
    own, others = random.normal(1, 1, (500, 1)), random.normal(-1, 1, (500, 1))
    few = fit_coefficients(np.r_[own, others], np.repeat([0, -1], 500))
    many = fit_coefficients(np.r_[own, np.repeat(others, 10, axis=0)], np.repeat([0, -1], [500, 5000]))
    np.testing.assert_allclose(few, many, atol=0.1)
    # The logarithm of the ratio of the two densities is 2 r; of one candidate, there is nothing to learn of more.
    np.testing.assert_allclose(few, [2, 0, 0], atol=0.2)


@pytest.mark.parametrize("candidate", [[0, 1], [-1, -1]], ids=["no strangers", "no others"])
def test_nothing_to_learn_from(candidate):
    assert fit_coefficients([[1.0, 2.0], [2.0, 1.0]], candidate).tolist() == [0, 0, 0]


def test_a_distance_that_runs_the_wrong_way_is_of_no_use():
    assert fit_coefficients([[0.0], [0.1], [1.0], [1.1]], [0, 0, -1, -1]).tolist() == [0, 0, 0]


def test_means_follow_from_strengths_by_the_ridge_that_foretells_best():
    """By leaving one row out after the other, which the formula does not."""
    random = np.random.default_rng(0)
    inputs, outputs = random.normal(size=(12, 5)), random.normal(size=(12, 3))
    outputs -= outputs.mean(axis=0)
    centred = inputs - inputs.mean(axis=0)
    unit = np.trace(centred @ centred.T) / len(inputs)

    def solve(inputs, outputs, ridge):
        x, y = inputs - inputs.mean(axis=0), outputs - outputs.mean(axis=0)
        slopes = np.linalg.solve(x.T @ x + ridge * unit * np.eye(5), x.T @ y)
        return slopes, outputs.mean(axis=0) - inputs.mean(axis=0) @ slopes

    def error(ridge):
        total = 0
        for row in range(len(inputs)):
            kept = np.arange(len(inputs)) != row
            slopes, offset = solve(inputs[kept], outputs[kept], ridge)
            total += np.square(outputs[row] - inputs[row] @ slopes - offset).sum()
        return total

    expected = solve(inputs, outputs, min(class_fit._RIDGES, key=error))
    for actual, values in zip(class_fit._ridge(inputs, outputs), expected):
        np.testing.assert_allclose(actual, values, rtol=1e-6, atol=1e-9)


def test_too_little_for_statistics(world):
    strengths, draw = world
    scores, labels = draw(np.arange(2))
    assert class_fit_statistics(scores, labels, strengths[:2]) is None
    assert class_fit_statistics(scores, labels, strengths[:3]) is None  # a class without images
    one_image = np.arange(3) * NUM_IMAGES
    scores, labels = draw(np.arange(3))
    assert class_fit_statistics(scores[one_image], labels[one_image], strengths[:3]) is None
    with pytest.raises(ValueError, match="3 of the attribute scores are not finite"):
        class_fit_statistics(
            np.where(np.arange(len(scores))[:, None] < 1, np.nan, scores)[:, :3], labels, strengths[:3, :3]
        )
