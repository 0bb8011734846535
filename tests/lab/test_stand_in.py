import numpy as np
import pytest
import torch
from real_data import DATA_DIR
from stand_in import CHANNELS, GRID, DrawnFeatureMaps, make_stand_in, run_stand_in

from dedn_hf.recipes import read_recipe
from dedn_hf.training.protocol import build_model

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(
        not (DATA_DIR / "xlsa17/data/SUN/att_splits.mat").is_file(), reason=f"no Proposed Split in {DATA_DIR}"
    ),
]


def first_loss(name, **config):
    dataset = make_stand_in(name, str(DATA_DIR))
    settings = read_recipe(name).model | config
    settings |= {"feature_channels": CHANNELS, "grid_size": GRID}
    settings.pop("attribute_groups")
    torch.manual_seed(0)
    model = build_model(dataset, range(len(dataset.class_names)), dataset.unseen_class_ids, **settings)
    maps = DrawnFeatureMaps(dataset.splits["trainval"].select(range(0, 2000, 40)), dataset)
    items = [maps[index] for index in range(len(maps))]
    labels = torch.tensor([item["labels"] for item in items])
    feature_map = torch.stack([item["feature_map"] for item in items]).float()
    with torch.no_grad():
        return model(feature_map=feature_map, labels=labels).loss.item()


def test_classes_and_split_are_the_real_ones():
    dataset = make_stand_in("sun", str(DATA_DIR))
    assert (len(dataset.class_names), len(dataset.unseen_class_ids), len(dataset.attribute_names)) == (717, 72, 102)
    sizes = {split: len(images) for split, images in dataset.splits.items()}
    assert sizes["trainval"] == sizes["train"] + sizes["validation_seen"] + sizes["validation_unseen"] == 645 * 16
    ids = [set(dataset.splits[split]["image_id"]) for split in ("trainval", "test_seen", "test_unseen")]
    assert not ids[0] & ids[1] and not (ids[0] | ids[1]) & ids[2]


def test_maps_follow_from_ids_alone():
    dataset = make_stand_in("awa2", str(DATA_DIR))
    images = dataset.splits["train"]
    maps, again = (DrawnFeatureMaps(images.select(rows), dataset) for rows in ([3, 5], [5, 3]))
    assert torch.equal(maps[0]["feature_map"], again[1]["feature_map"])
    assert not torch.equal(maps[0]["feature_map"], maps[1]["feature_map"])
    assert maps[0]["feature_map"].shape == (CHANNELS, GRID, GRID)


def test_sun_starts_with_a_loss_of_the_size_of_cubs():
    cub, sun, released = first_loss("cub"), first_loss("sun"), first_loss("sun", region_value_std=1.0)
    assert np.isfinite([cub, sun, released]).all()
    assert 0.2 * cub < sun < 5 * cub
    assert released > 4 * sun


@pytest.mark.slow
@pytest.mark.parametrize("name, max_steps", [("awa2", -1), ("sun", 300)])
def test_distillation_does_not_break_the_recipe(tmp_path, name, max_steps):
    options = {"max_steps": max_steps, "disable_tqdm": True}
    weights = (read_recipe(name).model["distillation_weight"], 0.0)
    folders = [str(tmp_path / str(weight)) for weight in weights]
    runs = [
        run_stand_in(name, str(DATA_DIR), folder, {"distillation_weight": weight}, **options)["test"]
        for folder, weight in zip(folders, weights)
    ]
    assert runs[0]["H"] > runs[1]["H"] - 5, runs
    assert runs[0]["H"] > 10, runs
