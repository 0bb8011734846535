"""
Converts a checkpoint of the released DEDN program to a model folder that `AutoModel.from_pretrained(folder,
trust_remote_code=True)` loads.

    dedn convert --original cub.pt --variant cub --seen_classes 0,1,2 --output_dir dedn-cub
"""

import json
from pathlib import Path

from . import CommandParser


def class_ids(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def json_object(text: str) -> dict:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError
    return value


def main(arguments: list[str]):
    parser = CommandParser("dedn convert", description=__doc__)
    parser.add_argument(
        "--original", type=Path, required=True, help="state dict, .safetensors or .pt with tensors only"
    )
    parser.add_argument("--variant", required=True, help="data set of the program that wrote it, such as cub")
    parser.add_argument(
        "--seen_classes",
        type=class_ids,
        required=True,
        help="ids from 0, such as 0,1,4; checked against the checkpoint",
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="folder to write; must not exist or be empty")
    parser.add_argument(
        "--config_overrides", type=json_object, help="""DednConfig fields as JSON, such as '{"region_mix": 0.6}'"""
    )
    parser.add_argument("--class_names", type=Path, help="file with one class name a line, in the order of the ids")
    parser.add_argument("--backbone", type=Path, help="folder of a transformers backbone that goes into the model")
    args = parser.parse_args(arguments)

    from ..convert_original_checkpoint import convert_original_checkpoint, read_class_names

    model = convert_original_checkpoint(
        args.original,
        args.variant,
        args.seen_classes,
        args.output_dir,
        config_overrides=args.config_overrides,
        class_names=read_class_names(args.class_names) if args.class_names else None,
        backbone=args.backbone,
    )
    config = model.config
    print(
        f"Wrote {args.output_dir}: {len(config.attribute_names)} attributes, {config.num_labels} classes "
        f"({len(config.seen_class_ids)} seen), feature maps of {config.feature_channels} × {config.grid_size} × "
        f"{config.grid_size}, {'a' if config.backbone_config else 'no'} backbone."
    )
