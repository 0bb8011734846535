"""Data sets by their name on the command line: `cub` is read by `dedn_hf.data.cub`, with the recipe `cub.yaml`."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from inspect import signature
from pathlib import Path
from types import ModuleType

import numpy as np
from datasets import Dataset, Image

from ..files import source_name
from ..recipes import (
    IMAGEFOLDER,
    further_recipes,
    is_of_datasets,
    name_in_release,
    read_recipe,
    recipe_names,
    short_name,
)
from .check import CheckReport, check_class_attributes, check_images, check_unlisted
from .dataset import DatasetCard, GzslDataset, describe_groups
from .word_vectors import load_word_vectors

logger = logging.getLogger(__name__)

DEFAULT_NUM_GROUPS = 4


def dataset_module(name: str) -> ModuleType:
    """
    The module that reads a data set. It has `load`, `load_images` (unless the data set is built in), `CARD`, and
    `check` where it can say more of wrong files than the first error.

    Raises:
        ValueError: If there is no such data set.
    """
    dataset = read_recipe(name).dataset
    if name in further_recipes():
        raise ValueError(f"{name!r} is no data set, but a recipe of {dataset}: name that, and `--recipe {name}`.")
    module = "xlsa17" if name_in_release(dataset) else "imagefolder" if is_of_datasets(dataset) else dataset
    return import_module(f".{module}", __package__)


def dataset_card(name: str) -> DatasetCard:
    """What is known of a data set; of one that has no recipe, what is known of anybody's own images."""
    if member := name_in_release(name):
        return replace(dataset_module(name).CARD, title=member, id=member.lower())
    if is_of_datasets(name) and name != IMAGEFOLDER:
        return replace(
            dataset_module(name).CARD, title=Path(name).name, id=name if name.count("/") == 1 else short_name(name)
        )
    return dataset_module(name if name in recipe_names() else "folder").CARD


def load_gzsl_dataset(
    name: str,
    data_dir: str | None = None,
    word_vectors: str | None = None,
    num_groups: int | None = None,
    check_files: bool = True,
    attribute_groups: Mapping[str, Sequence[int]] | None = None,
    attribute_scale: str | float | None = None,
) -> GzslDataset:
    """
    Loads a data set with word vectors of its attributes.

    Args:
        name (`str`):
            A name of [`recipe_names`], such as `"synthetic_birds"`, `"folder"` for your own, see [`read_folder`], or
            `"xlsa17/APY"` for the data set in `xlsa17/data/APY`.
        data_dir (`str`, *optional*):
            Where its files are; built-in data sets need none.
        word_vectors (`str`, *optional*):
            A file of word vectors or a sentence-embedding model, see [`load_word_vectors`], or `"random"` to compose
            them from random vectors of the words in the attributes' names. By default
            `<data_dir>/attribute_vectors/<name>.npy`; built-in data sets and unnamed attributes have vectors of their
            own.
        num_groups (`int`, *optional*):
            How many groups attributes without groups are clustered into. By default 4, or fewer where there are fewer
            different word vectors.
        check_files (`bool`, *optional*, defaults to `True`):
            Whether all image files that the data set lists must exist; stored feature maps need none.
        attribute_groups (`Mapping[str, Sequence[int]]`, *optional*):
            Groups in place of the data set's own, such as those of a recipe.
        attribute_scale (`str` or `float`, *optional*):
            What the strengths in a folder's `classes.csv` are, see [`ClassTable.read_classes`]; other data sets have
            scales of their own.

    Raises:
        ValueError: If there is no such data set, it needs a `data_dir`, or cannot use `word_vectors`, `num_groups`,
            `attribute_groups` or `attribute_scale`.
        FileNotFoundError: If a file is missing; says which, and where to get it.
    """
    dataset = _load_gzsl_dataset(
        name, data_dir, word_vectors, num_groups, check_files, attribute_groups, attribute_scale
    )
    for note in dataset.notes:
        logger.warning(note)
    return dataset


def _load_gzsl_dataset(
    name, data_dir, word_vectors, num_groups, check_files=True, attribute_groups=None, attribute_scale=None
) -> GzslDataset:
    if num_groups is not None and "attribute_groups" in read_recipe(name).model:
        raise ValueError(f"The data set {name!r} has groups of attributes: leave --num_groups {num_groups} out.")
    options = _options(name, attribute_scale)
    source = _word_vector_source(name, data_dir, word_vectors)
    dataset = dataset_module(name).load(data_dir, check_files=check_files, **options)
    dataset.notes += _compare_split(dataset)
    to_cluster = dataset.word_vectors
    if source is None and to_cluster is None and name_in_release(name):
        raise _no_word_vectors(name, data_dir)
    if source is not None:
        dataset.word_vectors = load_word_vectors(source, dataset.attribute_names, dataset.attribute_descriptions)
        dataset.word_vector_source = source_name(source)
        # A data set's own vectors say more of its attributes than random ones.
        to_cluster = to_cluster if source == "random" and to_cluster is not None else dataset.word_vectors
    if attribute_groups is not None:
        dataset.attribute_groups = {group: list(indices) for group, indices in attribute_groups.items()}
        if sorted(i for group in attribute_groups.values() for i in group) != [*range(len(dataset.attribute_names))]:
            raise ValueError(
                f"The recipe's `attribute_groups` are no partition of the {len(dataset.attribute_names)} attributes "
                f"of {name}. Put each into one group, or leave the groups out."
            )
    dataset.attribute_groups = _choose_groups(dataset, to_cluster, num_groups)
    return dataset


def load_images(name: str, data_dir: str, check_files: bool = True) -> Dataset:
    """
    All images of a data set and their classes, which is all that extracting feature maps needs.

    Args:
        name (`str`):
            Name of a data set that is read from files.
        data_dir (`str`):
            Where its files are.
        check_files (`bool`, *optional*, defaults to `True`):
            Whether all image files that the data set lists must exist.

    Returns:
        `datasets.Dataset`: columns `image`, `label` (`ClassLabel`) and `image_id`.

    Raises:
        FileNotFoundError: If files are missing; says which, and where to get them.
        ValueError: If the files contradict each other, or the data set is built in.
    """
    module = dataset_module(name)
    if module.CARD.built_in:
        raise ValueError(f"{name} is built in and trained with its backbone: it needs no stored feature maps.")
    return module.load_images(data_dir, check_files=check_files, **_options(name))


def check_gzsl_dataset(
    name: str,
    data_dir: str | None = None,
    word_vectors: str | None = None,
    num_groups: int | None = None,
    attribute_scale: str | float | None = None,
    check_files: bool = True,
) -> CheckReport:
    """
    What is understood of a data set, and what is wrong with it, before anything runs. Decodes every image.

    Args:
        name, data_dir, word_vectors, num_groups, attribute_scale, check_files:
            As in [`load_gzsl_dataset`].

    Returns:
        [`CheckReport`].

    Raises:
        ValueError: If there is no such data set, it needs a `data_dir`, which there is not, or cannot use
            `attribute_scale`.
    """
    module = dataset_module(name)
    _need_data_dir(name, data_dir)
    if data_dir is not None and not Path(data_dir).is_dir():
        raise ValueError(f"--data_dir {data_dir} is no folder")
    options = _options(name, attribute_scale)
    report = CheckReport(check_files=check_files)
    if not hasattr(module, "check"):
        _check_benchmark(report, name, data_dir, word_vectors, num_groups)
        return report
    found = module.check(data_dir, report, **options)
    if found.attribute_names:
        try:
            source = _word_vector_source(name, data_dir, word_vectors)
            vectors = load_word_vectors(source, found.attribute_names, found.attribute_descriptions)
            report.understood.append(f"word vectors: {len(vectors)} of size {vectors.shape[1]}, from {source}")
            groups = _choose_groups(found, vectors, num_groups)
            if found.attribute_groups is None:
                report.understood.append(
                    f"no groups of attributes are given; clustered by word vectors: {describe_groups(groups)}"
                )
        except (OSError, ValueError) as error:
            report.add_wrong("word vectors", "word vectors or groups that cannot be used", str(error))
    return report


def _check_benchmark(
    report: CheckReport, name: str, data_dir: str | None, word_vectors: str | None, num_groups: int | None
):
    module, splits, problem = dataset_module(name), {}, None
    if data_dir is not None:
        report.folder = Path(data_dir).resolve()
    try:
        dataset = _load_gzsl_dataset(name, data_dir, word_vectors, num_groups, check_files=False)
    except (OSError, ValueError) as error:
        problem = str(error)
        report.add_wrong("data set", "files that are not as they must be", problem)
    else:
        report.understood += describe_dataset(dataset)
        report.add_warning("note", "what is out of the ordinary in its files", *dataset.notes)
        seen, validation = set(dataset.seen_class_ids), set(dataset.validation_class_ids)
        for label, class_name in enumerate(dataset.class_names):
            splits[class_name] = "validation" if label in validation else "seen" if label in seen else "unseen"
        seen_names = [dataset.class_names[label] for label in dataset.seen_class_ids]
        check_class_attributes(
            report, dataset.class_names, dataset.attribute_names, dataset.class_attributes, seen_names
        )
        trained = set(dataset.splits["trainval"]["label"])
        report.add_wrong(
            "class without images",
            "seen and validation classes without an image to train on",
            *(f"{dataset.class_names[label]}" for label in dataset.seen_class_ids if label not in trained),
        )
    if module.CARD.built_in:
        return
    try:
        table = module.load_images(data_dir, check_files=False, **_options(name)).cast_column(
            "image", Image(decode=False)
        )
    except (OSError, ValueError) as error:
        if str(error) != problem:
            report.add_wrong("data set", "files that are not as they must be", str(error))
        return
    names = table.features["label"].names
    images = [(Path(row["image"]["path"]), names[row["label"]]) for row in table]
    check_images(report, images, splits)
    check_unlisted(report, [path for path, _ in images])


def describe_dataset(dataset: GzslDataset) -> list[str]:
    """
    What a data set consists of, one line each.

    Args:
        dataset ([`GzslDataset`]):
            The data set.
    """
    num_classes, num_seen = len(dataset.class_names), len(dataset.seen_class_ids)
    lines = [
        f"classes: {num_classes}, of them {num_seen} seen ({len(dataset.validation_class_ids)} for validation) and "
        f"{num_classes - num_seen} unseen",
        f"attributes: {len(dataset.attribute_names)} in {describe_groups(dataset.attribute_groups)}",
        "images: " + ", ".join(f"{len(split)} {name}" for name, split in dataset.splits.items()),
        f"split: {dataset.split_name}, fingerprint {dataset.split_sha256}",
    ]
    if dataset.word_vectors is not None:
        lines.append("word vectors: {} of size {}".format(*dataset.word_vectors.shape))
    return lines


def cluster_attributes(
    attribute_names: Sequence[str], word_vectors: np.ndarray, num_groups: int | None = None
) -> dict[str, list[int]]:
    """
    Groups of attributes whose word vectors point in similar directions (k-means).

    Args:
        attribute_names (`Sequence[str]`):
            The A attributes.
        word_vectors (`np.ndarray` of shape `(A, D)`):
            Their vectors.
        num_groups (`int`, *optional*):
            How many groups. By default 4, or fewer where there are fewer different vectors.

    Returns:
        `dict[str, list[int]]`: each group → its attributes. A group is named after the attribute nearest its centre.

    Raises:
        ValueError: If there are fewer different vectors than groups.
    """
    from sklearn.cluster import KMeans  # half a second that only this function needs

    directions = word_vectors / np.maximum(np.linalg.norm(word_vectors, axis=1, keepdims=True), 1e-12)
    different = len(np.unique(directions.round(6), axis=0))
    if num_groups is None:
        num_groups = min(DEFAULT_NUM_GROUPS, different)
    if not 1 <= num_groups <= different:
        raise ValueError(
            f"num_groups is {num_groups}, but there are {different} different word vectors to make groups of: choose "
            f"from 1 to {different}."
        )
    clusters = KMeans(num_groups, n_init=10, random_state=0).fit(directions)
    groups = {}
    for group, center in enumerate(clusters.cluster_centers_):
        indices = np.flatnonzero(clusters.labels_ == group)
        nearest = indices[np.argmin(np.linalg.norm(directions[indices] - center, axis=1))]
        groups[attribute_names[nearest]] = indices.tolist()
    return groups


def _choose_groups(found, word_vectors: np.ndarray | None, num_groups: int | None) -> dict[str, list[int]]:
    """Groups of what was found of a data set: its own, else clustered ones, else a single one."""
    if found.attribute_groups is not None:
        if num_groups is not None:
            raise ValueError(
                f"num_groups is {num_groups}, but the attributes have {len(found.attribute_groups)} groups already: "
                "leave one of the two out."
            )
        return found.attribute_groups
    if word_vectors is None:
        return {"all": list(range(len(found.attribute_names)))}
    return cluster_attributes(found.attribute_names, word_vectors, num_groups)


def _compare_split(dataset: GzslDataset) -> list[str]:
    """What is to be said of a split that is not the one which published figures rest on."""
    known = dataset_card(dataset.name)
    if not known.split_counts or dataset.split_name == known.split_name:
        return []
    counts = tuple(len(dataset.splits[part]) for part in ("trainval", "test_seen", "test_unseen"))
    return [
        f"split: it is not the {known.split_name}, which has the fingerprint {known.split_sha256} and "
        + (
            "the same numbers of images"
            if counts == known.split_counts
            else "{} trainval, {} test_seen, {} test_unseen".format(*known.split_counts)
        )
        + ": figures are not comparable with published ones"
    ]


def _options(name: str, attribute_scale: str | float | None = None) -> dict[str, str | float]:
    """What is to be added to the arguments of a module's functions."""
    options = {"name": name} if is_of_datasets(name) else {}
    if member := name_in_release(name):
        options = {"name": member}
    if attribute_scale is None:
        return options
    if "attribute_scale" not in signature(dataset_module(name).load).parameters:
        raise ValueError(f"{name} has a scale of its own: leave --attribute_scale {attribute_scale} out.")
    return options | {"attribute_scale": attribute_scale}


def _need_data_dir(name: str, data_dir: str | None):
    if data_dir is None and not dataset_card(name).built_in:
        raise ValueError(f"The data set {name!r} is read from files: name their folder with --data_dir.")


def _word_vector_source(name: str, data_dir: str | None, word_vectors: str | None) -> str | None:
    """Where word vectors are to come from, `None` for the data set's own; refuses what the data set has no use for."""
    if dataset_module(name).CARD.built_in:
        if word_vectors not in (None, "random"):
            raise ValueError(f"{name} has word vectors of its own: leave --word_vectors {word_vectors} out.")
        return word_vectors
    _need_data_dir(name, data_dir)
    if word_vectors is not None:
        return word_vectors
    expected = _default_word_vectors(name, data_dir)
    if expected.is_file():
        return str(expected)
    # Whether its attributes have names is not known yet; without, they have vectors of their own.
    if name_in_release(name):
        return None
    raise _no_word_vectors(name, data_dir)


def _default_word_vectors(name: str, data_dir: str) -> Path:
    return Path(data_dir) / "attribute_vectors" / f"{short_name(name)}.npy"


def _no_word_vectors(name: str, data_dir: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"There are no word vectors for {name}: {_default_word_vectors(name, data_dir)} does not exist. Name a file "
        "or a sentence-embedding model with --word_vectors FILE, or compose them from random ones with --word_vectors "
        "random."
    )
