import ablation_report
import numpy as np
import pytest
from ablation_report import format_ablation, plot_ablation
from pictures import SEEN_BLUE, UNSEEN_ORANGE, count, read


def ablation_row(*figures, std=None):
    runs = [{"test": {"H": h, "T1": t1}} for h, t1 in figures]
    means = {"H": float(np.mean([h for h, _ in figures])), "T1": float(np.mean([t1 for _, t1 in figures]))}
    return {"runs": runs, "test": means} | ({} if std is None else {"std": {"test": std}})


def test_ablation(tmp_path, monkeypatch):
    ablation = {
        "variants": {
            "full": ablation_row((50, 60), (52, 64), std={"H": 1.4, "T1": 2.8}),
            "no_margin": ablation_row((40, 55)),
            "random_groups": {"runs": []},
        },
        "floors": {"eszsl": ablation_row((20, 30))},
    }
    plot_ablation(ablation, tmp_path / "ablation.png")
    pixels = read(tmp_path / "ablation.png")
    assert count(pixels, SEEN_BLUE) > count(pixels, UNSEEN_ORANGE) > 1000
    figures = []
    monkeypatch.setattr(ablation_report, "save_figure", lambda figure, path: figures.append(figure))
    plot_ablation(ablation, tmp_path / "x.png")
    for axes, widths, dots, error in zip(
        figures[0].axes, ([51, 40, 20], [62, 55, 30]), ([50, 52], [60, 64]), ([49.6, 52.4], [59.2, 64.8])
    ):
        assert [bar.get_width() for bar in axes.patches] == widths
        assert [bar.get_y() + bar.get_height() / 2 for bar in axes.patches] == pytest.approx([0, 1, 3])
        assert [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "o"] == [dots]
        (segment,) = axes.collections[0].get_segments()
        assert segment[:, 0] == pytest.approx(error)
        texts = [(text.get_text(), text.xy[1]) for text in axes.texts]
        assert ("not measured", 2) in texts and (f"{widths[2]:.1f}", 3) in texts
    assert [label.get_text() for label in figures[0].axes[0].get_yticklabels()][1] == "no margin"


@pytest.mark.parametrize(("difference", "text"), [(-0.04, "+0.0"), (0.04, "+0.0"), (-1.57, "−1.6")])
def test_a_difference_of_nothing_has_no_minus(difference, text):
    row = ablation_row((40, 55)) | {"description": "", "seeds": [0], "difference_of_H_to_full": difference}
    assert f"| {text} " in format_ablation({"variants": {"no_margin": row}, "floors": {}})
