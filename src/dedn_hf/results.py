"""What `results.json` holds beside the figures, and how it is shown."""

import os
import platform
import re
import shlex
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from accelerate import PartialState

_PACKAGES = ("dedn-hf", "torch", "transformers", "accelerate", "datasets", "numpy")


def provenance() -> dict:
    """
    `versions` of Python and the packages that matter, and the `command` that is running, with relative paths and
    without access tokens.
    """
    world_size, (program, *arguments) = PartialState().num_processes, sys.argv
    launcher = ["python"] if world_size == 1 else ["accelerate", "launch", "--num_processes", str(world_size)]
    command = [*launcher, _relative(program)]
    if Path(program).stem in ("dedn", "__main__"):
        command = ["dedn"] if world_size == 1 else [*launcher, "-m", "dedn_hf"]
    return {
        "versions": {"python": platform.python_version()} | {package: version(package) for package in _PACKAGES},
        "command": re.sub(r"hf_\w{8,}", "hf_…", shlex.join([*command, *map(_relative, arguments)])),
    }


def _relative(argument: str) -> str:
    """An argument of the command line, with a path (also that of `--flag=path`) relative to the current folder."""
    flag, equals, value = argument.rpartition("=") if argument.startswith("-") else ("", "", argument)
    return flag + equals + (os.path.relpath(value) if os.path.isabs(value) else value)


def format_results(results: dict) -> str:
    """A table of the `validation` and `test` figures of `results.json` for the terminal, per cent."""
    names = ["T1", "U", "S", "H", "AUSUC"]
    lines = [f"{'':12}" + "".join(f"{name:>15}" for name in names)]
    for part in ("validation", "test"):
        if part in results:
            lines.append(f"{part:12}" + "".join(f"{cell:>15}" for cell in format_figures(results, part, names)))
    return "\n".join(lines)


def format_figures(results: dict, part: str, names: Iterable[str]) -> list[str]:
    """Figures of `results.json` for `part`, `validation` or `test`, each as [`format_figure`] writes it."""
    std = results.get("std", {}).get(part, {})
    return [format_figure(results[part].get(name), std.get(name)) for name in names]


def format_figure(value: float | None, spread: float | None) -> str:
    """A figure to one decimal, with its spread over seeds if there is one; a dash where there is no figure."""
    return "–" if value is None else f"{value:.1f}" + (f" ± {spread:.1f}" if spread is not None else "")


def format_setting(value) -> str:
    """A setting in a cell of a Markdown table: text is code there, and bars in it, as patterns have, do not end it."""
    return "`{}`".format(value.replace("|", r"\|")) if isinstance(value, str) else str(value)
