"""What scripts that measure a model share: their arguments, and what it says of images it was not trained on."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dedn_hf import DednModel
from dedn_hf.data import GzslDataset, load_gzsl_dataset
from dedn_hf.evaluation.report import Predictions, predict_examples
from dedn_hf.recipes import read_recipe
from dedn_hf.training.inputs import prepare_inputs


@dataclass
class HeldOut:
    """
    What a model says of the images of a split.

    Args:
        split (`str`):
            Its name.
        predictions ([`Predictions`]):
            Of its N images.
        labels (`np.ndarray` of shape `(N,)`):
            Their classes, as ids of the model.
    """

    split: str
    predictions: Predictions
    labels: np.ndarray


def make_parser(description: str) -> argparse.ArgumentParser:
    """A parser of the flags that say which model is measured, and on what."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub id of a model")
    parser.add_argument("--dataset", required=True, help="what it was trained for")
    parser.add_argument("--data_dir", help="folder of the data set's files")
    parser.add_argument("--feature_maps", help="read a store of `dedn features` instead of images")
    return parser


def predict_held_out(
    model: DednModel,
    dataset: str,
    data_dir: str | None = None,
    feature_maps: str | None = None,
    kinds: Sequence[str] = ("unseen", "seen"),
) -> tuple[GzslDataset, list[HeldOut]]:
    """
    What a model says of test images, or of validation images where it has not seen the validation classes and knows no
    test classes, as that in `choose/` of a run.

    Args:
        model ([`DednModel`]):
            The model.
        dataset, data_dir, feature_maps:
            What its images are read from, as the flags of [`make_parser`].
        kinds (`Sequence[str]`, *optional*, defaults to `("unseen", "seen")`):
            Whose images: of unseen classes, of seen ones.

    Returns:
        `tuple[GzslDataset, list[HeldOut]]`: the data set, and one entry a kind.
    """
    loaded = load_gzsl_dataset(dataset, data_dir, word_vectors="random")
    stage = "test" if model.config.num_labels == len(loaded.class_names) else "validation"
    inputs = prepare_inputs(loaded, feature_maps, config=read_recipe(dataset).model)
    found = []
    for split in (f"{stage}_{kind}" for kind in kinds):
        predictions = predict_examples(model, inputs.make(loaded.splits[split]))
        labels = [model.config.label2id[loaded.class_names[label]] for label in predictions.labels]
        found.append(HeldOut(split, predictions, np.array(labels)))
    return loaded, found
