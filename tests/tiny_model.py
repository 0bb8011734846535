"""A configuration and a model small enough for any test, and what is asked of models."""

import torch

from dedn_hf import DednConfig, DednModel


def make_tiny_config(**changes) -> DednConfig:
    """Seven attributes in three groups that are not contiguous, five classes of which two are unseen."""
    names = ["jay", "wren", "owl", "swift", "crow"]
    return DednConfig(
        **{
            "feature_channels": 6,
            "grid_size": 3,
            "attribute_names": [f"attribute {index}" for index in range(7)],
            "attribute_groups": {"wing": [1, 6], "tail": [2, 4], "body": [0, 3, 5]},
            "word_vector_size": 4,
            "id2label": dict(enumerate(names)),
            "seen_class_ids": [0, 1, 3],
            "self_calibration_weight": 0.1,
        }
        | changes
    )


def make_tiny_model(**changes) -> DednModel:
    """A model in evaluation mode whose attention is not uniform, with class attributes."""
    torch.manual_seed(0)
    config = make_tiny_config(**changes)
    model = DednModel(config)
    with torch.no_grad():
        for expert in (model.coarse_expert, model.fine_expert):
            for name, parameter in expert.named_parameters():
                # Matrices as the paper writes them, (D, C).
                matrix = parameter.T if name.endswith(".weight") else parameter
                matrix.copy_(torch.randn(matrix.shape))
    seen = [index in config.seen_class_ids for index in range(config.num_labels)]
    model.set_classes(list(config.id2label.values()), torch.rand(config.num_labels, 7), seen=seen)
    return model.eval()


def gradients(model: DednModel) -> dict[str, torch.Tensor]:
    """Copies of the gradients of those parameters that have one."""
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
