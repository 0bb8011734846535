"""
Says in words what a model sees in an image, and draws where.

    dedn explain photo.jpg
    dedn explain --model outputs/synthetic_birds --dataset synthetic_birds --split test_unseen --index 0
"""

import argparse
from pathlib import Path

from ..recipes import short_name
from ..registration import DEFAULT_MODEL
from . import CommandParser, check_model, load_model

SPLITS = ("test_unseen", "test_seen", "trainval", "train", "validation_seen", "validation_unseen")


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = CommandParser("dedn explain", description=__doc__)
    parser.add_argument("image", nargs="?", help="image file")
    parser.add_argument(
        "--model",
        default=str(DEFAULT_MODEL),
        help="folder or Hub id of a model with its backbone (default: the birds of CUB, built in)",
    )
    parser.add_argument("--output", help="PNG file to write (default: in this folder, named after the image)")
    parser.add_argument("--top_classes", type=int, default=5, help="how many classes to name (default: 5)")
    parser.add_argument("--top_attributes", type=int, default=5, help="how many attributes to show (default: 5)")
    of_dataset = parser.add_argument_group("an image of a data set, instead of a file")
    of_dataset.add_argument("--dataset", help="synthetic_birds, cub, …")
    of_dataset.add_argument("--data_dir", help="folder of the data set's files; the synthetic birds need none")
    of_dataset.add_argument(
        "--attribute_scale",
        help="unit, percent or the top of the scale of a folder's classes.csv (default: as the table says)",
    )
    of_dataset.add_argument("--split", choices=SPLITS, default=SPLITS[0], help=f"its split (default: {SPLITS[0]})")
    of_dataset.add_argument("--index", type=int, default=0, help="which image of the split, from 0 (default: 0)")
    args = parser.parse_args(arguments)
    if (args.image is None) == (args.dataset is None):
        parser.error("name either an image file or a --dataset")
    for name in ("top_classes", "top_attributes"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} is {getattr(args, name)}; at least 1 is needed")
    if args.image is not None and not Path(args.image).is_file():
        parser.error(f"there is no image file {args.image}")
    if args.output is None:
        stem = Path(args.image).stem if args.image else f"{short_name(args.dataset)}_{args.split}_{args.index}"
        args.output = f"{stem}_explanation.png"
    if not args.output.lower().endswith(".png"):
        parser.error(f"--output {args.output} must be a .png file")
    if args.image is not None and Path(args.output).resolve() == Path(args.image).resolve():
        parser.error(f"--output {args.output} is the image itself; name another file")
    return args


def main(arguments: list[str]):
    args = parse_arguments(arguments)
    check_model(args.model)

    from transformers import AutoImageProcessor

    from ..data import load_gzsl_dataset
    from ..evaluation.explanation import explain_image, plot_explanation
    from ..images_dedn import load_any_image
    from ..names_dedn import NameMatcher
    from ..pipeline_dedn import ZeroShotAttributeClassificationPipeline

    truth = None
    if args.image is not None:
        try:
            image = load_any_image(args.image)
        except (ValueError, OSError) as error:
            raise ValueError(f"{args.image} cannot be read: {error}") from error
    classifier = ZeroShotAttributeClassificationPipeline(
        model=load_model(args.model), image_processor=AutoImageProcessor.from_pretrained(args.model), device="cpu"
    )
    if args.image is None:
        # The model has word vectors of its own.
        dataset = load_gzsl_dataset(
            args.dataset, args.data_dir, word_vectors="random", attribute_scale=args.attribute_scale
        )
        split = dataset.splits[args.split]
        if not 0 <= args.index < len(split):
            raise ValueError(f"{args.split} has images from 0 to {len(split) - 1}, and no {args.index}.")
        example = split[args.index]
        image, truth = load_any_image(example["image"]), dataset.class_names[example["label"]]
    explanation = explain_image(classifier, image, args.top_classes, args.top_attributes)

    predicted = explanation.classes[0][0]
    if truth is not None:
        if truth not in NameMatcher(classifier.model.config.trained_class_names):
            known = "a class of which the model was never shown an image"
        elif args.split.startswith("test"):
            known = "a class that the model was trained on, but this image was not in training"
        else:
            known = "a class that the model was trained on, and this image is one of those it may have learned from"
        print(f"True class: {truth}, {known}.")
    print("\nWhat it may be:")
    for name, share, seen in explanation.classes:
        print(f"  {100 * share:5.1f} %  {name} ({'seen' if seen else 'unseen'})")
    if explanation.runner_up is None:
        print("\nWhat it shows:")
        for attribute in explanation.attributes:
            print(f"  {attribute.words}")
    else:
        print(f"\nWhat sets {predicted} apart from {explanation.runner_up}, in points of their scores' difference:")
        for attribute in explanation.attributes:
            print(f"  {attribute.contribution:+5.2f}  {explanation.words(attribute)}")
    plot_explanation(explanation, image, args.output, explanation.heading(truth))
    print(f"\nWhere: {args.output}")
