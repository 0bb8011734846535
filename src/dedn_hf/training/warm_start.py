"""The models of a finished run, with which fine-tuning begins."""

import hashlib
import os
from collections.abc import Collection
from pathlib import Path

from ..configuration_dedn import DednConfig
from ..data import GzslDataset
from ..files import read_json
from ..modeling_dedn import DednModel

# What of two models must agree for the experts of one to be the other's.
_SAME_SETTINGS = (
    "feature_channels",
    "grid_size",
    "attribute_names",
    "attribute_groups",
    "word_vector_size",
    "region_value_rank",
    "normalize_features",
)


class WarmStart:
    """
    A finished run of `validated` has two models: the one on top, of all seen classes, and in `choose/` the one that
    was trained without the validation classes. Each stage of another run begins with that which was trained on the
    same classes, lest it chooses on classes that it has seen.

    Args:
        folder (`str` or `os.PathLike`):
            Output folder of the run.

    Raises:
        ValueError: If it holds no finished run.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        file = self.folder / "results.json"
        if not file.is_file():
            raise ValueError(
                f"{folder} holds no finished run of `dedn train`, whose results.json it would have: finish one there, "
                "or name the folder of another with --init_from."
            )
        self.results = read_json(file)
        # Which run it is: written last, with its figures.
        self.sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        missing = [name for name in ("dataset", "protocol", "split", "seeds", "settings") if name not in self.results]
        if missing:
            raise ValueError(f"{file} is of no run of `dedn train`: it has no {', '.join(missing)}.")

    def require(self, dataset: GzslDataset, backbone_sha256: str):
        """
        Raises:
            ValueError: If the run is of another data set or split, or another backbone made its feature maps.
        """
        sha256, split = dataset.split_sha256, self.results["split"].get("sha256")
        differences = [
            ("data set", self.results["dataset"], dataset.name),
            ("split (SHA-256)", split, sha256),
            ("backbone (SHA-256)", self.results["settings"].get("backbone_sha256", "unknown"), backbone_sha256),
        ]
        differences = [f"its {what} is {there}, and {here} here" for what, there, here in differences if there != here]
        if differences:
            raise ValueError(f"Training cannot begin with {self.folder}: {'; '.join(differences)}.")

    def find(self, seen_class_names: Collection[str], seed: int, protocol: str) -> Path:
        """
        The model that was trained on these classes and no others.

        Args:
            seen_class_names (`Collection[str]`):
                Names of the classes that are to be trained on.
            seed (`int`):
                Seed: of a run of several seeds the model of the same seed is taken, or else the first one's.
            protocol (`str`):
                What it is for, see [`run_protocol`].

        Returns:
            `Path`: its folder.

        Raises:
            ValueError: If there is none, or it was chosen on test images while the protocol is not to see any.
        """
        if protocol != "reference" and self.results["protocol"] == "reference":
            raise ValueError(
                f"{self.folder} was chosen on the test set (--protocol reference): only such a run can begin with it. "
                "Take a run of the validated protocol."
            )
        run = next(
            folder
            for folder in (
                self.folder / f"seed_{seed}",
                self.folder / f"seed_{self.results['seeds'][0]}",
                self.folder,
            )
            if folder.is_dir()
        )
        models = {
            folder: set(DednConfig.from_pretrained(folder, local_files_only=True).trained_class_names)
            for folder in (run, run / "choose")
            if (folder / "config.json").is_file() and (folder / "model.safetensors").is_file()
        }
        seen = set(seen_class_names)
        for folder, trained in models.items():
            if trained == seen:
                return folder
        differences = []
        for folder, trained in models.items():
            more, less = sorted(trained - seen), sorted(seen - trained)
            names, how = (more, "also") if more else (less, "not")
            some = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            differences.append(f"{folder} was {how} trained on {len(names)} others ({some})")
        way_out = "Finish such a run with --protocol validated, and name its folder with --init_from"
        if (run / "config.json").is_file() and run / "choose" not in models:
            way_out = f"There is no {run / 'choose'}, as of a run of an earlier version: make the run again"
        raise ValueError(
            f"Training on {len(seen)} classes begins with a model that was trained on the same, but {run} has none"
            + "".join(f"; {difference}" for difference in differences)
            + f". {way_out}."
        )

    def initialize(self, model: DednModel, seed: int, protocol: str):
        """
        Gives a new model the experts of the run's model of the same seen classes, and its backbone where the run has
        trained that along.

        Args:
            model (`DednModel`):
                The model, with the backbone that the run's feature maps were made by.
            seed, protocol:
                As in [`~WarmStart.find`].

        Raises:
            ValueError: see [`~WarmStart.find`], or if the models' settings differ.
        """
        config = model.config
        folder = self.find([config.id2label[index] for index in config.seen_class_ids], seed, protocol)
        first = DednModel.from_pretrained(folder, local_files_only=True)
        differences = [
            f"`{name}` is {getattr(first.config, name)!s:.80} there, and {getattr(config, name)!s:.80} here"
            for name in _SAME_SETTINGS
            if getattr(first.config, name) != getattr(config, name)
        ]
        if differences:
            raise ValueError(f"Training cannot begin with {folder}: {'; '.join(differences)}.")
        parts = ["coarse_expert.", "fine_expert."]
        if first.backbone is not None and not first.config.freeze_backbone:
            parts.append("backbone.")
        state = {name: value for name, value in first.state_dict().items() if name.startswith(tuple(parts))}
        model.load_state_dict(state, strict=False)
        config.attribute_terms = config.attribute_terms or first.config.attribute_terms
