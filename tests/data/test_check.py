import json
import os

import numpy as np
import pytest
from PIL import Image

from dedn_hf.data.check import CheckReport, check_class_attributes, check_images
from dedn_hf.files import write_json

CLASSES = ["wren", "owl", "jay", "auk"]
SPLITS = {"wren": "seen", "owl": "seen", "jay": "validation", "auk": "unseen"}


@pytest.fixture
def images(tmp_path):
    """Gives images of classes, each of a shade."""

    def make(**shades):
        made = []
        for name, of_class in shades.items():
            for i, shade in enumerate(of_class):
                file = tmp_path / f"{name}/{i}.png"
                file.parent.mkdir(exist_ok=True)
                Image.new("L", (8, 6), shade).save(file)
                made.append((file, name))
        return made

    return make


def report_of(tmp_path, images):
    report = CheckReport(tmp_path)
    check_images(report, images, SPLITS)
    return {kind: finding.lines for kind, finding in report.warnings.items()}


def test_sound_images(tmp_path, images):
    assert report_of(tmp_path, images(wren=[1, 2], owl=[3, 4], auk=[5, 6])) == {}


def test_the_same_picture_twice(tmp_path, images):
    found = report_of(tmp_path, images(wren=[1, 2, 2], owl=[1, 3, 4], jay=[5, 6, 4], auk=[7, 3]))
    assert found == {
        "picture in seen and unseen": ["owl/1.png = auk/1.png"],
        "picture in two classes": ["wren/0.png = owl/0.png", "owl/2.png = jay/2.png"],
        "picture twice": ["wren/1.png = wren/2.png"],
    }


def test_classes_with_few_images(tmp_path, images):
    found = report_of(tmp_path, images(wren=[1], owl=range(2, 42), jay=[50, 51]))
    assert found == {"class with one image": ["wren"], "unequal classes": ["owl has 40, wren has 1"]}
    assert report_of(tmp_path, images(owl=range(2, 42), jay=[50, 51])) == {}


def warnings_of(rows, seen=CLASSES[:3]):
    report = CheckReport()
    rows = np.array(rows, np.float32)
    check_class_attributes(report, CLASSES, [f"a{i}" for i in range(rows.shape[1])], rows, seen)
    return {kind: finding.lines for kind, finding in report.warnings.items()}


def test_attributes_that_tell_nothing():
    assert warnings_of([[1, 0], [0, 1], [1, 0.5], [0, 0.2]]) == {}
    assert warnings_of([[1, 0], [0, 1], [1, 0], [0, 1]])["twin classes"] == ["wren = jay", "owl = auk"]
    assert warnings_of([[1, 0.5], [0, 0.5], [0.1, 0.5], [0.2, 0.5]]) == {"constant attribute": ["a1 (0.5)"]}
    assert warnings_of([[1, 0, 1], [0, 1, 0], [0.1, 0, 0.1], [0.2, 0, 0.2]]) == {"duplicate attributes": ["a0 = a2"]}
    # Constant ones are equal to each other, too, which needs no further word.
    assert "duplicate attributes" not in warnings_of([[1, 1], [1, 1], [1, 1], [1, 1]])
    assert warnings_of([[1, 0], [0.5, 0], [0.1, 0], [0, 1]]) == {"attribute of unseen classes only": ["a1: auk"]}


def test_one_page():
    """However much there is, and whatever files are called."""
    report = CheckReport(understood=["4 classes"])
    odd = [f"bad\n{i}\udce9.png" for i in range(3000)]
    report.add_wrong("unreadable image", "images that cannot be read", *(f"{name}: it is empty" for name in odd))
    report.add_ignored({"litter": [f"{i}/Thumbs.db" for i in range(500)], "raw": ["1.nef"]})
    text = str(report)
    assert len(text.splitlines()) < 20 and text.encode()
    assert "WRONG (3,000): images that cannot be read" in text and "and 2,996 more" in text
    assert "IGNORED (500): what systems leave behind: 0/Thumbs.db and 499 more" in text
    assert text.splitlines()[-1] == "Found wrong: 3,000. Ignored: 501."
    assert str(CheckReport(understood=["a"])) == "a\nNothing wrong was found."


def test_everything_is_in_the_file_for_programs(tmp_path):
    report = CheckReport(tmp_path)
    files = [tmp_path / os.fsdecode(f"{i}".encode() + b"\xe9.png") for i in range(30)]
    report.add_wrong("unreadable image", "images", *(f"{report.name(file)}: empty" for file in files), paths=files)
    report.add_ignored({"raw": [tmp_path / "1.nef"]})
    write_json(tmp_path / "report.json", report.to_dict())
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    (wrong,), (ignored,) = content["wrong"], content["ignored"]
    assert wrong["count"] == len(wrong["lines"]) == len(wrong["paths"]) == 30
    assert wrong["kind"] == "unreadable image" and wrong["lines"][0] == wrong["paths"][0] + ": empty"
    assert ignored["paths"] == ["1.nef"] and content["warnings"] == []


def test_exit_status():
    report = CheckReport()
    assert report.exit_status() == report.exit_status(strict=True) == 0
    report.add_warning("note", "nothing")  # of which there is none
    assert report.exit_status(strict=True) == 0
    report.add_warning("note", "something", "a line")
    assert report.exit_status() == 0 and report.exit_status(strict=True) == 1
    report.add_wrong("table", "something", "a line")
    assert report.exit_status() == 1
