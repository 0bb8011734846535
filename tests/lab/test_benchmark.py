import json
from pathlib import Path

import benchmark
import pytest
import torch
from benchmark import (
    CONTENDERS,
    format_benchmark,
    gigaflops,
    peak_memory,
    plot_benchmark,
    prepare_contender,
    run_benchmark,
    size_config,
)
from PIL import Image
from tiny_model import make_tiny_config
from torch.utils.flop_counter import FlopCounterMode

from dedn_hf import DednModel


def test_textbook_builds_batch_by_attributes_by_channels():
    config, sizes = make_tiny_config(feature_channels=50), []

    def remember(tensor):
        sizes.append(tensor.numel())
        return tensor

    run = prepare_contender("textbook", config, 3)
    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        run["train"]()
    # Values and weights of the coarse expert.
    assert sizes.count(3 * 7 * 50) >= 2


def test_floor_is_the_products_that_it_says(monkeypatch):
    monkeypatch.setattr(benchmark, "_FLOOR_BLOCK", 100)  # several blocks, and a last one that is smaller
    config = make_tiny_config(feature_channels=10)
    run, expected = prepare_contender("floor", config, 4), gigaflops(config, 4)
    assert expected["train"] == 2 * expected["inference"] == pytest.approx(16 * 2 * 4 * 7 * 10 * 9 / 1e9)
    for mode, gflop in expected.items():
        with FlopCounterMode(display=False) as counter:
            run[mode]()
        assert counter.get_total_flops() / 1e9 == pytest.approx(gflop)


def test_nobody_computes_less_than_the_floor():
    config = make_tiny_config(feature_channels=60)
    floor = gigaflops(config, 4)
    for name in ("textbook", "ours"):
        run = prepare_contender(name, config, 4)
        for mode in ("train", "inference"):
            with FlopCounterMode(display=False) as counter:
                run[mode]()
            assert counter.get_total_flops() / 1e9 > floor[mode]


@pytest.mark.parametrize(
    "name, attributes, classes, seen, grid, channels, millions",
    [
        ("cub", 312, 200, 150, 14, 2048, 9.61),
        ("sun", 102, 717, 645, 14, 2048, 6.73),
        ("awa2", 85, 50, 40, 7, 2048, 6.34),
        ("small", 312, 200, 150, 7, 1280, None),
    ],
)
def test_sizes_are_the_papers(name, attributes, classes, seen, grid, channels, millions):
    config = size_config(name)
    assert (len(config.attribute_names), config.num_labels, len(config.seen_class_ids)) == (attributes, classes, seen)
    assert (config.grid_size, config.feature_channels) == (grid, channels)
    if millions is not None:
        with torch.device("meta"):
            parameters = sum(parameter.numel() for parameter in DednModel(config).parameters())
        assert parameters / 1e6 == pytest.approx(millions, abs=0.01)
    if name == "cub":
        assert gigaflops(config, 50)["inference"] == pytest.approx(100, rel=0.01)


def test_unknown_size():
    with pytest.raises(ValueError, match="no size 'flo'; choose from cub, sun, awa2, small"):
        size_config("flo")


def _can_forget_peaks():
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _can_forget_peaks(), reason="this system cannot reset the peak of a process's memory")
def test_peak_memory_is_that_of_the_function_alone():
    before = torch.ones(50_000_000)  # 200 MB, an earlier and higher peak
    del before
    kept = torch.ones(10_000_000)

    def function():
        first = torch.ones(10_000_000)  # 40 MB, given back before the next
        del first
        torch.ones(15_000_000)

    assert 55 < peak_memory(function) < 80
    assert peak_memory(lambda: None) < 10
    assert kept.sum() > 0


@pytest.fixture
def results():
    times = {
        "train": {"textbook": 5.0, "ours": 2.0, "floor": 1.6},
        "inference": {"textbook": 2.0, "ours": 0.8, "floor": 0.5},
    }
    return {
        size: {
            **times,
            "memory_mb": {"textbook": 2900.0, "ours": 290.0},
            "gflop": {"train": 200.0, "inference": 100.0},
            "gflop_per_s": {mode: {name: 100.0 / value for name, value in times[mode].items()} for mode in times},
            "settings": {"threads": 2, "batch_size": 50, "repeats": 5, "torch": "2", "processor": "abacus"},
        }
        for size in ("cub", "small")
    }


def test_table(results):
    lines = format_benchmark(results).splitlines()
    assert len(lines) == 1 + 2 * 3
    assert lines[1].split() == ["cub", "train", "5", "s", "2", "s", "1.6", "s", "0.40", "1.25", "50.0"]
    assert lines[3].split() == ["cub", "memory", "2900", "MB", "290", "MB", "–", "0.10"]


def test_picture(results, tmp_path):
    plot_benchmark(results, tmp_path / "out" / "benchmark.png")
    with Image.open(tmp_path / "out" / "benchmark.png") as image:
        image.verify()
        assert image.size[0] == 1200
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["benchmark.png"]


@pytest.mark.parametrize("arguments", [{"repeats": 0}, {"batch_size": 0}, {"threads": -1}])
def test_numbers_that_make_no_sense(arguments):
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}` is"):
        run_benchmark({"tiny": make_tiny_config()}, **arguments)


@pytest.mark.slow
def test_each_contender_runs_in_a_process_of_its_own():
    config = make_tiny_config(feature_channels=64, grid_size=4)
    results = run_benchmark({"tiny": config, "tinier": make_tiny_config()}, repeats=2, batch_size=4, threads=1)
    assert list(results) == ["tiny", "tinier"]
    result = results["tiny"]
    assert set(result["memory_mb"]) == {"textbook", "ours"}
    for mode in ("train", "inference"):
        assert set(result[mode]) == set(CONTENDERS) and all(seconds > 0 for seconds in result[mode].values())
        assert result["gflop_per_s"][mode]["ours"] == pytest.approx(result["gflop"][mode] / result[mode]["ours"])
    json.dumps(results)


@pytest.mark.slow
def test_contender_that_dies_is_named():
    config = make_tiny_config()
    config.seen_class_ids = []  # there is nothing to draw labels from
    with pytest.raises(RuntimeError, match="process of textbook at size broken ended"):
        run_benchmark({"broken": config}, repeats=1, batch_size=2, threads=1)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--sizes", "flo"], "invalid choice"),
        (["--repeats", "0"], "--repeats is 0"),
        (["--threads", "0"], "--threads is 0"),
        (["--json", "."], "must be a JSON file"),
        (["--json", "table.png"], "must be a JSON file"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        benchmark.main(arguments)
    assert error.value.code == 2 and message in capsys.readouterr().err


def test_table_json_and_picture_are_written(results, tmp_path, monkeypatch, capsys):
    asked = {}

    def run(sizes, repeats, threads):
        asked.update(sizes=sizes, repeats=repeats, threads=threads)
        return results

    monkeypatch.setattr(benchmark, "run_benchmark", run)
    benchmark.main(["--sizes", "small", "cub", "--repeats", "3", "--json", str(tmp_path / "out" / "speed.json")])
    assert list(asked["sizes"]) == ["small", "cub"] and asked["sizes"]["small"].feature_channels == 1280
    assert (asked["repeats"], asked["threads"]) == (3, None)
    assert json.loads((tmp_path / "out" / "speed.json").read_text()) == results
    assert (tmp_path / "out" / "speed.png").is_file()
    printed = capsys.readouterr().out
    assert "abacus, 2 threads" in printed and format_benchmark(results) in printed
