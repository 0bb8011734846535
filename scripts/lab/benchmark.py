"""
How fast training steps and inference of the two experts are on this machine's CPU, between the textbook form of their
arithmetic and a floor: the bare matrix products that no form can do without.

    python scripts/lab/benchmark.py --sizes cub sun awa2 small --repeats 5 --json outputs/benchmark.json

Prints a table and writes it as JSON, with a picture of the same name beside it. Nothing else should be running.
"""

import argparse
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from dedn_hf import DednConfig, DednModel
from dedn_hf.evaluation.plots import save_figure
from dedn_hf.files import write_json
from dedn_hf.recipes import read_recipe

# The textbook form is what the tests compare the model with.
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from textbook import TextbookDednModel

CONTENDERS = ("textbook", "ours", "floor")
MODES = ("train", "inference")
# Recipe, seen and unseen classes of the Proposed Splits, channels and grid of the feature maps. "small" is CUB on
# those of a MobileNetV2 at 224 pixels.
_SIZES = {
    "cub": ("cub", 150, 50, 2048, 14),
    "sun": ("sun", 645, 72, 2048, 14),
    "awa2": ("awa2", 40, 10, 2048, 7),
    "small": ("cub", 150, 50, 1280, 7),
}
SIZES = tuple(_SIZES)
# 4 MB: what a matrix product of the floor writes before the next one, so that it stays in the processor's cache.
_FLOOR_BLOCK = 2**20


def size_config(name: str) -> DednConfig:
    """
    The config of a model over feature maps at one of the sizes that are measured.

    Args:
        name (`str`):
            `"cub"`, `"sun"` or `"awa2"` (paper sizes), or `"small"` (CUB's attributes over 7 × 7 × 1280).

    Raises:
        ValueError: If there is no such size.
    """
    if name not in _SIZES:
        raise ValueError(f"There is no size {name!r}; choose from {', '.join(SIZES)}.")
    dataset, num_seen, num_unseen, channels, grid_size = _SIZES[name]
    settings = read_recipe(dataset, "reference").model
    num_attributes = sum(map(len, settings["attribute_groups"].values()))
    settings |= {"feature_channels": channels, "grid_size": grid_size, "word_vector_size": 300}
    return DednConfig(
        attribute_names=[f"attribute {index}" for index in range(num_attributes)],
        id2label={index: f"class {index}" for index in range(num_seen + num_unseen)},
        seen_class_ids=list(range(num_seen)),
        **settings,
    )


def gigaflops(config: DednConfig, batch_size: int) -> dict[str, float]:
    """
    Arithmetic of the floor in 10⁹ operations, a multiplication and an addition counting two: 2·B·A·C·R for each of
    values and weights, two attentions and two experts, and in training as much again for the weight gradients.
    """
    operations = 2 * batch_size * len(config.attribute_names) * config.feature_channels * config.grid_size**2
    return {"train": 16 * operations / 1e9, "inference": 8 * operations / 1e9}


def prepare_contender(name: str, config: DednConfig, batch_size: int) -> dict[str, Callable[[], None]]:
    """
    Loads the parameters and one batch of random inputs.

    Args:
        name (`str`):
            One of `CONTENDERS`.
        config ([`DednConfig`]):
            The size.
        batch_size (`int`):
            Images in the batch.

    Returns:
        `dict`: `"train"` → a function that does a training step: forward, loss and backward, without optimizer;
        `"inference"` → one that scores the classes. For the floor, the products of these.
    """
    torch.manual_seed(0)
    if name == "floor":
        return _prepare_floor(config, batch_size)
    model = (TextbookDednModel if name == "textbook" else DednModel)(config)
    seen = [index in set(config.seen_class_ids) for index in range(config.num_labels)]
    class_attributes = torch.rand(config.num_labels, len(config.attribute_names))
    model.set_classes(list(config.id2label.values()), class_attributes, seen=seen)
    feature_map = torch.rand(batch_size, config.feature_channels, config.grid_size, config.grid_size)
    labels = torch.tensor(config.seen_class_ids)[torch.randint(len(config.seen_class_ids), (batch_size,))]

    def train():
        model.train()
        model.zero_grad()
        model(feature_map=feature_map, labels=labels).loss.backward()

    @torch.inference_mode()
    def inference():
        model.eval()
        model(feature_map=feature_map)

    return {"train": train, "inference": inference}


def _prepare_floor(config: DednConfig, batch_size: int) -> dict[str, Callable[[], None]]:
    num_attributes, channels, regions = len(config.attribute_names), config.feature_channels, config.grid_size**2
    # Values and weights of two experts below each other, and the map with one row a region and one row a channel.
    rows = 4 * num_attributes
    operands = [
        (torch.rand(batch_size * regions, channels), torch.rand(channels, rows)),
        (torch.rand(batch_size * channels, regions), torch.rand(regions, rows)),
    ]
    block = max(1, _FLOOR_BLOCK // rows)
    product = torch.empty(block, rows)

    def inference():
        for tokens, weight in operands:
            for part in tokens.split(block):
                torch.mm(part, weight, out=product[: len(part)])

    def train():
        inference()
        for tokens, weight in operands:
            gradient = torch.zeros_like(weight)
            for part in tokens.split(block):
                torch.addmm(gradient, part.T, product[: len(part)], out=gradient)

    return {"train": train, "inference": inference}


def peak_memory(function: Callable[[], None]) -> float:
    """
    How much the resident memory of this process grows while a function runs, at its peak, in MB (10⁶ bytes).

    Where the system cannot forget an earlier peak (Linux can), growth below that one is not seen: call it in a fresh
    process.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is resident
        before, read = _proc_status("VmRSS"), lambda: _proc_status("VmHWM")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024

        def read():
            return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        before = read()
    function()
    return (read() - before) / 1e6


def _proc_status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def _serve(name: str, config: DednConfig, batch_size: int, threads: int, pipe):
    """A contender's process: does what it is asked for over the pipe, and answers with the figure."""
    torch.set_num_threads(threads)
    # A step of next to no size loads the code that a step needs, which is none of the step's own memory.
    small = DednConfig(**{**config.to_dict(), "feature_channels": 8, "grid_size": 2})
    prepare_contender(name, small, 2)["train"]()
    run = prepare_contender(name, config, batch_size)
    while (task := pipe.recv()) is not None:
        if task == "memory":
            pipe.send(peak_memory(run["train"]))
        else:
            start = time.perf_counter()
            run[task]()
            pipe.send(time.perf_counter() - start)


def run_benchmark(
    sizes: Mapping[str, DednConfig], repeats: int = 5, batch_size: int = 50, threads: int | None = None
) -> dict[str, dict]:
    """
    Measures textbook, ours and floor in one run. Each has a process of its own, and they take turns, so that what else
    the machine does falls on all alike.

    Args:
        sizes (`Mapping[str, DednConfig]`):
            Name → config, see [`size_config`].
        repeats (`int`, *optional*, defaults to 5):
            Measurements of each time, of which the median is taken; one more, before them, is not counted.
        batch_size (`int`, *optional*, defaults to 50):
            Images in a step.
        threads (`int`, *optional*):
            Threads of each contender; by default what torch takes.

    Returns:
        `dict[str, dict]`: for each size
        - `train`, `inference`: seconds of each contender;
        - `memory_mb`: what a training step of textbook and of ours needs above the process with inputs and parameters;
        - `gflop`: see [`gigaflops`], and `gflop_per_s`: that over the seconds;
        - `settings`: batch size, threads, repeats, version of torch and processor.

    Raises:
        ValueError: If `repeats`, `batch_size` or `threads` is not positive.
        RuntimeError: If a contender's process dies; names it.
    """
    threads = torch.get_num_threads() if threads is None else threads
    for name, value in (("repeats", repeats), ("batch_size", batch_size), ("threads", threads)):
        if value < 1:
            raise ValueError(f"`{name}` is {value}; at least 1 is needed.")
    results = {}
    with tqdm(total=len(sizes) * (repeats + 1) * len(MODES) * len(CONTENDERS), unit="run") as progress:
        for size, config in sizes.items():
            progress.set_description(f"Measuring {size}")
            seconds, memory = _measure(size, config, repeats, batch_size, threads, progress)
            gflop = gigaflops(config, batch_size)
            results[size] = {
                **seconds,
                "memory_mb": memory,
                "gflop": gflop,
                "gflop_per_s": {
                    mode: {name: gflop[mode] / value for name, value in seconds[mode].items()} for mode in MODES
                },
                "settings": {
                    "batch_size": batch_size,
                    "threads": threads,
                    "repeats": repeats,
                    "torch": torch.__version__,
                    "processor": _processor(),
                },
            }
    return results


def _measure(size, config, repeats, batch_size, threads, progress) -> tuple[dict, dict]:
    context = multiprocessing.get_context("spawn")
    processes, pipes = {}, {}
    try:
        for name in CONTENDERS:
            pipes[name], theirs = context.Pipe()
            arguments = (name, config, batch_size, threads, theirs)
            processes[name] = context.Process(target=_serve, args=arguments, daemon=True)
            processes[name].start()
            theirs.close()

        def ask(name, task):
            try:
                pipes[name].send(task)
                return pipes[name].recv()
            except (EOFError, OSError):
                processes[name].join()
                raise RuntimeError(
                    f"The process of {name} at size {size} ended with status {processes[name].exitcode} (−9: killed, "
                    "as for want of memory). Choose a smaller size."
                ) from None

        # The first step of a process is the one whose memory is looked at, and no time that counts.
        memory = {name: ask(name, "memory") for name in CONTENDERS}
        progress.update(len(CONTENDERS))
        for name in CONTENDERS:
            ask(name, "inference")
            progress.update()
        seconds = {mode: {name: [] for name in CONTENDERS} for mode in MODES}
        for _ in range(repeats):
            for mode in MODES:
                for name in CONTENDERS:
                    seconds[mode][name].append(ask(name, mode))
                    progress.update()
        for pipe in pipes.values():
            pipe.send(None)
    finally:
        for process in processes.values():
            process.join(timeout=10)
            process.kill()
    medians = {mode: {name: statistics.median(s) for name, s in seconds[mode].items()} for mode in MODES}
    return medians, {name: memory[name] for name in ("textbook", "ours")}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def format_benchmark(results: dict[str, dict]) -> str:
    """A table of what [`run_benchmark`] returns for the terminal."""
    columns = ("size", "", *CONTENDERS, "ours/textbook", "ours/floor", "GFLOP/s of ours")
    lines = [f"{columns[0]:8}{columns[1]:12}" + "".join(f"{column:>17}" for column in columns[2:])]
    for size, result in results.items():
        for mode in MODES:
            times = result[mode]
            cells = [f"{times[name]:.4g} s" for name in CONTENDERS]
            cells += [f"{times['ours'] / times['textbook']:.2f}", f"{times['ours'] / times['floor']:.2f}"]
            cells.append(f"{result['gflop_per_s'][mode]['ours']:.1f}")
            lines.append(f"{size:8}{mode:12}" + "".join(f"{cell:>17}" for cell in cells))
        memory = result["memory_mb"]
        cells = [f"{memory['textbook']:.0f} MB", f"{memory['ours']:.0f} MB", "–"]
        cells.append(f"{memory['ours'] / memory['textbook']:.2f}")
        lines.append(f"{size:8}{'memory':12}" + "".join(f"{cell:>17}" for cell in cells))
    return "\n".join(lines)


def plot_benchmark(results: dict[str, dict], path: str | os.PathLike):
    """
    Bars of textbook and ours, in multiples of the floor, for training steps and inference at each size; the floor is
    the line at 1, and each bar says its seconds.

    Args:
        results (`dict[str, dict]`):
            What [`run_benchmark`] returns.
        path (`str` or `os.PathLike`):
            PNG file to write; its folder is made.
    """
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    titles = {"train": "Training step (forward, loss, backward)", "inference": "Inference"}
    for axes, mode in zip(figure.subplots(1, len(MODES), sharey=True), MODES):
        for shift, name, color in ((-0.2, "textbook", "0.65"), (0.2, "ours", "#1f5a94")):
            heights = [result[mode][name] / result[mode]["floor"] for result in results.values()]
            places = [place + shift for place in range(len(results))]
            axes.bar(places, heights, width=0.38, color=color, label=name)
            for place, height, result in zip(places, heights, results.values()):
                axes.annotate(
                    f"{result[mode][name]:.3g} s",
                    (place, height),
                    xytext=(0, 2),
                    textcoords="offset points",
                    ha="center",
                    fontsize=9,
                )
        axes.axhline(1, color="#e08214", linewidth=2, label="floor: the bare matrix products")
        axes.set_xticks(range(len(results)), [f"{size}\n{r[mode]['floor']:.3g} s" for size, r in results.items()])
        axes.set_title(titles[mode], fontsize=12)
        axes.tick_params(labelsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("time, in multiples of the floor", fontsize=11)
    figure.supxlabel("size, and time of the floor", fontsize=11)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=10, frameon=False)
    save_figure(figure, path)


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="sizes (default: all)")
    parser.add_argument(
        "--repeats", type=int, default=5, help="measurements of which the median is taken (default: 5)"
    )
    parser.add_argument("--threads", type=int, help="threads of each contender (default: what torch takes)")
    parser.add_argument(
        "--json", type=Path, default=Path("benchmark.json"), help="file to write (default: benchmark.json)"
    )
    args = parser.parse_args(arguments)
    for name in ("repeats", "threads"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} is {getattr(args, name)}; at least 1 is needed.")
    if args.json.is_dir() or args.json.suffix == ".png":
        parser.error(f"--json {args.json} must be a JSON file; the picture goes beside it.")

    results = run_benchmark({name: size_config(name) for name in args.sizes}, args.repeats, threads=args.threads)
    write_json(args.json, results)
    picture = args.json.with_suffix(".png")
    plot_benchmark(results, picture)
    settings = next(iter(results.values()))["settings"]
    print(f"\n{settings['processor']}, {settings['threads']} threads, torch {settings['torch']}, float32, batch 50")
    print(format_benchmark(results))
    print(f"\n{args.json}, {picture}")


if __name__ == "__main__":
    main()
