"""
Draws a sheet of synthetic birds with the names of their classes, for the README.

    python scripts/lab/draw_contact_sheet.py --output docs/synthetic_birds.png
"""

import argparse
import os

from PIL import Image, ImageDraw, ImageFont

from dedn_hf.data import synthetic_birds


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="PNG file to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the world")
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--rows", type=int, default=4)
    args = parser.parse_args(arguments)

    data = synthetic_birds.load(seed=args.seed)
    birds = data.splits["trainval"].sort("image_id")
    step = len(birds) // (args.columns * args.rows)
    cell_width, picture, cell_height = 160, 144, 172
    sheet = Image.new("RGB", (args.columns * cell_width, args.rows * cell_height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=11)
    for cell in range(args.columns * args.rows):
        bird = birds[cell * step]
        x, y = cell % args.columns * cell_width, cell // args.columns * cell_height
        sheet.paste(bird["image"].resize((picture, picture), Image.Resampling.BICUBIC), (x + 8, y + 6))
        name = data.class_names[bird["label"]]
        draw.text((x + cell_width // 2, y + picture + 8), name, fill="black", font=font, anchor="mt")
    temporary = f"{args.output}.tmp"
    sheet.quantize(256).save(temporary, format="PNG", optimize=True)
    os.replace(temporary, args.output)


if __name__ == "__main__":
    main()
