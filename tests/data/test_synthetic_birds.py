import hashlib
import re

import numpy as np
import pytest

from dedn_hf.data import synthetic_birds
from dedn_hf.data.synthetic_birds import (
    COLORED_PARTS,
    COLORS,
    PART_NAMES,
    TRAIT_VALUES,
    create_classes,
    draw_bird,
)
from dedn_hf.data.synthetic_birds import load as load_synthetic_birds

IMAGES_PER_CLASS = 6
TRAITS = {
    "head_color": "red",
    "head_pattern": "plain",
    "bill_color": "yellow",
    "bill_shape": "cone",
    "breast_color": "blue",
    "breast_pattern": "solid",
    "wing_color": "green",
    "wing_pattern": "solid",
    "tail_color": "white",
    "tail_shape": "fan",
    "leg_color": "black",
    "leg_length": "short",
    "size": "large",
    "shape": "round",
}


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def birds(cache_dir):
    return load_synthetic_birds(images_per_class=IMAGES_PER_CLASS, cache_dir=cache_dir)


def draw(image_id=0, image_size=96, **traits):
    image, points, box = draw_bird(TRAITS | traits, synthetic_birds._generator(7, image_id, 0), image_size)
    return np.asarray(image).astype(int), points, box


def name_colors(image, points):
    """The palette colour that is nearest, in any of the lights that occur, to three by three pixels at each point."""
    names, palette = list(COLORS), np.array(list(COLORS.values()))
    lit = palette * np.linspace(0.75, 1.15, 9)[:, None, None]
    found = []
    for x, y in np.floor(points).astype(int):
        seen = np.median(image[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3), axis=0)
        found.append(names[np.abs(lit - seen).sum(-1).min(0).argmin()])
    return found


def test_size_of_the_world(birds):
    assert len(birds.class_names) == len(set(birds.class_names)) == 110
    assert len(birds.attribute_names) == len(set(birds.attribute_names)) == 62
    assert birds.class_attributes.shape == (110, 62)
    assert birds.class_attributes.dtype == np.float32
    assert birds.word_vectors.shape[0] == 62
    assert birds.part_names == PART_NAMES
    assert len(birds.seen_class_ids) == 90
    assert len(birds.unseen_class_ids) == 20
    assert len(birds.validation_class_ids) == 20
    assert set(birds.validation_class_ids) < set(birds.seen_class_ids)
    assert birds.split_name == "synthetic birds v1, seed 0"


def test_groups_partition_the_attributes(birds):
    assert list(birds.attribute_groups) == ["head", "torso", "wing", "tail", "leg", "whole body"]
    members = [index for indices in birds.attribute_groups.values() for index in indices]
    assert sorted(members) == list(range(62))
    wing = [birds.attribute_names[index] for index in birds.attribute_groups["wing"]]
    assert all(re.match("has_wing_", name) for name in wing)


def test_splits_hold_what_they_should(birds):
    sizes = {name: len(split) for name, split in birds.splits.items()}
    assert sizes == {
        "trainval": 90 * 5,
        "train": 70 * 4,
        "validation_seen": 70 * 1,
        "validation_unseen": 20 * 5,
        "test_seen": 90 * 1,
        "test_unseen": 20 * 6,
    }
    labels = {name: set(split["label"]) for name, split in birds.splits.items()}
    seen, validation = set(birds.seen_class_ids), set(birds.validation_class_ids)
    assert labels["trainval"] == labels["test_seen"] == seen
    assert labels["train"] == labels["validation_seen"] == seen - validation
    assert labels["validation_unseen"] == validation
    assert labels["test_unseen"] == set(birds.unseen_class_ids)


def test_splits_are_disjoint(birds):
    ids = {name: list(split["image_id"]) for name, split in birds.splits.items()}
    union = ids["train"] + ids["validation_seen"] + ids["validation_unseen"]
    assert sorted(ids["trainval"]) == sorted(union)
    everything = union + ids["test_seen"] + ids["test_unseen"]
    assert len(everything) == len(set(everything)) == 110 * IMAGES_PER_CLASS


def test_columns(birds):
    split = birds.splits["test_unseen"]
    assert split.column_names == ["image", "label", "image_id", "part_points", "box"]
    assert split.features["label"].names == birds.class_names
    bird = split[0]
    assert bird["image"].size == (96, 96)
    assert bird["image"].mode == "RGB"
    assert bird["image"].format == "PNG"
    assert np.array(bird["part_points"]).shape == (6, 3)


def test_points_and_boxes_are_inside_the_images(birds):
    for split in ("trainval", "test_seen", "test_unseen"):
        points, boxes = np.array(birds.splits[split]["part_points"]), np.array(birds.splits[split]["box"])
        assert points[..., :2].min() >= 0 and points[..., :2].max() < 96
        assert (points[..., 2] == 1).all()
        assert boxes.min() >= 0 and (boxes[:, :2] + boxes[:, 2:]).max() <= 96
        low, high = boxes[:, None, :2], (boxes[:, :2] + boxes[:, 2:])[:, None]
        assert ((points[..., :2] >= low) & (points[..., :2] <= high)).all()


def test_point_of_a_part_has_the_color_that_its_class_says(birds):
    split = birds.splits["test_unseen"]
    column = {name: index for index, name in enumerate(birds.attribute_names)}
    right = []
    for bird in split:
        found = name_colors(np.asarray(bird["image"]).astype(int), np.array(bird["part_points"])[:, :2])
        row = birds.class_attributes[bird["label"]]
        for part, color in zip(PART_NAMES, found, strict=True):
            strengths = {value: row[column[f"has_{part}_color::{value}"]] for value in TRAIT_VALUES[f"{part}_color"]}
            if max(strengths.values()) == 1:
                right.append(strengths.get(color, 0) == 1)
    assert len(right) > 500
    assert np.mean(right) > 0.99


@pytest.mark.parametrize("part", PART_NAMES)
def test_every_color_of_every_part_is_drawn_at_its_point(part):
    index = PART_NAMES.index(part)
    for color in TRAIT_VALUES[f"{part}_color"]:
        found = []
        for image_id in range(10):
            size = ("small", "medium", "large")[image_id % 3]
            image, points, _ = draw(image_id, **{f"{part}_color": color, "size": size})
            found += name_colors(image, points[index : index + 1])
        assert found.count(color) >= 9, (color, found)


@pytest.mark.parametrize("trait", TRAIT_VALUES)
def test_every_trait_changes_the_picture(trait):
    for value in set(TRAIT_VALUES[trait]) - {TRAITS[trait]}:
        changed = []
        for image_id in range(4):
            plain, other = draw(image_id)[0], draw(image_id, **{trait: value})[0]
            changed.append((np.abs(plain - other).sum(-1) > 60).sum())
        assert min(changed) >= 16, value


def test_sizes_are_apart_in_any_pose():
    def area(size):
        areas = [np.prod(draw(image_id, size=size)[2][2:]) for image_id in range(30)]
        return min(areas), max(areas)

    assert area("small")[1] < area("medium")[1] < area("large")[1]
    assert area("small")[1] < area("large")[0]


def test_an_image_does_not_depend_on_the_machine():
    digest = hashlib.sha256()
    _, class_attributes = create_classes(0)
    for image_id in (0, 1, 41, 1234, 4399):
        rng = synthetic_birds._generator(0, image_id, 0)
        traits = synthetic_birds._choose_traits(class_attributes[image_id // 40], rng)
        digest.update(draw_bird(traits, rng, 96)[0].tobytes())
    assert digest.hexdigest() == "411cfdf629c2f6128e966641c7de0e623b37298762c10b46d28d787f6133c268"


def test_classes_do_not_depend_on_the_machine():
    names, class_attributes = create_classes(0)
    digest = hashlib.sha256(" ".join(names).encode() + class_attributes.astype("<f4").tobytes())
    assert digest.hexdigest() == "e1ea1e1f77688ea52806f7ef0c6ba5c61cc9dadc9d69c45ed1d5aea1c3da50c8"


def test_a_seed_is_a_world(birds, tmp_path):
    names, class_attributes = create_classes(1)
    assert names != birds.class_names
    assert (class_attributes != birds.class_attributes).any()
    assert (draw(0)[0] != draw(1)[0]).any()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_unseen_classes_are_new_mixtures_of_what_train_classes_have(seed):
    names, class_attributes = create_classes(seed)
    assert len(set(names)) == 110
    assert ((class_attributes[:70] >= 0.75).sum(0) >= 3).all()
    strength = class_attributes @ class_attributes.T
    # Fourteen traits in common, some of them weakened, would make two classes the same.
    assert strength[np.triu_indices(110, 1)].max() <= 10 + 4 * 0.25


def test_each_class_shares_each_trait_out(birds):
    start = 0
    for values in TRAIT_VALUES.values():
        shares = birds.class_attributes[:, start : start + len(values)]
        np.testing.assert_allclose(shares.sum(1), 1)
        assert shares.max(1).min() == 0.75
        start += len(values)


def test_individuals_follow_the_shares_of_their_class():
    _, class_attributes = create_classes(0)
    column = {name: index for index, name in enumerate(synthetic_birds.ATTRIBUTE_NAMES)}
    counts = np.zeros(62)
    for image_id in range(400):
        traits = synthetic_birds._choose_traits(class_attributes[3], synthetic_birds._generator(0, image_id, 0))
        for trait, value in traits.items():
            counts[column[f"has_{trait}::{value}"]] += 1
    np.testing.assert_allclose(counts / 400, class_attributes[3], atol=0.08)


def test_doubles_wear_the_same_colors_on_other_parts():
    _, class_attributes = create_classes(0)
    column = {name: index for index, name in enumerate(synthetic_birds.ATTRIBUTE_NAMES)}
    worn = [
        [next(c for c in COLORS if row[column[f"has_{part}::{c}"]] >= 0.75) for part in COLORED_PARTS]
        for row in class_attributes
    ]
    for one, double in zip(worn[::2], worn[1::2], strict=True):
        assert sorted(one) == sorted(double)
        assert all(a != b for a, b in zip(one, double, strict=True))


def test_second_call_reads_the_cache(birds, cache_dir, monkeypatch):
    def draw_nothing(*args):
        raise AssertionError("drawn again")

    monkeypatch.setattr(synthetic_birds, "draw_bird", draw_nothing)
    again = load_synthetic_birds(images_per_class=IMAGES_PER_CLASS, cache_dir=cache_dir)
    assert again.split_sha256 == birds.split_sha256
    assert again.splits["train"][3]["image"].tobytes() == birds.splits["train"][3]["image"].tobytes()


def test_other_sizes_have_their_own_cache_and_scale_the_birds(birds, cache_dir):
    large, _, box = draw(5, image_size=192)
    assert large.shape == (192, 192, 3)
    np.testing.assert_allclose(box[2:], 2 * draw(5)[2][2:])
    builder = synthetic_birds.SyntheticBirds(images_per_class=IMAGES_PER_CLASS, image_size=64, cache_dir=cache_dir)
    drawn = synthetic_birds.SyntheticBirds(
        seed=0, images_per_class=IMAGES_PER_CLASS, image_size=96, cache_dir=cache_dir
    )
    assert builder.cache_dir != drawn.cache_dir


@pytest.mark.parametrize("bad", [{"seed": -1}, {"images_per_class": 5}, {"image_size": 32}])
def test_bad_input_is_named(bad, tmp_path):
    with pytest.raises(ValueError, match=f"`{next(iter(bad))}` is {next(iter(bad.values()))}"):
        load_synthetic_birds(**bad, cache_dir=tmp_path)
    assert not any(tmp_path.iterdir())
