"""What `ablation.json` says, as a table, as text and as a picture."""

import os

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dedn_hf.evaluation.plots import SEEN_COLOR, UNSEEN_COLOR, light_grid, save_figure
from dedn_hf.results import format_figure


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
        difference = None if name == "full" else row.get("difference_of_H_to_full")
        # + 0.0, as what rounds to nothing has a minus otherwise.
        difference = "–" if difference is None else f"{round(difference, 1) + 0.0:+.1f}".replace("-", "−")
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


def plot_ablation(ablation: dict, path: str | os.PathLike):
    """
    H and T1 of every variant and floor as bars, with the standard deviation where there are several seeds, and each
    seed as a dot; the line is the full model.

    Args:
        ablation (`dict`):
            What `ablation.json` holds.
        path (`str` or `os.PathLike`):
            PNG file to write; its folder is made.
    """
    rows = ablation["variants"] | ablation["floors"]
    figure = Figure(figsize=(8, 1.4 + 0.36 * len(rows)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, metric in zip(panels, ("H", "T1")):
        for place, (name, row) in enumerate(rows.items()):
            color = UNSEEN_COLOR if name in ablation["floors"] else SEEN_COLOR
            mean = row["test"].get(metric) if row["runs"] else None
            if mean is None:
                axes.annotate(
                    "not measured", (0, place), (4, 0), textcoords="offset points", va="center", color="0.45"
                )
                continue
            std = row.get("std", {}).get("test", {}).get(metric)
            axes.barh(place, mean, xerr=std, height=0.7, color=color, ecolor="black", capsize=3)
            if len(row["runs"]) > 1:
                figures = [run["test"][metric] for run in row["runs"]]
                axes.plot(figures, [place] * len(figures), "o", color="white", markeredgecolor="black", markersize=4)
            # Left of all bars' ends, so that it is never on a dot or an error bar.
            axes.annotate(
                f"{mean:.1f}", (0, place), (4, 0), textcoords="offset points", va="center", color="white", fontsize=10
            )
            if name == "full":
                axes.axvline(mean, color="0.4", linestyle="--", linewidth=1.2, zorder=0)
        axes.set_xlabel(f"{metric} (%)", fontsize=12)
        axes.set_xlim(left=0)
        axes.tick_params(labelsize=10)
        axes.tick_params(axis="y", length=0)
        light_grid(axes, "x")
    panels[0].set_yticks(range(len(rows)), [name.replace("_", " ") for name in rows], parse_math=False)
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    handles = [
        Patch(color=SEEN_COLOR, label="DEDN"),
        Patch(color=UNSEEN_COLOR, label="linear floors on pooled features"),
    ]
    if any(len(row["runs"]) > 1 for row in rows.values()):
        dot = {"marker": "o", "color": "white", "markeredgecolor": "black", "linestyle": "none", "markersize": 4}
        handles.append(Line2D([], [], **dot, label="one seed"))
    figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=11, frameon=False)
    save_figure(figure, path)
