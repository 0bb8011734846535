"""Model cards, rendered from `results.json`."""

import json
import os
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..files import write_text

TEMPLATE = Path(__file__).with_name("model_card_template.md")
# Stands for the namespace of a repository that is not there yet; a push puts the real one in its place.
UNKNOWN_NAMESPACE = "your-namespace"

METRICS = {
    "T1": ("accuracy", "accuracy on images of unseen classes, choosing among unseen classes"),
    "U": ("accuracy", "accuracy on images of unseen classes, choosing among all classes"),
    "S": ("accuracy", "accuracy on images of seen classes, choosing among all classes"),
    "H": ("harmonic_mean", "harmonic mean of S and U"),
    "AUSUC": ("ausuc", "area under the seen–unseen accuracy curve"),
}

_XLSA17 = "Proposed Split v2 (xlsa17)"
_CUB_CITATION = """@techreport{WahCUB_200_2011,
  title       = {The {Caltech-UCSD} {Birds-200-2011} Dataset},
  author      = {Wah, Catherine and Branson, Steve and Welinder, Peter and Perona, Pietro and Belongie, Serge},
  institution = {California Institute of Technology},
  number      = {CNS-TR-2011-001},
  year        = {2011}
}"""
_SUN_CITATION = """@article{patterson2014sun,
  title   = {The {SUN} Attribute Database: Beyond Categories for Deeper Scene Understanding},
  author  = {Patterson, Genevieve and Xu, Chen and Su, Hang and Hays, James},
  journal = {International Journal of Computer Vision},
  volume  = {108},
  pages   = {59--81},
  year    = {2014}
}"""
_SPLIT_CITATION = """@article{xian2019zero,
  title   = {Zero-Shot Learning -- A Comprehensive Evaluation of the Good, the Bad and the Ugly},
  author  = {Xian, Yongqin and Lampert, Christoph H. and Schiele, Bernt and Akata, Zeynep},
  journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence},
  volume  = {41},
  number  = {9},
  pages   = {2251--2265},
  year    = {2019}
}"""

# What a card says of the data that results.json does not hold.
_DATA = {
    "cub": {
        "title": "CUB-200-2011",
        "id": "cub-200-2011",
        "subject": "birds",
        "summary": "11,788 photographs of 200 bird species (Wah et al. 2011), described by 312 attributes. 150 "
        "classes are seen and 50 are unseen; 7,057 images to train on, 1,764 and 2,967 to test seen and unseen "
        "classes.",
        "split": {"name": _XLSA17, "sha256": "7180aaff2a824a901918e540287ae1a21193393ff217da0c7ae1bfd05d3de529"},
        "groups": "head, torso, wing, tail, leg, whole body",
        "license": {
            "license": "other",
            "license_name": "cub-200-2011-terms",
            "license_link": "https://www.vision.caltech.edu/datasets/cub_200_2011/",
        },
        "terms": "CUB-200-2011 is for non-commercial research and education; its makers do not own the copyright of "
        "the photographs. Weights trained on it are offered under the same limits: non-commercial research only. "
        "Whoever needs more has to clear it with the owners of the data.",
        "caution": "CUB's photographs overlap with ImageNet's (its makers warn of it). A class can be unseen to DEDN "
        "and all the same have been in the images that an ImageNet backbone was trained on, so that figures of unseen "
        "classes may be too good.",
        "image": "bird.jpg",
        "new_class": "Dagger-billed Wren",
        "description": ["has_bill_shape::dagger", "has_crown_color::red", "has_belly_color::white"],
        "citations": [_CUB_CITATION, _SPLIT_CITATION],
    },
    "sun": {
        "title": "SUN Attribute",
        "id": "sun-attribute",
        "subject": "scenes",
        "summary": "14,340 photographs of 717 scenes (Patterson et al. 2014), described by 102 attributes. 645 "
        "classes are seen and 72 are unseen; 10,320 images to train on, 2,580 and 1,440 to test seen and unseen "
        "classes.",
        "split": {"name": _XLSA17, "sha256": "fc537f2f84f3f84a35665f94262ef08e2d47fc80c9c022591a75252882e5673a"},
        "groups": "function, element, environment and material, other; under the `reference` protocol the groups are "
        "those of the released program, which differ from the meant ones by a slip in its index arithmetic",
        "license": {"license": "unknown"},
        "terms": "No weights are published with this card. Weights that you train on SUN Attribute come under the "
        "terms of its owners; read them before you publish any.",
        "caution": "Scenes of the unseen classes are not kept out of what an ImageNet backbone was trained on.",
        "image": "scene.jpg",
        "new_class": "tidal campsite",
        "description": ["camping", "sand", "ocean"],
        "citations": [_SUN_CITATION, _SPLIT_CITATION],
    },
    "awa2": {
        "title": "Animals with Attributes 2",
        "id": "awa2",
        "subject": "animals",
        "summary": "37,322 photographs of 50 animals (Xian et al. 2019), described by 85 attributes. 40 classes are "
        "seen and 10 are unseen; 23,527 images to train on, 5,882 and 7,913 to test seen and unseen classes.",
        "split": {"name": _XLSA17, "sha256": "bfc36a2c1bb7454f5ca46c61cb116dcdd9800dd369aed1c27a8a7d96135fb463"},
        "groups": "texture, limb, abstract, environment",
        "license": {"license": "unknown"},
        "terms": "No weights are published with this card. Weights that you train on AWA2 come under the terms of its "
        "owners; read them before you publish any.",
        "caution": "Several of the unseen animals are classes of ImageNet, so that a backbone trained there knows "
        "them.",
        "image": "animal.jpg",
        "new_class": "okapi",
        "description": ["brown", "stripes", "hooves"],
        "citations": [_SPLIT_CITATION],
    },
    "synthetic_birds": {
        "title": "Synthetic birds",
        "id": "synthetic-birds",
        "subject": "drawn birds",
        "summary": "110 invented species, drawn by dedn-hf itself at 96 × 96 pixels and described by 62 attributes; "
        "the same pixels on every machine, nothing to download. 90 classes are seen and 20 are unseen; 2,700 images "
        "to train on, 900 and 800 to test seen and unseen classes. Every species has a double that wears the same "
        "colours on other parts, so that colours have to be found on their parts.",
        "split": {
            "name": "synthetic birds v1, seed 0",
            "sha256": "477f58993c709cadb9f1b21c4c398b22398f2ba6feb3bf575c3afb41e24a9b35",
        },
        "groups": "head, torso, wing, tail, leg, whole body",
        "license": {"license": "apache-2.0"},
        "terms": "The drawings come from dedn-hf under Apache-2.0, and so do the weights.",
        "caution": "The model knows drawings only. It is for demonstrations, tests and teaching: on photographs it is "
        "worthless, and its figures say nothing about real birds.",
        "image": "bird.png",
        "new_class": "Garden Lantern",
        "description": ["has_head_color::red", "has_wing_color::blue", "has_tail_shape::forked"],
        "citations": [],
    },
    "folder": {
        "title": "Own images",
        "id": "own-images",
        "subject": "images",
        "summary": "A folder of images, with its own classes and attributes.",
        "split": None,
        "groups": None,
        "license": {"license": "unknown"},
        "terms": "The licence of the images has not been recorded. Say here under which terms the weights may be "
        "used.",
        "caution": "What the images show, and who or what they leave out, has not been recorded.",
        "image": "image.jpg",
        "new_class": "a new class",
        "description": ["the name of an attribute", "another one"],
        "citations": [],
    },
}
_BACKBONES = {
    "google/mobilenet_v2_1.0_224": "MobileNetV2 1.0, trained on ImageNet by Google and kept frozen. The weights were "
    "converted from Google's quantised release, so they are not bit for bit those of the repository named as base "
    "model. They are under Apache-2.0. It is a much weaker backbone than the ResNet-101 of the literature: compare no "
    "figure here with published ones.",
}


def render_model_card(
    results: dict | None,
    preset: str,
    repo_id: str | None = None,
    base_model: str | None = None,
    sections: str | None = None,
) -> ModelCard:
    """
    The model card of one training run, or of a preset that was never run.

    Args:
        results (`dict`, *optional*):
            What `results.json` holds. `None`: nothing was measured, and the card says so.
        preset (`str`):
            `"cub"`, `"sun"`, `"awa2"`, `"synthetic_birds"` or `"folder"`.
        repo_id (`str`, *optional*, defaults to `"your-namespace/dedn-<preset>"`):
            The repository that the examples load from. [`push_to_hub`] puts the real one in the default's place.
        base_model (`str`, *optional*):
            Repository id of the frozen backbone. By default what the results name as backbone, if it is such an id.
        sections (`str`, *optional*):
            Further sections in Markdown, headings among them, that are put before "Limits".

    Returns:
        `huggingface_hub.ModelCard`: its metadata hold the measured figures as `model-index`.

    Raises:
        ValueError: If there is no such preset, or the results are of another data set.
    """
    if preset not in _DATA:
        raise ValueError(f"There is no card for {preset!r}; choose one of {', '.join(_DATA)}.")
    if results is not None and results["dataset"] != preset:
        raise ValueError(
            f"The results are of {results['dataset']!r}, not of {preset!r}: render the card of that preset."
        )
    data = _DATA[preset]
    repo_id = repo_id or f"{UNKNOWN_NAMESPACE}/dedn-{preset.replace('_', '-')}"
    name = repo_id.split("/")[-1]
    if base_model is None and results is not None and "/" in results["settings"].get("backbone", ""):
        base_model = results["settings"]["backbone"]
    split = data["split"] if results is None else results["split"]
    parts = [part for part in ("validation", "test") if results is not None and results.get(part)]
    eval_results = [result for part in parts for result in _eval_results(results, part, data)]
    card_data = ModelCardData(
        **data["license"],
        library_name="transformers",
        pipeline_tag="zero-shot-image-classification",
        tags=[
            "zero-shot-image-classification",
            "generalized-zero-shot-learning",
            "dedn",
            "attributes",
            "arxiv:2404.16348",
        ],
        base_model=base_model,
        model_name=name if eval_results else None,
        eval_results=eval_results or None,
    )
    card = ModelCard.from_template(
        card_data,
        template_path=str(TEMPLATE),
        name=name,
        repo_id=repo_id,
        preset=preset,
        data=data,
        backbone=base_model and (base_model, _BACKBONES.get(base_model, "Kept frozen; see its own card.")),
        results=results,
        split=split,
        rows=[(part, [_cell(results, part, metric) for metric in METRICS]) for part in parts],
        metrics={metric: text for metric, (_, text) in METRICS.items()},
        not_measured="test" not in parts,
        sections=sections,
    )
    validate_model_card(card)
    return card


def _eval_results(results: dict, part: str, data: dict) -> list[EvalResult]:
    on_the_test_set = results["protocol"] == "reference" and part == "test"
    spread = results.get("std", {}).get(part, {})
    return [
        EvalResult(
            task_type="zero-shot-image-classification",
            task_name="Generalized zero-shot learning",
            dataset_type=data["id"],
            dataset_name=data["title"],
            dataset_config=results["split"]["name"],
            dataset_split=part,
            dataset_args={
                "split_sha256": results["split"]["sha256"],
                "protocol": results["protocol"],
                "seeds": results["seeds"],
            },
            metric_type=metric_type,
            metric_value=round(results[part][metric], 2),
            metric_name=f"{metric}, chosen on the test set" if on_the_test_set else metric,
            metric_args=None if spread.get(metric) is None else {"std": round(spread[metric], 2)},
        )
        for metric, (metric_type, _) in METRICS.items()
        if results[part].get(metric) is not None
    ]


def _cell(results: dict, part: str, metric: str) -> str:
    value, spread = results[part].get(metric), results.get("std", {}).get(part, {}).get(metric)
    if value is None:
        return "–"
    return f"{value:.1f}" if spread is None else f"{value:.1f} ± {spread:.1f}"


def validate_model_card(card: ModelCard):
    """
    Checks offline what the Hub checks when a card arrives, and that a card is finished.

    Args:
        card (`huggingface_hub.ModelCard`):
            The card.

    Raises:
        ValueError: If metadata is missing or the Hub would not take it, or the template shows through.
    """
    data = card.data.to_dict()
    missing = [key for key in ("license", "library_name", "pipeline_tag", "tags") if not data.get(key)]
    if data.get("license") == "other":
        missing += [key for key in ("license_name", "license_link") if not data.get(key)]
    if missing:
        raise ValueError(f"The model card's metadata have no {', '.join(missing)}. Add them at the top of README.md.")
    if not card.text.strip():
        raise ValueError("The model card has metadata but no text. Write one, or render it with `render_model_card`.")
    for mark in ("{{", "{%", "[More Information Needed]"):
        if mark in card.content:
            raise ValueError(f"The model card is not finished: it holds {mark!r}. Fill it in.")
    for result in card.data.eval_results or []:
        if not isinstance(result.metric_value, int | float):
            raise ValueError(f"{result.metric_name} is {result.metric_value!r} in the model card, which is no number.")


def read_results(path: str | os.PathLike) -> dict:
    """What a `results.json` holds."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def save_model_card(card: ModelCard, path: str | os.PathLike):
    """Writes a card under a temporary name and moves it, so that it is there whole or not at all."""
    write_text(path, str(card).rstrip("\n") + "\n")


__all__ = ["render_model_card", "save_model_card", "validate_model_card"]
