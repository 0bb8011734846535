"""The folder of a run: started, gone on with, finished, and never left half written."""

import gc
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import TrainerState

from ..files import only_run_in, read_json, write_json


def start_run(folder: Path, request: dict) -> dict | None:
    """
    Leaves a record of what is run in the folder, or checks that a run that is there already is the same; gives the
    results of a finished one.
    """
    record, results = folder / "unfinished" / "request.json", folder / "results.json"
    for file in (results, record):
        if file.is_file():
            there = read_json(file)
            # A record of an earlier version may lack a setting; then nothing can be said of it.
            settings = there.get("settings", {})
            changes = [(key, there.get(key), request[key]) for key in request if key != "settings"]
            changes += [(key, settings[key], value) for key, value in request["settings"].items() if key in settings]
            changes = [f"{key} is {old} there, {new} here" for key, old, new in changes if old != new]
            if changes:
                raise ValueError(
                    f"{folder} holds a run with other settings: {'; '.join(changes)}. Choose another --output_dir, or "
                    "start anew with --overwrite_output_dir."
                )
            if file == record:
                return None
            # The run was killed just before its end.
            shutil.rmtree(folder / "unfinished", ignore_errors=True)
            return there
    if any((folder / name).exists() for name in ("config.json", "model.safetensors")):
        raise ValueError(f"{folder} holds a model that is not of such a run. Choose another --output_dir.")
    write_json(record, request)
    return None


def finish_run(folder: Path, results: dict, write_card: Callable[[Path, dict | None], None] | None = None):
    """Writes what remains of a run on the main process: the card of its model, if it has one, and `results.json`."""
    state = PartialState()
    if state.is_main_process:
        if write_card is not None and results["protocol"] != "validation":
            write_card(folder, results)
        # Written last: a run is finished with it.
        write_json(folder / "results.json", results)
        shutil.rmtree(folder / "unfinished")
    state.wait_for_everyone()


def remove_run(folder: Path):
    if not folder.exists():
        return
    if Path.cwd().is_relative_to(folder.resolve()):
        raise ValueError(f"--overwrite_output_dir does not delete {folder}, which is or holds the current folder.")
    if not any((folder / name).is_file() for name in ("results.json", "unfinished/request.json")):
        raise ValueError(
            f"--overwrite_output_dir deletes the folder of a run only, but {folder} has neither results.json nor "
            "unfinished/request.json. Choose another --output_dir, or leave --overwrite_output_dir out."
        )
    with only_run_in(folder):
        shutil.rmtree(folder)


def move_files(source: Path, target: Path):
    for file in source.iterdir():
        os.replace(file, target / file.name)


def copy_model(source: Path, folder: Path):
    """Copies the model of a finished run into another run's folder, beside its other files."""
    files = [file for file in source.iterdir() if file.is_file() and file.name != "results.json"]
    temporary = folder / "unfinished" / "model"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for file in files:
        shutil.copy2(file, temporary)
    move_files(temporary, folder)


def last_checkpoint(folder: Path) -> tuple[Path, TrainerState] | None:
    """The last checkpoint that was written to its end, which `trainer_state.json` is."""
    steps = sorted((int(path.name.removeprefix("checkpoint-")) for path in folder.glob("checkpoint-*")), reverse=True)
    for step in steps:
        checkpoint = folder / f"checkpoint-{step}"
        try:
            return checkpoint, TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        except (FileNotFoundError, json.JSONDecodeError):
            continue
    return None


def from_main(function: Callable):
    """
    What a function gives on the main process, on every process: the others may not see its files, or too late. An
    error that it raises is raised on all of them, lest they wait for each other.
    """
    result = error = None
    if PartialState().is_main_process:
        try:
            result = function()
        except (OSError, ValueError) as raised:
            error = raised
    result, error = broadcast_object_list([(result, error)])[0]
    if error is not None:
        raise error
    return result


def leave_process_group():
    """
    Ends the connections between the processes of `accelerate launch`: the last thing that a script does, once its
    trainers are out of scope. A single process has none to end.

    Gloo's threads free the Python objects of their last reduction when they get to it. If Python ends before, they
    abort the process ("terminate called without an active exception"); if a `DistributedDataParallel` model outlives
    its process group, both wait for each other for ever. Seen with torch 2.13.
    """
    # Trainers are parts of reference cycles, and hold such a model.
    gc.collect()
    PartialState().destroy_process_group()
