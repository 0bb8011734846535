"""Figures of an evaluation, as PNG files that read well at 800 pixels across. Nothing here touches pyplot's state."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter

from .calibration import SeenUnseenCurve, ausuc
from .metrics import expected_calibration_error, harmonic_mean, reliability_bins

# Two colours that stay apart for colour-blind readers and in grey.
SEEN_COLOR, UNSEEN_COLOR = "#1f5a94", "#e08214"


def save_figure(figure: Figure, path: str | os.PathLike):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(temporary, format="png", dpi=150)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def light_grid(axes, axis: str = "both"):
    """Light lines behind what is drawn, and no frame above and on the right."""
    axes.grid(axis=axis, color="0.88", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def plain_log_ticks(axis):
    """
    Plain numbers on a horizontal logarithmic axis, set after all is drawn: of one decade matplotlib would write
    2 × 10⁻² and so on, one over the other. At 1, 2 and 5 of a decade that has room for them, else at 1 alone.
    """
    low, high = axis.get_view_interval()
    inches = axis.axes.get_window_extent().width / axis.figure.dpi
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if inches > 1.2 * math.log10(high / low) else (1,)))
    axis.set_major_formatter("{x:,g}")
    axis.set_minor_formatter(NullFormatter())


def plot_seen_unseen_curve(
    curve: SeenUnseenCurve, path: str | os.PathLike, chosen: float | None = None, best: float | None = None
):
    """
    S over U for every γ of calibrated stacking, with its area, and the points of up to two values of γ.

    Args:
        curve ([`SeenUnseenCurve`]):
            The curve.
        path (`str` or `os.PathLike`):
            PNG file to write; its folder is made.
        chosen (`float`, *optional*):
            The γ in use, such as the one chosen on validation data.
        best (`float`, *optional*):
            The γ of highest H on these very images, which no protocol may use; shown for comparison.
    """
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.add_subplot()
    axes.fill_between(curve.unseen, curve.seen, color=SEEN_COLOR, alpha=0.1, linewidth=0)
    axes.plot(curve.unseen, curve.seen, color=SEEN_COLOR, linewidth=2, label=f"all γ: AUSUC {ausuc(curve):.1f}")

    # Lines of equal H (S = HU / (2U − H)) say how far a point is from another in the headline figure.
    limit = max(curve.unseen.max(), curve.seen.max()) * 1.08 or 100.0
    step = next(width for width in (1, 2, 5, 10, 20) if limit / width <= 6)
    for level in np.arange(step, limit, step):
        unseen = np.linspace(level / 2, limit, 400)[1:]
        seen = level * unseen / (2 * unseen - level)
        axes.plot(unseen, seen, color="0.75", linewidth=0.8, linestyle=":", zorder=1)
        axes.text(limit, seen[-1], f" H = {level:g}", va="center", color="0.45", fontsize=9)

    marks = (("chosen", chosen, "o", UNSEEN_COLOR, 11), ("best on these images", best, "*", "black", 13))
    for name, calibration, marker, color, size in marks:
        if calibration is None:
            continue
        seen, unseen = curve.at(calibration)
        label = f"{name}: γ = {calibration:.3g}, S {seen:.1f}, U {unseen:.1f}, H {harmonic_mean(seen, unseen):.1f}"
        mark = {"color": color, "markeredgecolor": "white", "markersize": size}
        axes.plot(unseen, seen, marker, label=label, clip_on=False, zorder=5, **mark)
    axes.set(xlim=(0, limit), ylim=(0, limit))
    axes.set_xlabel("U: accuracy on unseen classes (%)", fontsize=12)
    axes.set_ylabel("S: accuracy on seen classes (%)", fontsize=12)
    axes.set_title("Seen–unseen accuracy under calibrated stacking", fontsize=13)
    axes.tick_params(labelsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", fontsize=11, frameon=False)
    save_figure(figure, path)


def plot_per_class_accuracy(
    accuracies: Sequence[float], class_names: Sequence[str], seen_class_ids: Sequence[int], path: str | os.PathLike
):
    """
    A bar for each class, by name: seen classes first, then unseen ones, each from the best to the worst.

    Args:
        accuracies (`Sequence[float]` of length `K`):
            Per cent, as [`~metrics.per_class_accuracy`] gives them; classes with NaN are left out and counted.
        class_names (`Sequence[str]` of length `K`):
            Name of each class; long ones are cut.
        seen_class_ids (`Sequence[int]`):
            Classes that the model was trained on.
        path (`str` or `os.PathLike`):
            PNG file to write; its folder is made. The figure is the taller the more classes there are.

    Raises:
        ValueError: different lengths, or no class with an accuracy.
    """
    accuracies = np.asarray(accuracies, dtype=np.float64)
    if accuracies.shape != (len(class_names),):
        raise ValueError(f"`accuracies` has shape {accuracies.shape}, but there are {len(class_names)} `class_names`.")
    is_seen = np.isin(np.arange(len(class_names)), seen_class_ids)
    present = np.flatnonzero(~np.isnan(accuracies))
    if not present.size:
        raise ValueError(f"None of the {len(class_names)} classes has an accuracy: all are NaN.")
    order = present[np.lexsort((present, -accuracies[present], ~is_seen[present]))]

    columns = 1 if len(order) <= 40 else 2 if len(order) <= 100 else 3
    rows = math.ceil(len(order) / columns)
    longest_name = {1: 40, 2: 30, 3: 24}[columns]
    limit = next((limit for limit in (20, 50) if accuracies[order].max() <= limit), 100)
    figure = Figure(figsize=(8, 1.1 + max(rows, 8) * 0.135), layout="constrained")
    for column, axes in enumerate(figure.subplots(1, columns, squeeze=False)[0]):
        ids = order[column * rows : (column + 1) * rows]
        colors = np.where(is_seen[ids], SEEN_COLOR, UNSEEN_COLOR)
        axes.barh(range(len(ids)), accuracies[ids], color=colors, height=0.75)
        names = [str(class_names[index]) for index in ids]
        names = [name if len(name) <= longest_name else name[: longest_name - 1] + "…" for name in names]
        axes.set_yticks(range(len(ids)), names, fontsize=8, parse_math=False)
        axes.set_ylim(rows - 0.4, -0.6)
        axes.set_xlim(0, limit)
        axes.set_xticks([0, limit / 2, limit] if columns == 3 else np.linspace(0, limit, 6))
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelsize=9)
        light_grid(axes, "x")
    absent = len(class_names) - len(order)
    note = f"; classes without images, left out: {absent}" if absent else ""
    figure.supxlabel(f"accuracy (%){note}", fontsize=11)

    patches = []
    for name, color, kind in (("seen", SEEN_COLOR, is_seen), ("unseen", UNSEEN_COLOR, ~is_seen)):
        values = accuracies[present[kind[present]]]
        if values.size:
            patches.append(Patch(color=color, label=f"{values.size} {name} classes: mean {values.mean():.1f} %"))
    figure.legend(handles=patches, loc="outside upper center", ncols=2, fontsize=11, frameon=False)
    save_figure(figure, path)


def plot_reliability(confidences: Sequence[float], correct: Sequence[bool], path: str | os.PathLike, bins: int = 15):
    """
    Reliability diagram: accuracy over confidence, and below it how many predictions there are of each confidence.

    Args:
        confidences (`Sequence[float]` of length `N`):
            Probability of the predicted class, in [0, 1].
        correct (`Sequence[bool]` of length `N`):
            Whether the prediction is right.
        path (`str` or `os.PathLike`):
            PNG file to write; its folder is made.
        bins (`int`, *optional*, defaults to 15):
            Number of bins of equal width.

    Raises:
        ValueError: see [`~metrics.reliability_bins`]; also without predictions.
    """
    confidence, accuracy, counts = reliability_bins(confidences, correct, bins)
    if not counts.sum():
        raise ValueError("There are no predictions to draw a reliability diagram of.")
    error = expected_calibration_error(confidences, correct, bins)
    centres, width, filled = (np.arange(bins) + 0.5) * 100 / bins, 100 / bins, counts > 0

    figure = Figure(figsize=(8, 6.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.bar(centres[filled], accuracy[filled], width=width * 0.92, color=SEEN_COLOR, label="accuracy")
    mark = {"color": UNSEEN_COLOR, "markeredgecolor": "white"}
    upper.plot(confidence[filled], accuracy[filled], "o", label="mean confidence of the bin", **mark)
    upper.plot([0, 100], [0, 100], color="0.4", linestyle="--", linewidth=1.2, label="perfectly calibrated")
    upper.set_ylim(0, 100)
    upper.set_ylabel("accuracy (%)", fontsize=12)
    upper.set_title(f"Label scores: expected calibration error {error:.1f} %", fontsize=13)
    upper.legend(loc="upper left", fontsize=11, frameon=False)
    lower.bar(centres, 100 * counts / counts.sum(), width=width * 0.92, color="0.6")
    lower.set_xlim(0, 100)
    lower.set_ylabel("predictions (%)", fontsize=12)
    lower.set_xlabel("confidence (%)", fontsize=12)
    for axes in (upper, lower):
        axes.tick_params(labelsize=11)
        light_grid(axes, "y")
    figure.align_ylabels()
    save_figure(figure, path)


def plot_localisation(localisation: Mapping[str, Mapping[str, Mapping[str, float | None]]], path: str | os.PathLike):
    """
    How often the attention of attributes peaks on their parts, by group of attributes: a panel for each measure, and
    in it a bar for each expert and each baseline.

    Args:
        localisation (`Mapping[str, Mapping]`):
            From [`AttributeLocalisation.figures`].
        path (`str` or `os.PathLike`):
            PNG file to write; its folder is made.
    """
    titles = {
        "part": "Attention peaks in the cell of the part",
        "part_within_one_cell": "… in that cell or one beside it",
        "box": "… in the bird's box",
    }
    bars = {
        "coarse": ("coarse expert", SEEN_COLOR),
        "fine": ("fine expert", UNSEEN_COLOR),
        "uniform": ("a cell at random", "0.78"),
        "centre": ("centre of the image", "0.5"),
    }
    figure = Figure(figsize=(8, 7.5), layout="constrained")
    panels = figure.subplots(len(localisation), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (measure, groups) in zip(panels, localisation.items()):
        for place, (name, (label, color)) in enumerate(bars.items()):
            heights = [0.0 if values[name] is None else values[name] for values in groups.values()]
            axes.bar(np.arange(len(groups)) + 0.2 * (place - 1.5), heights, width=0.18, color=color, label=label)
        for place, values in enumerate(groups.values()):
            if values["coarse"] is None:
                axes.text(place, 0, "no part\nto find", ha="center", va="bottom", color="0.45", fontsize=10)
        axes.set_title(titles[measure], fontsize=12, loc="left")
        axes.set_ylabel("images (%)", fontsize=11)
        if axes.get_ylim()[1] > 60:
            axes.set_ylim(0, 100)
        axes.set_xticks(range(len(groups)), groups, fontsize=11, parse_math=False)
        axes.tick_params(axis="x", length=0)
        axes.tick_params(axis="y", labelsize=11)
        light_grid(axes, "y")
    figure.align_ylabels()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=11, frameon=False)
    figure.supxlabel("group of attributes (mean over its attributes)", fontsize=11)
    save_figure(figure, path)
