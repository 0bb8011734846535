"""A store of a frozen backbone's feature maps on disk, and how it is read at random in training."""

import hashlib
import logging
import math
import mmap
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import torch
from tqdm.auto import tqdm
from transformers import CLIPImageProcessorPil

from ..files import content_mark, content_marks, hash_file, read_json
from ..names_dedn import NameMatcher

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
# Columns of a shard.
SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("label", pa.int64()),
        ("feature_map", pa.large_binary()),
        ("content_mark", pa.string()),
    ]
)
# Version 0.2 and before wrote no marks.
_SCHEMA_WITHOUT_MARKS = SCHEMA.remove(SCHEMA.get_field_index("content_mark"))


class FeatureMapStore:
    """
    Feature maps of all images of a data set, memory-mapped: opening costs no reading, and rows are read as they are
    asked for. Written by [`extract_feature_maps`] and [`import_hdf5`].

    A store is a folder with `store.json` and shards `shard-00000.arrow`, …: Arrow streams, each with a contiguous
    range of rows in the order of `image_id`, and columns `image_id` (int64), `label` (int64), `feature_map`
    (large_binary: C·H·W float16 in C order, little-endian) and `content_mark` (string, see [`content_mark`]: of the
    image file that the map was made from). `datasets.Dataset.from_file` reads a shard, too.

    Args:
        path (`str` or `os.PathLike`):
            The folder.

    Attributes:
        metadata (`dict`):
            Contents of `store.json`: `dataset`, `class_names`, `num_rows`, `images_sha256`, `backbone`,
            `backbone_sha256`, `image_size`, `processor` (arguments of a `CLIPImageProcessor`), `shape`, `dtype`,
            `shard_rows` and `shards`; where there is something to say, also `compute_dtype` (`"bfloat16"`), `skipped`
            and `hdf5` (the file that the maps came from; `backbone`, `backbone_sha256`, `image_size` and `processor`
            are then `None`).
        shape (`tuple[int, int, int]`):
            `(C, H, W)` of one feature map.
        image_ids (`np.ndarray` of shape `(num_rows,)`, int64):
            Ids of the images, ascending.
        labels (`np.ndarray` of shape `(num_rows,)`, int64):
            Their labels, indices into `metadata["class_names"]`.
        content_marks (`list[str | None]` of length `num_rows`):
            What the image file of each row was; `None` where that is not known: maps of an HDF5 file, and those that
            version 0.2 or before wrote.
        skipped (`list[dict]`):
            Images that could not be read and have no row: `image_id`, `path`, `reason` and `content_mark` (`None` of
            a file that was not there) of each.

    Raises:
        FileNotFoundError: If the folder is no store, or its extraction never finished.
        ValueError: If `store.json` lacks something, or a shard is missing, was truncated, or does not hold what
            `store.json` says. Contents are not hashed here, see [`~FeatureMapStore.verify`].
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        if not (self.path / "store.json").is_file():
            way_out = "Make one with `dedn features`."
            if (self.path / "request.json").is_file():
                way_out = (
                    "Its extraction was not finished; run `dedn features` again with the same arguments to go on."
                )
            raise FileNotFoundError(f"{self.path} is no feature-map store: it has no store.json. {way_out}")
        self.metadata = read_json(self.path / "store.json")
        absent = [key for key in _METADATA if key not in self.metadata]
        if absent:
            raise ValueError(f"{self.path / 'store.json'} lacks {', '.join(absent)}. Extract the store again.")
        damaged = _damaged_entries(self.metadata)
        if damaged:
            raise ValueError(
                f"{self.path / 'store.json'} is damaged: {', '.join(damaged)} cannot be. Delete it, and run "
                "`dedn features` again: it makes only what is missing."
            )
        if self.metadata["format_version"] != FORMAT_VERSION or self.metadata["dtype"] != "float16":
            raise ValueError(
                f"{self.path} is a store of format {self.metadata['format_version']} and dtype "
                f"{self.metadata['dtype']}, but this version reads format {FORMAT_VERSION} and float16. Extract it "
                "again."
            )
        self.shape = tuple(self.metadata["shape"])
        self.skipped = self.metadata.get("skipped", [])

        self._map_bytes = 2 * math.prod(self.shape)

        # File of each row, and where its feature map starts there.
        self._places, tables = [], []
        for shard in self.metadata["shards"]:
            mapped, table = self._read_shard(shard)
            tables.append(table)
            for chunk in table["feature_map"].chunks:
                start = chunk.buffers()[2].address - pa.py_buffer(mapped).address
                self._places += [(mapped, start + row * self._map_bytes) for row in range(len(chunk))]
        table = pa.concat_tables(tables)
        self.image_ids, self.labels = table["image_id"].to_numpy(), table["label"].to_numpy()
        self.content_marks = table["content_mark"].to_pylist()
        if len(self.image_ids) != self.metadata["num_rows"] or (np.diff(self.image_ids) <= 0).any():
            raise ValueError(
                f"{self.path} holds {len(self.image_ids)} rows where store.json says {self.metadata['num_rows']} in "
                "the order of their image ids. Extract it again."
            )
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(self.metadata["class_names"]):
            raise ValueError(f"{self.path} has labels that are none of its class_names. Extract it again.")

    def _read_shard(self, shard: dict) -> tuple[mmap.mmap, pa.Table]:
        file = self.path / shard["file"]
        if not file.is_file():
            raise ValueError(f"{file} is missing. {_REPAIR.format(file=shard['file'])}")
        if file.stat().st_size != shard["bytes"]:
            raise ValueError(
                f"{file} has {file.stat().st_size} bytes where store.json says {shard['bytes']}: it was truncated or "
                f"altered. {_REPAIR.format(file=shard['file'])}"
            )
        try:
            mapped, table = open_shard(file)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ValueError(f"{file} is damaged ({error}). {_REPAIR.format(file=shard['file'])}") from error
        if (
            not table.schema.equals(SCHEMA)
            or len(table) != shard["rows"]
            or any(chunk.buffers()[2].size != len(chunk) * self._map_bytes for chunk in table["feature_map"].chunks)
        ):
            raise ValueError(
                f"{file} does not hold the {shard['rows']} rows of {self.shape} that store.json says. "
                + _REPAIR.format(file=shard["file"])
            )
        return mapped, table

    # Workers of a DataLoader open the files themselves.
    def __reduce__(self):
        return FeatureMapStore, (self.path,)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, row: int) -> np.ndarray:
        """The feature map of one row: a read-only view `(C, H, W)` of the file, float16."""
        file, start = self._places[row]
        return np.frombuffer(file, np.float16, self._map_bytes // 2, start).reshape(self.shape)

    def will_need(self, rows: Sequence[int]):
        """
        Tells the system that these rows are read next, so that it fetches them all at once. Page by page, as they are
        touched, they would come from a disk several times as slowly.
        """
        if not hasattr(mmap, "MADV_WILLNEED"):
            return
        for row in rows:
            file, start = self._places[row]
            page = start - start % mmap.PAGESIZE
            file.madvise(mmap.MADV_WILLNEED, page, start + self._map_bytes - page)

    @property
    def image_processor(self) -> CLIPImageProcessorPil | None:
        """What the images went through before the backbone; `None` where nobody knows, as of an HDF5 file."""
        arguments = self.metadata["processor"]
        return None if arguments is None else CLIPImageProcessorPil(**arguments)

    def view_path(self, number: int) -> Path:
        """Folder of a further view of each image, from 1: a store of its own."""
        return self.path / "views" / f"{number}"

    @property
    def views(self) -> list["FeatureMapStore"]:
        """
        Stores of further views of each image, see [`extract_feature_maps`], for training alone; row for row of the
        same images.

        Raises:
            FileNotFoundError: If one was not finished.
            ValueError: If one is missing or damaged, or was made of other images or by another backbone.
        """
        numbers = range(1, 1 + sum(path.is_dir() for path in (self.path / "views").glob("[0-9]*")))
        views = [FeatureMapStore(self.view_path(number)) for number in numbers]
        same = ("dataset", "class_names", "backbone_sha256", "image_size", "compute_dtype", "shape")
        for view in views:
            view.require(**{key: self.metadata.get(key) for key in same})
            marks = zip(view.content_marks, self.content_marks)  # `None` is unknown
            if not np.array_equal(view.image_ids, self.image_ids) or any(
                mark != own and None not in (mark, own) for mark, own in marks
            ):
                raise ValueError(
                    f"{view.path} was made of other images than {self.path}: run `dedn features` again with --views "
                    f"{1 + len(views)}, or delete {view.path.parent}."
                )
        return views

    def verify(self):
        """
        Reads all shards and compares their SHA-256 with `store.json`.

        Raises:
            ValueError: If there are differences; names all shards that have one.
        """
        shards = tqdm(self.metadata["shards"], desc="Verifying shards", unit="shard")
        bad = [shard["file"] for shard in shards if hash_file(self.path / shard["file"]) != shard["sha256"]]
        if bad:
            raise ValueError(
                f"{self.path}: contents of {', '.join(bad)} differ from the SHA-256 in store.json. "
                + _REPAIR.format(file=" and ".join(bad))
            )

    def require(self, **expected):
        """
        Checks that this is the store that is asked for.

        Args:
            expected:
                Keys of `metadata` and the values that they must have, such as `dataset="cub"`, `class_names=[…]`,
                `backbone_sha256=…` or `image_size=224`.

        Raises:
            ValueError: If values differ; names each difference.
        """
        compare_metadata(self.path, self.metadata, expected)

    def require_unchanged(self, images: datasets.Dataset):
        """
        Checks that images are those that the store was made of, and still what they were, by the contents of their
        files. Files that are not there do not matter: a store needs none. Where the store cannot know, a line says so.

        Args:
            images (`datasets.Dataset`):
                Images of the data set, once or more often: columns `label`, `image_id` and, unless files are of no
                interest, `image`.

        Raises:
            ValueError: If images came since, or have changed, by their files or their classes; counts them and names
                the first.
        """
        image_ids, first = np.unique(np.array(images["image_id"][:], np.int64), return_index=True)
        images, image_ids = images.select(first), image_ids.tolist()
        labels = dict(zip(self.image_ids.tolist(), self.labels.tolist(), strict=True))
        skipped = {image["image_id"] for image in self.skipped}
        added = [place for place, image_id in enumerate(image_ids) if image_id not in labels.keys() | skipped]
        if added:
            raise ValueError(
                f"{self.path} was made of other images: it has no feature maps of {len(added)} of {len(images)} "
                f"images, such as {name_images(images, added)}. Extract a store of the data set as it is now into "
                "another folder."
            )
        # What a file was that could not be read is known, too; `None` if it was not there.
        recorded = {image["image_id"]: image["content_mark"] for image in self.skipped if "content_mark" in image}
        known = zip(self.image_ids.tolist(), self.content_marks, strict=True)
        recorded |= {image_id: mark for image_id, mark in known if mark is not None}
        # Nobody can say what came from an HDF5 file.
        if self.metadata["backbone"] is not None and None in self.content_marks:
            logger.warning(describe_unknown(self.path, self.content_marks.count(None), len(self)))
        places = [place for place, image_id in enumerate(image_ids) if image_id in recorded]
        marks = mark_images(images.select(places), "Comparing images")
        changed = {p for p, mark in zip(places, marks, strict=True) if mark not in (None, recorded[image_ids[p]])}
        for place, (image_id, label) in enumerate(zip(image_ids, images["label"][:], strict=True)):
            if labels.get(image_id, label) != label:
                changed.add(place)
        if changed:
            raise ValueError(
                f"{len(changed)} of {len(images)} images have changed since {self.path} was made of them: "
                f"{name_images(images, sorted(changed))}. Run `dedn features` again with the same arguments: it "
                "computes the feature maps of these anew, and no others."
            )

    def select(self, image_ids: Sequence[int]) -> "FeatureMapDataset":
        """
        The rows of some images, as a data set for training.

        Args:
            image_ids (`Sequence[int]`):
                Ids of the images, in the order in which the data set is to have them. Those that were skipped in the
                extraction are left out, with a warning that counts them.

        Raises:
            ValueError: If the store lacks others; names those.
        """
        image_ids = np.asarray(image_ids, np.int64)
        skipped = np.isin(image_ids, [image["image_id"] for image in self.skipped])
        if skipped.any():
            warnings.warn(
                f"{self.path} has no feature maps of {skipped.sum()} of {len(image_ids)} images, which could not be "
                "read when it was made: they are left out. `skipped` in its store.json lists them.",
                stacklevel=2,
            )
            image_ids = image_ids[~skipped]
        rows = np.searchsorted(self.image_ids, image_ids)
        found = self.image_ids[np.minimum(rows, len(self) - 1)] == image_ids
        if not found.all():
            absent = image_ids[~found]
            raise ValueError(
                f"{self.path} has no feature maps of {len(absent)} of {len(image_ids)} images, such as those with "
                f"image ids {absent[:5].tolist()}. It was made from other images: extract it again for this data set."
            )
        return FeatureMapDataset(self, rows)


class FeatureMapDataset(torch.utils.data.Dataset):
    """
    Some rows of a [`FeatureMapStore`] as a map-style data set, see [`FeatureMapStore.select`].

    An item is `{"feature_map": torch.float16 tensor of shape (C, H, W), "labels": int}`. `__getitems__` reads a whole
    batch at once, in the order of the file, and a `DataLoader` calls it by itself.

    Args:
        store (`FeatureMapStore`):
            The store.
        rows (`np.ndarray` of shape `(N,)`):
            Rows of the store.

    Attributes:
        labels (`np.ndarray` of shape `(N,)`, int64):
            Labels of all items.
        image_ids (`np.ndarray` of shape `(N,)`, int64):
            Image ids of all items.
    """

    def __init__(self, store: FeatureMapStore, rows: np.ndarray):
        self.store = store
        self.rows = rows
        self.labels = store.labels[rows]
        self.image_ids = store.image_ids[rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict]:
        rows = self.rows[indices]
        maps = np.empty((len(rows), *self.store.shape), np.float16)
        self.store.will_need(rows)
        for place in np.argsort(rows):
            maps[place] = self.store[rows[place]]
        labels = self.labels[indices].tolist()
        return [{"feature_map": m, "labels": y} for m, y in zip(torch.from_numpy(maps), labels, strict=True)]


class RandomViewDataset(torch.utils.data.Dataset):
    """
    Images of which one of several views is seen in each epoch, drawn by seed, epoch and image, so that a run that was
    killed goes on as if it had not been.

    Args:
        views (`Sequence[FeatureMapDataset]`):
            The same images, as one view each.
        seed (`int`, *optional*, defaults to 0):
            Seed of the random numbers.

    Attributes:
        labels (`np.ndarray` of shape `(N,)`, int64):
            Labels of all items.
    """

    def __init__(self, views: Sequence[FeatureMapDataset], seed: int = 0):
        self.views, self.seed = views, seed
        self.labels, self.image_ids = views[0].labels, views[0].image_ids
        # Workers that stay from epoch to epoch see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int):
        """Draws the views of this epoch."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict]:
        # As many numbers for each epoch as there are images, whichever are asked for.
        drawn = np.random.default_rng((self.seed, self._epoch.item())).integers(len(self.views), size=len(self))
        items = {}
        for number, view in enumerate(self.views):
            chosen = [index for index in dict.fromkeys(indices) if drawn[index] == number]
            if chosen:
                items |= zip(chosen, view.__getitems__(chosen), strict=True)
        return [items[index] for index in indices]


def open_shard(file: Path) -> tuple[mmap.mmap, pa.Table]:
    """A shard, mapped into memory, and the table in it, with all columns."""
    with open(file, "rb") as source:
        mapped = mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ)
    table = pa.ipc.open_stream(pa.py_buffer(mapped)).read_all()
    if table.schema.equals(_SCHEMA_WITHOUT_MARKS):
        table = table.append_column(SCHEMA.field("content_mark"), pa.nulls(len(table), pa.string()))
    return mapped, table


def describe_unknown(path: Path, unknown: int, total: int) -> str:
    """What there is to say of a store without marks."""
    return (
        f"{path} was made by version 0.2 or before, which did not record what image files were: whether {unknown} of "
        f"its {total} images have changed since cannot be known. Extract a store into another folder to be told."
    )


def mark_images(images: datasets.Dataset, description: str) -> list[str | None]:
    """
    Marks of the contents of images, see [`content_mark`].

    Args:
        images (`datasets.Dataset`):
            The images, in a column `image`, if it has one.
        description (`str`):
            What the progress bar says.

    Returns:
        `list[str | None]`: a mark for each; `None` of one whose file is not there or cannot be read.
    """
    if "image" not in images.column_names:
        return [None] * len(images)
    marks, files = [], {}
    for batch in images.select_columns("image").cast_column("image", datasets.Image(decode=False)).iter(1000):
        for image in batch["image"]:
            if image["bytes"] is None:
                files[len(marks)] = image["path"]
            marks.append(None if image["bytes"] is None else content_mark(image["bytes"]))
    for place, mark in zip(files, content_marks(list(files.values()), description), strict=True):
        marks[place] = mark
    return marks


def name_images(images: datasets.Dataset, places: Sequence[int], most: int = 3) -> str:
    """The first few of some rows of a data set of images, by their files, or by their ids where they have none."""
    named = images.select(places[:most])
    paths = [None] * len(named)
    if "image" in named.column_names:
        paths = [image["path"] for image in named.cast_column("image", datasets.Image(decode=False))["image"][:]]
    names = [path or f"image id {image_id}" for path, image_id in zip(paths, named["image_id"][:], strict=True)]
    return ", ".join(names) + ", …" * (len(places) > most)


def fingerprint_weights(model: torch.nn.Module) -> str:
    """
    SHA-256 over names, types, shapes and values of a backbone's parameters and persistent buffers, in hexadecimal.

    A pooler is left out: it comes after the feature map, and many checkpoints have none, so that it is random.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith("pooler."):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


_METADATA = (
    *("format_version", "dataset", "class_names", "num_rows", "images_sha256", "shape", "dtype", "shards"),
    *("backbone", "backbone_sha256", "image_size", "processor"),
)


def is_shard(shard) -> bool:
    """Whether this can be what is said of a shard, in `store.json` or beside it."""
    # A name alone: a store is read from its own folder, wherever that is.
    return (
        isinstance(shard, dict)
        and isinstance(shard.get("file"), str)
        and Path(shard["file"]).name == shard["file"]
        and _is_count(shard.get("rows"))
        and _is_count(shard.get("bytes"))
        and isinstance(shard.get("sha256"), str)
        and _is_list(shard.get("skipped", []), _is_skipped)
    )


def _is_count(value) -> bool:
    return type(value) is int and value >= 0


def _is_list(value, holds: Callable) -> bool:
    return isinstance(value, list) and all(map(holds, value))


def _is_skipped(image) -> bool:
    return isinstance(image, dict) and type(image.get("image_id")) is int and {"path", "reason"} <= image.keys()


def _damaged_entries(metadata: dict) -> list[str]:
    """Names in a `store.json` of what cannot be there."""
    shape, processor = metadata["shape"], metadata["processor"]
    sound = {
        "class_names": _is_list(metadata["class_names"], lambda name: isinstance(name, str)),
        "num_rows": _is_count(metadata["num_rows"]),
        "shape": _is_list(shape, lambda side: _is_count(side) and side) and len(shape) == 3,
        "shards": _is_list(metadata["shards"], is_shard) and metadata["shards"],
        "skipped": _is_list(metadata.get("skipped", []), _is_skipped),
        "processor": processor is None or isinstance(processor, dict),
    }
    return [name for name, is_sound in sound.items() if not is_sound]


_REPAIR = "Delete {file} and store.json, and run `dedn features` again: it makes only what is missing."


def compare_metadata(path: Path, metadata: dict, expected: dict):
    """Raises a ValueError that names each difference of a store from what is expected; what is not there is `None`."""
    differences = []
    for key, value in expected.items():
        found = same = metadata.get(key)
        if key == "class_names" and _is_list(found, lambda name: isinstance(name, str)):
            same = NameMatcher(value).find_all(found)
        if same == value:
            continue
        if key == "class_names" and not isinstance(found, list):
            key, value = "class_names", f"a list of {len(value)}"
        elif key == "class_names" and len(found) == len(value):
            index = next(i for i, names in enumerate(zip(same, value, strict=True)) if names[0] != names[1])
            key, found, value = f"{key}[{index}]", found[index], value[index]
        elif key == "class_names":
            key, found, value = "number of class_names", len(found), len(value)
        elif key == "processor" and isinstance(found, dict) and value:
            found, value = ({k: v for k, v in a.items() if b.get(k) != v} for a, b in ((found, value), (value, found)))
        differences.append(f"{key} is {found!r}, where {value!r} is asked for")
    if differences:
        raise ValueError(
            f"The feature-map store {path} is another one: its {'; its '.join(differences)}. "
            "Name the store that belongs to this run, or extract one into another folder."
        )
