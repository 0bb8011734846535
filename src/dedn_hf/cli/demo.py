"""
Opens a page for a browser: a photo's names with reasons and places, questions to answer, classes to describe, tables.

    dedn demo
    dedn demo --classes my_birds.csv --port 8080

It listens on this machine alone unless --host says otherwise, and once the model is loaded no call leaves it. It
needs pip install 'dedn-hf[demo]'.
"""

import argparse
import ipaddress
import socket
import sys

from ..registration import DEFAULT_MODEL
from . import CommandParser, check_model


def main(arguments: list[str]):
    parser = CommandParser("dedn demo", description=__doc__)
    parser.add_argument(
        "--model", default=str(DEFAULT_MODEL), help="folder or Hub id (default: the birds of CUB, built in)"
    )
    parser.add_argument("--classes", metavar="FILE", help="a table of classes that every visitor begins with")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine alone)")
    parser.add_argument("--port", type=_port, help="port (default: the first that is free from 7860 on)")
    parser.add_argument("--device", help="cpu, cuda, … (default: an accelerator if there is one)")
    args = parser.parse_args(arguments)
    check_model(args.model)
    check_address(args.host, args.port)
    try:
        # Gradio has a folder of this name among temporary files, which an import takes for it there.
        from gradio import Blocks  # noqa: F401
    except ImportError as error:
        raise ImportError("dedn demo needs Gradio: pip install 'dedn-hf[demo]'") from error
    from ..demo import Page, launch
    from .predict import load_classifier

    page = Page(load_classifier(args.model, args.device), args.classes)
    stay_on_this_machine(args.host)
    print("Ctrl-C ends it.")
    launch(page, args.host, args.port)


def stay_on_this_machine(host: str = "127.0.0.1"):
    """
    Has this process refuse, from now on and for good, to connect to any other machine, or to ask for the address of
    one: whatever a library would like to report, and whatever a visitor gives as the URL of a file.

    Args:
        host (`str`, *optional*):
            The address that it listens on itself, and may connect to.
    """
    own = {host, "localhost", ""}

    def is_own(address) -> bool:
        address = address.decode() if isinstance(address, bytes) else address
        if address is None or address in own:
            return True
        try:
            return ipaddress.ip_address(address).is_loopback or ipaddress.ip_address(address).is_unspecified
        except ValueError:
            return False

    def refuse(event: str, arguments: tuple):
        if event in ("socket.connect", "socket.sendto"):
            address = arguments[1]
            address = address[0] if isinstance(address, tuple) else None  # a path of this machine
        elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
            address = arguments[0]
        else:
            return
        if not is_own(address):
            raise PermissionError(f"the page connects to no other machine, and not to {address}")

    sys.addaudithook(refuse)


def check_address(host: str, port: int | None = None):
    """A ValueError if nothing can listen there, before a model is loaded."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((host, port or 0))
    except OSError as error:
        where = f"port {port} of {host}" if port else host
        raise ValueError(f"--host, --port: cannot listen at {where}: {error.strerror}") from error


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is no port from 1 to 65535")
    return int(text)
