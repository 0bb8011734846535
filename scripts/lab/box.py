"""
Makes the model that travels with the package, src/dedn_hf/default_model/, of the folder of a finished training on CUB,
measures it as it is stored, and renders its card:

    python scripts/lab/box.py outputs/cub_lite2 --data_dir DATA

Weights are stored in half precision, in that of the two kinds which keeps the scores closer; tables and batch
statistics, of which there are few, stay whole. `config.json` says float32, so that all of it is loaded as that. The
last step is `dedn evaluate` on CUB's test images, ten minutes on two cores, into outputs/box/.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import render_model_cards
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessorPil

from dedn_hf.cli import check_model, keep_freed_memory, load_model
from dedn_hf.data import load_gzsl_dataset
from dedn_hf.evaluation.report import match_attributes, match_classes, predict_examples
from dedn_hf.files import read_json, write_json
from dedn_hf.registration import DEFAULT_MODEL
from dedn_hf.training import PixelValueDataset

NAME, DATASET = "cub", "cub"
MODEL_FILES = ("config.json", "model.safetensors", "preprocessor_config.json")
MAX_BYTES = 30e6
HALVES = (torch.float16, torch.bfloat16)
# So many training images, drawn, tell which half is closer.
NUM_IMAGES = 100
ROOT = Path(__file__).resolve().parents[2]


def load_trained(folder: Path, dataset) -> tuple:
    """
    The model of a finished training, its image processor and its results, checked to be fit for the box.

    Args:
        folder (`Path`):
            What `dedn train` has written.
        dataset ([`GzslDataset`]):
            The data set whose classes and attributes it must know. It takes the classes' names from it.

    Raises:
        FileNotFoundError: If files are missing; names them.
        ValueError: If it is of another data set or protocol, has no backbone, lacks weights, or knows other classes
            or attributes.
    """
    check_model(str(folder))
    missing = [name for name in (*MODEL_FILES, "results.json") if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} has no {', '.join(missing)}: name the folder of a finished `dedn train`.")
    model_type = read_json(folder / "config.json").get("model_type")
    if model_type != "dedn":
        raise ValueError(f"{folder} holds a model of type {model_type!r}, but the box is for one of DEDN.")
    results = read_json(folder / "results.json")
    found = (results.get("dataset"), results.get("protocol"))
    if found != (DATASET, "validated") or not results.get("test"):
        raise ValueError(
            f"{folder} is a run on {found[0]} by the protocol {found[1]}, but the box is for one on {DATASET} by the "
            "protocol validated, with test figures."
        )
    model = load_model(str(folder)).float().eval()
    if model.backbone is None:
        raise ValueError(f"{folder} has no backbone and takes no photo: train it with --backbone.")
    place = match_classes(model.config, dataset)
    match_attributes(model.config, dataset)
    model.config.id2label = {int(index): dataset.class_names[label] for label, index in enumerate(place)}
    model.config.trained_class_names = [model.config.id2label[index] for index in model.config.seen_class_ids]
    return model, CLIPImageProcessorPil.from_pretrained(folder), results


def halve(file: Path, parameters: set[str], dtype: torch.dtype):
    """
    Stores the parameters of a file of weights in half precision, and all else as it is.

    Raises:
        ValueError: If a number is too large for it.
    """
    state = load_file(file)
    for name in parameters & state.keys():
        state[name] = state[name].to(dtype)
        if not state[name].isfinite().all():
            raise ValueError(f"{name} has numbers that {str(dtype).removeprefix('torch.')} cannot hold.")
    save_file(state, file, metadata={"format": "pt"})


def store(model, image_processor, folder: Path, dtype: torch.dtype):
    """Writes a float32 model with its parameters in half precision, and without the code that the package has."""
    model.save_pretrained(folder)
    image_processor.save_pretrained(folder)
    parameters = {name for name, _ in model.named_parameters()}
    halve(folder / "model.safetensors", parameters, dtype)
    for file in folder.iterdir():
        if file.name not in MODEL_FILES:
            file.unlink()
        else:
            file.chmod(0o644)


def make_box(trained: Path, dataset, target: Path) -> dict:
    """
    Puts the model of a finished training into a folder, in half precision.

    Args:
        trained (`Path`):
            Folder of the training.
        dataset ([`GzslDataset`]):
            The data set that it was trained on.
        target (`Path`):
            The folder; what is there is replaced, once all is well.

    Returns:
        `dict`: the training's results, and in `box` what is stored: `dtype`, `bytes` and `sha256` of the weights, and
        `differences`, for each kind of half the largest difference of a class score to the training's float32 and how
        many of the `images` have another first class.

    Raises:
        FileNotFoundError, ValueError: see [`load_trained`]; also if it is too large.
    """
    model, image_processor, results = load_trained(trained, dataset)
    images = dataset.splits["trainval"]
    chosen = np.random.default_rng(0).choice(len(images), min(NUM_IMAGES, len(images)), replace=False)
    examples = PixelValueDataset(images.select(sorted(chosen.tolist())), image_processor, keep_in_memory=True)
    expected = predict_examples(model, examples, batch_size=10).logits
    with tempfile.TemporaryDirectory() as temporary:
        stored, refused = {}, []
        for dtype in HALVES:
            name = str(dtype).removeprefix("torch.")
            folder = Path(temporary, name)
            try:
                store(model, image_processor, folder, dtype)
            except ValueError as error:
                refused.append(str(error))
                continue
            logits = predict_examples(load_model(str(folder)), examples, batch_size=10).logits
            stored[name] = {
                "largest": float(np.abs(logits - expected).max()),
                "other_first_class": int((logits.argmax(axis=1) != expected.argmax(axis=1)).sum()),
            }
        if not stored:
            raise ValueError(" ".join(refused))
        dtype = min(stored, key=lambda name: stored[name]["largest"])
        folder = Path(temporary, dtype)
        weights = (folder / "model.safetensors").read_bytes()
        if len(weights) > MAX_BYTES:
            raise ValueError(
                f"{trained} has {len(weights) / 1e6:.1f} MB of weights in {dtype}, more than the "
                f"{MAX_BYTES / 1e6:.0f} of the box: train a smaller one."
            )
        target.mkdir(exist_ok=True)
        for name in MODEL_FILES:
            shutil.copy(folder / name, target / f"{name}.tmp")
        for name in MODEL_FILES:
            os.replace(target / f"{name}.tmp", target / name)
    box = {
        "dtype": dtype,
        "bytes": len(weights),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "images": len(examples),
        "differences": stored,
    }
    # Where it lay beside the folder of the run says nothing: a path that leads out of there is its last name.
    command = re.sub(r"(?<=\s)(\.\./)+(\S+/)?", "", results["command"])
    return results | {"command": command, "box": box}


def evaluate_box(data_dir: Path) -> dict:
    """What `dedn evaluate` says of the box, from its command line."""
    output = Path("outputs", "box")
    shutil.rmtree(ROOT / output, ignore_errors=True)
    command = ["-m", "dedn_hf", "evaluate", "--model", os.path.relpath(DEFAULT_MODEL, ROOT), "--dataset", DATASET]
    command += ["--data_dir", os.path.abspath(data_dir), "--output_dir", str(output)]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
    return read_json(ROOT / output / "results.json")


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trained", type=Path, help="folder of a finished `dedn train --dataset cub --backbone …`")
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of CUB's files")
    args = parser.parse_args(arguments)
    keep_freed_memory()
    try:
        dataset = load_gzsl_dataset(DATASET, str(args.data_dir), word_vectors="random")
        results = make_box(args.trained, dataset, DEFAULT_MODEL)
    except (ValueError, OSError) as error:
        sys.exit("error: " + " ".join(str(error).split()))
    for name, difference in results["box"]["differences"].items():
        print(f"{name}: class scores differ by {difference['largest']:.2g} at most")
    print(f"{DEFAULT_MODEL}: {results['box']['bytes'] / 1e6:.1f} MB in {results['box']['dtype']}")
    folder = render_model_cards.MODEL_CARDS / "results"
    evaluation_file = folder / f"{NAME}_evaluation.json"
    # Of other weights, should this be interrupted.
    evaluation_file.unlink(missing_ok=True)
    write_json(folder / f"{NAME}.json", results)
    render_model_cards.main([])
    write_json(evaluation_file, evaluate_box(args.data_dir))
    render_model_cards.main([])


if __name__ == "__main__":
    main()
