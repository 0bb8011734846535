"""A store of a frozen backbone's feature maps on disk: how it is written once, and read at random in training."""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, Image
from tqdm.auto import tqdm
from transformers import AutoImageProcessor, CLIPImageProcessor

from ..files import write_json
from ..modeling_dedn import backbone_feature_map, load_backbone
from .splits import fingerprint_split

FORMAT_VERSION = 1
# Rows of a record batch: the unit in which Arrow lays rows out, and rows of one are contiguous in the file.
RECORD_BATCH_ROWS = 50
SHARD_ROWS = 512
SHARD_BYTES = 64 * 2**20


class FeatureMapStore:
    """
    Feature maps of all images of a data set, memory-mapped: opening costs no reading, and rows are read as they are
    asked for. Written by [`extract_feature_maps`].

    A store is a folder with `store.json` and shards `shard-00000.arrow`, …: Arrow streams, each with a contiguous
    range of rows in the order of `image_id`, and columns `image_id` (int64), `label` (int64) and `feature_map`
    (large_binary: C·H·W float16 in C order, little-endian). `datasets.Dataset.from_file` reads a shard, too.

    Args:
        path (`str` or `os.PathLike`):
            The folder.

    Attributes:
        metadata (`dict`):
            Contents of `store.json`: `dataset`, `class_names`, `num_rows`, `images_sha256`, `backbone`,
            `backbone_sha256`, `image_size`, `processor` (arguments of a `CLIPImageProcessor`), `shape`, `dtype`,
            `shard_rows` and `shards`.
        shape (`tuple[int, int, int]`):
            `(C, H, W)` of one feature map.
        image_ids (`np.ndarray` of shape `(num_rows,)`, int64):
            Ids of the images, ascending.
        labels (`np.ndarray` of shape `(num_rows,)`, int64):
            Their labels, indices into `metadata["class_names"]`.

    Raises:
        FileNotFoundError: If the folder is no store, or its extraction never finished.
        ValueError: If a shard is missing, was truncated, or does not hold what `store.json` says. Contents are not
            hashed here, see [`~FeatureMapStore.verify`].
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        if not (self.path / "store.json").is_file():
            unfinished = (self.path / "request.json").is_file()
            raise FileNotFoundError(
                f"{self.path} is no feature-map store: it has no store.json. "
                + ("Its extraction was not finished; run" if unfinished else "Make one with")
                + " scripts/extract_features.py"
                + (" again with the same arguments to go on." if unfinished else ".")
            )
        self.metadata = json.loads((self.path / "store.json").read_text(encoding="utf-8"))
        if self.metadata["format_version"] != FORMAT_VERSION or self.metadata["dtype"] != "float16":
            raise ValueError(
                f"{self.path} is a store of format {self.metadata['format_version']} and dtype "
                f"{self.metadata['dtype']}, but this version reads format {FORMAT_VERSION} and float16. Extract it "
                "again."
            )
        self.shape = tuple(self.metadata["shape"])

        self._maps, image_ids, labels = [], [], []
        for shard in self.metadata["shards"]:
            for batch in self._read_shard(shard):
                # Columns are found by their place, which the schema has fixed.
                image_ids.append(batch.column(0).to_numpy())
                labels.append(batch.column(1).to_numpy())
                maps = np.frombuffer(batch.column(2).buffers()[2], np.float16)
                self._maps.append(maps.reshape(batch.num_rows, *self.shape))
        self._first_rows = np.cumsum([0] + [len(ids) for ids in image_ids])[:-1]
        self.image_ids = np.concatenate(image_ids)
        self.labels = np.concatenate(labels)
        if len(self.image_ids) != self.metadata["num_rows"] or (np.diff(self.image_ids) <= 0).any():
            raise ValueError(
                f"{self.path} holds {len(self.image_ids)} rows where store.json says {self.metadata['num_rows']} in "
                "the order of their image ids. Extract it again."
            )

    def _read_shard(self, shard: dict) -> list[pa.RecordBatch]:
        file = self.path / shard["file"]
        if not file.is_file():
            raise ValueError(f"{file} is missing. {_REPAIR.format(file=shard['file'])}")
        if file.stat().st_size != shard["bytes"]:
            raise ValueError(
                f"{file} has {file.stat().st_size} bytes where store.json says {shard['bytes']}: it was truncated or "
                f"altered. {_REPAIR.format(file=shard['file'])}"
            )
        try:
            with pa.ipc.open_stream(pa.memory_map(str(file))) as reader:
                schema, batches = reader.schema, list(reader)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{file} is damaged ({error}). {_REPAIR.format(file=shard['file'])}") from error
        row_bytes = 2 * int(np.prod(self.shape))
        if (
            not schema.equals(_SCHEMA)
            or sum(batch.num_rows for batch in batches) != shard["rows"]
            or any(batch.column(2).buffers()[2].size != batch.num_rows * row_bytes for batch in batches)
        ):
            raise ValueError(
                f"{file} does not hold the {shard['rows']} rows of {self.shape} that store.json says. "
                + _REPAIR.format(file=shard["file"])
            )
        return batches

    # Workers of a DataLoader open the files themselves.
    def __reduce__(self):
        return FeatureMapStore, (self.path,)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, row: int) -> np.ndarray:
        """The feature map of one row: a read-only view `(C, H, W)` of the file, float16."""
        batch = np.searchsorted(self._first_rows, row, side="right") - 1
        return self._maps[batch][row - self._first_rows[batch]]

    def verify(self):
        """
        Reads all shards and compares their SHA-256 with `store.json`.

        Raises:
            ValueError: If there are differences; names all shards that have one.
        """
        bad = []
        for shard in tqdm(self.metadata["shards"], desc="Verifying shards", unit="shard"):
            if _hash_file(self.path / shard["file"]) != shard["sha256"]:
                bad.append(shard["file"])
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
        _require(self.path, self.metadata, expected)

    def select(self, image_ids: Sequence[int]) -> "FeatureMapDataset":
        """
        The rows of some images, as a data set for training.

        Args:
            image_ids (`Sequence[int]`):
                Ids of the images, in the order in which the data set is to have them.

        Raises:
            ValueError: If the store lacks one; names those.
        """
        image_ids = np.asarray(image_ids, np.int64)
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
        feature_map = torch.from_numpy(self.store[self.rows[index]].copy())
        return {"feature_map": feature_map, "labels": int(self.labels[index])}

    def __getitems__(self, indices: list[int]) -> list[dict]:
        rows = self.rows[indices]
        maps = np.empty((len(rows), *self.store.shape), np.float16)
        for place in np.argsort(rows):
            maps[place] = self.store[rows[place]]
        labels = self.labels[indices].tolist()
        return [{"feature_map": m, "labels": y} for m, y in zip(torch.from_numpy(maps), labels, strict=True)]


def extract_feature_maps(
    dataset: Dataset,
    backbone: str,
    image_size: int,
    output_dir: str | os.PathLike,
    dataset_name: str,
    batch_size: int = 8,
    num_workers: int = 1,
    device: str | torch.device = "cpu",
) -> FeatureMapStore:
    """
    Runs a frozen backbone over all images of a data set once, into a [`FeatureMapStore`].

    Images are resized so that their shorter side is `image_size` (bilinear), centre-cropped to a square, and
    normalised with the mean and standard deviation of the backbone's own image processor. A run that was interrupted
    goes on where it was; on a finished store everything is verified and nothing computed.

    Args:
        dataset (`datasets.Dataset`):
            All images: columns `image`, `label` (`ClassLabel`) and `image_id` (int64, unique).
        backbone (`str`):
            Folder or Hub id of a transformers vision model with an image processor.
        image_size (`int`):
            Side of the square that the backbone sees, in pixels.
        output_dir (`str` or `os.PathLike`):
            Folder of the store: a new or empty one, or one of the same extraction.
        dataset_name (`str`):
            Short name of the data set, recorded in the store.
        batch_size (`int`, *optional*, defaults to 8):
            Images that go through the backbone together. Small ones are faster on a CPU, where big activations are
            given back to the system and asked for again; a GPU wants more.
        num_workers (`int`, *optional*, defaults to 1):
            Processes that decode and resize images while the backbone computes; 0 is none besides this one.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`):
            Where the backbone runs.

    Returns:
        `FeatureMapStore`: the finished store.

    Raises:
        ValueError: If the folder holds other things or a store of another extraction (each difference is named), a
            finished store has a bad shard (which is named), an image cannot be read, or a feature map exceeds float16.
    """
    output_dir = Path(output_dir)
    model = load_backbone(backbone).to(device, memory_format=torch.channels_last)
    processor = _processor_arguments(backbone, image_size)
    with torch.inference_mode():
        shape = list(backbone_feature_map(model, torch.zeros(1, 3, image_size, image_size, device=device)).shape[1:])
    row_bytes = 2 * int(np.prod(shape))

    image_ids, labels = (np.array(dataset[column][:], np.int64) for column in ("image_id", "label"))
    order = np.argsort(image_ids)
    image_ids, labels = image_ids[order], labels[order]
    if (np.diff(image_ids) == 0).any():
        raise ValueError(f"`image_id` must be unique, but {image_ids[1:][np.diff(image_ids) == 0][0]} is there twice.")
    request = {
        "format_version": FORMAT_VERSION,
        "dataset": dataset_name,
        "class_names": dataset.features["label"].names,
        "num_rows": len(image_ids),
        "images_sha256": fingerprint_split({"images": image_ids.tolist()}),
        "backbone": Path(backbone).resolve().name if Path(backbone).is_dir() else backbone,
        "backbone_sha256": fingerprint_weights(model),
        "image_size": image_size,
        "processor": processor,
        "shape": shape,
        "dtype": "float16",
        "shard_rows": max(1, min(SHARD_ROWS, SHARD_BYTES // row_bytes)),
    }
    if (output_dir / "store.json").is_file():
        store = FeatureMapStore(output_dir)
        store.require(**request)
        store.verify()
        return store
    _start(output_dir, request)

    starts = range(0, len(order), request["shard_rows"])
    shards = [range(first, min(first + request["shard_rows"], len(order))) for first in starts]
    pending = [index for index in range(len(shards)) if not _is_finished(output_dir, index)]
    needed, free = sum(len(shards[index]) for index in pending) * row_bytes, shutil.disk_usage(output_dir).free
    if needed > free:
        raise ValueError(
            f"The store needs {needed / 1e9:.1f} GB more, but the disk of {output_dir} has {free / 1e9:.1f} GB free. "
            "Choose another `output_dir`."
        )
    # Batches end where a shard does, so that a shard does not depend on which others were finished before.
    batches = [
        list(shards[index][first : first + batch_size])
        for index in pending
        for first in range(0, len(shards[index]), batch_size)
    ]
    loader = iter(
        torch.utils.data.DataLoader(
            _PixelValues(dataset, order, processor),
            batch_sampler=batches,
            num_workers=num_workers,
            pin_memory=torch.device(device).type == "cuda",
        )
    )
    done = len(order) - sum(map(len, batches))
    with tqdm(total=len(order), initial=done, desc="Extracting feature maps", unit="image") as progress:
        for index in pending:
            rows = shards[index]
            maps = np.empty((len(rows), *shape), np.float16)
            for first in range(0, len(rows), batch_size):
                pixel_values = next(loader).to(device, memory_format=torch.channels_last, non_blocking=True)
                with torch.inference_mode():
                    feature_map = backbone_feature_map(model, pixel_values)
                maps[first : first + batch_size] = feature_map.to(torch.float16).cpu().numpy()
                progress.update(len(pixel_values))
            overflowed = ~np.isfinite(maps).all(axis=(1, 2, 3))
            if overflowed.any():
                first_bad = image_ids[rows][overflowed][0]
                raise ValueError(f"The feature map of image id {first_bad} has values that float16 cannot hold.")
            _write_shard(output_dir, index, image_ids[rows], labels[rows], maps)

    written = [json.loads(_sidecar(output_dir, index).read_text(encoding="utf-8")) for index in range(len(shards))]
    write_json(output_dir / "store.json", {**request, "shards": written})
    return FeatureMapStore(output_dir)


def fingerprint_weights(model: torch.nn.Module) -> str:
    """SHA-256 over names, types, shapes and values of a model's parameters and persistent buffers, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


_SCHEMA = pa.schema([("image_id", pa.int64()), ("label", pa.int64()), ("feature_map", pa.large_binary())])
_REPAIR = "Delete {file} and store.json, and run scripts/extract_features.py again: it makes only what is missing."


class _PixelValues(torch.utils.data.Dataset):
    """Preprocessed images `(3, image_size, image_size)`, in the order of their ids."""

    def __init__(self, dataset: Dataset, order: np.ndarray, processor: dict):
        self.dataset = dataset.cast_column("image", Image(decode=False))
        self.order = order
        self.processor = CLIPImageProcessor(**processor)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> torch.Tensor:
        row = self.dataset[int(self.order[index])]
        try:
            image = Image().decode_example(row["image"])
        except OSError as error:
            name = row["image"]["path"] or f"with image id {row['image_id']}"
            raise ValueError(f"The image {name} cannot be read: {error}. Replace the file, and run again.") from error
        return self.processor(image, return_tensors="pt")["pixel_values"][0]


def _processor_arguments(backbone: str, image_size: int) -> dict:
    own = AutoImageProcessor.from_pretrained(backbone)
    return {
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": image_size},
        "resample": 2,
        "do_center_crop": True,
        "crop_size": {"height": image_size, "width": image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(own.image_mean),
        "image_std": list(own.image_std),
    }


def _start(output_dir: Path, request: dict):
    """Makes the folder and records what is being extracted into it, or checks that it was the same."""
    output_dir.mkdir(parents=True, exist_ok=True)
    if (output_dir / "request.json").is_file():
        _require(output_dir, json.loads((output_dir / "request.json").read_text(encoding="utf-8")), request)
        return
    others = sorted(path.name for path in output_dir.iterdir() if path.suffix != ".tmp")
    if others:
        raise ValueError(
            f"{output_dir} is no feature-map store, but holds {', '.join(others[:3])}"
            f"{', …' if len(others) > 3 else ''}. Choose a new or empty `output_dir`."
        )
    write_json(output_dir / "request.json", request)


def _sidecar(output_dir: Path, index: int) -> Path:
    return output_dir / f"shard-{index:05d}.json"


def _is_finished(output_dir: Path, index: int) -> bool:
    file, sidecar = output_dir / f"shard-{index:05d}.arrow", _sidecar(output_dir, index)
    if not file.is_file() or not sidecar.is_file():
        return False
    return _hash_file(file) == json.loads(sidecar.read_text(encoding="utf-8"))["sha256"]


def _write_shard(output_dir: Path, index: int, image_ids: np.ndarray, labels: np.ndarray, maps: np.ndarray):
    file = output_dir / f"shard-{index:05d}.arrow"
    temporary = file.with_suffix(".arrow.tmp")
    row_bytes = maps[0].nbytes
    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_stream(sink, _SCHEMA) as writer:
        for first in range(0, len(maps), RECORD_BATCH_ROWS):
            rows = slice(first, first + RECORD_BATCH_ROWS)
            count = len(maps[rows])
            offsets = np.arange(count + 1, dtype=np.int64) * row_bytes
            buffers = [None, pa.py_buffer(offsets), pa.py_buffer(maps[rows])]
            binary = pa.LargeBinaryArray.from_buffers(pa.large_binary(), count, buffers)
            columns = [pa.array(image_ids[rows]), pa.array(labels[rows]), binary]
            writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))
    description = {
        "file": file.name,
        "rows": len(maps),
        "bytes": temporary.stat().st_size,
        "sha256": _hash_file(temporary),
    }
    os.replace(temporary, file)
    # Written last: a shard without it is not finished.
    write_json(_sidecar(output_dir, index), description)


def _hash_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require(path: Path, metadata: dict, expected: dict):
    differences = []
    for key, value in expected.items():
        found = metadata[key]
        if found == value:
            continue
        if key == "class_names" and len(found) == len(value):
            index = next(i for i, names in enumerate(zip(found, value, strict=True)) if names[0] != names[1])
            key, found, value = f"{key}[{index}]", found[index], value[index]
        elif key == "class_names":
            key, found, value = "number of class_names", len(found), len(value)
        elif key == "processor":
            found, value = ({k: v for k, v in a.items() if b.get(k) != v} for a, b in ((found, value), (value, found)))
        differences.append(f"{key} is {found!r}, where {value!r} is asked for")
    if differences:
        raise ValueError(
            f"The feature-map store {path} is another one: its {'; its '.join(differences)}. "
            "Name the store that belongs to this run, or extract one into another folder."
        )
