import pytest
from datasets import Dataset
from tiny_extraction import contents

from dedn_hf.features import store_writer
from dedn_hf.features.store import FeatureMapStore


@pytest.mark.parametrize("killed_at", [0, 1, 2])
def test_interrupted_run_goes_on_with_identical_result(extract, tmp_path, monkeypatch, killed_at):
    expected = contents(extract(tmp_path / "whole").path)
    write = store_writer.write_shard

    def killed(output_dir, index, *rest):
        if index == killed_at:
            # As if while writing: part of the temporary file is there.
            (output_dir / f"shard-{index:05d}.arrow.tmp").write_bytes(b"part of a shard")
            raise KeyboardInterrupt
        write(output_dir, index, *rest)

    monkeypatch.setattr(store_writer, "write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        extract(tmp_path / "killed")
    with pytest.raises(FileNotFoundError, match="not finished"):
        FeatureMapStore(tmp_path / "killed")
    written = []
    monkeypatch.setattr(store_writer, "write_shard", lambda *args: (written.append(args[1]), write(*args)))
    extract(tmp_path / "killed")
    assert written == list(range(killed_at, 3))
    assert contents(tmp_path / "killed") == expected


def test_shard_damaged_between_runs_is_made_again(extract, tmp_path):
    folder = extract().path
    expected = contents(folder)
    (folder / "store.json").unlink()
    damaged = bytearray(expected["shard-00001.arrow"])
    damaged[len(damaged) // 2] ^= 1
    (folder / "shard-00001.arrow").write_bytes(damaged)
    extract()
    assert contents(folder) == expected


def test_other_folder_is_left_alone(extract, tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("text")
    with pytest.raises(ValueError, match=r"is no feature-map store, but holds chapter\.txt"):
        extract(folder)
    assert contents(folder) == {"chapter.txt": b"text"}


def test_repeated_image_id(extract, dataset):
    twice = Dataset.from_dict({**dataset[:], "image_id": [1, 2, 3, 4, 5, 6, 7, 2]}, dataset.features)
    with pytest.raises(ValueError, match="`image_id` must be unique, but 2 is there twice"):
        extract(dataset=twice)


@pytest.mark.parametrize("description", ["", "{"])
def test_shard_without_a_whole_description_is_made_again(extract, description):
    folder = extract().path
    expected = contents(folder)
    (folder / "store.json").unlink()
    (folder / "shard-00001.json").write_text(description)
    extract()
    assert contents(folder) == expected


def test_stale_temporary_files_are_removed(extract, tmp_path):
    expected = contents(extract(tmp_path / "whole").path)
    folder = extract().path
    (folder / "store.json").unlink()
    for name in ("shard-00001.arrow.4711.tmp", "shard-00002.json.tmp", "store.json.tmp"):
        (folder / name).write_bytes(b"part of")
    extract()
    assert contents(folder) == expected
    unborn = tmp_path / "unborn"
    unborn.mkdir()
    (unborn / "request.json.tmp").write_bytes(b"{")
    extract(unborn)
    assert contents(unborn) == expected


def test_temporary_files_of_others_are_left_alone(extract, tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.tmp").write_text("text")
    with pytest.raises(ValueError, match=r"is no feature-map store, but holds chapter\.tmp"):
        extract(folder)
    assert contents(folder) == {"chapter.tmp": b"text"}


def test_full_disk(extract, tmp_path, monkeypatch):
    usage = store_writer.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(store_writer.shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(ValueError, match=r"needs .* GB more, but the disk of .*store has 0\.0 GB free"):
        extract()


def test_folder_that_is_not_shared(extract, monkeypatch):
    """As another machine sees it: a process that is not the main one, and no file of the main one's."""
    monkeypatch.setattr(store_writer.PartialState, "is_main_process", False)
    with pytest.raises(ValueError, match=r"Process 0 does not find .*request\.json.*a disk that all machines share"):
        extract()


def test_shard_of_another_machine_is_missed(extract, monkeypatch):
    write = store_writer.write_shard
    monkeypatch.setattr(store_writer, "write_shard", lambda *args: args[1] == 1 or write(*args))
    with pytest.raises(ValueError, match=r"shard-00001\.json is missing although .* do not share the folder"):
        extract()


@pytest.mark.slow
def test_two_processes_write_the_same_store(extract, launch, tmp_path):
    expected = contents(extract(tmp_path / "whole").path)
    _, written = launch(tmp_path / "two", num_processes=2)
    assert written == [[0, 2], [1]]
    assert contents(tmp_path / "two") == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "num_processes, kill_at",
    [
        (1, "request.json"),
        (1, "shard-00000.arrow.*.tmp"),
        (1, "shard-00000.json"),
        (1, "shard-00001.arrow"),
        (2, "shard-00001.arrow.*.tmp"),
        (2, "shard-00001.json"),
    ],
)
def test_killed_run_goes_on_with_identical_result(extract, launch, tmp_path, num_processes, kill_at):
    expected = contents(extract(tmp_path / "whole").path)
    launch(tmp_path / "killed", num_processes, kill_at=kill_at)
    assert "store.json" not in contents(tmp_path / "killed")
    extract(tmp_path / "killed")
    assert contents(tmp_path / "killed") == expected


@pytest.mark.slow
def test_error_of_one_process_ends_all(launch, image_folder, tmp_path):
    (image_folder / "3.jpg").unlink()  # image id 21, of the second shard and so of the second process
    error, _ = launch(tmp_path / "store", num_processes=2, fails=True)
    assert "error: The image" in error and "3.jpg cannot be read" in error
