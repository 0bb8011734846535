"""Export of a trained model to ONNX, classes still open."""

import os
from pathlib import Path

import torch
from torch import nn

from .files import clear_faults
from .modeling_dedn import DednModel


class ExportableDedn(nn.Module):
    """
    What an exported model computes: from images and classes to class and attribute scores.

    Args:
        model (`DednModel`):
            A model in evaluation mode; with a backbone it takes `pixel_values`, else `feature_map`.
    """

    def __init__(self, model: DednModel):
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor, class_attributes: torch.Tensor, seen_classes: torch.Tensor):
        r"""
        Args:
            images (`torch.Tensor` of shape `(B, 3, height, width)` or `(B, C, H, W)`):
                `pixel_values`, or `feature_map` where there is no backbone.
            class_attributes (`torch.Tensor` of shape `(K, A)`):
                Classes to score, also such as the model has never seen.
            seen_classes (`torch.BoolTensor` of shape `(K,)`):
                Which of them it was trained on.

        Returns:
            The logits `(B, K)` and the attribute scores `(B, A)`, as in [`DednPrediction`].
        """
        name = "feature_map" if self.model.backbone is None else "pixel_values"
        prediction = self.model.predict(**{name: images}, class_attributes=class_attributes, seen=seen_classes)
        return prediction.logits, prediction.attribute_scores


def export_onnx(model: DednModel, path: str | os.PathLike, image_size: int | None = None):
    """
    Writes an ONNX file with inputs `images`, `class_attributes` and `seen_classes` and outputs `logits` and
    `attribute_scores`, see [`ExportableDedn`]; batch size and number of classes are free. Needs the extra `[export]`.

    Args:
        model (`DednModel`):
            The model.
        path (`str` or `os.PathLike`):
            The file.
        image_size (`int`, *optional*):
            Side of the images, for a model with a backbone.

    Raises:
        ValueError: If the model has a backbone and `image_size` is not given.
    """
    config = model.config
    if model.backbone is None:
        shape = (2, config.feature_channels, config.grid_size, config.grid_size)
    elif image_size is None:
        raise ValueError("A model with a backbone is exported for one size of images: give `image_size` in pixels.")
    else:
        shape = (2, 3, image_size, image_size)
    parameter = next(model.parameters())
    images = torch.zeros(shape, dtype=parameter.dtype, device=parameter.device)
    batch, classes = torch.export.Dim("batch"), torch.export.Dim("classes")
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with clear_faults(path):
            torch.onnx.export(
                ExportableDedn(model).eval(),
                (images, model.class_attributes.clone(), model.seen_classes.clone()),
                temporary,
                input_names=["images", "class_attributes", "seen_classes"],
                output_names=["logits", "attribute_scores"],
                dynamic_shapes={"images": {0: batch}, "class_attributes": {0: classes}, "seen_classes": {0: classes}},
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
