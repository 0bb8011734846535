import builtins

import h5py
import numpy as np
import pytest
import scipy.io
from datasets import ClassLabel, Dataset, Features, Image, Value
from tiny_extraction import IMAGE_IDS, LABELS, NUM_IMAGES, contents

from dedn_hf.features import hdf5, store_writer
from dedn_hf.features.hdf5 import describe_rows, import_hdf5
from dedn_hf.features.store import FeatureMapStore

CHANNELS, SIDE = 6, 3
MAPS = np.random.default_rng(0).normal(size=(NUM_IMAGES, CHANNELS, SIDE, SIDE))


@pytest.fixture
def dataset():
    """Of images that need not exist."""
    features = {"image": Image(), "label": ClassLabel(names=["auk", "bunting", "crow"]), "image_id": Value("int64")}
    names = ["auk", "bunting", "crow"]
    paths = [f"/images/{names[label]}/{i}.jpg" for i, label in enumerate(LABELS)]
    return Dataset.from_dict({"image": paths, "label": LABELS, "image_id": IMAGE_IDS}, Features(features))


@pytest.fixture
def file(tmp_path):
    """A row for each image, in the order of the data set and not of the ids."""
    return write(tmp_path / "maps.hdf5", feature_map=MAPS.astype(np.float32), labels=np.array(LABELS))


@pytest.fixture
def run(dataset, file, tmp_path, small_shards, monkeypatch):
    monkeypatch.setattr(hdf5, "RECORD_BATCH_ROWS", 2)

    def run(output_dir=tmp_path / "store", **changes):
        arguments = {"file": file, "map_key": "feature_map", "label_key": "labels", "dataset": dataset}
        return import_hdf5(**{**arguments, "dataset_name": "birds", **changes}, output_dir=output_dir)

    return run


def write(file, **data):
    with h5py.File(file, "w") as content:
        for key, values in data.items():
            content[key] = values
    return file


def check_maps(store):
    assert store.shape == (CHANNELS, SIDE, SIDE)
    assert store.image_ids.tolist() == sorted(IMAGE_IDS)
    for row, (image_id, label) in enumerate(zip(IMAGE_IDS, LABELS, strict=True)):
        selected = store.select([image_id])
        np.testing.assert_array_equal(selected[0]["feature_map"].numpy(), MAPS[row].astype(np.float16))
        assert selected.labels.tolist() == [label]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
@pytest.mark.parametrize("layout", ["NCHW", "NCR", "NHWC", "NRC"])
def test_layouts_and_types(run, tmp_path, layout, dtype):
    # Through float16, so that rounding twice changes nothing.
    maps = MAPS.astype(np.float16).astype(dtype)
    if layout in ("NCR", "NRC"):
        maps = maps.reshape(NUM_IMAGES, CHANNELS, SIDE * SIDE)
    if layout.endswith("C"):
        maps = np.moveaxis(maps, 1, -1)
    check_maps(run(file=write(tmp_path / "other.h5", feature_map=maps, labels=LABELS)))


def test_chunked_and_compressed_file_with_groups(run, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as content:
        content.create_dataset("cub/maps", data=MAPS, chunks=(3, CHANNELS, SIDE, SIDE), compression="gzip")
        # As MATLAB writes them: doubles in a row, from 1.
        content["cub/labels"] = np.array([LABELS], np.float64) + 1
    check_maps(run(file=tmp_path / "other.h5", map_key="cub/maps", label_key="/cub/labels"))


def test_rows_in_another_order_with_ids(run, tmp_path):
    order = np.random.default_rng(1).permutation(NUM_IMAGES)
    data = {"feature_map": MAPS[order], "labels": np.array(LABELS)[order], "ids": np.array(IMAGE_IDS)[order]}
    check_maps(run(file=write(tmp_path / "other.h5", **data), id_key="ids"))


def test_what_the_store_records(run, file):
    store = run()
    check_maps(store)
    record = {"file": "maps.hdf5", "bytes": file.stat().st_size, "map_key": "feature_map", "label_key": "labels"}
    assert store.metadata["hdf5"] == {**record, "id_key": None, "proposed_split": False}
    assert "their labels fit, which cannot tell" in describe_rows(store.metadata["hdf5"])
    for key in ("backbone", "backbone_sha256", "image_size", "processor"):
        assert store.metadata[key] is None
    assert [shard["rows"] for shard in store.metadata["shards"]] == [3, 3, 2]


def test_blocks_are_small(run, monkeypatch):
    read = []
    original = h5py.Dataset.__getitem__

    def getitem(self, places):
        values = original(self, places)
        if self.name == "/feature_map":
            read.append(len(values))
        return values

    monkeypatch.setattr(h5py.Dataset, "__getitem__", getitem)
    run()
    assert sum(read) == NUM_IMAGES and max(read) == 2


def test_interrupted_run_goes_on_with_identical_result(run, tmp_path, monkeypatch):
    expected = contents(run(tmp_path / "whole").path)
    write_shard, written = store_writer.write_shard, []

    def killed(output_dir, index, *rest):
        if index == 1:
            raise KeyboardInterrupt
        write_shard(output_dir, index, *rest)

    monkeypatch.setattr(store_writer, "write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        run()
    with pytest.raises(FileNotFoundError, match="not finished"):
        FeatureMapStore(tmp_path / "store")
    monkeypatch.setattr(store_writer, "write_shard", lambda *args: written.append(args[1]) or write_shard(*args))
    assert contents(run().path) == expected
    assert written == [1, 2]
    run()  # verifies
    assert contents(tmp_path / "store") == expected


def test_store_of_another_file_is_refused(run, tmp_path):
    run()
    other = write(tmp_path / "other.h5", feature_map=MAPS.astype(np.float32), labels=LABELS)
    with pytest.raises(ValueError, match=r"its hdf5 is \{'file': 'maps\.hdf5'.* where \{'file': 'other\.h5'"):
        run(file=other)


def test_labels_in_another_order(run, tmp_path):
    order = [0, 1, 3, 2, 4, 5, 6, 7]
    other = write(tmp_path / "other.h5", feature_map=MAPS[order], labels=np.array(LABELS)[order])
    message = (
        r"differs .* in 2 of 8 rows\. The first is row 2: its label is 0, but it should show image id 3 of class "
    )
    with pytest.raises(ValueError, match=message + "crow, which is number 2"):
        run(file=other)
    assert not (tmp_path / "store").exists()


def test_classes_in_another_order(run, tmp_path):
    """The rows would fit, but nothing says that the classes are the same ones."""
    other = write(tmp_path / "other.h5", feature_map=MAPS, labels=2 - np.array(LABELS))
    with pytest.raises(ValueError, match=r"differs .* in 5 of 8 rows.*--proposed_split"):
        run(file=other)


def make_proposed_split(folder, order):
    folder = folder / "xlsa17/data/BIRDS"
    folder.mkdir(parents=True)
    names = ["auk", "bunting", "crow"]
    cell = lambda values: np.array([[value] for value in values], dtype=object)  # noqa: E731
    files = [f"/home/somebody/data//images/{names[LABELS[i]]}/{i}.jpg" for i in order]
    scipy.io.savemat(folder / "res101.mat", {"image_files": cell(files)})
    parts = {f"{part}_loc": [[1]] for part in ("trainval", "test_seen", "test_unseen")}
    scipy.io.savemat(folder / "att_splits.mat", {"allclasses_names": cell(["crow", "auk", "bunting"]), **parts})
    for name, classes in {
        "trainclasses1": "crow",
        "valclasses1": "auk",
        "testclasses": "bunting",
        "trainvalclasses": "crow\nauk",
    }.items():
        (folder / f"{name}.txt").write_text(classes + "\n")


def test_rows_and_classes_of_the_proposed_split(run, tmp_path):
    order = np.random.default_rng(1).permutation(NUM_IMAGES)
    make_proposed_split(tmp_path, order)
    numbers = np.array([1, 2, 0])[LABELS]  # of auk, bunting and crow
    other = write(tmp_path / "other.h5", feature_map=MAPS[order], labels=numbers[order] + 1)
    store = run(file=other, proposed_split_dir=tmp_path)
    check_maps(store)
    assert store.metadata["hdf5"]["proposed_split"]
    wrong = write(tmp_path / "wrong.h5", feature_map=MAPS, labels=numbers)
    with pytest.raises(ValueError, match="differs from the labels"):
        run(tmp_path / "wrong", file=wrong, proposed_split_dir=tmp_path)
    with pytest.raises(ValueError, match="either an `id_key` or the Proposed Split"):
        run(file=other, proposed_split_dir=tmp_path, id_key="ids")


def test_two_orders_that_the_labels_fit_alike(run, dataset, tmp_path):
    """As of SUN: image_files has the same classes in the same order, and other images of them."""
    order = [3, 1, 2, 0, *range(4, NUM_IMAGES)]
    assert LABELS[3] == LABELS[0]
    make_proposed_split(tmp_path, order)
    split = tmp_path / "xlsa17/data/BIRDS/att_splits.mat"
    content = {key: value for key, value in scipy.io.loadmat(split).items() if not key.startswith("__")}
    names = np.array([["auk"], ["bunting"], ["crow"]], dtype=object)
    scipy.io.savemat(split, content | {"allclasses_names": names})
    other = write(tmp_path / "other.h5", feature_map=MAPS[order], labels=np.array(LABELS)[order])
    message = r"fits the order of .* alike, in which 2 of 8 rows .* --proposed_split .* --data_set_order .* --id_key"
    with pytest.raises(ValueError, match=message):
        run(file=other, proposed_split_dir=tmp_path)
    store = run(tmp_path / "split", file=other, proposed_split_dir=tmp_path, row_order="proposed_split")
    check_maps(store)
    assert store.metadata["hdf5"]["stated"]
    assert "image_files in res101.mat, as was said; their labels agree" in describe_rows(store.metadata["hdf5"])
    in_order = write(tmp_path / "in_order.h5", feature_map=MAPS, labels=LABELS)
    store = run(tmp_path / "own", file=in_order, proposed_split_dir=tmp_path, row_order="data_set")
    check_maps(store)
    assert "the data set's own list of images, as was said" in describe_rows(store.metadata["hdf5"])
    (tmp_path / "xlsa17/data/BIRDS/att_splits.mat").unlink()
    with pytest.raises(FileNotFoundError, match=r"att_splits\.mat.* Or say --data_set_order, if .*in_order\.h5"):
        run(tmp_path / "other", file=in_order, proposed_split_dir=tmp_path)
    check_maps(run(tmp_path / "other", file=in_order, proposed_split_dir=tmp_path, row_order="data_set"))
    with pytest.raises(ValueError, match="no row_order 'sun'; choose one of data_set, proposed_split"):
        run(row_order="sun")
    with pytest.raises(ValueError, match="need its folder, `proposed_split_dir`"):
        run(row_order="proposed_split")


def test_sun_without_the_other_order_to_compare(run, tmp_path):
    """Its two orders have the same classes in the same places, so that labels that fit say nothing."""
    with pytest.raises(ValueError, match=r"of sun .* do not tell in which.* --data_set_order or --prop"):
        run(dataset_name="sun")
    store = run(dataset_name="sun", row_order="data_set")
    check_maps(store)
    assert store.metadata["hdf5"]["stated"]


def test_the_same_images_in_both_orders_are_no_question(run, tmp_path):
    make_proposed_split(tmp_path, range(NUM_IMAGES))
    store = run(proposed_split_dir=tmp_path)
    check_maps(store)
    assert not store.metadata["hdf5"]["proposed_split"]


def test_proposed_split_of_other_images(run, dataset, tmp_path):
    make_proposed_split(tmp_path, range(NUM_IMAGES))
    file = tmp_path / "xlsa17/data/BIRDS/res101.mat"
    names = scipy.io.loadmat(file)["image_files"]
    names[3, 0] = np.array(["/home/somebody/images/emu/1.jpg"])
    scipy.io.savemat(file, {"image_files": names})
    with pytest.raises(ValueError, match=r"res101\.mat names /home/somebody/images/emu/1\.jpg, which is no image"):
        run(proposed_split_dir=tmp_path)


@pytest.mark.parametrize(
    "data, changes, message",
    [
        ({"feature_map": MAPS[:-1]}, {}, r"feature_map in .* has 7 rows, but the data set birds has 8 images"),
        ({"feature_map": MAPS.astype(np.uint8)}, {}, "must hold floats, but is of type uint8"),
        ({"feature_map": MAPS[:, :, 0, 0]}, {}, r"shape \(8, 6\): its rows are no maps on a square grid"),
        ({"feature_map": MAPS[:, :, :2]}, {}, r"shape \(8, 6, 2, 3\): its rows are no maps on a square grid"),
        ({"feature_map": MAPS[:, :4].reshape(8, 4, 9)}, {}, r"shape \(8, 4, 9\): its rows may be channels first or"),
        ({"feature_map": MAPS[:, :3]}, {}, r"shape \(8, 3, 3, 3\): its rows may be channels first or last"),
        ({"labels": LABELS[:-1]}, {}, r"labels in .* must hold 8 whole numbers, one a row, but has shape \(7,\)"),
        ({"labels": np.array(LABELS) + 0.5}, {}, r"labels in .* must hold whole numbers, but has 0\.5"),
        ({"labels": np.array(["auk"] * 8, "S")}, {}, r"labels in .* must hold 8 whole numbers, .* type \|S3"),
        ({}, {"map_key": "maps"}, r"no data set 'maps'; it has feature_map, ids, labels"),
        ({}, {"label_key": "y"}, r"no data set 'y'"),
        ({"ids": [*IMAGE_IDS[:-1], 41]}, {"id_key": "ids"}, r"has 1 images that the data set lacks, .* image id 41"),
        ({"ids": [*IMAGE_IDS[:-1], 7]}, {"id_key": "ids"}, r"has images twice and lacks 1 others, .* image id 2\."),
        ({"feature_map": MAPS * 1e6}, {}, r"image id 2 has values that float16 cannot hold"),
    ],
)
def test_files_that_cannot_be_used(run, tmp_path, data, changes, message):
    data = {"feature_map": MAPS, "labels": LABELS, "ids": IMAGE_IDS} | data
    with pytest.raises(ValueError, match=message):
        run(file=write(tmp_path / "other.h5", **data), **changes)


def test_no_hdf5_file(run, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no HDF5 file .*nowhere"):
        run(file=tmp_path / "nowhere.h5")
    (tmp_path / "text.h5").write_text("text")
    with pytest.raises(ValueError, match=r"text\.h5 cannot be read as an HDF5 file"):
        run(file=tmp_path / "text.h5")


def test_damaged_rows_are_named(run, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as content:
        content.create_dataset("feature_map", data=MAPS, chunks=(1, CHANNELS, SIDE, SIDE), compression="gzip")
        content["labels"] = LABELS
        chunk = content["feature_map"].id.get_chunk_info(7)
    with open(tmp_path / "other.h5", "r+b") as damaged:
        damaged.seek(chunk.byte_offset)
        damaged.write(bytes(chunk.size))
    with pytest.raises(ValueError, match=r"feature_map in .*other\.h5 cannot be read from row 2 to 7"):
        run(file=tmp_path / "other.h5")


def test_without_h5py(run, monkeypatch):
    original = builtins.__import__

    def fail(name, *args, **kwargs):
        if name == "h5py":
            raise ModuleNotFoundError("No module named 'h5py'")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(ImportError, match=r"pip install 'dedn-hf\[hdf5\]'"):
        run()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("value, what", [(0, "all zeros"), (np.nan, "not finite"), (np.inf, "not finite")])
def test_rows_that_were_never_written_or_not_well_are_named(run, tmp_path, value, what, channels_last):
    maps = MAPS.astype(np.float32)
    maps[4] = 0 if value == 0 else maps[4]
    maps[4, 1, 2, 0] = value
    maps = np.moveaxis(maps, 1, -1) if channels_last else maps
    file = write(tmp_path / "holes.hdf5", feature_map=maps, labels=np.array(LABELS))
    with pytest.raises(ValueError, match=f"row 4, of the image with id {IMAGE_IDS[4]}, is {what}"):
        run(file=file)
