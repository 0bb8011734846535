"""Any vision backbone of transformers or timm, and the feature map that it makes of images."""

import importlib
import inspect
import math

import torch
from transformers import AutoBackbone, AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.models.efficientnet.modeling_efficientnet import EfficientNetSqueezeExciteLayer
from transformers.utils import logging

logger = logging.get_logger(__name__)


# Families whose last hidden state is tokens, and how many stand before those of the patches: class and distillation
# tokens. Families with a backbone class put the grid together themselves.
_FIRST_TOKENS = {
    **dict.fromkeys(("aimv2_vision_model", "donut-swin", "hiera", "idefics3_vision", "ijepa", "levit"), 0),
    **dict.fromkeys(("sam3_vit_model", "siglip_vision_model", "smolvlm_vision", "vitpose_backbone"), 0),
    **dict.fromkeys(
        ("chinese_clip_vision_model", "clip_vision_model", "data2vec-vision", "dpt", "internvl_vision"), 1
    ),
    **dict.fromkeys(("mlcd_vision_model", "pvt", "qianfan_ocr_vision", "vit", "vit_msn", "yolos"), 1),
    "deit": 2,
}
# Pixels from one token to the next, where there are several stages; elsewhere it is `patch_size`.
_TOKEN_STRIDES = {
    "donut-swin": lambda config: config.patch_size * 2 ** (len(config.depths) - 1),
    "hiera": lambda config: config.patch_stride[0] * config.query_stride[0] ** config.num_query_pool,
    "levit": lambda config: config.patch_size * 2 ** (len(config.hidden_sizes) - 1),
    "pvt": lambda config: math.prod(config.strides),
}
# Families that need more than images, though their signature does not say so.
_IMAGES_AND = {
    **dict.fromkeys(("efficientloftr", "lightglue"), "pairs of images"),
    **dict.fromkeys(("minicpm_ocr_vision", "minicpmv4_7_vision"), "target_sizes"),
}
# Families whose position embeddings are for images of `image_size` and no others.
_ONE_IMAGE_SIZE = {
    "aimv2_vision_model",
    "chinese_clip_vision_model",
    "clip_vision_model",
    "deit",
    "hiera",
    "ijepa",
    "levit",
    "pvt",
    "sam_hq_vision_model",
    "sam_vision_model",
    "sam3_vit_model",
    "siglip_vision_model",
    "vit",
    "vit_msn",
    "vitpose_backbone",
}


def backbone_class(config):
    """
    The auto class that builds a backbone from this config: [`AutoBackbone`] where it can, else [`AutoModel`].

    Raises:
        ValueError: If transformers builds no model from it that takes images alone and gives what is where in them.
        ImportError: If it is a timm model and timm cannot be imported.
    """
    name = type(config).__name__
    if getattr(config, "vision_config", None) is not None:
        raise ValueError(f"A {name} is of more than a vision model: take its `vision_config` for a backbone.")
    if getattr(config, "backbone_config", None) is not None:
        raise ValueError(f"A {name} is of a model around a backbone: take its `backbone_config` for a backbone.")
    if config.model_type == "vit_mae":
        raise ValueError(
            "A ViTMAEModel hides most patches of an image and shuffles the others: load its folder with "
            "`ViTModel.from_pretrained`, save that, and take it for a backbone."
        )
    if config.model_type in ("gemma3n_vision", "timm_backbone", "timm_wrapper"):
        _import_timm()
    # HieraBackbone leaves out what puts the patches into the order that its windows need.
    auto_classes = (AutoModel,) if config.model_type == "hiera" else (AutoBackbone, AutoModel)
    auto_class = next((auto for auto in auto_classes if type(config) in auto._model_mapping), None)
    if auto_class is None:
        raise ValueError(
            f"transformers builds no model from a {name} alone: it cannot be a backbone. Take another one."
        )
    model_class = auto_class._model_mapping[type(config)]
    if isinstance(model_class, tuple):
        model_class = model_class[0]
    first, *others = list(inspect.signature(model_class.forward).parameters.values())[1:]
    needed = [first.name] + [
        other.name for other in others if other.default is other.empty and other.kind is other.POSITIONAL_OR_KEYWORD
    ]
    if needed == ["pixel_values"]:
        needed = ["videos"] if hasattr(config, "num_frames") else [_IMAGES_AND.get(config.model_type, "pixel_values")]
    if needed != ["pixel_values"]:
        raise ValueError(
            f"A {model_class.__name__} needs {', '.join(needed)}, but a backbone is given images alone. Take another."
        )
    return auto_class


def _import_timm():
    try:
        importlib.import_module("timm")
    except Exception as error:  # a torchvision that does not go with this torch raises what it likes
        raise ImportError(
            f"A timm backbone needs timm and the torchvision that goes with this torch ({error}): "
            "pip install 'dedn-hf[timm]'."
        ) from error


def load_backbone(pretrained_model_name_or_path: str) -> PreTrainedModel:
    """
    A pretrained vision backbone in float32 and evaluation mode, for [`backbone_feature_map`]. Of a model of images and
    texts, such as CLIP, it is the vision tower.

    Args:
        pretrained_model_name_or_path (`str`):
            Folder or Hub id of a transformers vision model, which may be a timm model.

    Raises:
        ValueError: If it cannot be a backbone (see [`backbone_class`]), or weights are missing or have another shape;
            names them. A classifier, a pooler and what else comes after the feature map is not needed.
        ImportError: If it is a timm model and timm cannot be imported.
    """
    entries, _ = PretrainedConfig.get_config_dict(pretrained_model_name_or_path)
    if "pretrained_cfg" in entries:
        _import_timm()  # which its config needs already
    config = AutoConfig.from_pretrained(pretrained_model_name_or_path)
    if type(getattr(config, "vision_config", None)) in AutoModel._model_mapping:
        config = config.vision_config
    # AutoBackbone.from_pretrained asks the Hub even about a folder, so the class that it stands for loads the weights.
    model_class = backbone_class(config)._model_mapping[type(config)]
    backbone, report = _load_with_report(model_class, pretrained_model_name_or_path, config)
    missing = {
        key for key in report["missing_keys"] if not key.startswith("pooler.") and not key.endswith("batches_tracked")
    }
    # Norms after the last stage, which backbone classes have and most checkpoints lack. They start as the identity
    # after normalisation.
    norms = {key for key in missing if key.startswith("hidden_states_norms.")}
    if norms and config.model_type in ("dinat", "swin"):
        plain, _ = _load_with_report(AutoModel._model_mapping[type(config)], pretrained_model_name_or_path, config)
        backbone.hidden_states_norms[config.out_features[-1]].load_state_dict(plain.layernorm.state_dict())
    elif norms:
        logger.warning(
            f"{pretrained_model_name_or_path} has no {', '.join(sorted(norms))}: the feature maps of "
            f"{model_class.__name__} are normalised without learned scales, as they are by AutoBackbone."
        )
    wrong = sorted(missing - norms) + [
        f"{key} (of shape {tuple(found)} where the config says {tuple(expected)})"
        for key, found, expected in sorted(report["mismatched_keys"])
    ]
    if wrong:
        some = ", ".join(wrong[:3]) + (", …" if len(wrong) > 3 else "")
        raise ValueError(
            f"{pretrained_model_name_or_path} lacks {len(wrong)} weights of {model_class.__name__}: {some}. Save the "
            "whole model there, with its own config."
        )
    skip_open_gates(backbone)
    return backbone.eval()


class _SkippableGate(EfficientNetSqueezeExciteLayer):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states if self._is_open() else super().forward(hidden_states)

    def _is_open(self) -> bool:
        weight, bias = self.expand.weight, self.expand.bias
        # Of parameters that are trained, data-parallel training waits for a gradient, though it be zero.
        trained = torch.is_grad_enabled() and (weight.requires_grad or bias.requires_grad)
        on_cpu = type(weight) is torch.nn.Parameter and weight.device.type == "cpu"
        if trained or not on_cpu or not can_look_at_values():
            return False
        return not weight.any() and bool((bias.sigmoid() == 1).all())


def skip_open_gates(backbone: PreTrainedModel):
    """
    Has the gates of an EfficientNet (squeeze and excitation) left out on a CPU where each is exactly 1, whatever the
    image. EfficientNet-Lite has no gates; in transformers' class they stand there open, change nothing, and cost time.
    """
    for module in backbone.modules():
        if type(module) is EfficientNetSqueezeExciteLayer:
            module.__class__ = _SkippableGate


def can_look_at_values() -> bool:
    """A look at the values would break a graph apart, and is none that `torch.func.vmap` can give."""
    return not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())


def _load_with_report(model_class, path: str, config) -> tuple[PreTrainedModel, dict]:
    # transformers prints its report, which is mostly of a classifier's weights, that nothing here needs.
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return model_class.from_pretrained(
            path, config=config, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True
        )
    finally:
        logging.set_verbosity(verbosity)


def backbone_feature_map(backbone: PreTrainedModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """
    The last feature map of any transformers vision backbone, timm models among them.

    Args:
        backbone (`PreTrainedModel`):
            A backbone class, or a model whose `last_hidden_state` is a map `(B, C, H, W)` or tokens `(B, N, C)` row by
            row. Tokens that are of no patch (class, distillation, register and detection tokens) are dropped, as many
            as the config says.
        pixel_values (`torch.Tensor` of shape `(B, 3, height, width)`):
            Preprocessed images.

    Returns:
        `torch.Tensor` of shape `(B, C, H, W)`.

    Raises:
        ValueError: If the backbone's position embeddings are for another image size, or it is not known, or not as the
            config says, which of its tokens are where in the image.
    """
    config, name = backbone.config, type(backbone).__name__
    height, width = pixel_values.shape[2:]
    if config.model_type in _ONE_IMAGE_SIZE:
        size = config.image_size
        size = (size, size) if isinstance(size, int) else tuple(size)
        if (height, width) != size:
            raise ValueError(
                f"The position embeddings of this {name} are for images of {size[0]} × {size[1]} pixels, but these "
                f"have {height} × {width}: use that image size, or a backbone that takes any, such as DINOv2."
            )
    if config.model_type == "rf_detr_dinov2" and height != width:
        raise ValueError(f"{name} mixes up the windows of an image that is no square: use square images.")
    # The timm model within, if any.
    timm_model = getattr(backbone, "timm_model", getattr(backbone, "_backbone", None))
    if timm_model is None:
        output = backbone(pixel_values)
    else:
        try:
            output = backbone(pixel_values, **({"do_pooling": False} if hasattr(backbone, "timm_model") else {}))
        except AssertionError as error:
            raise ValueError(
                f"The timm model in this {name} takes no images of {height} × {width} pixels: {error} Use its size."
            ) from error

    feature_map = output.feature_maps if "feature_maps" in output else output.get("last_hidden_state")
    if isinstance(feature_map, (list, tuple)):
        feature_map = feature_map[-1]
    if feature_map is None:
        raise ValueError(f"{name} gives {', '.join(output)}, but no feature map. Take another backbone.")
    if feature_map.dim() == 3 and len(feature_map) == len(pixel_values):
        return _tokens_on_grid(backbone, timm_model, feature_map, height, width)
    if getattr(timm_model, "output_fmt", None) == "NHWC" and feature_map.dim() == 4:
        feature_map = feature_map.permute(0, 3, 1, 2)
    # Of what is no backbone class, channels may be last: a region is as high as it is wide, but for the edges.
    if feature_map.dim() != 4 or (
        "feature_maps" not in output
        and abs(feature_map.shape[2] * width - feature_map.shape[3] * height) > height + width
    ):
        raise ValueError(
            f"{name} gives something of shape {tuple(feature_map.shape)} for {len(pixel_values)} images of {height} × "
            f"{width} pixels, which is no feature map (B, C, H, W). Take another backbone."
        )
    return feature_map


def _tokens_on_grid(backbone, timm_model, tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    config, name = backbone.config, type(backbone).__name__
    family, last = config.model_type, 0
    if getattr(timm_model, "feature_info", None):
        first, stride = getattr(timm_model, "num_prefix_tokens", 0), timm_model.feature_info[-1]["reduction"]
    elif family == "radio":
        first, stride = config.num_cls_tokens + config.num_registers, config.patch_size
    elif family in _FIRST_TOKENS:
        first, last = _FIRST_TOKENS[family], getattr(config, "num_detection_tokens", 0)
        stride = _TOKEN_STRIDES.get(family, lambda config: config.patch_size)(config)
    else:
        raise ValueError(
            f"{name} gives {tokens.shape[1]} tokens, and it is not known which tokens of a {family} model are where "
            "in an image. Take a backbone that gives a feature map, such as a ResNet or DINOv2."
        )
    strides = (stride, stride) if isinstance(stride, int) else stride
    # Those of several stages fill up an image that has no whole number of patches, the others cut it off.
    filled = timm_model is not None or family in _TOKEN_STRIDES
    rows, columns = (-(-side // s) if filled else side // s for side, s in zip((height, width), strides))
    if tokens.shape[1] != first + rows * columns + last:
        raise ValueError(
            f"{name} gives {tokens.shape[1]} tokens for an image of {height} × {width} pixels, but by its config it "
            f"should be {first} + {rows} × {columns} + {last}. Take another backbone, or another image size."
        )
    return tokens[:, first : first + rows * columns].transpose(1, 2).unflatten(2, (rows, columns))


__all__ = ["backbone_class", "backbone_feature_map", "can_look_at_values", "load_backbone", "skip_open_gates"]
