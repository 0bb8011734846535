import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from dedn_hf.training import ClassSubset, PixelValueDataset


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
    with pytest.raises(KeyError):
        ClassSubset(pixel_values, [0, 1])
