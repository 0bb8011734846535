from pathlib import Path

import numpy as np
import pytest
import scipy.io
from real_data import DATA_DIR

from dedn_hf.data.load import dataset_card
from dedn_hf.data.proposed_split import (
    PROPOSED_SPLIT_NAME,
    match_image_files,
    read_image_files,
    read_proposed_split,
)
from dedn_hf.data.splits import fingerprint_split

CLASSES = ["bear", "ant", "dog", "cat"]
LISTS = {"trainclasses1": ["ant", "dog"], "valclasses1": ["cat"], "testclasses": ["bear"]}
CLASS_OF_IMAGE = {
    1: "ant",
    2: "ant",
    3: "ant",
    4: "dog",
    5: "cat",
    6: "cat",
    7: "bear",
    8: "bear",
    9: "ant",
    10: "cat",
}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "xlsa17/data/SUN"
    folder.mkdir(parents=True)
    for name, classes in {**LISTS, "trainvalclasses": ["cat", "dog", "ant"]}.items():
        (folder / f"{name}.txt").write_text("\r\n".join(classes) + "\r\n")
    write_mat(folder)
    return folder


def write_mat(folder, **changes):
    content = {
        "allclasses_names": np.array([[np.array([name])] for name in CLASSES], dtype=object),
        "original_att": np.arange(12.0).reshape(3, 4),
        "trainval_loc": np.array([[6], [5], [4], [3], [2], [1]], np.uint16),
        "test_seen_loc": np.array([[10], [9]], np.uint16),
        "test_unseen_loc": np.array([[7], [8]], np.uint16),
    }
    content = {key: value for key, value in (content | changes).items() if value is not None}
    scipy.io.savemat(folder / "att_splits.mat", content)


def read(folder):
    return read_proposed_split(folder.parents[2], folder.name)


def test_contents(folder):
    split = read(folder)
    split.check(CLASS_OF_IMAGE)
    assert split.class_names == CLASSES
    np.testing.assert_array_equal(split.class_attributes[1], [1, 5, 9])
    assert split.image_ids == {"trainval": [1, 2, 3, 4, 5, 6], "test_seen": [9, 10], "test_unseen": [7, 8]}
    assert (split.train_classes, split.validation_classes, split.test_classes) == (["ant", "dog"], ["cat"], ["bear"])
    assert split.sha256 == fingerprint_split(split.image_ids)
    assert split.name == "unknown split"


def test_class_attributes_are_optional(folder):
    write_mat(folder, original_att=None)
    assert read(folder).class_attributes is None


def test_partition(folder):
    parts = read(folder).partition(CLASS_OF_IMAGE)
    # One of the three ants is held out; the only dog stays in train.
    assert len(parts["validation_seen"]) == 1 and set(parts["validation_seen"]) < {1, 2, 3}
    assert sorted(parts["train"] + parts["validation_seen"]) == [1, 2, 3, 4]
    assert parts["validation_unseen"] == [5, 6]
    assert (parts["test_seen"], parts["test_unseen"]) == ([9, 10], [7, 8])
    assert parts["trainval"] == [1, 2, 3, 4, 5, 6]


def test_partition_is_seeded(folder):
    split = read(folder)
    draws = [split.partition(CLASS_OF_IMAGE, seed)["validation_seen"] for seed in range(20)]
    assert draws == [split.partition(CLASS_OF_IMAGE, seed)["validation_seen"] for seed in range(20)]
    assert len(set(map(tuple, draws))) == 3


def test_missing_files(folder):
    (folder / "att_splits.mat").unlink()
    (folder / "valclasses1.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks att_splits\.mat, valclasses1\.txt.*xlsa17\.zip"):
        read(folder)


def test_damaged_mat(folder):
    content = (folder / "att_splits.mat").read_bytes()
    for damaged in (b"<html>not found</html>", content[: len(content) // 2], b""):
        (folder / "att_splits.mat").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"att_splits\.mat cannot be read as a MATLAB file"):
            read(folder)


def test_missing_variables(folder):
    write_mat(folder, trainval_loc=None, allclasses_names=None)
    with pytest.raises(ValueError, match=r"att_splits\.mat lacks allclasses_names, trainval_loc"):
        read(folder)


@pytest.mark.parametrize(
    "file, classes, message",
    [
        ("valclasses1", ["cow"], r"valclasses1\.txt names classes that att_splits\.mat lacks \(cow\)"),
        ("testclasses", ["bear", "bear"], r"testclasses\.txt .*twice \(bear\)"),
        ("trainclasses1", ["ant"], r"trainclasses1\.txt and valclasses1\.txt together are not"),
        ("testclasses", ["bear", "ant"], r"no partition of the classes: ant"),
        ("testclasses", [], r"no partition of the classes: bear"),
    ],
)
def test_contradicting_class_lists(folder, file, classes, message):
    (folder / f"{file}.txt").write_text("\n".join(classes))
    with pytest.raises(ValueError, match=message):
        read(folder)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"trainval_loc": [1, 2, 3, 4, 5, 6, 11]}, "trainval_loc names image 11, which is not among the images"),
        ({"trainval_loc": [1, 2, 3, 4, 5, 6, 9]}, "image 9 is in trainval_loc and in test_seen_loc"),
        ({"trainval_loc": [1, 2, 3, 4, 6]}, "1 of 10 images are in no part, such as 5"),
        (
            {"trainval_loc": [2, 3, 4, 5, 6], "test_unseen_loc": [1, 7, 8]},
            "unseen classes .*image 1 of the seen class ant is in test_unseen_loc",
        ),
        (
            {"test_seen_loc": [8, 9, 10], "test_unseen_loc": [7]},
            "unseen classes .*image 8 of the unseen class bear is in test_seen_loc",
        ),
    ],
)
def test_split_against_images(folder, changes, message):
    write_mat(folder, **{key: np.array(ids)[:, None] for key, ids in changes.items()})
    with pytest.raises(ValueError, match=f"{message}.*xlsa17.zip"):
        read(folder).check(CLASS_OF_IMAGE)


def test_class_names_against_images(folder):
    with pytest.raises(ValueError, match="only the images have camel, only the split has cat"):
        read(folder).check({i: name.replace("cat", "camel") for i, name in CLASS_OF_IMAGE.items()})


def test_class_attributes_against_those_of_the_data_set(folder):
    split = read(folder)
    theirs = np.arange(12.0).reshape(3, 4).T
    names = ["ant", "bear", "cat", "dog"]
    ours = theirs[[CLASSES.index(name) for name in names]]
    split.check_class_attributes(Path("matrix.txt"), names, ours + 0.01)
    with pytest.raises(
        ValueError, match=r"matrix\.txt contradict each other in 8 values: attribute 1 of ant is 1 and 5"
    ):
        split.check_class_attributes(Path("matrix.txt"), names, ours[:, [1, 0, 2]])
    with pytest.raises(ValueError, match=r"att_splits\.mat has 3 attributes, but matrix\.txt has 2"):
        split.check_class_attributes(Path("matrix.txt"), names, ours[:, :2])
    write_mat(folder, original_att=None)
    read(folder).check_class_attributes(Path("matrix.txt"), names, ours[:, :2])


def test_image_files_are_read_without_features(folder):
    """Features lie before image_files here, and cannot be decompressed."""
    file = folder / "res101.mat"
    paths = np.array([[np.array(["/a//b/1.jpg"])], [np.array(["/a//b/é.jpg"])]], dtype=object)
    features = np.random.default_rng(0).normal(size=(400, 400))
    scipy.io.savemat(file, {"features": features, "image_files": paths}, do_compression=True)
    content = bytearray(file.read_bytes())
    content[600_000:700_000] = bytes(100_000)
    file.write_bytes(content)
    with pytest.raises(Exception, match=r"."):
        scipy.io.loadmat(file)
    assert read_image_files(folder) == ["/a//b/1.jpg", "/a//b/é.jpg"]


def test_wrong_image_files(folder):
    with pytest.raises(FileNotFoundError, match=r"res101\.mat is missing.*att_splits\.mat cannot prove that order"):
        read_image_files(folder)
    scipy.io.savemat(folder / "res101.mat", {"features": np.zeros(3)})
    with pytest.raises(ValueError, match=r"res101\.mat lacks image_files.*xlsa17\.zip"):
        read_image_files(folder)
    (folder / "res101.mat").write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match=r"res101\.mat cannot be read as a MATLAB file"):
        read_image_files(folder)


def test_image_files_are_matched_by_their_tails():
    known = ["a/abbey/sun_1.jpg", "abbey/sun_1.jpg", "sun_2.jpg", "a/ä/sun_3.jpg"]
    image_files = [
        "/BS/somebody/SUN//images/a/abbey/sun_1.jpg",  # the longest of two
        "/x/abbey/sun_1.jpg",
        "sun_2.jpg",
        "C:\\data\\a\\ä\\sun_3.jpg ",
        "/a/abbey/sun_9.jpg",
        "/x/other_sun_2.jpg",
        "/a/abbey/sun_1.jpg/",
    ]
    assert match_image_files(image_files, known) == [*known, None, None, "a/abbey/sun_1.jpg"]


@pytest.mark.real_data
@pytest.mark.skipif(
    not (DATA_DIR / "xlsa17").is_dir(),
    reason=f"no xlsa17 in {DATA_DIR}: set DEDN_DATA_DIR to the folder that holds it",
)
@pytest.mark.parametrize(
    "name, sizes", [("CUB", (7057, 1764, 2967)), ("SUN", (10320, 2580, 1440)), ("AWA2", (23527, 5882, 7913))]
)
def test_real_splits(name, sizes):
    known = dataset_card(name.lower())
    split = read_proposed_split(DATA_DIR, name, known.split_sha256)
    assert tuple(len(split.image_ids[part]) for part in ("trainval", "test_seen", "test_unseen")) == sizes
    assert known.split_counts == sizes and known.split_name == PROPOSED_SPLIT_NAME
    assert split.name == PROPOSED_SPLIT_NAME
