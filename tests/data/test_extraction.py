import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image
from tiny_extraction import GRID, IMAGE_SIZE, MEAN, NUM_IMAGES, STD, contents
from transformers import CLIPImageProcessor

from dedn_hf.data import extraction
from dedn_hf.data.feature_maps import fingerprint_weights
from dedn_hf.modeling_dedn import backbone_feature_map, load_backbone


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


def test_unreadable_image_is_named(extract, dataset, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    paths = [row["path"] for row in dataset.cast_column("image", ImageFeature(decode=False))["image"]]
    broken = Dataset.from_dict({**dataset[:], "image": [*paths[:-1], str(tmp_path / "broken.jpg")]}, dataset.features)
    with pytest.raises(ValueError, match=r"The image .*broken\.jpg cannot be read"):
        extract(dataset=broken)


def test_overflow_of_float16_is_refused(extract, monkeypatch):
    monkeypatch.setattr(extraction, "backbone_feature_map", lambda *args: backbone_feature_map(*args) + 1e6)
    with pytest.raises(ValueError, match=r"image id 2 has values that float16 cannot hold"):
        extract()


def test_workers_give_the_same_store(extract, store, tmp_path):
    other = extract(tmp_path / "other", num_workers=1)
    assert contents(other.path) == contents(store.path)
