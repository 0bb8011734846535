"""Runs side by side: what differs between them, and how fast each learned."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..results import format_figure


@dataclass
class FinishedRun:
    """
    What a run of [`run_protocol`] left.

    Args:
        name (`str`):
            Name of its folder.
        results (`dict`):
            What `results.json` holds.
        evaluations (`list[list[dict]]`):
            For each seed the evaluations while it trained, `step` and `eval_H` among them: of validation images, or,
            by the `reference` protocol, of test images.
    """

    name: str
    results: dict
    evaluations: list[list[dict]]


def read_finished_run(folder: str | os.PathLike) -> FinishedRun:
    """
    Reads `results.json` and the logs of training, those of several seeds from their folders.

    Args:
        folder (`str` or `os.PathLike`):
            The output folder of a run.

    Raises:
        FileNotFoundError: If there is no finished run; names what is missing.
    """
    folder = Path(folder)
    if not (folder / "results.json").is_file():
        raise FileNotFoundError(f"{folder} holds no finished run: there is no results.json in it.")
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    seeds = results["seeds"]
    evaluations = []
    for seed in seeds:
        file = folder / (f"seed_{seed}" if len(seeds) > 1 else "") / "training_log.json"
        log = json.loads(file.read_text(encoding="utf-8"))
        stage = log["choose" if "choose" in log else "final"]
        evaluations.append([entry for entry in stage if "eval_H" in entry])
    return FinishedRun(folder.name, results, evaluations)


def describe_difference(run: FinishedRun, first: FinishedRun) -> str:
    """The settings in which a run differs from another, `name value, …`; a setting that either lacks is left out."""
    settings, others = (r.results["settings"] | {"protocol": r.results["protocol"]} for r in (run, first))
    if {settings["protocol"], others["protocol"]} == {"validation", "validated"}:
        # One is the first half of the other, and both have its figures.
        del settings["protocol"]
    return ", ".join(f"{name} {value}" for name, value in settings.items() if name in others and value != others[name])


def format_comparison(runs: Sequence[FinishedRun]) -> str:
    """
    A Markdown table of validation figures, per cent; the first run is what the others are compared with.

    Args:
        runs (`Sequence[FinishedRun]`):
            The runs. Those that have no validation figures, of the `reference` protocol, are left out.
    """
    names = ("T1", "U", "S", "H")
    lines = ["| run | what differs | seeds | steps | " + " | ".join(names) + " |", "|---" * (4 + len(names)) + "|"]
    for run in runs:
        if "validation" not in run.results:
            continue
        figures, spread = run.results["validation"], run.results.get("std", {}).get("validation", {})
        cells = [format_figure(figures[name], spread.get(name)) for name in names]
        steps = max(entry["step"] for seed in run.evaluations for entry in seed)
        seeds = ", ".join(map(str, run.results["seeds"]))
        what = describe_difference(run, runs[0]) or "–"
        lines.append(f"| {run.name} | {what} | {seeds} | {steps:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


__all__ = ["FinishedRun", "describe_difference", "format_comparison", "read_finished_run"]
