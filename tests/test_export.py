import pytest
import torch
from tiny_model import make_tiny_model
from transformers import CONFIG_MAPPING

from dedn_hf.export import ExportableDedn, export_onnx


@pytest.fixture
def model():
    """With a backbone, so that images go in: 24 pixels to a grid of 3 × 3."""
    backbone = CONFIG_MAPPING["resnet"](
        embedding_size=4, hidden_sizes=[4, 6], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    return make_tiny_model(backbone_config=backbone, grid_size=3, calibration=0.7).eval()


def test_scores_are_the_models_own(model):
    images = torch.randn(3, 3, 24, 24)
    logits, attribute_scores = ExportableDedn(model)(images, model.class_attributes, model.seen_classes)
    expected = model(images)
    torch.testing.assert_close(logits, expected.logits)
    torch.testing.assert_close(attribute_scores, expected.attribute_scores)


def test_onnx_agrees_for_other_batch_sizes_and_new_classes(model, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra [export]")
    export_onnx(model, tmp_path / "dedn.onnx", image_size=24)
    session = onnxruntime.InferenceSession(tmp_path / "dedn.onnx")

    for batch_size, num_classes in ((1, 5), (4, 9)):
        images = torch.randn(batch_size, 3, 24, 24)
        class_attributes, seen = torch.rand(num_classes, 7), torch.arange(num_classes) % 2 == 0
        feed = {"images": images, "class_attributes": class_attributes, "seen_classes": seen}
        scores = session.run(None, {name: tensor.numpy() for name, tensor in feed.items()})
        with torch.no_grad():
            expected = ExportableDedn(model)(images, class_attributes, seen)
        for ours, theirs in zip(scores, expected):
            torch.testing.assert_close(torch.from_numpy(ours), theirs, rtol=1e-4, atol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["dedn.onnx"]


def test_a_model_with_a_backbone_needs_an_image_size(model, tmp_path):
    with pytest.raises(ValueError, match="image_size"):
        export_onnx(model, tmp_path / "dedn.onnx")
