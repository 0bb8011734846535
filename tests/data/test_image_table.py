import csv
from pathlib import Path

import pytest
from PIL import Image

from dedn_hf.data.folder import load, load_images, read_folder
from dedn_hf.data.load import check_gzsl_dataset
from dedn_hf.data.splits import image_id_of

CLASSES = ["auk", "bunting", "crow", "dove"]
NUMBERS = range(5)


def write_table(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def rows_of(tree, split_of=None):
    rows = [[f"images/{k}_{i}.png", name] for k, name in enumerate(CLASSES) for i in NUMBERS]
    if split_of is None:
        return [["file", "class"], *rows]
    return [["file", "class", "split"], *([*row, split_of(row[1], int(row[0][-5]))] for row in rows)]


@pytest.fixture
def tree(tmp_path):
    """Twenty images in one folder; image i of class k has the colour (20 k, i, 0)."""
    folder = tmp_path / "birds"
    (folder / "images").mkdir(parents=True)
    for k in range(len(CLASSES)):
        for i in NUMBERS:
            Image.new("RGB", (8, 6), (20 * k, i, 0)).save(folder / "images" / f"{k}_{i}.png")
    strengths = [["auk", 1, 0, 0], ["bunting", 0, 1, 0], ["crow", 0, 0, 1], ["dove", 1, 1, 0]]
    write_table(folder / "classes.csv", [["class", "black", "red", "big"], *strengths])
    write_table(folder / "split.csv", [["class", "split"], *zip(CLASSES, ["seen", "seen", "validation", "unseen"])])
    write_table(folder / "images.csv", rows_of(folder))
    return folder


def names_of(dataset, split):
    return {image.filename.rpartition("/")[2][:-4] for image in dataset.splits[split]["image"]}


def test_images_have_the_classes_of_the_table(tree):
    dataset = load(tree)
    assert (
        len(dataset.splits["trainval"]) + len(dataset.splits["test_seen"]) + len(dataset.splits["test_unseen"]) == 20
    )
    for split in dataset.splits.values():
        for row in split:
            red, green, _ = row["image"].getpixel((0, 0))
            assert row["label"] == red // 20 and row["image_id"] == image_id_of(f"{row['label']}_{green}.png")
    images = load_images(tree)
    assert len(images) == 20 and images.features["label"].names == CLASSES


def test_a_table_and_folders_give_the_same(tree):
    """Ids, and with them drawn splits and stores, depend on paths within `images/` alone."""
    for k, name in enumerate(CLASSES):
        (tree / "images" / name).mkdir()
        for i in NUMBERS:
            (tree / "images" / f"{k}_{i}.png").rename(tree / "images" / name / f"{i}.png")
    rows = [[f"{name}/{i}.png", name] for name in CLASSES for i in NUMBERS]
    write_table(tree / "images.csv", [["file", "class"], *rows])
    by_table = load(tree)
    (tree / "images.csv").unlink()
    by_folders = load(tree)
    assert by_table.split_sha256 == by_folders.split_sha256
    for split, table in by_table.splits.items():
        assert table["image_id"][:] == by_folders.splits[split]["image_id"][:]


def test_splits_of_images(tree):
    def split_of(name, i):
        if name == "dove" or i == 4:
            return "Test"
        return "val" if i == 3 or name == "crow" else "train"

    write_table(tree / "images.csv", rows_of(tree, split_of))
    expected = {
        "train": {f"{k}_{i}" for k in (0, 1) for i in (0, 1, 2)},
        "validation_seen": {"0_3", "1_3"},
        "validation_unseen": {"2_0", "2_1", "2_2", "2_3"},
        "test_seen": {"0_4", "1_4", "2_4"},
        "test_unseen": {f"3_{i}" for i in NUMBERS},
    }
    dataset = load(tree)
    assert {split: names_of(dataset, split) for split in expected} == expected
    # Without split.csv the splits of images say what classes are.
    (tree / "split.csv").unlink()
    dataset = load(tree)
    assert {split: names_of(dataset, split) for split in expected} == expected
    assert (dataset.seen_class_ids, dataset.validation_class_ids) == ([0, 1, 2], [2])
    assert dataset.split_name == "images.csv"


def test_what_splits_of_images_leave_open_is_drawn(tree):
    (tree / "split.csv").unlink()
    write_table(tree / "images.csv", rows_of(tree, lambda name, i: "test" if name == "dove" else "train"))
    dataset = load(tree)
    sizes = {split: len(images) for split, images in dataset.splits.items()}
    assert sizes["test_unseen"] == 5 and sizes["test_seen"] == 3 and sizes["validation_seen"] == 2
    assert len(dataset.validation_class_ids) == 1
    assert "images.csv, without a class for validation alone, drawn with seed 0" in dataset.split_name


@pytest.mark.parametrize(
    "header, spelling, said",
    [
        (["file_name", "label"], "images/{}.png", "the column 'file_name' taken as 'file'"),
        (["Class", "Image"], "images/{}.png", "the column 'Image' taken as 'file'"),
        (["file", "class"], "{}.png", None),
        (["file", "class"], "images\\{}.png", None),
        (["file", "class"], "{tree}/images/{}.png", None),
    ],
)
def test_other_spellings(tree, header, spelling, said):
    expected = load(tree).split_sha256
    rows = [
        {"file": spelling.format(f"{k}_{i}", tree=tree), "class": name}
        for k, name in enumerate(CLASSES)
        for i in NUMBERS
    ]
    order = ["class", "file"] if header[0] == "Class" else ["file", "class"]
    write_table(tree / "images.csv", [[*header, "author"], *([*(row[key] for key in order), "x"] for row in rows)])
    contents = read_folder(tree)
    assert not contents.problems
    assert load(tree).split_sha256 == expected
    assert said is None or any(said in line for line in contents.understood)


def test_images_elsewhere(tree, tmp_path):
    (tree / "images" / "0_0.png").rename(tmp_path / "far.png")
    for written in ("../far.png", str(tmp_path / "far.png")):
        rows = rows_of(tree)
        rows[1][0] = written
        write_table(tree / "images.csv", rows)
        assert image_id_of(written) in load_images(tree)["image_id"][:]


@pytest.mark.parametrize(
    "number, row, problem",
    [
        (3, ["images/0_1.png", "emu"], r"images.csv, line 3: classes.csv has no class 'emu'"),
        (3, ["images/0_1.png", ""], r"images.csv, line 3: images/0_1.png has no class"),
        (3, ["images/0_0.png", "auk"], r"images.csv, line 3: file 'images/0_0.png' is in line 2 already"),
        (3, ["0_0.png", "auk"], r"images.csv, line 3: 0_0.png is the file of line 2 already"),
        (3, ["images/0_9.png", "auk"], r"images that do not exist, .*: 1, such as images/0_9.png"),
        (1, ["file", "kind"], r"images.csv: there is no column 'class', only 'file', 'kind'"),
        (1, ["photo", "class"], r"images.csv, line 1: the header must begin with 'file', but is 'photo,class'"),
    ],
)
def test_what_is_wrong_is_named_by_line(tree, number, row, problem):
    rows = rows_of(tree)
    rows[number - 1] = row
    write_table(tree / "images.csv", rows)
    for read in (load, load_images):
        with pytest.raises(ValueError, match=problem):
            read(tree)


@pytest.mark.parametrize(
    "name, i, split, problem",
    [
        ("dove", 2, "train", r"images.csv, line 19: 3_2.png is for train, but its class dove is unseen"),
        ("auk", 1, "holdout", r"images.csv, line 3: the split of images/0_1.png must be train, validation or test"),
        ("auk", 1, "", r"images.csv, line 3: 0_1.png has no split, but others have"),
    ],
)
def test_splits_that_contradict(tree, name, i, split, problem):
    def split_of(other, number):
        return split if (other, number) == (name, i) else "test" if other == "dove" or number == 4 else "train"

    write_table(tree / "images.csv", rows_of(tree, split_of))
    with pytest.raises(ValueError, match=problem):
        load(tree)


def test_a_store_needs_no_image(tree):
    expected = load(tree)
    (tree / "images" / "0_0.png").unlink()
    assert load(tree, check_files=False).split_sha256 == expected.split_sha256
    with pytest.raises(ValueError, match="images that do not exist"):
        load(tree)


def test_files_that_no_line_names_are_counted(tree):
    write_table(tree / "images.csv", rows_of(tree)[:-2])
    report = check_gzsl_dataset("folder", str(tree), "random")
    assert not report.problems
    assert [path.name for path in map(Path, report.ignored["unlisted"].paths)] == ["3_3.png", "3_4.png"]
