"""What docs/faults.md says happens where the machine fails: nothing is lost, and a clear line says what to do."""

import contextlib
import gc
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from launching import run_script
from tiny_extraction import contents, make_tiny_images, save_tiny_backbone, save_tiny_images
from tiny_training import (
    TinyFeatureMaps,
    make_tiny_arguments,
    make_tiny_dataset,
    make_tiny_inputs,
    make_trainval_model,
)
from transformers import Trainer

from dedn_hf import cli, convert_original_checkpoint, export
from dedn_hf.data import folder as folder_dataset
from dedn_hf.evaluation.report import evaluate_model
from dedn_hf.features import extraction, store_writer
from dedn_hf.features.extraction import extract_feature_maps
from dedn_hf.features.store import FeatureMapStore
from dedn_hf.files import only_run_in
from dedn_hf.prediction_file import PredictionFile
from dedn_hf.training import DednTrainer, run_folder
from dedn_hf.training.protocol import run_protocol

PAGE = Path(__file__).parents[1] / "docs/faults.md"
DISK_IS_FULL = r"cannot be written: File too large.*Make room"


class Killed(BaseException):
    """What ends a run in these tests; nothing in the package catches it."""


@contextlib.contextmanager
def full_disk(size):
    """No file may be larger than so many bytes, which fails as it does on a full disk, but with EFBIG."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbone") / "tiny_resnet"
    save_tiny_backbone(folder)
    return str(folder)


@pytest.fixture
def extract(backbone, tmp_path, monkeypatch):
    """Extracts into shards of 98 kB."""
    monkeypatch.setattr(store_writer, "SHARD_ROWS", 3)
    images = tmp_path / "images"
    images.mkdir()
    save_tiny_images(images)

    def extract(output_dir=tmp_path / "store", images=images, **changes):
        arguments = {"backbone": backbone, "image_size": 256, "dataset_name": "birds", "batch_size": 2}
        arguments |= {"num_workers": 0, "output_dir": output_dir, "dataset": make_tiny_images(images)}
        return extract_feature_maps(**(arguments | changes))

    return extract


def train(output_dir, name="validated", dataset=None, seeds=(0,), **changes):
    dataset = dataset or make_tiny_dataset()
    return run_protocol(name, dataset, make_tiny_inputs(dataset), make_tiny_arguments(output_dir, **changes), seeds)


def run_as_command(patch, run):
    """Runs something in place of a command; gives its exit status."""
    patch.setattr(cli, "import_module", lambda *args: SimpleNamespace(main=lambda rest: run() and 0))
    return cli.main(["features"])


def test_every_row_of_the_page_has_its_tests():
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    named = [name for row in rows for name in re.findall(r"`(test_\w+)`", row.split("|")[-2])]
    assert all(re.search(r"`test_\w+`", row.split("|")[-2]) for row in rows) and len(rows) > 10
    there = {name for name in globals() if name.startswith("test_")} - {"test_every_row_of_the_page_has_its_tests"}
    assert set(named) == there


def test_full_disk_in_extraction(extract, tmp_path):
    whole = contents(extract(tmp_path / "whole").path)
    with full_disk(60_000), pytest.raises(OSError, match=rf"store {DISK_IS_FULL}"):
        extract()
    assert set(contents(tmp_path / "store")) == {"request.json"}
    assert contents(extract().path) == whole


@pytest.mark.parametrize("size", [100, 60_000, 300_000])
def test_full_disk_in_training(tmp_path, size):
    """Of 130 kB are the weights, of more the state of the optimizer."""
    random = np.random.default_rng(0)
    dataset = make_tiny_dataset(word_vectors=random.normal(size=(8, 600)).astype(np.float32))
    with full_disk(size), pytest.raises(OSError, match=r"out[^ ]* cannot be written|File too large.*out"):
        train(tmp_path / "out", dataset=dataset, num_train_epochs=1)
    results = train(tmp_path / "out", dataset=dataset, num_train_epochs=1)
    assert results == train(tmp_path / "whole", dataset=dataset, num_train_epochs=1)


class _Items(TinyFeatureMaps):
    def __getitem__(self, index):
        return self.__getitems__([index])[0]


def test_full_disk_in_evaluation(tmp_path):
    dataset = make_tiny_dataset()
    examples = {name: _Items(dataset.splits[name], dataset.class_attributes) for name in dataset.splits}
    report = evaluate_model(make_trainval_model(dataset), dataset, examples)
    report.write(tmp_path / "out", {"model": "m"})
    before = contents(tmp_path / "out")
    with full_disk(5000), pytest.raises(OSError, match=rf"out {DISK_IS_FULL}"):
        report.write(tmp_path / "out", {"model": "m"})
    assert contents(tmp_path / "out") == before


def test_full_disk_in_prediction(tmp_path):
    answer = {"labels": [{"label": "jay", "score": 0.75, "seen": True}], "attributes": []}
    paths = [f"{number}.jpg" for number in range(500)]
    whole = PredictionFile(tmp_path / "whole.csv", 1, 0)
    whole.write([(path, answer) for path in paths])
    file = PredictionFile(tmp_path / "birds.csv", 1, 0)
    with full_disk(5000), pytest.raises(OSError, match=r"birds\.csv cannot be written: .*go on with it by --resume"):
        for path in paths:
            file.write([(path, answer)])
    file = PredictionFile(tmp_path / "birds.csv", 1, 0, resume_labels={"jay"})
    file.write([(path, answer) for path in paths if not file.done[path]])
    assert (tmp_path / "birds.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize(("name", "format"), [("birds.parquet", None), ("tasks.json", "label-studio")])
def test_full_disk_at_the_end_of_prediction(tmp_path, name, format):
    answer = {"labels": [{"label": "jay", "score": 0.75, "seen": True}], "attributes": []}
    rows = [(f"{number}.jpg", answer) for number in range(500)]
    (tmp_path / "out").mkdir()
    whole, file = (PredictionFile(folder / name, 1, 0, None, format, "m") for folder in (tmp_path, tmp_path / "out"))
    for part in (whole, file):
        part.write(rows)
    whole.finish()
    with full_disk(100), pytest.raises(OSError, match=rf"{name} cannot be written: .*go on with it by --resume"):
        file.finish()
    assert os.listdir(tmp_path / "out") == [f"{name}.unfinished.jsonl"]
    file = PredictionFile(tmp_path / "out" / name, 1, 0, {"jay"}, format, "m")
    assert file.done.total() == 500
    file.finish()
    assert os.listdir(tmp_path / "out") == [name]
    if format is None:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_full_disk_in_export_and_convert(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        Path(args[2] if len(args) > 2 else args[0]).with_suffix(".tmp").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.onnx, "export", fail)
    file = tmp_path / "dedn.onnx"
    file.write_bytes(b"an earlier one")
    with pytest.raises(OSError, match=r"dedn\.onnx cannot be written: No space left on device"):
        export.export_onnx(make_trainval_model(make_tiny_dataset()), file)
    assert contents(tmp_path) == {"dedn.onnx": b"an earlier one", "dedn.onnx.tmp": b"half"} or contents(tmp_path) == {
        "dedn.onnx": b"an earlier one"
    }
    model = make_trainval_model(make_tiny_dataset())
    monkeypatch.setattr(type(model), "save_pretrained", lambda self, folder: fail(folder))
    monkeypatch.setattr(convert_original_checkpoint, "load_original_state_dict", lambda path: None)
    monkeypatch.setattr(convert_original_checkpoint, "convert_state_dict", lambda *args: model)
    with pytest.raises(OSError, match="converted cannot be written: No space left on device"):
        convert_original_checkpoint.convert_original_checkpoint("x.pt", "cub", [0], tmp_path / "converted")
    assert [path.name for path in tmp_path.iterdir()] == ["dedn.onnx"]


def test_folder_that_cannot_be_written(extract, tmp_path):
    """Below a file nobody can write, not even root."""
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file/out"):
        for run in (extract, train):
            with pytest.raises(OSError, match=str(place)):
                run(place)
    with pytest.raises(ValueError, match="there is no folder"):
        PredictionFile.check(tmp_path / "file/birds.csv", resume=False)


def test_killed_worker(extract, tmp_path, monkeypatch, capsys):
    whole, read, ours = contents(extract(tmp_path / "whole").path), extraction._PixelValues.__getitem__, os.getpid()

    def killed(self, rows):
        if 4 in rows and os.getpid() != ours:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(extraction._PixelValues, "__getitem__", killed)
        assert run_as_command(patch, lambda: extract(num_workers=1)) == 2
    # torch may tell of it once more, wherever this process then is; a command would have ended.
    with contextlib.suppress(RuntimeError):
        gc.collect()
        time.sleep(0.5)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert re.search(r"error: (A process of the run that writes .*store was killed|DataLoader worker .* killed)", line)
    assert contents(extract().path) == whole


@pytest.mark.parametrize("run", ["extract", "train"])
def test_two_runs_at_once(extract, tmp_path, run):
    run = extract if run == "extract" else train
    with only_run_in(tmp_path / "out"), pytest.raises(ValueError, match=r"Another run is writing into .*out\. Wait"):
        run(tmp_path / "out")
    assert not contents(tmp_path / "out")
    run(tmp_path / "out")


def hold(folder, started):
    worker = multiprocessing.get_context("fork").Process(target=wait, args=[started])
    with only_run_in(folder):
        worker.start()
        worker.join()


def wait(started):
    started.write_text(str(os.getpid()))
    time.sleep(60)


def test_folder_is_free_once_its_run_has_died(tmp_path):
    """Workers that a run has started may outlive it."""
    run = multiprocessing.get_context("fork").Process(target=hold, args=[tmp_path / "out", tmp_path / "started"])
    run.start()
    end = time.monotonic() + 60
    while not (tmp_path / "started").is_file() or not (tmp_path / "started").read_text():
        assert time.monotonic() < end
        time.sleep(0.01)
    worker = int((tmp_path / "started").read_text())
    try:
        with pytest.raises(ValueError, match="Another run is writing"), only_run_in(tmp_path / "out"):
            pass
        run.kill()
        run.join()
        with only_run_in(tmp_path / "out"):
            os.kill(worker, 0)  # it is there
    finally:
        os.kill(worker, signal.SIGKILL)


def test_clock_that_jumps(extract, tmp_path, monkeypatch):
    store = extract()
    whole = contents(store.path)
    for seconds in (0, 4e9):
        for path in [*store.path.iterdir(), *(tmp_path / "images").iterdir(), store.path]:
            os.utime(path, (seconds, seconds))
        with monkeypatch.context() as patch:
            patch.setattr(store_writer, "write_shard", lambda *args: pytest.fail("computed again"))
            extract()
        assert contents(store.path) == whole

    expected, save, there = train(tmp_path / "whole"), Trainer._save_checkpoint, []

    def save_earlier(self, model, trial):
        save(self, model, trial)
        checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        there.append(checkpoint.is_dir())
        if checkpoint.is_dir():
            seconds = time.time() + 1e6 - 1000 * self.state.global_step
            os.utime(checkpoint, (seconds, seconds))

    monkeypatch.setattr(Trainer, "_save_checkpoint", save_earlier)
    assert train(tmp_path / "out") == expected
    assert all(there)


def test_store_that_is_moved(extract, tmp_path, monkeypatch):
    whole = contents(extract().path)
    assert not any(str(tmp_path).encode() in content for content in whole.values())
    shutil.move(tmp_path / "store", tmp_path / "elsewhere")
    shutil.copytree(tmp_path / "images", tmp_path / "other images")
    shutil.rmtree(tmp_path / "images")
    monkeypatch.setattr(store_writer, "write_shard", lambda *args: pytest.fail("computed again"))
    store = extract(tmp_path / "elsewhere", tmp_path / "other images")
    assert contents(store.path) == whole and FeatureMapStore(store.path).select([40])[0]["labels"] == 0


@pytest.mark.parametrize("name", ["validated", "reference"])
def test_run_that_is_moved(tmp_path, monkeypatch, name):
    """What a checkpoint says of the best one is a path of the folder as it was."""
    settings = {"num_train_epochs": 6, "learning_rate": 0.3}
    expected = train(tmp_path / "whole", name, **settings)
    assert name == "validated" or expected["chosen"]["epochs"] == 4
    step = DednTrainer.training_step

    def killed(self, *args):
        if self.state.epoch > 5:
            raise Killed
        return step(self, *args)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(DednTrainer, "training_step", killed)
        train(tmp_path / "out", name, **settings)
    shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    assert train(tmp_path / "elsewhere", name, **settings) == expected
    weights = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in ("whole", "elsewhere")]
    assert weights[0] == weights[1]


def test_data_folder_that_is_moved(tmp_path):
    folder = tmp_path / "birds"
    for name in ("auk", "crow"):
        (folder / "images" / name).mkdir(parents=True)
        for number in range(3):
            shutil.copy(Path(__file__).parents[1] / "docs/explanation.png", folder / f"images/{name}/{number}.png")
    (folder / "classes.csv").write_text("class,black\nauk,0.5\ncrow,1\n")
    before = folder_dataset.load_images(folder)
    shutil.move(folder, tmp_path / "elsewhere")
    after = folder_dataset.load_images(tmp_path / "elsewhere")
    for column in ("image_id", "label"):
        assert before[column][:] == after[column][:]


def test_interrupt(extract, tmp_path, monkeypatch):
    whole, write = contents(extract(tmp_path / "whole").path), store_writer.write_shard

    def interrupted(output_dir, index, *rest):
        write(output_dir, index, *rest)
        if index == 1:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(store_writer, "write_shard", interrupted)
        # A shell starts what it has in the background deaf to it.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            assert run_as_command(patch, extract) == 130
        finally:
            signal.signal(signal.SIGINT, before)
    written = []
    monkeypatch.setattr(store_writer, "write_shard", lambda *args: (written.append(args[1]), write(*args)))
    assert contents(extract().path) == whole and written == [2]


def run_and_kill(kind, tmp_path, backbone, times=20):
    folder = tmp_path / "runs"
    folder.mkdir()
    images = tmp_path / "images"
    images.mkdir(exist_ok=True)
    save_tiny_images(images)
    script = Path(__file__).with_name("killed_runs.py")
    arguments = [kind, str(folder), backbone, str(images), str(times)]
    status, printed = run_script(script, *arguments, num_processes=1, folder=tmp_path / "log", timeout=600)
    assert status == 0, printed[-3000:]
    # Some may have ended before.
    assert int((folder / "killed.txt").read_text()) >= times / 2
    return folder / "whole", [folder / str(number) for number in range(times)]


def test_run_killed_in_its_last_moment(tmp_path, monkeypatch):
    """When results.json is there, and what was needed to go on is, too."""
    remove = shutil.rmtree

    def killed(folder, *args, **options):
        if Path(folder).name == "unfinished":
            raise Killed
        remove(folder, *args, **options)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(run_folder.shutil, "rmtree", killed)
        train(tmp_path / "out", num_train_epochs=1)
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert train(tmp_path / "out", num_train_epochs=1) == results
    assert not (tmp_path / "out/unfinished").exists()


@pytest.mark.slow
def test_extraction_killed_at_any_moment(tmp_path, backbone):
    whole, killed = run_and_kill("extraction", tmp_path, backbone)
    for folder in killed:
        assert contents(folder) == contents(whole)


@pytest.mark.slow
def test_training_killed_at_any_moment(tmp_path, backbone):
    whole, killed = run_and_kill("training", tmp_path, backbone)
    expected = contents(whole)
    for folder in killed:
        found = contents(folder)
        assert found.keys() == expected.keys()
        # Logs have times.
        for name in found.keys() - {name for name in found if name.endswith("training_log.json")}:
            assert found[name] == expected[name], (folder, name)
