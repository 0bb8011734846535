"""timm models as backbones, where timm and the torchvision that goes with torch are installed (`make test-timm`)."""

import importlib
import json

import pytest
import torch
from doc_pages import prepare_folder
from tiny_extraction import make_tiny_images, save_tiny_images
from tiny_model import gradients, make_tiny_model

try:
    timm = importlib.import_module("timm")
except Exception as error:
    pytest.skip(f"timm and torchvision cannot be imported here: {error}", allow_module_level=True)

from transformers import AutoImageProcessor, TimmBackboneConfig, TimmWrapperConfig, TimmWrapperModel, pipeline

from dedn_hf import DednModel
from dedn_hf.backbone_dedn import backbone_class, backbone_feature_map, load_backbone
from dedn_hf.features.extraction import extract_feature_maps
from dedn_hf.features.store import fingerprint_weights
from dedn_hf.images_dedn import crop_in_image

SWIN = {"depths": [1, 1], "embed_dim": 8, "num_heads": [1, 2], "img_size": 64, "window_size": 4}
# Architecture, its arguments, side of the image, side of the grid.
ARCHITECTURES = [
    ("test_resnet", {}, 256, 8),
    ("test_efficientnet", {}, 256, 8),
    ("test_convnext", {}, 256, 8),
    ("test_vit", {}, 160, 10),
    ("test_vit2", {}, 160, 10),
    ("deit_tiny_distilled_patch16_224", {"depth": 2}, 224, 14),
    ("vit_tiny_patch16_224", {"depth": 2, "reg_tokens": 8, "dynamic_img_size": True}, 64, 4),
    ("vit_base_patch16_siglip_224", {"depth": 1, "embed_dim": 32, "num_heads": 2}, 224, 14),
    ("swin_tiny_patch4_window7_224", SWIN, 64, 8),
    ("mambaout_femto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 16]}, 256, 8),
    ("hiera_tiny_224", {"stages": [1, 1, 1, 1], "embed_dim": 16}, 224, 7),
    ("mvitv2_tiny", {}, 224, 7),
]


def make_timm(architecture, model_args=None, **pretrained_cfg):
    torch.manual_seed(0)
    given = timm.get_pretrained_cfg(architecture).to_dict()
    given = {name: given[name] for name in ("input_size", "mean", "std", "crop_pct", "crop_mode", "interpolation")}
    config = TimmWrapperConfig.from_dict(
        {
            "architecture": architecture,
            "model_args": model_args or {},
            "num_classes": 2,
            "label_names": ["auk", "crow"],
            "pretrained_cfg": given | pretrained_cfg,
        }
    )
    return TimmWrapperModel(config).eval()


@pytest.fixture
def folder(tmp_path):
    """As timm's own on the Hub: no file of an image processor, and a mean that is not ImageNet's."""
    folder = tmp_path / "tiny_timm"
    make_timm("test_resnet", mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6]).save_pretrained(folder)
    assert not (folder / "preprocessor_config.json").exists()
    return str(folder)


@pytest.mark.parametrize(("architecture", "model_args", "size", "side"), ARCHITECTURES)
def test_grid_is_where_it_is_in_the_image(architecture, model_args, size, side):
    backbone = make_timm(architecture, model_args)
    norms = [module for module in backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for module in norms:
            module.momentum = 1.0
        if norms:
            backbone.train()(torch.randn(2, 3, size, size))
            backbone.eval()
        pixel_values = torch.randn(1, 3, size, size)
        before = backbone_feature_map(backbone, pixel_values)
        assert before.shape == (1, backbone.timm_model.num_features, side, side)
        # By corner: what share of the map's change is nearest to it.
        half = side // 2
        for bottom in (False, True):
            for right in (False, True):
                changed = pixel_values.clone()
                rows = slice(size // 2, None) if bottom else slice(size // 2)
                columns = slice(size // 2, None) if right else slice(size // 2)
                changed[:, :, rows, columns] += 2 * torch.randn_like(changed[:, :, rows, columns])
                change = (backbone_feature_map(backbone, changed) - before).square().sum((0, 1))
                quarters = change.new_tensor(
                    [
                        [change[r, c].mean() for c in (slice(half), slice(side - half, None))]
                        for r in (slice(half), slice(side - half, None))
                    ]
                )
                assert quarters.argmax() == 2 * bottom + right, quarters


def test_other_image_size_is_refused():
    with torch.no_grad(), pytest.raises(ValueError, match=r"takes no images of 64 × 64 pixels: .*224.* Use its size"):
        backbone_feature_map(make_timm("vit_tiny_patch16_224", {"depth": 1}), torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize("architecture", ["volo_d1_224", "pit_ti_224", "crossvit_9_240"])
def test_what_is_no_grid_is_refused(architecture):
    backbone = make_timm(architecture)
    size = timm.get_pretrained_cfg(architecture).input_size[-1]
    with torch.no_grad(), pytest.raises(ValueError, match=r"Take another backbone"):
        backbone_feature_map(backbone, torch.zeros(1, 3, size, size))


def test_timm_backbone_class():
    config = TimmBackboneConfig(backbone="test_resnet", out_indices=[2, 4])
    backbone = backbone_class(config).from_config(config).eval()
    pixel_values = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = backbone._backbone(pixel_values)[-1]
        assert torch.equal(backbone_feature_map(backbone, pixel_values), expected)
    assert expected.shape[2:] == (2, 2)


def test_store_records_what_the_folder_says(folder, tmp_path):
    (tmp_path / "images").mkdir()
    save_tiny_images(tmp_path / "images")
    images = make_tiny_images(tmp_path / "images")
    store = extract_feature_maps(images, folder, 160, tmp_path / "store", "birds", batch_size=4, num_workers=0)
    assert store.metadata["backbone"] == "tiny_timm" and store.metadata["image_size"] == 160
    processor = store.metadata["processor"]
    assert (processor["image_mean"], processor["image_std"]) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    assert processor["size"] == {"shortest_edge": 160} and store.shape == (96, 5, 5)
    backbone = load_backbone(folder)
    store.require(backbone_sha256=fingerprint_weights(backbone))
    row = images[2]
    pixel_values = store.image_processor(row["image"].convert("RGB"), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = backbone_feature_map(backbone, pixel_values)[0]
    found = store.select([row["image_id"]])[0]["feature_map"].float()
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)

    with pytest.raises(ValueError, match=r"takes no images of 64 × 64 pixels"):
        make_timm("vit_tiny_patch16_224", {"depth": 1}).save_pretrained(tmp_path / "vit")
        extract_feature_maps(images, str(tmp_path / "vit"), 64, tmp_path / "other", "birds")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("architecture", "model_args", "size", "side"),
    [entry for entry in ARCHITECTURES if entry[0] in ("test_vit", "test_vit2") or entry[1] is SWIN],
)
def test_model_with_it_is_saved_and_loaded(architecture, model_args, size, side, tmp_path):
    """Also where it has tables that no checkpoint holds, such as a Swin's windows."""
    backbone = make_timm(architecture, model_args)
    model = make_tiny_model(feature_channels=backbone.timm_model.num_features, grid_size=side)
    model.set_backbone(backbone)
    pixel_values = torch.randn(2, 3, size, size)
    logits = model(pixel_values).logits
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["backbone_config"]["model_type"] == "timm_wrapper"
    torch.testing.assert_close(DednModel.from_pretrained(tmp_path)(pixel_values).logits, logits)


def test_trained_along_with_gradient_checkpointing():
    backbone = make_timm("test_vit")
    model = make_tiny_model(
        backbone_config=backbone.config, freeze_backbone=False, feature_channels=64, grid_size=10
    ).train()
    pixel_values, labels = torch.randn(2, 3, 160, 160), torch.tensor([0, 3])
    model(pixel_values, labels=labels).loss.backward()
    expected = gradients(model)
    assert any(name.startswith("backbone.timm_model.blocks") for name in expected)
    model.zero_grad()
    with pytest.warns(FutureWarning):
        model.gradient_checkpointing_enable()
    assert model.backbone.timm_model.grad_checkpointing
    model(pixel_values, labels=labels).loss.backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


def test_pipeline_and_where_its_attention_lies(folder, tmp_path):
    (tmp_path / "images").mkdir()
    save_tiny_images(tmp_path / "images")
    model = make_tiny_model(feature_channels=96, grid_size=5)
    model.set_backbone(load_backbone(folder))
    own = AutoImageProcessor.from_pretrained(folder)
    half = 200 * 160 / 168 / 2  # 160 pixels out of the middle of 168
    assert crop_in_image(own, 336, 200) == pytest.approx((168 - half, 100 - half, 168 + half, 100 + half))
    classifier = pipeline("zero-shot-attribute-classification", model=model, image_processor=own)
    result = classifier(str(tmp_path / "images" / "0.jpg"), attention="image", top_attributes=2)
    assert sum(label["score"] for label in result["labels"]) == pytest.approx(1)
    assert result["attributes"][0]["attention"].sum() == pytest.approx(1, abs=1e-4)


def test_commands_from_photos_to_a_prediction(folder, tmp_path, dedn, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare_folder(tmp_path)
    data = ["--dataset", "folder", "--data_dir", "my_folder"]
    dedn("features", *data, "--backbone", folder, "--image_size", "64", "--output_dir", "store")
    dedn(
        *("train", *data, "--word_vectors", "random", "--feature_maps", "store", "--backbone", folder),
        *("--output_dir", "my_model", "--num_train_epochs", "1", "--use_cpu"),
    )
    assert DednModel.from_pretrained("my_model").config.backbone_config.model_type == "timm_wrapper"
    dedn("predict", "bird.png", "--model", "my_model", "--output", "birds.csv")
    assert len((tmp_path / "birds.csv").read_text().splitlines()) == 2
