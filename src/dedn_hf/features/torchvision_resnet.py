"""torchvision's ResNets (He et al. 2015) as transformers backbones."""

import os
import re
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoBackbone, PreTrainedModel, ResNetConfig


def load_torchvision_resnet(path: str | os.PathLike) -> PreTrainedModel:
    """
    The backbone in a state dict of torchvision's ResNet naming, which timm's ResNets have, too. It computes the very
    same last feature map, before pooling.

    Depths, widths and the kind of blocks are read from the tensors: ResNet-18, 34, 50, 101, 152 and what is built like
    them. DEDN used ResNet-101 with the weights `IMAGENET1K_V1` (`resnet101-63fe2227.pth`).

    Args:
        path (`str` or `os.PathLike`):
            A `.safetensors` file, or what `torch.save(model.state_dict(), path)` wrote. The classifier `fc` is not
            used.

    Returns:
        `ResNetBackbone` in evaluation mode, float32.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds something other than tensors, or other tensors; names those that are missing,
            unknown or of another shape.
    """
    path = Path(path)
    state = {key: tensor for key, tensor in _read_tensors(path).items() if not key.startswith("fc.")}
    config = _read_config(path, state)
    model = AutoBackbone.from_config(config)
    ours = {_torchvision_name(name): tensor for name, tensor in model.state_dict().items()}
    # Files from before PyTorch 0.4.1 do not count batches, and nothing here needs the count.
    missing = [key for key in ours if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [key for key in state if key not in ours]
    reshaped = [
        f"{key} has shape {tuple(tensor.shape)} instead of {tuple(ours[key].shape)}"
        for key, tensor in state.items()
        if key in ours and tensor.shape != ours[key].shape
    ]
    if missing or unknown or reshaped:
        raise ValueError(
            f"{path} is no state dict of torchvision's ResNet with {config.depths} {config.layer_type} blocks: "
            f"{_some(missing)} missing, {_some(unknown)} unknown, {_some(reshaped)} of another shape."
        )
    for key, tensor in state.items():
        ours[key].copy_(tensor)
    return model.eval()


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no state dict {path}.")
    way_out = "Save the state dict alone: `torch.save(model.state_dict(), path)`, or as .safetensors."
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever a damaged byte leads to
        raise ValueError(f"{path} is damaged, or no file of tensors alone, and is not read. {way_out}") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise ValueError(f"{path} holds something other than a state dict. {way_out}")
    return state


def _read_config(path: Path, state: dict[str, torch.Tensor]) -> ResNetConfig:
    blocks = {match.groups() for match in (re.match(r"layer(\d)\.(\d+)\.", key) for key in state) if match}
    depths = [count for _, count in sorted(Counter(stage for stage, _ in blocks).items())]
    last_convolution = "conv3" if "layer1.0.conv3.weight" in state else "conv2"
    ends = [f"layer{stage}.0.{last_convolution}.weight" for stage in range(1, len(depths) + 1)]
    missing = [key for key in ("conv1.weight", *ends) if key not in state]
    if missing or not depths:
        raise ValueError(
            f"{path} is no state dict of torchvision's ResNet: {_some(missing or ['layer1.0.conv1.weight'])} missing. "
            f"It has {_some(list(state))}."
        )
    return ResNetConfig(
        embedding_size=len(state["conv1.weight"]),
        hidden_sizes=[len(state[key]) for key in ends],
        depths=depths,
        layer_type="bottleneck" if last_convolution == "conv3" else "basic",
        out_features=[f"stage{len(depths)}"],
    )


def _torchvision_name(name: str) -> str:
    """The name in torchvision's ResNet of a tensor of transformers' one."""
    *place, kind, tensor = name.split(".")
    convolution = kind == "convolution"
    if place[0] == "embedder":
        return f"{'conv1' if convolution else 'bn1'}.{tensor}"
    # encoder.stages.0.layers.1.layer.2 or encoder.stages.0.layers.1.shortcut
    block = f"layer{int(place[2]) + 1}.{place[4]}"
    if place[5] == "shortcut":
        return f"{block}.downsample.{0 if convolution else 1}.{tensor}"
    return f"{block}.{'conv' if convolution else 'bn'}{int(place[6]) + 1}.{tensor}"


def _some(keys: list[str]) -> str:
    return f"{len(keys)} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})" if keys else "none"
