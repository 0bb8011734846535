import math
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from real_data import DATA_DIR
from tiny_model import make_tiny_config
from transformers import CLIPImageProcessorPil

from dedn_hf.data import GzslDataset
from dedn_hf.data.cub import ATTRIBUTE_PARTS
from dedn_hf.data.cub import load as load_cub
from dedn_hf.data.synthetic_birds import ATTRIBUTE_NAMES, PART_NAMES
from dedn_hf.evaluation.localisation import AttributeLocalisation, attribute_parts, image_sizes
from dedn_hf.images_dedn import crop_in_image


def make_localisation(points, parts, grid_size=3, boxes=None, has_attribute=None, **groups):
    """Of images of 30 × 30 pixels that the model sees whole: a cell of a grid of 3 is 10 pixels wide."""
    points, num_images = np.array(points, dtype=float), len(points)
    if has_attribute is None:
        has_attribute = np.ones((num_images, len(parts)), dtype=bool)
    config = make_tiny_config(
        grid_size=grid_size,
        attribute_names=[f"attribute {index}" for index in range(len(parts))],
        attribute_groups=groups or {"every": list(range(len(parts)))},
    )
    boxes = np.array([[0, 0, 30, 30]] * num_images if boxes is None else boxes, dtype=float)
    crops = np.array([[0.0, 0, 30, 30]] * num_images)
    return AttributeLocalisation(parts, points, boxes, crops, has_attribute, config)


def peaks(*cells, grid_size=3):
    """Attention `(1, A, H, W)` of one image, with the peak of each attribute in a cell or spread over several."""
    attention = torch.full((1, len(cells), grid_size**2), 0.01)
    for attribute, of_attribute in enumerate(cells):
        attention[0, attribute, of_attribute] = 0.5
    return attention.unflatten(2, (grid_size, grid_size))


def looks(coarse, fine, share=0.5):
    """What a model gives, with the coarse expert's share in the mix."""
    return {"coarse": coarse, "fine": fine, "mixed": share * coarse + (1 - share) * fine}


def test_hits_worked_by_hand():
    # Two parts: one in the cell at the upper left (0), one at the lower right (8).
    localisation = make_localisation([[[5, 5, 1], [25, 29, 1]]], parts=[[0], [1], [0, 1], []], grid_size=3)
    coarse = peaks(0, 7, 8, 4)  # on the part; beside it; on one of two; of the whole body
    fine = peaks(8, 8, [0, 1], [2, 6])  # far off; on it; one of two tied cells on it; in two corners
    localisation.add(slice(0, 1), looks(coarse, fine))
    figures = localisation.figures()
    part, near = figures["part"]["all"], figures["part_within_one_cell"]["all"]
    # Attributes 0 to 2; the last one names no part.
    assert part["coarse"] == pytest.approx(100 * (1 + 0 + 1) / 3)
    assert part["fine"] == pytest.approx(100 * (0 + 1 + 1 / 2) / 3)
    assert near["coarse"] == pytest.approx(100 * (1 + 1 + 1) / 3)
    # Cells 0 and 1 are both on or beside the part in cell 0.
    assert near["fine"] == pytest.approx(100 * (0 + 1 + 1) / 3)
    # Of nine cells, one has each part, and four have it or are beside it; for the two parts together, 2 and 7.
    assert part["uniform"] == pytest.approx(100 * (1 + 1 + 2) / 9 / 3)
    assert near["uniform"] == pytest.approx(100 * (4 + 4 + 7) / 9 / 3)
    assert part["centre"] == 0 and near["centre"] == pytest.approx(100)
    assert part["attributes"] == near["attributes"] == 3 and figures["box"]["all"]["attributes"] == 4


def test_box_worked_by_hand():
    # Of the cells' centres at 5, 15 and 25, the box has those of the two cells 1 and 2.
    localisation = make_localisation([[[5, 5, 0]]] * 2, parts=[[0]], boxes=[[14, 2, 12, 4], [0, 0, 4, 30]])
    localisation.add(slice(0, 2), looks(torch.cat([peaks([0, 1]), peaks(4)]), torch.cat([peaks([0, 1]), peaks(4)])))
    figures = localisation.figures()
    # Half a hit, and a miss.
    assert figures["box"]["all"]["coarse"] == pytest.approx(100 * (1 / 2 + 0) / 2)
    assert figures["box"]["all"]["uniform"] == pytest.approx(100 * (2 / 9 + 0) / 2)
    assert figures["box"]["all"]["centre"] == 0
    # The part is visible in none of them.
    assert figures["part"]["all"]["coarse"] is None and figures["part"]["all"]["attributes"] == 0


def test_images_are_averaged_per_attribute_and_then_attributes():
    points = [[[5, 5, 1], [25, 25, 1]]] * 4
    has_attribute = np.array([[True, True], [True, False], [True, False], [False, False]])
    localisation = make_localisation(points, parts=[[0], [1]], has_attribute=has_attribute, left=[0], right=[1])
    on, off = peaks(0, 8), peaks(3, 3)
    # In two steps; the last image is of neither attribute, and its perfect attention counts for nothing.
    localisation.add(slice(0, 3), looks(torch.cat([on, off, off]), torch.cat([off, on, off]), 0.9))
    localisation.add(slice(3, 4), looks(on, on))
    part = localisation.figures()["part"]
    assert part["left"]["coarse"] == pytest.approx(100 / 3) and part["left"]["images"] == 3
    assert part["right"]["coarse"] == 100 and part["right"]["images"] == 1
    assert part["all"]["coarse"] == pytest.approx(100 * (1 / 3 + 1) / 2) and part["all"]["images"] == 2
    assert part["all"]["fine"] == pytest.approx(100 * (1 / 3 + 0) / 2)
    # With nine tenths of the coarse expert's attention the peak is its own.
    assert part["all"]["mixed"] == part["all"]["coarse"]


def test_hidden_parts_and_those_outside_of_the_crop_are_left_out():
    inside, hidden, left, below = [5, 5, 1], [5, 5, 0], [-0.1, 5, 1], [5, 30, 1]
    localisation = make_localisation([[point] for point in (inside, hidden, left, below)], parts=[[0]])
    localisation.add(slice(0, 4), looks(torch.cat([peaks(0)] * 4), torch.cat([peaks(0)] * 4)))
    part = localisation.figures()["part"]["all"]
    assert part["images"] == 1 and part["coarse"] == 100
    # Of a pair of parts the visible one is enough.
    localisation = make_localisation([[hidden, [15, 15, 1]]], parts=[[0, 1]])
    localisation.add(slice(0, 1), looks(peaks(4), peaks(0)))
    part = localisation.figures()["part"]["all"]
    assert (part["coarse"], part["fine"]) == (100, 0)


@pytest.mark.parametrize("grid_size", [2, 3, 4, 7])
def test_uniform_attention_is_the_uniform_baseline_and_the_centre_the_middle(grid_size):
    generator = np.random.default_rng(grid_size)
    points = np.concatenate([generator.uniform(0, 30, (60, 2, 2)), generator.random((60, 2, 1)) < 0.8], axis=2)
    boxes = np.column_stack([generator.uniform(0, 15, (60, 2)), generator.uniform(2, 15, (60, 2))])
    localisation = make_localisation(points, [[0], [1], [0, 1], []], grid_size, boxes)
    uniform = torch.full((60, 4, grid_size, grid_size), 1 / grid_size**2)
    middle = torch.zeros(60, 4, grid_size, grid_size)
    low, high = math.ceil(grid_size / 2) - 1, grid_size // 2 + 1
    middle[:, :, low:high, low:high] = 1
    localisation.add(slice(0, 60), looks(uniform, middle))
    for measure, groups in localisation.figures().items():
        figures = groups["all"]
        assert figures["coarse"] == pytest.approx(figures["uniform"]), measure
        assert figures["fine"] == pytest.approx(figures["centre"]), measure
        assert figures["uniform"] != pytest.approx(figures["centre"]) or grid_size == 2


@pytest.mark.parametrize("size", [(90, 61), (61, 90), (48, 48), (200, 30)])
def test_a_point_lies_in_the_cell_where_the_image_processor_shows_it(size):
    processor = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size=24, resample=2)
    left, top, right, bottom = crop_in_image(processor, *size)
    for x_share, y_share in ((0.5, 0.5), (0.2, 0.85), (0.9, 0.15)):
        x, y = left + x_share * (right - left), top + y_share * (bottom - top)
        image = Image.new("RGB", size)
        image.paste((255, 255, 255), (round(x) - 2, round(y) - 2, round(x) + 2, round(y) + 2))
        seen = processor(image, return_tensors="pt", do_normalize=False)["pixel_values"].mean(dim=1, keepdim=True)
        attention = F.avg_pool2d(seen, 8)
        localisation = AttributeLocalisation(
            [[0]],
            np.array([[[x, y, 1.0]]]),
            np.array([[0.0, 0, *size]]),
            np.array([[left, top, right, bottom]]),
            np.ones((1, 1), dtype=bool),
            make_tiny_config(grid_size=3, attribute_names=["a"], attribute_groups={"a": [0]}),
        )
        localisation.add(slice(0, 1), looks(attention, attention.flip(2, 3)))
        part = localisation.figures()["part"]["all"]
        assert part["coarse"] == 100 and (part["fine"] == 0 or x_share == 0.5)


def test_sizes_are_read_without_decoding(tmp_path, monkeypatch):
    sizes = [(40, 30), (7, 100), (64, 64)]
    for index, size in enumerate(sizes):
        Image.new("RGB", size).save(tmp_path / f"{index}.jpg")
    paths = [str(tmp_path / f"{index}.jpg") for index in range(3)]
    stored = [{"bytes": Path(path).read_bytes(), "path": None} for path in paths]
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    for images in (paths, stored):
        dataset = datasets.Dataset.from_dict(
            {"image": images, "label": range(3)},
            features=datasets.Features(image=datasets.Image(), label=datasets.Value("int64")),
        )
        np.testing.assert_array_equal(image_sizes(dataset), sizes)


def make_dataset(attribute_names, part_names, attribute_parts):
    return GzslDataset(
        name="birds",
        splits=datasets.DatasetDict(),
        class_names=[],
        attribute_names=attribute_names,
        attribute_groups={},
        class_attributes=np.zeros((0, len(attribute_names))),
        seen_class_ids=[],
        validation_class_ids=[],
        split_name="",
        split_sha256="",
        part_names=part_names,
        attribute_parts=attribute_parts,
    )


def test_parts_that_attributes_name():
    names = [
        "has_wing_color::blue",
        "has_upper_tail_color::red",
        "has_bill_length::longer_than_head",
        "has_size::small",
    ]
    names += ["has_primary_color::red", "has_shape::duck-like", "has_under_tail_color::red", "man-made"]
    parts = ["beak", "left wing", "right wing", "tail"]
    assert attribute_parts(make_dataset(names, parts, ATTRIBUTE_PARTS)) == [[1, 2], [3], [0], [], [], [], [3], []]
    assert attribute_parts(make_dataset(names, [], {})) == [[]] * 8


def test_every_attribute_of_the_birds_names_a_part_or_the_whole_body():
    birds = make_dataset(ATTRIBUTE_NAMES, PART_NAMES, {part: (part,) for part in PART_NAMES})
    parts = dict(zip(birds.attribute_names, attribute_parts(birds)))
    assert sum(len(of_attribute) == 1 for of_attribute in parts.values()) == 57
    assert {name.split("::")[0] for name, of_attribute in parts.items() if not of_attribute} == {
        "has_size",
        "has_shape",
    }
    assert [birds.part_names[index] for index in parts["has_bill_color::red"]] == ["bill"]


@pytest.mark.real_data
@pytest.mark.skipif(
    not (DATA_DIR / "CUB_200_2011").is_dir(),
    reason=f"no CUB_200_2011 in {DATA_DIR}: set DEDN_DATA_DIR to the folder that holds it",
)
def test_real_cub():
    dataset = load_cub(DATA_DIR)
    parts = dict(zip(dataset.attribute_names, attribute_parts(dataset)))
    nameless = {name.split("::")[0] for name, of_attribute in parts.items() if not of_attribute}
    assert nameless == {"has_size", "has_shape", "has_primary_color"}
    # Every part is named by some attribute, and points are in their images and mostly in the crop.
    assert {index for of_attribute in parts.values() for index in of_attribute} == set(range(15))
    images = dataset.splits["test_unseen"].select(range(0, 2967, 20))
    sizes, points = image_sizes(images), np.array(images["part_points"])
    visible = points[..., 2] > 0
    assert ((points[..., :2] >= 0) & (points[..., :2] <= sizes[:, None])).all(axis=2)[visible].all()
    processor = CLIPImageProcessorPil(size={"shortest_edge": 224}, crop_size=224)
    has_attribute = np.ones((len(images), 312), dtype=bool)
    config = make_tiny_config(
        grid_size=7, attribute_names=dataset.attribute_names, attribute_groups=dataset.attribute_groups
    )
    localisation = AttributeLocalisation.of_images(dataset, images, has_attribute, processor, config)
    shown = (localisation.cells >= 0).numpy()
    assert not shown[~visible].any() and 0.9 < shown[visible].mean() < 1
