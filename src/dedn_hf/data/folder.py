"""
Your own images, attributes and classes, from a folder:

    images/<class>/*      the images of each class, also in folders; one that is only described needs none
    classes.csv           class,<attribute>,…: how strongly each class has each attribute, 0 to 1 or 0 to 100;
                          nothing where it is unknown
    attributes.csv        attribute,group,description: optional, and so are its last two columns
    split.csv             class,split: seen, validation or unseen; optional, else drawn
    images.csv            file,class,split: optional, in place of a folder for each class, see `image_table.py`
"""

import logging
import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset, DatasetDict

from ..files import printable
from ..names_dedn import NameMatcher, normalize
from .check import CheckReport, check_class_attributes, check_images
from .class_table import ClassTable, find_table, read_table, transpose
from .dataset import DatasetCard, GzslDataset, describe_groups, image_features, make_splits
from .image_files import describe_ignored, find_images, why_ignored
from .image_table import ImageTable, check_image_splits, infer_class_splits, read_image_table
from .splits import draw, fifth, fingerprint_split, image_id_of

logger = logging.getLogger(__name__)

CARD = DatasetCard(
    title="Own images",
    id="own-images",
    subject="images",
    summary="A folder of images, with its own classes and attributes.",
    license={"license": "unknown"},
    terms="The licence of the images has not been recorded. Say here under which terms the weights may be used.",
    caution="What the images show, and who or what they leave out, has not been recorded.",
    image="image.jpg",
    new_class="a new class",
    description=("the name of an attribute", "another one"),
)
CLASS_SPLITS = ("seen", "validation", "unseen")
ADVICE = "\nCorrect these, and look again with `dedn train --dataset folder --data_dir DIR --check`."


@dataclass(kw_only=True)
class FolderContents(ClassTable):
    """
    What [`read_folder`] found: what `classes.csv` says, see [`ClassTable`], and the rest.

    Args:
        folder (`Path`):
            The folder.
        attribute_groups (`dict[str, list[int]]`, *optional*):
            The groups in `attributes.csv`, if it has any.
        attribute_descriptions (`dict[str, str]`):
            Attribute → its description in `attributes.csv`, of those that have one.
        images (`dict[str, dict[str, Path]]`):
            Class → its images, of those that have any: path within `images/` → where it is.
        class_splits (`dict[str, str]`):
            Class → `"seen"`, `"validation"` or `"unseen"`.
        split_name (`str`):
            What the split is called in results and cards.
        table ([`ImageTable`]):
            What `images.csv` says, if there is one.
        ignored (`dict[str, list[Path]]`):
            What lies in `images/` and is no image of a class: a key of `IGNORED` → files and folders.
    """

    folder: Path
    attribute_groups: dict[str, list[int]] | None = None
    attribute_descriptions: dict[str, str] = field(default_factory=dict)
    images: dict[str, dict[str, Path]] = field(default_factory=dict)
    class_splits: dict[str, str] = field(default_factory=dict)
    split_name: str = ""
    table: ImageTable = field(default_factory=ImageTable)
    ignored: dict[str, list[Path]] = field(default_factory=dict)

    def partition(self, seed: int) -> dict[str, list[int]]:
        """
        The six splits: name → ids of the images, see [`image_id_of`].

        A fifth of the images of each class that is not unseen is `test_seen`, and so is a fifth of the others of a
        seen class `validation_seen`. Which ones depends on the seed and their paths alone, see [`draw`]. Where
        `images.csv` names images of such classes for testing, those are `test_seen` instead, and where it names images
        of seen classes for validation, those are `validation_seen`.

        Args:
            seed (`int`):
                Seed of the draw.
        """
        names = ("train", "validation_seen", "validation_unseen", "test_seen", "test_unseen")
        parts = {name: [] for name in names}

        def hold_out(paths: list[str], split: str, *of_classes: str) -> tuple[list[str], list[str]]:
            """What `images.csv` names for a split, or else a fifth; and the others."""
            if self._has_images_for(split, of_classes):
                held_out = [path for path in paths if self.table.image_splits[path] == split]
            else:
                held_out = paths[: fifth(len(paths))]
            others = set(paths) - set(held_out)
            return held_out, [path for path in paths if path in others]

        for name, split in self.class_splits.items():
            paths = draw(self.images.get(name, ()), seed)
            if split == "unseen":
                parts["test_unseen"] += paths
                continue
            tests, paths = hold_out(paths, "test", "seen", "validation")
            parts["test_seen"] += tests
            if split == "validation":
                parts["validation_unseen"] += paths
                continue
            held_out, paths = hold_out(paths, "validation", "seen")
            parts["validation_seen"] += held_out
            parts["train"] += paths
        parts = {name: [image_id_of(path) for path in paths] for name, paths in parts.items()}
        trainval = parts["train"] + parts["validation_seen"] + parts["validation_unseen"]
        return {name: sorted(ids) for name, ids in {**parts, "trainval": trainval}.items()}

    def _has_images_for(self, split: str, of_classes: tuple[str, ...]) -> bool:
        """Whether `images.csv` names an image of such a class for a split."""
        return any(
            self.table.image_splits.get(path) == split
            for name, class_split in self.class_splits.items()
            if class_split in of_classes
            for path in self.images.get(name, ())
        )


def load_images(data_dir: str | os.PathLike, check_files: bool = True) -> Dataset:
    """
    All images of a folder and their classes, which is all that extracting feature maps needs.

    Args:
        data_dir (`str` or `os.PathLike`):
            The folder, with `images/` and the first column of `classes.csv`.
        check_files (`bool`, *optional*, defaults to `True`):
            Whether all images that `images.csv` names must exist, and links to images lead somewhere.

    Returns:
        `datasets.Dataset`: columns `image` (read when asked for), `label` (`ClassLabel` over the classes in the order
        of `classes.csv`) and `image_id` (see [`image_id_of`], of paths such as `wren/1.jpg`).

    Raises:
        ValueError: If there are no images, or the classes do not fit them; names what is wrong.
    """
    contents = FolderContents(folder=Path(data_dir).resolve())
    if contents.folder.is_dir():
        file = find_table(contents.folder, "classes.csv", contents.problems, contents.understood)
        contents.read_classes(file, names_only=True)
    else:
        contents.problems.append(f"{contents.folder} is no folder")
    _find_images(contents)
    _require_files(contents, check_files)
    contents.require_sound(contents.folder, ADVICE)
    for line in _left_out(contents):
        logger.warning(line)
    return Dataset.from_list(list(_make_rows(contents).values()), features=image_features(contents.class_names))


def load(
    data_dir: str | os.PathLike,
    check_files: bool = True,
    seed: int = 0,
    attribute_scale: str | float | None = None,
) -> GzslDataset:
    """
    Your own images, attributes and classes.

    Args:
        data_dir (`str` or `os.PathLike`):
            The folder, see [`read_folder`].
        check_files (`bool`, *optional*, defaults to `True`):
            As in [`load_images`].
        seed (`int`, *optional*, defaults to 0):
            Seed of what is drawn: images for test and validation and, without `split.csv`, classes.
        attribute_scale (`str` or `float`, *optional*):
            As in [`read_folder`].

    Returns:
        `GzslDataset`: named `"folder"`, with class attributes as fractions, without word vectors, and without groups
        where `attributes.csv` has none.

    Raises:
        ValueError: If anything is wrong with the folder, all of which is listed.
    """
    contents = read_folder(data_dir, seed, attribute_scale)
    _require_files(contents, check_files)
    contents.require_sound(contents.folder, ADVICE)
    parts = contents.partition(seed)
    splits = make_splits(_make_rows(contents), parts, image_features(contents.class_names))
    return make_dataset("folder", contents, parts, splits)


def make_dataset(
    name: str, contents: FolderContents, parts: Mapping[str, Sequence[int]], splits: DatasetDict
) -> GzslDataset:
    """
    A data set of what was found in a folder.

    Args:
        name (`str`):
            Its name.
        contents (`FolderContents`):
            What was found, without problems.
        parts (`Mapping[str, Sequence[int]]`):
            See [`FolderContents.partition`].
        splits (`DatasetDict`):
            The same as tables.
    """
    class_splits = [contents.class_splits[name] for name in contents.class_names]
    return GzslDataset(
        name=name,
        attribute_groups=contents.attribute_groups,
        splits=splits,
        class_names=contents.class_names,
        attribute_names=contents.attribute_names,
        class_attributes=contents.class_attributes,
        seen_class_ids=[label for label, split in enumerate(class_splits) if split != "unseen"],
        validation_class_ids=[label for label, split in enumerate(class_splits) if split == "validation"],
        split_name=contents.split_name,
        split_sha256=fingerprint_split(parts),
        attribute_descriptions=contents.attribute_descriptions,
        class_parents=contents.class_parents,
        notes=contents.notes + _left_out(contents),
    )


def check(
    data_dir: str | os.PathLike, report: CheckReport, attribute_scale: str | float | None = None
) -> FolderContents:
    """
    Reports what is understood of a folder, and what is wrong with it, before anything runs. Reads every image.

    Args:
        data_dir, attribute_scale:
            As in [`load`].
        report ([`CheckReport`]):
            Where to add it.

    Returns:
        `FolderContents`: what was found, with `attribute_names`, `attribute_groups` and `attribute_descriptions`.
    """
    contents = read_folder(data_dir, attribute_scale=attribute_scale)
    report_tables(report, contents)
    check_images(
        report,
        [(file, name) for name, images in contents.images.items() for file in images.values()],
        contents.class_splits,
    )
    return contents


def report_tables(report: CheckReport, contents: FolderContents):
    """Reports what was understood of tables and what is wrong with them."""
    report.folder = contents.folder
    report.understood += [line for line in contents.understood if line not in contents.notes]
    report.add_wrong("folder", "tables and folders that are not as they must be", *contents.problems)
    report.add_warning("note", "what could have been meant otherwise", *contents.notes)
    report.add_ignored(contents.ignored)
    if contents.class_attributes is not None:
        seen = [name for name, split in contents.class_splits.items() if split != "unseen"]
        check_class_attributes(report, contents.class_names, contents.attribute_names, contents.class_attributes, seen)


def read_folder(
    data_dir: str | os.PathLike,
    seed: int = 0,
    attribute_scale: str | float | None = None,
    find_images: Callable[[FolderContents], str] | None = None,
) -> FolderContents:
    """
    Reads the tables of a folder and lists its images, and notes all that is wrong instead of stopping at it.

    Names are stripped and compared in Unicode's normal form C, since some systems store `é` as two characters.

    Args:
        data_dir (`str` or `os.PathLike`):
            Folder with `images/<class>/*` and `classes.csv` (header `class,<attribute>,…`) and, optionally,
            `attributes.csv` (header `attribute,group,description`) and `split.csv` (header `class,split`, with seen,
            validation or unseen).
        seed (`int`, *optional*, defaults to 0):
            Seed of the classes' split where there is no `split.csv`: a fifth of the classes with images is unseen and
            another fifth validation (rounded, at least one); classes without images are unseen.
        attribute_scale (`str` or `float`, *optional*):
            Of `classes.csv`, see [`ClassTable.read_classes`].
        find_images (`Callable`, *optional*):
            What finds the images, and splits of images if there are some, and gives what says which there are. By
            default they are those that `images.csv` names, or else those in the folders of `images/`.

    Returns:
        `FolderContents`: its `problems` are empty if the folder can be used.
    """
    contents = FolderContents(folder=Path(data_dir).resolve())
    if not contents.folder.is_dir():
        contents.problems.append(f"{contents.folder} is no folder")
        return contents
    tables = {
        name: find_table(contents.folder, name, contents.problems, contents.understood)
        for name in ("classes.csv", "attributes.csv", "split.csv")
    }
    contents.read_classes(tables["classes.csv"], attribute_scale=attribute_scale)
    if tables["attributes.csv"].exists():
        _read_attributes(contents, tables["attributes.csv"])
    source = (find_images or _find_images)(contents)
    class_splits = infer_class_splits(contents.table, contents.class_names)
    if tables["split.csv"].exists():
        _read_split(contents, tables["split.csv"])
        if find_images is None:
            check_image_splits(contents.table, contents.class_splits, source, contents.problems)
    elif any(class_splits.get(name) == "unseen" for name in contents.table.images):
        _take_split(contents, class_splits, source, seed)
    else:
        _draw_split(contents, seed)
    contents.fill_unknown([name for name, split in contents.class_splits.items() if split != "unseen"])
    if not contents.problems:
        counts = {name: len(ids) for name, ids in contents.partition(seed).items()}
        contents.understood.append("images: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    return contents


def _require_files(contents: FolderContents, check_files: bool):
    files = [file for images in contents.images.values() for file in images.values()]
    absent = [file for file in files if not file.exists()] if check_files else []
    if absent:
        name = absent[0].relative_to(contents.folder) if absent[0].is_relative_to(contents.folder) else absent[0]
        contents.problems.append(
            f"images that do not exist, or links to them that lead nowhere: {len(absent)}, such as {name}; bring them "
            "back, or remove what names them"
        )


def _left_out(contents: FolderContents) -> list[str]:
    """What is to be said at every start of files that were left out: of those that may have been meant."""
    return [
        f"images/: {describe_ignored(reason, contents.ignored[reason], contents.folder)}"
        for reason in ("raw", "outside", "broken link")
        if reason in contents.ignored
    ]


def _make_rows(contents: FolderContents) -> dict[int, dict]:
    return {
        image_id_of(path): {"image": _make_image(file), "label": label, "image_id": image_id_of(path)}
        for label, name in enumerate(contents.class_names)
        for path, file in contents.images.get(name, {}).items()
    }


def _make_image(file: Path) -> dict:
    """An image as `datasets` keeps it; Arrow has no strings for names that are not UTF-8."""
    name = printable(file)
    content = file.read_bytes() if name != str(file) and file.is_file() else None
    return {"bytes": content, "path": name}


def _read_attributes(contents: FolderContents, file: Path):
    names, wrong = contents.attribute_names, contents.problems.append
    columns = ("group", "description")
    known = NameMatcher(names)
    header, table = read_table(file, "attribute", contents.problems, columns, known, contents.understood)
    contents.note(*known.notes(file.name))
    if not header:
        return
    absent = [name for name in names if name not in table]
    if absent:
        wrong(
            f"attributes.csv lacks {len(absent)} of the {len(names)} attributes in classes.csv, such as {absent[0]!r}"
        )
        return
    rows = {name: dict(zip(header, table[name][1])) for name in names}
    groups = {}
    for index, row in enumerate(rows.values()):
        groups.setdefault(row.get("group", ""), []).append(index)
    if "" not in groups:
        contents.attribute_groups = groups
        contents.understood.append(f"attributes.csv: {describe_groups(groups)}")
    elif len(groups) > 1:
        without = [names[index] for index in groups[""]]
        wrong(
            f"attributes.csv: {len(without)} attributes have no group, such as {without[0]!r}, but others have; give "
            "all of them one, or none"
        )
    contents.attribute_descriptions = {
        name: row["description"] for name, row in rows.items() if row.get("description")
    }
    if contents.attribute_descriptions:
        contents.understood.append(f"attributes.csv: {len(contents.attribute_descriptions)} descriptions")


def _find_images(contents: FolderContents) -> str:
    """Finds the images, by `images.csv` if there is one and else by folders; gives what says which there are."""
    table = find_table(contents.folder, "images.csv", contents.problems, contents.understood)
    if table.exists():
        known = NameMatcher(contents.class_names)
        contents.table = read_image_table(table, known, contents.problems, contents.understood)
        contents.note(*known.notes(table.name))
        contents.images = contents.table.images
        _find_unlisted(contents)
    else:
        _find_folders(contents)
    source = table.name if table.exists() else "images/"
    counts = [len(images) for images in contents.images.values() if images]
    if not counts:
        if table.exists():
            contents.problems.append(f"{source} names no images that can be used")
        elif (contents.folder / "images").is_dir():
            contents.problems.append("images/ has no images: they belong in images/<class>/")
        return source
    contents.understood.append(
        f"{source}: {sum(counts)} images of {len(counts)} classes, {min(counts)} to {max(counts)} each"
    )
    without = [name for name in contents.class_names if not contents.images.get(name)]
    if without:
        listed = ", ".join(without[:20]) + ", …" * (len(without) > 20)
        contents.understood.append(f"{source}: none of {listed}, known by attributes only")
    return source


def _find_unlisted(contents: FolderContents):
    """Files in `images/` that `images.csv` does not name."""
    folder = contents.folder / "images"
    listed = {os.path.realpath(file) for images in contents.images.values() for file in images.values()}
    if folder.is_dir():
        others = [file for file in find_images(folder, contents.ignored) if os.path.realpath(file) not in listed]
        if others:
            contents.ignored["unlisted"] = others


def _find_folders(contents: FolderContents):
    folder, wrong = contents.folder / "images", contents.problems.append
    if not folder.is_dir():
        wrong("images/ is missing")
        return
    known, folders, strangers = NameMatcher(contents.class_names), {}, []
    for place in sorted(folder.iterdir()):
        images = _find_images_of_class(contents, place, known)
        if images is None:
            continue
        name = normalize(place.name)
        of_class = known.find(name) if known else name
        paths = {f"{name}/{unicodedata.normalize('NFC', file.relative_to(place).as_posix())}": file for file in images}
        if folders.get(of_class) == name or len(paths) < len(images):
            wrong(f"images/{name}: names are there twice, in different Unicode forms")
        elif of_class is None:
            strangers.append(name)
            wrong(
                f"images/{name} has {len(images)} images, but classes.csv gives the class no attributes"
                f"{known.closest(name)}"
            )
        elif of_class in folders:
            wrong(f"images/{folders[of_class]} and images/{name} may both be {of_class!r}: put the images into one")
        else:
            contents.images[of_class], folders[of_class] = paths, name
    contents.note(*known.notes("images/"))
    columns = NameMatcher(contents.attribute_names)
    if strangers and not contents.images and all(map(columns.find, strangers)):
        del contents.problems[-len(strangers) :]
        table = find_table(contents.folder, "classes.csv", [], [])
        wrong(f"{table.name}: its columns are named as the folders in images/. {transpose(table)}")
    odd = [file for images in contents.images.values() for file in images.values() if printable(file) != str(file)]
    if printable(contents.folder) != str(contents.folder):
        wrong(f"the path of the folder, {printable(contents.folder)}, is not UTF-8: rename it, or link to it")
    elif odd:
        first = printable(odd[0].relative_to(contents.folder))
        contents.note(
            f"images/: the names of {len(odd)} images are not UTF-8, such as {first}; they are kept in memory"
        )


def _find_images_of_class(contents: FolderContents, place: Path, known: NameMatcher) -> list[Path] | None:
    """The images of a class, given what lies in `images/`; `None` of what is no folder of a class."""
    reason = why_ignored(place)
    if reason is None and place.is_dir():
        try:
            images = find_images(place, contents.ignored)
        except OSError as error:
            contents.problems.append(f"images/{place.name} cannot be searched: {error.strerror or error}")
            return None
        if images or not known or known.find(normalize(place.name)):
            return images
        reason = "empty folder"
    elif reason in (None, "broken link") and place.is_symlink() and not place.exists():
        contents.problems.append(f"images/{place.name} is a link to {place.readlink()}, which does not exist")
        return None
    contents.ignored.setdefault(reason or "outside", []).append(place)
    return None


def _read_split(contents: FolderContents, file: Path):
    names, wrong = contents.class_names, contents.problems.append
    known = NameMatcher(names)
    header, table = read_table(file, "class", contents.problems, ["split"], known, contents.understood)
    contents.note(*known.notes(file.name))
    if not header:
        return
    contents.class_splits = {name: "".join(cells[1:]).lower() for name, (_, cells) in table.items()}
    for name, split in contents.class_splits.items():
        line = f"split.csv, line {table[name][0]}"
        if split not in CLASS_SPLITS:
            wrong(f"{line}: {name} must be seen, validation or unseen, but is {split!r}")
        elif split != "unseen" and contents.images and not contents.images.get(name):
            wrong(f"{line}: {name} is {split}, but images/{name} has no images")
    absent = [name for name in names if name not in contents.class_splits]
    if absent:
        wrong(f"split.csv lacks {len(absent)} classes of classes.csv, such as {absent[0]!r}")
    if names and "seen" not in contents.class_splits.values():
        wrong("split.csv: no class is seen, so there is nothing to train on")
    contents.split_name = "split.csv"
    _tell_split(contents, "split.csv")


def _draw_split(contents: FolderContents, seed: int):
    with_images = draw((name for name in contents.class_names if contents.images.get(name)), seed)
    if contents.images and contents.class_names and len(with_images) < 3:
        contents.problems.append(
            f"there is no split.csv, and {len(with_images)} classes with images are too few to draw seen, validation "
            "and unseen ones: 3 are needed"
        )
    count = fifth(len(with_images))
    contents.class_splits = dict.fromkeys(contents.class_names, "unseen")
    contents.class_splits |= dict.fromkeys(with_images[count : 2 * count], "validation")
    contents.class_splits |= dict.fromkeys(with_images[2 * count :], "seen")
    contents.split_name = f"drawn with seed {seed}"
    without = [name for name in contents.class_names if not contents.images.get(name)]
    if without and contents.images:
        others = f" and {len(without) - 1} others have" if without[1:] else " has"
        contents.note(
            f"no split.csv: {without[0]}{others} no images, taken as unseen and known by attributes only; if images "
            "are lost, bring them back, else say in split.csv which classes are unseen"
        )
    _tell_split(contents, f"no split.csv, drawn with seed {seed}")


def _take_split(contents: FolderContents, class_splits: dict[str, str], source: str, seed: int):
    """What classes are by the splits of their images; a fifth of the seen ones is drawn for validation if none is."""
    contents.class_splits = class_splits
    if "validation" not in class_splits.values():
        seen = draw((name for name, split in class_splits.items() if split == "seen"), seed)
        contents.class_splits |= dict.fromkeys(seen[: fifth(len(seen))], "validation")
        source += f", without a class for validation alone, drawn with seed {seed}"
    contents.split_name = source
    _tell_split(contents, source)


def _tell_split(contents: FolderContents, source: str):
    for split in CLASS_SPLITS:
        names = [name for name, other in contents.class_splits.items() if other == split]
        listed = ", ".join(names[:20]) + ", …" * (len(names) > 20)
        note = "; the validated protocol needs some" if split == "validation" and not names else ""
        contents.understood.append(f"{source}: {len(names)} {split}{': ' if names else ''}{listed}{note}")
