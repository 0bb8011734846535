"""
Says in words what a model sees in an image, and draws where; or makes a page of many images.

    dedn explain photo.jpg
    dedn explain photos/ --output report.html
    dedn explain --model outputs/synthetic_birds --dataset synthetic_birds --split test_unseen --index 0
"""

import argparse
import sys
from contextlib import closing
from pathlib import Path

from ..recipes import short_name
from ..registration import DEFAULT_MODEL
from . import CommandParser, check_model, load_model
from .predict import BATCH_SIZE, CPU_BATCH_SIZE, ImageSearch, batches_to_do, load_classifier, predict

SPLITS = ("test_unseen", "test_seen", "trainval", "train", "validation_seen", "validation_unseen")


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = CommandParser("dedn explain", description=__doc__)
    parser.add_argument(
        "images",
        nargs="*",
        metavar="IMAGES",
        help="image file; for a page, files, folders to search through, or - for a path a line on stdin",
    )
    parser.add_argument(
        "--model",
        default=str(DEFAULT_MODEL),
        help="folder or Hub id of a model with its backbone (default: the birds of CUB, built in)",
    )
    parser.add_argument(
        "--output",
        metavar="OUT.png|OUT.html",
        help="picture of one image (default: in this folder, named after the image), or a page of many",
    )
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
    args = parser.parse_intermixed_args(arguments)
    if bool(args.images) == (args.dataset is not None):
        parser.error("name either an image file or a --dataset")
    for name in ("top_classes", "top_attributes"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} is {getattr(args, name)}; at least 1 is needed")
    if is_page(args.output):
        if args.dataset is not None:
            parser.error(f"a page, as --output {args.output}, is of image files: name them, or their folder")
    else:
        if len(args.images) > 1 or (args.images and (args.images[0] == "-" or Path(args.images[0]).is_dir())):
            parser.error("more than one image goes on a page: name it, as --output report.html")
        if args.images and not Path(args.images[0]).is_file():
            parser.error(f"there is no image file {args.images[0]}")
        if args.output is None:
            stem = (
                Path(args.images[0]).stem if args.images else f"{short_name(args.dataset)}_{args.split}_{args.index}"
            )
            args.output = f"{stem}_explanation.png"
        if not args.output.lower().endswith(".png"):
            parser.error(f"--output {args.output} must be a .png or .html file")
    if any(Path(args.output).resolve() == Path(image).resolve() for image in args.images):
        parser.error(f"--output {args.output} is the image itself; name another file")
    return args


def is_page(output: str | None) -> bool:
    """Whether this file to write is a page of many images, and no picture of one."""
    return output is not None and output.lower().endswith((".html", ".htm"))


def main(arguments: list[str]) -> int:
    args = parse_arguments(arguments)
    check_model(args.model)
    return write_page(args) if is_page(args.output) else draw(args)


def write_page(args: argparse.Namespace) -> int:
    """Makes a page of images, see [`write_explanation_page`]."""
    from ..files import require_writable

    require_writable(args.output)
    search = ImageSearch(args.images)
    paths = list(search)
    left_out = f"; {search.left_out()}" if search.num_left_out else ""
    if not paths:
        raise ValueError(f"there are no images in {', '.join(args.images)}{left_out}")
    classifier = load_classifier(args.model)

    from tqdm.auto import tqdm

    from ..evaluation.explanation_page import thumbnail, write_explanation_page
    from ..images_dedn import load_any_image

    classify = classifier.prepare_call(
        top_k=max(2, args.top_classes), top_attributes=args.top_attributes, attention="grid"
    )

    def read(classifier, path: str) -> dict:
        image = load_any_image(Path(path))
        inputs = classifier.preprocess(image)
        inputs["thumbnail"] = thumbnail(image)
        return inputs

    def explain(inputs: list) -> list[dict]:
        kept = [{name: image[name] for name in ("size", "thumbnail")} for image in inputs]
        return [result | of_image for result, of_image in zip(classify(inputs), kept)]

    batch_size = CPU_BATCH_SIZE if classifier.device.type == "cpu" else BATCH_SIZE
    count, failed = f"{len(paths):,} photo{'s' * (len(paths) != 1)}", 0

    def answers(batches):
        nonlocal failed
        for batch in batches:
            for path, answer in batch:
                failed += isinstance(answer, str)
                yield path, answer
                progress.update()

    progress = tqdm(desc="Explaining", unit="image", total=len(paths), disable=None)
    with progress, closing(predict(classifier, explain, batches_to_do(paths, batch_size), read)) as batches:
        write_explanation_page(
            args.output,
            answers(batches),
            classifier.in_words,
            title=f"What {count} show{'s' * (len(paths) == 1)}",
            model="the built-in model" if args.model == str(DEFAULT_MODEL) else Path(args.model).name,
            top_classes=args.top_classes,
        )
    if left_out:
        print(search.left_out(), file=sys.stderr)
    unread = f", {failed:,} could not be read" if failed else ""
    print(f"{len(paths):,} image{'s' * (len(paths) != 1)}{unread}: {args.output}", file=sys.stderr)
    return 0 if failed < len(paths) else 1


def draw(args: argparse.Namespace) -> int:
    """Explains one image in words, and draws it, see [`plot_explanation`]."""
    from transformers import AutoImageProcessor

    from ..data import load_gzsl_dataset
    from ..evaluation.explanation import explain_image, plot_explanation
    from ..images_dedn import load_any_image
    from ..names_dedn import NameMatcher
    from ..pipeline_dedn import ZeroShotAttributeClassificationPipeline

    truth = None
    if args.images:
        try:
            image = load_any_image(args.images[0])
        except (ValueError, OSError) as error:
            raise ValueError(f"{args.images[0]} cannot be read: {error}") from error
    classifier = ZeroShotAttributeClassificationPipeline(
        model=load_model(args.model), image_processor=AutoImageProcessor.from_pretrained(args.model), device="cpu"
    )
    if not args.images:
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
    return 0
