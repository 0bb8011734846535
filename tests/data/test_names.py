import os
import sys

import pytest
from PIL import Image
from tiny_extraction import IMAGE_SIZE, save_tiny_backbone

from dedn_hf.cli import main
from dedn_hf.data.folder import load, load_images, read_folder
from dedn_hf.data.load import check_gzsl_dataset
from dedn_hf.data.splits import image_id_of
from dedn_hf.features.store import FeatureMapStore
from dedn_hf.files import write_json
from dedn_hf.names_dedn import NameMatcher

CLASSES = ["Robin", "Great_Tit", "Wren", "Siskin"]


@pytest.fixture
def folder(tmp_path):
    for label, name in enumerate(CLASSES):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (8, 8), (90 * i, 60 * label, 0)).save(tmp_path / "images" / name / f"{i}.png")
    rows = [f"{name},{0.1 * label + 0.1},{0.9 - 0.2 * label}" for label, name in enumerate(CLASSES)]
    (tmp_path / "classes.csv").write_text("\n".join(["class,red,blue", *rows]) + "\n")
    return tmp_path


@pytest.mark.parametrize(
    "written",
    [
        *("great tit", "GREAT_TIT", "Great\u00a0Tit", "Great  Tit", "Great-Tit", "Great_Tit ", "Great_\u200bTit"),
        *("\ufeffGreat_Tit", "Ｇreat＿Tit", "Great\u2011Tit"),
    ],
)
def test_a_name_is_found_however_it_is_written(written):
    assert NameMatcher(CLASSES).find(written) == "Great_Tit"


def test_composed_and_decomposed_characters_are_the_same():
    matcher = NameMatcher(["Zaunk\u00f6nig", "Cooper's Hawk"])
    assert matcher.find("zaunko\u0308nig") == "Zaunk\u00f6nig" and matcher.find("Cooper’s hawk") == "Cooper's Hawk"


def test_a_name_that_may_be_two_is_neither():
    matcher = NameMatcher(["great_tit", "Great Tit"])
    assert matcher.find("Great Tit") == "Great Tit" and matcher.find("great_tit") == "great_tit"
    assert matcher.find("GREAT TIT") is None and matcher.closest("GREAT TIT") == "; closest: 'great_tit', 'Great Tit'"
    assert matcher.twins() == [["great_tit", "Great Tit"]] and not matcher.notes("table")


def test_a_name_that_is_another_is_not_found():
    matcher = NameMatcher(CLASSES)
    assert matcher.find("Grat Tit") is None and matcher.closest("Grat Tit") == "; closest: 'Great_Tit'"
    assert matcher.find("\u200b") is None and matcher.closest("zzz") == ""


def test_folders_of_classes_that_are_written_otherwise(folder):
    before = {row["image_id"]: row["label"] for row in load_images(folder)}
    (folder / "images/Great_Tit").rename(folder / "images/great tit")
    (folder / "images/Wren").rename(folder / "images/Wren\u200b")
    contents = read_folder(folder)
    assert not contents.problems and set(contents.images) == set(CLASSES)
    (note,) = contents.notes
    assert ("classes.csv: 2, such as" in note and "as 'Great_Tit'" in note) or "as 'Wren'" in note
    after = {row["image_id"]: row["label"] for row in load_images(folder)}
    assert sorted(after.values()) == sorted(before.values())
    assert image_id_of("great tit/0.png") in after and image_id_of("Robin/0.png") in before.keys() & after.keys()


def test_two_folders_for_a_class(folder):
    (folder / "images/great tit").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "images/great tit/9.png")
    assert "images/Great_Tit and images/great tit may both be 'Great_Tit': put the images into one" in (
        read_folder(folder).problems
    )


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("split.csv", "class,split\nrobin,seen\ngreat tit,validation\nWREN,unseen\nSiskin,seen\n"),
        ("attributes.csv", "attribute,group\nRed,a\nBLUE,b\n"),
        (
            "images.csv",
            "file,class\nRobin/0.png,robin\nGreat_Tit/0.png,great tit\nWren/0.png,WREN\n",
        ),
    ],
)
def test_tables_that_write_names_otherwise(folder, table, text):
    (folder / table).write_text(text)
    contents = read_folder(folder)
    assert not contents.problems
    assert any(note.startswith(f"{table}: names that differ in case, spaces or the like") for note in contents.notes)
    assert list(load(folder).class_names) == CLASSES


@pytest.mark.parametrize(
    ("table", "text", "problem"),
    [
        (
            "split.csv",
            "class,split\nRobin,seen\nGrat Tit,seen\nWren,unseen\nSiskin,seen\n",
            "split.csv, line 3: classes.csv has no class 'Grat Tit'; closest: 'Great_Tit'",
        ),
        (
            "attributes.csv",
            "attribute\nred\nblu\n",
            "attributes.csv, line 3: classes.csv has no attribute 'blu'; closest: 'blue'",
        ),
        (
            "images.csv",
            "file,class\nRobin/0.png,Robbin\n",
            "images.csv, line 2: classes.csv has no class 'Robbin'; closest: 'Robin'",
        ),
    ],
)
def test_a_wrong_name_gets_the_closest(folder, table, text, problem):
    (folder / table).write_text(text)
    assert problem in read_folder(folder).problems


def test_a_folder_of_no_class_gets_the_closest(folder):
    (folder / "images/Great_Tit").rename(folder / "images/Grat Tit")
    (problem,) = read_folder(folder).problems
    assert problem.endswith("classes.csv gives the class no attributes; closest: 'Great_Tit'")


def test_classes_that_differ_in_case_alone_stay_two_and_are_said(folder):
    with open(folder / "classes.csv", "a") as file:
        file.write("great tit,0.3,0.2\n")
    contents = read_folder(folder)
    assert not contents.problems and len(contents.class_names) == 5
    assert any("'Great_Tit' and 'great tit' are two classes" in note for note in contents.notes)


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are Unicode elsewhere")
def test_file_names_that_are_not_utf_8(folder, tmp_path_factory, capsys):
    before = set(load_images(folder)["image_id"])
    place = os.fsencode(folder / "images/Robin") + b"/caf\xe9.png"
    with open(place, "wb") as file:
        file.write((folder / "images/Wren/1.png").read_bytes())
    images = load_images(folder)
    assert before < set(images["image_id"]) and len(images) == 13
    assert {row["image"].getpixel((0, 0)) for row in images} >= {(90, 120, 0)}
    dataset = load(folder)
    assert sum(len(dataset.splits[part]) for part in ("trainval", "test_seen", "test_unseen")) == 13
    assert any("not UTF-8, such as images/Robin/caf\\xe9.png" in note for note in dataset.notes)
    report = check_gzsl_dataset("folder", str(folder), "random")
    print(report)
    assert "caf\\xe9.png" in capsys.readouterr().out
    write_json(tmp_path_factory.mktemp("out") / "report.json", report.to_dict())


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are Unicode elsewhere")
def test_feature_maps_of_files_whose_names_are_not_utf_8(folder, tmp_path_factory, capsys):
    image = (folder / "images/Wren/1.png").read_bytes()
    for name, content in ((b"caf\xe9.png", image), (b"bad\xe9.png", image[:40])):
        with open(os.fsencode(folder / "images/Robin/") + b"/" + name, "wb") as file:
            file.write(content)
    out = tmp_path_factory.mktemp("out")
    save_tiny_backbone(out / "backbone")
    options = ["--backbone", out / "backbone", "--image_size", IMAGE_SIZE, "--output_dir", out / "store"]
    command = ["features", "--dataset", "folder", "--data_dir", folder, *options, "--on_error", "skip"]
    assert main([*map(str, command)]) == 0
    said = capsys.readouterr().out
    assert "images/Robin/bad\\xe9.png: " in said and "13 feature maps" in said and "1 images skipped" in said
    assert len(FeatureMapStore(out / "store")) == 13


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are Unicode elsewhere")
def test_folder_names_that_are_not_utf_8_are_named(folder):
    os.rename(folder / "images/Robin", os.fsencode(folder / "images") + b"/Robin\xe9")
    with pytest.raises(ValueError, match=r"classes.csv gives the class no attributes; closest: 'Robin'") as raised:
        load(folder)
    assert str(raised.value).encode()
