import numpy as np
import pytest
import torch
from baselines import FLOORS, fit_attribute_regression, fit_eszsl, pool_features, run_floor
from sklearn.linear_model import Ridge
from tiny_training import NUM_ATTRIBUTES, TRAIN, VALIDATION, make_tiny_dataset, make_tiny_inputs

from dedn_hf.evaluation import ausuc, best_calibration, gzsl_metrics, seen_unseen_curve


@pytest.fixture
def problem():
    random = np.random.default_rng(0)
    return random.normal(size=(40, 7)), random.integers(0, 6, 40), random.random((6, 4))


def test_eszsl_minimises_its_objective(problem):
    features, labels, rows = problem
    signs = torch.tensor(2.0 * np.eye(6)[labels] - 1)
    x, s = torch.tensor(features), torch.tensor(rows)
    fitted = list(fit_eszsl(features, labels, rows, feature_penalty=[0.3, 20.0], attribute_penalty=[0.05, 2.0]))
    assert [tuple(penalties.values()) for penalties, _ in fitted] == [
        (0.3, 0.05),
        (0.3, 2.0),
        (20.0, 0.05),
        (20.0, 2.0),
    ]
    for penalties, scores in fitted:
        gamma, lam = penalties["feature_penalty"], penalties["attribute_penalty"]
        v = torch.tensor(scores.weight, requires_grad=True)
        objective = (x @ v @ s.T - signs).square().sum() + gamma * (v @ s.T).square().sum()
        objective += lam * (x @ v).square().sum() + gamma * lam * v.square().sum()
        objective.backward()
        assert v.grad.abs().max() < 1e-10 * objective.item() and v.abs().max() > 1e-3
        np.testing.assert_allclose(scores(features), features @ scores.weight)


def test_attribute_regression_is_ridge_regression(problem):
    features, labels, rows = problem
    for penalties, scores in fit_attribute_regression(features, labels, rows, penalty=[0.1, 30.0]):
        expected = Ridge(alpha=penalties["penalty"]).fit(features, rows[labels]).predict(features)
        np.testing.assert_allclose(scores(features), expected)


def test_features_are_means_over_regions(tiny_model):
    dataset = make_tiny_dataset()
    examples = make_tiny_inputs(dataset).make(dataset.splits["trainval"])
    maps = torch.stack([item["feature_map"] for item in examples.__getitems__(range(len(examples)))]).double()
    np.testing.assert_allclose(pool_features(examples, batch_size=7), maps.mean(dim=(2, 3)))
    pixels = [{"pixel_values": torch.rand(3, 4, 4)} for _ in range(3)]
    tiny_model.get_feature_map = lambda pixel_values: 2 * pixel_values
    expected = [2 * item["pixel_values"].double().mean(dim=(1, 2)).numpy() for item in pixels]
    np.testing.assert_allclose(pool_features(pixels, tiny_model), expected, rtol=1e-6)


@pytest.mark.parametrize("name", FLOORS)
def test_a_floor_chooses_on_validation_classes_and_reads_the_test_images_last(name):
    dataset, asked = make_tiny_dataset(), []
    inputs = make_tiny_inputs(dataset)

    def features_of(split):
        asked.append(split)
        return pool_features(inputs.make(dataset.splits[split]))

    results = run_floor(name, dataset, features_of)
    assert asked[-2:] == ["test_seen", "test_unseen"] and not set(asked[:-2]) & {"test_seen", "test_unseen"}
    assert asked.index("train") < asked.index("trainval")

    # The same by hand: every fit to the train classes, judged with the validation classes as the unseen ones.
    _, fit = FLOORS[name]
    rows = dataset.class_attributes / np.linalg.norm(dataset.class_attributes, axis=1, keepdims=True)
    images = {split: (features_of(split), np.array(dataset.splits[split]["label"])) for split in dataset.splits}
    features, labels = (np.concatenate(parts) for parts in zip(images["validation_seen"], images["validation_unseen"]))
    heights = {}
    for penalties, scores in fit(*images["train"], rows[list(TRAIN)].astype(float)):
        calibration, metrics = best_calibration(scores(features) @ rows[:8].T, labels, list(TRAIN))
        heights[tuple(penalties.values())] = (metrics["H"], calibration)
    chosen = dict(results["chosen"])
    calibration = chosen.pop("calibration")
    assert heights[tuple(chosen.values())] == pytest.approx((results["validation"]["H"], calibration))
    assert results["validation"]["H"] == pytest.approx(max(height for height, _ in heights.values()))
    grid = {penalty: [value] for penalty, value in chosen.items()}
    ((_, scores),) = fit(*images["trainval"], rows[[*TRAIN, *VALIDATION]].astype(float), **grid)
    features, labels = (np.concatenate(parts) for parts in zip(images["test_seen"], images["test_unseen"]))
    logits = scores(features) @ rows.T
    expected = gzsl_metrics(logits, labels, range(8), calibration)
    expected["AUSUC"] = ausuc(seen_unseen_curve(logits, labels, range(8)))
    assert results["test"] == pytest.approx(expected)


@pytest.mark.parametrize("name", FLOORS)
def test_a_floor_recognises_unseen_classes_where_features_are_attributes(name):
    # Of three hidden traits, so that the six train classes tell all there is to know.
    random = np.random.default_rng(0)
    class_attributes = random.normal(size=(10, 3)) @ random.normal(size=(3, NUM_ATTRIBUTES))
    dataset = make_tiny_dataset(class_attributes=class_attributes.astype(np.float32))
    results = run_floor(name, dataset, lambda split: dataset.class_attributes[dataset.splits[split]["label"]])
    assert results["test"]["T1"] == 100
