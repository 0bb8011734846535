import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from command_line import CommandFailed
from launching import launch_script
from safetensors.torch import load_file
from transformers import AutoModel, CLIPImageProcessorPil, ResNetConfig, ResNetModel

from dedn_hf.cli import main
from dedn_hf.cli.train import SHOWN, TrainArguments, parse_command_line
from dedn_hf.data import load
from dedn_hf.data.check import CheckReport
from dedn_hf.data.synthetic_birds import load as load_synthetic_birds
from dedn_hf.recipes import read_recipe
from dedn_hf.training import protocol

SCRIPT = Path(__file__).parents[2] / "scripts" / "train.py"


@pytest.fixture
def parse(tmp_path, monkeypatch):
    """What the command understands of its arguments, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: parse_command_line(
        [*arguments], TrainArguments, "outputs/{}".format, prog="dedn train", description="Trains."
    )


def test_defaults(parse):
    command, training, recipe = parse()
    assert command.dataset == "synthetic_birds" and command.protocol == "validated" and command.seeds == [0]
    assert training.output_dir == "outputs/synthetic_birds" and training.report_to == []
    assert recipe == read_recipe("synthetic_birds")
    assert {name: getattr(training, name) for name in recipe.training} == recipe.training


def test_recipe_is_that_of_data_set_and_protocol(parse):
    script, training, _ = parse("--dataset=awa2", "--protocol", "reference", "--num_train_epochs", "3")
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
    script, training, _ = parse(f"settings.{suffix}")
    assert script.dataset == "cub" and script.data_dir == "some/data" and script.seeds == [0, 1, 2]
    assert script.backbone is None and training.output_dir == "outputs/cub"
    assert training.learning_rate == 1e-3 and training.balanced_batches is False and training.bf16 is True
    assert training.lr_scheduler_kwargs == {"num_cycles": 0.4}
    assert training.optim == read_recipe("cub").training["optim"]


@pytest.mark.parametrize(
    "arguments, asked, precision",
    [
        ([], "auto", "no"),
        (["--bf16", "auto"], "auto", "no"),
        (["--bf16"], True, "bf16"),
        (["--bf16", "--max_steps", "1"], True, "bf16"),
        (["--bf16", "true"], True, "bf16"),
        (["--bf16=yes"], True, "bf16"),
        (["--bf16", "False"], False, "no"),
        (["--fp16"], False, "fp16"),
        (["--dataset", "cub"], True, "bf16"),
        (["--dataset", "cub", "--protocol", "reference"], True, "bf16"),
        (["--dataset", "cub", "--bf16", "false"], False, "no"),
        (["--dataset", "cub", "--bf16", "auto"], "auto", "no"),
        (["--dataset", "cub", "--fp16"], False, "fp16"),
        (["--dataset", "synthetic_birds"], False, "no"),
        (["--dataset", "synthetic_birds", "--bf16", "auto"], "auto", "no"),
    ],
)
def test_bf16_as_people_type_it(parse, arguments, asked, precision):
    command, training, _ = parse("--dataset", "folder", "--use_cpu", *arguments)
    assert command.bf16 == asked and (training.bf16, training.mixed_precision) == (asked is True, precision)


@pytest.mark.parametrize("setting, asked", [("auto", "auto"), ("yes", True), ("no", False)])
def test_bf16_of_a_recipe_or_a_file(parse, tmp_path, setting, asked):
    (tmp_path / "mine.yaml").write_text(f"dataset: folder\ntraining: {{bf16: {setting}}}\n")
    (tmp_path / "settings.yaml").write_text(f"dataset: cub\nbf16: {setting}\n")
    for arguments in (["--recipe", "mine.yaml"], ["settings.yaml"]):
        assert parse(*arguments)[0].bf16 == asked


@pytest.mark.parametrize("launcher, asked", [("no", "auto"), ("bf16", True), ("fp16", False)])
def test_the_launcher_may_say_the_precision(dedn, parse, monkeypatch, launcher, asked):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    command, training, _ = parse("--dataset", "folder")
    assert command.bf16 == asked and training.mixed_precision == launcher and training.bf16 == (asked is True)
    if launcher == "bf16":
        with pytest.raises(CommandFailed, match="says --mixed_precision bf16, and here is --bf16 false"):
            dedn("train", "--bf16", "false")


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
def test_wrong_file(dedn, tmp_path, monkeypatch, settings, message):
    monkeypatch.chdir(tmp_path)
    if settings is not None:
        (tmp_path / "settings.yaml").write_text(settings)
    with pytest.raises(CommandFailed, match=f"^error: .*{message}.*\n$"):
        dedn("train", "settings.yaml")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--word_vector", "random"], "there are no such arguments: --word_vector random"),
        (["--protocol", "fast"], "invalid choice: 'fast'"),
        (["--seed", "3"], "name seeds with --seeds"),
        (["--bf16", "maybe"], "argument --bf16: it is auto, true or false, and not 'maybe'"),
    ],
)
def test_wrong_arguments(dedn, arguments, message):
    with pytest.raises(CommandFailed, match=f"^error: .*{message}.*\n$"):
        dedn("train", *arguments)


@pytest.fixture
def mine(tmp_path):
    """A recipe of one's own for CUB."""
    file = tmp_path / "mine.yaml"
    file.write_text("dataset: cub\nmodel: {class_bias: 0.5, coarse_mix: 0.2}\ntraining: {max_steps: 7, optim: sgd}\n")
    return str(file)


def test_flags_go_over_the_recipe_and_the_recipe_over_defaults(parse, mine):
    command, training, recipe = parse("--recipe", mine, "--optim", "adafactor", "--config_overrides", "class_bias=2")
    assert command.dataset == recipe.dataset == "cub" and training.output_dir == "outputs/cub"
    assert (training.max_steps, training.optim, training.num_train_epochs) == (7, "adafactor", 3)
    assert recipe.model == {"class_bias": 2.0, "coarse_mix": 0.2}
    command, training, recipe = parse("--recipe", mine, "--dataset", "sun")
    assert command.dataset == recipe.dataset == "sun" and training.output_dir == "outputs/sun"


def test_further_recipe_of_a_data_set(parse, dedn):
    command, training, recipe = parse("--recipe", "cub_finetune", "--backbone", "B", "--init_from", "outputs/cub")
    assert command.dataset == recipe.dataset == "cub" and command.init_from == "outputs/cub"
    assert (
        training.backbone_learning_rate == recipe.training["backbone_learning_rate"]
        and training.random_crop_scale == 0.5
    )
    assert recipe == read_recipe("cub_finetune") and training.output_dir == "outputs/cub"
    assert parse("--recipe", "cub_finetune.yaml", "--backbone_learning_rate", "1e-5")[1].backbone_learning_rate == 1e-5
    with pytest.raises(CommandFailed, match="invalid choice: 'cub_finetune'"):
        dedn("train", "--dataset", "cub_finetune")


@pytest.mark.parametrize(
    "text, message",
    [
        ("training: {learning_rates: 1}", "sets 'learning_rates' under `training`.*did you mean 'learning_rate'"),
        ("model: {grid: 1}", "sets 'grid' under `model`"),
        ("model: {region_mixes: 1}", "sets 'region_mixes' under `model`.*did you mean 'region_mix'"),
    ],
)
def test_wrong_names_in_a_recipe(dedn, mine, text, message):
    Path(mine).write_text(f"dataset: cub\n{text}\n")
    with pytest.raises(CommandFailed, match=message):
        dedn("train", "--recipe", mine)


def test_short_help_shows_what_there_is(capsys):
    """Every option of --help is one of --help_all, and what is said of it is said there, or it is the Trainer's."""
    assert main(["train", "--help"]) == 0
    short = capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["train", "--help_all"])
    everything = capsys.readouterr().out
    options = [field.name for field in fields(TrainArguments) if field.init]
    options += [name for group in SHOWN.values() for name in group]
    assert 20 <= len(options) <= 31
    for name in options:
        assert all(re.search(rf"--{name}\b", text) for text in (short, everything)), name
    assert all(f"{group}:" in short for group in ("what to train on", "how it is trained and judged", *SHOWN))
    assert "--adam_beta2" in everything and "--adam_beta2" not in short


def test_run(train, tmp_path, capsys):
    asked = train(
        "--dataset", "cub", "--data_dir", "D", "--feature_maps", "F", "--backbone", "B", "--num_train_epochs", "1"
    )
    # Image files need not exist where their feature maps do.
    model = read_recipe("cub").model
    options = {"check_files": False, "attribute_groups": model.pop("attribute_groups")}
    assert asked == [("cub", "D", None, None, options), ("F", "B", model, None)]
    results = json.loads((tmp_path / "outputs/cub/results.json").read_text())
    output = capsys.readouterr().out
    assert f"{results['test']['H']:.1f}" in output and "outputs/cub" in output
    assert AutoModel.from_pretrained(tmp_path / "outputs/cub", local_files_only=True).config.num_labels == 10
    assert results["command"].startswith("dedn train --use_cpu")


def test_validation_leaves_no_model_to_use(train, tmp_path, capsys):
    asked = train("--protocol", "validation", "--num_train_epochs", "1", "--config_overrides", "distillation_weight=0")
    assert asked[1][2] == read_recipe("synthetic_birds").model | {"distillation_weight": 0.0}
    folder = tmp_path / "outputs/synthetic_birds"
    assert {file.name for file in folder.iterdir()} == {"choose", "results.json", "training_log.json"}
    output = capsys.readouterr().out
    assert "results.json: outputs/synthetic_birds" in output and "Model" not in output


def test_what_auto_finds_is_recorded_and_stays(train, tmp_path, speeds, caplog):
    speeds |= {"native": True, "bfloat16": 14.7}
    folder = tmp_path / "outputs/awa2"
    options = ["--dataset", "awa2", "--num_train_epochs", "1"]
    train(*options)
    assert json.loads((folder / "results.json").read_text())["settings"]["bf16"] is True
    assert "Computing in bfloat16: one batch had 14.7 images/s" in caplog.text and speeds["timed"] == [4]
    # It is finished; its figures are printed.
    speeds["bfloat16"] = 5
    train(*options)
    with pytest.raises(CommandFailed, match="bf16 is True there, False here"):
        train(*options, "--bf16", "false")
    train(*options, "--overwrite_output_dir")
    assert json.loads((folder / "results.json").read_text())["settings"]["bf16"] is False
    assert speeds["timed"] == [4, 4]


@pytest.mark.parametrize("wrong, warned, status, strict", [(0, 0, 0, 0), (0, 1, 0, 1), (1, 1, 1, 1)])
def test_check_runs_nothing(dedn, monkeypatch, capsys, tmp_path, wrong, warned, status, strict):
    report = CheckReport(understood=["10 birds"])
    report.add_wrong("table", "odd lines", *["line 3 is odd"] * wrong)
    report.add_warning("note", "other lines", *["line 4 is odd"] * warned)
    asked = []
    monkeypatch.setattr(
        load, "check_gzsl_dataset", lambda *names, **options: asked.append((*names, options)) or report
    )
    monkeypatch.setattr(load, "load_gzsl_dataset", None)
    options = ["--dataset", "folder", "--data_dir", "D", "--word_vectors", "random", "--num_groups", "3", "--check"]
    assert main(["train", "--use_cpu", *options]) == status
    assert asked == [("folder", "D", "random", 3, {"check_files": True})]
    printed = capsys.readouterr().out
    assert printed == f"{report}\n" and ("line 3 is odd" in printed) == bool(wrong)
    file = tmp_path / "new/report.json"
    assert main(["train", "--use_cpu", *options, "--strict", "--json", str(file)]) == strict
    main(["train", "--use_cpu", *options, "--feature_maps", "F"])
    assert asked[-1][-1] == {"check_files": False}
    content = json.loads(file.read_text())
    assert content == {"dataset": "folder", **report.to_dict(), "exit_status": strict}
    assert [finding["lines"] for finding in content["wrong"]] == [["line 3 is odd"]] * wrong


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--json", "report.json"], "--json is of use with --check only"),
        (["--strict"], "--strict is of use with --check only"),
        (["--check", "--dataset", "cub"], "name their folder with --data_dir"),
        (["--check", "--dataset", "folder", "--data_dir", "none"], "--data_dir none is no folder"),
        (["--check", "--dataset", "flowers"], "invalid choice: 'flowers'"),
        (["--check", "--dataset", "folder", "--data_dir", ".", "--json", "."], ". is a folder: name a file"),
        (["--check", "--json", "file/report.json"], "file"),
    ],
)
def test_wrong_calls_of_the_check(dedn, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(CommandFailed, match=re.escape(message)) as failed:
        dedn("train", "--use_cpu", *arguments)
    assert failed.value.status == 2 and str(failed.value).count("\n") == 1


@pytest.mark.parametrize("flags", [[], ["--overwrite_output_dir"]])
def test_overwriting_is_asked_for(train, monkeypatch, flags):
    taken = {}
    results = {"seeds": [2, 5], "test": {}}
    monkeypatch.setattr(protocol, "run_protocol", lambda *args, **kwargs: taken.update(args=args, **kwargs) or results)
    train("--output_dir", "out", "--seeds", "2", "5", "--protocol", "reference", *flags)
    assert taken["overwrite"] == bool(flags)
    name, dataset, _, training, seeds = taken["args"]
    assert (name, dataset.name, training.output_dir, seeds) == ("reference", "synthetic_birds", "out", [2, 5])


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
        command = [sys.executable, "-m", "dedn_hf", name, "--dataset", "folder", "--data_dir", "own"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run([*command, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True)

    own = ["--word_vectors", "random", "--num_groups", "5", "--use_cpu"]
    check = run("train", *own, "--check")
    assert check.returncode == 0, check.stderr
    assert "10 classes, 62 attributes" in check.stdout and "Nothing wrong was found." in check.stdout
    assert run("train", "--use_cpu", "--check").returncode == 1
    extraction = ["--backbone", "backbone", "--image_size", "64", "--output_dir", "store", "--bf16", "false"]
    extracted = run("features", *extraction, "--num_workers", "0", "--device", "cpu")
    assert extracted.returncode == 0 and "store: 80 feature maps" in extracted.stdout, extracted.stderr
    stored = ["--feature_maps", "store"]
    # With auto it would depend on the machine.
    exact = ["--num_train_epochs", "2", "--bf16", "false"]
    trained = run("train", *own, *stored, "--backbone", "backbone", *exact)
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


@pytest.mark.slow
def test_the_script_and_the_module_are_the_same_run_in_two_processes(two_processes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    routes = {"script": (SCRIPT,), "module": ("-m", "dedn_hf", "train")}
    options = ["--use_cpu", "--max_steps", "2", "--per_device_train_batch_size", "4", "--seeds", "0"]
    for name, route in routes.items():
        launch_script(*route, *options, "--output_dir", name, num_processes=2, folder=tmp_path / f"log of {name}")
    results = {name: json.loads((tmp_path / name / "results.json").read_text()) for name in routes}
    commands = [result.pop("command") for result in results.values()]
    assert commands[0].startswith("accelerate launch --num_processes 2 ") and "scripts/train.py" in commands[0]
    assert commands[1].startswith("accelerate launch --num_processes 2 -m dedn_hf train --use_cpu")
    assert results["script"] == results["module"] and results["script"]["settings"]["world_size"] == 2
    weights = [load_file(tmp_path / name / "model.safetensors") for name in routes]
    assert all(torch.equal(weights[1][key], value) for key, value in weights[0].items())
