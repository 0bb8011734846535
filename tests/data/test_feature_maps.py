import json
import pickle

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from transformers import CLIPImageProcessor, ResNetConfig, ResNetModel

from dedn_hf.data import extraction, store_writer
from dedn_hf.data.extraction import extract_feature_maps
from dedn_hf.data.feature_maps import FeatureMapStore, fingerprint_weights
from dedn_hf.modeling_dedn import backbone_feature_map, load_backbone

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
IMAGE_SIZE, GRID = 64, 8
NUM_IMAGES, SHARD_ROWS = 8, 3


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbone") / "tiny_resnet"
    torch.manual_seed(0)
    ResNetModel(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ).save_pretrained(folder)
    CLIPImageProcessor(image_mean=MEAN, image_std=STD, size={"shortest_edge": 999}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Eight images of different shapes, one of them grey, with ids that are neither contiguous nor in order."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    paths = []
    for i in range(NUM_IMAGES):
        shape = (70 + 9 * i, 130 - 7 * i) if i == 5 else (70 + 9 * i, 130 - 7 * i, 3)
        paths.append(str(folder / f"{i}.jpg"))
        Image.fromarray(generator.integers(0, 256, shape, np.uint8)).save(paths[-1], format="PNG")
    return Dataset.from_dict(
        {"image": paths, "label": [i % 3 for i in range(NUM_IMAGES)], "image_id": [40, 7, 3, 21, 15, 9, 30, 2]},
        features=Features(
            {
                "image": ImageFeature(),
                "label": ClassLabel(names=["auk", "bunting", "crow"]),
                "image_id": Value("int64"),
            }
        ),
    )


@pytest.fixture
def extract(dataset, backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(store_writer, "SHARD_ROWS", SHARD_ROWS)
    monkeypatch.setattr(store_writer, "RECORD_BATCH_ROWS", 2)

    def run(output_dir=tmp_path / "store", **changes):
        arguments = {"dataset": dataset, "backbone": backbone, "image_size": IMAGE_SIZE, "dataset_name": "birds"}
        return extract_feature_maps(
            **{**arguments, "batch_size": 2, "num_workers": 0, **changes}, output_dir=output_dir
        )

    return run


@pytest.fixture
def store(extract):
    return extract()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def fail_if_run(*args, **kwargs):
    raise AssertionError("computed again")


def test_values_are_the_backbones_rounded_to_float16(store, dataset, backbone):
    """Against resizing, cropping and normalising with PIL and NumPy alone."""
    model = load_backbone(backbone)
    assert store.shape[1:] == (GRID, GRID)
    for row in dataset:
        image = row["image"].convert("RGB")
        scale = IMAGE_SIZE / min(image.size)
        image = image.resize([int(side * scale) for side in image.size], Image.Resampling.BILINEAR)
        left, top = ((side - IMAGE_SIZE) // 2 for side in image.size)
        pixels = np.asarray(image.crop((left, top, left + IMAGE_SIZE, top + IMAGE_SIZE)), np.float32) / 255
        pixels = torch.from_numpy((pixels - np.float32(MEAN)) / np.float32(STD)).permute(2, 0, 1)[None]
        with torch.inference_mode():
            expected = backbone_feature_map(model, pixels)[0]
        item = store.select([row["image_id"]])[0]
        assert item["feature_map"].dtype == torch.float16
        # Half a unit in the last place of float16, and the order in which float32 sums are taken.
        torch.testing.assert_close(item["feature_map"].float(), expected, rtol=2**-11 + 1e-5, atol=1e-4)
        assert expected.std() > 0.01
        assert item["labels"] == row["label"]


def test_rows_are_in_the_order_of_image_ids(store):
    assert store.image_ids.tolist() == [2, 3, 7, 9, 15, 21, 30, 40]
    assert store.labels.tolist() == [1, 2, 1, 2, 1, 0, 0, 0]
    assert len(store) == NUM_IMAGES
    assert [(shard["file"], shard["rows"]) for shard in store.metadata["shards"]] == [
        ("shard-00000.arrow", 3),
        ("shard-00001.arrow", 3),
        ("shard-00002.arrow", 2),
    ]


def test_what_the_store_records(store, backbone):
    metadata = store.metadata
    assert metadata["dataset"] == "birds"
    assert metadata["class_names"] == ["auk", "bunting", "crow"]
    assert metadata["backbone"] == "tiny_resnet"
    assert metadata["backbone_sha256"] == fingerprint_weights(load_backbone(backbone))
    assert (metadata["image_size"], metadata["dtype"], metadata["num_rows"]) == (IMAGE_SIZE, "float16", NUM_IMAGES)
    assert (metadata["processor"]["image_mean"], metadata["processor"]["image_std"]) == (MEAN, STD)
    assert metadata["processor"]["size"] == {"shortest_edge": IMAGE_SIZE}
    assert tuple(metadata["shape"]) == store.shape


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
    with pytest.raises(ValueError, match=r"number of class_names is 3, where 2 is asked for"):
        store.require(class_names=["auk", "bunting"])


def test_finished_store_is_not_computed_again(store, extract, monkeypatch):
    before = contents(store.path)
    monkeypatch.setattr(extraction, "_PixelValues", fail_if_run)
    assert extract().metadata == store.metadata
    assert contents(store.path) == before


@pytest.mark.parametrize("finished", [True, False])
def test_other_request_is_refused(extract, backbone, dataset, tmp_path, finished):
    folder = extract().path
    if not finished:
        (folder / "store.json").unlink()
        (folder / "shard-00002.json").unlink()
    before = contents(folder)
    with pytest.raises(ValueError, match=r"its image_size is 64, where 96 is asked for"):
        extract(image_size=96)
    with pytest.raises(ValueError, match=r"its dataset is 'birds', where 'cub' is asked for"):
        extract(dataset_name="cub")
    with pytest.raises(ValueError, match=r"its num_rows is 8, where 7 is asked for; its images_sha256 is"):
        extract(dataset=dataset.select(range(7)))
    other = tmp_path / "tiny_resnet"
    model = load_backbone(backbone)
    with torch.no_grad():
        next(model.parameters())[0] += 1
    model.save_pretrained(other)
    CLIPImageProcessor(image_mean=[0, 0, 0], image_std=STD).save_pretrained(other)
    message = (
        r"backbone_sha256 is '\w+', where '\w+' .*processor is {'image_mean': \[0\.4.*where {'image_mean': \[0, 0"
    )
    with pytest.raises(ValueError, match=message):
        extract(backbone=str(other))
    assert contents(folder) == before


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


def test_shard_of_other_rows_is_named(store):
    """Same size on disk, but no Arrow stream."""
    file = store.path / "shard-00000.arrow"
    file.write_bytes(b"\1" * file.stat().st_size)
    with pytest.raises(ValueError, match=r"shard-00000\.arrow is damaged"):
        FeatureMapStore(store.path)


def test_no_store(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no feature-map store.*extract_features\.py"):
        FeatureMapStore(tmp_path)


def test_other_folder_is_left_alone(extract, tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("text")
    with pytest.raises(ValueError, match=r"is no feature-map store, but holds chapter\.txt"):
        extract(folder)
    assert contents(folder) == {"chapter.txt": b"text"}


def test_unreadable_image_is_named(extract, dataset, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    paths = [row["path"] for row in dataset.cast_column("image", ImageFeature(decode=False))["image"]]
    broken = Dataset.from_dict({**dataset[:], "image": [*paths[:-1], str(tmp_path / "broken.jpg")]}, dataset.features)
    with pytest.raises(ValueError, match=r"The image .*broken\.jpg cannot be read"):
        extract(dataset=broken)


def test_repeated_image_id(extract, dataset):
    twice = Dataset.from_dict({**dataset[:], "image_id": [1, 2, 3, 4, 5, 6, 7, 2]}, dataset.features)
    with pytest.raises(ValueError, match="`image_id` must be unique, but 2 is there twice"):
        extract(dataset=twice)


def test_overflow_of_float16_is_refused(extract, monkeypatch):
    monkeypatch.setattr(extraction, "backbone_feature_map", lambda *args: backbone_feature_map(*args) + 1e6)
    with pytest.raises(ValueError, match=r"image id 2 has values that float16 cannot hold"):
        extract()


def test_workers_give_the_same_store(extract, store, tmp_path):
    other = extract(tmp_path / "other", num_workers=1)
    assert contents(other.path) == contents(store.path)


def test_fingerprint_weights():
    torch.manual_seed(0)
    model = torch.nn.BatchNorm1d(3)
    before = fingerprint_weights(model)
    assert before == fingerprint_weights(torch.nn.BatchNorm1d(3))
    model.running_mean[1] += 1e-6
    assert fingerprint_weights(model) != before
    assert fingerprint_weights(model.to(torch.bfloat16)) != before
