"""
What each part of DEDN is worth: variants that lack one or have it otherwise, each trained by the `validated` protocol
on the same data, with the same seeds and budget, beside the floors of [`baselines`].
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from ablation_report import describe_ablation, plot_ablation
from baselines import FLOORS, pool_features, run_floor

from dedn_hf import DednModel
from dedn_hf.data import GzslDataset
from dedn_hf.data.load import cluster_attributes
from dedn_hf.features.store import fingerprint_weights
from dedn_hf.files import read_json, write_json, write_text
from dedn_hf.results import provenance
from dedn_hf.training import DednTrainingArguments
from dedn_hf.training.inputs import ModelInputs
from dedn_hf.training.protocol import describe_run, mean_and_std, run_protocol

PROTOCOL = "validated"


@dataclass(frozen=True)
class Variant:
    """
    One row of an ablation.

    Args:
        description (`str`):
            How it differs from the full model.
        config (`dict`, *optional*, defaults to `{}`):
            What differs in the [`DednConfig`].
        dropped (`str`, *optional*):
            Pattern of the names of parameters that are zero and stay so.
        change (`Callable`, *optional*):
            From a data set and a seed to what differs in the data set.
        needs_word_vectors (`bool`, *optional*, defaults to `False`):
            Whether it has word vectors of its own that are to be given.
    """

    description: str
    config: dict = field(default_factory=dict)
    dropped: str | None = None
    change: Callable[[GzslDataset, int], dict] | None = None
    needs_word_vectors: bool = False

    @property
    def varies(self) -> set[str]:
        """The recorded settings in which it may differ from the full model."""
        return {"variant", "word_vectors", "word_vectors_sha256", "word_vector_size", *self.config}

    def prepare_model(self, model: DednModel):
        """Sets what is dropped to zero and freezes it."""
        for name, parameter in model.named_parameters():
            if self.dropped is not None and re.fullmatch(self.dropped, name):
                with torch.no_grad():
                    parameter.zero_()
                parameter.requires_grad_(False)


def _random_groups(dataset: GzslDataset, seed: int) -> dict:
    shuffled = np.random.default_rng(seed).permutation(len(dataset.attribute_names))
    ends = np.cumsum([len(group) for group in dataset.attribute_groups.values()])
    groups = np.split(shuffled, ends[:-1])
    return {"attribute_groups": {f"group {index}": sorted(g.tolist()) for index, g in enumerate(groups, start=1)}}


def _clustered_groups(dataset: GzslDataset, seed: int) -> dict:
    num_groups = len(dataset.attribute_groups)
    return {"attribute_groups": cluster_attributes(dataset.attribute_names, dataset.word_vectors, num_groups)}


def _random_word_vectors(dataset: GzslDataset, seed: int) -> dict:
    shape = dataset.word_vectors.shape
    return {"word_vectors": np.random.default_rng(seed).normal(size=shape).astype(np.float32)}


def _one_hot_word_vectors(dataset: GzslDataset, seed: int) -> dict:
    return {"word_vectors": np.eye(len(dataset.attribute_names), dtype=np.float32)}


VARIANTS = {
    "full": Variant("nothing"),
    "no_fine_expert": Variant(
        "no fine expert, and no distillation", {"distillation_weight": 0.0}, dropped=r"fine_expert\..*"
    ),
    "no_coarse_expert": Variant(
        "no coarse expert, and no distillation", {"distillation_weight": 0.0}, dropped=r"coarse_expert\..*"
    ),
    "region_only": Variant(
        "no channel attention, and no alignment",
        {"alignment_weight": 0.0},
        dropped=r"(coarse|fine)_expert\..*\.channel_(value|weight)\.weight",
    ),
    "channel_only": Variant(
        "no region attention, and no alignment",
        {"alignment_weight": 0.0},
        dropped=r"(coarse|fine)_expert\..*\.region_(value|value_out|weight)\.weight",
    ),
    "no_distillation": Variant("no distillation between the experts", {"distillation_weight": 0.0}),
    "no_alignment": Variant("no alignment of the two attentions", {"alignment_weight": 0.0}),
    "no_margin": Variant("no margins: plain cross-entropy", {"target_margin": 0.0, "seen_margin": 0.0}),
    "random_groups": Variant("random groups of the same sizes", change=_random_groups),
    "clustered_groups": Variant("as many groups, clustered by word vectors (k-means)", change=_clustered_groups),
    "random_word_vectors": Variant("one random word vector an attribute", change=_random_word_vectors),
    "one_hot_word_vectors": Variant("a word vector an attribute that tells nothing", change=_one_hot_word_vectors),
    "word2vec_word_vectors": Variant("word vectors of word2vec", needs_word_vectors=True),
    "sentence_word_vectors": Variant("word vectors of a sentence-embedding model", needs_word_vectors=True),
}
# Data set → what is compared by default. CUB's own word vectors are those of word2vec.
DEFAULT_VARIANTS = {
    "synthetic_birds": tuple(VARIANTS),
    "cub": ("full", "no_fine_expert", "region_only", "no_margin", "random_groups", "random_word_vectors"),
}


def run_ablation(
    dataset: GzslDataset,
    inputs: ModelInputs,
    args: DednTrainingArguments,
    variants: Sequence[str],
    seeds: Sequence[int],
    word_vectors: Mapping[str, np.ndarray] | None = None,
) -> dict:
    """
    Trains variants with several seeds each, and fits the floors.

    Each run is one of [`run_protocol`] in `<output_dir>/<variant>/seed_<n>`. After each, `ablation.json`,
    `ablation.md` and `ablation.png` in `args.output_dir` are written anew, of all runs that are finished there, also
    by earlier calls. What was finished is not done again, and an interrupted run goes on from its last checkpoint.
    What `dedn train` gave with the same settings and one seed may be brought to `<output_dir>/full`.

    Args:
        dataset (`GzslDataset`):
            The data set.
        inputs (`ModelInputs`):
            What the models are trained on, see [`prepare_inputs`].
        args (`DednTrainingArguments`):
            Arguments of training, the same for all.
        variants (`Sequence[str]`):
            Keys of `VARIANTS`.
        seeds (`Sequence[int]`):
            A run of each variant for each of them.
        word_vectors (`Mapping[str, np.ndarray]`, *optional*):
            Variant → its word vectors, of shape `(A, D)`. Variants that need some and have none here are listed as not
            measured.

    Returns:
        `dict`: what `ablation.json` holds.

    Raises:
        ValueError: If there is no such variant, a seed occurs twice, or `output_dir` holds runs with other settings;
            before anything is trained.
    """
    unknown = [name for name in variants if name not in VARIANTS]
    if unknown or not variants:
        raise ValueError(f"There are no variants {', '.join(unknown)}; choose from {', '.join(VARIANTS)}.")
    if len(set(seeds)) != len(seeds) or not seeds:
        raise ValueError(f"Seeds must be given and differ, but they are {list(seeds)}.")
    word_vectors, output_dir = word_vectors or {}, Path(args.output_dir)
    request = describe_run(PROTOCOL, dataset, inputs, args)
    _check_runs(output_dir, request)
    origin = provenance()
    listed = [name for name in VARIANTS if name in variants or _finished_runs(output_dir / name)]
    runs = [
        (name, seed)
        for seed in seeds
        for name in VARIANTS
        if name in variants and (name in word_vectors or not VARIANTS[name].needs_word_vectors)
    ]

    def report() -> dict:
        summary = _summarize(output_dir, listed, request) | origin
        if args.should_save:
            write_json(output_dir / "ablation.json", summary)
            write_text(output_dir / "ablation.md", f"# Ablation on {dataset.name}\n\n{describe_ablation(summary)}\n")
            plot_ablation(summary, output_dir / "ablation.png")
        return summary

    def tell(text: str):
        if args.process_index == 0:
            print(text, flush=True)

    folders = {(name, seed): _run_folder(output_dir, name, seed) for name, seed in runs}
    left = [run for run in runs if not (folders[run] / "results.json").is_file()]
    tell(f"Ablation on {dataset.name} in {output_dir}: {len(left)} of {len(runs)} runs are left.")
    for name in variants:
        of_variant = [str(seed) for variant, seed in left if variant == name]
        missing = VARIANTS[name].needs_word_vectors and name not in word_vectors
        state = "not measured: no word vectors were given" if missing else f"left: seeds {', '.join(of_variant)}"
        tell(f"  {name:22} {state if missing or of_variant else 'finished'}")
    # Frozen features are at hand, and the same for all seeds.
    frozen = request["settings"]["freeze_backbone"]
    if frozen:
        _run_floors(output_dir, dataset, inputs, args, request | origin, None)
    report()
    for name, seed in runs:
        variant = VARIANTS[name]
        if (name, seed) in left:
            tell(f"\n{name}, seed {seed}: run {left.index((name, seed)) + 1} of {len(left)}")
        changes = variant.change(dataset, seed) if variant.change is not None else {}
        if name in word_vectors:
            changes["word_vectors"] = word_vectors[name]
        if "word_vectors" in changes:
            changes["word_vector_source"] = name
        run_protocol(
            PROTOCOL,
            dataclasses.replace(dataset, **changes),
            dataclasses.replace(
                inputs, config=inputs.config | variant.config, source=inputs.source | {"variant": name}
            ),
            dataclasses.replace(args, output_dir=str(folders[name, seed])),
            [seed],
            prepare_model=variant.prepare_model,
        )
        if name == "full" and not frozen:
            _run_floors(output_dir, dataset, inputs, args, request | origin, seed)
        if (name, seed) in left:
            report()
    return report()


def _run_folder(output_dir: Path, name: str, seed: int) -> Path:
    """Where a run of a variant is: what `dedn train` gave with this seed alone may lie in the variant's own folder."""
    folder = output_dir / name
    results = folder / "results.json"
    brought = results.is_file() and read_json(results)["seeds"] == [seed]
    return folder if brought else folder / f"seed_{seed}"


def _run_floors(output_dir, dataset, inputs, args, record, seed):
    """
    On the features that the models are trained on, or, where they train their backbone, on those of the full model of
    a seed.
    """
    folders = {name: output_dir / name / ("" if seed is None else f"seed_{seed}") for name in FLOORS}
    folders = {name: folder for name, folder in folders.items() if not (folder / "results.json").is_file()}
    if folders and args.should_save:
        model, settings = None, dict(inputs.source)
        if seed is not None:
            model = DednModel.from_pretrained(_run_folder(output_dir, "full", seed)).eval()
            settings["backbone_sha256"] = fingerprint_weights(model.backbone)
        features_of = cache(lambda split: pool_features(inputs.make(dataset.splits[split]), model))
        for name, folder in folders.items():
            print(f"\n{name}: {FLOORS[name][0]}", flush=True)
            figures = run_floor(name, dataset, features_of)
            results = record | {"settings": settings, "seeds": [] if seed is None else [seed]} | figures
            write_json(folder / "results.json", results)
    args.distributed_state.wait_for_everyone()


def _check_runs(output_dir: Path, request: dict):
    for name, variant in VARIANTS.items():
        for folder in [output_dir / name, *sorted((output_dir / name).glob("seed_*"))]:
            files = [folder / "results.json", folder / "unfinished" / "request.json"]
            there = next((read_json(file) for file in files if file.is_file()), None)
            if there is not None:
                of = there["settings"].get("variant", "full")
                if of != name:
                    raise ValueError(f"{folder} holds a run of the variant {of}: delete it, or move it to {of}.")
                _check_same(folder, there, request, variant.varies)
    for name in FLOORS:
        for folder in [output_dir / name, *sorted((output_dir / name).glob("seed_*"))]:
            if (folder / "results.json").is_file():
                there = read_json(folder / "results.json")
                _check_same(folder, there, request, set())


def _check_same(folder: Path, there: dict, request: dict, varies: set[str]):
    changes = [(key, there[key], request[key]) for key in request if key != "settings"]
    settings = {key: value for key, value in there["settings"].items() if key in request["settings"]}
    changes += [(key, value, request["settings"][key]) for key, value in settings.items() if key not in varies]
    changes = [f"{key} is {old} there, {new} here" for key, old, new in changes if old != new]
    if changes:
        raise ValueError(
            f"{folder} holds a run with other settings: {'; '.join(changes)}. Variants are compared with the same "
            "settings only: choose another --output_dir, or delete that folder."
        )


def _finished_runs(folder: Path) -> list[dict]:
    """The results of a variant or a floor, by seed."""
    files = [path for path in (folder / "results.json", *folder.glob("seed_*/results.json")) if path.is_file()]
    runs = {}
    for file in files:
        results = read_json(file)
        # Of several seeds, which have theirs below.
        if len(results["seeds"]) > 1:
            continue
        run = {key: results[key] for key in ("seeds", "chosen", "validation", "test", "command")}
        log = file.with_name("training_log.json")
        if log.is_file():
            stages = read_json(log)
            run["steps"] = {stage: max(entry["step"] for entry in entries) for stage, entries in stages.items()}
        # The first is the one that a run of this seed is taken from, see `_run_folder`.
        runs.setdefault(tuple(run["seeds"]), run)
    return [runs[seeds] for seeds in sorted(runs)]


def _summarize(output_dir: Path, variants: Sequence[str], request: dict) -> dict:
    descriptions = {name: VARIANTS[name].description for name in variants}
    rows = {}
    for name, description in (descriptions | {name: text for name, (text, _) in FLOORS.items()}).items():
        runs = _finished_runs(output_dir / name)
        row = {"description": description, "seeds": [seed for run in runs for seed in run["seeds"]]}
        if len(runs) == 1:
            row |= {part: runs[0][part] for part in ("validation", "test")}
        elif runs:
            row |= mean_and_std(runs)
        rows[name] = row | {"runs": runs}
    height = {run["seeds"][0]: run["test"]["H"] for run in rows.get("full", {"runs": []})["runs"]}
    for row in rows.values():
        # A floor on frozen features has no seed; it is compared with all of the full model's.
        own = {seed: run["test"]["H"] for run in row["runs"] for seed in run["seeds"] or height}
        pairs = [(own[seed], height[seed]) for seed in own if seed in height]
        if pairs and None not in [figure for pair in pairs for figure in pair]:
            row["difference_of_H_to_full"] = float(np.mean([ours - full for ours, full in pairs]))
    return {
        **request,
        "seeds": sorted({seed for row in rows.values() for seed in row["seeds"]}),
        "variants": {name: rows[name] for name in variants},
        "floors": {name: rows[name] for name in FLOORS},
        "commands": list(dict.fromkeys(run["command"] for row in rows.values() for run in row["runs"])),
    }
