import explain_sheet
import numpy as np
import pytest
from explain_sheet import main, plot_explanations
from pictures import assert_texts_are_apart
from PIL import Image
from synthetic_model import SYNTHETIC_MODEL

from dedn_hf.data.synthetic_birds import load as load_synthetic_birds
from dedn_hf.evaluation.explanation import AttributeEvidence, Explanation


def make_explanation(name, width, height, words="red wing"):
    attention = np.random.default_rng(0).random((height, width), dtype=np.float32)
    attributes = [AttributeEvidence(text, 0.5, attention / attention.sum()) for text in (words, "long tail", "round")]
    return Explanation([(name, 0.83, False), ("owl", 0.1, True)], attributes)


def test_sheet(tmp_path, monkeypatch):
    images = [Image.new("RGB", size, "green") for size in ((160, 96), (96, 160), (160, 96))]
    explanations = [make_explanation(name, *image.size) for name, image in zip(("jay", "crow", "swift"), images)]
    explanations[1].attributes[0].words = "no brown tail, for Common Lagoon Tern"
    explanations[1].attributes[1].words = "MMMM WWWW mmmm wwww, for Common Lagoon Tern"
    path = tmp_path / "out" / "sheet.png"
    plot_explanations(explanations, images, ["jay", "crow", "emu"], path)
    with Image.open(path) as picture:
        picture.verify()
        assert picture.size[0] == 1200 and picture.size[1] > 1000

    figures = []
    monkeypatch.setattr(explain_sheet, "save_figure", lambda figure, path: figures.append(figure))
    plot_explanations(explanations, images, ["jay", "crow", "emu"], path)
    rows = figures[0].subfigs
    headings = [row.get_suptitle() for row in rows]
    assert headings == ["✓ jay, 83 % (right)", "✓ crow, 83 % (right)", "✗ swift, 83 % (wrong: it is emu)"]
    for row, explanation in zip(rows, explanations):
        titles = [axes.get_title() for axes in row.axes]
        assert titles[0] == "" and len(titles) == 4
        words = [title.replace("\n", " ") for title in titles[1:]]
        assert words == [f"{shown.words} ({shown.contribution:+.2f})" for shown in explanation.attributes]
        assert_texts_are_apart(figures[0], [axes.title for axes in row.axes[1:]])


@pytest.fixture
def run(tmp_path_factory, tmp_path, monkeypatch, capsys):
    birds = load_synthetic_birds(images_per_class=6, image_size=64, cache_dir=str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(explain_sheet, "load_gzsl_dataset", lambda *args, **kwargs: birds)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        main(["--model", str(SYNTHETIC_MODEL), "--dataset", "synthetic_birds", *map(str, arguments)])
        return capsys.readouterr().out

    run.birds = birds
    return run


def test_images_are_drawn_by_a_seed(run):
    def drawn_by(printed):
        return [line for line in printed.splitlines() if line.startswith("test_unseen ")]

    drawn = drawn_by(run("--num_images", 2, "--seed", 3, "--output", "sheet.png"))
    assert len(set(drawn)) == 2
    for line in drawn:
        index, heading = line.removeprefix("test_unseen ").split(": ", 1)
        truth = run.birds.class_names[run.birds.splits["test_unseen"][int(index)]["label"]]
        # Right or wrong, it names the true class.
        assert heading.endswith(f"(wrong: it is {truth})") or (
            heading.startswith(truth) and heading.endswith("(right)")
        )
    with Image.open("sheet.png") as picture:
        assert picture.size[0] == 1200 and picture.size[1] > 400
    again = run("--num_images", 2, "--seed", 3)
    assert "synthetic_birds_test_unseen_2_of_seed_3_explanation.png" in again
    assert drawn_by(again) == drawn
    assert drawn_by(run("--num_images", 2, "--seed", 4)) != drawn


def test_errors(run, capsys):
    for arguments in (["--num_images", "0"], ["--seed", "-1"], ["--output", "sheet.jpg"]):
        with pytest.raises(SystemExit):
            run(*arguments)
        assert arguments[0] in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"error: test_unseen has \d+ images, fewer than --num_images 9999"):
        run("--num_images", 9999)
