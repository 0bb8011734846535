"""
Finished runs side by side: a table of their validation figures with the settings that differ from the first run's, and
H over the steps or the hours of training as a picture.

    python scripts/lab/compare_runs.py outputs/cub outputs/other_cub --figure comparison.png
    python scripts/lab/compare_runs.py outputs/cub outputs/other_cub --figure cost.png --over hours
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from dedn_hf.evaluation.plots import SEEN_COLOR, UNSEEN_COLOR, light_grid, plain_log_ticks, save_figure
from dedn_hf.files import read_json
from dedn_hf.results import format_figure, format_setting

LEARNING = {"reference": "test images", "validated": "validation images", "validation": "validation images"}
# Colours of runs that stay apart for colour-blind readers (Okabe and Ito).
COLORS = (SEEN_COLOR, UNSEEN_COLOR, "#009e73", "#cc79a7", "#000000", "#56b4e9")


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
            For each seed the evaluations while it trained, `step`, `seconds` and `eval_H` among them: of validation
            images, or, by the `reference` protocol, of test images.
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
        ValueError: If a file is damaged.
    """
    folder = Path(folder)
    if not (folder / "results.json").is_file():
        raise FileNotFoundError(f"{folder} holds no finished run: there is no results.json in it.")
    results = read_json(folder / "results.json")
    seeds = results["seeds"]
    evaluations = []
    for seed in seeds:
        file = folder / (f"seed_{seed}" if len(seeds) > 1 else "") / "training_log.json"
        log = read_json(file)
        stage = log["choose" if "choose" in log else "final"]
        evaluations.append([entry for entry in stage if "eval_H" in entry])
    return FinishedRun(folder.name, results, evaluations)


def describe_difference(run: FinishedRun, first: FinishedRun) -> str:
    """The settings in which a run differs from another, `name value, …`; a setting that either lacks is left out."""
    settings, others = (r.results["settings"] | {"protocol": r.results["protocol"]} for r in (run, first))
    if {settings["protocol"], others["protocol"]} == {"validation", "validated"}:
        # One is the first half of the other, and both have its figures.
        del settings["protocol"]
    differing = {name: value for name, value in settings.items() if name in others and value != others[name]}
    return ", ".join(f"{name} {format_setting(value)}" for name, value in differing.items())


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


def plot_learning_curves(
    curves: Mapping[str, Sequence[Sequence[tuple[float, float]]]], path: str | os.PathLike, over: str = "steps"
):
    """
    H over the steps or hours of training, on a logarithmic axis: a colour for each run, a line for each of its seeds
    and a dot at its highest H.

    Args:
        curves (`Mapping[str, Sequence[Sequence[tuple[float, float]]]]`):
            Label of a run → for each seed its evaluations, pairs of step or hour and H (per cent).
        path (`str` or `os.PathLike`):
            PNG file to write; its folder is made.
        over (`str`, *optional*, defaults to `"steps"`):
            What the first of a pair is, for the axis.

    Raises:
        ValueError: If there are more runs than colours that can be told apart.
    """
    if len(curves) > len(COLORS):
        raise ValueError(f"{len(curves)} runs are too many for one figure: {len(COLORS)} colours can be told apart.")
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for (label, seeds), color in zip(curves.items(), COLORS):
        for index, evaluations in enumerate(seeds):
            steps, heights = zip(*evaluations)
            best = int(np.argmax(heights))
            axes.plot(steps, heights, color=color, linewidth=1.8, label=None if index else label)
            axes.plot(steps[best], heights[best], "o", color=color, markeredgecolor="black", markersize=6)
    axes.set_xscale("log")
    plain_log_ticks(axes.xaxis)
    axes.set_xlabel(f"{over} of training", fontsize=12)
    axes.set_ylabel("H (%)", fontsize=12)
    axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=11)
    light_grid(axes)
    figure.legend(loc="outside upper center", ncols=1 if len(curves) < 4 else 2, fontsize=11, frameon=False)
    save_figure(figure, path)


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="output folders of `dedn train`")
    parser.add_argument("--figure", help="PNG file to draw H into")
    parser.add_argument("--over", choices=("steps", "hours"), default="steps", help="what H is drawn over")
    args = parser.parse_args(arguments)

    try:
        runs = [read_finished_run(folder) for folder in args.runs]
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    print(format_comparison(runs))
    if args.figure:
        key, unit = {"steps": ("step", 1), "hours": ("seconds", 3600)}[args.over]
        lacking = [run.name for run in runs if not all(key in entry for seed in run.evaluations for entry in seed)]
        if lacking:
            parser.error(
                f"how long it took is not recorded of {', '.join(lacking)}, of an earlier version: leave it out."
            )
        curves = {
            f"{run.name} ({LEARNING[run.results['protocol']]})": [
                [(entry[key] / unit, entry["eval_H"]) for entry in seed] for seed in run.evaluations
            ]
            for run in runs
        }
        plot_learning_curves(curves, args.figure, args.over)
        print(f"\nFigure: {args.figure}")


if __name__ == "__main__":
    main()
