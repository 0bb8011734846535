import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from pictures import SEEN_BLUE, UNSEEN_ORANGE, count, read

from dedn_hf.evaluation import gzsl_metrics, seen_unseen_curve
from dedn_hf.evaluation.plots import (
    plain_log_ticks,
    plot_localisation,
    plot_per_class_accuracy,
    plot_reliability,
    plot_seen_unseen_curve,
)


@pytest.fixture
def curve():
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 6
    logits = generator.normal(size=(60, 6)) + 1.5 * np.eye(6)[labels]
    return seen_unseen_curve(logits, labels, [0, 1, 2, 3])


def test_seen_unseen_curve(curve, tmp_path):
    plain, marked = tmp_path / "a" / "curve.png", tmp_path / "b" / "curve.png"
    plot_seen_unseen_curve(curve, plain)
    plot_seen_unseen_curve(curve, str(marked), chosen=0.0, best=0.4)
    assert count(read(plain), SEEN_BLUE) > 1000
    # The chosen point, on the curve and in the legend, is the only orange.
    assert count(read(plain), UNSEEN_ORANGE) == 0 < count(read(marked), UNSEEN_ORANGE)


@pytest.mark.parametrize("logits", [np.eye(4), -np.eye(4)])
def test_perfect_and_hopeless_curves(logits, tmp_path):
    path = tmp_path / "curve.png"
    plot_seen_unseen_curve(seen_unseen_curve(logits, range(4), [0, 1]), path, chosen=0.0, best=0.0)
    read(path)


def test_text_of_the_curve_is_what_the_metrics_say(tmp_path, monkeypatch):
    import dedn_hf.evaluation.plots as plots

    labels, logits = [0, 0, 1, 1], np.array([[3.0, 0], [1, 0], [2, 0], [0, 1]])
    figures = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure))
    plots.plot_seen_unseen_curve(seen_unseen_curve(logits, labels, [0]), tmp_path / "x.png", chosen=1.5)
    # At γ = 1.5 one of the two seen images is left, and one of the two unseen ones is won.
    assert gzsl_metrics(logits, labels, [0], 1.5)["H"] == 50.0
    texts = [text.get_text() for text in figures[0].legends[0].get_texts()]
    # AUSUC: unseen leads −1 and 2, seen leads 3 and 1. ½ · 1 + ½ · ½
    assert texts == ["all γ: AUSUC 75.0", "chosen: γ = 1.5, S 50.0, U 50.0, H 50.0"]


@pytest.mark.parametrize("num_classes", [2, 20, 75, 200])
def test_per_class_accuracy(num_classes, tmp_path):
    accuracies = np.random.default_rng(0).uniform(10, 100, num_classes)
    names = [f"{index:03d}.A_class_of_$birds$_with_a_rather_long_name" for index in range(num_classes)]
    path = tmp_path / "classes.png"
    plot_per_class_accuracy(accuracies, names, range(num_classes // 2), path)
    pixels = read(path)
    assert count(pixels, SEEN_BLUE) > 1000 and count(pixels, UNSEEN_ORANGE) > 1000
    # Room for a line of text for every row of names.
    rows = -(-num_classes // (1 if num_classes <= 40 else 2 if num_classes <= 100 else 3))
    assert pixels.shape[0] >= 20 * rows


def test_per_class_accuracy_orders_and_leaves_out(tmp_path, monkeypatch):
    import dedn_hf.evaluation.plots as plots

    figures = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure))
    plots.plot_per_class_accuracy([10, np.nan, 30, 20, 40], list("abcde"), [0, 1, 3], tmp_path / "x.png")
    axes = figures[0].axes[0]
    # Seen from the best to the worst, then unseen; b has no images.
    assert [label.get_text() for label in axes.get_yticklabels()] == ["d", "a", "e", "c"]
    assert [bar.get_width() for bar in axes.patches] == [20, 10, 40, 30]
    texts = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert texts == ["2 seen classes: mean 15.0 %", "2 unseen classes: mean 35.0 %"]
    assert figures[0].get_supxlabel() == "accuracy (%); classes without images, left out: 1"


def test_reliability(tmp_path):
    generator = np.random.default_rng(0)
    confidences = generator.random(500)
    path = tmp_path / "reliability.png"
    plot_reliability(confidences, generator.random(500) < confidences, path, bins=10)
    assert count(read(path), SEEN_BLUE) > 10_000


def localisation_of(values, attributes):
    names = ("coarse", "fine", "mixed", "uniform", "centre")
    return dict(zip(names, values)) | {"attributes": attributes, "images": 3.0}


@pytest.fixture
def localisation():
    part = {"all": [40, 30, 35, 2, 9], "wing & $tail$": [50, 20, 35, 2, 9]}
    groups = {name: localisation_of(values, 9) for name, values in part.items()}
    groups["whole body"] = localisation_of([None] * 5, 0)
    box = {name: localisation_of([80, 90, 85, 30, 70], 9) for name in groups}
    return {"part": groups, "part_within_one_cell": groups, "box": box}


def test_localisation(localisation, tmp_path):
    path = tmp_path / "localisation.png"
    plot_localisation(localisation, path)
    pixels = read(path)
    assert count(pixels, SEEN_BLUE) > 10_000 and count(pixels, UNSEEN_ORANGE) > 10_000


def test_localisation_says_what_was_measured(localisation, tmp_path, monkeypatch):
    import dedn_hf.evaluation.plots as plots

    figures = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure))
    plots.plot_localisation(localisation, tmp_path / "x.png")
    part, _, box = figures[0].axes
    # A bar for each group, first of the coarse expert, then of the fine one and of both baselines.
    assert [bar.get_height() for bar in part.patches] == [40, 50, 0, 30, 20, 0, 2, 2, 0, 9, 9, 0]
    assert [text.get_text() for text in part.texts] == ["no part\nto find"] and not box.texts
    assert [label.get_text() for label in box.get_xticklabels()] == ["all", "wing & $tail$", "whole body"]
    texts = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert texts == ["coarse expert", "fine expert", "a cell at random", "centre of the image"]


def test_errors(tmp_path):
    with pytest.raises(ValueError, match=r"`accuracies` has shape \(2,\), but there are 3 `class_names`"):
        plot_per_class_accuracy([1.0, 2.0], ["a", "b", "c"], [0], tmp_path / "x.png")
    with pytest.raises(ValueError, match="None of the 2 classes has an accuracy"):
        plot_per_class_accuracy([np.nan, np.nan], ["a", "b"], [0], tmp_path / "x.png")
    with pytest.raises(ValueError, match="no predictions"):
        plot_reliability([], [], tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_the_old_figure(curve, tmp_path, monkeypatch):
    path = tmp_path / "curve.png"
    plot_seen_unseen_curve(curve, path)
    before = path.read_bytes()

    def fail(self, file, **kwargs):
        file.write_bytes(b"half a figure")
        raise OSError("disk full")

    monkeypatch.setattr("dedn_hf.evaluation.plots.Figure.savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plot_seen_unseen_curve(curve, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["curve.png"]


def test_metrics_load_without_matplotlib_and_evaluate_and_plots_without_pyplot():
    code = """
import sys
import dedn_hf.evaluation
print({"matplotlib", "evaluate"} & set(sys.modules) or "none")
assert set(dedn_hf.evaluation.__all__) <= set(dir(dedn_hf.evaluation))
import dedn_hf.evaluation.plots
print({"matplotlib.pyplot"} & set(sys.modules) or "none")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["none", "none"]


@pytest.mark.parametrize(
    "ends, texts",
    [
        ((0.03, 0.6), ["0.05", "0.1", "0.2", "0.5"]),
        ((3e-4, 0.2), ["0.001", "0.01", "0.1"]),
        ((70, 900), ["100", "200", "500"]),
        ((75, 11_280), ["100", "1,000", "10,000"]),
    ],
)
def test_logarithmic_axes_have_plain_numbers_that_have_room(ends, texts):
    axes = Figure(figsize=(3.2, 3)).add_subplot()
    axes.plot(ends, (0, 1))
    axes.set_xscale("log")
    axes.set_xlim(ends)
    plain_log_ticks(axes.xaxis)
    axes.figure.draw_without_rendering()
    labels = [label for label in axes.xaxis.get_ticklabels(which="both") if label.get_text()]
    assert [label.get_text() for label in labels if ends[0] <= label.get_position()[0] <= ends[1]] == texts
