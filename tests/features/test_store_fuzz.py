"""Stores and HDF5 files that are not as they should be, in ways that nobody has thought of."""

import io
import json
import shutil
import warnings
from functools import partial

import h5py
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from fuzzing import fuzz, mutate_arrays
from tiny_extraction import IMAGE_IDS, LABELS, NUM_IMAGES, contents

from dedn_hf.features.hdf5 import import_hdf5
from dedn_hf.features.store import FeatureMapStore

MAPS = np.random.default_rng(0).normal(size=(NUM_IMAGES, 3, 2, 2)).astype(np.float32)
NAMES = ["auk", "bunting", "crow"]
# In the default suite, and in the slow tests.
CASES = [150, pytest.param(1500, marks=pytest.mark.slow)]
CASES_HDF5 = [60, pytest.param(500, marks=pytest.mark.slow)]


@pytest.fixture
def dataset():
    features = {"image": Image(), "label": ClassLabel(names=NAMES), "image_id": Value("int64")}
    paths = [f"/images/{i}.jpg" for i in range(NUM_IMAGES)]
    return Dataset.from_dict({"image": paths, "label": LABELS, "image_id": IMAGE_IDS}, Features(features))


def write_hdf5(arrays):
    file = io.BytesIO()
    with h5py.File(file, "w") as content:
        for name, array in arrays.items():
            content[name] = [str(cell) for cell in array.ravel()] if array.dtype.kind in "OU" else array
    return file.getvalue()


def mutate_hdf5(content, draw):
    with h5py.File(io.BytesIO(content)) as file:
        arrays = {name: file[name][()] for name in file}
    return write_hdf5(mutate_arrays(arrays, draw))


@pytest.mark.parametrize("cases", CASES)
def test_mutated_stores(small_shards, dataset, tmp_path, cases):
    """What is wrong is found when the store is opened or verified; else there are the very maps that were stored."""
    folder = tmp_path / "a store"
    (tmp_path / "maps.h5").write_bytes(write_hdf5({"maps": MAPS, "labels": np.array(LABELS)}))
    import_hdf5(tmp_path / "maps.h5", "maps", "labels", dataset, folder, "birds")
    right = {
        image_id: (label, MAPS[row].astype(np.float16)) for row, (image_id, label) in enumerate(zip(IMAGE_IDS, LABELS))
    }

    def read():
        store = FeatureMapStore(folder)
        store.require(dataset="birds", class_names=NAMES, shape=[3, 2, 2])
        store.verify()
        examples = store.select(sorted(IMAGE_IDS))
        for image_id, label, item in zip(
            examples.image_ids, examples.labels, examples.__getitems__(range(len(examples)))
        ):
            assert label == right[image_id][0]
            np.testing.assert_array_equal(item["feature_map"].numpy(), right[image_id][1])

    print(fuzz(folder, read, cases))


@pytest.mark.parametrize("cases", CASES)
def test_mutated_stores_that_are_gone_on_with(small_shards, dataset, tmp_path, cases):
    """A run that goes on with a damaged store without a store.json makes it whole, or says what is wrong."""
    folder, file = tmp_path / "a store", tmp_path / "maps.h5"
    file.write_bytes(write_hdf5({"maps": MAPS, "labels": np.array(LABELS)}))
    import_hdf5(file, "maps", "labels", dataset, folder, "birds")
    whole = contents(folder)
    (folder / "store.json").unlink()

    def read():
        import_hdf5(file, "maps", "labels", dataset, folder, "birds")
        there = contents(folder)
        for name in whole:
            if name.endswith(".arrow"):
                assert there[name] == whole[name]
            elif "shard" in name:
                assert json.loads(there[name]) == json.loads(whole[name])

    print(fuzz(folder, read, cases // 3))


@pytest.mark.parametrize("cases", CASES_HDF5)
def test_mutated_hdf5_files(small_shards, dataset, tmp_path, cases):
    folder, store = tmp_path / "files", tmp_path / "store"
    folder.mkdir()
    arrays = {"maps": MAPS, "labels": np.array(LABELS), "ids": np.array(IMAGE_IDS)}
    (folder / "maps.h5").write_bytes(write_hdf5(arrays))

    def read():
        shutil.rmtree(store, ignore_errors=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = import_hdf5(folder / "maps.h5", "maps", "labels", dataset, store, "birds", id_key="ids")
        assert made.image_ids.tolist() == sorted(IMAGE_IDS) and np.isfinite(made[0]).all()

    print(fuzz(folder, read, cases, {".h5": mutate_hdf5}, naming="image id"))


@pytest.fixture
def whole_store(small_shards, dataset, tmp_path):
    (tmp_path / "maps.h5").write_bytes(write_hdf5({"maps": MAPS, "labels": np.array(LABELS)}))
    run = partial(import_hdf5, tmp_path / "maps.h5", "maps", "labels", dataset, tmp_path / "store", "birds")
    run()
    return tmp_path / "store", run


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shards": 3}, "shards cannot be"),
        ({"shards": [{"file": ["a"]}]}, "shards cannot be"),
        ({"shards": [{"file": "../a.arrow", "rows": 1, "bytes": 1, "sha256": ""}]}, "shards cannot be"),
        ({"shape": [3, 2]}, "shape cannot be"),
        ({"num_rows": "8", "skipped": [3]}, "num_rows, skipped cannot be"),
        ({"class_names": ["auk"]}, "labels that are none of its class_names"),
    ],
)
def test_store_json_with_entries_that_cannot_be(whole_store, changes, message):
    file = whole_store[0] / "store.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(ValueError, match=message):
        FeatureMapStore(whole_store[0])


@pytest.mark.parametrize("name", ["store.json", "request.json"])
@pytest.mark.parametrize("content", [b'{"a": ', b"\xff", b"[]"])
def test_damaged_json_is_named(whole_store, name, content):
    folder, run = whole_store
    if name == "request.json":
        (folder / "store.json").unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} (is damaged, or no JSON|must hold names and values)"):
        run()


@pytest.mark.parametrize("changes", [{"file": 0.5}, {"file": "shard-00000.arrow"}, {"rows": 1}, {"skipped": [{}]}])
def test_shard_whose_description_is_damaged_is_made_again(whole_store, changes):
    folder, run = whole_store
    before, file = contents(folder), folder / "shard-00001.json"
    (folder / "store.json").unlink()
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    run()
    assert contents(folder) == before


def test_hdf5_file_with_a_damaged_table_of_contents(whole_store, tmp_path):
    file = tmp_path / "maps.h5"
    file.write_bytes(file.read_bytes().replace(b"SNOD", b"SNOT"))
    with pytest.raises(ValueError, match=r"maps\.h5 is damaged: .*symbol table"):
        whole_store[1]()
