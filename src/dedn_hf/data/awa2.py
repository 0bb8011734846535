"""Animals with Attributes 2 (Xian et al. 2018) in its official layout, with the Proposed Split."""

import os
from pathlib import Path

import numpy as np
from datasets import Dataset

from ..configuration_dedn import PRESETS
from .dataset import GzslDataset
from .proposed_split import image_features, load_with_proposed_split
from .splits import image_id_of

AWA2_HELP = (
    "AwA2-data.zip and the images are at https://cvml.ista.ac.at/AwA2/; unpack them so that "
    "`<data_dir>/Animals_with_Attributes2/` holds JPEGImages/, classes.txt, predicates.txt and "
    "predicate-matrix-continuous.txt."
)


def load_awa2_images(data_dir: str | os.PathLike) -> Dataset:
    """
    All images of AWA2 and their classes, which is all that extracting feature maps needs.

    Args:
        data_dir (`str` or `os.PathLike`):
            The folder that holds `Animals_with_Attributes2/` with `JPEGImages/` and `classes.txt`.

    Returns:
        `datasets.Dataset`: columns `image` (read when asked for), `label` (`ClassLabel` over the names in
        `classes.txt`, in its order) and `image_id` (see [`image_id_of`], of paths such as `bat/bat_10001.jpg`), in
        the order of the paths.

    Raises:
        FileNotFoundError: If files or images are missing; names them.
        ValueError: If the files contradict each other.
    """
    class_names, images = _read_images(Path(data_dir) / "Animals_with_Attributes2")
    return Dataset.from_list(list(images.values()), features=image_features(class_names))


def load_awa2(data_dir: str | os.PathLike, cache_dir: str | os.PathLike | None = None) -> GzslDataset:
    """
    AWA2 with the Proposed Split and its continuous class-attribute matrix, in which unknown strengths (−1) are 0.

    Args:
        data_dir (`str` or `os.PathLike`):
            The folder that holds `Animals_with_Attributes2/` and `xlsa17/` in their official layouts.
        cache_dir (`str` or `os.PathLike`, *optional*):
            Cache of `datasets` for the table of images, which refers to the image files and does not copy them.

    Returns:
        `GzslDataset`: its `class_attributes` are fractions (0 to 1), its classes in the order of `classes.txt`, and it
        has no word vectors.

    Raises:
        FileNotFoundError: If files or images are missing; names them, and says where to get them.
        ValueError: If a file is not as it should be, or two files contradict each other; names what differs.
    """
    folder = Path(data_dir) / "Animals_with_Attributes2"
    predicate_file, matrix_file = _files(folder, "predicates.txt", "predicate-matrix-continuous.txt")
    attribute_names = _read_numbered(predicate_file)
    groups = PRESETS["awa2"]["attribute_groups"]
    expected = sum(map(len, groups.values()))
    if len(attribute_names) != expected:
        raise ValueError(
            f"{predicate_file} names {len(attribute_names)} attributes, but AWA2 has {expected}. {AWA2_HELP}"
        )
    class_names, images = _read_images(folder)
    try:
        percentages = np.loadtxt(matrix_file, dtype=np.float64, ndmin=2)
    except ValueError as error:
        raise ValueError(f"{matrix_file} is no matrix of numbers: {error}. {AWA2_HELP}") from error
    if percentages.shape != (len(class_names), len(attribute_names)):
        raise ValueError(
            f"{matrix_file} has shape {percentages.shape}, but must have a row for each of the {len(class_names)} "
            f"classes and a column for each of the {len(attribute_names)} attributes. {AWA2_HELP}"
        )
    if not (((percentages >= 0) | (percentages == -1)) & (percentages <= 100)).all():
        raise ValueError(f"{matrix_file} must hold percentages, or -1 where one is unknown. {AWA2_HELP}")
    dataset = load_with_proposed_split(
        "awa2",
        data_dir,
        images,
        class_names,
        attribute_names,
        groups,
        percentages,
        attribute_file=matrix_file,
        help=AWA2_HELP,
        cache_dir=cache_dir,
    )
    dataset.class_attributes = dataset.class_attributes.clip(min=0) / 100
    empty = [name for name, row in zip(class_names, dataset.class_attributes, strict=True) if not row.any()]
    if empty:
        raise ValueError(f"{matrix_file} gives no attribute to {', '.join(empty)}. {AWA2_HELP}")
    return dataset


def _read_images(folder: Path) -> tuple[list[str], dict[str, dict]]:
    """Class names in official order, and path within `JPEGImages/` → row of the image."""
    (class_file,) = _files(folder, "classes.txt")
    class_names, image_folder = _read_numbered(class_file), folder.resolve() / "JPEGImages"
    folders = {path.name for path in image_folder.iterdir() if path.is_dir()} if image_folder.is_dir() else set()
    if folders != set(class_names):
        differing = sorted(folders ^ set(class_names))
        raise FileNotFoundError(
            f"{image_folder} has {len(folders)} folders for the {len(class_names)} classes in {class_file.name}: "
            f"{', '.join(differing[:3])}{', …' if len(differing) > 3 else ''} {'are' if differing[1:] else 'is'} in "
            f"only one of them. {AWA2_HELP}"
        )
    images = {}
    for label, name in enumerate(class_names):
        files = sorted(path.name for path in (image_folder / name).glob("*.jpg"))
        if not files:
            raise FileNotFoundError(f"{image_folder / name} has no images (*.jpg). {AWA2_HELP}")
        for file in files:
            path = f"{name}/{file}"
            images[path] = {"image": str(image_folder / path), "label": label, "image_id": image_id_of(path)}
    return class_names, images


def _read_numbered(file: Path) -> list[str]:
    """Names numbered from 1, one a line."""
    rows = [line.split(maxsplit=1) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    names = [row[-1].strip() for row in rows]
    if [row[0] for row in rows] != [str(i) for i in range(1, len(rows) + 1)] or len(set(names)) != len(names):
        raise ValueError(f"{file} must number different names from 1 on, without gaps. {AWA2_HELP}")
    return names


def _files(folder: Path, *names: str) -> list[Path]:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}. {AWA2_HELP}")
    return [folder / name for name in names]
