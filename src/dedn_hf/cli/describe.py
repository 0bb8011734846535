"""
Shows what a model understands of a class that is described in words, without an image:

    dedn describe --text "a small songbird with a blue head, a red belly and a short cone-shaped bill"
    dedn describe --text "long legs, no tail" --model MODEL --json
"""

import json
import sys

from ..registration import DEFAULT_MODEL
from . import CommandParser, check_model


def main(arguments: list[str]):
    parser = CommandParser("dedn describe", description=__doc__)
    parser.add_argument("--text", required=True, help="the description")
    parser.add_argument(
        "--model", default=str(DEFAULT_MODEL), help="folder or Hub id (default: the birds of CUB, built in)"
    )
    parser.add_argument("--json", action="store_true", help="attributes, their words and what was not read, as JSON")
    args = parser.parse_args(arguments)
    check_model(args.model)
    describe_text(args.text, args.model, args.json)


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
