"""
A table of images in place of a folder for each class, `images.csv`: `file,class[,split]`, with the splits train,
validation and test.
"""

import os
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..names_dedn import NameMatcher, normalize
from .class_table import read_table

IMAGE_SPLITS = ("train", "validation", "test")
# As people, and Hugging Face's `imagefolder`, call the columns and splits.
SYNONYMS = {
    **dict.fromkeys(("file_name", "filename", "image", "path"), "file"),
    **dict.fromkeys(("label", "class_name", "category"), "class"),
}
SPLIT_SYNONYMS = {"val": "validation", "valid": "validation", "dev": "validation", "training": "train"}


@dataclass
class ImageTable:
    """
    What a table of images says.

    Args:
        images (`dict[str, dict[str, Path]]`):
            Class → its images: path within `images/`, or as it is written of one that lies elsewhere → where it is.
        image_splits (`dict[str, str]`):
            That path → one of `IMAGE_SPLITS`; empty if the table has no splits.
        lines (`dict[str, int]`):
            That path → its line in the table.
    """

    images: dict[str, dict[str, Path]] = field(default_factory=dict)
    image_splits: dict[str, str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)


def read_image_table(file: Path, known: NameMatcher, problems: list[str], notes: list[str]) -> ImageTable:
    """
    Reads a table of images. Files are sought beside the table and in `images/` beside it, unless their paths are
    absolute.

    Args:
        file (`Path`):
            The table.
        known ([`NameMatcher`]):
            The classes in `classes.csv`; without any, all may be named.
        problems (`list[str]`):
            Where to add what is wrong, with line numbers.
        notes (`list[str]`):
            Where to add what was understood of it.
    """
    found, by_file = ImageTable(), {}
    header, rows = read_table(file, "file", problems, notes=notes, synonyms=SYNONYMS)
    if not header:
        return found
    if "class" not in header:
        problems.append(f"{file.name}: there is no column 'class', only {', '.join(map(repr, header))}")
        return found
    splits = {}
    for written, (number, cells) in rows.items():
        row, line = dict(zip(header, cells)), f"{file.name}, line {number}"
        place = _find(file.parent, written)
        path = _path_within_images(file.parent, place, written)
        split = normalize(row.get("split", "")).casefold()
        split = SPLIT_SYNONYMS.get(split, split)
        of_class = known.find(row["class"]) if known and row["class"] else row["class"]
        if not row["class"]:
            problems.append(f"{line}: {written} has no class")
        elif of_class is None:
            problems.append(f"{line}: classes.csv has no class {row['class']!r}{known.closest(row['class'])}")
        elif split and split not in IMAGE_SPLITS:
            problems.append(f"{line}: the split of {written} must be train, validation or test, but is {split!r}")
        elif os.path.realpath(place) in by_file:
            problems.append(f"{line}: {written} is the file of line {by_file[os.path.realpath(place)]} already")
        else:
            by_file[os.path.realpath(place)] = number
            found.images.setdefault(of_class, {})[path] = place
            found.lines[path] = number
            splits[path] = split
    without = [path for path, split in splits.items() if not split]
    if without and len(without) < len(splits):
        problems.append(
            f"{file.name}, line {found.lines[without[0]]}: {without[0]} has no split, but others have; give all of "
            "them one, or none"
        )
    elif not without:
        found.image_splits = splits
    return found


def infer_class_splits(table: ImageTable, class_names: list[str]) -> dict[str, str]:
    """
    Class → `"seen"`, `"validation"` or `"unseen"`, as the splits of its images say: unseen, if it has images for
    testing only, or none; validation, if it has none to train on.
    """
    splits = {}
    for name in class_names:
        of_class = {table.image_splits.get(path, "train") for path in table.images.get(name, ())}
        splits[name] = "seen" if "train" in of_class else "validation" if "validation" in of_class else "unseen"
    return splits


def check_image_splits(table: ImageTable, class_splits: Mapping[str, str], table_name: str, problems: list[str]):
    """Adds what of the images' splits contradicts the classes', with line numbers."""
    for name, paths in table.images.items():
        if class_splits.get(name) != "unseen":
            continue
        wrong = [path for path in paths if table.image_splits.get(path, "test") != "test"]
        if wrong:
            problems.append(
                f"{table_name}, line {table.lines[wrong[0]]}: {wrong[0]} is for {table.image_splits[wrong[0]]}, but "
                f"its class {name} is unseen; all images of an unseen class are for testing"
            )


def _find(folder: Path, written: str) -> Path:
    """The file of a path as it is written, also with backslashes and in the other Unicode form; where it would be."""
    for path in dict.fromkeys((written, written.replace("\\", "/"))):
        for name in dict.fromkeys((path, unicodedata.normalize("NFD", path))):
            for place in (folder / name, folder / "images" / name):
                if os.path.isfile(place):
                    return Path(os.path.normpath(place))
    return Path(os.path.normpath(folder / written))


def _path_within_images(folder: Path, place: Path, written: str) -> str:
    images = folder / "images"
    if place.is_relative_to(images):
        return unicodedata.normalize("NFC", place.relative_to(images).as_posix())
    return written.replace("\\", "/")
