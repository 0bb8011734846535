import hashlib
import re
import unicodedata

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from dedn_hf.data.folder import load as load_folder
from dedn_hf.data.folder import load_images as load_folder_images
from dedn_hf.data.folder import read_folder
from dedn_hf.data.load import check_gzsl_dataset, cluster_attributes, load_gzsl_dataset
from dedn_hf.training.dataset import PixelValueDataset

CLASSES = ["Zaunkönig", "Amsel", "Star", "Spatz", "Meise", "Taube"]
ATTRIBUTES = ["brown wing", "black wing", "long tail", "short tail"]
GROUPS = ["wing", "wing", "tail", "tail"]
IMAGES_PER_CLASS = 10


def write_table(file, rows):
    file.write_text("".join(",".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")


def replace_line(file, number, line):
    lines = file.read_text(encoding="utf-8").splitlines()
    lines[number - 1 : number] = [] if line is None else [line]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def strength(label, attribute):
    return (label + 2 * attribute + 1) / 20


@pytest.fixture
def tree(tmp_path):
    """Image i of class k has the colour (20 k, i, 0)."""
    folder = tmp_path / "birds"
    for label, name in enumerate(CLASSES):
        (folder / "images" / name).mkdir(parents=True)
        for i in range(IMAGES_PER_CLASS):
            Image.new("RGB", (8, 6), (20 * label, i, 0)).save(folder / "images" / name / f"{i}.png")
    rows = [[name, *(strength(k, a) for a in range(len(ATTRIBUTES)))] for k, name in enumerate(CLASSES)]
    write_table(folder / "classes.csv", [["class", *ATTRIBUTES], *rows])
    descriptions = ["", "as black as coal", "", ""]
    write_table(
        folder / "attributes.csv",
        [["attribute", "group", "description"], *zip(ATTRIBUTES, GROUPS, descriptions, strict=True)],
    )
    splits = ["seen", "seen", "validation", "unseen", "seen", "unseen"]
    write_table(folder / "split.csv", [["class", "split"], *zip(CLASSES, splits, strict=True)])
    return folder


@pytest.fixture
def load(tree):
    return lambda **kwargs: load_folder(tree, **kwargs)


def check_folder(tree, *options):
    return check_gzsl_dataset("folder", str(tree), *options)


def problems_of(tree):
    problems = read_folder(tree).problems
    with pytest.raises(ValueError, match="cannot be used"):
        load_folder(tree)
    return problems


def test_class_side(load):
    dataset = load()
    assert dataset.name == "folder" and dataset.class_names == CLASSES and dataset.attribute_names == ATTRIBUTES
    assert dataset.attribute_groups == {"wing": [0, 1], "tail": [2, 3]}
    assert dataset.seen_class_ids == [0, 1, 2, 4] and dataset.validation_class_ids == [2]
    assert dataset.unseen_class_ids == [3, 5]
    expected = [[strength(k, a) for a in range(4)] for k in range(6)]
    np.testing.assert_allclose(dataset.class_attributes, expected, rtol=1e-6)
    assert dataset.class_attributes.dtype == np.float32 and dataset.word_vectors is None
    assert dataset.split_name == "split.csv" and len(dataset.split_sha256) == 64


def test_splits(load):
    splits = load().splits
    # Of ten images two are for the test; of the other eight of a seen class two are for validation.
    counts = {name: np.bincount(split["label"], minlength=6).tolist() for name, split in splits.items()}
    assert counts == {
        "train": [6, 6, 0, 0, 6, 0],
        "validation_seen": [2, 2, 0, 0, 2, 0],
        "validation_unseen": [0, 0, 8, 0, 0, 0],
        "test_seen": [2, 2, 2, 0, 2, 0],
        "test_unseen": [0, 0, 0, 10, 0, 10],
        "trainval": [8, 8, 8, 0, 8, 0],
    }
    ids = {name: set(split["image_id"]) for name, split in splits.items()}
    assert ids["trainval"] == ids["train"] | ids["validation_seen"] | ids["validation_unseen"]
    assert len(ids["trainval"] | ids["test_seen"] | ids["test_unseen"]) == 60


def test_rows_belong_together(load):
    for split in load().splits.values():
        for row in split:
            k, i, _ = row["image"].getpixel((0, 0))
            assert k == 20 * row["label"]
            digest = hashlib.sha256(f"{CLASSES[row['label']]}/{i}.png".encode()).digest()
            assert row["image_id"] == int.from_bytes(digest[:8], "big") // 2


def test_images_that_come_change_no_id_and_no_draw_of_classes(load, tree):
    before = {row["image_id"]: row["label"] for row in load_folder_images(tree)}
    (tree / "split.csv").unlink()
    split = read_folder(tree).class_splits
    Image.new("RGB", (8, 6)).save(tree / "images/Amsel/00.png")
    after = {row["image_id"]: row["label"] for row in load_folder_images(tree)}
    assert before.items() < after.items() and len(after) == 61
    assert read_folder(tree).class_splits == split


def test_seed_draws_images(load):
    draws = [load(seed=seed) for seed in (0, 0, 1)]
    chosen = [set(dataset.splits["test_seen"]["image_id"]) for dataset in draws]
    assert chosen[0] == chosen[1] != chosen[2]
    assert draws[0].split_sha256 == draws[1].split_sha256 != draws[2].split_sha256


def test_seed_draws_classes(tree, load):
    (tree / "split.csv").unlink()
    drawn = [tuple(read_folder(tree, seed).class_splits.values()) for seed in range(20)]
    assert drawn == [tuple(read_folder(tree, seed).class_splits.values()) for seed in range(20)]
    assert len(set(drawn)) > 5
    assert all((d.count("seen"), d.count("validation"), d.count("unseen")) == (4, 1, 1) for d in drawn)
    assert load(seed=3).split_name == "drawn with seed 3"


def test_per_cent(tree, load):
    rows = [[name, *(100 * strength(k, a) for a in range(4))] for k, name in enumerate(CLASSES)]
    fractions = load().class_attributes
    write_table(tree / "classes.csv", [["class", *ATTRIBUTES], *rows])
    np.testing.assert_allclose(load().class_attributes, fractions, rtol=1e-6)
    assert any("taken as per cent" in line for line in read_folder(tree).understood)


@pytest.mark.parametrize("unknown", ["", "NA", "-1"])
def test_unknown_strengths_take_the_mean_of_the_seen_classes(tree, load, caplog, unknown):
    known = load().class_attributes
    load_gzsl_dataset("folder", tree, "random")
    assert not caplog.records
    replace_line(tree / "classes.csv", 3, f"Amsel,{unknown},{known[1, 1]},{known[1, 2]},0")
    replace_line(tree / "classes.csv", 5, f"Spatz,{known[3, 0]},{known[3, 1]},{known[3, 2]},{unknown}")
    found = load().class_attributes
    # Seen and validation classes are 0, 1, 2 and 4.
    known[1, 3] = 0
    known[1, 0], known[3, 3] = known[[0, 2, 4], 0].mean(), known[[0, 1, 2, 4], 3].mean()
    np.testing.assert_allclose(found, known, rtol=1e-6)
    said = (
        "classes.csv: 2 unknown strengths take the seen classes' mean of the attribute, such as 'brown wing' of Amsel"
    )
    load_gzsl_dataset("folder", tree, "random")
    assert said in caplog.text and said in check_folder(tree, "random").warnings["note"].lines


def test_attribute_known_of_unseen_classes_only_takes_their_mean(tree, load):
    rows = [[name, 1, 0.5, 0, 0.6 if name == "Spatz" else 0.2 if name == "Taube" else "?"] for name in CLASSES]
    write_table(tree / "classes.csv", [["class", *ATTRIBUTES], *rows])
    np.testing.assert_allclose(load().class_attributes[:, 3], [0.4, 0.4, 0.4, 0.6, 0.4, 0.2], rtol=1e-6)
    assert any("4 unknown strengths take all classes' mean" in line for line in read_folder(tree).understood)


def test_tables_in_another_case_and_with_other_delimiters(tree, load):
    before = load()
    for name in ("classes.csv", "attributes.csv", "split.csv"):
        text = (tree / name).read_text(encoding="utf-8")
        (tree / name).unlink()
        text = "# mine\n" + text[0].upper() + text[1:].replace(",", ";").replace("0.", "0,")
        (tree / name.capitalize()).write_text(text, encoding="utf-8")
    after = load()
    np.testing.assert_array_equal(after.class_attributes, before.class_attributes)
    assert after.seen_class_ids == before.seen_class_ids and after.attribute_groups == before.attribute_groups
    assert after.attribute_descriptions == before.attribute_descriptions
    assert len(load_folder_images(tree)) == 60
    understood = read_folder(tree).understood
    for name in ("Classes.csv", "Attributes.csv", "Split.csv"):
        for said in (
            f"{name} taken as {name.lower()}",
            f"{name}: semicolons between values",
            f"{name}: left out lines",
        ):
            assert any(said in line for line in understood), understood
    (tree / "CLASSES.csv").write_text("class,a\n")
    assert "CLASSES.csv and Classes.csv may both be classes.csv: keep one" in problems_of(tree)


def test_attribute_scale(tree, load):
    rows = [[name, 5, label, 0, 0] for label, name in enumerate(CLASSES)]
    write_table(tree / "classes.csv", [["class", *ATTRIBUTES], *rows])
    assert "line 2 (Zaunkönig): 'brown wing' is '5'" in problems_of(tree)[0]
    assert "--attribute_scale" in problems_of(tree)[0]
    np.testing.assert_allclose(load(attribute_scale="5").class_attributes[:, 1], np.arange(6) / 5, rtol=1e-6)
    np.testing.assert_allclose(load(attribute_scale="percent").class_attributes[:, 0], 0.05, rtol=1e-6)
    dataset = load_gzsl_dataset("folder", tree, "random", attribute_scale=5)
    assert dataset.class_attributes.max() == 1
    report = check_gzsl_dataset("folder", tree, "random", attribute_scale="5")
    assert not report.wrong and any("on a scale from 0 to 5" in line for line in report.understood)
    for load_or_check in (load_gzsl_dataset, check_gzsl_dataset):
        with pytest.raises(ValueError, match="attribute_scale is 'five'; it must be unit"):
            load_or_check("folder", tree, "random", attribute_scale="five")
        with pytest.raises(ValueError, match="cub has a scale of its own"):
            load_or_check("cub", tree, "random", attribute_scale="unit")


def test_a_changed_table_is_read_anew(load, tree):
    assert load().seen_class_ids == [0, 1, 2, 4]
    replace_line(tree / "split.csv", 2, "Zaunkönig,unseen")
    assert load().seen_class_ids == [1, 2, 4] and 0 not in load().splits["trainval"]["label"]


def test_class_known_by_attributes_only(tree, load):
    for file in (tree / "images/Taube").iterdir():
        file.unlink()
    dataset = load()
    assert dataset.unseen_class_ids == [3, 5] and set(dataset.splits["test_unseen"]["label"]) == {3}
    (tree / "images/Taube").rmdir()
    assert load().unseen_class_ids == [3, 5]
    assert any("none of Taube, known by attributes only" in line for line in read_folder(tree).understood)
    (tree / "split.csv").unlink()
    assert all(read_folder(tree, seed).class_splits["Taube"] == "unseen" for seed in range(10))


def test_no_image_of_an_unseen_class(tree, load):
    for name in ("Spatz", "Taube"):
        for file in (tree / "images" / name).iterdir():
            file.unlink()
    splits = load().splits
    assert len(splits["test_unseen"]) == 0 and splits["test_unseen"].column_names == splits["train"].column_names


def test_unicode_forms(tree, load):
    """macOS takes ö apart in names of files; a table from elsewhere does not."""
    name = unicodedata.normalize("NFD", "Zaunkönig")
    assert name != "Zaunkönig"
    before = set(load_folder_images(tree)["image_id"])
    (tree / "images/Zaunkönig").rename(tree / "images" / name)
    dataset = load()
    assert (
        dataset.class_names == CLASSES and dataset.splits["train"].filter(lambda row: row["label"] == 0).num_rows == 6
    )
    assert set(load_folder_images(tree)["image_id"]) == before


def test_tables_of_spreadsheets(tree, load):
    """With a mark before the UTF-8, carriage returns, quotes, spaces, and empty lines at the end."""
    text = (tree / "classes.csv").read_text(encoding="utf-8").replace("brown wing", '" brown, wing"')
    (tree / "classes.csv").write_bytes(("\ufeff" + text.replace("\n", "\r\n") + ",,,,\r\n\r\n").encode())
    (tree / "attributes.csv").unlink()
    assert load().attribute_names == ["brown, wing", *ATTRIBUTES[1:]]


def test_files_that_are_no_images_are_ignored_and_told(tree, load):
    (tree / "images/.DS_Store").touch()
    (tree / "images/Amsel/.DS_Store").touch()
    (tree / "images/readme.txt").touch()
    (tree / "images/Amsel/notes.txt").touch()
    (tree / "images/Amsel/more").mkdir()
    assert len(load_folder_images(tree)) == 60
    report = check_folder(tree, "random")
    assert report.exit_status() == 0 and report.exit_status(strict=True) == 1
    assert {kind: finding.lines for kind, finding in report.ignored.items()} == {
        "litter": ["images/.DS_Store", "images/Amsel/.DS_Store"],
        "other": ["images/Amsel/notes.txt", "images/readme.txt"],
    }


def test_images_need_only_the_names_of_classes(tree):
    (tree / "split.csv").unlink()
    (tree / "attributes.csv").write_text("nonsense")
    write_table(tree / "classes.csv", [["class"], *([name] for name in CLASSES)])
    images = load_folder_images(tree)
    assert images.features["label"].names == CLASSES and len(images) == 60
    assert images.column_names == ["image", "label", "image_id"]


def test_odd_images(tree, load):
    folder = tree / "images/Amsel"
    for file in folder.iterdir():
        file.unlink()
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise
    wide = Image.new("RGB", (12, 6), (255, 0, 0))
    wide.paste((0, 0, 255), (6, 0, 12, 6))
    wide.save(folder / "rotated.jpg", exif=exif, quality=100, subsampling=0)
    Image.new("RGB", (1, 1), (255, 0, 0)).save(folder / "pixel.png")
    Image.new("CMYK", (6, 6), (0, 255, 255, 0)).save(folder / "cmyk.jpg", quality=100)
    Image.new("L", (6, 6), 128).save(folder / "grey.png")
    Image.new("RGBA", (6, 6), (255, 0, 0, 255)).save(folder / "alpha.png")
    replace_line(tree / "split.csv", 3, "Amsel,unseen")
    assert check_folder(tree, "random").problems == []
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 4}, crop_size=4, resample=2, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    split = load().splits["test_unseen"].filter(lambda label: label == 1, input_columns="label")
    paths = split.cast_column("image", datasets.Image(decode=False))
    values = {row["image"]["path"].split("/")[-1]: i for i, row in enumerate(paths)}
    pixel_values = {name: PixelValueDataset(split, processor)[i]["pixel_values"] for name, i in values.items()}
    assert all(x.shape == (3, 4, 4) for x in pixel_values.values())
    red = torch.tensor([1.0, -1.0, -1.0])[:, None, None].expand(3, 4, 4)
    for name in ("pixel.png", "cmyk.jpg", "alpha.png"):
        torch.testing.assert_close(pixel_values[name], red, atol=0.05, rtol=0)
    assert pixel_values["grey.png"].abs().max() < 0.01
    # Upright, it is red above and blue below.
    assert split[values["rotated.jpg"]]["image"].size == (6, 12)
    assert pixel_values["rotated.jpg"][0, 0].min() > 0.8 and pixel_values["rotated.jpg"][2, -1].min() > 0.8


@pytest.mark.parametrize(
    "file, number, line, message",
    [
        ("classes.csv", 3, "Zaunkönig,1,1,1,1", "classes.csv, line 3: class 'Zaunkönig' is in line 2 already"),
        ("classes.csv", 3, "Amsel,1,1,1", "classes.csv, line 3: 4 values where the header has 5"),
        (
            "classes.csv",
            3,
            "Amsel,high,low,0,1",
            "line 3 (Amsel): 'brown wing' is 'high', but strengths .*, and 1 more",
        ),
        ("classes.csv", 3, "Amsel,-0.5,0,0,1", "line 3 (Amsel): 'brown wing' is '-0.5', but strengths"),
        ("classes.csv", 3, "Amsel,inf,0,0,1", "line 3 (Amsel): 'brown wing' is 'inf', but strengths"),
        ("classes.csv", 3, "Amsel,101,0,0,1", "line 3 (Amsel): 'brown wing' is '101', neither"),
        ("classes.csv", 3, "Amsel,0,0,0,0", "line 3 (Amsel): the class has no attribute above 0"),
        ("classes.csv", 3, None, "images/Amsel has 10 images, but classes.csv gives the class no attributes"),
        ("classes.csv", 3, ",1,1,1,1", "line 3: the class has no name"),
        ("classes.csv", 1, "class,a,b,a,c", "line 1: attribute 'a' is there twice"),
        ("classes.csv", 1, "class,a,b,,c", "line 1: attribute 3 has no name"),
        ("classes.csv", 1, "name|a|b", "line 1: the header must begin with 'class', .*commas"),
        ("attributes.csv", 3, None, "lacks 1 of the 4 attributes in classes.csv, such as 'black wing'"),
        ("attributes.csv", 3, "brown wing,wing,", "line 3: attribute 'brown wing' is there twice"),
        ("attributes.csv", 3, "white wing,wing,", "line 3: classes.csv has no attribute 'white wing'"),
        ("attributes.csv", 3, "black wing,,", "1 attributes have no group, such as 'black wing'"),
        ("attributes.csv", 1, "name,group,description", "line 1: the header must be attribute,group,description"),
        ("split.csv", 3, "Amsel,test", "line 3: Amsel must be seen, validation or unseen, but is 'test'"),
        ("split.csv", 3, "Zaunkönig,seen", "line 3: class 'Zaunkönig' is there twice"),
        ("split.csv", 3, "Adler,seen", "line 3: classes.csv has no class 'Adler'"),
        ("split.csv", 3, None, "split.csv lacks 1 classes of classes.csv, such as 'Amsel'"),
        ("split.csv", 1, "name,split", "line 1: the header must be class,split"),
    ],
)
def test_wrong_tables(tree, file, number, line, message):
    replace_line(tree / file, number, line)
    found = problems_of(tree)
    pattern = re.escape(message).replace(r"\.\*", ".*")
    assert any(re.search(pattern, problem) for problem in found), found


def test_missing_things(tree):
    (tree / "classes.csv").rename(tree / "klassen.csv")
    assert problems_of(tree) == ["classes.csv is missing"]
    (tree / "images").rename(tree / "bilder")
    assert problems_of(tree)[:2] == ["classes.csv is missing", "images/ is missing"]
    assert "is no folder" in problems_of(tree / "nowhere")[0]
    (tree / "classes.csv").write_bytes("class,groß\n".encode("latin-1"))
    assert "classes.csv is not UTF-8, first in line 1: save it with that encoding" in problems_of(tree)
    (tree / "classes.csv").write_text("")
    assert "classes.csv is empty" in problems_of(tree)
    (tree / "classes.csv").write_text("class,brown wing\n")
    assert "classes.csv: it has no classes" in problems_of(tree)


def test_seen_class_without_images(tree):
    for file in (tree / "images/Amsel").iterdir():
        file.unlink()
    assert problems_of(tree) == ["split.csv, line 3: Amsel is seen, but images/Amsel has no images"]


def test_nothing_is_seen(tree):
    write_table(tree / "split.csv", [["class", "split"], *([name, "unseen"] for name in CLASSES)])
    assert problems_of(tree) == ["split.csv: no class is seen, so there is nothing to train on"]


def test_too_few_classes_to_draw(tree):
    (tree / "split.csv").unlink()
    for name in CLASSES[2:]:
        for file in (tree / "images" / name).iterdir():
            file.unlink()
    assert "2 classes with images are too few to draw" in problems_of(tree)[0]


def test_check_tells_all_at_once(tree):
    replace_line(tree / "classes.csv", 3, "Amsel,0,0,0,0")
    replace_line(tree / "split.csv", 4, "Star,never")
    (tree / "images/Star/3.png").write_bytes(b"no image")
    (tree / "images/Spatz/4.png").write_bytes((tree / "images/Spatz/4.png").read_bytes()[:45])
    problems = check_folder(tree, "nowhere.npy").problems
    assert len(problems) == 5
    for part in ("line 3 (Amsel)", "split.csv, line 4", "images/Star/3.png: it is no image", "nowhere.npy"):
        assert sum(part in problem for problem in problems) == 1, problems


def test_check_of_a_sound_folder(tree):
    report = check_folder(tree, "random")
    assert not report.wrong and not report.ignored
    text = str(report)
    for part in (
        "6 classes, 4 attributes, strengths up to 0.6 taken as fractions",
        "2 groups: wing (2), tail (2)",
        "1 descriptions",
        "60 images of 6 classes, 10 to 10 each",
        "split.csv: 3 seen: Zaunkönig, Amsel, Meise",
        "split.csv: 2 unseen: Spatz, Taube",
        "18 train, 6 validation_seen, 8 validation_unseen, 8 test_seen, 20 test_unseen, 32 trainval",
        "word vectors: 4 of size 64, from random",
    ):
        assert part in text, text


def test_groups_by_word_vectors(tree, load, tmp_path):
    (tree / "attributes.csv").unlink()
    np.save(tmp_path / "vectors.npy", np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 5, 0], [0, 6, 0.1]]))
    assert load().attribute_groups is None
    groups = load_gzsl_dataset("folder", tree, str(tmp_path / "vectors.npy"), num_groups=2).attribute_groups
    assert sorted(groups.values()) == [[0, 1], [2, 3]]
    assert all(ATTRIBUTES.index(name) in indices for name, indices in groups.items())
    assert len(load_gzsl_dataset("folder", tree, str(tmp_path / "vectors.npy")).attribute_groups) == 4
    assert any("clustered by word vectors: 2 groups" in line for line in check_folder(tree, "random", 2).understood)


def test_groups_that_cannot_be_had(tree):
    with pytest.raises(ValueError, match="num_groups is 3, but the attributes have 2 groups already"):
        load_gzsl_dataset("folder", tree, "random", num_groups=3)
    vectors = np.eye(3)[[0, 0, 1, 2]]
    for number in (0, 4):
        with pytest.raises(ValueError, match=f"num_groups is {number}, but there are 3 different"):
            cluster_attributes(ATTRIBUTES, vectors, number)
    assert [0, 1] in cluster_attributes(ATTRIBUTES, vectors, 3).values()
    assert len(cluster_attributes(ATTRIBUTES, vectors)) == 3


def test_clusters_are_the_same_again():
    vectors = np.random.default_rng(0).normal(size=(40, 8))
    names = [f"attribute {i}" for i in range(40)]
    groups = cluster_attributes(names, vectors, 5)
    assert sorted(index for indices in groups.values() for index in indices) == list(range(40)) and len(groups) == 5
    assert groups == cluster_attributes(names, vectors, 5)
