"""
Exports a trained model to ONNX: image in, class and attribute scores out, with the classes as an input.

    python scripts/export_onnx.py --model outputs/synthetic_birds --output dedn.onnx
"""

import argparse
import json
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a model")
    parser.add_argument("--output", required=True, help="the ONNX file")
    args = parser.parse_args()

    from dedn_hf import DednModel
    from dedn_hf.export import export_onnx

    model = DednModel.from_pretrained(args.model)
    image_size = None
    if model.backbone is not None:
        processor = json.loads((Path(args.model) / "preprocessor_config.json").read_text(encoding="utf-8"))
        image_size = processor["crop_size"]["height"]
    export_onnx(model, args.output, image_size)
    print(f"{args.output}: {Path(args.output).stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
