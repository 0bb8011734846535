import numpy as np
import pytest
import torch
from measure_fit import beside_the_box, best_fit, by_number_of_candidates, separation
from PIL import Image
from tiny_pipeline import make_model


@pytest.fixture
def model():
    """One direction, in which the trained classes lie side by side, and so do the others between them."""
    model = make_model()
    names, config = model.config.attribute_names, model.config
    trained = torch.linspace(-4, 4, len(config.trained_class_names))[:, None]
    model.set_class_fit(
        {
            "centre": torch.zeros(len(names)),
            "projection": torch.eye(len(names))[:, :1],
            "variances": torch.tensor([10.0]),
            "means": trained,
            "from_strengths": torch.zeros(len(names), 1),
            "offset": torch.full((1,), 9.0),
            "coefficients": torch.tensor([[1.0, 1.0, -0.5], [1.0, 1.0, -0.5]]),
        }
    )
    return model


def test_separation():
    assert separation(np.array([0.9, 0.8]), np.array([0.1, 0.2])) == {
        "AUROC": 1,
        "FPR95": 0,
        "ECE": pytest.approx(15),
    }
    same = separation(np.linspace(0, 1, 100), np.linspace(0, 1, 100), is_probability=False)
    assert same == {"AUROC": pytest.approx(0.5), "FPR95": pytest.approx(95, abs=1.5)}


def test_the_best_fit_is_among_the_candidates_alone(model):
    ids = [model.config.label2id[name] for name in model.config.trained_class_names]
    scores = torch.zeros(1, len(model.config.attribute_names))
    scores[0, 0] = -4  # an image like those of the first of them
    first, last = (best_fit(model, scores.numpy(), np.array([index])) for index in (ids[0], ids[-1]))
    assert first > 0.7 > 0.01 > last
    both = best_fit(model, scores.numpy(), np.array([ids[0], ids[-1]]))
    assert last < both < first  # of two, the same is less sure


def test_fit_by_number_of_candidates(model):
    config, random = model.config, np.random.default_rng(0)
    place = dict(zip(config.trained_class_names, np.linspace(-4, 4, len(config.trained_class_names))))
    labels = np.repeat(np.arange(config.num_labels), 20)
    scores = np.zeros((len(labels), len(config.attribute_names)), np.float32)
    scores[:, 0] = [place.get(config.id2label[label], 9.0) for label in labels]
    scores[:, 0] += random.normal(scale=0.1, size=len(labels))
    found = by_number_of_candidates(model, scores, labels)
    assert list(found) == [2]  # there are fewer than ten classes
    assert found[2]["own"] > found[2]["strangers"] and found[2]["AUROC"] > 0.7


def test_a_part_beside_the_box():
    image = Image.new("RGB", (400, 300))
    assert beside_the_box(image, [0, 0, 150, 300]).size == (250, 300)
    assert beside_the_box(image, [200, 0, 200, 300]).size == (200, 300)
    assert beside_the_box(image, [0, 180, 400, 120]).size == (400, 180)
    assert beside_the_box(image, [50, 50, 300, 200]) is None
