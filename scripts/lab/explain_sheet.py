"""
Draws a sheet of images of a data set, at random: what each was taken for, right or wrong, by what, and where.

    python scripts/lab/explain_sheet.py --model outputs/synthetic_birds --dataset synthetic_birds --num_images 6
"""

import argparse
import os
import sys
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from tqdm.auto import tqdm
from transformers import pipeline

from dedn_hf.cli.explain import SPLITS
from dedn_hf.data import load_gzsl_dataset
from dedn_hf.evaluation.explanation import Explanation, draw_attention, explain_image, panel_title
from dedn_hf.evaluation.plots import save_figure
from dedn_hf.registration import DEFAULT_MODEL, TASK


def plot_explanations(
    explanations: Sequence[Explanation], images: Sequence[Image.Image], truths: Sequence[str], path: str | os.PathLike
):
    """
    A sheet of images: a row for each, with what its class was taken for, right or wrong, and its attributes as in
    [`~evaluation.explanation.plot_explanation`].

    Args:
        explanations (`Sequence[Explanation]` of length `N`):
            From [`~evaluation.explanation.explain_image`], each with the same number of attributes.
        images (`Sequence[PIL.Image.Image]` of length `N`):
            The images.
        truths (`Sequence[str]` of length `N`):
            Names of their true classes.
        path (`str` or `os.PathLike`):
            PNG file to write; its folder is made.
    """
    columns = 1 + len(explanations[0].attributes)
    titles = [
        [panel_title(explanation, attribute, 96 // columns) for attribute in explanation.attributes]
        for explanation in explanations
    ]
    # In inches: the panels, the lines of their titles, and the heading.
    heights = [
        7.6 / columns * image.height / image.width + 0.17 * max(title.count("\n") + 1 for title in of_image) + 0.45
        for image, of_image in zip(images, titles)
    ]
    figure = Figure(figsize=(8, sum(heights)), layout="constrained")
    rows = figure.subfigures(len(images), 1, squeeze=False, height_ratios=heights)[:, 0]
    for row, explanation, image, truth, of_image in zip(rows, explanations, images, truths, titles):
        mark, color = ("✓", "#1b7837") if explanation.is_right(truth) else ("✗", "#b2182b")
        heading = f"{mark} {explanation.heading(truth)}"
        row.suptitle(heading, x=0.01, ha="left", color=color, fontsize=11, parse_math=False)
        panels = row.subplots(1, columns, squeeze=False)[0]
        pixels = np.asarray(image.convert("RGB")) / 255
        panels[0].imshow(pixels)
        for axes, attribute, title in zip(panels[1:], explanation.attributes, of_image):
            draw_attention(axes, pixels, attribute)
            axes.set_title(title, fontsize=9.5, parse_math=False)
        for axes in panels:
            axes.set_axis_off()
    save_figure(figure, path)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model",
        default=str(DEFAULT_MODEL),
        help="folder or Hub id of a model with its backbone (default: the birds of CUB, built in)",
    )
    parser.add_argument("--dataset", required=True, help="synthetic_birds, cub, …")
    parser.add_argument("--data_dir", help="folder of the data set's files; the synthetic birds need none")
    parser.add_argument("--split", choices=SPLITS, default=SPLITS[0], help=f"its split (default: {SPLITS[0]})")
    parser.add_argument("--num_images", type=int, default=6, help="so many images, drawn at random (default: 6)")
    parser.add_argument("--seed", type=int, default=0, help="seed of that draw (default: 0)")
    parser.add_argument("--top_attributes", type=int, default=4, help="how many attributes to show (default: 4)")
    parser.add_argument("--output", help="PNG file to write (default: in this folder, named after the images)")
    args = parser.parse_args(arguments)
    for name in ("num_images", "top_attributes"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} is {getattr(args, name)}; at least 1 is needed")
    if args.seed < 0:
        parser.error(f"--seed is {args.seed}; it cannot be negative")
    if args.output is None:
        args.output = f"{args.dataset}_{args.split}_{args.num_images}_of_seed_{args.seed}_explanation.png"
    if not args.output.lower().endswith(".png"):
        parser.error(f"--output {args.output} must be a .png file")
    return args


def main(arguments: list[str] | None = None):
    args = parse_arguments(arguments)
    classifier = pipeline(TASK, model=args.model, device="cpu")
    # The model has word vectors of its own.
    dataset = load_gzsl_dataset(args.dataset, args.data_dir, word_vectors="random")
    split = dataset.splits[args.split]
    if args.num_images > len(split):
        sys.exit(f"error: {args.split} has {len(split)} images, fewer than --num_images {args.num_images}.")
    indices = np.random.default_rng(args.seed).choice(len(split), args.num_images, replace=False).tolist()
    images = [split[index]["image"].convert("RGB") for index in indices]
    truths = [dataset.class_names[split[index]["label"]] for index in indices]
    explanations = [
        explain_image(classifier, image, top_attributes=args.top_attributes)
        for image in tqdm(images, desc="Explaining images", unit="image")
    ]
    for index, explanation, truth in zip(indices, explanations, truths):
        print(f"{args.split} {index}: {explanation.heading(truth)}")
        print("  " + ", ".join(f"{explanation.words(a)} ({a.contribution:+.2f})" for a in explanation.attributes))
    plot_explanations(explanations, images, truths, args.output)
    print(f"\nWhere: {args.output}")


if __name__ == "__main__":
    main()
