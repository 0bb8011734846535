import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import make_tiny_config
from transformers import CLIPImageProcessorPil

from dedn_hf.training import ClassSubset, PixelValueDataset, RandomCrop
from dedn_hf.training.dataset import check_dataset, read_labels


@pytest.fixture
def pixel_values():
    """Four images of one colour, the last one grey."""
    images = [Image.new("RGB", (9, 7), (60 * i, 0, 0)) for i in range(3)] + [Image.new("L", (7, 9), 255)]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["auk", "crow", "owl"]),
            "image_id": datasets.Value("int64"),
        }
    )
    table = datasets.Dataset.from_dict({"image": images, "label": [2, 0, 2, 1], "image_id": [5, 6, 7, 9]}, features)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 4}, crop_size=4, image_mean=[0.0] * 3, image_std=[1.0] * 3, do_convert_rgb=False
    )
    return PixelValueDataset(table, processor)


def test_items_are_preprocessed_images(pixel_values):
    assert len(pixel_values) == 4
    assert pixel_values.labels.tolist() == [2, 0, 2, 1] and pixel_values.image_ids.tolist() == [5, 6, 7, 9]
    item = pixel_values[1]
    assert item["labels"] == 0 and item["pixel_values"].shape == (3, 4, 4)
    torch.testing.assert_close(item["pixel_values"][0], torch.full((4, 4), 60 / 255))


def test_a_batch_is_its_items_in_order(pixel_values):
    batch = pixel_values.__getitems__([3, 0, 2])
    assert [item["labels"] for item in batch] == [1, 2, 2]
    for item, index in zip(batch, [3, 0, 2]):
        torch.testing.assert_close(item["pixel_values"], pixel_values[index]["pixel_values"], rtol=0, atol=0)
    assert batch[0]["pixel_values"].min() == 1  # grey became white in all three channels


def test_labels_of_a_subset_of_classes(pixel_values):
    subset = ClassSubset(pixel_values, [2, 1, 0])
    assert subset.labels.tolist() == [0, 2, 0, 1]
    assert [item["labels"] for item in subset.__getitems__([3, 1])] == [1, 2]
    torch.testing.assert_close(subset[3]["pixel_values"], pixel_values[3]["pixel_values"])
    assert np.issubdtype(subset.labels.dtype, np.integer)


def test_class_outside_of_the_subset(pixel_values):
    with pytest.raises(ValueError, match=r"images of classes \[2\], which are not among the given 2"):
        ClassSubset(pixel_values, [0, 1])


def labelled(labels, column="label", feature=None):
    features = datasets.Features({column: feature}) if feature else None
    return datasets.Dataset.from_dict({column: labels}, features=features)


@pytest.mark.parametrize(
    "dataset",
    [
        labelled([2, 0, 1]),
        labelled([2, 0, 1], "labels"),
        labelled([2, 0, 1], "label").add_column("other", ["a", "b", "c"]),
        labelled([0, 0, 0], "label").add_column("labels", [2, 0, 1]),
        labelled([2, 0, 1], feature=datasets.ClassLabel(names=["auk", "crow", "owl"])),
        labelled([2, 0, 1], feature=datasets.Value("int32")).with_format("torch"),
        labelled([[2], [0], [1]]),
        labelled([2, 0, 1]).with_transform(lambda batch: pytest.fail("the images were read")),
        torch.utils.data.Subset(labelled([1, 2, 0, 1]), [1, 2, 3]),
        torch.utils.data.ConcatDataset([labelled([2]), labelled([0, 1], "labels")]),
    ],
)
def test_labels_are_read_from_any_kind_of_data_set(dataset):
    assert read_labels(dataset).tolist() == [2, 0, 1]


def test_labels_of_a_torch_data_set(pixel_values):
    assert read_labels(pixel_values).tolist() == [2, 0, 2, 1]
    assert read_labels(torch.utils.data.Subset(pixel_values, [3, 0])).tolist() == [1, 2]


def test_data_set_that_does_not_say_its_labels(pixel_values):
    assert read_labels(labelled([0, 1], "class_id")) is None
    assert read_labels([{"labels": 0}]) is None
    assert read_labels(torch.utils.data.ConcatDataset([pixel_values, labelled([0], "class_id")])) is None
    # Names of classes, as some have them there.
    pixel_values.labels = ["auk", "crow", "owl"]
    assert read_labels(pixel_values) is None


@pytest.mark.parametrize(
    "wrap",
    [
        lambda dataset: dataset,
        lambda dataset: torch.utils.data.Subset(dataset, [0]),
        lambda dataset: torch.utils.data.ConcatDataset([dataset, dataset]),
        lambda dataset: dataset.to_iterable_dataset(),
    ],
    ids=["itself", "Subset", "ConcatDataset", "iterable"],
)
def test_names_of_classes_in_another_order(wrap):
    maps = datasets.Dataset.from_dict({"feature_map": [[0.0]] * 2, "label": [0, 1]})
    config = make_tiny_config()  # jay, wren, owl, swift, crow
    for names in (["jay", "wren"], ["pigeon", "wren"], ["pigeon", "jackdaw"]):
        check_dataset(wrap(maps.cast_column("label", datasets.ClassLabel(names=names))), "training", config)
    with pytest.raises(ValueError, match="column `label`, 'wren' is 0, but for the model it is 1"):
        check_dataset(wrap(maps.cast_column("label", datasets.ClassLabel(names=["wren", "jay"]))), "training", config)


def test_names_of_classes_in_another_order_that_are_written_otherwise():
    maps = datasets.Dataset.from_dict({"feature_map": [[0.0]] * 2, "label": [0, 1]})
    official = ["001.Auk", "002.Brandt_Cormorant", "003.Owl", "004.Swift", "005.Crow"]
    config = make_tiny_config(id2label=dict(enumerate(official)))
    names = ["Auk", "Brandt's Cormorant", "owl"]
    check_dataset(maps.cast_column("label", datasets.ClassLabel(names=names)), "training", config)
    with pytest.raises(ValueError, match=r"'owl' is 0, but for the model it is 2: .* with the model's names in `Cla"):
        check_dataset(maps.cast_column("label", datasets.ClassLabel(names=names[::-1])), "training", config)


def test_labels_that_a_transform_makes_are_not_guessed_at():
    maps = datasets.Dataset.from_dict({"image": [0] * 2, "label": [70, 80]})
    transformed = maps.with_transform(lambda batch: pytest.fail("it was read"))
    for dataset in (transformed, torch.utils.data.Subset(transformed, [1])):
        check_dataset(dataset, "training", make_tiny_config())
    with pytest.raises(ValueError, match="training set has labels 70, 80, but the model has 5 classes"):
        check_dataset(maps.rename_column("image", "feature_map"), "training", make_tiny_config())


@pytest.fixture
def cropped(pixel_values):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))
    features = {"image": datasets.Image(), "label": datasets.Value("int64"), "image_id": datasets.Value("int64")}
    table = datasets.Dataset.from_dict(
        {"image": [noise] * 3, "label": [0, 1, 0], "image_id": [5, 6, 7]}, datasets.Features(features)
    )
    return PixelValueDataset(table, pixel_values.image_processor, random_crop=RandomCrop(0.3))


def test_a_data_set_with_random_crops(cropped):
    subset = ClassSubset(cropped, [1, 0])

    def read(indices, epoch):
        subset.set_epoch(epoch)
        return [item["pixel_values"] for item in subset.__getitems__(indices)]

    first, later = read([0, 1, 2], 0), read([0, 1, 2], 4)
    assert all(values.shape == (3, 4, 4) for values in first)
    assert not any(torch.equal(*pair) for pair in zip(first, later))
    # In whatever order, alone or together, and in workers.
    torch.testing.assert_close(read([2, 0], 0), [first[2], first[0]], rtol=0, atol=0)
    loader = torch.utils.data.DataLoader(subset, batch_size=1, num_workers=2, persistent_workers=True)
    for epoch, expected in ((0, first), (4, later), (0, first)):
        subset.set_epoch(epoch)
        found = [batch["pixel_values"][0] for batch in loader]
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_without_random_crops_an_epoch_changes_nothing(pixel_values):
    before = pixel_values[1]["pixel_values"]
    subset = ClassSubset(pixel_values, [0, 1, 2])
    subset.set_epoch(3)
    assert torch.equal(subset[1]["pixel_values"], before)


def test_random_crops_cannot_be_kept(cropped):
    images = cropped.images.add_column("label", [0, 1, 0]).add_column("image_id", [-5, 6, 7])
    with pytest.raises(ValueError, match="leave `keep_in_memory` out"):
        PixelValueDataset(images, cropped.image_processor, keep_in_memory=True, random_crop=RandomCrop(0.3))
    with pytest.raises(ValueError, match="must be 0 or more, but there is -5"):
        PixelValueDataset(images, cropped.image_processor, random_crop=RandomCrop(0.3))
