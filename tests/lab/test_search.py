import json

import pytest
import search
from search import format_search, run_search
from tiny_training import make_tiny_dataset, make_tiny_inputs

from dedn_hf.training.arguments import DednTrainingArguments

SETTINGS = ["learning_rate", "num_train_epochs", "distillation_weight"]


@pytest.fixture
def run(tmp_path):
    dataset = make_tiny_dataset()
    inputs = make_tiny_inputs(dataset)

    def run(num_trials, output_dir="search", settings=SETTINGS, **changes):
        options = {"use_cpu": True, "disable_tqdm": True, "report_to": [], "per_device_train_batch_size": 4}
        args = DednTrainingArguments(str(tmp_path / output_dir), **options | {"num_train_epochs": 2} | changes)
        return run_search(dataset, inputs, args, settings, num_trials, [0])

    return run


def test_the_recipe_comes_first_and_trials_follow_from_those_before(run, tmp_path, monkeypatch):
    whole = run(3)
    assert whole["trials"][0]["settings"] == {
        "learning_rate": 5e-5,
        "num_train_epochs": 2,
        "distillation_weight": whole["settings"]["distillation_weight"],
    }
    assert len({tuple(trial["settings"].values()) for trial in whole["trials"]}) == 3
    for name, (low, high) in search.SPACE.items():
        if name in SETTINGS:
            assert all(min(low, 5e-5) <= trial["settings"][name] <= high for trial in whole["trials"])
    assert "test" not in whole and all("T1" in trial["validation"] for trial in whole["trials"])

    # Killed in the last trial.
    protocol, begun = search.run_protocol, []

    def killed(*arguments, **options):
        if len(begun) == 2:
            raise KeyboardInterrupt
        begun.append(arguments)
        return protocol(*arguments, **options)

    monkeypatch.setattr(search, "run_protocol", killed)
    with pytest.raises(KeyboardInterrupt):
        run(3, "killed")
    monkeypatch.setattr(search, "run_protocol", protocol)
    again = run(3, "killed")
    assert again["trials"] == whole["trials"]
    assert json.loads((tmp_path / "killed/search.json").read_text())["trials"] == whole["trials"]
    assert (tmp_path / "killed/search.png").stat().st_size > 5000

    best = max(trial["validation"]["H"] for trial in whole["trials"])
    lines = format_search(whole).splitlines()
    assert lines[2].endswith(f" {best:.1f} |") and len(lines) == 5
    assert sum("(the recipe)" in line for line in lines) == 1


def test_what_cannot_be_searched(run):
    with pytest.raises(ValueError, match="nothing to search in optim; choose from learning_rate, "):
        run(1, settings=["optim"])
    run(1)
    with pytest.raises(ValueError, match=r"search\.json is of another search, in settings"):
        run(1, max_grad_norm=3.0)
