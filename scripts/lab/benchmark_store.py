"""
Measures what training on a feature-map store costs in memory and loading time, and that neither grows with the store:
one epoch of `dedn train` over stores of random maps (written first, deleted afterwards), and the same steps over
one batch held in memory. Needs Linux.

    python scripts/lab/benchmark_store.py --dataset cub --data_dir DATA --json outputs/benchmark/store.json
"""

import argparse
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from datasets import concatenate_datasets
from transformers import TrainerCallback

from dedn_hf.cli import main as run_command
from dedn_hf.data import load
from dedn_hf.data.dataset import GzslDataset
from dedn_hf.features.store import FeatureMapDataset
from dedn_hf.features.store_writer import StoreWriter, start_processes
from dedn_hf.files import write_json
from dedn_hf.results import provenance
from dedn_hf.training import DednTrainer

# So many different maps there are; others are these, shifted.
_POOL_ROWS = 64


def thin_out(dataset: GzslDataset, every: int) -> GzslDataset:
    """
    A data set with a part of its images.

    Args:
        dataset ([`GzslDataset`]):
            The data set.
        every (`int`):
            An image stays if its id is a multiple of it.
    """
    for name, split in dataset.splits.items():
        dataset.splits[name] = split.select(np.flatnonzero(np.asarray(split["image_id"]) % every == 0))
    return dataset


def write_random_store(dataset: GzslDataset, shape: Sequence[int], output_dir: str | os.PathLike) -> float:
    """
    Writes a store of random sparse maps for all images of a data set, and drops it from the page cache.

    Args:
        dataset ([`GzslDataset`]):
            The data set.
        shape (`Sequence[int]`):
            `(C, H, W)` of a map.
        output_dir (`str` or `os.PathLike`):
            A new folder.

    Returns:
        `float`: its size in GB.

    Raises:
        ValueError: If the disk has not enough room.
    """
    parts = [dataset.splits[name] for name in ("trainval", "test_seen", "test_unseen")]
    images = concatenate_datasets([part.select_columns(["label", "image_id"]) for part in parts])
    source = {"backbone": None, "backbone_sha256": None, "image_size": None, "processor": None}
    writer = StoreWriter(output_dir, images, dataset.name, tuple(shape), source, start_processes(cpu=True))
    random = np.random.default_rng(0)
    pool = np.maximum(random.standard_normal((_POOL_ROWS, int(np.prod(shape))), np.float32) - 1, 0).astype(np.float16)

    def make_maps(batches: list[list[int]]) -> Iterator[tuple[list[int], np.ndarray, list[None], list[dict]]]:
        for rows in batches:
            maps = np.stack([np.roll(row, rows[0]) for row in pool[: len(rows)]])
            yield rows, maps.reshape(len(rows), *shape), [None] * len(rows), []

    store = writer.write(make_maps, _POOL_ROWS, "Writing random maps")
    sizes = [shard["bytes"] for shard in store.metadata["shards"]]
    for shard in store.metadata["shards"]:
        with open(store.path / shard["file"], "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return sum(sizes) / 1e9


def measure_epoch(arguments: Sequence[str], every: int = 1, in_memory: bool = False) -> dict:
    """
    Trains for one epoch of the `reference` protocol in a process of its own, evaluation left out.

    Args:
        arguments (`Sequence[str]`):
            Command line of `dedn train`: data set, store and so on.
        every (`int`, *optional*, defaults to 1):
            See [`thin_out`].
        in_memory (`bool`, *optional*, defaults to `False`):
            Whether the store's first batch is given again and again instead of reading.

    Returns:
        `dict`: `steps`; `seconds` of the steps after the first, loading among them; `loading_seconds` of these; and
        `anonymous_mb`, the peak of the process's anonymous memory (`RssAnon`, which leaves mapped pages of files out)
        in 10⁶ bytes.

    Raises:
        RuntimeError: If training fails, or there is no `/proc` (this needs Linux).
    """
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(target=_train, args=(list(arguments), every, in_memory, theirs), daemon=True)
    process.start()
    status, peak = Path(f"/proc/{process.pid}/status"), 0
    while process.is_alive():
        try:
            lines = status.read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            break
        peak = max([peak, *(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))])
        time.sleep(0.02)
    process.join()
    if process.exitcode or not peak or not pipe.poll():
        raise RuntimeError(f"Training with {' '.join(arguments)} ended with exit status {process.exitcode}.")
    return pipe.recv() | {"anonymous_mb": peak * 1024 / 1e6}


class _Clock(TrainerCallback):
    """Sends what the steps of one epoch took, and ends the program with it."""

    def __init__(self, pipe):
        self.pipe = pipe
        self.loading = self.seconds = self.steps = 0

    def on_step_end(self, args, state, control, **kwargs):
        self.steps += 1
        if self.steps == 1:
            # The first step is not like the others: pages of libraries and of the optimizer come in.
            self.begin, self.loading = time.perf_counter(), 0
        self.seconds = time.perf_counter() - self.begin

    def on_epoch_end(self, args, state, control, **kwargs):
        self.pipe.send({"steps": self.steps, "seconds": self.seconds, "loading_seconds": self.loading})
        raise SystemExit


def _train(arguments: list[str], every: int, in_memory: bool, pipe):
    clock = _Clock(pipe)
    load_dataset, read, initialise = load.load_gzsl_dataset, FeatureMapDataset.__getitems__, DednTrainer.__init__
    kept = []

    def timed_read(self, indices):
        begin = time.perf_counter()
        if not in_memory or not kept:
            kept[:] = [read(self, indices)]
        clock.loading += time.perf_counter() - begin
        return kept[0] if in_memory else kept.pop()

    def initialise_with_clock(self, *args, **kwargs):
        initialise(self, *args, **kwargs)
        self.add_callback(clock)

    load.load_gzsl_dataset = lambda *args, **options: thin_out(load_dataset(*args, **options), every)
    FeatureMapDataset.__getitems__ = timed_read
    DednTrainer.__init__ = initialise_with_clock
    run_command(["train", *arguments])


def run_store_benchmark(
    dataset_arguments: Sequence[str],
    training_arguments: Sequence[str],
    shape: Sequence[int],
    every: Sequence[int],
    folder: str | os.PathLike,
) -> list[dict]:
    """
    Measures stores of several sizes, one after the other; each is deleted when it has been measured.

    Args:
        dataset_arguments (`Sequence[str]` of length 2):
            Name and folder of the data set.
        training_arguments (`Sequence[str]`):
            Further arguments of `dedn train`.
        shape (`Sequence[int]`):
            `(C, H, W)` of a map.
        every (`Sequence[int]`):
            One store each, of every n-th image.
        folder (`str` or `os.PathLike`):
            A new folder for stores and runs, deleted in the end.

    Returns:
        `list[dict]`: for each store its `images` and `gb`, and under `store` and `memory` what [`measure_epoch`] says
        of reading it and of one batch held in memory.

    Raises:
        ValueError: If the folder exists, or the disk has not enough room.
        RuntimeError: If training fails.
    """
    name, data_dir = dataset_arguments
    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"{folder} exists, and would be deleted in the end. Name a new folder.")
    results = []
    try:
        for divisor in every:
            dataset = thin_out(load.load_gzsl_dataset(name, data_dir, "random", check_files=False), divisor)
            size = write_random_store(dataset, shape, folder / "store")
            images = sum(len(dataset.splits[split]) for split in ("trainval", "test_seen", "test_unseen"))
            arguments = ["--dataset", name, "--data_dir", str(data_dir), "--word_vectors", "random"]
            arguments += ["--feature_maps", str(folder / "store"), "--protocol", "reference", *training_arguments]
            result = {"images": images, "gb": size}
            for kind in ("store", "memory"):
                run = [*arguments, "--output_dir", str(folder / kind)]
                result[kind] = measure_epoch(run, divisor, in_memory=kind == "memory")
            results.append(result)
            shutil.rmtree(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return results


def format_store_benchmark(results: Sequence[dict]) -> str:
    """A table of what [`run_store_benchmark`] returns for the terminal."""
    columns = ("maps", "GB", "steps", "s a step", "of it loading", "memory, MB", "one batch, MB", "difference")
    lines = ["".join(f"{column:>15}" for column in columns)]
    for result in results:
        store, memory = result["store"], result["memory"]
        cells = [
            f"{result['images']}",
            f"{result['gb']:.2f}",
            f"{store['steps']}",
            f"{store['seconds'] / max(store['steps'] - 1, 1):.3f}",
            f"{store['loading_seconds'] / store['seconds']:.1%}" if store["seconds"] else "–",
            f"{store['anonymous_mb']:.0f}",
            f"{memory['anonymous_mb']:.0f}",
            f"{store['anonymous_mb'] - memory['anonymous_mb']:+.0f}",
        ]
        lines.append("".join(f"{cell:>15}" for cell in cells))
    return "\n".join(lines)


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="cub, sun, awa2 or folder: whose images and classes to use")
    parser.add_argument("--data_dir", required=True, help="folder of the data set's files")
    parser.add_argument(
        "--shape", type=int, nargs=3, default=[2048, 14, 14], help="channels and grid of a map (default: 2048 14 14)"
    )
    parser.add_argument(
        "--every", type=int, nargs="+", default=[10, 3, 1], help="a store of every n-th image each (default: 10 3 1)"
    )
    parser.add_argument(
        "--folder", default="outputs/store_benchmark", help="new folder for the stores (default: %(default)s)"
    )
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16")
    parser.add_argument("--use_cpu", action="store_true", help="train on the CPU where there is a GPU")
    args = parser.parse_args(arguments)
    if min(args.every) < 1:
        parser.error(f"--every {min(args.every)}: 1 is every image, 10 is every tenth.")

    flags = ["--bf16", str(args.bf16).lower(), *(["--use_cpu"] if args.use_cpu else [])]
    try:
        results = run_store_benchmark((args.dataset, args.data_dir), flags, args.shape, args.every, args.folder)
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    print(format_store_benchmark(results))
    if args.json:
        write_json(args.json, {"stores": results} | provenance())


if __name__ == "__main__":
    main()
