"""How a feature-map store is written: by one process or many, and continued after any of them was killed."""

import contextlib
import logging
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
from ..files import clear_faults, hash_file, only_run_in, read_json, write_json
from .store import (
    FORMAT_VERSION,
    SCHEMA,
    FeatureMapStore,
    compare_metadata,
    describe_unknown,
    is_shard,
    name_images,
    open_shard,
)

logger = logging.getLogger(__name__)

# Rows of a record batch: the unit in which Arrow lays rows out, and rows of one are contiguous in the file.
RECORD_BATCH_ROWS = 50
SHARD_ROWS = 512
SHARD_BYTES = 64 * 2**20

MakeMaps = Callable[[list[list[int | None]]], Iterator[tuple[list[int], np.ndarray, list[str | None], list[dict]]]]


class StoreWriter:
    """
    Writes a [`FeatureMapStore`].

    Under `accelerate launch`, each process makes and writes shards of its own, into a folder that all of them see.
    What a shard holds does not depend on the process, or on when it was made: a store is the same, byte for byte,
    however many processes wrote it and however often they were killed. Where images have changed, their maps alone are
    made anew, and the shards that hold them are written again.

    Args:
        output_dir (`str` or `os.PathLike`):
            Folder of the store: a new or empty one, or one of the same request.
        dataset (`datasets.Dataset`):
            All images: columns `label` (`ClassLabel`), `image_id` (int64, unique) and, to be named by, `image`.
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
        self.dataset = dataset
        self.state = state
        image_ids, labels = (np.array(dataset[column][:], np.int64) for column in ("image_id", "label"))
        self.order = np.argsort(image_ids)
        self.image_ids, self.labels = image_ids[self.order], labels[self.order]
        twice = self.image_ids[1:][np.diff(self.image_ids) == 0]
        if len(twice):
            raise ValueError(f"`image_id` must be unique, but {twice[0]} is there twice.")
        self.row_of_id = {image_id: row for row, image_id in enumerate(self.image_ids.tolist())}
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
        make_maps: MakeMaps,
        batch_size: int,
        description: str,
        skipped_ok: bool = False,
        read_marks: Callable[[list[int]], list[str | None]] | None = None,
    ) -> FeatureMapStore:
        """
        Writes what is left to this process and, when all processes have, what makes it a store. Of shards that are
        finished, those maps are made anew whose images have changed; if there are none, the store is verified only.

        Args:
            make_maps (`Callable`):
                Gets batches of rows, which are places in `order`, and gives for each of them in turn: the rows whose
                images could be read; their maps, of shape `(len(rows), C, H, W)` and of any float type; the marks of
                their images, see [`FeatureMapStore`]; and for each image that could not be read, `image_id`, `path`,
                `reason` and `content_mark`. In place of a row whose map is there already a batch has `None`, so that
                the others are where they would be in a new store: sums are then taken in the same order.
            batch_size (`int`):
                Rows of a batch; a batch ends where a shard does, too, so that a shard does not depend on which others
                were finished before.
            description (`str`):
                What the progress bar says.
            skipped_ok (`bool`, *optional*, defaults to `False`):
                Whether images may be missing from what was finished before.
            read_marks (`Callable`, *optional*):
                Gets rows, and gives the marks of their images as they are now, `None` of one that is not there.
                Without it nothing is known of images.

        Returns:
            `FeatureMapStore`: the finished store.

        Raises:
            ValueError: If the folder holds other things or another store (each difference is named), the processes do
                not share it, or its disk has too little space; if a finished store has a bad shard (which is named);
                if a map exceeds float16, or there is none at all.
        """
        with contextlib.ExitStack() as run:
            run.enter_context(clear_faults(self.output_dir))
            if self.state.is_main_process:
                run.enter_context(only_run_in(self.output_dir))
            return self._write(make_maps, batch_size, description, skipped_ok, read_marks)

    def _write(self, make_maps, batch_size, description, skipped_ok, read_marks):
        own = range(self.state.process_index, len(self.shards), self.state.num_processes)
        store = self._check_finished() if (self.output_dir / "store.json").is_file() else None
        if store is None:
            self._claim_folder()
        shards = {index: self._describe(index, store) for index in own}
        left = {index: list(self.shards[index]) for index in own if shards[index] is None}
        again, maps, missing, unknown = {}, 0, 0, 0
        if read_marks is not None:
            rows = [row for index in own if shards[index] is not None for row in self.shards[index]]
            marks = dict(zip(rows, read_marks(rows), strict=True))
            for index in own:
                if shards[index] is not None:
                    again[index], counts = self._find_changed(index, shards[index], marks, skipped_ok)
                    maps, missing, unknown = np.add((maps, missing, unknown), counts).tolist()
        again = {index: rows for index, rows in again.items() if rows}
        # A shard is replaced once the new one is on the disk.
        needed = sum(map(len, left.values())) + max((len(self.shards[index]) for index in again), default=0)
        counts = gather_object([(needed, maps, missing, unknown)])
        needed, maps, missing, unknown = np.sum(counts, axis=0).tolist()
        changed = sorted(gather_object([row for rows in again.values() for row in rows]))
        if self.state.is_main_process and unknown:
            logger.warning(describe_unknown(self.output_dir, unknown, len(self.image_ids)))
        if missing and missing == maps and not any(read_marks([*range(len(self.image_ids))])):
            raise ValueError(
                f"None of the {len(self.image_ids)} images of {self.output_dir} is there any more, such as "
                f"{name_images(self.dataset, self.order[:1])}. Bring them back; the store is as it was."
            )
        if store is not None and not changed:
            return store
        free = shutil.disk_usage(self.output_dir).free
        if needed * self.row_bytes > free:
            raise ValueError(
                f"The store needs {needed * self.row_bytes / 1e9:.1f} GB more, but the disk of {self.output_dir} has "
                f"{free / 1e9:.1f} GB free. Choose another `output_dir`."
            )
        if self.state.is_main_process and changed:
            logger.warning(
                f"{self.output_dir}: {len(changed)} of {len(self.image_ids)} images are computed anew, as they have "
                f"changed since or were skipped: {name_images(self.dataset, self.order[changed])}"
            )
        if store is not None:
            self._reopen(store)

        left = dict(sorted((left | again).items()))
        self._write_shards(left, shards, make_maps, batch_size, description)
        self.state.wait_for_everyone()
        if self.state.is_main_process:
            self._finish()
        self.state.wait_for_everyone()
        return FeatureMapStore(self.output_dir)

    def _write_shards(self, left, shards, make_maps, batch_size, description):
        """Makes the rows that are `left` of each shard, and writes it, with what it had beside them."""
        batches = []
        for index, rows in left.items():
            shard, wanted = self.shards[index], set(rows)
            for first in range(shard.start, shard.stop, batch_size):
                batch = [row if row in wanted else None for row in range(first, min(first + batch_size, shard.stop))]
                batches += [batch] if any(row is not None for row in batch) else []
        batches = make_maps(batches)
        own_rows = sum(len(self.shards[index]) for index in shards)
        several = self.state.num_processes > 1
        with tqdm(
            total=own_rows,
            initial=own_rows - sum(map(len, left.values())),
            desc=f"{description}, process 1 of {self.state.num_processes}" if several else description,
            unit="image",
            disable=not self.state.is_main_process,
        ) as progress:
            for index, wanted in left.items():
                shard = self.shards[index]
                maps, marks, skipped = self._read_finished(index, shards[index], set(wanted))
                missing = len(wanted)
                while missing:
                    rows, batch_maps, batch_marks, batch_skipped = next(batches)
                    with np.errstate(over="ignore"):  # it is looked for below
                        maps[[row - shard.start for row in rows]] = batch_maps
                    marks |= zip(rows, batch_marks, strict=True)
                    skipped |= {self.row_of_id[image["image_id"]]: image for image in batch_skipped}
                    missing -= len(rows) + len(batch_skipped)
                    progress.update(len(rows) + len(batch_skipped))
                rows = sorted(marks)
                if len(rows) < len(shard):
                    maps = maps[[row - shard.start for row in rows]]
                overflowed = ~np.isfinite(maps).all(axis=(1, 2, 3))
                if overflowed.any():
                    first_bad = self.image_ids[rows][overflowed][0]
                    raise ValueError(f"The feature map of image id {first_bad} has values that float16 cannot hold.")
                # It says what shards hold: there must be none while one is replaced.
                (self.output_dir / "store.json").unlink(missing_ok=True)
                write_shard(
                    self.output_dir,
                    index,
                    self.image_ids[rows],
                    self.labels[rows],
                    maps,
                    [marks[row] for row in rows],
                    [skipped[row] for row in sorted(skipped)],
                )

    def _read_finished(self, index: int, description: dict | None, wanted: set[int]):
        """Maps of a shard, and of each row that is not wanted its mark, or what is said of it if it was skipped."""
        shard = self.shards[index]
        maps, marks, skipped = np.empty((len(shard), *self.request["shape"]), np.float16), {}, {}
        if description is not None:
            _, table = open_shard(self.output_dir / description["file"])
            for place, image_id in enumerate(table["image_id"].to_pylist()):
                row = self.row_of_id[image_id]
                if row not in wanted:
                    feature_map = np.frombuffer(table["feature_map"][place].as_buffer(), np.float16)
                    maps[row - shard.start] = feature_map.reshape(maps.shape[1:])
                    marks[row] = table["content_mark"][place].as_py()
            for image in description.get("skipped", []):
                skipped |= {self.row_of_id[image["image_id"]]: image}
        return maps, marks, {row: image for row, image in skipped.items() if row not in wanted}

    def _find_changed(
        self, index: int, description: dict, marks: dict[int, str | None], skipped_ok: bool
    ) -> tuple[list[int], tuple[int, int, int]]:
        """
        The rows of a finished shard that are to be made anew, given the marks of their images as they are now; and how
        many maps it has, of how many the image is not there, and of how many nobody knows whether it has changed.
        """
        _, table = open_shard(self.output_dir / description["file"])
        columns = (table[name].to_pylist() for name in ("image_id", "label", "content_mark"))
        changed, missing, unknown = [], 0, 0
        for image_id, label, mark in zip(*columns, strict=True):
            row = self.row_of_id[image_id]
            missing += marks[row] is None
            if marks[row] is None or mark not in (None, marks[row]) or label != self.labels[row]:
                changed.append(row)
            else:
                unknown += mark is None
        for image in description.get("skipped", []):
            row = self.row_of_id[image["image_id"]]
            # What version 0.2 or before skipped has no mark.
            if not skipped_ok or "content_mark" not in image or image["content_mark"] != marks[row]:
                changed.append(row)
        return sorted(changed), (len(table), missing, unknown)

    def _check_finished(self) -> FeatureMapStore:
        store = FeatureMapStore(self.output_dir)
        found = {key: value for key, value in store.metadata.items() if key not in ("shards", "skipped")}
        self._require(found | {"num_rows": len(store) + len(store.skipped)}, store)
        if self.state.is_main_process:
            store.verify()
        return store

    def _reopen(self, store: FeatureMapStore):
        """Before a finished store is changed: what an unfinished one is continued by, if somebody left it out."""
        if self.state.is_main_process:
            if not (self.output_dir / "request.json").is_file():
                write_json(self.output_dir / "request.json", self.request)
            for index in range(len(self.shards)):
                sidecar = self._sidecar(index)
                if not sidecar.is_file():
                    write_json(sidecar, self._describe(index, store))
        self.state.wait_for_everyone()

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
        self._require(read_json(request))
        if self.state.is_main_process:
            # What a killed process was writing. The others write nothing before they know how much all of them will.
            for path in self.output_dir.glob("*.tmp"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _require(self, found: dict, store: FeatureMapStore | None = None):
        images = ("num_rows", "images_sha256")
        others = {key: value for key, value in found.items() if key not in images}
        # Of what only one of the two has, the other has the default.
        expected = {key: value for key, value in self.request.items() if key not in images}
        compare_metadata(self.output_dir, others, dict.fromkeys(others) | expected)
        if found.get("images_sha256") == self.request["images_sha256"]:
            return
        if store is None:
            changes = f"it was begun with {found['num_rows']}, and now there are {len(self.image_ids)}"
        else:
            changes = self._describe_other_images(store)
        raise ValueError(
            f"{self.output_dir} was made of other images than the data set has now: {changes}. Put the images back as "
            "they were, or extract a store into another folder."
        )

    def _describe_other_images(self, store: FeatureMapStore) -> str:
        """Which images a finished store lacks, and which it has beside them."""
        names = {
            image_id: f"image id {image_id} of {store.metadata['class_names'][label]}"
            for image_id, label in zip(store.image_ids.tolist(), store.labels.tolist(), strict=True)
        }
        names |= {image["image_id"]: image["path"] or f"image id {image['image_id']}" for image in store.skipped}
        added = [row for row, image_id in enumerate(self.image_ids.tolist()) if image_id not in names]
        removed = [name for image_id, name in names.items() if image_id not in self.row_of_id]
        changes = []
        if added:
            changes.append(f"added since: {len(added)} ({name_images(self.dataset, self.order[added])})")
        if removed:
            changes.append(
                f"removed since: {len(removed)} ({', '.join(removed[:3])}{', …' if len(removed) > 3 else ''})"
            )
        return "; ".join(changes)

    def _sidecar(self, index: int) -> Path:
        return self.output_dir / f"shard-{index:05d}.json"

    def _describe(self, index: int, store: FeatureMapStore | None) -> dict | None:
        """What is said of a finished shard, also of one of a finished store; `None` if it is to be made."""
        if store is not None:
            ids = set(self.image_ids[self.shards[index]].tolist())
            skipped = [image for image in store.skipped if image["image_id"] in ids]
            return store.metadata["shards"][index] | ({"skipped": skipped} if skipped else {})
        try:
            description = read_json(self._sidecar(index))
        except (FileNotFoundError, ValueError):  # not there, or the machine went down before it was on the disk
            return None
        file = self._sidecar(index).with_suffix(".arrow")
        if not (
            is_shard(description)
            and description["file"] == file.name
            and file.is_file()
            and file.stat().st_size == description["bytes"]
            and hash_file(file) == description["sha256"]
        ):
            return None
        _, table = open_shard(file)
        image_ids = table["image_id"].to_pylist() + [image["image_id"] for image in description.get("skipped", [])]
        whole = len(table) == description["rows"] and sorted(image_ids) == self.image_ids[self.shards[index]].tolist()
        return description if whole else None

    def _finish(self):
        shards, skipped = [], []
        for index in range(len(self.shards)):
            sidecar = self._sidecar(index)
            if not sidecar.is_file():
                raise ValueError(
                    f"{sidecar} is missing although all processes have ended: they do not share the folder. Choose an "
                    "`output_dir` on a disk that all machines share."
                )
            shards.append(read_json(sidecar))
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
    marks: list[str | None],
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
        marks (`list[str | None]` of length `N`):
            Of their images.
        skipped (`list[dict]`):
            Images that are missing from it.
    """
    file = output_dir / f"shard-{index:05d}.arrow"
    # A process of a run that was thought dead may be writing the same shard.
    temporary = file.with_suffix(f".arrow.{os.getpid()}.tmp")
    try:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
            for first in range(0, len(maps), RECORD_BATCH_ROWS):
                rows = slice(first, first + RECORD_BATCH_ROWS)
                binary = pa.array([feature_map.tobytes() for feature_map in maps[rows]], pa.large_binary())
                columns = [image_ids[rows], labels[rows], binary, pa.array(marks[rows], pa.string())]
                writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
        description = {
            "file": file.name,
            "rows": len(maps),
            "bytes": temporary.stat().st_size,
            "sha256": hash_file(temporary),
        }
        os.replace(temporary, file)
    except OSError:
        # On a full disk it would be in the way.
        temporary.unlink(missing_ok=True)
        raise
    write_json(file.with_suffix(".json"), description | ({"skipped": skipped} if skipped else {}))
