import json
from pathlib import Path

import pytest
from launching import run_script
from tiny_extraction import IMAGE_SIZE, SHARD_ROWS, make_tiny_images, save_tiny_backbone, save_tiny_images

from dedn_hf.features import store_writer
from dedn_hf.features.extraction import extract_feature_maps


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
def launch(two_processes, backbone, image_folder, tmp_path):
    """
    Runs launched_extraction.py in processes of its own, until it ends or a file (`kill_at`) appears, upon which all of
    them are killed; gives what was printed and, if they ended well, the shards that each process wrote.
    """
    script = Path(__file__).with_name("launched_extraction.py")

    def launch(output_dir, num_processes=1, kill_at=None, fails=False, **options):
        ranks = tmp_path / f"ranks of {output_dir.name}"
        ranks.mkdir(exist_ok=True)
        options = {"slow": kill_at is not None, **options}
        arguments = [str(output_dir), backbone, str(image_folder), str(ranks), json.dumps(options)]
        status, printed = run_script(
            script,
            *arguments,
            num_processes=num_processes,
            folder=tmp_path / "log",
            until=lambda: kill_at is not None and any(output_dir.glob(kill_at)),
        )
        if kill_at:
            assert status is None, f"it ended before {kill_at} was there: {printed[-3000:]}"
            return printed, None
        if fails:
            assert status != 0
            return printed, None
        assert status == 0, printed[-3000:]
        return printed, [json.loads((ranks / f"{rank}.json").read_text()) for rank in range(num_processes)]

    return launch
