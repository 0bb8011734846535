"""CUB-200-2011 (Wah et al. 2011) in its official layout, with the Proposed Split."""

import os
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, List, Value

from ..configuration_dedn import PRESETS
from .dataset import GzslDataset
from .proposed_split import SplitBuilder, read_proposed_split

CUB_HELP = (
    "CUB_200_2011.tgz is at https://data.caltech.edu/records/65de6-vp158 (non-commercial research); unpack it so that "
    "`<data_dir>/CUB_200_2011/` exists."
)


def load_cub_images(data_dir: str | os.PathLike, check_files: bool = True) -> Dataset:
    """
    All images of CUB and their classes, which is all that extracting feature maps needs.

    Args:
        data_dir (`str` or `os.PathLike`):
            The folder that holds `CUB_200_2011/` with `images/`, `images.txt`, `image_class_labels.txt` and
            `classes.txt`.
        check_files (`bool`, *optional*, defaults to `True`):
            Whether all image files must exist.

    Returns:
        `datasets.Dataset`: columns `image` (read when asked for), `label` (`ClassLabel` over the official class names:
        class id − 1) and `image_id` (the official one), in the order of the ids.

    Raises:
        FileNotFoundError: If files or images are missing; names them.
        ValueError: If the files contradict each other.
    """
    class_names, images = _read_images(Path(data_dir) / "CUB_200_2011", check_files)
    columns = {
        "image": [str(path) for path, _ in images.values()],
        "label": [label for _, label in images.values()],
        "image_id": list(images),
    }
    features = Features({"image": Image(), "label": ClassLabel(names=class_names), "image_id": Value("int64")})
    return Dataset.from_dict(columns, features=features)


def load_cub(
    data_dir: str | os.PathLike,
    cache_dir: str | os.PathLike | None = None,
    word_vectors: str | os.PathLike | None = None,
    check_files: bool = True,
) -> GzslDataset:
    """
    CUB with the Proposed Split, its class-attribute matrix, part points and boxes.

    Everything is checked before it is used: that all images exist, that the files agree on images, classes and
    attributes, and that the split fits them. The two sources order classes differently: classes here are in the
    official order, a label is the official class id − 1, and everything else is matched by name.

    Args:
        data_dir (`str` or `os.PathLike`):
            The folder that holds `CUB_200_2011/` and `xlsa17/` in their official layouts. `attributes.txt` may be in
            `CUB_200_2011/attributes/`, in `CUB_200_2011/`, or beside it, where the official archive has it.
        cache_dir (`str` or `os.PathLike`, *optional*):
            Cache of `datasets` for the table of images, which refers to the image files and does not copy them.
        word_vectors (`str` or `os.PathLike`, *optional*):
            `.npy` file `(312, D)` of one vector an attribute, in the order of `attributes.txt`. The default is
            `<data_dir>/attribute_vectors/cub.npy`, without which the data set has none.
        check_files (`bool`, *optional*, defaults to `True`):
            Whether all image files must exist.

    Returns:
        `GzslDataset`: its `class_attributes` are the continuous class attributes as fractions (0 to 1), and its
        validation splits have no image of the test splits, see [`ProposedSplit.partition`].

    Raises:
        FileNotFoundError: If files or images are missing; names them, and says where to get them.
        ValueError: If a file is not as it should be, or two files contradict each other; names what differs.
    """
    data_dir = Path(data_dir)
    folder = data_dir / "CUB_200_2011"
    class_names, images = _read_images(folder, check_files)
    annotations = _files(
        folder,
        "attributes/class_attribute_labels_continuous.txt",
        "bounding_boxes.txt",
        "parts/parts.txt",
        "parts/part_locs.txt",
    )
    matrix_file, box_file, part_file, point_file = annotations

    groups = PRESETS["cub"]["attribute_groups"]
    attribute_names = _read_attribute_names(folder, sum(map(len, groups.values())))
    class_attributes = _read_class_attributes(matrix_file, len(class_names), len(attribute_names))
    vectors = _read_word_vectors(data_dir, word_vectors, len(attribute_names))
    boxes = _read_by_image(box_file, float, float, float, float)
    _check_ids(box_file, boxes, images)
    part_names = [name for _, name in _read_numbered(part_file)]
    points = {image_id: [None] * len(part_names) for image_id in images}
    for image_id, part, x, y, visible in _read_table(point_file, int, int, float, float, int):
        if image_id not in points or not 1 <= part <= len(part_names):
            raise ValueError(f"{point_file} has part {part} of image {image_id}, which there is not. {CUB_HELP}")
        points[image_id][part - 1] = [x, y, visible]
    incomplete = [image_id for image_id, of_image in points.items() if None in of_image]
    if incomplete:
        raise ValueError(
            f"{point_file} lacks parts of {len(incomplete)} images, such as image {incomplete[0]}. {CUB_HELP}"
        )

    split = read_proposed_split(data_dir, "CUB")
    class_of_image = {image_id: class_names[label] for image_id, (_, label) in images.items()}
    split.check(class_of_image)

    rows = {
        image_id: {
            "image": str(path),
            "label": label,
            "image_id": image_id,
            "part_points": points[image_id],
            "box": boxes[image_id],
        }
        for image_id, (path, label) in images.items()
    }
    features = Features(
        {
            "image": Image(),
            "label": ClassLabel(names=class_names),
            "image_id": Value("int64"),
            "part_points": List(List(Value("float32"), length=3), length=len(part_names)),
            "box": List(Value("float32"), length=4),
        }
    )
    label_of = {name: label for label, name in enumerate(class_names)}
    return GzslDataset(
        name="cub",
        splits=SplitBuilder("cub", features, rows, split.partition(class_of_image), cache_dir).build(),
        class_names=class_names,
        attribute_names=attribute_names,
        attribute_groups={name: list(indices) for name, indices in groups.items()},
        class_attributes=class_attributes,
        seen_class_ids=sorted(label_of[name] for name in split.train_classes + split.validation_classes),
        validation_class_ids=sorted(label_of[name] for name in split.validation_classes),
        split_name=split.name,
        split_sha256=split.sha256,
        word_vectors=vectors,
        part_names=part_names,
    )


def _read_images(folder: Path, check_files: bool) -> tuple[list[str], dict[int, tuple[Path, int]]]:
    """Class names in official order, and image id → (path, label), in the order of the ids."""
    class_file, image_file, label_file = _files(folder, "classes.txt", "images.txt", "image_class_labels.txt")
    class_names = [name for _, name in _read_numbered(class_file)]
    paths = {image_id: path for image_id, (path,) in _read_by_image(image_file, str).items()}
    class_ids = {image_id: class_id for image_id, (class_id,) in _read_by_image(label_file, int).items()}
    _check_ids(label_file, class_ids, paths)
    images, image_folder = {}, folder.resolve() / "images"
    for image_id in sorted(paths):
        class_id, path = class_ids[image_id], paths[image_id]
        if not 1 <= class_id <= len(class_names) or class_names[class_id - 1] != path.split("/")[0]:
            raise ValueError(
                f"{label_file} puts image {image_id} into class {class_id}, but {class_file.name} has "
                f"{len(class_names)} classes and {image_file.name} has the image in {path.split('/')[0]}. {CUB_HELP}"
            )
        images[image_id] = (image_folder / path, class_id - 1)
    absent = [path for path, _ in images.values() if check_files and not path.is_file()]
    if absent:
        raise FileNotFoundError(
            f"{len(absent)} of the {len(images)} images in {image_file} do not exist: "
            f"{', '.join(map(str, absent[:3]))}{', …' if len(absent) > 3 else ''}. {CUB_HELP}"
        )
    return class_names, images


def _read_attribute_names(folder: Path, expected: int) -> list[str]:
    places = [folder / "attributes" / "attributes.txt", folder / "attributes.txt", folder.parent / "attributes.txt"]
    found = [place for place in places if place.is_file()]
    if not found:
        raise FileNotFoundError(f"attributes.txt is in none of {', '.join(map(str, places))}. {CUB_HELP}")
    names = [name for _, name in _read_numbered(found[0])]
    if len(names) != expected:
        raise ValueError(f"{found[0]} names {len(names)} attributes, but CUB has {expected}. {CUB_HELP}")
    return names


def _read_class_attributes(file: Path, num_classes: int, num_attributes: int) -> np.ndarray:
    try:
        percentages = np.loadtxt(file, dtype=np.float64, ndmin=2)
    except ValueError as error:
        raise ValueError(f"{file} is no matrix of numbers: {error}. {CUB_HELP}") from error
    if percentages.shape != (num_classes, num_attributes):
        raise ValueError(
            f"{file} has shape {percentages.shape}, but must have a row for each of the {num_classes} classes and a "
            f"column for each of the {num_attributes} attributes. {CUB_HELP}"
        )
    if not ((percentages >= 0) & (percentages <= 100)).all():
        raise ValueError(f"{file} must hold percentages, but has values outside 0 to 100. {CUB_HELP}")
    return (percentages / 100).astype(np.float32)


def _read_word_vectors(data_dir: Path, file: str | os.PathLike | None, num_attributes: int) -> np.ndarray | None:
    if file is None:
        file = data_dir / "attribute_vectors" / "cub.npy"
        if not file.is_file():
            return None
    vectors = np.load(file, allow_pickle=False)
    if vectors.ndim != 2 or len(vectors) != num_attributes or not np.isfinite(vectors).all():
        raise ValueError(
            f"{file} must hold one vector of finite numbers for each of the {num_attributes} attributes, but has "
            f"shape {vectors.shape}. Name another file as `word_vectors`."
        )
    return vectors.astype(np.float32)


def _files(folder: Path, *names: str) -> list[Path]:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}. {CUB_HELP}")
    return [folder / name for name in names]


def _read_table(file: Path, *types: type) -> list[list]:
    """Lines of values with spaces between them; only the last value may have spaces within."""
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        values = line.split(maxsplit=len(types) - 1)
        try:
            rows.append([convert(value) for convert, value in zip(types, values, strict=True)])
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {line!r} is not {len(types)} values. {CUB_HELP}") from error
    return rows


def _read_by_image(file: Path, *types: type) -> dict[int, list]:
    """A table with one line for each image, which its id begins."""
    rows = _read_table(file, int, *types)
    values = {image_id: rest for image_id, *rest in rows}
    if len(values) != len(rows):
        raise ValueError(f"{file} has {len(rows)} lines for {len(values)} images. {CUB_HELP}")
    return values


def _read_numbered(file: Path) -> list[list]:
    """A table of names numbered from 1."""
    rows = _read_table(file, int, str)
    if [number for number, _ in rows] != list(range(1, len(rows) + 1)) or len({name for _, name in rows}) != len(rows):
        raise ValueError(f"{file} must number different names from 1 on, without gaps. {CUB_HELP}")
    return rows


def _check_ids(file: Path, ids: dict, images: dict):
    if ids.keys() != images.keys():
        differing = sorted(ids.keys() ^ images.keys())
        raise ValueError(
            f"{file} has {len(ids)} images where images.txt has {len(images)}: {len(differing)} are in only one of "
            f"them, such as image {differing[0]}. {CUB_HELP}"
        )
