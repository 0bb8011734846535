"""
Shows what a model understands of a class that is described in words, or sees of it in some photos:

    dedn describe --text "a small songbird with a blue head, a red belly and a short cone-shaped bill"
    dedn describe --text "long legs, no tail" --model MODEL --json
    dedn describe photos/lantern/ --name "Garden Lantern" --classes my_birds.csv

With --classes it adds the class as a row, to be corrected by hand, to a table for `dedn predict --classes`, or begins
one. Photos say of all attributes how strong they are; a text beside them counts like five photos for what it names.
"""

import json
import sys

from ..registration import DEFAULT_MODEL
from . import CommandParser, check_model

# Lines on the screen; a table has all.
NUM_SHOWN = 20


def main(arguments: list[str]):
    parser = CommandParser("dedn describe", description=__doc__)
    parser.add_argument("images", nargs="*", metavar="PHOTO", help="photos of the class, and folders of them")
    parser.add_argument("--text", help="the description")
    parser.add_argument("--name", help="what the class is called, for --classes")
    parser.add_argument("--classes", metavar="FILE.csv", help="a table of classes to which it is added")
    parser.add_argument(
        "--model", default=str(DEFAULT_MODEL), help="folder or Hub id (default: the birds of CUB, built in)"
    )
    parser.add_argument("--json", action="store_true", help="attributes, their words and what was not read, as JSON")
    parser.add_argument("--device", help="cpu, cuda, … (default: an accelerator if there is one)")
    args = parser.parse_intermixed_args(arguments)
    if not args.images and args.text is None:
        parser.error("say what to describe: photos, or --text")
    if (args.name is None) != (args.classes is None):
        parser.error("--name and --classes go together")
    if args.json and args.classes is not None:
        parser.error("--json shows a class, and --classes adds it to a table: leave one of them out")
    check_model(args.model)
    if not args.images and args.classes is None:
        describe_text(args.text, args.model, args.json)
        return
    strengths = describe_class(args.name or "described", args.images, args.text, args.model, args.device)
    if args.classes is not None:
        from ..data.class_table import add_class

        add_class(args.classes, args.name, strengths)
        print(f"{args.classes}: {args.name}, {len(strengths)} attributes")
    elif args.json:
        print(json.dumps({"attributes": strengths}, ensure_ascii=False, indent=2))


def describe_class(name: str, paths: list[str], text: str | None, model: str, device: str | None) -> dict[str, float]:
    """Strengths of all attributes by photos, a text or both; shows those that set the class apart."""
    from ..names_dedn import describe_attribute
    from .predict import ImageSearch, load_classifier

    images = list(ImageSearch(paths))
    if paths and not images:
        raise ValueError(f"there are no images in {', '.join(paths)}")
    classifier = load_classifier(model, device)
    from ..candidates_dedn import class_strengths, read_candidates

    parts = {"images": images or None, "text": text}
    candidates = read_candidates(classifier.model.config, {name: parts}, classifier._describe)
    described = class_strengths(classifier.model, candidates)[name]
    usual = classifier.model.usual_strengths().tolist()
    apart = sorted(zip(described.items(), usual), key=lambda entry: -abs(entry[0][1] - entry[1]))[:NUM_SHOWN]
    for (attribute, strength), of_all in apart:
        print(f"{strength:4.2f}  {describe_attribute(attribute, strength < of_all, strength)}", file=sys.stderr)
    return described


def describe_text(text: str, model: str, as_json: bool = False):
    """Prints what a model, of which the config is enough, understands of a text."""
    from ..configuration_dedn import DednConfig
    from ..names_dedn import readable_attribute
    from ..words_dedn import understand

    settings, _ = DednConfig.get_config_dict(model)
    if settings.get("model_type") != DednConfig.model_type:
        raise ValueError(f"{model} is a model of type {settings.get('model_type')!r}, but one of DEDN is needed")
    understood = understand(DednConfig.from_dict(settings), text)
    if as_json:
        print(json.dumps(understood, ensure_ascii=False, indent=2))
    else:
        attributes = {readable_attribute(name): name for name in understood["attributes"]}
        width = max(map(len, attributes), default=0)
        for readable, name in attributes.items():
            print(f"{understood['attributes'][name]:4.2f}  {readable:{width}}  {understood['sources'][name]}")
        if understood["unread"]:
            print(f"not read: {', '.join(understood['unread'])}", file=sys.stderr)
    if not any(understood["attributes"].values()):
        raise ValueError(
            f"of {text!r} nothing is understood: name parts, colors and so on, as the model's attributes do"
        )


def summary(name: str, understood: dict) -> str:
    """One line of what was understood of a class, for those who also get something else."""
    from ..names_dedn import describe_attribute

    said = ", ".join(
        describe_attribute(attribute, strength == 0) + (f" ({strength:g})" if 0 < strength < 1 else "")
        for attribute, strength in understood["attributes"].items()
    )
    unread = f"; not read: {', '.join(understood['unread'])}" if understood["unread"] else ""
    return f"{name}: {said}{unread}"
