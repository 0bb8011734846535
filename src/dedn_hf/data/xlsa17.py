"""
Any data set of the Proposed Split release (xlsa17) by its own files, `--dataset xlsa17/APY`:

    xlsa17/data/APY/att_splits.mat    class attributes and the split
    xlsa17/data/APY/res101.mat        image_files and labels; its features are not read
    xlsa17/data/APY/*classes*.txt     which classes are for what; where they are missing, the split says it
    xlsa17/data/APY/attributes.txt    names of the attributes, one a line: optional, and of your making

and the images, wherever they are below the same folder.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from datasets import Dataset

from ..names_dedn import readable_classes
from ..recipes import recipe_names
from .dataset import GzslDataset, image_features, make_splits
from .folder import CARD as OWN_IMAGES
from .official_files import check_no_empty_class, read_lines, read_mat, read_texts
from .proposed_split import SPLIT_CITATION, XLSA17_HELP, ProposedSplit, read_proposed_split

CARD = replace(
    OWN_IMAGES,
    title="Proposed Split release",
    id="xlsa17",
    summary="A data set of the Proposed Split release (Xian et al. 2019), read from its own files.",
    caution="What the images show, and whether a backbone was trained on the unseen classes, has not been recorded.",
    split_name="its att_splits.mat",
    citations=(SPLIT_CITATION,),
)


def load_images(data_dir: str | os.PathLike, check_files: bool = True, *, name: str) -> Dataset:
    """
    All images of a data set of the release and their classes, which is all that extracting feature maps needs.

    Args:
        data_dir (`str` or `os.PathLike`):
            The folder that holds `xlsa17/` and, at any depth, the images.
        check_files (`bool`, *optional*, defaults to `True`):
            Whether all images must exist.
        name (`str`):
            The data set's folder in `xlsa17/data/`, in capital or small letters.

    Returns:
        `datasets.Dataset`: columns `image` (read when asked for), `label` (`ClassLabel` in the order of
        `att_splits.mat`) and `image_id` (the loc: the place in `image_files`, 1-based), in that order.

    Raises:
        FileNotFoundError: If files or images are missing; names them.
        ValueError: If the files contradict each other, or an image may be several files.
    """
    split, rows = _read(data_dir, name, find=True, check_files=check_files)
    return Dataset.from_list(list(rows.values()), features=image_features(readable_classes(split.class_names)))


def load(data_dir: str | os.PathLike, check_files: bool = True, *, name: str) -> GzslDataset:
    """
    A data set of the release.

    Class attributes are `original_att`, or else `att`, over their largest entry where that is above 1. Where −1 is the
    only negative number it means unknown, and is 0. Other negative numbers, as sentence embeddings have,
    are left: a class is compared with an image by the direction of its row.

    Attributes without names are `attribute_1`, …; their strengths in the seen classes serve as word vectors, by which
    they are clustered into groups, too.

    Args:
        data_dir (`str` or `os.PathLike`):
            As in [`load_images`].
        check_files (`bool`, *optional*, defaults to `True`):
            Whether all images must exist; with stored feature maps none is looked for.
        name (`str`):
            As in [`load_images`].

    Returns:
        `GzslDataset`: without groups, and with word vectors only where attributes have no names.

    Raises:
        FileNotFoundError: If files or images are missing; names them.
        ValueError: If a file is not as it should be, or two files contradict each other; names what differs.
    """
    split, rows = _read(data_dir, name, find=check_files, check_files=check_files)
    class_names, file = split.class_names, split.folder / "att_splits.mat"
    notes = list(split.notes)
    class_of_loc = {loc: class_names[row["label"]] for loc, row in rows.items()}
    split.check(class_of_loc)
    class_attributes = _read_class_attributes(split, file, notes)
    attribute_names = _read_attribute_names(split.folder, class_attributes.shape[1])
    facts = split.facts(class_names)
    word_vectors = None
    if attribute_names is None:
        attribute_names = [f"attribute_{number}" for number in range(1, class_attributes.shape[1] + 1)]
        word_vectors = class_attributes[facts["seen_class_ids"]].T.copy()
        notes.append(
            f"{file} does not name the {len(attribute_names)} attributes: they are attribute_1 to "
            f"{attribute_names[-1]}, and grouped by their strengths in the seen classes. Write their names into "
            f"{split.folder / 'attributes.txt'}, one a line, to see them."
        )
    listed = [row["image"] for row in rows.values()]
    repeated = len(listed) - len(set(listed))
    if repeated:
        notes.append(
            f"image_files in {split.folder / 'res101.mat'} names {repeated} images again, which show several objects: "
            "each has the whole image, so that figures are not those of cut-out objects."
        )
    return GzslDataset(
        name=split.folder.name.lower(),
        splits=make_splits(rows, split.partition(class_of_loc), image_features(readable_classes(class_names))),
        class_names=readable_classes(class_names),
        attribute_names=attribute_names,
        attribute_groups=None,
        class_attributes=class_attributes,
        word_vectors=word_vectors,
        notes=notes,
        **facts | {"split_name": f"att_splits.mat of {split.folder.name} (xlsa17)"},
    )


def _read(data_dir: str | os.PathLike, name: str, find: bool, check_files: bool) -> tuple[ProposedSplit, dict]:
    """The split, and loc → row of the image."""
    folder = _find_folder(Path(data_dir), name)
    file = folder / "res101.mat"
    content = read_mat(file, "image_files", "labels", help=XLSA17_HELP)
    image_files = read_texts(file, "image_files", content["image_files"], XLSA17_HELP)
    labels = _read_labels(file, content["labels"], len(image_files))
    split = read_proposed_split(data_dir, folder.name, labels=labels)
    paths = image_files
    if find:
        paths = _find_images(Path(data_dir), file, image_files, must_exist=check_files)
    return split, {
        loc: {"image": path, "label": int(label) - 1, "image_id": loc}
        for loc, (path, label) in enumerate(zip(paths, labels, strict=True), start=1)
    }


def _find_folder(data_dir: Path, name: str) -> Path:
    data = data_dir / "xlsa17" / "data"
    folders = sorted(folder.name for folder in data.iterdir() if folder.is_dir()) if data.is_dir() else []
    if name.lower() in recipe_names():
        raise ValueError(f"{name} is a data set with a reader of its own: say --dataset {name.lower()}.")
    found = [folder for folder in folders if folder.lower() == name.lower()]
    found = [folder for folder in found if folder == name] or found
    if len(found) != 1:
        raise FileNotFoundError(
            f"{data} has no data set {name}; it has {', '.join(folders) or 'none'}. {XLSA17_HELP}"
            if not found
            else f"{data} has {' and '.join(found)}: name the one that is meant."
        )
    return data / found[0]


def _read_labels(file: Path, values: np.ndarray, count: int) -> np.ndarray:
    values = values.ravel()
    if values.dtype.kind not in "iuf" or len(values) != count or not (values == values // 1).all() or not count:
        raise ValueError(
            f"labels in {file} must hold a whole number for each of the {count} images in image_files, but are "
            f"{len(values)} of type {values.dtype}. {XLSA17_HELP}"
        )
    if values.min() < 1 or values.max() > count:
        wrong = values.min() if values.min() < 1 else values.max()
        raise ValueError(
            f"labels in {file} has {wrong:g}, but must count the classes of {count} images from 1 on. {XLSA17_HELP}"
        )
    return values.astype(np.int64)


def _find_images(data_dir: Path, file: Path, image_files: list[str], must_exist: bool) -> list[str]:
    """
    Files below a folder for paths of another machine: of those with the same name, whatever its case, the one that has
    the most folders in common from the end on.
    """
    wanted = [[part for part in path.replace("\\", "/").split("/") if part not in ("", ".")] for path in image_files]
    empty = [path for path, parts in zip(image_files, wanted, strict=True) if not parts]
    if empty:
        raise ValueError(f"image_files in {file} has {empty[0]!r}, which is no path of an image. {XLSA17_HELP}")
    names = {parts[-1].lower() for parts in wanted}
    candidates: dict[str, list[list[str]]] = {}
    searched = set()
    for folder, folders, files in os.walk(data_dir.resolve(), followlinks=True):
        if os.path.realpath(folder) in searched:  # by another link, or round and round
            folders.clear()
            continue
        searched.add(os.path.realpath(folder))
        # What starts with a dot or an underscore twice is litter of a system or an archive.
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX", "@eaDir")))
        for name in files:
            if name.lower() in names:
                candidates.setdefault(name.lower(), []).append(Path(folder, name).parts)
    found, absent, ambiguous = [], [], []
    for path, parts in zip(image_files, wanted, strict=True):
        ranked = sorted(
            ((_common_tail(parts, candidate), candidate) for candidate in candidates.get(parts[-1].lower(), ())),
            reverse=True,
        )
        best = [candidate for common, candidate in ranked if common == ranked[0][0]]
        if len(best) == 1:
            found.append(str(Path(*best[0])))
            continue
        (ambiguous if best else absent).append((path, best))
        found.append(path)
    if ambiguous:
        path, best = ambiguous[0]
        raise ValueError(
            f"{len(ambiguous)} of the {len(image_files)} images in {file} may be several files, such as {path}: "
            f"{' or '.join(str(Path(*parts)) for parts in best[:2])}. Leave one of them below {data_dir}."
        )
    if absent and must_exist:
        examples = ", ".join(path for path, _ in absent[:3])
        raise FileNotFoundError(
            f"{len(absent)} of the {len(image_files)} images in {file} are not below {data_dir}: {examples}"
            f"{', …' if len(absent) > 3 else ''}. Unpack the data set's images there, in their own folders."
        )
    return found


def _common_tail(parts: list[str], candidate: tuple[str, ...]) -> int:
    count = 0
    for ours, theirs in zip(reversed(parts), reversed(candidate), strict=False):
        if ours.lower() != theirs.lower():
            break
        count += 1
    return count


def _read_class_attributes(split: ProposedSplit, file: Path, notes: list[str]) -> np.ndarray:
    matrix, num_classes = split.class_attributes, len(split.class_names)
    if matrix is None:
        raise ValueError(f"{file} lacks original_att and att, the class attributes. {XLSA17_HELP}")
    if len(matrix) != num_classes:
        raise ValueError(
            f"The class attributes in {file} have shape {matrix.T.shape}, but must have a column for each of the "
            f"{num_classes} classes. {XLSA17_HELP}"
        )
    matrix = matrix.astype(np.float64)
    unknown = [name for name, row in zip(split.class_names, matrix, strict=True) if not np.isfinite(row).all()]
    if unknown:
        raise ValueError(
            f"The class attributes in {file} must be finite, but those of {', '.join(unknown[:3])}"
            f"{', …' if len(unknown) > 3 else ''} are not. {XLSA17_HELP}"
        )
    negative = matrix < 0
    if negative.any() and (matrix[negative] == -1).all():
        matrix[negative] = 0
        notes.append(f"{file}: -1 in {negative.sum()} places is taken for unknown, which is 0 by the method.")
    elif negative.any():
        notes.append(
            f"{file} has negative class attributes, from {matrix.min():g} on, as embeddings have. They are left as "
            "they are: classes are compared by direction; single attributes are no strengths, and no reasons."
        )
    no_strength = "A class needs an attribute above 0: for embeddings, add to a column what makes it so."
    way_out = no_strength if (matrix < 0).any() else XLSA17_HELP
    check_no_empty_class(file, split.class_names, matrix.clip(min=0), way_out)
    return (matrix / max(1, np.abs(matrix).max())).astype(np.float32)


def _read_attribute_names(folder: Path, expected: int) -> list[str] | None:
    file = next((folder / name for name in ("attributes.txt", "predicates.txt") if (folder / name).is_file()), None)
    if file is None:
        return None
    lines = [line.strip() for line in read_lines(file, "Save it as UTF-8.") if line.strip()]
    # Numbered, as the lists of the field are.
    words = [line.split(maxsplit=1) for line in lines]
    if all(len(word) == 2 and word[0] == str(number) for number, word in enumerate(words, start=1)):
        lines = [word[1] for word in words]
    twice = sorted({name for name in lines if lines.count(name) > 1})
    if len(lines) != expected or twice:
        raise ValueError(
            f"{file} must have a different name for each of the {expected} attributes, one a line, but has "
            + (f"{twice[0]} twice." if twice else f"{len(lines)}.")
        )
    return lines
