import csv
import os

import datasets
import pytest
from PIL import Image

from dedn_hf.data.check import CheckReport
from dedn_hf.data.imagefolder import check, load, load_images
from dedn_hf.data.splits import image_id_of

CLASSES = ["auk", "bunting", "crow", "dove"]
# Images of each class in each split.
COUNTS = {"train": 4, "validation": 1, "test": 2}


def write_table(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture
def tables(tmp_path):
    folder = tmp_path / "birds"
    folder.mkdir()
    strengths = [["auk", 1, 0, 0], ["bunting", 0, 1, 0], ["crow", 0, 0, 1], ["dove", 1, 1, 0]]
    write_table(folder / "classes.csv", [["class", "black", "red", "big"], *strengths])
    return folder


def images_of(split):
    """Class and picture of each image of a split: image i of class k in split s has the colour (20 k, i, 50 s)."""
    number = list(COUNTS).index(split)
    return [
        (name, i, Image.new("RGB", (8, 6), (20 * k, i, 50 * number)))
        for k, name in enumerate(CLASSES)
        for i in range(COUNTS[split])
    ]


@pytest.fixture
def tree(tables):
    for split in COUNTS:
        for name, i, image in images_of(split):
            (tables / split / name).mkdir(parents=True, exist_ok=True)
            image.save(tables / split / name / f"{i}.png")
    return tables


@pytest.fixture
def parquet(tables, tmp_path, monkeypatch):
    """A local folder as the Hub has it, whose classes are in another order."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def make(image="image", label="label", kind=None):
        kind = kind or datasets.ClassLabel(names=CLASSES[::-1])
        features = datasets.Features({label: kind, image: datasets.Image()})
        folder = tmp_path / "org" / "Garden_Birds"
        for split in COUNTS:
            rows = images_of(split)
            names = [name for name, *_ in rows]
            values = [CLASSES[::-1].index(name) if "int" in kind.dtype else name for name in names]
            table = {label: values, image: [image for *_, image in rows]}
            made = datasets.Dataset.from_dict(table, features=features)
            (folder / "data").mkdir(parents=True, exist_ok=True)
            made.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
        return str(folder)

    return make


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def colours(split):
    return {image.getpixel((0, 0)) for image in split["image"]}


@pytest.fixture(params=["imagefolder", "parquet"])
def read(request, tables):
    if request.param == "imagefolder":
        tree = request.getfixturevalue("tree")
        return lambda function=load, **options: function(tree, **options)
    name = request.getfixturevalue("parquet")()
    return lambda function=load, **options: function(tables, **options, name=name)


def test_classes_are_those_of_the_table(read):
    images = read(load_images)
    assert len(images) == 28 and images.features["label"].names == CLASSES
    assert len(set(images["image_id"])) == 28
    for row in images:
        assert row["label"] == row["image"].getpixel((0, 0))[0] // 20


def test_splits(read, tables):
    write_table(tables / "split.csv", [["class", "split"], *zip(CLASSES, ["seen", "validation", "unseen", "seen"])])
    dataset = read()
    seen = {k: [(20 * k, i, 0) for i in range(4)] for k in range(4)}
    assert colours(dataset.splits["train"]) == {*seen[0], *seen[3]}
    assert colours(dataset.splits["validation_seen"]) == {(0, 0, 50), (60, 0, 50)}
    assert colours(dataset.splits["validation_unseen"]) == {*seen[1], (20, 0, 50)}
    assert colours(dataset.splits["test_seen"]) == {(20 * k, i, 100) for k in (0, 1, 3) for i in range(2)}
    # All images of an unseen class, whatever split they were in.
    assert len(dataset.splits["test_unseen"]) == 7
    assert (dataset.seen_class_ids, dataset.validation_class_ids) == ([0, 1, 3], [1])
    ids = {image_id for split in dataset.splits.values() for image_id in split["image_id"]}
    assert ids == set(read(load_images)["image_id"])


def test_without_split_csv_classes_are_drawn(read):
    dataset = read()
    assert len(dataset.unseen_class_ids) == len(dataset.validation_class_ids) == 1
    assert dataset.split_name == "drawn with seed 0"
    assert len(dataset.splits["test_seen"]) == 6


def test_names(tree, tables, parquet):
    assert load(tree).name == "imagefolder"
    assert load(tables, name=parquet()).name == "garden_birds"
    assert image_id_of("train/auk/0.png") in load_images(tree)["image_id"][:]


def test_a_class_with_test_images_only_is_unseen(tree):
    for split in ("train", "validation"):
        for file in (tree / split / "dove").iterdir():
            file.unlink()
    dataset = load(tree)
    assert dataset.unseen_class_ids == [3]
    assert "imagefolder, without a class for validation alone" in dataset.split_name


def test_folders_of_classes_without_splits(tables):
    for name, i, image in images_of("train"):
        (tables / name).mkdir(exist_ok=True)
        image.save(tables / name / f"{i}.png")
    sizes = {split: len(images) for split, images in load(tables).splits.items()}
    assert sizes["test_unseen"] == 4 and sizes["test_seen"] == 3


def test_metadata_files(tables):
    (tables / "train").mkdir()
    rows = [["file_name", "label"]]
    for name, i, image in images_of("train"):
        image.save(tables / "train" / f"{name}_{i}.png")
        rows.append([f"{name}_{i}.png", name])
    write_table(tables / "train" / "metadata.csv", rows)
    images = load_images(tables)
    assert len(images) == 16
    assert all(row["label"] == row["image"].getpixel((0, 0))[0] // 20 for row in images)


def test_other_columns(tables, parquet):
    dataset = load(tables, name=parquet(image="photo", label="species"))
    assert any("the column 'photo' is taken as 'image'" in note for note in dataset.notes)
    assert any("the column 'species' is taken as 'label'" in note for note in dataset.notes)
    assert sum(map(len, dataset.splits.values())) - len(dataset.splits["trainval"]) == 28


def test_names_of_classes_as_text(tables, parquet):
    images = load_images(tables, name=parquet(kind=datasets.Value("string")))
    assert all(row["label"] == row["image"].getpixel((0, 0))[0] // 20 for row in images)


@pytest.mark.parametrize(
    "columns, problem",
    [
        ({"kind": datasets.Value("int64")}, r"the column 'label' of train holds int64, and no names of classes"),
        (
            {"label": "species", "kind": datasets.Value("string")},
            r"train has no column 'label', only species, image: rename the one with the classes",
        ),
    ],
)
def test_columns_that_cannot_be_told(tables, parquet, columns, problem):
    name = parquet(**columns)
    for function in (load, load_images):
        with pytest.raises(ValueError, match=problem):
            function(tables, name=name)


def test_what_is_not_there(tables, tree, tmp_path):
    with pytest.raises(ValueError, match=r"nobody/nothing cannot be loaded as a data set"):
        load(tables, name="nobody/nothing")
    with pytest.raises(ValueError, match=r"is no folder"):
        load_images(tmp_path / "nowhere")
    write_table(tables / "classes.csv", [["class", "black"], ["auk", 1], ["bunting", 0.5], ["crow", 0.3]])
    with pytest.raises(ValueError, match=r"has images of 'dove', but classes.csv gives no attributes of it"):
        load(tree)


def test_a_name_that_is_not_utf8_is_named(tree):
    os.rename(tree / "train/auk/0.png", os.fsencode(tree / "train/auk") + b"/m\xf6we.png")
    with pytest.raises(ValueError, match=r"the name train/auk/m\\xf6we\.png is not UTF-8\. .* --dataset folder"):
        load_images(tree)


def test_check_reads_all_images(read, tree, tables):
    report = CheckReport()
    read(lambda folder, **options: check(folder, report, **options))
    assert not report.problems
    (tree / "train" / "auk" / "1.png").write_bytes(b"")
    report = CheckReport()
    check(tree, report)
    assert len(report.problems) == 1
