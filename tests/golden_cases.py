"""
Golden cases: inputs, parameters, outputs, losses and gradients of the released program, at small sizes.

A process without the package imports this file too, to run models that came with their own code; hence the imports of
the package inside functions.
"""

from pathlib import Path

import torch
from safetensors import safe_open

FOLDER = Path(__file__).parent / "golden"
VARIANTS = ["cub", "sun", "awa2"]


def load_case(variant: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(FOLDER / f"{variant}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def original_state(variant: str) -> dict[str, torch.Tensor]:
    """The state dict as a checkpoint of the released program holds it."""
    case, _ = load_case(variant)
    return {key.removeprefix("state."): value for key, value in case.items() if key.startswith("state.")}


def golden_settings(variant: str) -> dict[str, float]:
    """What differs from the released settings."""
    _, metadata = load_case(variant)
    return {
        "self_calibration_weight": float(metadata["lambda_calibration"]),
        "region_mix": float(metadata["c_mix_region"]),
        "coarse_mix": float(metadata["e_mix_cexp"]),
    }


def parameter_names(case: dict[str, torch.Tensor], model) -> dict[str, str]:
    """Our parameter name → the released program's, whose heads are in the order of the group ids."""
    entries = {"word_vectors": "V", "region_value": "H_1", "region_weight": "H_2"}
    if model.config.region_value_rank is None:
        entries |= {"channel_value": "H_3", "channel_weight": "H_4"}
    else:
        entries |= {"region_value_out": "H_3", "channel_value": "H_4", "channel_weight": "H_5"}
    group_ids = case["input.attribute_group"]
    fine_heads = [f"Snet{group_ids[indices[0]]}" for indices in model.config.attribute_groups.values()]
    names = {}
    for name, _ in model.named_parameters():
        expert, _, head, entry = name.removesuffix(".weight").split(".")
        original = "GNet" if expert == "coarse_expert" else fine_heads[int(head)]
        names[name] = f"{original}.{entries[entry]}"
    return names


def in_released_layout(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Its matrices are (D, C), the weights of our modules (C, D)."""
    return tensor.T.contiguous() if name.endswith(".weight") else tensor


def golden_model(variant: str):
    from dedn_hf import DednConfig, DednModel
    from dedn_hf.recipes import read_recipe

    case, _ = load_case(variant)
    num_attributes = len(case["input.attribute_group"])
    num_classes = len(case["input.class_attributes"])
    seen = case["input.seen_classes"].tolist()
    settings = {
        "feature_channels": 24,
        "grid_size": 3,
        "word_vector_size": 10,
        "region_value_rank": 6 if variant == "sun" else None,
        "attribute_names": [f"attribute {index}" for index in range(num_attributes)],
        "num_labels": num_classes,
        "seen_class_ids": seen,
    }
    config = DednConfig(**read_recipe(variant, "reference").model | settings | golden_settings(variant))
    model = DednModel(config)
    model.set_classes(
        list(config.id2label.values()),
        case["input.class_attributes"],
        seen=[index in seen for index in range(num_classes)],
    )
    names = parameter_names(case, model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(in_released_layout(name, case[f"state.{names[name]}"]))
    return model, case


def run_case(model, case: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the model gives on the case's inputs, under the case's own keys."""
    results = {}
    inputs = {"feature_map": case["input.feature_map"]}
    order = case["input.attribute_group"].argsort(stable=True)
    coarse_mix = model.config.coarse_mix
    with torch.no_grad():
        for mode in ("train", "eval"):
            model.train(mode == "train")
            output = model(**inputs)
            results[f"{mode}.cexp.class_scores"] = output.coarse_logits
            results[f"{mode}.fexp.class_scores"] = output.fine_logits
            if mode == "eval":
                results["eval.class_scores"] = output.logits
            for expert, mix in (("cexp", 1.0), ("fexp", 0.0)):
                model.config.coarse_mix = mix
                results[f"{mode}.{expert}.attribute_scores"] = model(**inputs).attribute_scores[:, order]
            model.config.coarse_mix = coarse_mix

    model.train()
    model.zero_grad()
    output = model(**inputs, labels=case["input.labels"])
    output.loss.backward()
    for expert, ours in (("cexp", "coarse"), ("fexp", "fine")):
        for part in ("margin", "calibration", "alignment"):
            results[f"loss.{expert}.{part}"] = output.loss_parts[f"{ours}_{part}"].detach().reshape(1)
    results["loss.distillation"] = output.loss_parts["distillation"].detach().reshape(1)
    results["loss.total"] = output.loss.detach().reshape(1)
    names = parameter_names(case, model)
    for name, parameter in model.named_parameters():
        results[f"grad.{names[name]}"] = in_released_layout(name, parameter.grad)
    return results


def check_agreement(results: dict[str, torch.Tensor], case: dict[str, torch.Tensor]):
    """Every golden number, to 1e-5 of its tensor's largest (gradients: 1e-4)."""
    expected = {key for key in case if not key.startswith(("input.", "state."))}
    assert set(results) == expected
    for key in sorted(expected):
        assert results[key].shape == case[key].shape, key
        error = (results[key] - case[key]).abs().max() / case[key].abs().max()
        assert error <= (1e-4 if key.startswith("grad.") else 1e-5), f"{key}: relative error {error:.1e}"
