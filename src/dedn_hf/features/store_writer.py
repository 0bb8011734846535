"""How a feature-map store is written: by one process or many, and continued after any of them was killed."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from tqdm.auto import tqdm

from ..data.splits import fingerprint_split
from ..files import write_json
from .store import FORMAT_VERSION, SCHEMA, FeatureMapStore, compare_metadata, hash_file

# Rows of a record batch: the unit in which Arrow lays rows out, and rows of one are contiguous in the file.
RECORD_BATCH_ROWS = 50
SHARD_ROWS = 512
SHARD_BYTES = 64 * 2**20


class StoreWriter:
    """
    Writes a [`FeatureMapStore`].

    Under `accelerate launch`, each process makes and writes shards of its own, into a folder that all of them see.
    What a shard holds does not depend on the process, or on when it was made: a store is the same, byte for byte,
    however many processes wrote it and however often they were killed.

    Args:
        output_dir (`str` or `os.PathLike`):
            Folder of the store: a new or empty one, or one of the same request.
        dataset (`datasets.Dataset`):
            All images: columns `label` (`ClassLabel`) and `image_id` (int64, unique).
        dataset_name (`str`):
            Short name of the data set.
        shape (`tuple[int, int, int]`):
            `(C, H, W)` of one map.
        source (`dict`):
            Where the maps come from, for `store.json`: `backbone`, `backbone_sha256`, `image_size`, `processor`, ….
        state (`PartialState`):
            The processes, see [`start_processes`].

    Attributes:
        order (`np.ndarray` of shape `(N,)`, int64):
            Row of the data set of each image, in the order of the ids.

    Raises:
        ValueError: If an id is there twice.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike,
        dataset: Dataset,
        dataset_name: str,
        shape: tuple[int, int, int],
        source: dict,
        state: PartialState,
    ):
        self.output_dir = Path(output_dir)
        self.state = state
        image_ids, labels = (np.array(dataset[column][:], np.int64) for column in ("image_id", "label"))
        self.order = np.argsort(image_ids)
        self.image_ids, self.labels = image_ids[self.order], labels[self.order]
        twice = self.image_ids[1:][np.diff(self.image_ids) == 0]
        if len(twice):
            raise ValueError(f"`image_id` must be unique, but {twice[0]} is there twice.")
        self.row_bytes = 2 * int(np.prod(shape))
        self.request = {
            "format_version": FORMAT_VERSION,
            "dataset": dataset_name,
            "class_names": dataset.features["label"].names,
            "num_rows": len(image_ids),
            "images_sha256": fingerprint_split({"images": image_ids.tolist()}),
            **source,
            "shape": list(shape),
            "dtype": "float16",
            "shard_rows": max(1, min(SHARD_ROWS, SHARD_BYTES // self.row_bytes)),
        }
        starts = range(0, len(image_ids), self.request["shard_rows"])
        self.shards = [range(first, min(first + self.request["shard_rows"], len(image_ids))) for first in starts]

    def write(
        self,
        make_maps: Callable[[list[list[int]]], Iterator[tuple[list[int], np.ndarray, list[dict]]]],
        batch_size: int,
        description: str,
        skipped_ok: bool = False,
    ) -> FeatureMapStore:
        """
        Writes the shards that are left to this process and, when all processes have, what makes them a store. If it is
        finished already, all shards are verified and none is made.

        Args:
            make_maps (`Callable`):
                Gets batches of rows, which are places in `order`, and gives for each of them in turn: the rows whose
                images could be read; their maps, of shape `(len(rows), C, H, W)` and of any float type; and for each
                image that could not, `image_id`, `path` and `reason`.
            batch_size (`int`):
                Rows of a batch; a batch ends where a shard does, too, so that a shard does not depend on which others
                were finished before.
            description (`str`):
                What the progress bar says.
            skipped_ok (`bool`, *optional*, defaults to `False`):
                Whether images may be missing from what was finished before.

        Returns:
            `FeatureMapStore`: the finished store.

        Raises:
            ValueError: If the folder holds other things or another store (each difference is named), the processes do
                not share it, or its disk has too little space; if a finished store has a bad shard (which is named),
                or images are missing from it; if a map exceeds float16, or there is none at all.
        """
        if (self.output_dir / "store.json").is_file():
            return self._check_finished(skipped_ok)
        self._claim_folder()
        own = range(self.state.process_index, len(self.shards), self.state.num_processes)
        pending = [index for index in own if not self._is_finished(index, skipped_ok)]
        shards = [self.shards[index] for index in pending]
        own_rows, pending_rows = sum(len(self.shards[index]) for index in own), sum(map(len, shards))
        needed = sum(gather_object([pending_rows])) * self.row_bytes
        free = shutil.disk_usage(self.output_dir).free
        if needed > free:
            raise ValueError(
                f"The store needs {needed / 1e9:.1f} GB more, but the disk of {self.output_dir} has "
                f"{free / 1e9:.1f} GB free. Choose another `output_dir`."
            )

        batches = make_maps(
            [list(shard[i : i + batch_size]) for shard in shards for i in range(0, len(shard), batch_size)]
        )
        several = self.state.num_processes > 1
        with tqdm(
            total=own_rows,
            initial=own_rows - pending_rows,
            desc=f"{description}, process 1 of {self.state.num_processes}" if several else description,
            unit="image",
            disable=not self.state.is_main_process,
        ) as progress:
            for index, shard in zip(pending, shards, strict=True):
                maps = np.empty((len(shard), *self.request["shape"]), np.float16)
                rows, skipped = [], []
                while len(rows) + len(skipped) < len(shard):
                    batch_rows, batch_maps, batch_skipped = next(batches)
                    with np.errstate(over="ignore"):  # it is looked for below
                        maps[len(rows) : len(rows) + len(batch_rows)] = batch_maps
                    rows += batch_rows
                    skipped += batch_skipped
                    progress.update(len(batch_rows) + len(batch_skipped))
                maps = maps[: len(rows)]
                overflowed = ~np.isfinite(maps).all(axis=(1, 2, 3))
                if overflowed.any():
                    first_bad = self.image_ids[rows][overflowed][0]
                    raise ValueError(f"The feature map of image id {first_bad} has values that float16 cannot hold.")
                write_shard(self.output_dir, index, self.image_ids[rows], self.labels[rows], maps, skipped)

        self.state.wait_for_everyone()
        if self.state.is_main_process:
            self._finish()
        self.state.wait_for_everyone()
        return FeatureMapStore(self.output_dir)

    def _check_finished(self, skipped_ok: bool) -> FeatureMapStore:
        store = FeatureMapStore(self.output_dir)
        found = {key: value for key, value in store.metadata.items() if key not in ("shards", "skipped")}
        self._require(found | {"num_rows": len(store) + len(store.skipped)})
        if store.skipped and not skipped_ok:
            raise ValueError(
                f"{self.output_dir} lacks {len(store.skipped)} images that were skipped when it was made, such as "
                f"{store.skipped[0]['path']}. Accept that with --on_error skip, or put these images right, delete "
                "store.json, and run again."
            )
        if self.state.is_main_process:
            store.verify()
        return store

    def _claim_folder(self):
        """Makes the folder and records what is being written into it, or checks that it was the same."""
        request = self.output_dir / "request.json"
        if self.state.is_main_process and not request.is_file():
            self.output_dir.mkdir(parents=True, exist_ok=True)
            # What was killed while it wrote the request is no content.
            others = sorted(path.name for path in self.output_dir.iterdir() if path.name != "request.json.tmp")
            if others:
                raise ValueError(
                    f"{self.output_dir} is no feature-map store, but holds {', '.join(others[:3])}"
                    f"{', …' if len(others) > 3 else ''}. Choose a new or empty `output_dir`."
                )
            write_json(request, self.request)
        self.state.wait_for_everyone()
        if not request.is_file():
            raise ValueError(
                f"Process {self.state.process_index} does not find {request}, which the main process has written: "
                "choose an `output_dir` on a disk that all machines share."
            )
        self._require(json.loads(request.read_text(encoding="utf-8")))
        if self.state.is_main_process:
            # What a killed process was writing. The others write nothing before they know how much all of them will.
            for path in self.output_dir.glob("*.tmp"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _require(self, found: dict):
        # Of what only one of the two has, the other has the default.
        compare_metadata(self.output_dir, found, dict.fromkeys(found) | self.request)

    def _is_finished(self, index: int, skipped_ok: bool) -> bool:
        try:
            description = json.loads((self.output_dir / f"shard-{index:05d}.json").read_text(encoding="utf-8"))
            if "skipped" in description and not skipped_ok:
                return False
            return hash_file(self.output_dir / description["file"]) == description["sha256"]
        except (FileNotFoundError, ValueError):  # not there, or the machine went down before it was on the disk
            return False

    def _finish(self):
        shards, skipped = [], []
        for index in range(len(self.shards)):
            sidecar = self.output_dir / f"shard-{index:05d}.json"
            if not sidecar.is_file():
                raise ValueError(
                    f"{sidecar} is missing although all processes have ended: they do not share the folder. Choose an "
                    "`output_dir` on a disk that all machines share."
                )
            shards.append(json.loads(sidecar.read_text(encoding="utf-8")))
            skipped += shards[-1].pop("skipped", [])
        num_rows = sum(shard["rows"] for shard in shards)
        if num_rows == 0:
            raise ValueError(
                f"None of the {len(skipped)} images can be read; the first is {skipped[0]['path']}: "
                f"{skipped[0]['reason']}"
            )
        listed = {"skipped": skipped} if skipped else {}
        write_json(self.output_dir / "store.json", self.request | {"num_rows": num_rows} | listed | {"shards": shards})


def start_processes(cpu: bool) -> PartialState:
    """
    The processes of `accelerate launch`, or this one alone.

    Args:
        cpu (`bool`):
            Whether they are to compute on the CPU.
    """
    # Processes wait for the slowest, and for nothing else: one that dies ends the others.
    return PartialState(cpu=cpu, timeout=timedelta(days=7))


def write_shard(
    output_dir: Path,
    index: int,
    image_ids: np.ndarray,
    labels: np.ndarray,
    maps: np.ndarray,
    skipped: list[dict],
):
    """
    Writes a shard under a temporary name, moves it, and then does the same with a description of it, without which a
    shard is not finished.

    Args:
        output_dir (`Path`):
            Folder of the store.
        index (`int`):
            Number of the shard.
        image_ids (`np.ndarray` of shape `(N,)`, int64), labels (`np.ndarray` of shape `(N,)`, int64):
            Of its rows.
        maps (`np.ndarray` of shape `(N, C, H, W)`, float16):
            Their maps, contiguous.
        skipped (`list[dict]`):
            Images that are missing from it.
    """
    file = output_dir / f"shard-{index:05d}.arrow"
    # A process of a run that was thought dead may be writing the same shard.
    temporary = file.with_suffix(f".arrow.{os.getpid()}.tmp")
    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
        for first in range(0, len(maps), RECORD_BATCH_ROWS):
            rows = slice(first, first + RECORD_BATCH_ROWS)
            binary = pa.array([feature_map.tobytes() for feature_map in maps[rows]], pa.large_binary())
            writer.write_batch(pa.record_batch([image_ids[rows], labels[rows], binary], schema=SCHEMA))
    description = {
        "file": file.name,
        "rows": len(maps),
        "bytes": temporary.stat().st_size,
        "sha256": hash_file(temporary),
    }
    os.replace(temporary, file)
    write_json(file.with_suffix(".json"), description | ({"skipped": skipped} if skipped else {}))
