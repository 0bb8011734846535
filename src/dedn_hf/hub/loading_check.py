"""
Loads a model folder as someone does who never installed this package, and says what is wrong with it.

[`push_to_hub`] runs this file in a process of its own, without a token and with an empty cache. It prints one JSON
object, or exits with one line.
"""

import json
import sys

sys.modules["dedn_hf"] = None  # cannot be imported from here on

import torch  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import AutoImageProcessor, AutoModel, pipeline  # noqa: E402


def check(folder: str) -> dict:
    model, report = AutoModel.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    for problem, keys in report.items():
        if keys:
            sys.exit(f"model.safetensors does not fit the model: {problem} {sorted(map(str, keys))[:5]}")
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            if value.dtype != torch.float32:
                sys.exit(f"{name} is {value.dtype}; publish float32, which loads on any machine")
            if not value.isfinite().all():
                sys.exit(f"{name} holds values that are not finite")
    if not model.class_attributes.any(dim=1).all():
        sys.exit("some classes have no attributes at all; describe them with `set_classes`")

    if model.backbone is None:
        shape = (1, model.config.feature_channels, model.config.grid_size, model.config.grid_size)
        inputs = {"feature_map": torch.zeros(shape)}
    else:
        processor = AutoImageProcessor.from_pretrained(folder)
        blank = Image.new("RGB", (64, 48))
        inputs = {"pixel_values": torch.zeros_like(processor(blank, return_tensors="pt")["pixel_values"])}
    with torch.no_grad():
        output = model(**inputs)
    if output.logits.shape != (1, model.config.num_labels):
        sys.exit(f"the model gives logits of shape {tuple(output.logits.shape)} for {model.config.num_labels} classes")
    if not (output.logits.isfinite().all() and output.attribute_scores.isfinite().all()):
        sys.exit("for an input of zeros the model gives scores that are not finite")

    tasks = sorted(getattr(model.config, "custom_pipelines", None) or {})
    if model.backbone is not None:
        for task in tasks:
            pipeline(task, model=folder, trust_remote_code=True)(blank)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "classes": model.config.num_labels,
        "attributes": len(model.config.attribute_names),
        "takes": next(iter(inputs)),
        "pipelines": tasks,
    }


if __name__ == "__main__":
    print(json.dumps(check(sys.argv[1])))
