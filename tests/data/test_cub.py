import re

import numpy as np
import pytest
import scipy.io
from PIL import Image
from real_data import DATA_DIR

from dedn_hf.data import cub as cub_module
from dedn_hf.data.cub import load as load_cub
from dedn_hf.data.cub import load_images as load_cub_images
from dedn_hf.data.load import check_gzsl_dataset
from dedn_hf.data.official_files import fingerprint_names, mark_names
from dedn_hf.names_dedn import readable_classes
from dedn_hf.recipes import read_recipe

CLASSES = ["001.Auk", "002.Bunting", "003.Crow", "004.Dove", "005.Egret"]
READABLE = ["Auk", "Bunting", "Crow", "Dove", "Egret"]
TRAIN, VALIDATION, TEST = ["001.Auk", "004.Dove"], ["003.Crow"], ["002.Bunting", "005.Egret"]
IMAGES_PER_CLASS = 10
PARTS = ["back", "left eye"]
NUM_ATTRIBUTES = 312


def class_of(image_id):
    return (image_id - 1) // IMAGES_PER_CLASS


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def replace_line(path, number, line):
    lines = path.read_text().splitlines()
    lines[number - 1 : number] = [] if line is None else [line]
    write_lines(path, lines)


def change_mat(tree, **changes):
    file = tree / "xlsa17/data/CUB/att_splits.mat"
    content = {key: value for key, value in scipy.io.loadmat(file).items() if not key.startswith("__")}
    scipy.io.savemat(file, {key: value for key, value in (content | changes).items() if value is not None})


def locs(ids):
    return np.array(ids, np.uint16)[:, None]


def names_cell(names):
    return np.array([[np.array([name])] for name in names], dtype=object)


@pytest.fixture
def tree(tmp_path):
    """A data set of 50 images in the official layout; image i has the colour (i, 0, 0)."""
    data_dir = tmp_path / "data"
    cub, split = data_dir / "CUB_200_2011", data_dir / "xlsa17/data/CUB"
    ids = range(1, len(CLASSES) * IMAGES_PER_CLASS + 1)
    write_lines(cub / "classes.txt", [f"{i} {name}" for i, name in enumerate(CLASSES, 1)])
    write_lines(cub / "images.txt", [f"{i} {CLASSES[class_of(i)]}/bird_{i}.jpg" for i in ids])
    write_lines(cub / "image_class_labels.txt", [f"{i} {class_of(i) + 1}" for i in ids])
    write_lines(cub / "bounding_boxes.txt", [f"{i} 1.0 2.0 {i}.0 4.5" for i in ids])
    write_lines(cub / "parts/parts.txt", [f"{i} {name}" for i, name in enumerate(PARTS, 1)])
    write_lines(
        cub / "parts/part_locs.txt", [line for i in ids for line in (f"{i} 1 {i}.0 3.5 1", f"{i} 2 0.0 0.0 0")]
    )
    write_lines(
        cub / "attributes/attributes.txt", [f"{i} has_attribute::value_{i}" for i in range(1, NUM_ATTRIBUTES + 1)]
    )
    matrix = np.arange(len(CLASSES))[:, None] * 10 + np.linspace(0, 50, NUM_ATTRIBUTES)[None]
    np.savetxt(cub / "attributes/class_attribute_labels_continuous.txt", matrix)
    for i in ids:
        path = cub / f"images/{CLASSES[class_of(i)]}/bird_{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (i, 0, 0)).save(path, format="WEBP", lossless=True)

    for file, names in {
        "trainclasses1": TRAIN,
        "valclasses1": VALIDATION,
        "testclasses": TEST,
        "trainvalclasses": VALIDATION + TRAIN,
    }.items():
        write_lines(split / f"{file}.txt", names)
    seen = [i for i in ids if CLASSES[class_of(i)] not in TEST]
    scipy.io.savemat(
        split / "att_splits.mat",
        {
            "allclasses_names": names_cell(CLASSES[::-1]),
            # The last two images of each seen class are those of test_seen.
            "trainval_loc": locs([i for i in seen if (i - 1) % IMAGES_PER_CLASS < 8][::-1]),
            "test_seen_loc": locs([i for i in seen if (i - 1) % IMAGES_PER_CLASS >= 8]),
            "test_unseen_loc": locs([i for i in ids if CLASSES[class_of(i)] in TEST]),
        },
    )
    return data_dir


@pytest.fixture
def load(tree):
    return lambda **kwargs: load_cub(tree, **kwargs)


def test_splits(load):
    splits = load().splits
    ids = {name: list(split["image_id"]) for name, split in splits.items()}
    sizes = {
        "train": 12,
        "validation_seen": 4,
        "validation_unseen": 8,
        "test_seen": 6,
        "test_unseen": 20,
        "trainval": 24,
    }
    assert {name: len(values) for name, values in ids.items()} == sizes
    assert sorted(ids["train"] + ids["validation_seen"] + ids["validation_unseen"]) == ids["trainval"]
    assert not set(ids["trainval"]) & set(ids["test_seen"] + ids["test_unseen"])
    names = {name: {CLASSES[label] for label in split["label"]} for name, split in splits.items()}
    assert names["train"] == names["validation_seen"] == set(TRAIN)
    assert names["validation_unseen"] == set(VALIDATION)
    assert names["test_unseen"] == set(TEST)
    # Stratified: two of eight of each class.
    assert np.bincount(splits["validation_seen"]["label"]).tolist() == [2, 0, 0, 2]


def test_rows_belong_together(load):
    for split in load().splits.values():
        for row in split:
            i = row["image_id"]
            assert row["label"] == class_of(i)
            assert row["image"].size == (8, 6) and row["image"].getpixel((0, 0)) == (i, 0, 0)
            assert row["part_points"] == [[i, 3.5, 1], [0, 0, 0]]
            assert row["box"] == [1, 2, i, 4.5]


def test_classes_follow_the_official_order(load):
    """`allclasses_names` is in another order: nothing may follow it."""
    dataset = load()
    assert dataset.class_names == dataset.splits["train"].features["label"].names == READABLE
    assert dataset.seen_class_ids == [0, 2, 3]
    assert dataset.validation_class_ids == [2]
    assert dataset.unseen_class_ids == [1, 4]
    assert dataset.class_attributes.shape == (5, NUM_ATTRIBUTES) and dataset.class_attributes.dtype == np.float32
    np.testing.assert_allclose(dataset.class_attributes[:, 0], [0, 0.1, 0.2, 0.3, 0.4], rtol=1e-6)
    assert dataset.class_attributes.max() == pytest.approx(0.9)


def test_class_side(load):
    dataset = load()
    assert dataset.attribute_names[0] == "has_attribute::value_1"
    assert dataset.attribute_groups == read_recipe("cub").model["attribute_groups"]
    assert dataset.part_names == PARTS
    assert dataset.split_name == "unknown split"
    assert re.fullmatch("[0-9a-f]{64}", dataset.split_sha256)


def test_images_are_stored_by_path(load, tree):
    row = load().splits["test_seen"].with_format("arrow")[0]["image"][0].as_py()
    assert row["bytes"] is None
    assert row["path"] == str(tree / "CUB_200_2011/images/001.Auk/bird_9.jpg")


def test_a_changed_file_is_read_anew(load, tree):
    assert load().splits["trainval"][0]["box"] != [9, 9, 9, 9]
    replace_line(tree / "CUB_200_2011/bounding_boxes.txt", 1, "1 9.0 9.0 9.0 9.0")
    assert load().splits["trainval"][0]["box"] == [9, 9, 9, 9]


@pytest.mark.parametrize("place", ["CUB_200_2011/attributes", "CUB_200_2011", "."])
def test_places_of_attributes_txt(load, tree, place):
    (tree / "CUB_200_2011/attributes/attributes.txt").rename(tree / place / "attributes.txt")
    assert load().attribute_names[311] == "has_attribute::value_312"


def test_no_attributes_txt(load, tree):
    (tree / "CUB_200_2011/attributes/attributes.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"attributes\.txt is in none of .*data\.caltech\.edu"):
        load()


def test_attributes_in_another_order_than_the_matrix(load, tree, monkeypatch):
    file = tree / "CUB_200_2011/attributes/attributes.txt"
    assert any("has other names of attributes than the release" in note for note in load().notes)
    names = [line.split(" ", 1)[1] for line in file.read_text().splitlines()]
    in_any_order = sorted(names, key=lambda name: "".join(filter(str.isalnum, name)))
    known = (fingerprint_names(names), fingerprint_names(in_any_order), mark_names(names))
    monkeypatch.setattr(cub_module, "KNOWN_NAMES", known)
    assert load().notes == []
    names[3], names[200] = names[200], names[3]
    write_lines(file, [f"{i} {name}" for i, name in enumerate(names, 1)])
    first = rf"in another order \(number 4, {names[3]!r}, is another one there\)"
    with pytest.raises(ValueError, match=rf"attributes\.txt has the names of the release {first}"):
        load()


def test_columns_of_the_matrix_in_another_order_than_the_splits(load, tree):
    matrix = np.random.default_rng(0).uniform(0, 100, (5, NUM_ATTRIBUTES)).round(2)
    np.savetxt(tree / "CUB_200_2011/attributes/class_attribute_labels_continuous.txt", matrix)
    cells = scipy.io.loadmat(tree / "xlsa17/data/CUB/att_splits.mat")["allclasses_names"].ravel()
    order = [CLASSES.index(cell.item()) for cell in cells]
    change_mat(tree, original_att=matrix[order].T)
    load()
    change_mat(tree, original_att=matrix[order][:, ::-1].T)
    with pytest.raises(ValueError, match=r"original_att in att_splits\.mat and .* contradict each other"):
        load()


def test_no_word_vectors_of_its_own(load):
    assert load().word_vectors is None


@pytest.mark.parametrize(
    "file",
    [
        "classes.txt",
        "images.txt",
        "image_class_labels.txt",
        "bounding_boxes.txt",
        "parts/parts.txt",
        "parts/part_locs.txt",
        "attributes/class_attribute_labels_continuous.txt",
    ],
)
def test_missing_file(load, tree, file):
    (tree / "CUB_200_2011" / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {re.escape(file)}.*data.caltech.edu"):
        load()


def test_all_missing_files_are_named(load, tree):
    (tree / "CUB_200_2011/classes.txt").unlink()
    (tree / "CUB_200_2011/images.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks classes\.txt, images\.txt\."):
        load()


def test_missing_image(load, tree):
    (tree / "CUB_200_2011/images/003.Crow/bird_25.jpg").unlink()
    message = r"1 of the 50 images .* do not exist: .*003\.Crow/bird_25\.jpg\. .*data\.caltech\.edu"
    with pytest.raises(FileNotFoundError, match=message):
        load()
    with pytest.raises(FileNotFoundError, match=message):
        load_cub_images(tree)
    assert len(load(check_files=False).splits["trainval"]) == 24
    assert load_cub_images(tree, check_files=False)["image_id"][:] == list(range(1, 51))


@pytest.mark.parametrize(
    "file, number, line, message",
    [
        (
            "image_class_labels.txt",
            7,
            None,
            r"image_class_labels\.txt has 49 images where images\.txt has 50.*image 7\.",
        ),
        ("images.txt", 7, None, r"has 50 images where images\.txt has 49.*image 7\."),
        ("images.txt", 7, "6 001.Auk/bird_7.jpg", r"images\.txt has 50 lines for 49 images"),
        ("image_class_labels.txt", 7, "7 3", r"puts image 7 into class 3.*has the image in 001\.Auk"),
        ("image_class_labels.txt", 7, "7 6", r"puts image 7 into class 6.*has 5 classes"),
        ("image_class_labels.txt", 7, "7 one", r"image_class_labels\.txt, line 7: '7 one' is not 2 values"),
        ("classes.txt", 2, "3 002.Bunting", r"classes\.txt must number different names"),
        ("bounding_boxes.txt", 7, None, r"bounding_boxes\.txt has 49 images.*image 7\."),
        ("bounding_boxes.txt", 7, "7 1.0 2.0", r"bounding_boxes\.txt, line 7"),
        ("parts/part_locs.txt", 7, None, r"part_locs\.txt lacks parts of 1 images, such as image 4\."),
        ("parts/part_locs.txt", 7, "4 3 0.0 0.0 0", r"part_locs\.txt has part 3 of image 4"),
        ("attributes/attributes.txt", 312, None, r"attributes\.txt names 311 attributes, but CUB has 312"),
        ("attributes/class_attribute_labels_continuous.txt", 5, None, r"has shape \(4, 312\).*5 classes"),
        ("attributes/class_attribute_labels_continuous.txt", 5, " ".join(["100.5"] * 312), r"outside 0 to 100"),
        ("attributes/class_attribute_labels_continuous.txt", 5, " ".join(["nan"] * 312), r"outside 0 to 100"),
        ("attributes/class_attribute_labels_continuous.txt", 5, "a b", r"no matrix of numbers"),
    ],
)
def test_wrong_files(load, tree, file, number, line, message):
    replace_line(tree / "CUB_200_2011" / file, number, line)
    with pytest.raises(ValueError, match=message):
        load()


def test_class_names_differ_between_the_sources(load, tree):
    for file in ("classes.txt", "images.txt"):
        path = tree / "CUB_200_2011" / file
        path.write_text(path.read_text().replace("002.Bunting", "002.Bulbul"))
    images = tree / "CUB_200_2011/images"
    (images / "002.Bunting").rename(images / "002.Bulbul")
    with pytest.raises(ValueError, match=r"only the images have 002\.Bulbul, only the split has 002\.Bunting"):
        load()


def test_split_against_images(load, tree):
    unseen = [i for i in range(1, 51) if CLASSES[class_of(i)] in TEST]
    change_mat(tree, test_unseen_loc=locs([*unseen[1:], 9]), test_seen_loc=locs([11, 10, 29, 30, 39, 40]))
    with pytest.raises(ValueError, match=r"exactly the images of the unseen classes.*image (11|9) of the"):
        load()


def test_load_cub_images_needs_images_and_class_names_only(tree):
    full = load_cub_images(tree)
    for path in list(tree.rglob("*")):
        if (
            path.is_file()
            and path.suffix != ".jpg"
            and path.name
            not in (
                "images.txt",
                "classes.txt",
                "image_class_labels.txt",
            )
        ):
            path.unlink()
    images = load_cub_images(tree)
    assert images.column_names == ["image", "label", "image_id"]
    assert images["image_id"][:] == full["image_id"][:] == list(range(1, 51))
    assert images.features["label"].names == READABLE
    assert images[24]["image"].getpixel((0, 0)) == (25, 0, 0) and images[24]["label"] == 2


real_data = pytest.mark.skipif(
    not (DATA_DIR / "CUB_200_2011").is_dir(),
    reason=f"no CUB_200_2011 in {DATA_DIR}: set DEDN_DATA_DIR to the folder that holds it",
)

FAMILIES = {
    "head": "bill_shape bill_length bill_color head_pattern throat_color eye_color forehead_color nape_color "
    "crown_color",
    "torso": "upperparts_color underparts_color breast_pattern breast_color back_color back_pattern belly_color "
    "belly_pattern",
    "wing": "wing_color wing_shape wing_pattern",
    "tail": "tail_shape upper_tail_color under_tail_color tail_pattern",
    "leg": "leg_color",
    "whole body": "size shape primary_color",
}


@pytest.mark.real_data
@real_data
def test_real_cub():
    dataset = load_cub(DATA_DIR)
    sizes = {name: len(split) for name, split in dataset.splits.items()}
    assert (sizes["trainval"], sizes["test_seen"], sizes["test_unseen"]) == (7057, 1764, 2967)
    assert sizes["train"] + sizes["validation_seen"] + sizes["validation_unseen"] == 7057
    assert dataset.split_name == "Proposed Split v2 (xlsa17)"
    counts = [len(dataset.class_names), len(dataset.seen_class_ids), len(dataset.validation_class_ids)]
    assert counts == [200, 150, 50]
    assert dataset.class_attributes.shape == (200, 312) and dataset.class_attributes.max() == 1
    assert not any("other names" in note for note in dataset.notes)
    # The same matrix in the order of the other source.
    content = scipy.io.loadmat(DATA_DIR / "xlsa17/data/CUB/att_splits.mat")
    order = [str(cell.item()) for cell in content["allclasses_names"].ravel()]
    assert dataset.class_names[:2] == ["Black footed Albatross", "Laysan Albatross"]
    ours = dataset.class_attributes[[dataset.class_names.index(name) for name in readable_classes(order)]]
    np.testing.assert_allclose(ours, content["original_att"].T / 100, atol=1e-6)


@pytest.mark.real_data
@real_data
def test_real_attribute_names_agree_with_the_groups():
    dataset = load_cub(DATA_DIR)
    families = [name.split("::")[0].removeprefix("has_") for name in dataset.attribute_names]
    for group, of_group in FAMILIES.items():
        expected = [i for i, family in enumerate(families) if family in of_group.split()]
        assert sorted(dataset.attribute_groups[group]) == expected


def test_check_decodes_all_images_and_accounts_for_all_files(tree):
    report = check_gzsl_dataset("cub", str(tree), "random")
    assert not report.wrong and not report.ignored, str(report)
    damaged = tree / "CUB_200_2011/images/002.Bunting/bird_11.jpg"
    damaged.write_bytes(damaged.read_bytes()[:30])
    (damaged.parent / "more.png").write_bytes(b"")
    (damaged.parent / "Thumbs.db").touch()
    report = check_gzsl_dataset("cub", str(tree), "random")
    assert report.wrong["unreadable image"].paths == ["CUB_200_2011/images/002.Bunting/bird_11.jpg"]
    assert len(report.problems) == 1
    assert report.ignored["unlisted"].lines == ["CUB_200_2011/images/002.Bunting/more.png"]
    assert report.ignored["litter"].lines == ["CUB_200_2011/images/002.Bunting/Thumbs.db"]
    damaged.unlink()
    report = check_gzsl_dataset("cub", str(tree), "random")
    assert report.wrong["missing image"].lines == ["CUB_200_2011/images/002.Bunting/bird_11.jpg: it does not exist"]


@pytest.fixture
def label_file(tree):
    """Image i, attribute a: there if i + a is even, with certainty (i + a) mod 4 + 1."""
    file = tree / "CUB_200_2011/attributes/image_attribute_labels.txt"
    pairs = [(i, a) for i in range(1, 51) for a in range(1, NUM_ATTRIBUTES + 1)]
    write_lines(file, [f"{i} {a} {(i + a) % 2} {(i + a) % 4 + 1} {i}.25" for i, a in pairs])
    return file


def test_attributes_of_single_images(load, label_file):
    dataset = load()
    assert sorted(dataset.image_attributes) == list(range(1, 51))
    assert not any("image_attribute_labels" in note for note in dataset.notes)
    for i, values in dataset.image_attributes.items():
        total = i + np.arange(1, NUM_ATTRIBUTES + 1)
        # Guesses and what is not visible say nothing.
        np.testing.assert_array_equal(values, np.where(total % 4 < 2, np.nan, total % 2))


def test_no_attributes_of_single_images(load):
    assert load().image_attributes is None


def test_malformed_lines_are_left_out_and_counted(load, label_file):
    whole = load().image_attributes
    lines = {
        1: "1 1 0 3 0 1.25",  # a value too many, as in the official file
        2: "1 2 1",
        3: "1 3 yes 4 1.0",
        4: "51 1 1 4 1.0",
        5: f"1 {NUM_ATTRIBUTES + 1} 1 4 1.0",
        6: "1 6 2 4 1.0",
        7: "1 7 1 5 1.0",
        8: "  ",
        9: "1 9 0  3 1.0",
    }
    for number, line in lines.items():
        replace_line(label_file, number, line)
    dataset = load()
    assert "image_attribute_labels.txt: left out 7 malformed lines of 15599" in dataset.notes
    expected = whole[1].copy()
    expected[:8], expected[8] = np.nan, 0
    np.testing.assert_array_equal(dataset.image_attributes[1], expected)
    np.testing.assert_array_equal(dataset.image_attributes[2], whole[2])

    write_lines(label_file, ["1;1;0;3;1.25"] * 10)
    with pytest.raises(ValueError, match=r"image_attribute_labels.txt has 0 sound lines of 10"):
        load()
    label_file.write_text("")
    with pytest.raises(ValueError, match=r"image_attribute_labels.txt has 0 sound lines of 0"):
        load()
