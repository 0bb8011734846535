"""CUB-200-2011 (Wah et al. 2011) in its official layout, with the Proposed Split."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset, Features, List, Value

from ..names_dedn import readable_classes
from ..recipes import read_recipe
from .dataset import DatasetCard, GzslDataset, image_features, make_splits
from .official_files import (
    check_attribute_count,
    check_attribute_order,
    find_files,
    read_class_attributes,
    read_numbered,
    read_table,
)
from .proposed_split import PROPOSED_SPLIT_NAME, SPLIT_CITATION, read_proposed_split

_CITATION = """@techreport{WahCUB_200_2011,
  title       = {The {Caltech-UCSD} {Birds-200-2011} Dataset},
  author      = {Wah, Catherine and Branson, Steve and Welinder, Peter and Perona, Pietro and Belongie, Serge},
  institution = {California Institute of Technology},
  number      = {CNS-TR-2011-001},
  year        = {2011}
}"""

CARD = DatasetCard(
    title="CUB-200-2011",
    id="cub-200-2011",
    subject="birds",
    summary="11,788 photographs of 200 bird species (Wah et al. 2011), described by 312 attributes. 150 classes are "
    "seen and 50 are unseen; 7,057 images to train on, 1,764 and 2,967 to test seen and unseen classes.",
    license={
        "license": "other",
        "license_name": "cub-200-2011-terms",
        "license_link": "https://www.vision.caltech.edu/datasets/cub_200_2011/",
    },
    terms="CUB-200-2011 is for non-commercial research and education; its makers do not own the copyright of the "
    "photographs. Weights trained on it are offered under the same limits: non-commercial research only. Whoever "
    "needs more has to clear it with the owners of the data.",
    caution="CUB's photographs overlap with ImageNet's (its makers warn of it). A class can be unseen to DEDN and "
    "all the same have been in the images that an ImageNet backbone was trained on, so that figures of unseen "
    "classes may be too good.",
    image="bird.jpg",
    new_class="Dagger-billed Wren",
    description=("has_bill_shape::dagger", "has_crown_color::red", "has_belly_color::white"),
    groups="head, torso, wing, tail, leg, whole body",
    split_name=PROPOSED_SPLIT_NAME,
    split_sha256="7180aaff2a824a901918e540287ae1a21193393ff217da0c7ae1bfd05d3de529",
    split_counts=(7057, 1764, 2967),
    citations=(_CITATION, SPLIT_CITATION),
    backbone="the recipe is made for feature maps of an ImageNet ResNet-101 (2048 channels), kept frozen.",
)

# What an attribute's name speaks of (`has_wing_color::red`: wing) → parts. Those of the whole body name none.
ATTRIBUTE_PARTS = {
    "bill": ("beak",),
    "head": ("crown", "forehead", "left eye", "right eye"),
    "crown": ("crown",),
    "forehead": ("forehead",),
    "eye": ("left eye", "right eye"),
    "throat": ("throat",),
    "nape": ("nape",),
    "upperparts": ("crown", "nape", "back", "left wing", "right wing"),
    "underparts": ("throat", "breast", "belly"),
    "breast": ("breast",),
    "belly": ("belly",),
    "back": ("back",),
    "wing": ("left wing", "right wing"),
    "tail": ("tail",),
    "upper_tail": ("tail",),
    "under_tail": ("tail",),
    "leg": ("left leg", "right leg"),
}
# Of the release's attribute names; see [`check_attribute_order`].
KNOWN_NAMES = (
    "9d7fe7959ebd6b53d0701b705d2c45a37359017e372783a3651ccb084a2e687d",
    "0afd688b7a8dfbab937bb6e14843ebca13a7e75e1f2e7b62d04561a6924ce263",
    "5eddedd3a0e9eecfa7cd6a29bd02cb00e7027b6040adcf15167adb5da83a14987f675d4ff008cf38cd63d38a07357c3dec29"
    "106ae5d43c6d237fe66551bdde7b2c710bef903641ec9b11bc25373993513f4eeddd2048cf558457eb1c067a09b3bf86374b"
    "7a1f666e55cae3ce3cb17fa41709a228f585048235d95c36c4ac3b09762e3b895350ba091344ad5e679b7a2c40a88d0606f0"
    "020f86c3d0df596f8bd99b5eaff0e5995a0c06ac909b562f5be11d5b291fb8b3f68971a6c0b9e93ac6c301401b8b0fb57c8a"
    "87bd2858ee7dd34afff78e44579415f5b7024e7996db421e08bc8b0ccc930b28b8a3744ed0c211e6d80a744811f7fe24384f"
    "a20f5bdec845efb241c3722942decd3081e7568d3919cf75398af722a8c34244601f4cf01d1ff79353c3fe24855fe3557726"
    "f8ddeb626684e4edbf2eaa29",
)
CUB_HELP = (
    "CUB_200_2011.tgz is at https://data.caltech.edu/records/65de6-vp158 (non-commercial research); unpack it so that "
    "`<data_dir>/CUB_200_2011/` exists."
)


def load_images(data_dir: str | os.PathLike, check_files: bool = True) -> Dataset:
    """
    All images of CUB and their classes, which is all that extracting feature maps needs.

    Args:
        data_dir (`str` or `os.PathLike`):
            The folder that holds `CUB_200_2011/` with `images/`, `images.txt`, `image_class_labels.txt` and
            `classes.txt`.
        check_files (`bool`, *optional*, defaults to `True`):
            Whether all image files must exist.

    Returns:
        `datasets.Dataset`: columns `image` (read when asked for), `label` (`ClassLabel` over the official class names
        as [`readable_classes`] makes them: class id − 1) and `image_id` (the official one), in the order of the ids.

    Raises:
        FileNotFoundError: If files or images are missing; names them.
        ValueError: If the files contradict each other.
    """
    class_names, images = _read_images(Path(data_dir) / "CUB_200_2011", check_files)
    return Dataset.from_list(list(images.values()), features=image_features(readable_classes(class_names)))


def load(data_dir: str | os.PathLike, check_files: bool = True) -> GzslDataset:
    """
    CUB with the Proposed Split, its class-attribute matrix, part points and boxes.

    Everything is checked before it is used: that all images exist, that the files agree on images, classes and
    attributes, and that the split fits them. The two sources order classes differently: classes here are in the
    official order, a label is the official class id − 1, and everything else is matched by name. What comes out has
    the names that [`readable_classes`] makes of them.

    Args:
        data_dir (`str` or `os.PathLike`):
            The folder that holds `CUB_200_2011/` and `xlsa17/` in their official layouts. `attributes.txt` may be in
            `CUB_200_2011/attributes/`, in `CUB_200_2011/`, or beside it, where the official archive has it.
            `attributes/image_attribute_labels.txt` is not needed; with it there are `image_attributes`.
        check_files (`bool`, *optional*, defaults to `True`):
            Whether all image files must exist.

    Returns:
        `GzslDataset`: its `class_attributes` are the continuous class attributes as fractions (0 to 1), its validation
        splits have no image of the test splits, see [`ProposedSplit.partition`], and it has no word vectors.

    Raises:
        FileNotFoundError: If files or images are missing; names them, and says where to get them.
        ValueError: If a file is not as it should be, or two files contradict each other; names what differs.
    """
    data_dir = Path(data_dir)
    folder = data_dir / "CUB_200_2011"
    class_names, images = _read_images(folder, check_files)
    annotations = find_files(
        folder,
        "attributes/class_attribute_labels_continuous.txt",
        "bounding_boxes.txt",
        "parts/parts.txt",
        "parts/part_locs.txt",
        help=CUB_HELP,
    )
    matrix_file, box_file, part_file, point_file = annotations

    groups = read_recipe("cub").model["attribute_groups"]
    attribute_names, notes = _read_attribute_names(folder, sum(map(len, groups.values())))
    percentages = read_class_attributes(matrix_file, len(class_names), len(attribute_names), CUB_HELP)
    if not ((percentages >= 0) & (percentages <= 100)).all():
        raise ValueError(f"{matrix_file} must hold percentages, but has values outside 0 to 100. {CUB_HELP}")
    boxes = _read_by_image(box_file, float, float, float, float)
    _check_ids(box_file, boxes, images)
    part_names = read_numbered(part_file, CUB_HELP)
    points = {image_id: [None] * len(part_names) for image_id in images}
    for image_id, part, x, y, visible in read_table(point_file, int, int, float, float, int, help=CUB_HELP):
        if image_id not in points or not 1 <= part <= len(part_names):
            raise ValueError(f"{point_file} has part {part} of image {image_id}, which there is not. {CUB_HELP}")
        points[image_id][part - 1] = [x, y, visible]
    incomplete = [image_id for image_id, of_image in points.items() if None in of_image]
    if incomplete:
        raise ValueError(
            f"{point_file} lacks parts of {len(incomplete)} images, such as image {incomplete[0]}. {CUB_HELP}"
        )

    label_file = folder / "attributes" / "image_attribute_labels.txt"
    image_attributes = None
    if label_file.is_file():
        image_attributes = _read_image_attributes(label_file, sorted(images), len(attribute_names), notes)

    split = read_proposed_split(data_dir, "CUB", CARD.split_sha256)
    class_of_image = {image_id: class_names[row["label"]] for image_id, row in images.items()}
    split.check(class_of_image)
    split.check_class_attributes(matrix_file, class_names, percentages)

    rows = {
        image_id: {**row, "part_points": points[image_id], "box": boxes[image_id]} for image_id, row in images.items()
    }
    features = Features(
        {
            **image_features(readable_classes(class_names)),
            "part_points": List(List(Value("float32"), length=3), length=len(part_names)),
            "box": List(Value("float32"), length=4),
        }
    )
    return GzslDataset(
        name="cub",
        splits=make_splits(rows, split.partition(class_of_image), features),
        class_names=readable_classes(class_names),
        attribute_names=attribute_names,
        attribute_groups=groups,
        class_attributes=(percentages / 100).astype(np.float32),
        part_names=part_names,
        attribute_parts=ATTRIBUTE_PARTS,
        image_attributes=image_attributes,
        notes=notes,
        **split.facts(class_names),
    )


def _read_images(folder: Path, check_files: bool) -> tuple[list[str], dict[int, dict]]:
    """Official class names in their order, and image id → row of the image, in the order of the ids."""
    files = find_files(folder, "classes.txt", "images.txt", "image_class_labels.txt", help=CUB_HELP)
    class_file, image_file, label_file = files
    class_names = read_numbered(class_file, CUB_HELP)
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
        images[image_id] = {"image": str(image_folder / path), "label": class_id - 1, "image_id": image_id}
    absent = [row["image"] for row in images.values() if check_files and not os.path.isfile(row["image"])]
    if absent:
        raise FileNotFoundError(
            f"{len(absent)} of the {len(images)} images in {image_file} do not exist: "
            f"{', '.join(absent[:3])}{', …' if len(absent) > 3 else ''}. {CUB_HELP}"
        )
    return class_names, images


def _read_attribute_names(folder: Path, expected: int) -> tuple[list[str], list[str]]:
    """Names of the attributes, and what cannot be told of their order."""
    places = [folder / "attributes" / "attributes.txt", folder / "attributes.txt", folder.parent / "attributes.txt"]
    found = [place for place in places if place.is_file()]
    if not found:
        raise FileNotFoundError(f"attributes.txt is in none of {', '.join(map(str, places))}. {CUB_HELP}")
    names = read_numbered(found[0], CUB_HELP)
    check_attribute_count(found[0], names, expected, "CUB", CUB_HELP)
    return names, check_attribute_order(found[0], names, KNOWN_NAMES, CUB_HELP)


def _read_image_attributes(
    file: Path, image_ids: list[int], num_attributes: int, notes: list[str]
) -> dict[int, np.ndarray]:
    """
    Image id → its attributes: 1 if an annotator said that it has one, 0 if not, NaN where there is no label, or its
    certainty is "not visible" or "guessing" (1 and 2 of 4). Malformed lines, of which the official file has a few, are
    left out and counted.
    """
    with open(file, "rb") as lines:
        total = sum(1 for line in lines if line.strip())
    names = ["image", "attribute", "present", "certainty", "seconds", "too many"]
    try:
        table = pd.read_csv(file, sep=r"\s+", header=None, names=names, on_bad_lines="skip", low_memory=False)
    except ValueError as error:  # pandas' own errors are some
        raise ValueError(f"{file} cannot be read: {error}. {CUB_HELP}") from error
    table = table[table.pop("too many").isna()].apply(pd.to_numeric, errors="coerce").dropna()
    sound = (
        table["image"].isin(image_ids)
        & (table["attribute"] % 1 == 0)
        & table["attribute"].between(1, num_attributes)
        & table["present"].isin([0, 1])
        & table["certainty"].isin([1, 2, 3, 4])
    )
    malformed = total - sound.sum()
    if malformed > total // 100 or not sound.any():
        raise ValueError(
            f"{file} has {sound.sum()} sound lines of {total}; a line must have an image id, an attribute id, 0 or "
            f"1, a certainty from 1 to 4 and seconds. {CUB_HELP}"
        )
    if malformed:
        notes.append(f"{file.name}: left out {malformed} malformed lines of {total}")
    table = table[sound & (table["certainty"] > 2)]
    values = np.full((len(image_ids), num_attributes), np.nan, np.float32)
    values[np.searchsorted(image_ids, table["image"]), table["attribute"].to_numpy(int) - 1] = table["present"]
    return dict(zip(image_ids, values))


def _read_by_image(file: Path, *types: type) -> dict[int, list]:
    """A table with one line for each image, which its id begins."""
    rows = read_table(file, int, *types, help=CUB_HELP)
    values = {image_id: rest for image_id, *rest in rows}
    if len(values) != len(rows):
        raise ValueError(f"{file} has {len(rows)} lines for {len(values)} images. {CUB_HELP}")
    return values


def _check_ids(file: Path, ids: dict, images: dict):
    if ids.keys() != images.keys():
        differing = sorted(ids.keys() ^ images.keys())
        raise ValueError(
            f"{file} has {len(ids)} images where images.txt has {len(images)}: {len(differing)} are in only one of "
            f"them, such as image {differing[0]}. {CUB_HELP}"
        )
