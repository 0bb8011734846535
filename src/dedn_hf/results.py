"""What `results.json` holds beside the figures, and how it is shown."""

import os
import platform
import re
import shlex
import sys
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
    std = results.get("std", {})
    lines = [f"{'':12}" + "".join(f"{name:>15}" for name in names)]
    for part in ("validation", "test"):
        if part in results:
            cells = [format_figure(results[part].get(name), std.get(part, {}).get(name)) for name in names]
            lines.append(f"{part:12}" + "".join(f"{cell:>15}" for cell in cells))
    return "\n".join(lines)


def format_ablation(ablation: dict) -> str:
    """A Markdown table of the test figures of `ablation.json`, per cent, that reads as it stands, too."""
    names = ["T1", "U", "S", "H", "AUSUC"]
    rows = [["", "what differs", "seeds", *names[:4], "ΔH", names[4]]]
    for name, row in (ablation["variants"] | ablation["floors"]).items():
        seeds = ", ".join(map(str, row["seeds"])) or ("–" if row["runs"] else "")
        if not row["runs"]:
            rows.append([name, row["description"], seeds, "not measured", "", "", "", "", ""])
            continue
        spread = row.get("std", {}).get("test", {})
        cells = [format_figure(row["test"].get(metric), spread.get(metric)) for metric in names]
        difference = row.get("difference_of_H_to_full")
        difference = "–" if difference is None or name == "full" else f"{difference:+.1f}".replace("-", "−")
        rows.append([name, row["description"], seeds, *cells[:4], difference, cells[4]])
    widths = [max(map(len, column)) for column in zip(*rows)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(f"{cell:{width}}" for cell, width in zip(row, widths)) + " |" for row in rows)


def describe_ablation(ablation: dict) -> str:
    """What `ablation.json` holds, in Markdown: how it was measured, the table, and what is to be known of it."""
    settings, variants, floors = ablation["settings"], ablation["variants"], ablation["floors"]
    budget = f"{settings['num_train_epochs']:g} epochs"
    if settings["max_steps"] > 0:
        budget = f"{settings['max_steps']} steps"
    steps = [sum(run["steps"].values()) for row in variants.values() for run in row["runs"] if "steps" in run]
    lines = [
        "Test images, per cent, accuracies averaged per class. Every variant had the same data, seeds and budget, by "
        f"the `{ablation['protocol']}` protocol: {budget} on the train classes, to choose the number of epochs, the "
        "mixes and the calibration on validation classes, then anew on all seen classes for the number of epochs that "
        "was chosen"
        + (f" ({_range(steps)} steps in both together)" if steps else "")
        + "; the test images were read once for each run. ΔH is the difference of H to `full`, over the seeds that "
        "both have.",
        format_ablation(ablation),
    ]
    of_full = variants.get("full", {"runs": []})
    notes = []
    if any(len(row["runs"]) == 1 for row in variants.values()):
        notes.append("Where there is one seed, no spread is known.")
        spread = of_full.get("std", {}).get("test", {}).get("H")
        if spread is not None:
            notes[-1] += f" That of the full model's H is {spread:.1f} over its {len(of_full['runs'])} seeds."
    if any(len(row["runs"]) > 1 for row in variants.values()):
        notes.append("± is the standard deviation over seeds.")
    if any(row["runs"] for row in floors.values()):
        whose = (
            "The floors are linear and know nothing of regions: their features are the maps averaged over regions, "
        )
        if settings["freeze_backbone"]:
            whose += "of the same frozen backbone."
        else:
            whose += (
                "of the backbone that the full model of the same seed trained. It was trained on all seen classes, "
                "those for validation among them, so that the floors' validation figures are too good."
            )
        notes.append(f"{whose} Their penalties and calibration, too, were chosen on validation classes.")
    return "\n\n".join([*lines, *([" ".join(notes)] if notes else [])])


def _range(numbers: list[int]) -> str:
    return str(min(numbers)) if min(numbers) == max(numbers) else f"{min(numbers)} to {max(numbers)}"


def format_figure(value: float | None, spread: float | None) -> str:
    """A figure to one decimal, with its spread over seeds if there is one; a dash where there is no figure."""
    return "–" if value is None else f"{value:.1f}" + (f" ± {spread:.1f}" if spread is not None else "")


__all__ = ["describe_ablation", "format_ablation", "format_figure", "format_results", "provenance"]
