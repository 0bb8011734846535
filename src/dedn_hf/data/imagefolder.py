"""
Images as Hugging Face `datasets` has them, with a table of classes of your own:

    --dataset imagefolder --data_dir DIR    DIR/<split>/<class>/*, or DIR/<class>/*, or metadata files: what
                                            `load_dataset("imagefolder", data_dir=DIR)` reads
    --dataset ORG/NAME --data_dir DIR       a data set of the Hub, or a local folder of one, with a column of images
                                            and one of classes

and in DIR `classes.csv` and, optionally, `attributes.csv` and `split.csv`, see `folder.py`.
"""

import os
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Image, Value
from tqdm.auto import tqdm

from ..files import printable
from ..images_dedn import load_any_image
from ..names_dedn import NameMatcher
from ..recipes import IMAGEFOLDER, short_name
from . import folder
from .check import CheckReport, check_images
from .class_table import find_table
from .dataset import GzslDataset, image_features
from .folder import ADVICE, FolderContents, make_dataset, read_folder, report_tables
from .image_table import IMAGE_SPLITS, SPLIT_SYNONYMS
from .splits import image_id_of

CARD = replace(folder.CARD, summary="Images with their classes, and attributes of these.")


def load_images(data_dir: str | os.PathLike, check_files: bool = True, *, name: str = IMAGEFOLDER) -> Dataset:
    """
    All images and their classes, which is all that extracting feature maps needs.

    Args:
        data_dir (`str` or `os.PathLike`):
            The folder with `classes.csv`, and for `"imagefolder"` with the images.
        check_files (`bool`, *optional*, defaults to `True`):
            Of no effect: there are the images that `datasets` finds.
        name (`str`, *optional*, defaults to `"imagefolder"`):
            `"imagefolder"`, or the id or folder of a data set.

    Returns:
        `datasets.Dataset`: columns `image` (read when asked for), `label` (`ClassLabel` over the classes in the order
        of `classes.csv`) and `image_id` (see [`image_id_of`], of paths such as `train/wren/1.jpg`, or places such as
        `train/17` where an image has none).

    Raises:
        ValueError: If the data set cannot be loaded, its columns cannot be told, or its classes are not those of
            `classes.csv`; names what is wrong.
    """
    contents, images = FolderContents(folder=Path(data_dir).resolve()), _Images(name)
    if contents.folder.is_dir():
        file = find_table(contents.folder, "classes.csv", contents.problems, contents.understood)
        contents.read_classes(file, names_only=True)
    else:
        contents.problems.append(f"{contents.folder} is no folder")
    images.find(contents)
    contents.require_sound(_title(name, contents), ADVICE)
    return images.table


def load(
    data_dir: str | os.PathLike,
    check_files: bool = True,
    seed: int = 0,
    attribute_scale: str | float | None = None,
    *,
    name: str = IMAGEFOLDER,
) -> GzslDataset:
    """
    Images as `datasets` has them, with attributes.

    Classes are seen, unseen or for validation as `split.csv` says; without it, as drawn, unless there are classes with
    images in the test split only, which are unseen. All images of an unseen class are `test_unseen`. Of the others,
    those of the test and validation splits are `test_seen` and `validation_seen`; where there is no such split, a
    fifth is drawn.

    Args:
        data_dir, check_files, name:
            As in [`load_images`].
        seed (`int`, *optional*, defaults to 0):
            Seed of what is drawn.
        attribute_scale (`str` or `float`, *optional*):
            As in [`read_folder`].

    Raises:
        ValueError: If anything is wrong with it, all of which is listed.
    """
    images = _Images(name)
    contents = read_folder(data_dir, seed, attribute_scale, images.find)
    contents.require_sound(_title(name, contents), ADVICE)
    parts = contents.partition(seed)
    row_of = {image_id: row for row, image_id in enumerate(images.table["image_id"])}
    splits = {part: images.table.select([row_of[image_id] for image_id in ids]) for part, ids in parts.items()}
    return make_dataset(short_name(name), contents, parts, DatasetDict(splits))


def check(
    data_dir: str | os.PathLike,
    report: CheckReport,
    attribute_scale: str | float | None = None,
    *,
    name: str = IMAGEFOLDER,
) -> FolderContents:
    """As [`folder.check`]."""
    images = _Images(name)
    contents = read_folder(data_dir, attribute_scale=attribute_scale, find_images=images.find)
    report_tables(report, contents)
    if images.table is None:
        return contents
    files, unreadable, names = [], [], contents.class_names
    examples = images.table.cast_column("image", Image(decode=False))
    for key, example in zip(images.keys, tqdm(examples, desc="Reading images", unit="image", disable=None)):
        if example["image"]["bytes"] is None:
            files.append((Path(example["image"]["path"]), names[example["label"]]))
            continue
        try:
            load_any_image(example["image"])
        except Exception as error:  # Pillow raises whatever a damaged byte leads to
            unreadable.append(f"{key}: {error}")
    check_images(report, files, contents.class_splits)
    report.add_wrong("unreadable image", "images that cannot be read", *unreadable)
    return contents


def _title(name: str, contents: FolderContents) -> str:
    return f"{contents.folder}" if name == IMAGEFOLDER else f"{name} with {contents.folder}"


class _Images:
    """
    The images of a data set of `datasets`.

    Args:
        name (`str`):
            See [`load_images`].

    Attributes:
        table (`datasets.Dataset`, *optional*):
            All its images; `None` as long as they were not found.
        keys (`list[str]`):
            What each of them is called, see [`load_images`].
    """

    def __init__(self, name: str):
        self.name, self.table, self.keys = name, None, []

    def find(self, contents: FolderContents) -> str:
        """Fills in the images of what was found of a folder, see [`read_folder`]."""
        wrong, source = contents.problems.append, self.name
        try:
            if self.name == IMAGEFOLDER:
                loaded = datasets.load_dataset(IMAGEFOLDER, data_dir=str(contents.folder))
            else:
                loaded = datasets.load_dataset(self.name)
        except Exception as error:  # of many kinds, from the network to a damaged file
            reason = " ".join(str(error.__cause__ or error).split())
            if isinstance(error.__cause__, UnicodeError):
                reason += _name_beyond_utf8(contents.folder if self.name == IMAGEFOLDER else Path(self.name))
            wrong(f"{source} cannot be loaded as a data set: {reason}")
            return source
        tables, counts = [], {}
        for split, table in loaded.items():
            part = SPLIT_SYNONYMS.get(split, split)
            if part not in IMAGE_SPLITS:
                contents.note(f"{source}: the split {split!r} is left out; those read are {', '.join(IMAGE_SPLITS)}")
                continue
            tables.append(self._read_split(contents, split, part, table))
            if tables[-1] is None:
                return source
            counts[split] = len(tables[-1])
        if not any(counts.values()):
            wrong(f"{source} has no images in {', '.join(IMAGE_SPLITS)}, only splits {', '.join(loaded)}")
            return source
        self.table = datasets.concatenate_datasets(tables)
        contents.images = contents.table.images
        if len(counts) == 1:
            contents.table.image_splits.clear()
        sizes = [len(images) for images in contents.images.values()]
        contents.understood.append(
            f"{source}: {', '.join(f'{count} images in {split}' for split, count in counts.items())}; {len(sizes)} "
            f"classes, {min(sizes)} to {max(sizes)} each"
        )
        without = [name for name in contents.class_names if name not in contents.images]
        if without:
            contents.understood.append(f"{source}: no images of {', '.join(without)}, known by attributes only")
        return source

    def _read_split(self, contents: FolderContents, split: str, part: str, table: Dataset) -> Dataset | None:
        columns = _find_columns(self.name, split, table, contents)
        if columns is None:
            return None
        image_column, label_column = columns
        labels = _read_labels(self.name, split, table, label_column, contents)
        if labels is None:
            return None
        known = np.flatnonzero(labels >= 0)
        if len(known) < len(labels):
            contents.note(f"{self.name}: {len(labels) - len(known)} images in {split} have no class and are left out")
        if self.name == IMAGEFOLDER:
            raw = table.cast_column(image_column, Image(decode=False))
            paths = [Path(image["path"]).resolve() for image in raw[image_column]]
            keys = [path.relative_to(contents.folder).as_posix() for path in paths]
        else:
            keys = [f"{split}/{row}" for row in range(len(table))]
        for row in known.tolist():
            name = contents.class_names[labels[row]]
            contents.table.images.setdefault(name, {})[keys[row]] = Path(keys[row])
            contents.table.image_splits[keys[row]] = part
        kept = [keys[row] for row in known.tolist()]
        self.keys += kept
        table = table.select_columns(image_column).rename_columns({image_column: "image"})
        table = table.select(known)
        table = table.add_column("label", labels[known].tolist(), feature=ClassLabel(names=contents.class_names))
        table = table.add_column("image_id", [image_id_of(key) for key in kept], feature=Value("int64"))
        return table.cast(image_features(contents.class_names))


def _find_columns(source: str, split: str, table: Dataset, contents: FolderContents) -> tuple[str, str] | None:
    """The columns of images and of classes: by their names, or the only ones of their kind."""
    found = []
    kinds = {"image": (Image,), "label": (ClassLabel,)}
    for name, kind in kinds.items():
        fitting = [column for column, feature in table.features.items() if isinstance(feature, kind)]
        if name in table.features and (name in fitting or name == "label"):
            found.append(name)
        elif len(fitting) == 1:
            contents.note(f"{source}: in {split}, the column {fitting[0]!r} is taken as {name!r}")
            found.append(fitting[0])
        else:
            contents.problems.append(
                f"{source}: {split} has no column {name!r}, only {', '.join(table.column_names)}: rename the one with "
                + ("the images" if name == "image" else "the classes")
            )
            return None
    return found[0], found[1]


def _read_labels(source: str, split: str, table: Dataset, column: str, contents: FolderContents) -> np.ndarray | None:
    """Place of each image's class in `classes.csv`; -1 where it has none."""
    place = {name: index for index, name in enumerate(contents.class_names)}
    feature, values = table.features[column], table[column][:]
    if isinstance(feature, ClassLabel):
        names = [None if value is None or value < 0 else feature.names[value] for value in values]
    elif isinstance(feature, Value) and "string" in feature.dtype:
        names = values
    else:
        contents.problems.append(
            f"{source}: the column {column!r} of {split} holds {getattr(feature, 'dtype', type(feature).__name__)}, "
            "and no names of classes: cast it to ClassLabel, or write the names"
        )
        return None
    known = NameMatcher(contents.class_names)
    places = {name: -1 if name is None else place.get(known.find(name)) for name in dict.fromkeys(names)}
    contents.note(*known.notes(source))
    strangers = [name for name, found in places.items() if found is None]
    if strangers and contents.class_names:
        listed = ", ".join(map(repr, strangers[:3])) + ", …" * (len(strangers) > 3)
        contents.problems.append(
            f"{source}: {split} has images of {listed}, but classes.csv gives no attributes of it"
            f"{known.closest(strangers[0])}"
        )
    if strangers or not contents.class_names:
        return None
    return np.array([places[name] for name in names], dtype=np.int64)


def _name_beyond_utf8(folder: Path) -> str:
    """What `datasets` does not say: the first file or folder whose name is not UTF-8, and the way out."""
    for place, folders, files in os.walk(folder):
        for name in sorted(folders + files):
            if any("\ud800" <= letter <= "\udfff" for letter in name):
                path = printable(Path(place, name).relative_to(folder))
                return f": the name {path} is not UTF-8. Rename it, or read the folder with --dataset folder"
    return ""
