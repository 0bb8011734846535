"""Data sets by their name on the command line."""

from collections.abc import Callable
from pathlib import Path

from datasets import Dataset

from .awa2 import load_awa2, load_awa2_images
from .cub import load_cub, load_cub_images
from .dataset import GzslDataset
from .folder import check_folder, load_folder, load_folder_images
from .proposed_split import PROPOSED_SPLIT_COUNTS, PROPOSED_SPLIT_NAME, PROPOSED_SPLIT_SHA256
from .sun import load_sun, load_sun_images
from .synthetic_birds import load_synthetic_birds
from .word_vectors import load_word_vectors

DATASETS = ("synthetic_birds", "cub", "sun", "awa2", "folder")
# Readers of images and class names alone, which is all that extracting feature maps needs.
IMAGE_READERS: dict[str, Callable[[str], Dataset]] = {
    "cub": load_cub_images,
    "sun": load_sun_images,
    "awa2": load_awa2_images,
    "folder": load_folder_images,
}


def load_gzsl_dataset(
    name: str,
    data_dir: str | None = None,
    word_vectors: str | None = None,
    num_groups: int | None = None,
    check_files: bool = True,
) -> GzslDataset:
    """
    Loads a data set with word vectors of its attributes.

    Args:
        name (`str`):
            `"synthetic_birds"`, `"cub"`, `"sun"`, `"awa2"`, or `"folder"` for your own, see [`read_folder`].
        data_dir (`str`, *optional*):
            Where its files are; the synthetic birds need none.
        word_vectors (`str`, *optional*):
            A file of word vectors or a sentence-embedding model, see [`load_word_vectors`], or `"random"` to compose
            them from random vectors of the words in the attributes' names. By default
            `<data_dir>/attribute_vectors/<name>.npy`; the synthetic birds have vectors of their own.
        num_groups (`int`, *optional*):
            How many groups the attributes of a `"folder"` without groups are clustered into. By default 4, or fewer
            where there are fewer different word vectors.
        check_files (`bool`, *optional*, defaults to `True`):
            Whether all image files that CUB and SUN list must exist; stored feature maps need none.

    Raises:
        ValueError: If there is no such data set, it needs a `data_dir`, or cannot use `word_vectors` or `num_groups`.
        FileNotFoundError: If a file is missing; says which, and where to get it.
    """
    word_vectors = _word_vector_source(name, data_dir, word_vectors, num_groups)
    if name == "folder":
        return load_folder(data_dir, word_vectors, num_groups)
    if name == "synthetic_birds":
        dataset = load_synthetic_birds()
    elif name == "awa2":
        dataset = load_awa2(data_dir)
    else:
        dataset = {"cub": load_cub, "sun": load_sun}[name](data_dir, check_files=check_files)
    if word_vectors is not None:
        dataset.word_vectors = load_word_vectors(word_vectors, dataset.attribute_names)
    return dataset


def load_images(name: str, data_dir: str, check_files: bool = True) -> Dataset:
    """
    All images of a data set and their classes, which is all that extracting feature maps needs.

    Args:
        name (`str`):
            `"cub"`, `"sun"`, `"awa2"` or `"folder"`.
        data_dir (`str`):
            Where its files are.
        check_files (`bool`, *optional*, defaults to `True`):
            Whether all image files must exist that CUB and SUN list. Of the others no more is known than what exists.

    Returns:
        `datasets.Dataset`: columns `image`, `label` (`ClassLabel`) and `image_id`.

    Raises:
        FileNotFoundError: If files are missing; says which, and where to get them.
        ValueError: If the files contradict each other.
    """
    options = {"check_files": check_files} if name in ("cub", "sun") else {}
    return IMAGE_READERS[name](data_dir, **options)


def check_gzsl_dataset(
    name: str, data_dir: str | None = None, word_vectors: str | None = None, num_groups: int | None = None
) -> tuple[list[str], list[str]]:
    """
    What is understood of a data set, and what is wrong with it, before anything runs.

    Args:
        name, data_dir, word_vectors, num_groups:
            As in [`load_gzsl_dataset`].

    Returns:
        `tuple[list[str], list[str]]`: what is understood, and what is wrong, one line each.
    """
    try:
        source = _word_vector_source(name, data_dir, word_vectors, num_groups)
    except (OSError, ValueError) as error:
        if name != "folder" or data_dir is None:
            return [], [str(error)]
        understood, problems = check_folder(data_dir)
        return understood, [*problems, str(error)]
    if name == "folder":
        return check_folder(data_dir, source, num_groups)
    try:
        return describe_dataset(load_gzsl_dataset(name, data_dir, word_vectors)), []
    except (OSError, ValueError) as error:
        return [], [str(error)]


def describe_dataset(dataset: GzslDataset) -> list[str]:
    """
    What a data set consists of, one line each; of its split also what it is compared with.

    Args:
        dataset ([`GzslDataset`]):
            The data set.
    """
    num_classes, num_seen = len(dataset.class_names), len(dataset.seen_class_ids)
    groups = ", ".join(f"{name} ({len(indices)})" for name, indices in dataset.attribute_groups.items())
    lines = [
        f"classes: {num_classes}, of them {num_seen} seen ({len(dataset.validation_class_ids)} for validation) and "
        f"{num_classes - num_seen} unseen",
        f"attributes: {len(dataset.attribute_names)} in {len(dataset.attribute_groups)} groups: {groups}",
        "images: " + ", ".join(f"{len(split)} {name}" for name, split in dataset.splits.items()),
        f"split: {dataset.split_name}, fingerprint {dataset.split_sha256}",
    ]
    known = PROPOSED_SPLIT_COUNTS.get(dataset.name.upper())
    if known and dataset.split_name != PROPOSED_SPLIT_NAME:
        counts = tuple(len(dataset.splits[part]) for part in ("trainval", "test_seen", "test_unseen"))
        lines.append(
            f"split: it is not the {PROPOSED_SPLIT_NAME}, which has the fingerprint "
            f"{PROPOSED_SPLIT_SHA256[dataset.name.upper()]} and "
            + (
                "the same numbers of images"
                if counts == known
                else "{} trainval, {} test_seen, {} test_unseen".format(*known)
            )
            + ": figures are not comparable with published ones"
        )
    if dataset.word_vectors is not None:
        lines.append("word vectors: {} of size {}".format(*dataset.word_vectors.shape))
    return lines


def _word_vector_source(
    name: str, data_dir: str | None, word_vectors: str | None, num_groups: int | None
) -> str | None:
    """Where word vectors are to come from, `None` for the data set's own; refuses what the data set has no use for."""
    if name not in DATASETS:
        raise ValueError(f"There is no data set {name!r}; choose one of {', '.join(DATASETS)}.")
    if num_groups is not None and name != "folder":
        raise ValueError(f"The data set {name!r} has groups of attributes: leave --num_groups {num_groups} out.")
    if name == "synthetic_birds":
        if word_vectors not in (None, "random"):
            raise ValueError(
                f"The synthetic birds have word vectors of their own: leave --word_vectors {word_vectors} out."
            )
        return word_vectors
    if data_dir is None:
        raise ValueError(f"The data set {name!r} is read from files: name their folder with --data_dir.")
    if word_vectors is not None:
        return word_vectors
    expected = Path(data_dir) / "attribute_vectors" / f"{name}.npy"
    if not expected.is_file():
        raise FileNotFoundError(
            f"There are no word vectors for {name}: {expected} does not exist. Name a file or a sentence-embedding "
            "model with --word_vectors FILE, or compose them from random ones with --word_vectors random."
        )
    return str(expected)
