"""The SUN Attribute database (Patterson and Hays 2012) in its official layout, with the Proposed Split."""

import os
from pathlib import Path

import numpy as np
from datasets import Dataset

from ..recipes import read_recipe
from .dataset import DatasetCard, GzslDataset, image_features
from .official_files import (
    check_attribute_count,
    check_attribute_order,
    check_no_empty_class,
    read_mat,
    read_texts,
)
from .proposed_split import PROPOSED_SPLIT_NAME, SPLIT_CITATION, load_with_proposed_split

_CITATION = """@article{patterson2014sun,
  title   = {The {SUN} Attribute Database: Beyond Categories for Deeper Scene Understanding},
  author  = {Patterson, Genevieve and Xu, Chen and Su, Hang and Hays, James},
  journal = {International Journal of Computer Vision},
  volume  = {108},
  pages   = {59--81},
  year    = {2014}
}"""

CARD = DatasetCard(
    title="SUN Attribute",
    id="sun-attribute",
    subject="scenes",
    summary="14,340 photographs of 717 scenes (Patterson et al. 2014), described by 102 attributes. 645 classes are "
    "seen and 72 are unseen; 10,320 images to train on, 2,580 and 1,440 to test seen and unseen classes.",
    license={"license": "unknown"},
    terms="No weights are published with this card. Weights that you train on SUN Attribute come under the terms of "
    "its owners; read them before you publish any.",
    caution="Scenes of the unseen classes are not kept out of what an ImageNet backbone was trained on.",
    image="scene.jpg",
    new_class="tidal campsite",
    description=("camping", "sand", "ocean"),
    groups="function, element, environment and material, other; under the `reference` protocol the groups are those "
    "of the released program, which differ from the meant ones by a slip in its index arithmetic",
    split_name=PROPOSED_SPLIT_NAME,
    split_sha256="fc537f2f84f3f84a35665f94262ef08e2d47fc80c9c022591a75252882e5673a",
    split_counts=(10320, 2580, 1440),
    citations=(_CITATION, SPLIT_CITATION),
    backbone="the recipe is made for feature maps of an ImageNet ResNet-101 (2048 channels), kept frozen.",
)

# Of the release's attribute names; see [`check_attribute_order`].
KNOWN_NAMES = (
    "a5cf6833e2ad412b4e099fad0c52b6460285328386f820dbc14fa510ba54bd11",
    "9e3222227ad0c30ba3e13108c1e17ae5a92bfcc9e89b82614826ef077e2d17fc",
    "24d96273b5e5fcdf34d767cd66497ab8ccdb05f0d6bf1cf50d85a741d311e8ddc850d5027b659b5429f660944d5e84baff28"
    "8cc7adff03387b4b1ad6f72f2fa9134647ec2a4ca71504dc332ac0057eb90638b7d0910fe212d519f948531da1b7db11a251"
    "2781",
)
SUN_HELP = (
    "SUNAttributeDB.tar.gz and SUNAttributeDB_Images.tar.gz are at https://cs.brown.edu/~gmpatter/sunattributes.html; "
    "unpack them so that `<data_dir>/SUNAttributeDB/` holds the three .mat files and `images/`."
)


def load_images(data_dir: str | os.PathLike, check_files: bool = True) -> Dataset:
    """
    All images of SUN and their classes, which is all that extracting feature maps needs.

    Args:
        data_dir (`str` or `os.PathLike`):
            The folder that holds `SUNAttributeDB/` with `images.mat`. The image tree (`a/abbey/sun_….jpg`, …) may be
            in `SUNAttributeDB/images/`, in `SUNAttributeDB/`, in `SUNAttributeDB_Images/` or its `images/`, or in
            `images/`.
        check_files (`bool`, *optional*, defaults to `True`):
            Whether all image files must exist.

    Returns:
        `datasets.Dataset`: columns `image` (read when asked for), `label` (`ClassLabel` over the class names in
        alphabetical order, as in the Proposed Split: `a/atrium/public/` is `atrium_public`) and `image_id` (the place
        in `images.mat`, 1-based), in that order.

    Raises:
        FileNotFoundError: If files or images are missing; names them.
        ValueError: If `images.mat` is not as it should be.
    """
    class_names, images = _read_images(Path(data_dir), check_files)
    return Dataset.from_list(list(images.values()), features=image_features(class_names))


def load(data_dir: str | os.PathLike, check_files: bool = True) -> GzslDataset:
    """
    SUN with the Proposed Split. The strength of an attribute in a class is the share of votes for it over the images
    of the class.

    The attribute groups are those that were meant. The recipe's `reference` protocol has those of the released
    program, with its slip, which a new model has no reason to repeat.

    Args:
        data_dir (`str` or `os.PathLike`):
            The folder that holds `SUNAttributeDB/`, see [`load_images`], and `xlsa17/` in their official layouts.
        check_files (`bool`, *optional*, defaults to `True`):
            Whether all image files must exist.

    Returns:
        `GzslDataset`: its `class_attributes` are fractions (0 to 1), its `image_attributes` shares of the three votes
        on an image, and it has no word vectors.

    Raises:
        FileNotFoundError: If files or images are missing; names them, and says where to get them.
        ValueError: If a file is not as it should be, or two files contradict each other; names what differs.
    """
    folder = Path(data_dir) / "SUNAttributeDB"
    label_file = folder / "attributeLabels_continuous.mat"
    attribute_names = _read_names(folder / "attributes.mat", "attributes")
    groups = read_recipe("sun").model["attribute_groups"]
    expected = sum(map(len, groups.values()))
    check_attribute_count(folder / "attributes.mat", attribute_names, expected, "SUN", SUN_HELP)
    notes = check_attribute_order(folder / "attributes.mat", attribute_names, KNOWN_NAMES, SUN_HELP)
    votes = read_mat(label_file, "labels_cv", help=SUN_HELP)["labels_cv"]
    class_names, images = _read_images(Path(data_dir), check_files)
    if votes.shape != (len(images), len(attribute_names)):
        raise ValueError(
            f"labels_cv in {label_file} has shape {votes.shape}, but must have a row for each of the {len(images)} "
            f"images and a column for each of the {len(attribute_names)} attributes. {SUN_HELP}"
        )
    if not ((votes >= 0) & (votes <= 1)).all():
        raise ValueError(f"labels_cv in {label_file} must hold shares of votes, from 0 to 1. {SUN_HELP}")
    labels = np.array([row["label"] for row in images.values()])
    class_attributes = np.stack([votes[labels == label].mean(axis=0) for label in range(len(class_names))])
    check_no_empty_class(label_file, class_names, class_attributes, SUN_HELP)
    dataset = load_with_proposed_split(
        "sun",
        data_dir,
        images,
        class_names,
        attribute_names,
        groups,
        class_attributes,
        attribute_file=label_file,
        help=SUN_HELP,
        known_sha256=CARD.split_sha256,
    )
    dataset.image_attributes = {row["image_id"]: vote for row, vote in zip(images.values(), votes.astype(np.float32))}
    dataset.notes += notes
    return dataset


def _read_images(data_dir: Path, check_files: bool) -> tuple[list[str], dict[str, dict]]:
    """Class names in alphabetical order, and path within the image tree → row of the image, as in `images.mat`."""
    file = data_dir / "SUNAttributeDB" / "images.mat"
    paths = _read_names(file, "images")
    class_of = {}
    for path in paths:
        # All between the letter and the file: a/atrium/public/sun_abc.jpg is of the class atrium_public.
        _, *parts, _ = path.split("/") if path.count("/") > 1 else ("", "")
        if not parts:
            raise ValueError(f"{file} names {path!r}, but paths must be like 'a/abbey/sun_abc.jpg'. {SUN_HELP}")
        class_of[path] = "_".join(parts)
    places = [
        data_dir.resolve() / place
        for place in (
            "SUNAttributeDB/images",
            "SUNAttributeDB",
            "SUNAttributeDB_Images/images",
            "SUNAttributeDB_Images",
            "images",
        )
    ]
    tree = next((place for place in places if any((place / path).is_file() for path in paths)), None)
    if tree is None and check_files:
        raise FileNotFoundError(
            f"None of the {len(paths)} images in {file} is in {', '.join(map(str, places))}. {SUN_HELP}"
        )
    tree = tree or places[0]
    absent = [path for path in paths if check_files and not (tree / path).is_file()]
    if absent:
        raise FileNotFoundError(
            f"{len(absent)} of the {len(paths)} images in {file} do not exist in {tree}: {', '.join(absent[:3])}"
            f"{', …' if len(absent) > 3 else ''}. {SUN_HELP}"
        )
    class_names = sorted(set(class_of.values()))
    label_of = {name: label for label, name in enumerate(class_names)}
    return class_names, {
        path: {"image": str(tree / path), "label": label_of[class_of[path]], "image_id": image_id}
        for image_id, path in enumerate(paths, start=1)
    }


def _read_names(file: Path, variable: str) -> list[str]:
    names = read_texts(file, variable, read_mat(file, variable, help=SUN_HELP)[variable], SUN_HELP)
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) != len(names) else []
    if twice:
        raise ValueError(f"{variable} in {file} must be different, but {twice[0]} is there twice. {SUN_HELP}")
    return names
