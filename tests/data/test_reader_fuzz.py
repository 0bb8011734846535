"""Data sets that are not as they should be, in ways that nobody has thought of."""

import numpy as np
import pytest
from fuzzing import fuzz
from test_awa2 import tree as awa2_tree  # noqa: F401
from test_cub import tree as cub_tree  # noqa: F401
from test_folder import tree as folder_tree  # noqa: F401
from test_sun import tree as sun_tree  # noqa: F401

from dedn_hf.data.load import check_gzsl_dataset, load_gzsl_dataset, load_images

# How many cases in the default suite, and in the slow tests.
CASES = {"folder": (100, 300), "cub": (40, 300), "sun": (40, 300), "awa2": (40, 300)}


def check_dataset(dataset):
    """What must be so of any data set."""
    num_classes, num_attributes = len(dataset.class_names), len(dataset.attribute_names)
    assert dataset.class_attributes.shape == (num_classes, num_attributes)
    assert ((dataset.class_attributes >= 0) & (dataset.class_attributes <= 1)).all()
    assert sorted(i for group in dataset.attribute_groups.values() for i in group) == list(range(num_attributes))
    assert dataset.word_vectors.shape[0] == num_attributes and np.isfinite(dataset.word_vectors).all()
    ids = {name: set(split["image_id"]) for name, split in dataset.splits.items()}
    assert ids["train"] | ids["validation_seen"] | ids["validation_unseen"] == ids["trainval"]
    assert not ids["trainval"] & (ids["test_seen"] | ids["test_unseen"])
    seen = set(dataset.seen_class_ids)
    assert set(dataset.splits["trainval"]["label"]) <= seen
    assert not set(dataset.splits["test_unseen"]["label"]) & seen


def run(name, tree, cases):
    def read():
        check_dataset(load_gzsl_dataset(name, str(tree), "random"))
        load_images(name, str(tree))
        if name == "folder":
            check_gzsl_dataset(name, str(tree), "random")

    print(fuzz(tree, read, cases))


@pytest.mark.parametrize("name", CASES)
def test_mutated_data_sets(name, request):
    run(name, request.getfixturevalue(f"{name}_tree"), CASES[name][0])


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_many_mutated_data_sets(name, request):
    run(name, request.getfixturevalue(f"{name}_tree"), CASES[name][1])
