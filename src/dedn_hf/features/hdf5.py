"""From an HDF5 file of feature maps that somebody already has to a feature-map store."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from datasets import Dataset, Image

from ..data.proposed_split import match_image_files, read_image_files, read_proposed_split
from ..names_dedn import NameMatcher
from .store import FeatureMapStore
from .store_writer import RECORD_BATCH_ROWS, StoreWriter, start_processes

ROW_ORDERS = ("data_set", "proposed_split")
# Data sets whose own list of images is not in the order of the Proposed Split's `image_files`.
OTHER_ORDER_IN_RELEASE = ("sun",)


def import_hdf5(
    file: str | os.PathLike,
    map_key: str,
    label_key: str,
    dataset: Dataset,
    output_dir: str | os.PathLike,
    dataset_name: str,
    id_key: str | None = None,
    proposed_split_dir: str | os.PathLike | None = None,
    row_order: str | None = None,
) -> FeatureMapStore:
    """
    Turns the feature maps in an HDF5 file into a [`FeatureMapStore`], block by block.

    The file must have a row for each image. No file says of itself which image a row shows, so that its labels are
    compared with those of the data set, row by row. Labels cannot tell images of one class apart: where they fit the
    order of `dataset` and that of the Proposed Split alike, and the two differ, `row_order` must say which it is; of
    SUN, whose two orders differ, it must also where `proposed_split_dir` is not there to compare. The backbone of such
    a store is unknown: a model that is trained on it takes feature maps, and no images.

    A run that was interrupted goes on where it was, and processes divide the work, as in [`extract_feature_maps`].

    Args:
        file (`str` or `os.PathLike`):
            The HDF5 file.
        map_key (`str`):
            Its maps, of any float type: `(N, C, H, W)`, or `(N, C, R)` with R = H·W regions row by row; H = W. With
            channels last, `(N, H, W, C)` or `(N, R, C)`, they are transposed.
        label_key (`str`):
            Its labels, `(N,)`, from 0 or from 1.
        dataset (`datasets.Dataset`):
            All images of the data set: columns `label` (`ClassLabel`) and `image_id` (int64, unique), and `image` if
            there is a `proposed_split_dir`. Image files are not read.
        output_dir (`str` or `os.PathLike`):
            Folder of the store: a new or empty one, or one of the same import.
        dataset_name (`str`):
            Short name of the data set, recorded in the store.
        id_key (`str`, *optional*):
            Ids of its images, `(N,)`: its rows may then have any order.
        proposed_split_dir (`str` or `os.PathLike`, *optional*):
            Folder that holds `xlsa17/`: rows may be in the order of `image_files` in `res101.mat`, with labels that
            number the classes as `att_splits.mat` does. This is how files made from the Proposed Split are.
        row_order (`str`, *optional*):
            `"data_set"` or `"proposed_split"`, which the store records as said. By default the one that the labels
            fit.

    Raises:
        ImportError: If h5py is not installed.
        FileNotFoundError: If there is no such file.
        ValueError: If the file lacks a key, its maps have no or more than one possible layout, its rows do not fit the
            data set (the first that does not is named) or fit two orders, a map is all zeros, not finite or exceeds
            float16, or the folder is that of another store.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError("Reading HDF5 files needs h5py: pip install 'dedn-hf[hdf5]'.") from error
    if row_order not in (None, *ROW_ORDERS):
        raise ValueError(f"There is no row_order {row_order!r}; choose one of {', '.join(ROW_ORDERS)}.")
    if id_key is not None and (proposed_split_dir is not None or row_order is not None):
        raise ValueError(
            "Name either an `id_key` or the Proposed Split or a `row_order`: each says in which order the rows are."
        )
    if row_order == "proposed_split" and proposed_split_dir is None:
        raise ValueError("Rows in the order of the Proposed Split need its folder, `proposed_split_dir`.")
    file = Path(file)
    if dataset_name in OTHER_ORDER_IN_RELEASE and id_key is proposed_split_dir is row_order is None:
        raise ValueError(
            f"Files of feature maps of {dataset_name} are in the order of the data set's own list of images or in "
            f"that of the Proposed Split, and labels do not tell in which {file} is. Say --data_set_order or "
            "--proposed_split (which needs xlsa17/ with res101.mat), or name the image ids of the rows with --id_key."
        )
    if not file.is_file():
        raise FileNotFoundError(f"There is no HDF5 file {file}.")
    try:
        content = h5py.File(file, "r")
    except OSError as error:
        raise ValueError(f"{file} cannot be read as an HDF5 file: {error}.") from error
    with content:
        maps = _find(content, file, map_key)
        if maps.dtype.kind != "f":
            raise ValueError(f"{map_key} in {file} must hold floats, but is of type {maps.dtype}.")
        channels, side, channels_last = _read_layout(file, map_key, maps.shape)
        if len(maps) != len(dataset):
            raise ValueError(
                f"{map_key} in {file} has {len(maps)} rows, but the data set {dataset_name} has {len(dataset)} images."
            )
        labels = _read_integers(content, file, label_key, len(maps))
        class_names = dataset.features["label"].names
        found_order = None
        if id_key is not None:
            row_ids = _read_integers(content, file, id_key, len(maps))
        else:
            orders = {"data_set": (np.array(dataset["image_id"][:]), class_names)}
            if proposed_split_dir is not None and row_order != "data_set":
                try:
                    orders["proposed_split"] = _read_proposed_order(proposed_split_dir, dataset_name, dataset)
                except (FileNotFoundError, ValueError) as error:
                    if row_order is None:
                        error.args = (f"{error} Or say --data_set_order, if {file} is in the data set's own order.",)
                    raise
            found_order = row_order or _find_order(file, label_key, labels, orders, dataset)
            row_ids, class_names = orders[found_order]
        _check_rows(file, label_key, labels, row_ids, class_names, dataset)

        source = dict.fromkeys(("backbone", "backbone_sha256", "image_size", "processor"))
        source["hdf5"] = {
            "file": file.name,
            "bytes": file.stat().st_size,
            "map_key": map_key,
            "label_key": label_key,
            "id_key": id_key,
            "proposed_split": found_order == "proposed_split",
            # Not of an order that was found: stores of earlier versions do not have it either.
            **({"stated": True} if row_order else {}),
        }
        writer = StoreWriter(
            output_dir, dataset, dataset_name, (channels, side, side), source, start_processes(cpu=True)
        )
        # Row of the file of each row of the store.
        order = np.argsort(row_ids)

        def read_maps(batches: list[list[int]]) -> Iterator[tuple[list[int], np.ndarray, list[None], list[dict]]]:
            for rows in batches:
                # h5py wants places in ascending order, and reads a slice of the file far faster than a list of places.
                places, place_of_row = np.unique(order[rows], return_inverse=True)
                try:
                    contiguous = places[-1] - places[0] == len(places) - 1
                    block = maps[places[0] : places[-1] + 1] if contiguous else maps[places]
                except (OSError, RuntimeError) as error:
                    raise ValueError(
                        f"{map_key} in {file} cannot be read from row {places[0]} to {places[-1]}: {error}."
                    ) from error
                _check_maps(file, map_key, block, places, row_ids)
                block = block[place_of_row]
                if channels_last:
                    block = block.reshape(len(rows), side * side, channels).swapaxes(1, 2)
                yield rows, block.reshape(len(rows), channels, side, side), [None] * len(rows), []

        return writer.write(read_maps, RECORD_BATCH_ROWS, f"Reading {file.name}")


def describe_rows(source: dict) -> str:
    """
    How the rows of an HDF5 file were matched with images, in a line.

    Args:
        source (`dict`):
            What a store's metadata hold as `hdf5`.
    """
    if source["id_key"] is not None:
        return f"rows are of the image ids in {source['id_key']}"
    order = "image_files in res101.mat" if source["proposed_split"] else "the data set's own list of images"
    if source.get("stated"):
        return f"rows are in the order of {order}, as was said; their labels agree"
    return f"rows are in the order of {order}: their labels fit, which cannot tell images of one class apart"


def _find_order(file: Path, label_key: str, labels: np.ndarray, orders: dict, dataset: Dataset) -> str:
    """The name of the order that the labels fit; the data set's own if none does."""
    fitting = []
    for name, (row_ids, class_names) in orders.items():
        try:
            _check_rows(file, label_key, labels, row_ids, class_names, dataset)
        except ValueError:
            continue
        fitting.append(name)
    if len(fitting) > 1:
        differing = (orders["data_set"][0] != orders["proposed_split"][0]).sum()
        if differing:
            raise ValueError(
                f"{label_key} in {file} fits the order of the data set's own list of images and that of the Proposed "
                f"Split alike, in which {differing} of {len(labels)} rows are of other images. Labels cannot tell "
                "which it is: say --proposed_split if the file was made from res101.mat, --data_set_order if it was "
                "made from the data set's list, or name the image ids of the rows with --id_key."
            )
    return fitting[0] if fitting else "data_set"


def _find(content, file: Path, key: str):
    """A data set of the file, of which nothing is read yet."""
    names = []
    with _told_as_damage(file):
        content.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
    if key.strip("/") not in names:
        raise ValueError(f"{file} has no data set {key!r}; it has {', '.join(names) or 'none'}.")
    with _told_as_damage(file):
        return content[key]


@contextlib.contextmanager
def _told_as_damage(file: Path):
    """h5py raises errors of its own kinds where a file is damaged."""
    try:
        yield
    except (KeyError, OSError, RuntimeError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error


def _read_layout(file: Path, key: str, shape: tuple[int, ...]) -> tuple[int, int, bool]:
    """Channels, side of the grid, and whether channels come last."""
    layouts = []
    if len(shape) == 3:
        layouts = [(shape[1], math.isqrt(shape[2]), False), (shape[2], math.isqrt(shape[1]), True)]
    elif len(shape) == 4:
        layouts = [(shape[1], shape[2], False), (shape[3], shape[1], True)]
    layouts = [layout for layout in layouts if layout[0] * layout[1] ** 2 == math.prod(shape[1:])]
    if len(layouts) != 1:
        problem = "may be channels first or last" if layouts else "are no maps on a square grid"
        raise ValueError(
            f"{key} in {file} has shape {tuple(shape)}: its rows {problem}. Store it as (N, C, H, W) with H = W."
        )
    return layouts[0]


def _read_integers(content, file: Path, key: str, count: int) -> np.ndarray:
    found = _find(content, file, key)
    if found.dtype.kind not in "iuf" or found.size != count or count not in found.shape:
        raise ValueError(
            f"{key} in {file} must hold {count} whole numbers, one a row, but has shape {found.shape} and type "
            f"{found.dtype}."
        )
    with _told_as_damage(file):
        values = found[()].ravel()
    with np.errstate(invalid="ignore"):  # of NaN, which is found below
        integers = values.astype(np.int64)
    if (integers != values).any():
        raise ValueError(f"{key} in {file} must hold whole numbers, but has {values[integers != values][0]}.")
    return integers


def _read_proposed_order(data_dir: str | os.PathLike, name: str, dataset: Dataset) -> tuple[np.ndarray, list[str]]:
    """Image ids in the order of `image_files`, and class names in the order of `att_splits.mat`."""
    split = read_proposed_split(data_dir, name.upper())
    image_files = read_image_files(split.folder)
    paths = [image["path"] for image in dataset.cast_column("image", Image(decode=False))["image"]]
    root = os.path.commonpath([Path(path).parent.parent for path in paths])
    id_of_path = {
        Path(path).relative_to(root).as_posix(): image_id
        for path, image_id in zip(paths, dataset["image_id"][:], strict=True)
    }
    found = match_image_files(image_files, id_of_path)
    if None in found:
        raise ValueError(
            f"{split.folder / 'res101.mat'} names {image_files[found.index(None)]}, which is no image of the data set."
        )
    return np.array([id_of_path[path] for path in found]), split.class_names


def _check_maps(file: Path, key: str, block: np.ndarray, places: np.ndarray, row_ids: np.ndarray):
    """Raises a ValueError that names the first row of a block that was never written, or not well."""
    axes = tuple(range(1, block.ndim))
    finite, written = np.isfinite(block).all(axis=axes), block.any(axis=axes)
    if (finite & written).all():
        return
    first = (finite & written).argmin()
    what = "all zeros" if finite[first] else "not finite"
    raise ValueError(
        f"{key} in {file}: row {places[first]}, of the image with id {row_ids[places[first]]}, is {what}. Make the "
        "file again: whoever wrote it has left the row out."
    )


def _check_rows(
    file: Path,
    label_key: str,
    labels: np.ndarray,
    row_ids: np.ndarray,
    class_names: list[str],
    dataset: Dataset,
):
    """
    Raises a ValueError unless the rows are the images of the data set, with its labels, each once. `class_names` are
    in the order of the file's labels.
    """
    label_of = dict(zip(dataset["image_id"][:], dataset["label"][:], strict=True))
    ids = row_ids.tolist()
    strangers = [image_id for image_id in ids if image_id not in label_of]
    if strangers:
        raise ValueError(
            f"{file} has {len(strangers)} images that the data set lacks, such as image id {strangers[0]}."
        )
    absent = sorted(label_of.keys() - set(ids))
    if absent:
        raise ValueError(f"{file} has images twice and lacks {len(absent)} others, such as image id {absent[0]}.")
    names = dataset.features["label"].names
    class_names = NameMatcher(names).find_all(class_names)
    differing = sorted(set(class_names) ^ set(names))
    if differing:
        raise ValueError(f"The Proposed Split has other classes than the data set: {differing[0]} is in one of them.")
    expected = np.array([class_names.index(names[label_of[image_id]]) for image_id in ids])
    # Counted from 0, or from 1.
    wrong = min((np.flatnonzero(labels - first != expected) for first in (0, 1)), key=len)
    if len(wrong):
        row = wrong[0]
        raise ValueError(
            f"{label_key} in {file} differs from the labels of the data set in {len(wrong)} of {len(labels)} rows. "
            f"The first is row {row}: its label is {labels[row]}, but it should show image id {ids[row]} of class "
            f"{class_names[expected[row]]}, which is number {expected[row]} (all counted from 0). Rows or "
            "classes are in another order: name the image ids of the rows with --id_key, or say --proposed_split if "
            "the file was made from the Proposed Split."
        )
