"""Animals with Attributes 2 (Xian et al. 2018) in its official layout, with the Proposed Split."""

import os
import warnings
from pathlib import Path

from datasets import Dataset

from ..recipes import read_recipe
from .dataset import DatasetCard, GzslDataset, image_features
from .official_files import (
    check_attribute_count,
    check_attribute_order,
    check_no_empty_class,
    find_files,
    read_class_attributes,
    read_numbered,
)
from .proposed_split import (
    PROPOSED_SPLIT_NAME,
    SPLIT_CITATION,
    XLSA17_HELP,
    load_with_proposed_split,
    read_image_files,
)
from .splits import image_id_of

CARD = DatasetCard(
    title="Animals with Attributes 2",
    id="awa2",
    subject="animals",
    summary="37,322 photographs of 50 animals (Xian et al. 2019), described by 85 attributes. 40 classes are seen "
    "and 10 are unseen; 23,527 images to train on, 5,882 and 7,913 to test seen and unseen classes.",
    license={"license": "unknown"},
    terms="No weights are published with this card. Weights that you train on AWA2 come under the terms of its "
    "owners; read them before you publish any.",
    caution="Several of the unseen animals are classes of ImageNet, so that a backbone trained there knows them.",
    image="animal.jpg",
    new_class="okapi",
    description=("brown", "stripes", "hooves"),
    groups="texture, limb, abstract, environment",
    split_name=PROPOSED_SPLIT_NAME,
    split_sha256="bfc36a2c1bb7454f5ca46c61cb116dcdd9800dd369aed1c27a8a7d96135fb463",
    split_counts=(23527, 5882, 7913),
    citations=(SPLIT_CITATION,),
    backbone="the recipe is made for feature maps of an ImageNet ResNet-101 (2048 channels), kept frozen.",
)

# Of the release's attribute names; see [`check_attribute_order`].
KNOWN_NAMES = (
    "a0325aacfd1d005f3acf0d8f38e90da9ff0e085af49f0ae9ac088d3eb33daa5b",
    "b0e11194162eda78f07f05ae00dde0c3f3dc2ca6681e640ddf3c67c0d6889b20",
    "c001165e0e1bb1c6422248a122df2a812b9257451a9d06e6650c1ed63a315808cafd52984331e3115eed48db21f696d118ec"
    "b2b459db60765fa1e9770ae4aee280542374e461bf915e47db0fdcb8c03854ad7f48bf",
)
AWA2_HELP = (
    "AwA2-data.zip and the images are at https://cvml.ista.ac.at/AwA2/; unpack them so that "
    "`<data_dir>/Animals_with_Attributes2/` holds JPEGImages/, classes.txt, predicates.txt and "
    "predicate-matrix-continuous.txt."
)


def load_images(data_dir: str | os.PathLike, check_files: bool = True) -> Dataset:
    """
    All images of AWA2 and their classes, which is all that extracting feature maps needs.

    Args:
        data_dir (`str` or `os.PathLike`):
            The folder that holds `Animals_with_Attributes2/` with `JPEGImages/` and `classes.txt`.
        check_files (`bool`, *optional*, defaults to `True`):
            Whether all images must exist that `image_files` in `xlsa17/data/AWA2/res101.mat` names. Without that file
            no list names the images, so that there are those that exist.

    Returns:
        `datasets.Dataset`: columns `image` (read when asked for), `label` (`ClassLabel` over the names in
        `classes.txt`, in its order) and `image_id` (see [`image_id_of`], of paths such as `bat/bat_10001.jpg`), in
        the order of the paths.

    Raises:
        FileNotFoundError: If files or images are missing; names them.
        ValueError: If the files contradict each other.
    """
    class_names, images = _read_images(Path(data_dir), check_files)
    absent = [row["image"] for row in images.values() if check_files and not os.path.isfile(row["image"])]
    if absent:
        raise FileNotFoundError(
            f"{len(absent)} of the {len(images)} images in res101.mat do not exist: {', '.join(absent[:3])}"
            f"{', …' if len(absent) > 3 else ''}. {AWA2_HELP}"
        )
    return Dataset.from_list(list(images.values()), features=image_features(class_names))


def load(data_dir: str | os.PathLike, check_files: bool = True) -> GzslDataset:
    """
    AWA2 with the Proposed Split and its continuous class-attribute matrix, in which unknown strengths (−1) are 0.

    Args:
        data_dir (`str` or `os.PathLike`):
            The folder that holds `Animals_with_Attributes2/` and `xlsa17/` in their official layouts.
        check_files (`bool`, *optional*, defaults to `True`):
            As in [`load_images`]. With stored feature maps, no image is needed.

    Returns:
        `GzslDataset`: its `class_attributes` are fractions (0 to 1), its classes in the order of `classes.txt`, and it
        has no word vectors.

    Raises:
        FileNotFoundError: If files or images are missing; names them, and says where to get them.
        ValueError: If a file is not as it should be, or two files contradict each other; names what differs.
    """
    folder = Path(data_dir) / "Animals_with_Attributes2"
    files = find_files(folder, "predicates.txt", "predicate-matrix-continuous.txt", help=AWA2_HELP)
    predicate_file, matrix_file = files
    attribute_names = read_numbered(predicate_file, AWA2_HELP)
    groups = read_recipe("awa2").model["attribute_groups"]
    check_attribute_count(predicate_file, attribute_names, sum(map(len, groups.values())), "AWA2", AWA2_HELP)
    notes = check_attribute_order(predicate_file, attribute_names, KNOWN_NAMES, AWA2_HELP)
    class_names, images = _read_images(Path(data_dir), check_files, listed=not check_files)
    percentages = read_class_attributes(matrix_file, len(class_names), len(attribute_names), AWA2_HELP)
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
        known_sha256=CARD.split_sha256,
    )
    dataset.notes += notes
    dataset.class_attributes = dataset.class_attributes.clip(min=0) / 100
    check_no_empty_class(matrix_file, class_names, dataset.class_attributes, AWA2_HELP)
    return dataset


def _read_images(data_dir: Path, check_files: bool, listed: bool = True) -> tuple[list[str], dict[str, dict]]:
    """
    Class names in official order, and path within `JPEGImages/` → row of the image: those that exist and, if `listed`,
    those that `res101.mat` names.
    """
    folder = data_dir / "Animals_with_Attributes2"
    (class_file,) = find_files(folder, "classes.txt", help=AWA2_HELP)
    class_names, image_folder = read_numbered(class_file, AWA2_HELP), folder.resolve() / "JPEGImages"
    split_folder = data_dir / "xlsa17" / "data" / "AWA2"
    paths = _read_paths(split_folder, class_names) if listed and (split_folder / "res101.mat").is_file() else []
    files = _find_images(image_folder, class_file, class_names, must_exist=check_files or not paths)
    files = {path: image_folder / path for path in paths} | files
    label_of = {name: label for label, name in enumerate(class_names)}
    return class_names, {
        path: {"image": str(files[path]), "label": label_of[path.split("/")[0]], "image_id": image_id_of(path)}
        for path in sorted(files, key=lambda path: (label_of[path.split("/")[0]], path))
    }


def _read_paths(split_folder: Path, class_names: list[str]) -> list[str]:
    """Paths within `JPEGImages/` that the Proposed Split names."""
    paths = ["/".join(path.replace("\\", "/").split("/")[-2:]) for path in read_image_files(split_folder)]
    strangers = [path for path in paths if path.split("/")[0] not in class_names]
    if strangers:
        raise ValueError(
            f"{split_folder / 'res101.mat'} names {len(strangers)} images of no class in classes.txt, such as "
            f"{strangers[0]}. {XLSA17_HELP}"
        )
    return paths


def _find_images(image_folder: Path, class_file: Path, class_names: list[str], must_exist: bool) -> dict[str, Path]:
    """Path within `JPEGImages/`, as the Proposed Split and stores name it → file."""
    folders = {path.name for path in image_folder.iterdir() if path.is_dir()} if image_folder.is_dir() else set()
    missing = sorted(set(class_names) - folders)
    if missing and must_exist:
        raise FileNotFoundError(
            f"{image_folder} has no folder for {len(missing)} of the {len(class_names)} classes in {class_file.name}: "
            f"{', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}. {AWA2_HELP}"
        )
    strangers = sorted(folders - set(class_names))
    if strangers:
        warnings.warn(
            f"{image_folder}: {', '.join(strangers[:3])}{', …' if len(strangers) > 3 else ''} "
            f"{'are no classes' if strangers[1:] else 'is no class'} in {class_file.name}, and not read.",
            stacklevel=5,
        )
    images = {}
    for name in class_names:
        if name in missing:
            continue
        files = sorted(path for path in (image_folder / name).iterdir() if path.suffix.lower() == ".jpg")
        if not files and must_exist:
            raise FileNotFoundError(f"{image_folder / name} has no images (*.jpg). {AWA2_HELP}")
        for file in files:
            # Also where a copy has made it .JPG.
            path = f"{name}/{file.stem}.jpg"
            if path in images:
                raise ValueError(
                    f"{file} is there twice, with its ending in small and in capital letters. Remove one."
                )
            images[path] = file
    return images
