"""A pipeline small enough for any test, and images for it."""

import numpy as np
import torch
from PIL import Image
from tiny_model import make_tiny_model
from transformers import CLIPImageProcessorPil, ResNetConfig, pipeline

TASK = "zero-shot-attribute-classification"
BACKBONE = ResNetConfig(
    embedding_size=4, hidden_sizes=[4, 6], depths=[1, 1], layer_type="basic", out_features=["stage2"]
)


def make_model(**changes):
    model = make_tiny_model(backbone_config=BACKBONE, **changes)
    model.set_attribute_calibration(torch.stack([torch.linspace(0.2, 0.5, 7), torch.linspace(-1, 1, 7)]))
    return model


def make_processor():
    return CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size=24, resample=2)


def make_classifier(**parameters):
    return pipeline(TASK, model=make_model(), image_processor=make_processor(), device="cpu", **parameters)


def make_image(seed=0, width=40, height=30):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def check_same(first, second):
    """Two results are the same but for rounding."""
    assert set(first) == set(second)
    assert first.get("crop") == second.get("crop")
    for part in ("labels", "attributes"):
        assert [entry["label"] for entry in first[part]] == [entry["label"] for entry in second[part]]
        for entry, other in zip(first[part], second[part], strict=True):
            assert set(entry) == set(other)
            for key in {"score", "contribution", "attention"} & set(entry):
                assert type(entry[key]) is type(other[key])
                np.testing.assert_allclose(entry[key], other[key], atol=1e-5, rtol=1e-4)
