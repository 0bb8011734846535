"""
Opens a page for a browser: a photo's names with reasons and places, questions to answer, classes to describe, tables.

    dedn demo
    dedn demo --classes my_birds.csv --port 8080

It listens on this machine alone unless --host says otherwise, and no call leaves it. It needs pip install
'dedn-hf[demo]'.
"""

from ..registration import DEFAULT_MODEL
from . import CommandParser, check_model


def main(arguments: list[str]):
    parser = CommandParser("dedn demo", description=__doc__)
    parser.add_argument(
        "--model", default=str(DEFAULT_MODEL), help="folder or Hub id (default: the birds of CUB, built in)"
    )
    parser.add_argument("--classes", metavar="FILE", help="a table of classes that every visitor begins with")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine alone)")
    parser.add_argument("--port", type=int, help="port (default: the first that is free from 7860 on)")
    parser.add_argument("--device", help="cpu, cuda, … (default: an accelerator if there is one)")
    args = parser.parse_args(arguments)
    check_model(args.model)
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ImportError("dedn demo needs Gradio: pip install 'dedn-hf[demo]'") from error
    from ..demo import Page, launch
    from .predict import load_classifier

    page = Page(load_classifier(args.model, args.device), args.classes)
    print("Ctrl-C ends it.")
    launch(page, args.host, args.port)
