"""
How long the first photo takes: loading a model and naming a photo by the pipeline, beside loading its bare backbone by
`AutoModel` and one pass over the same photo. Each is a process of its own, in turn. Nothing else should be running.

    python scripts/lab/benchmark_first_photo.py --image photo.jpg --repeats 5 --json FILE
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tqdm.auto import tqdm
from transformers import AutoImageProcessor

from dedn_hf.cli import check_model, load_model
from dedn_hf.files import write_json
from dedn_hf.images_dedn import load_any_image
from dedn_hf.registration import DEFAULT_MODEL
from dedn_hf.results import provenance

# What a process runs: imports, then what is timed within it.
PIPELINE = """
import json, sys, time
import dedn_hf
from transformers import pipeline

start = time.perf_counter()
pipeline("zero-shot-attribute-classification", model=sys.argv[1], device="cpu")(sys.argv[2])
print(json.dumps(time.perf_counter() - start))
"""
BACKBONE = """
import json, sys, time
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

start = time.perf_counter()
model, processor = AutoModel.from_pretrained(sys.argv[1]).eval(), AutoImageProcessor.from_pretrained(sys.argv[1])
with torch.inference_mode():
    model(**processor(Image.open(sys.argv[2]).convert("RGB"), return_tensors="pt"))
print(json.dumps(time.perf_counter() - start))
"""


def run_benchmark(model: str, image: str, repeats: int) -> dict:
    """
    Measures both in turn, after a first time that does not count.

    Args:
        model (`str`):
            Folder or Hub id of a model with its backbone.
        image (`str`):
            The photo.
        repeats (`int`):
            How often each is measured.

    Returns:
        `dict`: for `backbone` and `pipeline` the medians in seconds of `loading_and_photo`, without imports, and of
        `process`, all of it; `ratio` of either, the median over the repeats; and `runs`, all that was measured.

    Raises:
        ValueError: If the model has no backbone or lacks weights.
        OSError: If the photo cannot be read.
    """
    check_model(model)
    load_any_image(Path(image))
    loaded, runs = load_model(model), []
    if loaded.backbone is None:
        raise ValueError(f"{model} has no backbone and takes no photo.")
    with tempfile.TemporaryDirectory() as folder:
        loaded.backbone.save_pretrained(folder)
        AutoImageProcessor.from_pretrained(model).save_pretrained(folder)
        for _ in tqdm(range(repeats + 1), desc="Measuring", disable=None):
            runs.append({"backbone": _run(BACKBONE, folder, image), "pipeline": _run(PIPELINE, model, image)})
    del runs[0]
    names = ("loading_and_photo", "process")
    results = {kind: {name: statistics.median(run[kind][name] for run in runs) for name in names} for kind in runs[0]}
    ratios = {name: statistics.median(run["pipeline"][name] / run["backbone"][name] for run in runs) for name in names}
    return results | {"ratio": ratios, "runs": runs}


def _run(code: str, *arguments: str) -> dict[str, float]:
    start = time.perf_counter()
    process = subprocess.run([sys.executable, "-c", code, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return {"loading_and_photo": json.loads(process.stdout), "process": time.perf_counter() - start}


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", required=True, help="a photo")
    parser.add_argument("--model", default=str(DEFAULT_MODEL), help="folder or Hub id (default: built in)")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each (default: 5)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args(arguments)
    if args.repeats < 1:
        parser.error(f"--repeats is {args.repeats}; at least 1 is needed.")
    try:
        results = run_benchmark(args.model, args.image, args.repeats)
    except (ValueError, OSError) as error:
        sys.exit("error: " + " ".join(str(error).split()))
    for name, title in (("loading_and_photo", "loading and one photo"), ("process", "… with Python and imports")):
        print(
            f"{title:26} backbone {results['backbone'][name]:6.2f} s   pipeline {results['pipeline'][name]:6.2f} s   "
            f"{results['ratio'][name]:5.2f}×"
        )
    if args.json:
        write_json(args.json, results | provenance())


if __name__ == "__main__":
    main()
