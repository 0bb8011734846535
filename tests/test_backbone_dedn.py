"""Every vision family of the installed transformers as a backbone: a grid in the right order, or a refusal."""

import copy
import re
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_backbones import FAMILIES, ONE_IMAGE_SIZE, image_size, make_tiny_backbone, takes_any_size
from tiny_model import gradients, make_tiny_config, make_tiny_model
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModel,
    CLIPConfig,
    CLIPModel,
    ConvNextConfig,
    ConvNextForImageClassification,
    Dinov2Config,
    HieraModel,
    ResNetForImageClassification,
    SwinForImageClassification,
    SwinModel,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    ViTModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING_NAMES, MODEL_MAPPING_NAMES
from transformers.models.efficientnet.modeling_efficientnet import EfficientNetSqueezeExciteLayer

from dedn_hf import DednModel
from dedn_hf.backbone_dedn import backbone_class, backbone_feature_map, load_backbone, skip_open_gates

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
# Families whose model takes images alone and gives no grid: the feature map is refused, not the config.
REFUSED_WHEN_CALLED = {"depth_pro", "granite_docling_vision", "mgp-str", "pixtral", "sam2_hiera_det_model"}
# Those whose patches neither overlap nor go through a convolution.
PATCHES = [family for family, (kwargs, stride) in FAMILIES.items() if "patch_size" in kwargs and stride == 8]
PATCHES = [
    family for family in PATCHES if family not in ("sam_hq_vision_model", "sam_vision_model", "vitpose_backbone")
]
# natten is needed, which no test can count on; regions that are no squares, which no DednModel takes.
UNTRIED = {"dinat", "pp_lcnet_v4"}


@torch.no_grad()
def shares_of_quarters(backbone, height, width):
    """How much of what changes in each quarter of the map (columns) is due to each quarter of the image (rows)."""
    torch.manual_seed(1)
    pixel_values = torch.randn(2, 3, height, width)
    before = backbone_feature_map(backbone, pixel_values)
    changes = []
    for rows in (slice(height // 2), slice(height // 2, None)):
        for columns in (slice(width // 2), slice(width // 2, None)):
            changed = pixel_values.clone()
            changed[:, :, rows, columns] += torch.randn_like(changed[:, :, rows, columns])
            change = (backbone_feature_map(backbone, changed) - before).square().sum((0, 1)).double()
            changes.append(change.unflatten(1, (2, -1)).unflatten(0, (2, -1)).sum((1, 3)).flatten())
    changes = torch.stack(changes)
    shares = changes / changes.sum(1, keepdim=True)
    return before.shape, shares / shares.sum(0)


@pytest.mark.parametrize("family", FAMILIES)
def test_grid_is_where_it_is_in_the_image(family):
    backbone = make_tiny_backbone(family)
    stride = FAMILIES[family][1]
    sizes = {image_size(backbone)}
    if takes_any_size(backbone) and stride == 8 and family != "rf_detr_dinov2":
        sizes.add(image_size(backbone, 8, 16))
    for height, width in sizes:
        shape, shares = shares_of_quarters(backbone, height, width)
        assert shape[2:] == (height // stride, width // stride)
        others = shares.masked_fill(torch.eye(4, dtype=torch.bool), 0).amax(0)
        assert (shares.diag() > 1.3 * others).all(), shares


@pytest.mark.parametrize("family", PATCHES)
def test_each_patch_is_at_its_place(family):
    """The patches of a random model stay what they are, but for a little that others add."""
    torch.manual_seed(0)
    stride = FAMILIES[family][1]
    config = AutoConfig.for_model(family, **FAMILIES[family][0])
    backbone = backbone_class(config).from_config(config).eval()
    height, width = image_size(backbone, 4, 4)
    rows, columns = height // stride, width // stride
    images = torch.randn(1, 3, height, width).repeat(rows * columns, 1, 1, 1)
    with torch.no_grad():
        before = backbone_feature_map(backbone, images)
        for place, image in enumerate(images):
            row, column = place // columns * stride, place % columns * stride
            image[:, row : row + stride, column : column + stride] += torch.randn(3, stride, stride)
        change = (backbone_feature_map(backbone, images) - before).square().sum(1).flatten(1)
    right = (change.argmax(1) == torch.arange(rows * columns)).float().mean()
    assert right >= 0.8


@pytest.mark.slow  # imports most of transformers
@pytest.mark.skipif(transformers.__version__ != "5.23.0", reason="the families are those of transformers 5.23.0")
def test_every_family_is_tried_or_refused():
    accepted, unclear = set(), {}
    for family in CONFIG_MAPPING:
        if family in MODEL_MAPPING_NAMES or family in MODEL_FOR_BACKBONE_MAPPING_NAMES:
            try:
                config = CONFIG_MAPPING[family]()
            except Exception:  # a config that has no defaults
                continue
            try:
                backbone_class(config)
                accepted.add(config.model_type)
            except (ValueError, ImportError):
                pass
            except Exception as error:
                unclear[family] = error
    assert not unclear
    timm = {"gemma3n_vision", "timm_backbone", "timm_wrapper"}
    assert accepted - timm == set(FAMILIES) | REFUSED_WHEN_CALLED | UNTRIED


@pytest.mark.parametrize(
    ("family", "arguments", "message"),
    [
        ("bert", {}, r"^A BertModel needs input_ids, but a backbone is given images alone\. Take another\.$"),
        ("clip", {}, r"^A CLIPConfig is of more than a vision model: take its `vision_config`"),
        ("detr", {}, r"^A DetrConfig is of a model around a backbone: take its `backbone_config`"),
        ("imagegpt", {}, r"^A ImageGPTModel needs input_ids"),
        ("metaclip_2_vision_model", {}, r"^transformers builds no model from a MetaClip2VisionConfig alone"),
        (
            "siglip2_vision_model",
            {},
            r"^A Siglip2VisionModel needs pixel_values, pixel_attention_mask, spatial_shapes,",
        ),
        ("efficientloftr", {}, r"^A EfficientLoFTRModel needs pairs of images,"),
        ("videomae", {}, r"^A VideoMAEModel needs videos,"),
        ("vit_mae", {}, r"^A ViTMAEModel hides most patches .* load its folder with `ViTModel\.from_pretrained`"),
    ],
)
def test_what_gives_no_grid_is_refused_by_its_config(family, arguments, message):
    config = AutoConfig.for_model(family, **arguments)
    with pytest.raises(ValueError, match=message):
        backbone_class(config)
    with pytest.raises(ValueError, match=message):
        DednModel(make_tiny_config(backbone_config=config))


@pytest.mark.parametrize(
    ("family", "arguments", "message"),
    [
        (
            "pixtral",
            {"head_dim": 8},
            r"gives something of shape \(1, 32, 16\) for 2 images of 32 × 32 pixels, which is no",
        ),
        (
            "granite_docling_vision",
            {},
            r"gives 16 tokens, and it is not known which tokens of a granite_docling_vision",
        ),
        ("mgp-str", {"image_size": [32, 32]}, r"gives .*logits, but no feature map"),
    ],
)
def test_what_gives_no_grid_is_refused_when_called(family, arguments, message):
    config = AutoConfig.for_model(family, **TINY | {"image_size": 32, "patch_size": 8} | arguments)
    backbone = backbone_class(config).from_config(config).eval()
    with torch.no_grad(), pytest.raises(ValueError, match=message):
        backbone_feature_map(backbone, torch.zeros(2, 3, 32, 32))


@pytest.mark.parametrize("family", ONE_IMAGE_SIZE)
def test_other_image_size_is_refused(family):
    backbone = make_tiny_backbone(family)
    size, _ = image_size(backbone)
    message = (
        rf"^The position embeddings of this \w+ are for images of {size} × {size} pixels, but these have {size} × 48"
    )
    with pytest.raises(ValueError, match=message):
        backbone_feature_map(backbone, torch.zeros(1, 3, size, 48))


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in ONE_IMAGE_SIZE])
def test_other_image_size_gives_another_grid(family):
    backbone = make_tiny_backbone(family)
    height, width = image_size(backbone, 8, 4)
    if family == "rf_detr_dinov2":
        with pytest.raises(ValueError, match="mixes up the windows of an image that is no square: use square images"):
            backbone_feature_map(backbone, torch.zeros(1, 3, height, width))
        return
    with torch.no_grad():
        assert backbone_feature_map(backbone, torch.zeros(2, 3, height, width)).shape[2:] == (8, 4)


def test_tokens_that_are_not_as_the_config_says_are_refused():
    backbone = make_tiny_backbone("vit")
    backbone.config.patch_size = 4
    with torch.no_grad(), pytest.raises(ValueError, match=r"gives 17 tokens .* it should be 1 \+ 8 × 8 \+ 0\."):
        backbone_feature_map(backbone, torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("family", "first"), [("dinov2_with_registers", 9), ("radio", 10), ("deit", 2), ("yolos", 1), ("sapiens2", 9)]
)
def test_tokens_that_are_of_no_patch_are_dropped(family, first):
    """Also where another number of them would leave a square."""
    backbone = make_tiny_backbone(family)
    plain = AutoModel.from_config(backbone.config).eval()
    plain.load_state_dict(backbone.state_dict())
    pixel_values = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tokens = plain(pixel_values).last_hidden_state
        feature_map = backbone_feature_map(backbone, pixel_values)
    torch.testing.assert_close(feature_map.flatten(2).mT, tokens[:, first : first + 16])


@pytest.mark.parametrize("bias", [40.0, 10.0, "not the first"])
def test_gates_that_are_open_are_left_out_and_no_others(bias):
    """As EfficientNet-Lite has them in transformers' class; the map is the same, whatever is left out."""
    plain = make_tiny_backbone("efficientnet")
    gates = [module for module in plain.modules() if isinstance(module, EfficientNetSqueezeExciteLayer)]
    for gate in gates:
        torch.nn.init.zeros_(gate.expand.weight)
        torch.nn.init.constant_(gate.expand.bias, 40.0 if bias == "not the first" else bias)
    if bias == "not the first":
        gates[0].expand.weight.data[0] = 1.0
    skipping = copy.deepcopy(plain)
    skip_open_gates(skipping)
    asked = []
    for number, gate in enumerate(module for module in skipping.modules() if "Gate" in type(module).__name__):
        gate.reduce.register_forward_hook(lambda *_, number=number: asked.append(number))
    pixel_values = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = backbone_feature_map(plain, pixel_values)
        assert torch.equal(backbone_feature_map(skipping, pixel_values), expected)
    assert len(gates) > 1 and asked == {40.0: [], 10.0: list(range(len(gates))), "not the first": [0]}[bias]
    # Trained along, each parameter gets its gradient, as data-parallel training wants it.
    backbone_feature_map(skipping, pixel_values).sum().backward()
    of_a_gate = {name for name, _ in skipping.named_parameters() if ".squeeze_excite." in name}
    assert of_a_gate and of_a_gate <= set(gradients(skipping))
    # Weights that are loaded later are looked at.
    torch.nn.init.ones_(gates[0].expand.weight)
    skipping.load_state_dict(plain.state_dict())
    with torch.no_grad():
        assert torch.equal(backbone_feature_map(skipping, pixel_values), backbone_feature_map(plain, pixel_values))


def test_loads_without_a_word_about_a_classifier(tmp_path, caplog, capfd):
    verbosity = transformers.logging.get_verbosity()
    for name, model in (
        ("vit", ViTForImageClassification(ViTConfig(**TINY, image_size=32, patch_size=8))),
        ("resnet", ResNetForImageClassification(make_tiny_backbone("resnet").config)),
    ):
        model.save_pretrained(tmp_path / name)
        caplog.clear()
        capfd.readouterr()
        transformers.logging.enable_propagation()
        try:
            backbone = load_backbone(tmp_path / name)
        finally:
            transformers.logging.disable_propagation()
        assert not caplog.records and "REPORT" not in "".join(capfd.readouterr())
        pixel_values = torch.randn(1, 3, 32, 32)
        body = getattr(model, name).eval()
        expected = body(pixel_values).last_hidden_state
        if name == "vit":
            expected = expected[:, 1:].mT.unflatten(2, (4, 4))
        torch.testing.assert_close(backbone_feature_map(backbone, pixel_values), expected)
    assert transformers.logging.get_verbosity() == verbosity


def test_missing_and_reshaped_weights_are_named(tmp_path):
    ViTModel(ViTConfig(**TINY, image_size=32, patch_size=8)).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    state["layernorm.weight"] = torch.ones(3)
    del state["embeddings.cls_token"]
    save_file(state, file, metadata={"format": "pt"})
    message = (
        r"lacks 2 weights of ViTModel: embeddings\.cls_token, layernorm\.weight \(of shape \(3,\) where the config"
    )
    with pytest.raises(ValueError, match=message):
        load_backbone(tmp_path)


def test_half_precision_checkpoint_is_computed_in_float32(tmp_path):
    ViTModel(ViTConfig(**TINY, image_size=32, patch_size=8)).half().save_pretrained(tmp_path)
    backbone = load_backbone(tmp_path)
    assert backbone.dtype == torch.float32
    assert backbone_feature_map(backbone, torch.randn(1, 3, 32, 32)).isfinite().all()


def test_tower_of_a_clip_folder(tmp_path):
    vision = TINY | {"image_size": 32, "patch_size": 8}
    text = TINY | {"vocab_size": 50, "max_position_embeddings": 10}
    clip = CLIPModel(CLIPConfig(vision_config=vision, text_config=text)).eval()
    clip.save_pretrained(tmp_path)
    backbone = load_backbone(tmp_path)
    pixel_values = torch.randn(1, 3, 32, 32)
    tokens = clip.vision_model(pixel_values).last_hidden_state
    torch.testing.assert_close(backbone_feature_map(backbone, pixel_values).flatten(2).mT, tokens[:, 1:])
    model = make_tiny_model(feature_channels=16, grid_size=4)
    model.set_backbone(backbone)
    logits = model(pixel_values).logits
    model.save_pretrained(tmp_path / "dedn")
    # But for rounding: a matrix product goes by where in memory the weights of a file happen to lie.
    torch.testing.assert_close(DednModel.from_pretrained(tmp_path / "dedn")(pixel_values).logits, logits)


def test_swin_keeps_its_last_norm(tmp_path):
    """Its backbone class has a norm of its own, which no checkpoint has."""
    model = SwinForImageClassification(make_tiny_backbone("swin").config).eval()
    torch.nn.init.normal_(model.swin.layernorm.weight)
    model.save_pretrained(tmp_path)
    pixel_values = torch.randn(1, 3, 32, 32)
    expected = model.swin(pixel_values).last_hidden_state
    assert isinstance(model.swin, SwinModel)
    feature_map = backbone_feature_map(load_backbone(tmp_path), pixel_values)
    torch.testing.assert_close(feature_map.flatten(2).mT, expected)


def test_norms_that_no_checkpoint_has_are_told(tmp_path, caplog):
    config = ConvNextConfig(**FAMILIES["convnext"][0])
    ConvNextForImageClassification(config).save_pretrained(tmp_path)
    transformers.logging.enable_propagation()
    try:
        load_backbone(tmp_path)
    finally:
        transformers.logging.disable_propagation()
    assert "has no hidden_states_norms.stage2.bias, hidden_states_norms.stage2.weight: the feature" in caplog.text


def test_masked_autoencoder_as_a_vit(tmp_path):
    """The way out that its refusal names."""
    mae = ViTMAEForPreTraining(ViTMAEConfig(**TINY, image_size=32, patch_size=8, mask_ratio=0.0)).eval()
    mae.save_pretrained(tmp_path / "mae")
    with pytest.raises(ValueError, match=r"`ViTModel\.from_pretrained`"):
        load_backbone(tmp_path / "mae")
    ViTModel.from_pretrained(tmp_path / "mae").save_pretrained(tmp_path / "vit")
    pixel_values = torch.randn(1, 3, 32, 32)
    expected = mae.vit(pixel_values, noise=torch.arange(16.0)[None]).last_hidden_state[:, 1:]
    feature_map = backbone_feature_map(load_backbone(tmp_path / "vit"), pixel_values)
    torch.testing.assert_close(feature_map.flatten(2).mT, expected)


def test_hiera_is_the_model_and_not_the_backbone_class():
    assert isinstance(make_tiny_backbone("hiera"), HieraModel)


def make_trainable(family):
    torch.manual_seed(0)
    backbone = make_tiny_backbone(family)
    model = make_tiny_model(
        backbone_config=backbone.config, freeze_backbone=False, feature_channels=16, grid_size=4
    ).train()
    model.backbone.load_state_dict(backbone.state_dict())
    return model


@pytest.mark.parametrize("family", ["dinov2", "swin", "vit", "beit"])
def test_gradient_checkpointing_gives_the_same_gradients(family, monkeypatch):
    model = make_trainable(family)
    pixel_values, labels = torch.randn(3, 3, 32, 32), torch.tensor([0, 1, 3])
    model(pixel_values, labels=labels).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    with pytest.warns(FutureWarning, match="gradient_checkpointing_enable"):
        model.gradient_checkpointing_enable()
    calls, run = [], torch.utils.checkpoint._checkpoint_without_reentrant_generator
    monkeypatch.setattr(
        torch.utils.checkpoint,
        "_checkpoint_without_reentrant_generator",
        lambda *args, **kwargs: (calls.append(1), run(*args, **kwargs))[1],
    )
    model(pixel_values, labels=labels).loss.backward()
    assert calls
    found = gradients(model)
    assert set(found) == set(expected)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], msg=name)
    calls.clear()
    model.gradient_checkpointing_disable()
    model(pixel_values, labels=labels)
    assert not calls


def test_gradient_checkpointing_in_a_trainer(tmp_path):
    model = make_trainable("dinov2")
    images = [{"pixel_values": torch.randn(3, 32, 32), "labels": index % 2} for index in range(4)]
    args = TrainingArguments(
        tmp_path, gradient_checkpointing=True, max_steps=1, use_cpu=True, report_to="none", disable_tqdm=True
    )
    assert Trainer(model, args, train_dataset=images).train().training_loss > 0
    assert model.backbone.is_activation_checkpointing


def test_gradient_checkpointing_without_a_use_is_refused():
    message = r"saves memory in a backbone that is trained, but this model has none: leave it off"
    with pytest.warns(FutureWarning), pytest.raises(ValueError, match=message):
        make_tiny_model().gradient_checkpointing_enable()
    config = Dinov2Config(**FAMILIES["dinov2"][0])
    frozen = make_tiny_model(backbone_config=config, feature_channels=16, grid_size=4)
    with pytest.warns(FutureWarning), pytest.raises(ValueError, match=r"this model has a frozen one"):
        frozen.gradient_checkpointing_enable()
    with pytest.warns(FutureWarning), pytest.raises(ValueError, match=r"a ResNetBackbone has none: leave it off"):
        make_trainable("resnet").gradient_checkpointing_enable()
    for model in (make_tiny_model(), frozen):
        model.gradient_checkpointing_disable()


def test_the_page_lists_the_families():
    page = (Path(__file__).parent.parent / "docs" / "backbones.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", page, re.MULTILINE))
    expected = {family: "its own `image_size`" if family in ONE_IMAGE_SIZE else "any" for family in FAMILIES}
    assert {family: size.strip() for family, size in rows.items()} == expected
