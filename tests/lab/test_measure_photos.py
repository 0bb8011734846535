import json

import numpy as np
import pytest
import torch
from measure_photos import main, measure, t1
from synthetic_model import SYNTHETIC_MODEL
from tiny_pipeline import make_model


def test_t1_is_the_mean_over_classes():
    strengths = torch.eye(2)
    scores = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert t1(scores, np.array([0, 0, 0, 1]), strengths) == 50


def test_photos_of_a_class_name_its_other_images():
    """Where scores follow the class and a description is that of another, photos are right and it is not."""
    model, random = make_model(), np.random.default_rng(0)
    num_classes, num_attributes = 4, len(model.config.attribute_names)
    centres = torch.tensor(random.normal(size=(num_classes, num_attributes)), dtype=torch.float32)
    labels = np.repeat(np.arange(num_classes), 30)
    scores = centres[labels] + 0.01 * torch.randn(len(labels), num_attributes)
    statistics = torch.stack([scores.mean(dim=0), scores.std(dim=0)])
    model.set_attribute_calibration(torch.tensor([[1.0], [0.0]]).expand(2, num_attributes), statistics)
    described = torch.stack([model.strengths_in_images(scores[labels == label]) for label in range(num_classes)])
    figures = measure(model, scores, labels, described.roll(1, dims=0))
    assert {len(values) for values in figures.values()} == {10}
    assert np.mean(figures["20 photos"]) > np.mean(figures["description"]) + 20
    assert np.mean(figures["description and 20 photos"]) > np.mean(figures["description and 1 photos"])


@pytest.mark.slow
def test_on_the_synthetic_birds(tmp_path, capsys):
    main(["--model", str(SYNTHETIC_MODEL), "--dataset", "synthetic_birds", "--output_dir", str(tmp_path)])
    figures = json.loads((tmp_path / "photos.json").read_text())["T1"]
    assert "T1 of" in capsys.readouterr().out and len(figures) == 7
    assert all(0 < value <= 100 for values in figures.values() for value in values)
