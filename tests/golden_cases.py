"""Golden cases: inputs, parameters, outputs, losses and gradients of the released program, at small sizes."""

from pathlib import Path

import torch
from safetensors import safe_open

from dedn_hf import DednConfig, DednModel

FOLDER = Path(__file__).parent / "golden"
VARIANTS = ["cub", "sun", "awa2"]


def load_case(variant: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(FOLDER / f"{variant}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def parameter_names(variant: str, model: DednModel) -> dict[str, str]:
    """Our parameter name → the released program's."""
    entries = {"word_vectors": "V", "region_value": "H_1", "region_weight": "H_2"}
    if variant == "sun":
        entries |= {"region_value_out": "H_3", "channel_value": "H_4", "channel_weight": "H_5"}
    else:
        entries |= {"channel_value": "H_3", "channel_weight": "H_4"}
    names = {}
    for name, _ in model.named_parameters():
        expert, _, head, entry = name.split(".")
        names[name] = f"{'GNet' if expert == 'coarse_expert' else 'Snet' + head}.{entries[entry]}"
    return names


def golden_model(variant: str) -> tuple[DednModel, dict[str, torch.Tensor]]:
    case, metadata = load_case(variant)
    num_attributes = len(case["input.attribute_group"])
    num_classes = len(case["input.class_attributes"])
    seen = case["input.seen_classes"].tolist()
    config = DednConfig.from_preset(
        variant,
        feature_channels=24,
        grid_size=3,
        word_vector_size=10,
        region_value_rank=6 if variant == "sun" else None,
        attribute_names=[f"attribute {index}" for index in range(num_attributes)],
        num_labels=num_classes,
        seen_class_ids=seen,
        self_calibration_weight=float(metadata["lambda_calibration"]),
        region_mix=float(metadata["c_mix_region"]),
        coarse_mix=float(metadata["e_mix_cexp"]),
    )
    model = DednModel(config)
    model.set_classes(
        list(config.id2label.values()),
        case["input.class_attributes"],
        seen=[index in seen for index in range(num_classes)],
    )
    names = parameter_names(variant, model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(case[f"state.{names[name]}"])
    return model, case
