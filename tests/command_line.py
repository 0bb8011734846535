"""Commands as they are typed, in this process."""

import sys

from dedn_hf.cli import main


class CommandFailed(Exception):
    """A command that ended with another status than 0; the text is what it printed to stderr."""

    def __init__(self, status: int, printed: str):
        super().__init__(printed)
        self.status = status


def run_command(capsys, monkeypatch, *arguments) -> None:
    """Runs `dedn …`; what it prints is left for `capsys` unless it fails."""
    arguments = [str(argument) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["dedn", *arguments])
    capsys.readouterr()  # of what came before
    try:
        status = main(arguments)
    except SystemExit as end:  # of argparse
        status = end.code or 0
    if status:
        raise CommandFailed(status, capsys.readouterr().err)
