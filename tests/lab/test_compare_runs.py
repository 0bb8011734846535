import json

import compare_runs
import pytest
from compare_runs import describe_difference, format_comparison, main, plot_learning_curves, read_finished_run
from pictures import SEEN_BLUE, UNSEEN_ORANGE, count, read
from PIL import Image
from tiny_training import make_tiny_arguments, make_tiny_dataset, make_tiny_inputs

from dedn_hf.training.protocol import run_protocol


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Finished runs: the validated protocol, its first half with two seeds and other settings, and the reference."""
    folder, dataset = tmp_path_factory.mktemp("runs"), make_tiny_dataset()

    def run(name, protocol, seeds, inputs, **arguments):
        run_protocol(protocol, dataset, inputs, make_tiny_arguments(folder / name, **arguments), seeds)
        return folder / name

    inputs = make_tiny_inputs(dataset)
    weaker = make_tiny_inputs(dataset)
    weaker.config["distillation_weight"] = 0.0
    return [
        run("ours", "validated", [0], inputs),
        run("slower", "validation", [0, 1], weaker, learning_rate=0.01, num_train_epochs=2),
        run("released", "reference", [0], inputs),
    ]


def test_read_finished_run(folders):
    ours, slower, released = map(read_finished_run, folders)
    assert [run.name for run in (ours, slower, released)] == ["ours", "slower", "released"]
    assert [len(run.evaluations) for run in (ours, slower, released)] == [1, 2, 1]
    log = json.loads((folders[1] / "seed_1/training_log.json").read_text())["choose"]
    assert slower.evaluations[1] == [entry for entry in log if "eval_H" in entry] and len(slower.evaluations[1]) == 2
    # Of validated it is the choice, of the reference the only training.
    assert max(entry["eval_H"] for entry in ours.evaluations[0]) == ours.results["validation"]["H"]
    assert max(entry["eval_H"] for entry in released.evaluations[0]) == pytest.approx(released.results["test"]["H"])


def test_unfinished_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} holds no finished run: there is no results.json"):
        read_finished_run(tmp_path)


def test_difference_names_settings_with_their_values(folders):
    ours, slower, released = map(read_finished_run, folders)
    assert describe_difference(slower, ours) == "learning_rate 0.01, num_train_epochs 2, distillation_weight 0.0"
    assert describe_difference(ours, slower) == "learning_rate 0.05, num_train_epochs 3, distillation_weight 0.1"
    assert describe_difference(released, ours) == "protocol `reference`" and describe_difference(ours, ours) == ""


def test_setting_that_one_run_does_not_record_is_no_difference(folders):
    ours, slower, _ = map(read_finished_run, folders)
    del slower.results["settings"]["learning_rate"]
    assert describe_difference(slower, ours) == "num_train_epochs 2, distillation_weight 0.0"
    assert describe_difference(ours, slower) == "num_train_epochs 3, distillation_weight 0.1"


def test_pattern_stays_one_cell(folders):
    ours, slower, _ = map(read_finished_run, folders)
    for run, pattern in ((ours, "top_.*"), (slower, r"blocks\.[89]|top_.*")):
        run.results["settings"]["trained_backbone_parameters"] = pattern
    assert r"trained_backbone_parameters `blocks\.[89]\|top_.*`" in format_comparison([ours, slower]).splitlines()[3]


def test_table(folders):
    ours, slower, released = map(read_finished_run, folders)
    head, _, first, second = format_comparison([ours, slower, released]).splitlines()
    assert head == "| run | what differs | seeds | steps | T1 | U | S | H |"
    steps = [max(entry["step"] for entry in run.evaluations[0]) for run in (ours, slower)]
    figures = " | ".join(f"{ours.results['validation'][name]:.1f}" for name in ("T1", "U", "S", "H"))
    assert first == f"| ours | – | 0 | {steps[0]} | {figures} |"
    assert second.startswith(f"| slower | {describe_difference(slower, ours)} | 0, 1 | {steps[1]} | ")
    spread = slower.results["std"]["validation"]["H"]
    assert second.endswith(f"{slower.results['validation']['H']:.1f} ± {spread:.1f} |")


def test_learning_curves(tmp_path):
    def draw(seeds):
        path = tmp_path / str(len(seeds)) / "curves.png"
        plot_learning_curves({"slow": [[(10, 5.0), (1000, 40.0)]], "fast": seeds}, path)
        return read(path)

    one, two = draw([[(10, 30.0), (100, 50.0)]]), draw([[(10, 30.0), (100, 50.0)], [(10, 10.0), (100, 20.0)]])
    # A colour a run, a line a seed.
    assert count(one, SEEN_BLUE) == pytest.approx(count(two, SEEN_BLUE), rel=0.05)
    assert count(two, UNSEEN_ORANGE) > 1.5 * count(one, UNSEEN_ORANGE) > 0


@pytest.mark.parametrize(
    ("ends", "labels"),
    [
        ((0.013, 0.11), ["0.02", "0.05", "0.1"]),
        ((75, 11_280), ["100", "200", "500", "1,000", "2,000", "5,000", "10,000"]),
    ],
)
def test_learning_curves_have_plain_numbers_below(monkeypatch, ends, labels):
    figures = []
    monkeypatch.setattr(compare_runs, "save_figure", lambda figure, path: figures.append(figure))
    plot_learning_curves({"run": [[(ends[0], 40.0), (ends[1], 60.0)]]}, "curves.png", "hours")
    figures[0].draw_without_rendering()
    axes = figures[0].axes[0]
    low, high = axes.get_xlim()
    ticks = [tick for minor in (False, True) for tick in axes.xaxis.get_ticklabels(minor=minor)]
    assert [tick.get_text() for tick in ticks if tick.get_text() and low <= tick.get_position()[0] <= high] == labels


def test_learning_curves_of_too_many_runs(tmp_path):
    with pytest.raises(ValueError, match="7 runs are too many for one figure: 6 colours"):
        plot_learning_curves({str(index): [[(1, 1.0)]] for index in range(7)}, tmp_path / "curves.png")
    assert not list(tmp_path.iterdir())


def save_run(folder, height):
    folder.mkdir()
    figures = dict.fromkeys(("T1", "U", "S", "H"), height)
    results = {"protocol": "validation", "seeds": [0], "settings": {"height": height}, "validation": figures}
    (folder / "results.json").write_text(json.dumps(results))
    log = {"choose": [{"step": step, "seconds": 360 * step, "eval_H": height * step / 20} for step in (10, 20)]}
    (folder / "training_log.json").write_text(json.dumps(log))
    return folder


def test_table_and_figure(tmp_path, capsys):
    runs = [save_run(tmp_path / name, height) for name, height in (("high", 50.0), ("low", 20.0))]
    main([*map(str, runs), "--figure", str(tmp_path / "figures/curves.png")])
    output = capsys.readouterr().out
    assert "| high | – | 0 | 20 | 50.0 | 50.0 | 50.0 | 50.0 |" in output
    assert "| low | height 20.0 | 0 | 20 | 20.0 | 20.0 | 20.0 | 20.0 |" in output
    with Image.open(tmp_path / "figures/curves.png") as image:
        assert image.format == "PNG"


@pytest.mark.parametrize(("over", "unit"), [("steps", 10), ("hours", 1)])
def test_what_the_figure_is_over(over, unit, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(compare_runs, "plot_learning_curves", lambda *arguments: drawn.append(arguments))
    main([str(save_run(tmp_path / "run", 50.0)), "--figure", "curves.png", "--over", over])
    ((curves, path, of),) = drawn
    assert curves == {"run (validation images)": [[pytest.approx((unit, 25.0)), pytest.approx((2 * unit, 50.0))]]}
    assert (path, of) == ("curves.png", over)


def test_hours_of_a_run_that_does_not_tell(tmp_path, capsys):
    run = save_run(tmp_path / "old", 50.0)
    (run / "training_log.json").write_text(json.dumps({"choose": [{"step": 10, "eval_H": 50.0}]}))
    with pytest.raises(SystemExit):
        main([str(run), "--figure", str(tmp_path / "cost.png"), "--over", "hours"])
    assert "is not recorded of old" in capsys.readouterr().err and not (tmp_path / "cost.png").exists()


def test_folder_without_a_run(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(save_run(tmp_path / "run", 50.0)), str(tmp_path / "nothing")])
    assert f"{tmp_path / 'nothing'} holds no finished run" in capsys.readouterr().err
