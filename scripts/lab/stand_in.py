"""
A stand-in for data sets whose images are not at hand: the real classes, attributes, word vectors and split of classes;
feature maps that are drawn from class attributes with noise. It says whether a recipe trains, not how well it does.

    python scripts/lab/stand_in.py --dataset sun --data_dir DATA
    python scripts/lab/stand_in.py --dataset sun --data_dir DATA --config_overrides distillation_weight=0
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import torch

from dedn_hf.data import GzslDataset
from dedn_hf.data.proposed_split import read_proposed_split
from dedn_hf.data.splits import fifth
from dedn_hf.recipes import read_recipe
from dedn_hf.results import format_results
from dedn_hf.training.arguments import DednTrainingArguments, arguments_of_process, parse_config_overrides
from dedn_hf.training.inputs import ModelInputs
from dedn_hf.training.protocol import run_protocol

# Images of a class: what the split has on average, but no more than this.
MOST_IMAGES = 20
CHANNELS, GRID = 256, 7
# A part of an attribute's direction in every region, and all of it in one; and noise beside them, per channel.
SPREAD, NOISE = 0.1, 1.0


def make_stand_in(name: str, data_dir: str, protocol: str = "validated") -> GzslDataset:
    """
    The classes of a data set, with images that do not exist.

    Args:
        name (`str`):
            `"sun"` or `"awa2"`, `"cub"` to compare with.
        data_dir (`str`):
            The folder that holds `xlsa17/` and `attribute_vectors/`.
        protocol (`str`, *optional*, defaults to `"validated"`):
            Whose attribute groups are taken.

    Returns:
        [`GzslDataset`]: columns `label` and `image_id`.
    """
    split = read_proposed_split(data_dir, name.upper())
    strengths = split.class_attributes.clip(min=0)
    class_attributes = (strengths / strengths.max()).astype(np.float32)
    groups = read_recipe(name, protocol).model["attribute_groups"]
    names = split.class_names
    seen = split.train_classes + split.validation_classes
    counts = {part: len(ids) for part, ids in split.image_ids.items()}
    train = min(MOST_IMAGES, round(counts["trainval"] / len(seen)))
    test = max(1, round(train * counts["test_seen"] / counts["trainval"]))
    held_out = fifth(train)

    def ids_of(classes: Sequence[str], numbers: Sequence[int]) -> list[int]:
        return [1000 * names.index(of) + number for of in classes for number in numbers]

    parts = {
        "train": ids_of(split.train_classes, range(train - held_out)),
        "validation_seen": ids_of(split.train_classes, range(train - held_out, train)),
        "validation_unseen": ids_of(split.validation_classes, range(train)),
        "test_seen": ids_of(seen, range(train, train + test)),
        "test_unseen": ids_of(split.test_classes, range(train + test)),
    }
    parts["trainval"] = parts["train"] + parts["validation_seen"] + parts["validation_unseen"]
    features = datasets.Features({"label": datasets.ClassLabel(names=names), "image_id": datasets.Value("int64")})
    splits = {
        part: datasets.Dataset.from_dict({"label": [i // 1000 for i in ids], "image_id": ids}, features=features)
        for part, ids in parts.items()
    }
    return GzslDataset(
        name=name,
        splits=datasets.DatasetDict(splits),
        class_names=names,
        attribute_names=[f"attribute_{index}" for index in range(1, class_attributes.shape[1] + 1)],
        attribute_groups=groups,
        class_attributes=class_attributes,
        word_vectors=np.load(Path(data_dir) / "attribute_vectors" / f"{name}.npy").astype(np.float32),
        **(split.facts(names) | {"split_name": "stand-in"}),
    )


class DrawnFeatureMaps(torch.utils.data.Dataset):
    """
    Feature maps that follow from class attributes and image ids alone. An image has an attribute with the probability
    that its class's strength is; an attribute is a direction of channels, strong in one region of the image, where the
    other attributes of its group are, too, and weak in all others.

    Args:
        images (`datasets.Dataset`):
            Columns `label` and `image_id`.
        dataset ([`GzslDataset`]):
            Class attributes and attribute groups.
    """

    def __init__(self, images: datasets.Dataset, dataset: GzslDataset):
        self.labels, self.image_ids = np.array(images["label"]), np.array(images["image_id"])
        self.class_attributes = dataset.class_attributes
        num_attributes = len(dataset.attribute_names)
        self.group = np.zeros(num_attributes, int)
        for number, indices in enumerate(dataset.attribute_groups.values()):
            self.group[indices] = number
        self.directions = np.random.default_rng(0).normal(size=(num_attributes, CHANNELS)).astype(np.float32)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> list[dict]:
        return [self[index] for index in indices]

    def __getitem__(self, index: int) -> dict:
        random = np.random.default_rng(self.image_ids[index])
        strengths = self.class_attributes[self.labels[index]]
        has_attribute = random.random(len(strengths)) < strengths
        place = random.permutation(GRID**2)[self.group]
        presence = np.full((GRID**2, len(strengths)), SPREAD, np.float32)
        presence[place, np.arange(len(strengths))] = 1
        maps = (presence * has_attribute) @ self.directions
        maps += NOISE * random.standard_normal(maps.shape, dtype=np.float32)
        feature_map = torch.from_numpy(maps.T.reshape(CHANNELS, GRID, GRID).astype(np.float16))
        return {"feature_map": feature_map, "labels": int(self.labels[index])}


def run_stand_in(name: str, data_dir: str, output_dir: str, config: dict | None = None, **training) -> dict:
    """
    Trains a recipe on a stand-in, by the `validated` protocol.

    Args:
        name, data_dir:
            As in [`make_stand_in`].
        output_dir (`str`):
            Folder of the run.
        config (`dict`, *optional*):
            Fields of [`DednConfig`] that are to differ from the recipe.
        training (*optional*):
            Fields of [`DednTrainingArguments`] that are to differ.

    Returns:
        `dict`: the results.
    """
    recipe = read_recipe(name)
    dataset = make_stand_in(name, data_dir)
    settings = {key: value for key, value in (recipe.model | (config or {})).items() if key != "attribute_groups"}
    settings |= {"feature_channels": CHANNELS, "grid_size": GRID}
    inputs = ModelInputs(lambda images: DrawnFeatureMaps(images, dataset), None, settings)
    args = DednTrainingArguments(
        **{"output_dir": output_dir, "use_cpu": True, "report_to": [], "logging_steps": 20}
        | arguments_of_process(recipe.training)
        | training
    )
    return run_protocol("validated", dataset, inputs, args, [0])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=["sun", "awa2", "cub"], required=True)
    parser.add_argument("--data_dir", required=True, help="folder that holds xlsa17/ and attribute_vectors/")
    parser.add_argument("--config_overrides", help="name=value,…, as in dedn train")
    parser.add_argument("--output_dir", help="folder of the run (default: outputs/stand_in_<dataset>)")
    parser.add_argument("--max_steps", type=int, default=-1, help="fewer steps than the recipe has")
    args = parser.parse_args()
    output_dir = args.output_dir or f"outputs/stand_in_{args.dataset}"
    overrides = parse_config_overrides(args.config_overrides)
    results = run_stand_in(args.dataset, args.data_dir, output_dir, overrides, max_steps=args.max_steps)
    print(format_results(results))


if __name__ == "__main__":
    main()
