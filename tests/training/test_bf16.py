import json

import pytest
from tiny_training import make_tiny_arguments, make_tiny_dataset, make_tiny_inputs

from dedn_hf.training import DednTrainer
from dedn_hf.training.protocol import run_protocol


def run(folder, bf16="auto", seeds=(0,), protocol="validated", overwrite=False, read=None, **changes):
    dataset = make_tiny_dataset()
    arguments = make_tiny_arguments(folder, **{"num_train_epochs": 2} | changes)
    return run_protocol(protocol, dataset, make_tiny_inputs(dataset, read), arguments, seeds, overwrite, bf16=bf16)


@pytest.mark.parametrize("bfloat16, chosen", [(12, True), (11.9, False)])
def test_the_choice_is_that_of_the_whole_run(tmp_path, speeds, monkeypatch, bfloat16, chosen):
    """It is recorded, and changes nothing beside: the run is the same as one of which it was asked."""
    speeds |= {"native": True, "bfloat16": bfloat16}
    taken = []
    original = DednTrainer.__init__
    monkeypatch.setattr(
        DednTrainer,
        "__init__",
        lambda self, model, args, **kwargs: taken.append(args) or original(self, model, args, **kwargs),
    )
    results = run(tmp_path / "auto")
    assert [args.mixed_precision for args in taken] == ["bf16" if chosen else "no"] * 2
    assert results["settings"]["bf16"] is chosen and speeds["timed"] == [4]
    asked = run(tmp_path / "asked", bf16=chosen)
    assert {**asked, "command": ""} == {**results, "command": ""}


@pytest.mark.parametrize("first", [15, 9])
@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_a_killed_run_goes_on_as_it_was_begun(tmp_path, speeds, monkeypatch, seeds, first):
    speeds |= {"native": True, "bfloat16": first}
    whole = run(tmp_path / "whole", seeds=seeds)
    save, saved = DednTrainer._save_checkpoint, []

    def save_and_die(self, *args, **kwargs):
        save(self, *args, **kwargs)
        saved.append(self.args.bf16)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(DednTrainer, "_save_checkpoint", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", seeds=seeds)
    request = json.loads((tmp_path / "killed/unfinished/request.json").read_text())
    assert request["settings"]["bf16"] is (first == 15)
    # On another machine.
    speeds |= {"native": first == 9, "bfloat16": 24 - first, "timed": []}
    results = run(tmp_path / "killed", seeds=seeds)
    assert set(saved) == {first == 15} and not speeds["timed"]
    assert {**results, "command": ""} == {**whole, "command": ""}
    with pytest.raises(ValueError, match="holds a run with other settings: bf16 is"):
        run(tmp_path / "killed", bf16=first == 9, seeds=seeds)


def test_only_training_images_are_timed(tmp_path, speeds, monkeypatch):
    speeds["native"] = True
    monkeypatch.setattr(DednTrainer, "train", lambda *args, **kwargs: pytest.fail("trained"))
    for protocol, split in (("validation", "train"), ("reference", "trainval")):
        read = []
        with pytest.raises(pytest.fail.Exception):
            run(tmp_path / protocol, protocol=protocol, read=read, per_device_train_batch_size=3)
        assert read == make_tiny_dataset().splits[split]["image_id"][:3]
    assert speeds["timed"] == [3, 3]


@pytest.mark.parametrize("bf16, timed", [(None, 0), (False, 0), (True, 1)])
def test_python_says_it_in_the_arguments(tmp_path, speeds, caplog, bf16, timed):
    speeds["bfloat16"] = 1.2
    results = run(tmp_path / "run", bf16=bf16, protocol="validation", num_train_epochs=1)
    assert results["settings"]["bf16"] is bool(bf16) and len(speeds["timed"]) == timed
    assert len([message for message in caplog.messages if "slower here: 1.2 images/s" in message]) == timed


def test_what_it_cannot_be_is_refused_before_anything(tmp_path):
    with pytest.raises(ValueError, match="`bf16` must be True, False or 'auto', but is 'on'"):
        run(tmp_path / "run", bf16="on")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_do_what_the_first_decides(tmp_path, launch):
    # By itself, the second would choose otherwise.
    speeds = [{"native": True, "float32": 10, "bfloat16": bfloat16} for bfloat16 in (15, 9)]
    options = {"name": "validation", "seeds": [0], "num_train_epochs": 1, "per_device_train_batch_size": 2}
    ranks = launch(tmp_path / "two", 2, "protocol", bf16="auto", speeds=speeds, **options)
    assert [rank["settings"]["bf16"] for rank in ranks] == [True, True]
    printed = (tmp_path / "two/log/output.txt").read_text()
    assert printed.count("one batch had") == 1 and "15 images/s in bfloat16" in printed
