import re

import numpy as np
import pytest
import scipy.io
from PIL import Image
from real_data import DATA_DIR

from dedn_hf.data import awa2
from dedn_hf.data.awa2 import load as load_awa2
from dedn_hf.data.awa2 import load_images as load_awa2_images
from dedn_hf.data.load import check_gzsl_dataset
from dedn_hf.data.official_files import fingerprint_names, mark_names, read_numbered
from dedn_hf.data.splits import image_id_of
from dedn_hf.recipes import read_recipe

CLASSES = ["antelope", "grizzly+bear", "bat", "cow", "dolphin"]
TRAIN, VALIDATION, TEST = ["cow", "antelope"], ["bat"], ["grizzly+bear", "dolphin"]
IMAGES_PER_CLASS = 6
NUM_ATTRIBUTES = 85
PREFIX = "/BS/somebody/work/data/Animals_with_Attributes2//JPEGImages/"


def path_of(loc):
    """In image_files, classes are in an order of their own, and so are images within each."""
    label, number = divmod(loc - 1, IMAGES_PER_CLASS)
    name = CLASSES[::-1][label]
    return f"{name}/{name}_{10001 + (number + 2) % IMAGES_PER_CLASS}.jpg"


LOCS = range(1, len(CLASSES) * IMAGES_PER_CLASS + 1)


def write_numbered(file, names):
    file.write_text("".join(f"{i:>8}\t{name}\n" for i, name in enumerate(names, 1)))


def cells(names):
    return np.array([[np.array([name])] for name in names], dtype=object)


def change_mat(file, **changes):
    content = {key: value for key, value in scipy.io.loadmat(file).items() if not key.startswith("__")}
    scipy.io.savemat(file, {key: value for key, value in (content | changes).items() if value is not None})


def percentages():
    matrix = np.random.default_rng(0).uniform(0, 100, (len(CLASSES), NUM_ATTRIBUTES)).round(2)
    matrix[0, :3] = -1
    return matrix


@pytest.fixture
def tree(tmp_path):
    """The image `<class>_<10001 + i>.jpg` of class k has the colour (20 k, 20 i, 0)."""
    data_dir = tmp_path / "data"
    folder, split = data_dir / "Animals_with_Attributes2", data_dir / "xlsa17/data/AWA2"
    split.mkdir(parents=True)
    for label, name in enumerate(CLASSES):
        (folder / "JPEGImages" / name).mkdir(parents=True)
        for i in range(IMAGES_PER_CLASS):
            image = Image.new("RGB", (8, 6), (20 * label, 20 * i, 0))
            image.save(folder / f"JPEGImages/{name}/{name}_{10001 + i}.jpg", format="PNG")
    write_numbered(folder / "classes.txt", CLASSES)
    write_numbered(folder / "predicates.txt", [f"predicate{i}" for i in range(1, NUM_ATTRIBUTES + 1)])
    np.savetxt(folder / "predicate-matrix-continuous.txt", percentages(), fmt="%7.2f")
    np.savetxt(folder / "predicate-matrix-binary.txt", percentages() > 50, fmt="%d")
    lists = {"trainclasses1": TRAIN, "valclasses1": VALIDATION, "testclasses": TEST}
    for file, names in {**lists, "trainvalclasses": VALIDATION + TRAIN}.items():
        (split / f"{file}.txt").write_text("\n".join(names) + "\n")
    order = ["bat", *(name for name in CLASSES if name != "bat")]
    seen = [loc for loc in LOCS if path_of(loc).split("/")[0] not in TEST]
    scipy.io.savemat(
        split / "att_splits.mat",
        {
            "allclasses_names": cells(order),
            "original_att": percentages()[[CLASSES.index(name) for name in order]].T,
            "trainval_loc": np.array([loc for loc in seen if loc % IMAGES_PER_CLASS], np.uint16)[:, None],
            "test_seen_loc": np.array([loc for loc in seen if not loc % IMAGES_PER_CLASS], np.uint16)[:, None],
            "test_unseen_loc": np.array([loc for loc in LOCS if loc not in seen], np.uint16)[:, None],
        },
    )
    image_files = cells([PREFIX + path_of(loc) for loc in LOCS])
    scipy.io.savemat(split / "res101.mat", {"image_files": image_files, "features": np.zeros((4, len(LOCS)))})
    return data_dir


@pytest.fixture
def load(tree):
    return lambda: load_awa2(tree)


def test_a_loc_is_a_place_in_image_files(load):
    dataset = load()
    expected = {
        "test_seen": [loc for loc in LOCS if loc % 6 == 0 and path_of(loc).split("/")[0] not in TEST],
        "trainval": [loc for loc in LOCS if loc % 6 != 0 and path_of(loc).split("/")[0] not in TEST],
        "test_unseen": [loc for loc in LOCS if path_of(loc).split("/")[0] in TEST],
    }
    for part, locs in expected.items():
        assert list(dataset.splits[part]["image_id"]) == [image_id_of(path_of(loc)) for loc in locs]
        for loc, row in zip(locs, dataset.splits[part], strict=True):
            name, number = re.fullmatch(r"(.+)/.+_(\d+)\.jpg", path_of(loc)).groups()
            label = CLASSES.index(name)
            assert row["label"] == label
            assert row["image"].getpixel((0, 0)) == (20 * label, 20 * (int(number) - 10001), 0)


def test_validation_is_of_trainval(load):
    splits = load().splits
    counts = {name: np.bincount(split["label"], minlength=5).tolist() for name, split in splits.items()}
    assert counts["train"] == [4, 0, 0, 4, 0] and counts["validation_seen"] == [1, 0, 0, 1, 0]
    assert counts["validation_unseen"] == [0, 0, 5, 0, 0] and counts["trainval"] == [5, 0, 5, 5, 0]
    assert not set(splits["trainval"]["image_id"]) & set(splits["test_seen"]["image_id"])


def test_class_side(load):
    dataset = load()
    assert dataset.name == "awa2" and dataset.class_names == CLASSES
    assert dataset.seen_class_ids == [0, 2, 3] and dataset.validation_class_ids == [2]
    assert dataset.attribute_names[84] == "predicate85"
    assert dataset.attribute_groups == read_recipe("awa2").model["attribute_groups"]
    assert dataset.split_name == "unknown split" and dataset.word_vectors is None
    np.testing.assert_allclose(dataset.class_attributes, percentages().clip(0) / 100, atol=1e-6)
    assert (dataset.class_attributes[0, :3] == 0).all() and dataset.class_attributes.dtype == np.float32


def test_images_need_neither_split_nor_attributes(tree):
    (tree / "xlsa17").rename(tree / "other")
    for file in (tree / "Animals_with_Attributes2").glob("predicate*"):
        file.unlink()
    images = load_awa2_images(tree)
    assert len(images) == 30 and images.features["label"].names == CLASSES
    assert images[7]["label"] == 1 and images[7]["image"].getpixel((0, 0)) == (20, 20, 0)
    assert images[7]["image_id"] == image_id_of("grizzly+bear/grizzly+bear_10002.jpg")


@pytest.mark.parametrize(
    "file, error, message",
    [
        ("Animals_with_Attributes2/classes.txt", FileNotFoundError, r"lacks classes\.txt.*AwA2"),
        ("Animals_with_Attributes2/predicates.txt", FileNotFoundError, r"lacks predicates\.txt.*AwA2"),
        (
            "Animals_with_Attributes2/predicate-matrix-continuous.txt",
            FileNotFoundError,
            r"lacks predicate-matrix-continuous\.txt",
        ),
        ("xlsa17/data/AWA2/att_splits.mat", FileNotFoundError, r"lacks att_splits\.mat.*xlsa17\.zip"),
        ("xlsa17/data/AWA2/res101.mat", FileNotFoundError, r"res101\.mat is missing.*cannot prove.*xlsa17\.zip"),
        (
            "Animals_with_Attributes2/JPEGImages/bat/bat_10003.jpg",
            FileNotFoundError,
            r"1 of the 30 images in .*not among the 29 images.*JPEGImages/bat/bat_10003\.jpg",
        ),
    ],
)
def test_missing_file(load, tree, file, error, message):
    (tree / file).unlink()
    with pytest.raises(error, match=message):
        load()


def test_empty_and_missing_class(load, tree):
    folder = tree / "Animals_with_Attributes2/JPEGImages/bat"
    for file in folder.iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"JPEGImages/bat has no images"):
        load()
    folder.rmdir()
    with pytest.raises(FileNotFoundError, match=r"has no folder for 1 of the 5 classes in classes\.txt: bat\."):
        load_awa2_images(tree)


def test_feature_maps_need_no_image(tree):
    """Ids are of paths, which image_files has."""
    expected = {name: split["image_id"][:] for name, split in load_awa2(tree).splits.items()}
    (tree / "Animals_with_Attributes2/JPEGImages").rename(tree / "elsewhere")
    with pytest.raises(FileNotFoundError, match="has no folder for 5 of the 5 classes"):
        load_awa2(tree)
    found = load_awa2(tree, check_files=False)
    assert {name: split["image_id"][:] for name, split in found.splits.items()} == expected
    assert found.splits["train"].features["label"].names == CLASSES
    images = load_awa2_images(tree, check_files=False)
    assert sorted(images["image_id"]) == sorted(image_id_of(path_of(loc)) for loc in LOCS)


def test_an_image_that_the_split_names_is_not_left_out_without_a_word(tree):
    in_order = load_awa2_images(tree)["image_id"][:]
    (tree / "Animals_with_Attributes2/JPEGImages/bat/bat_10003.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the 30 images in res101\.mat do not exist: .*bat_10003\.jpg"):
        load_awa2_images(tree)
    # `--on_error skip` lists it.
    assert load_awa2_images(tree, check_files=False)["image_id"][:] == in_order


def test_a_list_of_other_classes(tree):
    paths = [PREFIX + path_of(loc) for loc in LOCS]
    paths[2] = PREFIX + "emu/emu_10001.jpg"
    change_mat(tree / "xlsa17/data/AWA2/res101.mat", image_files=cells(paths))
    with pytest.raises(ValueError, match=r"names 1 images of no class in classes\.txt, such as emu/emu_10001"):
        load_awa2(tree, check_files=False)


def test_predicates_in_another_order_than_the_matrix(load, tree, monkeypatch):
    assert any("predicates.txt has other names of attributes than the release" in note for note in load().notes)
    names = [f"predicate{i}" for i in range(1, NUM_ATTRIBUTES + 1)]
    known = (fingerprint_names(names), fingerprint_names(sorted(names)), mark_names(names))
    monkeypatch.setattr(awa2, "KNOWN_NAMES", known)
    assert load().notes == []
    names[0], names[1] = names[1], names[0]
    write_numbered(tree / "Animals_with_Attributes2/predicates.txt", names)
    with pytest.raises(ValueError, match=r"in another order \(number 1, 'predicate2', is another one there\)"):
        load()


@pytest.mark.real_data
@pytest.mark.skipif(
    not (DATA_DIR / "attribute_vectors/awa2_predicates.txt").is_file(), reason=f"no list of predicates in {DATA_DIR}"
)
def test_fingerprint_of_the_real_predicates():
    names = read_numbered(DATA_DIR / "attribute_vectors/awa2_predicates.txt", "")
    assert fingerprint_names(names) == awa2.KNOWN_NAMES[0]
    assert mark_names(names) == awa2.KNOWN_NAMES[2]
    assert fingerprint_names(sorted(names)) == awa2.KNOWN_NAMES[1]


def test_a_folder_too_many_is_not_read_and_said(load, tree):
    expected = load().splits["test_unseen"]["image_id"][:]
    folder = tree / "Animals_with_Attributes2/JPEGImages/.thumbnails"
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(folder / "bat.jpg")
    with pytest.warns(UserWarning, match=r"JPEGImages: \.thumbnails is no class in classes\.txt, and not read"):
        assert load().splits["test_unseen"]["image_id"][:] == expected


def test_capital_letters_in_a_files_ending(load, tree):
    def contents():
        return {
            name: [(row["image_id"], row["image"].getpixel((0, 0))) for row in split]
            for name, split in load().splits.items()
        }

    expected = contents()
    folder = tree / "Animals_with_Attributes2/JPEGImages/bat"
    (folder / "bat_10003.jpg").rename(folder / "bat_10003.JPG")
    assert contents() == expected
    Image.new("RGB", (4, 4)).save(folder / "bat_10003.jpg")
    with pytest.raises(ValueError, match=r"bat_10003\.jpg is there twice|bat_10003\.JPG is there twice"):
        load()


def test_image_too_many(load, tree):
    folder = tree / "Animals_with_Attributes2/JPEGImages/bat"
    Image.new("RGB", (4, 4)).save(folder / "bat_10099.jpg")
    with pytest.raises(
        ValueError, match=r"names 30 images, 30 of them different, but the data set has 31: .*bat_10099"
    ):
        load()


def test_image_twice(load, tree):
    paths = [PREFIX + path_of(loc) for loc in LOCS]
    paths[3] = paths[4]
    change_mat(tree / "xlsa17/data/AWA2/res101.mat", image_files=cells(paths))
    with pytest.raises(ValueError, match="names 30 images, 29 of them different"):
        load()


@pytest.mark.parametrize(
    "file, change, message",
    [
        ("classes.txt", lambda text: text.replace("cow", "bat"), "must number different names"),
        ("classes.txt", lambda text: text.replace("4", "5"), "must number different names"),
        ("predicates.txt", lambda text: text.replace("predicate85", "predicate84"), "must number different names"),
        (
            "predicates.txt",
            lambda text: "\n".join(text.splitlines()[:-1]),
            r"predicates\.txt names 84 attributes, but AWA2 has 85",
        ),
        (
            "predicate-matrix-continuous.txt",
            lambda text: "\n".join(text.splitlines()[:-1]),
            r"has shape \(4, 85\), .* 5 classes",
        ),
        ("predicate-matrix-continuous.txt", lambda text: text.replace("-1.00", "-2.00"), "must hold percentages"),
        ("predicate-matrix-continuous.txt", lambda text: text.replace("-1.00", "x"), "no matrix of numbers"),
        (
            "predicate-matrix-continuous.txt",
            lambda text: "\n".join(text.splitlines()[::-1]),
            r"original_att .* contradict each other in \d+ values: attribute 2 of antelope is -1",
        ),
    ],
)
def test_wrong_files(load, tree, file, change, message):
    path = tree / "Animals_with_Attributes2" / file
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=message):
        load()


def test_class_without_attributes(load, tree):
    matrix = percentages()
    matrix[3] = 0
    np.savetxt(tree / "Animals_with_Attributes2/predicate-matrix-continuous.txt", matrix)
    change_mat(tree / "xlsa17/data/AWA2/att_splits.mat", original_att=None)
    with pytest.raises(ValueError, match="gives no attribute above 0 to cow"):
        load()


def test_attributes_of_the_split_are_of_another_number(load, tree):
    change_mat(tree / "xlsa17/data/AWA2/att_splits.mat", original_att=np.zeros((84, 5)))
    with pytest.raises(ValueError, match=r"att_splits\.mat has 84 attributes, but .*continuous\.txt has 85"):
        load()


def test_check_decodes_all_images_and_accounts_for_all_files(tree):
    report = check_gzsl_dataset("awa2", str(tree), "random")
    assert not report.wrong and not report.ignored, str(report)
    damaged = tree / "Animals_with_Attributes2/JPEGImages/bat/bat_10001.jpg"
    damaged.write_bytes(damaged.read_bytes()[:30])
    (damaged.parent / "more.png").write_bytes(b"")
    (damaged.parent / "Thumbs.db").touch()
    report = check_gzsl_dataset("awa2", str(tree), "random")
    assert report.wrong["unreadable image"].paths == ["Animals_with_Attributes2/JPEGImages/bat/bat_10001.jpg"]
    assert len(report.problems) == 1
    assert report.ignored["unlisted"].lines == ["Animals_with_Attributes2/JPEGImages/bat/more.png"]
    assert report.ignored["litter"].lines == ["Animals_with_Attributes2/JPEGImages/bat/Thumbs.db"]
