"""Conversion of a checkpoint of the released DEDN program to a [`DednModel`]."""

import difflib
import inspect
import math
import os
import re
import tempfile
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors.torch import load_file

from .backbone_dedn import backbone_feature_map, load_backbone
from .configuration_dedn import DednConfig
from .files import clear_faults
from .modeling_dedn import DednModel
from .names_dedn import readable_classes
from .recipes import read_recipe

VARIANTS = ("cub", "sun", "awa2")
# Entry of a head → its name in a checkpoint, with the full matrix of region values and with the factored one.
FULL_RANK_ENTRIES = {
    "word_vectors": "V",
    "region_value": "H_1",
    "region_weight": "H_2",
    "channel_value": "H_3",
    "channel_weight": "H_4",
}
LOW_RANK_ENTRIES = FULL_RANK_ENTRIES | {"region_value_out": "H_3", "channel_value": "H_4", "channel_weight": "H_5"}


def load_original_state_dict(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """
    Reads the state dict of a checkpoint without running any code that it may hold.

    Args:
        path (`str` or `os.PathLike`):
            A `.safetensors` file, or what `torch.save(model.state_dict(), path)` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds something other than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint {path}.")
    way_out = "Save its state dict alone: `torch.save(model.state_dict(), path)`, or as .safetensors."
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(
            f"{path} is no file of tensors alone, and could run code: it is not read. {way_out}"
        ) from error
    except Exception as error:  # torch raises whatever a damaged byte leads to
        raise ValueError(
            f"{path} is damaged, or no such file: {' '.join(str(error).split()[:20])}. {way_out}"
        ) from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__} where a state dict should be. {way_out}")
    return state


def read_class_names(path: str | os.PathLike) -> list[str]:
    """One class name a line, in the order of the class ids; as in CUB's own list, lines may be numbered from 1."""
    names = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    numbered = [name.partition(" ") for name in names]
    if [number for number, _, name in numbered if name] == [str(index + 1) for index in range(len(names))]:
        return [name.strip() for *_, name in numbered]
    return names


def convert_state_dict(
    state: dict[str, torch.Tensor],
    variant: str,
    seen_classes: list[int],
    config_overrides: dict | None = None,
    class_names: list[str] | None = None,
    backbone: str | os.PathLike | None = None,
) -> DednModel:
    """
    A model with the weights, classes and class bias of a checkpoint, and otherwise the settings as released. All sizes
    are those of the checkpoint.

    Args:
        state (`dict[str, torch.Tensor]`):
            State dict of the released program. `weight_ce` in it is not used.
        variant (`str`):
            The program that wrote it: `"cub"`, `"sun"` or `"awa2"`. It tells the attribute groups, for SUN the
            released ones (64, 27, 9 and 2 attributes).
        seen_classes (`list[int]`):
            Ids of the seen classes, from 0. Those of the checkpoint must be the same.
        config_overrides (`dict`, *optional*):
            Fields of [`DednConfig`] that are to differ from the released settings, such as `attribute_names` (a
            checkpoint has none, so that they are "attribute 1" and so on) or the mixes.
        class_names (`list[str]`, *optional*):
            Names of the K classes, which [`readable_classes`] makes readable. A checkpoint has none; by default they
            are "class 0" and so on.
        backbone (`str` or `os.PathLike`, *optional*):
            Folder of a pretrained transformers backbone that goes into the model. `None` is a model over feature maps.

    Raises:
        ValueError: If keys, groups, seen classes, the number of class names or the backbone's channels do not agree
            with the checkpoint, or there is no such variant or field.
    """
    if variant not in VARIANTS:
        raise ValueError(f"There is no released variant {variant!r}; choose one of {', '.join(VARIANTS)}.")
    overrides = _check_override_names(config_overrides or {})
    released = read_recipe(variant, "reference").model
    low_rank = "region_value_rank" in released
    groups = {
        name: sorted(indices)
        for name, indices in (overrides.pop("attribute_groups", None) or released["attribute_groups"]).items()
    }
    _check_groups(state, variant, groups)
    _check_keys(state, variant, len(groups), LOW_RANK_ENTRIES if low_rank else FULL_RANK_ENTRIES)
    _check_seen_classes(state, seen_classes)

    num_classes, num_attributes = state["att"].shape
    regions = state["GNet.H_4"].shape[1]
    if math.isqrt(regions) ** 2 != regions:
        raise ValueError(f"`GNet.H_4` is for {regions} regions, which are no square grid: the checkpoint is damaged.")
    sizes = {
        "feature_channels": state["GNet.H_2"].shape[1],
        "grid_size": math.isqrt(regions),
        "word_vector_size": state["GNet.V"].shape[1],
        "region_value_rank": state["GNet.H_1"].shape[1] if low_rank else None,
        "seen_class_ids": sorted(seen_classes),
    }
    for name, value in sizes.items():
        if overrides.get(name, value) != value:
            raise ValueError(
                f"`{name}` is overridden with {overrides[name]}, but the checkpoint was trained with {value}. "
                "Leave it out of the overrides."
            )
    attribute_names = overrides.pop("attribute_names", [f"attribute {index + 1}" for index in range(num_attributes)])
    if len(attribute_names) != num_attributes:
        raise ValueError(
            f"`attribute_names` has {len(attribute_names)} names, but the checkpoint has {num_attributes} attributes."
        )
    if class_names is None:
        class_names = [f"class {index}" for index in range(num_classes)]
    class_names = readable_classes(class_names)
    if len(class_names) != num_classes:
        raise ValueError(
            f"There are {len(class_names)} class names, but the checkpoint has {num_classes} classes, seen and unseen "
            "together. Give one name a class, in the order of the class ids."
        )

    class_bias = state["bias"].item()
    settings = {"class_bias": class_bias, **sizes}
    if variant == "awa2":  # whose margins are β in the released program
        settings |= {"target_margin": class_bias, "seen_margin": class_bias}
    if backbone is not None:
        backbone = _load_matching_backbone(backbone, sizes["feature_channels"])
        settings["backbone_config"] = backbone.config

    names = {"attribute_names": attribute_names, "attribute_groups": groups, "id2label": dict(enumerate(class_names))}
    config = DednConfig(**{**released, **settings, **overrides, **names})
    model = DednModel(config)
    if backbone is not None:
        model.backbone.load_state_dict(backbone.state_dict())
    _copy_heads(state, model, groups, LOW_RANK_ENTRIES if low_rank else FULL_RANK_ENTRIES)
    grouped = [index for indices in groups.values() for index in indices]
    class_attributes = torch.empty(num_classes, num_attributes)
    class_attributes[:, grouped] = state["att"].float()
    model.set_classes(class_names, class_attributes, seen=[index in seen_classes for index in range(num_classes)])
    return model.eval()


def convert_original_checkpoint(
    original: str | os.PathLike,
    variant: str,
    seen_classes: list[int],
    output_dir: str | os.PathLike,
    config_overrides: dict | None = None,
    class_names: list[str] | None = None,
    backbone: str | os.PathLike | None = None,
) -> DednModel:
    """
    Reads a checkpoint of the released program and writes a folder that `AutoModel.from_pretrained(output_dir,
    trust_remote_code=True)` loads, in float32.

    Args:
        original (`str` or `os.PathLike`):
            As in [`load_original_state_dict`].
        output_dir (`str` or `os.PathLike`):
            The folder to write, which must not exist or be empty.
        variant, seen_classes, config_overrides, class_names, backbone:
            As in [`convert_state_dict`].

    Returns:
        The model that was written.

    Raises:
        FileExistsError: If `output_dir` exists and is not an empty folder.
        FileNotFoundError: If there is no such checkpoint or backbone.
        ValueError: As [`load_original_state_dict`] and [`convert_state_dict`].
    """
    output_dir = Path(output_dir)
    if output_dir.exists() and not (output_dir.is_dir() and not any(output_dir.iterdir())):
        raise FileExistsError(f"{output_dir} exists and is no empty folder. Name another folder, or move it away.")
    state = load_original_state_dict(original)
    model = convert_state_dict(state, variant, seen_classes, config_overrides, class_names, backbone)
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    folders = tempfile.TemporaryDirectory(dir=output_dir.parent, prefix=f".{output_dir.name}-")
    with clear_faults(output_dir), folders as temporary:
        folder = Path(temporary) / "model"
        model.save_pretrained(folder)
        os.replace(folder, output_dir)
    return model


def _check_override_names(overrides: dict) -> dict:
    fields = [name for name in inspect.signature(DednConfig.__init__).parameters if name not in ("self", "kwargs")]
    fields.remove("backbone_config")
    for name in overrides:
        if name not in fields:
            closest = difflib.get_close_matches(name, fields, n=1)
            meant = f"; the closest is {closest[0]!r}" if closest else f"; there are {', '.join(fields)}"
            raise ValueError(
                f"{name!r} is no field of DednConfig that can be overridden{meant}. Class names and backbone have "
                "arguments of their own."
            )
    return dict(overrides)


def _released_groups(variant: str) -> dict[str, list[int]]:
    return read_recipe(variant, "reference").model["attribute_groups"]


def _check_groups(state: dict, variant: str, groups: dict[str, list[int]]):
    heads = sorted((key for key in state if re.fullmatch(r"Snet\d+\.V", key)), key=lambda key: int(key[4:-2]))
    rows, expected = [len(state[key]) for key in heads], [len(indices) for indices in groups.values()]
    # A head that is missing is told as a missing key instead.
    if rows != expected and "GNet.V" in state and sum(rows) == len(state["GNet.V"]):
        fitting = [name for name in VARIANTS if [*map(len, _released_groups(name).values())] == rows]
        raise ValueError(
            f"The heads `Snet*.V` of the checkpoint have {rows} rows, but the attribute groups of variant {variant!r} "
            f"have {expected} attributes. "
            + (
                f"The checkpoint is of variant {fitting[0]!r}."
                if fitting
                else "Override `attribute_groups` with its own."
            )
        )


def _check_keys(state: dict, variant: str, num_groups: int, entries: dict[str, str]):
    heads = ["GNet", *(f"Snet{index}" for index in range(num_groups))]
    expected = {f"{head}.{entry}" for head in heads for entry in entries.values()} | {"att", "mask_bias", "bias"}
    missing, unexpected = sorted(expected - set(state)), sorted(set(state) - expected - {"weight_ce"})
    if missing or unexpected:
        raise ValueError(
            f"This is no state dict of the released program for variant {variant!r}: missing keys {missing}, "
            f"unexpected keys {unexpected}. If the state dict lies deeper in the file, or its keys have a prefix, "
            "save it by itself with the program's own names."
        )


def _check_seen_classes(state: dict, seen_classes: list[int]):
    trained_seen = set((state["mask_bias"].flatten() < 0).nonzero().flatten().tolist())
    extra, missing = sorted(set(seen_classes) - trained_seen), sorted(trained_seen - set(seen_classes))
    if extra or missing:
        raise ValueError(
            f"The seen classes differ from those of the checkpoint (`mask_bias` of {state['mask_bias'].numel()} "
            f"classes): {extra} are given as seen but are not seen there, {missing} are seen there but not given. Ids "
            "count from 0."
        )


def _load_matching_backbone(folder: str | os.PathLike, feature_channels: int):
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"There is no backbone folder {folder}.")
    backbone = load_backbone(folder).float()
    size = getattr(backbone.config, "image_size", 224)
    height, width = (size, size) if isinstance(size, int) else size
    with torch.no_grad():
        channels = backbone_feature_map(backbone, torch.zeros(1, 3, height, width)).shape[1]
    if channels != feature_channels:
        raise ValueError(
            f"The backbone in {folder} gives feature maps of {channels} channels, but the checkpoint was trained on "
            f"{feature_channels}. Give the backbone that its feature maps came from."
        )
    return backbone


@torch.no_grad()
def _copy_heads(state: dict, model: DednModel, groups: dict[str, list[int]], entries: dict[str, str]):
    # The checkpoint's heads are in the order of `groups`, the model's in that of its config.
    heads = {"GNet": model.coarse_expert.heads[0]}
    for index, name in enumerate(groups):
        heads[f"Snet{index}"] = model.fine_expert.heads[list(model.config.attribute_groups).index(name)]
    for original, head in heads.items():
        for name, parameter in head.named_parameters():
            # A module's weight is its matrix transposed.
            matrix = parameter.T if name.endswith(".weight") else parameter
            key = f"{original}.{entries[name.removesuffix('.weight')]}"
            if state[key].shape != matrix.shape:
                raise ValueError(
                    f"`{key}` has shape {tuple(state[key].shape)}, but beside the other entries it should have "
                    f"{tuple(matrix.shape)}: the checkpoint is damaged."
                )
            matrix.copy_(state[key])
