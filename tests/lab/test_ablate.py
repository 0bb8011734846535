import json
import os
import subprocess
import sys

import ablate
import numpy as np
import pytest
import training_data
from ablation import DEFAULT_VARIANTS, VARIANTS
from tiny_training import NUM_ATTRIBUTES, make_tiny_dataset, make_tiny_inputs

from dedn_hf.recipes import read_recipe


@pytest.fixture
def main(monkeypatch, tmp_path):
    """
    Runs the script in an empty folder, with the tiny data set in place of the one that is asked for; gives what was
    asked, which is also in `main.asked`.
    """
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr(
        training_data,
        "load_gzsl_dataset",
        lambda *names, **options: asked.append((*names, options)) or make_tiny_dataset(),
    )
    monkeypatch.setattr(
        ablate,
        "prepare_inputs",
        lambda dataset, *names, **options: asked.append((*names, *options.values())) or make_tiny_inputs(dataset),
    )

    def main(*arguments):
        options = ["--use_cpu", "--disable_tqdm", "True", "--per_device_train_batch_size", "4"]
        monkeypatch.setattr(sys, "argv", ["scripts/lab/ablate.py", *options, *arguments])
        asked.clear()
        ablate.main()
        return asked

    main.asked = asked
    return main


@pytest.fixture
def planned(monkeypatch):
    """What is asked of run_ablation, which then stops."""
    plans = []

    def run_ablation(dataset, inputs, args, variants, seeds, word_vectors):
        plans.append((args, list(variants), seeds, word_vectors))
        raise KeyboardInterrupt

    monkeypatch.setattr(ablate, "run_ablation", run_ablation)
    return plans


def test_alone_it_is_everything_on_the_birds(main, planned):
    with pytest.raises(KeyboardInterrupt):
        main()
    ((training, variants, seeds, word_vectors),) = planned
    assert variants == list(VARIANTS) and seeds == [0, 1, 2] and word_vectors == {}
    assert training.output_dir == "outputs/ablation_synthetic_birds"
    assert training.num_train_epochs == read_recipe("synthetic_birds").training["num_train_epochs"]


def test_cub(main, planned, tmp_path):
    np.save(tmp_path / "vectors.npy", np.ones((NUM_ATTRIBUTES, 3), np.float32))
    options = ["--dataset", "cub", "--data_dir", "D", "--feature_maps", "F", "--seeds", "0", "--num_train_epochs", "5"]
    model = read_recipe("cub").model
    groups = model.pop("attribute_groups")
    for more in ([], ["--sentence_model", "vectors.npy", "--variants", "full"]):
        with pytest.raises(KeyboardInterrupt):
            main(*options, *more)
        assert main.asked == [
            ("cub", "D", None, {"check_files": False, "attribute_groups": groups, "attribute_scale": None}),
            ("F", model),
        ]
    (training, variants, seeds, _), (_, more_variants, _, word_vectors) = planned
    assert variants == list(DEFAULT_VARIANTS["cub"]) and seeds == [0] and training.num_train_epochs == 5
    assert (
        training.output_dir == "outputs/ablation_cub"
        and training.learning_rate == read_recipe("cub").training["learning_rate"]
    )
    assert more_variants == ["full", "sentence_word_vectors"] and word_vectors.keys() == {"sentence_word_vectors"}


def test_run(main, tmp_path, capsys):
    main("--seeds", "0", "--num_train_epochs", "1", "--variants", "full", "no_margin", "--output_dir", "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("full", "no_margin", "eszsl", "attribute_regression", "ablation.json", "ablation.md", "ablation.png")
    }
    results = json.loads((tmp_path / "out/ablation.json").read_text())
    output = capsys.readouterr().out
    assert "2 of 2 runs are left" in output and f"{results['variants']['no_margin']['test']['H']:.1f}" in output
    assert results["command"].startswith("python scripts/lab/ablate.py --use_cpu")
    assert results["commands"] == [results["command"]]
    assert (tmp_path / "out/ablation.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--variant", "full"], "there are no such arguments: --variant full"),
        (["--seed", "3"], "name seeds with --seeds"),
    ],
)
def test_wrong_arguments(main, planned, capsys, arguments, message):
    with pytest.raises(SystemExit):
        main(*arguments)
    assert message in capsys.readouterr().err and not planned


def test_word_vectors_that_are_not_given(main, planned):
    with pytest.raises(SystemExit, match="sentence_word_vectors needs word vectors"):
        main("--variants", "full", "sentence_word_vectors")
    assert not planned


@pytest.mark.slow
def test_synthetic_birds_end_to_end(tmp_path):
    command = [sys.executable, ablate.__file__, "--use_cpu", "--max_steps", "2", "--per_device_train_batch_size", "8"]
    command += ["--seeds", "0", "--variants", "full", "channel_only"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    folder = tmp_path / "outputs/ablation_synthetic_birds"
    results = json.loads((folder / "ablation.json").read_text())
    assert [len(row["runs"]) for row in results["variants"].values()] == [1, 1]
    # On features of a backbone that the full model of this seed has trained.
    for row in results["floors"].values():
        assert row["seeds"] == [0] and row["test"]["S"] > 0
    assert (folder / "eszsl/seed_0/results.json").is_file()
