import datasets
import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_training import TinyFeatureMaps, make_tiny_arguments, make_tiny_inputs
from transformers import CLIPImageProcessorPil, ResNetConfig, ResNetModel

from dedn_hf.features.extraction import extract_feature_maps
from dedn_hf.features.hdf5 import import_hdf5
from dedn_hf.features.store import FeatureMapStore
from dedn_hf.training.inputs import prepare_inputs
from dedn_hf.training.protocol import build_model, run_protocol

IMAGE_SIZE, GRID, CHANNELS = 64, 8, 16


def save_backbone(folder, seed):
    torch.manual_seed(seed)
    ResNetModel(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, CHANNELS], depths=[1, 1], layer_type="basic")
    ).save_pretrained(folder)
    CLIPImageProcessorPil(image_mean=[0.4] * 3, image_std=[0.2] * 3).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return save_backbone(tmp_path_factory.mktemp("backbones") / "tiny", 0)


@pytest.fixture
def dataset(tiny_dataset):
    """The tiny data set with images, all of them noise."""
    for split, images in tiny_dataset.splits.items():
        noise = [
            Image.fromarray(np.random.default_rng(image_id).integers(0, 256, (80, 80, 3), np.uint8))
            for image_id in images["image_id"]
        ]
        table = {"image": noise, "label": images["label"][:], "image_id": images["image_id"][:]}
        features = datasets.Features({"image": datasets.Image(), **images.features})
        tiny_dataset.splits[split] = datasets.Dataset.from_dict(table, features)
    return tiny_dataset


def extract(dataset, backbone, folder, splits=("trainval", "test_seen", "test_unseen"), name="folder", **options):
    images = datasets.concatenate_datasets([dataset.splits[split] for split in splits])
    extract_feature_maps(images, backbone, IMAGE_SIZE, folder, name, num_workers=0, **options)
    return str(folder)


def test_stored_feature_maps(dataset, backbone, tmp_path):
    inputs = prepare_inputs(dataset, extract(dataset, backbone, tmp_path / "store"), backbone)
    assert inputs.config["feature_channels"] == CHANNELS and inputs.config["grid_size"] == GRID
    assert inputs.source["backbone"] == "tiny" and inputs.source["image_size"] == IMAGE_SIZE
    images = dataset.splits["test_unseen"].select([3, 0])
    examples = inputs.make(images)
    assert examples.labels.tolist() == images["label"][:]

    # The model with its backbone gives the same from the image as without it from the store.
    model = build_model(dataset, range(10), dataset.unseen_class_ids, **inputs.config).eval()
    with torch.no_grad():
        from_store = model(feature_map=examples[0]["feature_map"][None]).logits
        model.set_backbone(inputs.backbone)
        pixel_values = inputs.image_processor(images[0]["image"], return_tensors="pt")["pixel_values"]
        from_image = model(pixel_values=pixel_values).logits
    torch.testing.assert_close(from_image, from_store, rtol=1e-2, atol=1e-2)


def test_store_that_lacks_test_images_is_refused_at_once(dataset, backbone, tmp_path):
    store = extract(dataset, backbone, tmp_path / "store", splits=("trainval", "test_seen"))
    with pytest.raises(
        ValueError, match=r"no feature maps of 12 of 60 images, such as image id 48, .* into another folder"
    ):
        prepare_inputs(dataset, store)


def change_images(dataset, change):
    """Every split of the data set without what `change` makes nothing of."""
    for name, split in dataset.splits.items():
        rows = [change(row) for row in split.cast_column("image", datasets.Image(decode=False))]
        dataset.splits[name] = datasets.Dataset.from_list([row for row in rows if row], features=split.features)
    return dataset


def test_images_that_changed_since_the_store_was_made(dataset, backbone, tmp_path):
    store = extract(dataset, backbone, tmp_path / "store")
    other = change_images(
        dataset, lambda row: {**row, "image": {"bytes": b"edited"}} if row["image_id"] in (5, 30) else row
    )
    message = r"2 of 60 images have changed since .* image id 5, image id 30\. Run `dedn features` again"
    with pytest.raises(ValueError, match=message):
        prepare_inputs(other, store)
    # Files that are not there do not matter.
    gone = change_images(dataset, lambda row: {**row, "image": {"path": str(tmp_path / "gone.jpg")}})
    prepare_inputs(gone, store)


def test_images_that_are_gone_since_the_store_was_made(dataset, backbone, tmp_path):
    store = extract(dataset, backbone, tmp_path / "store")
    fewer = change_images(dataset, lambda row: None if row["image_id"] in (5, 30) else row)
    message = r"2 of the 60 images that .*store was made of are not in folder any more, such as image id 5 of class 0"
    with pytest.warns(UserWarning, match=message):
        inputs = prepare_inputs(fewer, store)
    assert len(inputs.make(fewer.splits["trainval"])) == 40 - 1
    with pytest.raises(
        ValueError, match=r"folder has no image any more of class 3, of which .*store has feature maps"
    ):
        prepare_inputs(change_images(fewer, lambda row: None if row["label"] == 3 else row), store)


def test_store_of_another_data_set(dataset, backbone, tmp_path):
    store = extract(dataset, backbone, tmp_path / "store", name="others")
    with pytest.raises(ValueError, match="dataset is 'others', where 'folder' is asked for"):
        prepare_inputs(dataset, store)


def test_another_backbone(dataset, backbone, tmp_path):
    store = extract(dataset, backbone, tmp_path / "store")
    with pytest.raises(ValueError, match="backbone_sha256 is"):
        prepare_inputs(dataset, store, save_backbone(tmp_path / "other", 1))


def test_images_without_a_store(dataset):
    with pytest.raises(ValueError, match=r"make them once with `dedn features` .* --feature_maps"):
        prepare_inputs(dataset)


def test_a_backbone_of_the_config_is_trained_with_images(dataset):
    config = {"backbone_config": {"model_type": "resnet"}}
    inputs = prepare_inputs(dataset, config=config)
    item = inputs.make(dataset.splits["train"])[0]
    assert item["pixel_values"].shape == (3, 80, 80) and item["pixel_values"].abs().max() <= 1
    assert inputs.config == config and inputs.backbone is None


def test_images_that_are_not_square(dataset):
    images = dataset.splits["trainval"]
    dataset.splits["trainval"] = images.map(lambda row: {"image": row["image"].resize((80, 60))})
    with pytest.raises(ValueError, match="folder has one of 80 × 60 pixels"):
        prepare_inputs(dataset, config={"backbone_config": {"model_type": "resnet"}})


def test_store_of_an_unknown_backbone(dataset, backbone, tmp_path):
    images = datasets.concatenate_datasets(
        [dataset.splits[split] for split in ("trainval", "test_seen", "test_unseen")]
    )
    items = TinyFeatureMaps(images, dataset.class_attributes).__getitems__(list(range(len(images))))
    with h5py.File(tmp_path / "maps.h5", "w") as content:
        content["maps"] = np.stack([item["feature_map"].float() for item in items])
        content["labels"] = images["label"][:]
    store = str(tmp_path / "store")
    import_hdf5(tmp_path / "maps.h5", "maps", "labels", images, store, "folder")
    inputs = prepare_inputs(dataset, store)
    assert inputs.image_processor is None and inputs.backbone is None
    assert list(inputs.source) == ["hdf5"] and inputs.source["hdf5"]["file"] == "maps.h5"
    with pytest.raises(ValueError, match=r"came from maps\.h5, .* leave --backbone out"):
        prepare_inputs(dataset, store, backbone)

    # Training on it is training on the maps.
    results = run_protocol("reference", dataset, inputs, make_tiny_arguments(tmp_path / "run"), [0])
    inputs = make_tiny_inputs(dataset)
    direct = run_protocol("reference", dataset, inputs, make_tiny_arguments(tmp_path / "direct"), [0])
    assert results["test"] == direct["test"]
    assert results["settings"]["hdf5"]["map_key"] == "maps"
    assert not (tmp_path / "run/preprocessor_config.json").exists()


def test_skipped_images_are_left_out(dataset, backbone, tmp_path):
    broken = dataset.splits["test_unseen"][2]["image_id"]
    for name, split in dataset.splits.items():
        table = split.cast_column("image", datasets.Image(decode=False))[:]
        for image, image_id in zip(table["image"], table["image_id"], strict=True):
            image.update({"bytes": b"no image"} if image_id == broken else {})
        dataset.splits[name] = datasets.Dataset.from_dict(table, split.features)
    store = extract(dataset, backbone, tmp_path / "store", on_error="skip")
    with pytest.warns(UserWarning, match="no feature maps of 1 of 12 images"):
        inputs = prepare_inputs(dataset, store)
    with pytest.warns(UserWarning, match="no feature maps of 1 of 20 images"):  # both test splits together
        results = run_protocol("reference", dataset, inputs, make_tiny_arguments(tmp_path / "run"), [0])
    assert set(results["test"]) >= {"T1", "U", "S", "H"}


def test_training_draws_from_the_views_of_a_store(dataset, backbone, tmp_path):
    store = extract(dataset, backbone, tmp_path / "store", views=3)
    inputs = prepare_inputs(dataset, store, backbone)
    assert inputs.source["views"] == 3
    images = dataset.splits["trainval"]
    stores = [FeatureMapStore(store), *FeatureMapStore(store).views]
    views = [view.select(images["image_id"]) for view in stores]

    def drawn(epoch, indices, seed=0):
        examples = inputs.make_views(images, seed)
        examples.set_epoch(epoch)
        items = examples.__getitems__(indices)
        assert [item["labels"] for item in items] == [images["label"][index] for index in indices]
        maps = [item["feature_map"] for item in items]
        same = [[torch.equal(m, view[index]["feature_map"]) for view in views] for m, index in zip(maps, indices)]
        assert all(sum(row) == 1 for row in same)
        return [row.index(True) for row in same]

    everything = [*range(len(images))]
    first = drawn(0, everything)
    assert set(first) == {0, 1, 2} and drawn(0, everything) == first
    assert drawn(1, everything) != first and drawn(0, everything, seed=1) != first
    assert drawn(0, [3, 1, 3]) == [first[3], first[1], first[3]]
    # Evaluation sees the images themselves.
    assert torch.equal(inputs.make(images)[2]["feature_map"], views[0][2]["feature_map"])


def test_a_view_is_no_store_of_the_images(dataset, backbone, tmp_path):
    store = extract(dataset, backbone, tmp_path / "store", views=2)
    with pytest.raises(ValueError, match=r"its view is \{'number': 1, .*\}, where None is asked for"):
        prepare_inputs(dataset, f"{store}/views/1", backbone)
