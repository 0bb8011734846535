import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModel, CLIPImageProcessorPil, ResNetConfig, ResNetModel

from dedn_hf.data import load
from dedn_hf.data.synthetic_birds import load as load_synthetic_birds
from dedn_hf.training import CONFIG_RECIPES, RECIPES, protocol

SCRIPT = Path(__file__).parents[2] / "scripts" / "train.py"


@pytest.fixture
def parse(script, monkeypatch):
    def parse(*arguments):
        monkeypatch.setattr(sys, "argv", ["scripts/train.py", *arguments])
        return script.parse_arguments()

    return parse


def test_defaults(parse):
    script, training = parse()
    assert script.dataset == "synthetic_birds" and script.protocol == "validated" and script.seeds == [0]
    assert training.output_dir == "outputs/synthetic_birds" and training.report_to == []
    recipe = RECIPES["validated"]["synthetic_birds"]
    assert {name: getattr(training, name) for name in recipe} == recipe


def test_recipe_is_that_of_data_set_and_protocol(parse):
    script, training = parse("--dataset=awa2", "--protocol", "reference", "--num_train_epochs", "3")
    assert training.output_dir == "outputs/awa2" and script.protocol == "reference"
    assert training.optim == "rmsprop" and training.per_device_train_batch_size == 40
    assert training.num_train_epochs == 3


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_file_is_the_same_as_the_command_line(parse, tmp_path, suffix):
    settings = {
        "dataset": "cub",
        "data_dir": "some/data",
        "seeds": [0, 1, 2],
        "learning_rate": "1e-3",
        "balanced_batches": False,
        "lr_scheduler_kwargs": {"num_cycles": 0.4},
        "backbone": None,
        "bf16": True,
        "use_cpu": True,
    }
    text = json.dumps(settings, indent="\t")
    if suffix == "yaml":
        # As people write them; to YAML 1e-3 is a string.
        text = (
            "dataset: cub\ndata_dir: some/data\nseeds:\n- 0\n- 1\n- 2\nlearning_rate: 1e-3\nbalanced_batches: false\n"
            "lr_scheduler_kwargs:\n  num_cycles: 0.4\nbackbone:\nbf16: yes\nuse_cpu: true\n"
        )
    (tmp_path / f"settings.{suffix}").write_text(text)
    script, training = parse(f"settings.{suffix}")
    assert script.dataset == "cub" and script.data_dir == "some/data" and script.seeds == [0, 1, 2]
    assert script.backbone is None and training.output_dir == "outputs/cub"
    assert training.learning_rate == 1e-3 and training.balanced_batches is False and training.bf16 is True
    assert training.lr_scheduler_kwargs == {"num_cycles": 0.4}
    assert training.optim == RECIPES["validated"]["cub"]["optim"]


def test_single_seed_in_a_file(parse, tmp_path):
    (tmp_path / "settings.yaml").write_text("seeds: 3\n")
    assert parse("settings.yaml")[0].seeds == [3]


@pytest.mark.parametrize(
    "settings, message",
    [
        ("datasets: cub\n", "there are no such arguments: --datasets=cub"),
        ("dataset: flowers\n", "invalid choice: 'flowers'"),
        ("learning_rate: fast\n", "argument --learning_rate"),
        ("- cub\n", "must hold names and values of arguments"),
        ("a: [\n", "settings.yaml cannot be read"),
        (None, "settings.yaml cannot be read: .*No such file"),
    ],
)
def test_wrong_file(parse, tmp_path, capsys, settings, message):
    if settings is not None:
        (tmp_path / "settings.yaml").write_text(settings)
    with pytest.raises(SystemExit):
        parse("settings.yaml")
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--word_vector", "random"], "there are no such arguments: --word_vector random"),
        (["--protocol", "fast"], "invalid choice: 'fast'"),
        (["--seed", "3"], "name seeds with --seeds"),
    ],
)
def test_wrong_arguments(parse, capsys, arguments, message):
    with pytest.raises(SystemExit):
        parse(*arguments)
    assert message in capsys.readouterr().err


def test_run(main, tmp_path, capsys):
    asked = main(
        "--dataset", "cub", "--data_dir", "D", "--feature_maps", "F", "--backbone", "B", "--num_train_epochs", "1"
    )
    # Image files need not exist where their feature maps do.
    assert asked == [("cub", "D", None, None, {"check_files": False}), ("F", "B", CONFIG_RECIPES["validated"]["cub"])]
    results = json.loads((tmp_path / "outputs/cub/results.json").read_text())
    output = capsys.readouterr().out
    assert f"{results['test']['H']:.1f}" in output and "outputs/cub" in output
    assert AutoModel.from_pretrained(tmp_path / "outputs/cub", local_files_only=True).config.num_labels == 10
    assert results["command"].startswith("python scripts/train.py --use_cpu")


def test_validation_leaves_no_model(main, tmp_path, capsys):
    asked = main("--protocol", "validation", "--num_train_epochs", "1", "--config_overrides", "distillation_weight=0")
    assert asked[1][-1] == CONFIG_RECIPES["validation"]["synthetic_birds"] | {"distillation_weight": 0.0}
    folder = tmp_path / "outputs/synthetic_birds"
    assert {file.name for file in folder.iterdir()} == {"results.json", "training_log.json"}
    output = capsys.readouterr().out
    assert "results.json: outputs/synthetic_birds" in output and "Model" not in output


@pytest.mark.parametrize("problems", [[], ["line 3 is odd"]])
def test_check_runs_nothing(script, monkeypatch, capsys, problems):
    asked = []
    monkeypatch.setattr(load, "check_gzsl_dataset", lambda *names: asked.append(names) or (["10 birds"], problems))
    monkeypatch.setattr(load, "load_gzsl_dataset", None)
    options = [
        "--use_cpu",
        "--dataset",
        "folder",
        "--data_dir",
        "D",
        "--word_vectors",
        "random",
        "--num_groups",
        "3",
        "--check",
    ]
    monkeypatch.setattr(sys, "argv", ["scripts/train.py", *options])
    with pytest.raises(SystemExit) as end:
        script.main()
    assert asked == [("folder", "D", "random", 3)]
    assert capsys.readouterr().out.splitlines() == (
        ["10 birds", "WRONG: line 3 is odd"] if problems else ["10 birds", "Nothing wrong was found."]
    )
    # A message as the code of SystemExit is exit status 1.
    assert end.value.code == ("Found wrong: 1" if problems else None)


@pytest.mark.parametrize("flags", [[], ["--overwrite_output_dir"]])
def test_overwriting_is_asked_for(main, monkeypatch, flags):
    taken = {}
    results = {"seeds": [2, 5], "test": {}}
    monkeypatch.setattr(protocol, "run_protocol", lambda *args, **kwargs: taken.update(args=args, **kwargs) or results)
    main("--output_dir", "out", "--seeds", "2", "5", "--protocol", "reference", *flags)
    assert taken["overwrite"] == bool(flags)
    name, dataset, _, training, seeds = taken["args"]
    assert (name, dataset.name, training.output_dir, seeds) == ("reference", "folder", "out", [2, 5])


@pytest.mark.slow
def test_own_folder_end_to_end(tmp_path):
    """From drawn images and a table to a trained model that is evaluated and explains an image."""
    birds = load_synthetic_birds(images_per_class=8, cache_dir=str(tmp_path / "cache"))
    class_ids = list(range(0, 110, 11))
    for part in ("trainval", "test_seen", "test_unseen"):
        for row in birds.splits[part].filter(lambda label: label in class_ids, input_columns="label"):
            folder = tmp_path / "own/images" / birds.class_names[row["label"]]
            folder.mkdir(parents=True, exist_ok=True)
            row["image"].save(folder / f"{row['image_id']}.png")
    rows = [["class", *birds.attribute_names]]
    rows += [[birds.class_names[k], *(100 * birds.class_attributes[k])] for k in class_ids]
    (tmp_path / "own/classes.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ResNetModel(config).save_pretrained(tmp_path / "backbone")
    CLIPImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(tmp_path / "backbone")

    def run(name, *arguments):
        command = [sys.executable, str(SCRIPT.with_name(f"{name}.py")), "--dataset", "folder", "--data_dir", "own"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run([*command, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True)

    own = ["--word_vectors", "random", "--num_groups", "5", "--use_cpu"]
    check = run("train", *own, "--check")
    assert check.returncode == 0, check.stderr
    assert "10 classes, 62 attributes" in check.stdout and "Nothing wrong was found." in check.stdout
    assert run("train", "--use_cpu", "--check").returncode == 1
    extraction = ["--backbone", "backbone", "--image_size", "64", "--output_dir", "store"]
    extracted = run("extract_features", *extraction, "--num_workers", "0", "--device", "cpu")
    assert extracted.returncode == 0 and "store: 80 feature maps" in extracted.stdout, extracted.stderr
    stored = ["--feature_maps", "store"]
    trained = run("train", *own, *stored, "--backbone", "backbone", "--num_train_epochs", "2")
    assert trained.returncode == 0, trained.stderr
    folder = tmp_path / "outputs/folder"
    results = json.loads((folder / "results.json").read_text())
    assert results["dataset"] == "folder" and results["split"]["name"] == "drawn with seed 0"
    model = AutoModel.from_pretrained(folder, local_files_only=True)
    assert model.config.num_labels == 10 and len(model.config.attribute_groups) == 5 and model.backbone is not None
    evaluated = run("evaluate", "--model", "outputs/folder", *stored, "--output_dir", "evaluation")
    assert evaluated.returncode == 0, evaluated.stderr
    again = json.loads((tmp_path / "evaluation/results.json").read_text())["test"]
    assert again["H"] == pytest.approx(results["test"]["H"], abs=1e-4)
    assert run("explain", "--model", "outputs/folder", "--output", "why.png").returncode == 0


@pytest.mark.slow
def test_synthetic_birds_end_to_end(tmp_path):
    command = [sys.executable, str(SCRIPT), "--use_cpu", "--max_steps", "2", "--per_device_train_batch_size", "8"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    folder = tmp_path / "outputs/synthetic_birds"
    results = json.loads((folder / "results.json").read_text())
    assert results["chosen"]["epochs"] == 1 and f"{results['test']['S']:.1f}" in output
    model = AutoModel.from_pretrained(folder, local_files_only=True)
    assert model.backbone is not None and model.config.num_labels == 110
    assert (folder / "preprocessor_config.json").is_file()
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert again.splitlines()[-4:] == output.splitlines()[-4:] and "training" not in again
