import numpy as np
import pytest
import torch
from tiny_model import make_tiny_model

from dedn_hf.export import ExportableDedn, export_onnx


def test_exported_scores_are_the_models_own():
    model = make_tiny_model().eval()
    config = model.config
    feature_map = torch.randn(3, config.feature_channels, config.grid_size, config.grid_size)
    logits, attribute_scores = ExportableDedn(model)(feature_map, model.class_attributes, model.seen_classes)
    expected = model(feature_map=feature_map)
    torch.testing.assert_close(logits, expected.logits)
    torch.testing.assert_close(attribute_scores, expected.attribute_scores)
