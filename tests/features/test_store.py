import json
import pickle

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny_extraction import IMAGE_SIZE, NUM_IMAGES, contents

from dedn_hf.features.store import FeatureMapStore, fingerprint_weights


def test_rows_are_in_the_order_of_image_ids(store):
    assert store.image_ids.tolist() == [2, 3, 7, 9, 15, 21, 30, 40]
    assert store.labels.tolist() == [1, 2, 1, 2, 1, 0, 0, 0]
    assert len(store) == NUM_IMAGES
    assert [(shard["file"], shard["rows"]) for shard in store.metadata["shards"]] == [
        ("shard-00000.arrow", 3),
        ("shard-00001.arrow", 3),
        ("shard-00002.arrow", 2),
    ]


def test_select_keeps_the_order_that_is_asked_for(store):
    selected = store.select([21, 2, 40, 2])
    assert selected.image_ids.tolist() == [21, 2, 40, 2]
    assert selected.labels.tolist() == [0, 1, 0, 1]
    assert [selected[i]["labels"] for i in range(len(selected))] == [0, 1, 0, 1]
    assert torch.equal(selected[1]["feature_map"], selected[3]["feature_map"])
    assert not torch.equal(selected[0]["feature_map"], selected[2]["feature_map"])


def test_batches_equal_items(store):
    selected = store.select(store.image_ids)
    indices = [7, 0, 3, 3, 5]
    for item, index in zip(selected.__getitems__(indices), indices, strict=True):
        assert torch.equal(item["feature_map"], selected[index]["feature_map"])
        assert item["labels"] == selected[index]["labels"]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_data_loader(store, num_workers):
    selected = store.select([40, 30, 3])
    loader = torch.utils.data.DataLoader(selected, batch_size=3, num_workers=num_workers)
    (batch,) = loader
    assert batch["feature_map"].shape == (3, *store.shape)
    assert batch["labels"].tolist() == [0, 0, 2]
    assert torch.equal(batch["feature_map"][2], selected[2]["feature_map"])


def test_pickle_reopens_the_files(store):
    selected = store.select([40, 30, 3])
    content = pickle.dumps(selected)
    assert len(content) < 2000
    assert torch.equal(pickle.loads(content)[1]["feature_map"], selected[1]["feature_map"])


def test_items_are_no_views_of_the_file(store):
    selected = store.select([40])
    selected[0]["feature_map"].zero_()
    selected.__getitems__([0])[0]["feature_map"].zero_()
    assert selected[0]["feature_map"].abs().sum() > 0


def test_datasets_reads_a_shard(store):
    shard = Dataset.from_file(str(store.path / "shard-00001.arrow"))
    assert shard["image_id"][:] == [9, 15, 21]
    feature_map = np.frombuffer(shard[2]["feature_map"], np.float16).reshape(store.shape)
    np.testing.assert_array_equal(feature_map, store.select([21])[0]["feature_map"])


def test_unknown_image_ids(store):
    with pytest.raises(ValueError, match=r"no feature maps of 2 of 3 images, .* ids \[1, 41\]"):
        store.select([1, 2, 41])


def test_require(store):
    store.require(dataset="birds", class_names=["auk", "bunting", "crow"], image_size=IMAGE_SIZE)
    with pytest.raises(ValueError, match=r"its dataset is 'birds', where 'cub' .*; its image_size is 64, where 448"):
        store.require(dataset="cub", image_size=448, dtype="float16")
    with pytest.raises(ValueError, match=r"class_names\[1\] is 'bunting', where 'bulbul' is asked for"):
        store.require(class_names=["auk", "bulbul", "crow"])
    store.require(class_names=["Auk", "002.Bunting", "crow"])
    with pytest.raises(ValueError, match=r"class_names\[0\] is 'auk', where 'Bunting' is asked for"):
        store.require(class_names=["Bunting", "Auk", "Crow"])
    with pytest.raises(ValueError, match=r"number of class_names is 3, where 2 is asked for"):
        store.require(class_names=["auk", "bunting"])


def test_altered_shard_is_named_and_can_be_repaired(store, extract):
    expected = contents(store.path)
    file = store.path / "shard-00001.arrow"
    content = bytearray(expected[file.name])
    position = content.index(store.select([15])[0]["feature_map"].numpy().tobytes())
    content[position] ^= 1
    file.write_bytes(content)
    altered = FeatureMapStore(store.path)  # opening does not hash
    for check in (altered.verify, extract):
        with pytest.raises(ValueError, match=r"contents of shard-00001\.arrow differ .*Delete shard-00001\.arrow"):
            check()
    file.unlink()
    (store.path / "store.json").unlink()
    extract()
    assert contents(store.path) == expected


def test_truncated_or_missing_shard_is_named_on_opening(store, extract):
    file = store.path / "shard-00002.arrow"
    content = file.read_bytes()
    file.write_bytes(content[:-10])
    for check in (lambda: FeatureMapStore(store.path), extract):
        with pytest.raises(ValueError, match=r"shard-00002\.arrow has \d+ bytes where store\.json says \d+"):
            check()
    file.unlink()
    with pytest.raises(ValueError, match=r"shard-00002\.arrow is missing"):
        FeatureMapStore(store.path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_rows": 9}, "holds 8 rows where store.json says 9"),
        ({"shape": [1, 1, 1]}, "does not hold the 3 rows of"),
        ({"format_version": 99}, "format 99"),
        ({"dtype": "float32"}, "dtype float32"),
    ],
)
def test_store_json_that_does_not_fit(store, change, message):
    (store.path / "store.json").write_text(json.dumps({**store.metadata, **change}))
    with pytest.raises(ValueError, match=message):
        FeatureMapStore(store.path)


@pytest.mark.parametrize("key", ["backbone", "images_sha256", "shape", "dtype"])
def test_store_json_without_its_record(store, key):
    metadata = {name: value for name, value in store.metadata.items() if name != key}
    (store.path / "store.json").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match=rf"store\.json lacks {key}\."):
        FeatureMapStore(store.path)


def test_shard_of_other_rows_is_named(store):
    """Same size on disk, but no Arrow stream."""
    file = store.path / "shard-00000.arrow"
    file.write_bytes(b"\1" * file.stat().st_size)
    with pytest.raises(ValueError, match=r"shard-00000\.arrow is damaged"):
        FeatureMapStore(store.path)


def test_no_store(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no feature-map store.*`dedn features`"):
        FeatureMapStore(tmp_path)


def test_fingerprint_weights():
    torch.manual_seed(0)
    model = torch.nn.BatchNorm1d(3)
    before = fingerprint_weights(model)
    assert before == fingerprint_weights(torch.nn.BatchNorm1d(3))
    model.running_mean[1] += 1e-6
    assert fingerprint_weights(model) != before
    assert fingerprint_weights(model.to(torch.bfloat16)) != before
