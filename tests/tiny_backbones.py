"""A tiny configuration of every vision family of transformers that gives a grid, and what its grid is."""

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from dedn_hf.backbone_dedn import backbone_class

_VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
_PAIRS = _VIT | {"image_size": [32, 32], "patch_size": [8, 8]}
_SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2, "image_size": 32, "patch_size": 4}
_TWO_STAGES = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
_FOUR_STAGES = {"hidden_sizes": [8, 8, 8, 16], "depths": [1, 1, 1, 1]}
_PYRAMID = _FOUR_STAGES | {"num_attention_heads": [1, 1, 1, 2]}
_SAM = _VIT | {"output_channels": 8, "window_size": 2, "global_attn_indexes": [1], "num_pos_feats": 8}

# Model type → (arguments of its config, pixels between two regions).
FAMILIES = {
    "aimv2_vision_model": (_VIT, 8),
    "beit": (_VIT | {"use_relative_position_bias": True, "use_absolute_position_embeddings": True}, 8),
    "bit": (_TWO_STAGES | {"num_groups": 2}, 8),
    "chinese_clip_vision_model": (_VIT, 8),
    "clip_vision_model": (_VIT, 8),
    "convnext": (_TWO_STAGES | {"num_stages": 2}, 8),
    "convnextv2": (_TWO_STAGES | {"num_stages": 2}, 8),
    "cvt": ({"embed_dim": [8, 8, 16], "num_heads": [1, 1, 2], "depth": [1, 2, 3]}, 16),
    "data2vec-vision": (_VIT | {"use_relative_position_bias": True}, 8),
    "deit": (_VIT, 8),
    "dinov2": (_VIT, 8),
    "dinov2_with_registers": (_VIT | {"num_register_tokens": 8}, 8),
    "dinov3_convnext": (_FOUR_STAGES, 32),
    "dinov3_vit": (_VIT | {"num_register_tokens": 8}, 8),
    "donut-swin": (_SWIN, 8),
    "dpt": (_VIT | {"is_hybrid": False, "backbone_out_indices": [0, 1, 1, 1]}, 8),
    "efficientnet": ({"width_coefficient": 0.25, "depth_coefficient": 0.2, "hidden_dim": 320}, 32),
    "focalnet": (
        {"embed_dim": 8, "depths": [1, 1], "hidden_sizes": [8, 16], "focal_levels": [1, 1], "focal_windows": [3, 3]},
        8,
    ),
    "glpn": (_PYRAMID, 32),
    "hgnet_v2": (
        _FOUR_STAGES
        | {
            "embedding_size": 8,
            "stem_channels": [3, 8, 8],
            "stage_in_channels": [8, 8, 8, 8],
            "stage_mid_channels": [8, 8, 8, 8],
            "stage_out_channels": [8, 8, 8, 16],
            "stage_num_blocks": [1, 1, 1, 1],
            "stage_numb_of_layers": [1, 1, 1, 1],
        },
        32,
    ),
    "hiera": ({"embed_dim": 8, "image_size": [128, 128], "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}, 32),
    "idefics3_vision": (_VIT, 8),
    "ijepa": (_VIT, 8),
    "internvl_vision": (_PAIRS, 8),
    "levit": (
        {
            "image_size": 512,
            "hidden_sizes": [8, 16, 24],
            "num_attention_heads": [1, 2, 2],
            "depths": [1, 1, 1],
            "key_dim": [4, 4, 4],
        },
        64,
    ),
    "lw_detr_vit": (_VIT | {"num_windows": 4}, 8),
    "maskformer-swin": (_SWIN, 8),
    "mlcd_vision_model": (_VIT, 8),
    "mobilenet_v1": ({"depth_multiplier": 0.25}, 32),
    "mobilenet_v2": ({"depth_multiplier": 0.25}, 32),
    "mobilevit": (
        {"hidden_sizes": [8, 8, 8], "neck_hidden_sizes": [8, 8, 8, 8, 8, 8, 16], "num_attention_heads": 2},
        32,
    ),
    "mobilevitv2": ({"width_multiplier": 0.25}, 32),
    "pixio": (_VIT, 8),
    "poolformer": (_FOUR_STAGES, 32),
    "pp_lcnet": ({"scale": 0.25}, 32),
    "pp_lcnet_v3": ({"scale": 0.25}, 32),
    "pvt": (_PYRAMID | {"image_size": 128, "sequence_reduction_ratios": [2, 2, 2, 1]}, 32),
    "pvt_v2": (_PYRAMID, 32),
    "qianfan_ocr_vision": (_PAIRS, 8),
    "radio": (_VIT, 8),
    "regnet": (_FOUR_STAGES | {"embedding_size": 8, "groups_width": 4}, 32),
    "resnet": (_TWO_STAGES | {"layer_type": "basic"}, 8),
    "rf_detr_dinov2": (_VIT | {"num_windows": 2}, 8),
    "rt_detr_resnet": (_FOUR_STAGES | {"embedding_size": 8, "layer_type": "basic"}, 32),
    "sam3_vit_model": (_VIT | {"window_size": 2, "global_attn_indexes": [1], "pretrain_image_size": 32}, 8),
    "sam_hq_vision_model": (_SAM, 8),
    "sam_vision_model": (_SAM, 8),
    "sapiens2": (_VIT, 8),
    "segformer": (_PYRAMID, 32),
    "siglip_vision_model": (_VIT, 8),
    "smolvlm_vision": (_VIT, 8),
    "swiftformer": ({"embed_dims": [8, 8, 8, 16], "depths": [1, 1, 1, 1], "mlp_ratio": 2}, 32),
    "swin": (_SWIN, 8),
    "swin2sr": (_SWIN | {"patch_size": 1}, 1),
    "swinv2": (_SWIN, 8),
    "textnet": (
        {
            "hidden_sizes": [8, 8, 8, 8, 16],
            "stem_out_channels": 8,
            "conv_layer_kernel_sizes": [[[3, 3]], [[3, 3]], [[3, 3]], [[3, 3]]],
            "conv_layer_strides": [[2], [2], [2], [2]],
        },
        32,
    ),
    "tipsv2_vision_model": (_VIT, 8),
    "uvdoc_backbone": (
        {
            "resnet_head": [[3, 8], [8, 8]],
            "resnet_configs": [[[8, 8, 1, False]], [[8, 16, 1, True]]],
            "stage_configs": [[[16, 1]], [[16, 2]]],
        },
        8,
    ),
    "vit": (_VIT, 8),
    "vit_msn": (_VIT, 8),
    "vitdet": (_VIT, 8),
    "vitpose_backbone": (_PAIRS, 8),
    "yolos": (_PAIRS | {"patch_size": 8, "num_detection_tokens": 9}, 8),
}


def make_tiny_backbone(family: str, **changes) -> PreTrainedModel:
    """A random backbone whose every layer has an effect, in evaluation mode."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **FAMILIES[family][0] | changes)
    return enliven(backbone_class(config).from_config(config))


@torch.no_grad()
def enliven(model: PreTrainedModel, gain: float = 1.0) -> PreTrainedModel:
    """Random weights that neither shrink nor blow up what passes through them; running statistics of some images."""
    gain = 0.3 if model.config.model_type == "mobilevitv2" else gain
    norms = []
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.normal_(module.weight, std=gain * module.weight[0].numel() ** -0.5)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
            norms.append(module)
        if hasattr(module, "attention_bias_idxs"):  # LeViT, where nothing else ties a token to its place
            queries, keys = module.attention_bias_idxs.shape
            side, key_side = int(queries**0.5), int(keys**0.5)
            step = -(-key_side // side)
            rows, columns = (
                (step * (torch.arange(queries) // side if axis == 0 else torch.arange(queries) % side))[:, None]
                - (torch.arange(keys) // key_side if axis == 0 else torch.arange(keys) % key_side)
                for axis in (0, 1)
            )
            distance = (rows.abs() + columns.abs()).flatten().float()
            module.attention_biases[:, module.attention_bias_idxs.flatten()] = -8 * distance
    if norms:
        model.train()(torch.randn(2, 3, *image_size(model)))
    return model.eval()


def image_size(model: PreTrainedModel, rows: int = 8, columns: int = 8) -> tuple[int, int]:
    """Of an image with this many regions, or the only one that the model takes."""
    stride = FAMILIES[model.config.model_type][1]
    return (stride * rows, stride * columns) if takes_any_size(model) else only_size(model)


def only_size(model: PreTrainedModel) -> tuple[int, int]:
    size = model.config.image_size
    return (size, size) if isinstance(size, int) else tuple(size)


def takes_any_size(model: PreTrainedModel) -> bool:
    return model.config.model_type not in ONE_IMAGE_SIZE


# Families with position embeddings for one image size.
ONE_IMAGE_SIZE = [
    *(
        "aimv2_vision_model",
        "chinese_clip_vision_model",
        "clip_vision_model",
        "deit",
        "hiera",
        "ijepa",
        "levit",
        "pvt",
    ),
    *("sam3_vit_model", "sam_hq_vision_model", "sam_vision_model", "siglip_vision_model", "vit", "vit_msn"),
    "vitpose_backbone",
]
