"""
Exports a trained model to ONNX: image in, class and attribute scores out, with the classes as an input.

    dedn export --model outputs/synthetic_birds --output dedn.onnx
"""

from pathlib import Path

from . import CommandParser, check_model, load_model


def main(arguments: list[str]):
    parser = CommandParser("dedn export", description=__doc__)
    parser.add_argument("--model", required=True, help="folder or Hub id of a model")
    parser.add_argument("--output", required=True, help="the ONNX file")
    args = parser.parse_args(arguments)
    if not Path(args.output).resolve().parent.is_dir():
        parser.error(f"--output {args.output}: there is no folder {Path(args.output).parent}")

    check_model(args.model)

    from transformers import AutoImageProcessor

    from ..export import export_onnx

    model = load_model(args.model)
    image_size = None
    if model.backbone is not None:
        image_size = AutoImageProcessor.from_pretrained(args.model).crop_size["height"]
    export_onnx(model, args.output, image_size)
    print(f"{args.output}: {Path(args.output).stat().st_size / 1e6:.1f} MB")
