"""The Proposed Splits of Xian et al. (xlsa17), which the field's data sets are evaluated on."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from .dataset import GzslDataset, image_features, make_splits
from .official_files import find_files, read_lines, read_mat, read_texts
from .splits import draw, fifth, fingerprint_split

XLSA17_HELP = (
    "The Proposed Split is in xlsa17.zip, https://datasets.d2.mpi-inf.mpg.de/xian/xlsa17.zip; unpack it so that "
    "`<data_dir>/xlsa17/data/` exists."
)
PROPOSED_SPLIT_NAME = "Proposed Split v2 (xlsa17)"
SPLIT_CITATION = """@article{xian2019zero,
  title   = {Zero-Shot Learning -- A Comprehensive Evaluation of the Good, the Bad and the Ugly},
  author  = {Xian, Yongqin and Lampert, Christoph H. and Schiele, Bernt and Akata, Zeynep},
  journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence},
  volume  = {41},
  number  = {9},
  pages   = {2251--2265},
  year    = {2019}
}"""


@dataclass
class ProposedSplit:
    """
    The Proposed Split of one data set, read by [`read_proposed_split`].

    Args:
        folder (`Path`):
            Where it was read.
        class_names (`list[str]`):
            All classes in the order of `att_splits.mat`, which for CUB is not the official one: match by name.
        class_attributes (`np.ndarray` of shape `(K, A)`, float64, *optional*):
            `original_att` transposed: rows in the order of `class_names`, in the unit of the data set. Where the file
            lacks it and `labels` are given to the reader, `att`, whose rows are normalised.
        image_ids (`dict[str, list[int]]`):
            `trainval`, `test_seen` and `test_unseen` → locs, 1-based, ascending. For CUB a loc is the official
            image id.
        train_classes (`list[str]`), validation_classes (`list[str]`), test_classes (`list[str]`):
            Names in `trainclasses1.txt`, `valclasses1.txt` and `testclasses.txt`.
        known_sha256 (`str`, *optional*):
            Fingerprint of the published version, with locs as image ids.
        notes (`list[str]`, *optional*, defaults to `[]`):
            What was made up because the release does not say it, one line each.
    """

    folder: Path
    class_names: list[str]
    class_attributes: np.ndarray | None
    image_ids: dict[str, list[int]]
    train_classes: list[str]
    validation_classes: list[str]
    test_classes: list[str]
    known_sha256: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def sha256(self) -> str:
        """Fingerprint of `image_ids`, see [`fingerprint_split`]."""
        return fingerprint_split(self.image_ids)

    @property
    def name(self) -> str:
        """`"Proposed Split v2 (xlsa17)"` where the fingerprint is the known one, else `"unknown split"`."""
        return PROPOSED_SPLIT_NAME if self.sha256 == self.known_sha256 else "unknown split"

    def facts(self, class_names: Sequence[str]) -> dict:
        """Fields of a [`GzslDataset`] with these classes that follow from the split alone."""
        return {
            "seen_class_ids": sorted(map(class_names.index, self.train_classes + self.validation_classes)),
            "validation_class_ids": sorted(map(class_names.index, self.validation_classes)),
            "split_name": self.name,
            "split_sha256": self.sha256,
        }

    def check(self, class_of_image: Mapping[int, str]):
        """
        Checks the split against the images that it splits.

        Args:
            class_of_image (`Mapping[int, str]`):
                Id of every image of the data set → name of its class.

        Raises:
            ValueError: If class names differ, an image is in no part, in two, or in one that its class is not for.
        """
        ours, theirs = set(class_of_image.values()), set(self.class_names)
        if ours != theirs:
            raise ValueError(
                f"The classes in {self.folder / 'att_splits.mat'} are not those of the images: only the images have "
                f"{_some(ours - theirs)}, only the split has {_some(theirs - ours)}. {XLSA17_HELP}"
            )
        part_of = {}
        for part, ids in self.image_ids.items():
            for image_id in ids:
                if image_id not in class_of_image:
                    raise self._error(
                        f"{part}_loc names image {image_id}, which is not among the images: there are "
                        f"{len(class_of_image)}, from {min(class_of_image)} to {max(class_of_image)}"
                    )
                if image_id in part_of:
                    raise self._error(f"image {image_id} is in {part_of[image_id]}_loc and in {part}_loc")
                part_of[image_id] = part
        if len(part_of) != len(class_of_image):
            absent = class_of_image.keys() - part_of.keys()
            raise self._error(f"{len(absent)} of {len(class_of_image)} images are in no part, such as {_some(absent)}")
        unseen = set(self.test_classes)
        for image_id, part in part_of.items():
            name = class_of_image[image_id]
            if (name in unseen) != (part == "test_unseen"):
                raise self._error(
                    f"test_unseen_loc must be exactly the images of the unseen classes in testclasses.txt, but image "
                    f"{image_id} of the {'unseen' if name in unseen else 'seen'} class {name} is in {part}_loc"
                )

    def check_class_attributes(self, file: Path, class_names: Sequence[str], class_attributes: np.ndarray):
        """
        Checks a data set's own class attributes against those of the split, where it has some. They are the same
        numbers, but for rounding.

        Args:
            file (`Path`):
                Where the data set's own are from.
            class_names (`Sequence[str]`):
                Names of their rows, those of the split in any order.
            class_attributes (`np.ndarray` of shape `(K, A)`):
                The data set's own, in the unit of the split's.

        Raises:
            ValueError: If the numbers of attributes differ, or the values do.
        """
        if self.class_attributes is None:
            return
        theirs = self.class_attributes[[self.class_names.index(name) for name in class_names]]
        if theirs.shape != class_attributes.shape:
            raise self._error(
                f"original_att in att_splits.mat has {theirs.shape[1]} attributes, but {file} has "
                f"{class_attributes.shape[1]}"
            )
        # A tenth of the scale would not be rounding: rows or columns are in different orders.
        wrong = np.argwhere(np.abs(theirs - class_attributes) > 0.1 * np.abs(theirs).max())
        if len(wrong):
            row, column = wrong[0]
            raise self._error(
                f"original_att in att_splits.mat and {file} contradict each other in {len(wrong)} values: attribute "
                f"{column + 1} of {class_names[row]} is {theirs[row, column]:g} and {class_attributes[row, column]:g}"
            )

    def partition(self, class_of_image: Mapping[int, str], seed: int = 0) -> dict[str, list[int]]:
        """
        The six parts that a data set has here.

        The split's own `train_loc` and `val_loc` contain images of `test_seen`. So validation is made from `trainval`
        alone: images of the validation classes are `validation_unseen`, and of those of each train class a random
        fifth (rounded; at least one, unless it is the only one) is `validation_seen`.

        Args:
            class_of_image (`Mapping[int, str]`):
                As in [`~ProposedSplit.check`].
            seed (`int`, *optional*, defaults to 0):
                Seed of the draw.

        Returns:
            `dict[str, list[int]]`: `train`, `validation_seen`, `validation_unseen`, `test_seen`, `test_unseen` and
            `trainval` → image ids, ascending.
        """
        images_of = {}
        for image_id in self.image_ids["trainval"]:
            images_of.setdefault(class_of_image[image_id], []).append(image_id)
        generator = np.random.default_rng(seed)
        train, validation_seen = [], []
        for name in sorted(images_of.keys() & set(self.train_classes)):
            ids = generator.permutation(images_of[name]).tolist()
            held_out = fifth(len(ids))
            validation_seen += ids[:held_out]
            train += ids[held_out:]
        validation_unseen = [i for name in self.validation_classes for i in images_of.get(name, [])]
        return {
            "train": sorted(train),
            "validation_seen": sorted(validation_seen),
            "validation_unseen": sorted(validation_unseen),
            "test_seen": self.image_ids["test_seen"],
            "test_unseen": self.image_ids["test_unseen"],
            "trainval": self.image_ids["trainval"],
        }

    def _error(self, problem: str) -> ValueError:
        return ValueError(f"{self.folder}: {problem}. {XLSA17_HELP}")


def read_proposed_split(
    data_dir: str | os.PathLike, name: str, known_sha256: str | None = None, labels: np.ndarray | None = None
) -> ProposedSplit:
    """
    Reads `<data_dir>/xlsa17/data/<name>/`: `att_splits.mat` and the class lists. `res101.mat` is not needed.

    Args:
        data_dir (`str` or `os.PathLike`):
            The folder that holds `xlsa17/`.
        name (`str`):
            Name of the data set there, such as `"CUB"`.
        known_sha256 (`str`, *optional*):
            See [`ProposedSplit`].
        labels (`np.ndarray` of shape `(N,)`, *optional*):
            Class of each image, 1-based. With them a release needs neither class lists nor names of classes: seen are
            the classes of `trainval_loc`; for validation are those of `val_loc`, or else a fifth, drawn.

    Raises:
        FileNotFoundError: If files are missing; names all of them.
        ValueError: If a file cannot be read, `att_splits.mat` lacks a variable, locs are no different whole numbers
            from 1 on, or the class lists contradict each other.
    """
    folder = Path(data_dir) / "xlsa17" / "data" / name
    lists = {key: f"{key}.txt" for key in ("trainclasses1", "valclasses1", "testclasses", "trainvalclasses")}
    listed = labels is None or any((folder / file).is_file() for file in lists.values())
    file, *_ = find_files(folder, "att_splits.mat", *(lists.values() if listed else ()), help=XLSA17_HELP)
    parts = ("trainval", "test_seen", "test_unseen")
    variables = [f"{part}_loc" for part in parts]
    optional = ["original_att"]
    if labels is None:
        variables.insert(0, "allclasses_names")
    else:
        optional += ["allclasses_names", "att", "train_loc", "val_loc"]
    content = read_mat(file, *variables, help=XLSA17_HELP, optional=tuple(optional))

    attributes = content.get("original_att", content.get("att"))
    split = ProposedSplit(
        folder=folder,
        class_names=[],
        class_attributes=None if attributes is None else _read_attributes(file, attributes),
        image_ids={},
        train_classes=[],
        validation_classes=[],
        test_classes=[],
        known_sha256=known_sha256,
    )
    split.image_ids = {part: _read_locs(split, f"{part}_loc", content[f"{part}_loc"]) for part in parts}
    if "allclasses_names" in content:
        names = read_texts(file, "allclasses_names", content["allclasses_names"], XLSA17_HELP)
        split.class_names = names
        twice = {name for name in names if names.count(name) > 1} if len(set(names)) != len(names) else ()
        if twice:
            raise split._error(f"allclasses_names in att_splits.mat has {_some(twice)} twice")
    else:
        split.class_names = [f"class_{number}" for number in range(1, int(labels.max(initial=0)) + 1)]
        split.notes.append(f"{file} has no allclasses_names: the classes are class_1 to {split.class_names[-1]}.")
    if labels is not None and labels.max(initial=0) > len(split.class_names):
        raise split._error(
            f"labels in res101.mat go up to {labels.max()}, but att_splits.mat has {len(split.class_names)} classes"
        )
    if listed:
        _read_class_lists(split, lists)
    else:
        _find_classes(split, labels, content)
    return split


def _read_attributes(file: Path, attributes: np.ndarray) -> np.ndarray:
    if attributes.ndim != 2 or attributes.dtype.kind not in "iuf":
        raise ValueError(
            f"The class attributes in {file} must be a matrix of numbers, but are {attributes.dtype} of shape "
            f"{attributes.shape}. {XLSA17_HELP}"
        )
    return attributes.T


def _read_locs(split: ProposedSplit, variable: str, values: np.ndarray) -> list[int]:
    """The locs of a part, ascending."""
    values = values.ravel()
    if values.dtype.kind not in "iuf" or not (np.isfinite(values) & (values == values // 1)).all():
        raise split._error(f"{variable} in att_splits.mat must hold whole numbers, the places of images")
    locs = sorted(map(int, values))
    if locs and locs[0] < 1:
        raise split._error(
            f"{variable} in att_splits.mat has {locs[0]}, but locs count images from 1 on, as MATLAB does: this file "
            "counts from 0. Add 1 to all its locs"
        )
    twice = {loc for loc, next_loc in pairwise(locs) if loc == next_loc}
    if twice:
        raise split._error(f"{variable} in att_splits.mat has {_some(twice)} twice")
    return locs


def _read_class_lists(split: ProposedSplit, lists: Mapping[str, str]):
    classes = {
        key: [line.strip() for line in read_lines(split.folder / file, XLSA17_HELP) if line.strip()]
        for key, file in lists.items()
    }
    for key, names in classes.items():
        strangers = set(names) - set(split.class_names)
        if strangers or len(set(names)) != len(names):
            twice = {name for name in names if names.count(name) > 1}
            raise split._error(
                f"{lists[key]} names classes that att_splits.mat lacks ({_some(strangers)}) or twice ({_some(twice)})"
            )
    split.train_classes = classes["trainclasses1"]
    split.validation_classes = classes["valclasses1"]
    split.test_classes = classes["testclasses"]
    seen = split.train_classes + split.validation_classes
    if sorted(seen) != sorted(classes["trainvalclasses"]):
        raise split._error("trainclasses1.txt and valclasses1.txt together are not the classes of trainvalclasses.txt")
    if sorted(seen + split.test_classes) != sorted(split.class_names):
        wrong = set(split.class_names) - set(seen) - set(split.test_classes) or set(seen) & set(split.test_classes)
        raise split._error(f"trainvalclasses.txt and testclasses.txt are no partition of the classes: {_some(wrong)}")


def _find_classes(split: ProposedSplit, labels: np.ndarray, content: Mapping[str, np.ndarray]):
    """Which classes are seen, for validation and unseen, by the images of each part."""

    def classes_of(variable: str, locs: list[int]) -> set[str]:
        if locs and locs[-1] > len(labels):
            raise split._error(
                f"{variable} in att_splits.mat names image {locs[-1]}, but res101.mat has {len(labels)} images"
            )
        return {split.class_names[labels[loc - 1] - 1] for loc in locs}

    seen = classes_of("trainval_loc", split.image_ids["trainval"])
    unseen = classes_of("test_unseen_loc", split.image_ids["test_unseen"])
    if seen & unseen:
        raise split._error(
            f"trainval_loc and test_unseen_loc both have images of {_some(seen & unseen)}: no unseen class has images "
            "to train on"
        )
    validation = set()
    if "train_loc" in content and "val_loc" in content:
        train, validation = (
            classes_of(variable, _read_locs(split, variable, content[variable])) & seen
            for variable in ("train_loc", "val_loc")
        )
        validation -= train
    if not validation:
        validation = set(draw(seen, 0)[: fifth(len(seen))])
        split.notes.append(
            f"{split.folder} does not say which classes are for validation: {len(validation)} of the {len(seen)} seen "
            f"ones were drawn, {_some(validation)}."
        )
    split.train_classes, split.validation_classes = sorted(seen - validation), sorted(validation)
    split.test_classes = sorted(set(split.class_names) - seen)


def read_image_files(folder: Path) -> list[str]:
    """
    The paths in `image_files` of `res101.mat`, of which a loc of the split is the place, 1-based. Nothing else in that
    file is read: its features are of no use here, and large.

    Nothing but this file can say which image a loc is. What the split holds of an image is its class at most, and
    `trainval_loc` and `test_seen_loc` divide the images of one class: any order of them would fit.

    Args:
        folder (`Path`):
            `xlsa17/data/<name>/`.

    Raises:
        FileNotFoundError: If there is no `res101.mat`.
        ValueError: If it cannot be read, or lacks the variable.
    """
    file = folder / "res101.mat"
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing. The split counts images in the order of its `image_files` (its features are not "
            f"read), and att_splits.mat cannot prove that order: it says nothing of single images. {XLSA17_HELP}"
        )
    return read_texts(file, "image_files", read_mat(file, "image_files", help=XLSA17_HELP)["image_files"], XLSA17_HELP)


def match_image_files(image_files: Sequence[str], known: Collection[str]) -> list[str | None]:
    """
    Finds paths of another machine among those of a data set.

    Args:
        image_files (`Sequence[str]`):
            Paths of the other machine, with whatever comes before the data set's own, such as
            `/home/somebody/data//JPEGImages/bat/bat_10001.jpg`.
        known (`Collection[str]`):
            Paths within the data set, with forward slashes, such as `bat/bat_10001.jpg`.

    Returns:
        `list[str | None]`: for each the longest tail of it that is known, or `None`.
    """
    known = set(known)
    found = []
    for path in image_files:
        parts = [part for part in path.strip().replace("\\", "/").split("/") if part]
        tails = ("/".join(parts[start:]) for start in range(len(parts)))
        found.append(next((tail for tail in tails if tail in known), None))
    return found


def load_with_proposed_split(
    name: str,
    data_dir: str | os.PathLike,
    images: Mapping[str, dict],
    class_names: Sequence[str],
    attribute_names: Sequence[str],
    attribute_groups: Mapping[str, Sequence[int]],
    class_attributes: np.ndarray,
    attribute_file: Path,
    help: str,
    known_sha256: str,
) -> GzslDataset:
    """
    A data set with the Proposed Split, whose locs are places in `image_files` of `res101.mat`.

    Args:
        name (`str`):
            Short name of the data set; in capitals that of its folder in `xlsa17/data/`.
        data_dir (`str` or `os.PathLike`):
            The folder that holds `xlsa17/`.
        images (`Mapping[str, dict]`):
            Path within the data set → `image` (the path of the file), `label` and `image_id`.
        class_names (`Sequence[str]`), attribute_names (`Sequence[str]`), attribute_groups (`Mapping`):
            As in [`GzslDataset`].
        class_attributes (`np.ndarray` of shape `(K, A)`):
            The data set's own, in the unit of the split's.
        attribute_file (`Path`):
            Where they are from.
        help (`str`):
            Where to get the data set, for messages.
        known_sha256 (`str`):
            See [`ProposedSplit`].

    Returns:
        `GzslDataset`: with `class_attributes` as they came, and without word vectors.

    Raises:
        FileNotFoundError: If files of the split are missing, or images that it names.
        ValueError: If the split and the data set contradict each other; names what differs.
    """
    split = read_proposed_split(data_dir, name.upper(), known_sha256)
    file = split.folder / "res101.mat"
    image_files = read_image_files(split.folder)
    paths = match_image_files(image_files, images.keys())
    absent = [image for image, path in zip(image_files, paths, strict=True) if path is None]
    if absent:
        raise FileNotFoundError(
            f"{len(absent)} of the {len(image_files)} images in {file} are not among the {len(images)} images of the "
            f"data set, such as {', '.join(absent[:3])}. {help}"
        )
    if len(set(paths)) != len(paths) or len(paths) != len(images):
        left = images.keys() - set(paths)
        raise ValueError(
            f"{file} names {len(paths)} images, {len(set(paths))} of them different, but the data set has "
            f"{len(images)}: {_some(left)} are in no part of the split. {help}"
        )
    class_of_loc = {loc: class_names[images[path]["label"]] for loc, path in enumerate(paths, start=1)}
    split.check(class_of_loc)
    split.check_class_attributes(attribute_file, class_names, class_attributes)

    id_of_loc = {loc: images[path]["image_id"] for loc, path in enumerate(paths, start=1)}
    parts = {part: [id_of_loc[loc] for loc in locs] for part, locs in split.partition(class_of_loc).items()}
    rows = {row["image_id"]: row for row in images.values()}
    return GzslDataset(
        name=name,
        splits=make_splits(rows, parts, image_features(class_names)),
        class_names=list(class_names),
        attribute_names=list(attribute_names),
        attribute_groups={group: list(indices) for group, indices in attribute_groups.items()},
        class_attributes=class_attributes.astype(np.float32),
        **split.facts(class_names),
    )


def _some(values) -> str:
    values = sorted(values)
    return f"{', '.join(map(str, values[:5]))}{', …' if len(values) > 5 else ''}" if values else "none"
