"""
How near `dedn predict` comes to the slower of its two parts: reading images alone, and the bare backbone on tensors
that are ready. Nothing else should be running.

    python scripts/lab/benchmark_predict.py --model MODEL --images PHOTOS --num_images 1000 --repeats 3
    python scripts/lab/benchmark_predict.py --backbone BACKBONE --images DATA/CUB_200_2011/images --json FILE

With --backbone the model is one of CUB's size with random experts: what is predicted does not matter here.
"""

import argparse
import itertools
import multiprocessing
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import AutoImageProcessor

from dedn_hf import DednConfig, DednModel, ZeroShotAttributeClassificationPipeline
from dedn_hf.backbone_dedn import backbone_feature_map, load_backbone
from dedn_hf.cli import keep_freed_memory
from dedn_hf.cli.predict import CPU_BATCH_SIZE, ImageSearch, batches_to_do, load_classifier, predict, read_image
from dedn_hf.files import write_json
from dedn_hf.prediction_file import PredictionFile
from dedn_hf.recipes import read_recipe
from dedn_hf.results import provenance

# So many batches are ready in memory; they come round again.
_READY_BATCHES = 8
_ready = {}


def make_classifier(backbone: str) -> ZeroShotAttributeClassificationPipeline:
    """
    A model with CUB's 312 attributes and 200 classes, random experts and a real backbone.

    Args:
        backbone (`str`):
            Folder or Hub id of a transformers vision model with an image processor.
    """
    processor, vision = AutoImageProcessor.from_pretrained(backbone), load_backbone(backbone)
    size = processor.crop_size["height"] if processor.do_center_crop else processor.size["height"]
    with torch.inference_mode():
        channels, grid, _ = backbone_feature_map(vision, torch.zeros(1, 3, size, size)).shape[1:]
    groups = read_recipe("cub").model["attribute_groups"]
    config = DednConfig(
        feature_channels=channels,
        grid_size=grid,
        attribute_names=[f"attribute {index}" for index in range(sum(map(len, groups.values())))],
        attribute_groups=groups,
        id2label={index: f"class {index}" for index in range(200)},
        seen_class_ids=list(range(150)),
    )
    torch.manual_seed(0)
    model = DednModel(config).eval()
    model.set_classes(list(config.id2label.values()), torch.rand(200, len(config.attribute_names)))
    model.set_backbone(vision)
    return ZeroShotAttributeClassificationPipeline(model=model, image_processor=processor, device="cpu")


def run_benchmark(load: Callable, source: str, paths: list[str], batch_size: int, repeats: int) -> dict:
    """
    Measures the parts and the whole in turn. The bare backbone is in a process of its own, with the allocator as it
    is by default: see [`keep_freed_memory`].

    Args:
        load (`Callable[[str], ZeroShotAttributeClassificationPipeline]`):
            A function of a module that makes the pipeline.
        source (`str`):
            Its argument.
        paths (`list[str]`):
            The images.
        batch_size (`int`):
            Images that go through the model together, in all of the contenders.
        repeats (`int`):
            How often each is measured, after a first time that does not count.

    Returns:
        `dict`: images a second, the median of the repeats: `decoding` (images read and prepared as `predict` does it,
        by as many threads), `backbone` (one batch after the other, as many threads as torch takes), `predict` (from
        files to rows of a CSV file); `ratio`, the median of `predict` over the slower of the other two in the same
        repeat; and `runs`, all that was measured.
    """
    keep_freed_memory()
    classifier = load(source)

    def read():
        for _ in predict(classifier, lambda inputs: inputs, batches_to_do(paths, batch_size)):
            pass

    def predict_into_file():
        classify = classifier.prepare_call(top_k=1, top_attributes=0)
        with tempfile.TemporaryDirectory() as folder:
            file = PredictionFile(os.path.join(folder, "predictions.csv"), 1, 0)
            with file.file:
                for answers in predict(classifier, classify, batches_to_do(paths, batch_size)):
                    file.write(answers)

    runs = []
    other_process = multiprocessing.get_context("spawn").Pool(
        1, _get_ready, (load, source, paths, batch_size, torch.get_num_threads())
    )
    with other_process:
        for _ in tqdm(range(repeats + 1), desc="Measuring", disable=None):
            seconds = {
                "decoding": _seconds(read),
                "backbone": other_process.apply(_seconds, [_run_backbone]),
                "predict": _seconds(predict_into_file),
            }
            runs.append({name: len(paths) / duration for name, duration in seconds.items()})
            runs[-1]["ratio"] = runs[-1]["predict"] / min(runs[-1]["decoding"], runs[-1]["backbone"])
        other_process.close()
        other_process.join()
    del runs[0]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]} | {"runs": runs}


def _get_ready(load: Callable, source: str, paths: list[str], batch_size: int, num_threads: int):
    torch.set_num_threads(num_threads)
    classifier = load(source)
    starts, batches = range(0, len(paths), batch_size), []
    for start in starts[:_READY_BATCHES]:
        images = [read_image(classifier, path)["pixel_values"] for path in paths[start : start + batch_size]]
        batches.append(torch.cat(images).to(classifier.device))
    _ready.update(backbone=classifier.model.backbone, batches=batches, num_batches=len(starts))


def _run_backbone():
    with torch.inference_mode():
        for pixel_values in itertools.islice(itertools.cycle(_ready["batches"]), _ready["num_batches"]):
            backbone_feature_map(_ready["backbone"], pixel_values.contiguous(memory_format=torch.channels_last))


def _seconds(run: Callable) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def format_benchmark(results: dict) -> str:
    """The figures that [`run_benchmark`] returns for the terminal, with the lowest and the highest of the repeats."""
    lines = []
    for name, unit in (("decoding", "images/s"), ("backbone", "images/s"), ("predict", "images/s"), ("ratio", "")):
        values = [run[name] for run in results["runs"]]
        digits = 1 if unit else 3
        spread = f"{min(values):.{digits}f} to {max(values):.{digits}f}"
        lines.append(f"{name:10}{results[name]:8.{digits}f} {unit:9} ({spread})")
    return "\n".join(lines)


def _load_on_cpu(model: str) -> ZeroShotAttributeClassificationPipeline:
    return load_classifier(model, "cpu")


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="folder or Hub id of a model with its backbone")
    source.add_argument("--backbone", help="folder or Hub id of a backbone, for a model of CUB's size around it")
    parser.add_argument("--images", required=True, help="folder of images, or a text file with a path a line")
    parser.add_argument("--num_images", type=int, default=1000, help="so many of them, drawn (default: 1000)")
    parser.add_argument("--batch_size", type=int, default=CPU_BATCH_SIZE, help=f"default: {CPU_BATCH_SIZE}")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each (default: 3)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args(arguments)
    for name in ("num_images", "batch_size", "repeats"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} is {getattr(args, name)}; at least 1 is needed.")

    listed = [args.images] if os.path.isdir(args.images) else Path(args.images).read_text().splitlines()
    paths = list(ImageSearch(listed))
    if not paths:
        sys.exit(f"error: there are no images in {args.images}")
    paths = random.Random(0).sample(paths, min(args.num_images, len(paths)))
    load = make_classifier if args.backbone else _load_on_cpu
    results = run_benchmark(load, args.backbone or args.model, paths, args.batch_size, args.repeats)
    results["settings"] = {
        "images": len(paths),
        "batch_size": args.batch_size,
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
    }
    print(f"{len(paths)} images, batches of {args.batch_size}, {torch.get_num_threads()} threads")
    print(format_benchmark(results))
    if args.json:
        write_json(args.json, results | provenance())


if __name__ == "__main__":
    main()
