import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tiny_extraction import IMAGE_SIZE, SHARD_ROWS, make_tiny_images, save_tiny_backbone, save_tiny_images

from dedn_hf.data import store_writer
from dedn_hf.data.extraction import extract_feature_maps

TIMEOUT = 180  # seconds


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbone") / "tiny_resnet"
    save_tiny_backbone(folder)
    return str(folder)


@pytest.fixture
def image_folder(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    save_tiny_images(folder)
    return folder


@pytest.fixture
def dataset(image_folder):
    return make_tiny_images(image_folder)


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(store_writer, "SHARD_ROWS", SHARD_ROWS)
    monkeypatch.setattr(store_writer, "RECORD_BATCH_ROWS", 2)


@pytest.fixture
def extract(dataset, backbone, tmp_path, small_shards):
    def run(output_dir=tmp_path / "store", **changes):
        arguments = {"dataset": dataset, "backbone": backbone, "image_size": IMAGE_SIZE, "dataset_name": "birds"}
        return extract_feature_maps(
            **{**arguments, "batch_size": 2, "num_workers": 0, **changes}, output_dir=output_dir
        )

    return run


@pytest.fixture
def store(extract):
    return extract()


@pytest.fixture
def launch(backbone, image_folder, tmp_path):
    """
    Runs launched_extraction.py in processes of its own, until it ends or a file (`kill_at`) appears, upon which all of
    them are killed; gives what was written to stderr and, if they ended well, the shards that each process wrote.
    """
    script = Path(__file__).with_name("launched_extraction.py")

    def launch(output_dir, num_processes=1, kill_at=None, fails=False, **options):
        launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(num_processes)]
        launcher += ["--main_process_port", "0"]
        command = [sys.executable, *(launcher if num_processes > 1 else []), str(script)]
        ranks = tmp_path / f"ranks of {output_dir.name}"
        ranks.mkdir(exist_ok=True)
        options = {"slow": kill_at is not None, **options}
        # To files: a pipe that nobody reads fills up, and one that a child inherits never closes.
        with open(tmp_path / "stdout", "wb") as stdout, open(tmp_path / "stderr", "wb") as stderr:
            process = subprocess.Popen(
                [*command, str(output_dir), backbone, str(image_folder), str(ranks), json.dumps(options)],
                env=os.environ
                | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[1]), "GLOO_SOCKET_IFNAME": "lo"},
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
            try:
                start = time.monotonic()
                while (
                    process.poll() is None
                    and time.monotonic() - start < TIMEOUT
                    and not (kill_at and any(output_dir.glob(kill_at)))
                ):
                    time.sleep(0.005)
                ended = process.poll()
            finally:
                # The launcher gives each of its processes a session of its own, so that no group has them all.
                with contextlib.suppress(psutil.NoSuchProcess):
                    tree = psutil.Process(process.pid)
                    for running in (*tree.children(recursive=True), tree):
                        with contextlib.suppress(psutil.NoSuchProcess):
                            running.kill()
                process.wait()
        error = (tmp_path / "stderr").read_text()
        if kill_at:
            assert ended is None, f"it ended before {kill_at} was there: {error[-3000:]}"
            return error, None
        assert ended is not None, f"it did not end: {error[-3000:]}"
        if fails:
            assert ended != 0
            return error, None
        assert ended == 0, error[-3000:]
        return error, [json.loads((ranks / f"{rank}.json").read_text()) for rank in range(num_processes)]

    return launch
