"""A store and the images that it was made of: what is replaced, repaired, lost or moved to another class since."""

import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from PIL import Image
from tiny_extraction import CHANNELS, GRID, IMAGE_IDS, NUM_IMAGES, contents, make_tiny_images

from dedn_hf.features import extraction, store_writer
from dedn_hf.features.store import SCHEMA, FeatureMapStore, hash_file


def name_of(image_id):
    return f"{IMAGE_IDS.index(image_id)}.jpg"


def replace(image_folder, *image_ids):
    """Other pictures in files of the same names, sizes and times."""
    for image_id in image_ids:
        file = image_folder / name_of(image_id)
        times = file.stat().st_mtime_ns, file.stat().st_size
        with Image.open(file) as image:
            pixels = np.asarray(image)
        Image.fromarray(pixels[::-1].copy()).save(file, format="BMP")
        os.utime(file, ns=(times[0], times[0]))
        assert (file.stat().st_mtime_ns, file.stat().st_size) == times


@pytest.fixture
def image_folder(image_folder):
    """Images whose files have the same size whatever they show."""
    for file in image_folder.iterdir():
        with Image.open(file) as image:
            image.load()
        image.save(file, format="BMP")
    return image_folder


@pytest.fixture
def computed(monkeypatch):
    """Ids of the images that are computed, in order."""
    ids, read = [], extraction._PixelValues.__getitem__

    def note(self, rows):
        ids.extend(self.dataset[int(self.order[row])]["image_id"] for row in rows if row is not None)
        return read(self, rows)

    monkeypatch.setattr(extraction._PixelValues, "__getitem__", note)
    return ids


@pytest.fixture
def said(caplog):
    """What was said since the last call."""

    def said():
        text = " ".join(caplog.messages)
        caplog.clear()
        return text

    return said


def forget_marks(folder):
    """Makes of a store what version 0.2 wrote."""
    metadata = json.loads((folder / "store.json").read_text())
    skipped = [{k: v for k, v in image.items() if k != "content_mark"} for image in metadata.get("skipped", [])]
    for shard in metadata["shards"]:
        file = folder / shard["file"]
        table = pa.ipc.open_stream(file.read_bytes()).read_all().drop_columns("content_mark")
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        shard |= {"bytes": file.stat().st_size, "sha256": hash_file(file)}
        sidecar = file.with_suffix(".json")
        description = json.loads(sidecar.read_text()) | shard
        if "skipped" in description:
            description["skipped"] = [
                s for s in skipped if s["image_id"] in {i["image_id"] for i in description["skipped"]}
            ]
        sidecar.write_text(json.dumps(description))
    (folder / "store.json").write_text(json.dumps(metadata | ({"skipped": skipped} if skipped else {})))


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("image_ids", [[21], [2, 15, 40], [3, 7]])
def test_changed_images_alone_are_computed_anew(
    extract, image_folder, tmp_path, computed, said, finished, batch_size, image_ids
):
    folder = extract(batch_size=batch_size).path
    if not finished:
        (folder / "store.json").unlink()
    replace(image_folder, *image_ids)
    assert len(computed) == NUM_IMAGES and not said()
    computed.clear()
    extract(batch_size=batch_size)
    assert computed == image_ids
    message = said()
    assert f"{len(image_ids)} of 8 images are computed anew" in message and name_of(image_ids[0]) in message
    assert contents(folder) == contents(extract(tmp_path / "new", batch_size=batch_size).path)
    computed.clear()
    extract(batch_size=batch_size)
    assert not computed and not said()


@pytest.mark.parametrize("killed_at", ["before shard 0", "after shard 0", "in shard 1", "after shard 2"])
def test_killed_while_changed_images_are_computed(extract, image_folder, tmp_path, monkeypatch, killed_at, computed):
    folder = extract().path
    replace(image_folder, 2, 21, 40)
    expected = contents(extract(tmp_path / "new").path)
    write_shard, write_json = store_writer.write_shard, store_writer.write_json

    def killed(output_dir, index, *rest):
        if killed_at == f"before shard {index}":
            raise KeyboardInterrupt
        if killed_at == f"in shard {index}":  # the shard is replaced, what is said of it is not
            monkeypatch.setattr(store_writer, "write_json", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        write_shard(output_dir, index, *rest)
        if killed_at == f"after shard {index}":
            raise KeyboardInterrupt

    monkeypatch.setattr(store_writer, "write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        extract()
    with pytest.raises(FileNotFoundError, match="not finished; run `dedn features` again"):
        FeatureMapStore(folder)
    monkeypatch.setattr(store_writer, "write_shard", write_shard)
    monkeypatch.setattr(store_writer, "write_json", write_json)
    computed.clear()
    extract()
    # Where a shard and what is said of it did not agree, all of it.
    left = {
        "before shard 0": [2, 21, 40],
        "after shard 0": [21, 40],
        "in shard 1": [9, 15, 21, 40],
        "after shard 2": [],
    }
    assert computed == left[killed_at]
    assert contents(folder) == expected


def test_an_error_before_the_first_shard_leaves_the_store(extract, image_folder):
    folder = extract().path
    before = contents(folder)
    (image_folder / name_of(3)).write_text("no image")
    with pytest.raises(ValueError, match=rf"{name_of(3)} cannot be read: it is no image .* --on_error skip"):
        extract()
    assert contents(folder) == before


def test_an_image_that_is_missing_now(extract, image_folder, tmp_path, computed):
    folder = extract().path
    before = contents(folder)
    (image_folder / name_of(15)).unlink()
    with pytest.raises(ValueError, match=rf"{name_of(15)} cannot be read: .*No such file"):
        extract()
    assert contents(folder) == before
    computed.clear()
    store = extract(on_error="skip")
    assert computed == [15]
    assert [image["image_id"] for image in store.skipped] == [15] and 15 not in store.image_ids
    assert contents(folder) == contents(extract(tmp_path / "new", on_error="skip").path)


def test_a_folder_that_is_gone_is_no_reason_to_drop_all_maps(extract, image_folder):
    folder = extract().path
    before = contents(folder)
    image_folder.rename(image_folder.with_name("elsewhere"))
    with pytest.raises(ValueError, match=r"None of the 8 images .* such as .*7\.jpg\. .* the store is as it was"):
        extract(on_error="skip")
    assert contents(folder) == before


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize("finished", [True, False])
def test_skipped_images_that_were_put_right(extract, image_folder, tmp_path, computed, on_error, finished):
    originals = contents(image_folder)
    (image_folder / name_of(40)).unlink()
    (image_folder / name_of(2)).write_bytes(originals[name_of(2)][:100])
    (image_folder / name_of(3)).write_text("no image")
    folder = extract(on_error="skip").path
    if not finished:
        (folder / "store.json").unlink()
    for name, content in originals.items():
        (image_folder / name).write_bytes(content)
    computed.clear()
    store = extract(on_error=on_error)
    assert computed == [2, 3, 40] and not store.skipped and len(store) == NUM_IMAGES
    assert contents(folder) == contents(extract(tmp_path / "new").path)


def test_skipped_images_that_are_as_they_were(extract, image_folder, tmp_path, computed, said):
    (image_folder / name_of(40)).unlink()
    (image_folder / name_of(3)).write_text("no image")
    folder = extract(on_error="skip").path
    before = contents(folder)
    computed.clear()
    extract(on_error="skip")
    assert not computed and not said() and contents(folder) == before
    with pytest.raises(ValueError, match=rf"{name_of(3)} cannot be read"):
        extract()
    # Another one that cannot be read.
    (image_folder / name_of(3)).write_bytes(b"")
    extract(on_error="skip")
    assert contents(folder) == contents(extract(tmp_path / "new", on_error="skip").path) != before


def test_an_image_of_another_class(extract, dataset, tmp_path):
    """Its id does not always tell."""
    folder = extract().path
    moved = Dataset.from_dict({**dataset[:], "label": [2, *dataset["label"][1:]]}, dataset.features)
    with pytest.raises(ValueError, match=r"1 of 8 images have changed .*0\.jpg"):
        FeatureMapStore(folder).require_unchanged(moved)
    assert extract(dataset=moved).select([40]).labels.tolist() == [2]
    assert contents(folder) == contents(extract(tmp_path / "new", dataset=moved).path)


def test_a_store_that_was_copied_without_its_records(extract, image_folder, tmp_path, computed, monkeypatch):
    extract()
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in (tmp_path / "store").glob("*.arrow"):
        shutil.copy(file, folder)
    shutil.copy(tmp_path / "store/store.json", folder)
    before = contents(folder)
    extract(folder)
    assert contents(folder) == before
    replace(image_folder, 40)
    write_shard = store_writer.write_shard
    monkeypatch.setattr(store_writer, "write_shard", lambda *args: (write_shard(*args), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        extract(folder)
    monkeypatch.setattr(store_writer, "write_shard", write_shard)
    computed.clear()
    extract(folder)
    assert not computed
    assert contents(folder) == contents(extract(tmp_path / "new").path)


def test_marks_are_of_what_was_decoded(extract, image_folder, monkeypatch):
    """A file that is replaced right after it was read."""
    load_any_image = extraction.load_any_image

    def load(image):
        if image["path"].endswith(name_of(9)):
            replace(image_folder, 9)
        return load_any_image(image)

    monkeypatch.setattr(extraction, "load_any_image", load)
    store = extract()
    monkeypatch.undo()
    with pytest.raises(ValueError, match=rf"1 of 8 images .*{name_of(9)}"):
        store.require_unchanged(make_tiny_images(image_folder))


def test_store_without_marks(extract, dataset, image_folder, computed, said):
    folder = extract().path
    maps = [FeatureMapStore(folder)[row].copy() for row in range(NUM_IMAGES)]
    forget_marks(folder)
    before = contents(folder)
    store = FeatureMapStore(folder)
    assert store.content_marks == [None] * NUM_IMAGES
    assert all(np.array_equal(store[row], maps[row]) for row in range(NUM_IMAGES))
    replace(image_folder, 9)
    store.require_unchanged(dataset)

    assert said().count("cannot be known. Extract a store into another folder to be told.") == 1
    computed.clear()
    extract()
    assert not computed and contents(folder) == before
    assert said().count("whether 8 of its 8 images have changed since cannot be known") == 1
    # One that is missing is seen all the same, and others of its shard stay unknown.
    (image_folder / name_of(2)).unlink()
    store = extract(on_error="skip")
    assert [image["image_id"] for image in store.skipped] == [2] and computed == [2]
    assert store.content_marks == [None] * 7


def test_skipped_images_of_a_store_without_marks_are_tried_again(extract, image_folder, computed):
    content = (image_folder / name_of(2)).read_bytes()
    (image_folder / name_of(2)).write_text("no image")
    folder = extract(on_error="skip").path
    forget_marks(folder)
    for written in (b"no image", content):
        (image_folder / name_of(2)).write_bytes(written)
        computed.clear()
        store = extract(on_error="skip")
        assert computed == [2]
    assert len(store) == NUM_IMAGES and [mark is None for mark in store.content_marks] == [False] + [True] * 7


def test_unchanged_images_are_required(extract, dataset, image_folder):
    (image_folder / name_of(7)).rename(image_folder / "kept")
    store = extract(on_error="skip")
    store.require_unchanged(dataset)
    replace(image_folder, 3, 30)
    (image_folder / "kept").rename(image_folder / name_of(7))
    message = (
        rf"3 of 8 images have changed since .*store was made of them: .*{name_of(3)}, .*{name_of(7)}, "
        rf".*{name_of(30)}\. Run `dedn features` again with the same arguments"
    )
    with pytest.raises(ValueError, match=message):
        store.require_unchanged(dataset)
    store.require_unchanged(dataset.select([0, 4]))
    extract().require_unchanged(dataset)
    # Files that are not there do not matter.
    shutil.rmtree(image_folder)
    store.require_unchanged(dataset)
    store.require_unchanged(dataset.remove_columns("image"))


def test_images_that_came_and_went(extract, dataset, image_folder):
    folder = extract(dataset=dataset.select(range(6))).path
    before = contents(folder)
    message = (
        r"other images than the data set has now: added since: 3 \(.*7\.jpg, .*6\.jpg, .*9\.jpg\); "
        r"removed since: 1 \(image id 40 of auk\)\. Put the images back as they were, or extract a store into another "
    )
    Image.new("RGB", (80, 80)).save(image_folder / "9.jpg")
    table = dataset.select(range(1, 8))[:]
    other = Dataset.from_dict(
        {
            "image": [str(image_folder / f"{number}.jpg") for number in (1, 2, 3, 4, 5, 6, 7, 9)],
            "label": [*table["label"], 0],
            "image_id": [*table["image_id"], 99],
        },
        dataset.features,
    )
    with pytest.raises(ValueError, match=message):
        extract(dataset=other)
    with pytest.raises(ValueError, match=r"no feature maps of 3 of 8 images, such as .*7\.jpg, .*6\.jpg, .*9\.jpg\."):
        FeatureMapStore(folder).require_unchanged(other)
    assert contents(folder) == before


def test_maps_that_nobody_computed_are_not_asked_for_marks(extract, dataset, tmp_path, said):
    """As those of an HDF5 file."""
    source = dict.fromkeys(("backbone", "backbone_sha256", "image_size", "processor"))
    state = store_writer.start_processes(cpu=True)
    writer = store_writer.StoreWriter(tmp_path / "own", dataset, "birds", (CHANNELS, GRID, GRID), source, state)
    maps = np.ones((1, CHANNELS, GRID, GRID))
    store = writer.write(lambda batches: ((b, maps.repeat(len(b), 0), [None] * len(b), []) for b in batches), 2, "Own")
    store.require_unchanged(dataset)
    assert not said() and store.content_marks == [None] * NUM_IMAGES
    assert pa.ipc.open_stream((store.path / "shard-00000.arrow").read_bytes()).schema == SCHEMA


@pytest.mark.slow
def test_several_processes_compute_what_changed(extract, launch, image_folder, tmp_path):
    launch(tmp_path / "two", num_processes=2)
    replace(image_folder, 2, 21, 40)
    _, written = launch(tmp_path / "two", num_processes=2)
    assert written == [[0, 2], [1]]
    assert contents(tmp_path / "two") == contents(extract(tmp_path / "new").path)
    _, written = launch(tmp_path / "two", num_processes=2)
    assert written == [[], []]


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", ["shard-00000.arrow.*.tmp", "shard-00002.arrow.*.tmp"])
def test_killed_processes_lose_nothing(extract, launch, image_folder, tmp_path, kill_at):
    folder = extract(tmp_path / "killed").path
    replace(image_folder, 2, 21, 40)
    launch(folder, num_processes=2, kill_at=kill_at)
    assert "store.json" not in contents(folder)
    extract(folder)
    assert contents(folder) == contents(extract(tmp_path / "new").path)
