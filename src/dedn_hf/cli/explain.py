"""
Says in words what a model sees in an image, and draws where.

    dedn explain photo.jpg
    dedn explain --model outputs/synthetic_birds --dataset synthetic_birds --split test_unseen --index 0
    dedn explain --model outputs/synthetic_birds --dataset synthetic_birds --num_images 6
"""

import argparse
from pathlib import Path

from ..registration import DEFAULT_MODEL, TASK
from . import CommandParser, check_model

SPLITS = ("test_unseen", "test_seen", "trainval", "train", "validation_seen", "validation_unseen")


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = CommandParser("dedn explain", description=__doc__)
    parser.add_argument("image", nargs="?", help="image file")
    parser.add_argument(
        "--model", default=str(DEFAULT_MODEL), help="folder or Hub id of a model with its backbone (default: built in)"
    )
    parser.add_argument("--output", help="PNG file to write (default: in this folder, named after the images)")
    parser.add_argument("--top_classes", type=int, default=5, help="how many classes to name (default: 5)")
    parser.add_argument("--top_attributes", type=int, help="how many attributes to show (default: 5; on a sheet, 4)")
    of_dataset = parser.add_argument_group("images of a data set, instead of a file")
    of_dataset.add_argument("--dataset", help="synthetic_birds, cub, …")
    of_dataset.add_argument("--data_dir", help="folder of the data set's files; the synthetic birds need none")
    of_dataset.add_argument("--split", choices=SPLITS, default=SPLITS[0], help=f"its split (default: {SPLITS[0]})")
    of_dataset.add_argument("--index", type=int, help="which image of the split, from 0 (default: 0)")
    of_dataset.add_argument("--num_images", type=int, help="draw so many images at random, for a sheet")
    of_dataset.add_argument("--seed", type=int, default=0, help="seed of that draw (default: 0)")
    args = parser.parse_args(arguments)
    if (args.image is None) == (args.dataset is None):
        parser.error("name either an image file or a --dataset")
    if args.num_images is not None and (args.dataset is None or args.index is not None):
        parser.error("--num_images draws images of a --dataset, and goes without --index")
    if args.seed < 0:
        parser.error(f"--seed is {args.seed}; it cannot be negative")
    if args.top_attributes is None:
        args.top_attributes = 5 if args.num_images is None else 4
    for name in ("top_classes", "top_attributes", "num_images"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} is {getattr(args, name)}; at least 1 is needed")
    if args.image is not None and not Path(args.image).is_file():
        parser.error(f"there is no image file {args.image}")
    if args.index is None:
        args.index = 0
    if args.output is None:
        number = args.index if args.num_images is None else f"{args.num_images}_of_seed_{args.seed}"
        stem = Path(args.image).stem if args.image else f"{args.dataset}_{args.split}_{number}"
        args.output = f"{stem}_explanation.png"
    if not args.output.lower().endswith(".png"):
        parser.error(f"--output {args.output} must be a .png file")
    if args.image is not None and Path(args.output).resolve() == Path(args.image).resolve():
        parser.error(f"--output {args.output} is the image itself; name another file")
    return args


def main(arguments: list[str]):
    args = parse_arguments(arguments)
    check_model(args.model)

    import numpy as np
    from tqdm.auto import tqdm
    from transformers import pipeline
    from transformers.image_utils import load_image

    from ..data import load_gzsl_dataset
    from ..evaluation import explain_image, plot_explanation, plot_explanations

    classifier = pipeline(TASK, model=args.model, device="cpu")
    truths = [None]
    if args.image is not None:
        images = [load_image(args.image)]  # upright, as its EXIF tag says
    else:
        # The model has word vectors of its own.
        dataset = load_gzsl_dataset(args.dataset, args.data_dir, word_vectors="random")
        split = dataset.splits[args.split]
        indices = [args.index]
        if args.num_images is not None:
            if args.num_images > len(split):
                raise ValueError(f"{args.split} has {len(split)} images, fewer than --num_images {args.num_images}.")
            indices = np.random.default_rng(args.seed).choice(len(split), args.num_images, replace=False).tolist()
        elif not 0 <= args.index < len(split):
            raise ValueError(f"{args.split} has images from 0 to {len(split) - 1}, and no {args.index}.")
        images = [split[index]["image"].convert("RGB") for index in indices]
        truths = [dataset.class_names[split[index]["label"]] for index in indices]
    explanations = [
        explain_image(classifier, image, args.top_classes, args.top_attributes)
        for image in tqdm(images, desc="Explaining images", unit="image", disable=len(images) == 1)
    ]

    if args.num_images is not None:
        for index, explanation, truth in zip(indices, explanations, truths):
            print(f"{args.split} {index}: {explanation.heading(truth)}")
            print("  " + ", ".join(f"{a.words} ({a.contribution:+.2f})" for a in explanation.attributes))
        plot_explanations(explanations, images, truths, args.output)
        print(f"\nWhere: {args.output}")
        return

    (image,), (truth,), (explanation,) = images, truths, explanations
    predicted = explanation.classes[0][0]
    if truth is not None:
        if truth not in classifier.model.config.trained_class_names:
            known = "a class of which the model was never shown an image"
        elif args.split.startswith("test"):
            known = "a class that the model was trained on, but this image was not in training"
        else:
            known = "a class that the model was trained on, and this image is one of those it may have learned from"
        print(f"True class: {truth}, {known}.")
    print("\nWhat it may be:")
    for name, share, seen in explanation.classes:
        print(f"  {100 * share:5.1f} %  {name} ({'seen' if seen else 'unseen'})")
    print(f"\nWhat speaks for {predicted}, in points of its score over the average class's:")
    for attribute in explanation.attributes:
        print(f"  {attribute.contribution:+5.2f}  {attribute.words}")
    plot_explanation(explanation, image, args.output, explanation.heading(truth))
    print(f"\nWhere: {args.output}")
