import json

import pytest
from tiny_training import make_tiny_arguments, make_tiny_dataset, make_tiny_inputs

from dedn_hf.training.comparison import describe_difference, format_comparison, read_finished_run
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
    assert describe_difference(released, ours) == "protocol reference" and describe_difference(ours, ours) == ""


def test_setting_that_one_run_does_not_record_is_no_difference(folders):
    ours, slower, _ = map(read_finished_run, folders)
    del slower.results["settings"]["learning_rate"]
    assert describe_difference(slower, ours) == "num_train_epochs 2, distillation_weight 0.0"
    assert describe_difference(ours, slower) == "num_train_epochs 3, distillation_weight 0.1"


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
