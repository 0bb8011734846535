"""Model cards, rendered from `results.json`."""

import os
import re
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..data.dataset import DatasetCard
from ..data.load import dataset_card
from ..files import write_text
from ..recipes import short_name
from ..results import format_figures, format_setting

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

_BACKBONES = {
    "timm/tf_efficientnet_lite2.in1k": "EfficientNet-Lite2 (Tan and Le), trained on ImageNet by Google, 4.9 "
    "million parameters. The weights are under Apache-2.0, converted to the layout of transformers' "
    "`EfficientNetModel`, and give what those of the repository named as base model give. It is a smaller backbone "
    "than the ResNet-101 of the literature.",
    "google/mobilenet_v2_1.0_224": "MobileNetV2 1.0, trained on ImageNet by Google. The weights were "
    "converted from Google's quantised release, so they are not bit for bit those of the repository named as base "
    "model. They are under Apache-2.0. It is a much weaker backbone than the ResNet-101 of the literature: compare no "
    "figure here with published ones.",
}


def render_model_card(
    results: dict | None,
    dataset: str,
    repo_id: str | None = None,
    base_model: str | None = None,
    sections: str | None = None,
) -> ModelCard:
    """
    The model card of one training run, or of a recipe that was never run.

    Args:
        results (`dict`, *optional*):
            What `results.json` holds. `None`: nothing was measured, and the card says so.
        dataset (`str`):
            Name of the data set, as on the command line. Of one that is not known, whatever its name, the card says
            what it says of anybody's own images.
        repo_id (`str`, *optional*, defaults to `"your-namespace/dedn-<dataset>"`):
            The repository that the examples load from. [`push_to_hub`] puts the real one in the default's place.
        base_model (`str`, *optional*):
            Repository id of the backbone. By default what the results name as backbone, if it is such an id.
        sections (`str`, *optional*):
            Further sections in Markdown, headings among them, that are put before "Limits".

    Returns:
        `huggingface_hub.ModelCard`: its metadata hold the measured figures as `model-index`.

    Raises:
        ValueError: If the results are of another data set.
    """
    if results is not None and results["dataset"] not in (dataset, short_name(dataset)):
        raise ValueError(
            f"The results are of {results['dataset']!r}, not of {dataset!r}: render the card of that data set."
        )
    data = dataset_card(dataset)
    if repo_id is None:
        # A repository's name has 96 characters at most, of these.
        repo_id = f"{UNKNOWN_NAMESPACE}/dedn-" + re.sub(r"[^A-Za-z0-9]+", "-", short_name(dataset))[:60].strip("-")
        repo_id = repo_id.rstrip("-")
    name = repo_id.split("/")[-1]
    if base_model is None and results is not None and "/" in results["settings"].get("backbone", ""):
        base_model = results["settings"]["backbone"]
    split = {"name": data.split_name, "sha256": data.split_sha256} if results is None else results["split"]
    parts = [part for part in ("validation", "test") if results is not None and results.get(part)]
    eval_results = [result for part in parts for result in _eval_results(results, part, data)]
    card_data = ModelCardData(
        **data.license,
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
        dataset=dataset,
        data=data,
        backbone=base_model and (base_model, _BACKBONES.get(base_model, "See its own card.")),
        frozen=results is None or results["settings"].get("freeze_backbone", True),
        results=results,
        format_setting=format_setting,
        split=split,
        rows=[(part, format_figures(results, part, METRICS)) for part in parts],
        metrics={metric: text for metric, (_, text) in METRICS.items()},
        not_measured="test" not in parts,
        sections=sections,
    )
    validate_model_card(card)
    return card


def _eval_results(results: dict, part: str, data: DatasetCard) -> list[EvalResult]:
    on_the_test_set = results["protocol"] == "reference" and part == "test"
    spread = results.get("std", {}).get(part, {})
    return [
        EvalResult(
            task_type="zero-shot-image-classification",
            task_name="Generalized zero-shot learning",
            dataset_type=data.id,
            dataset_name=data.title,
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


def write_model_card(folder: Path, results: dict | None, dataset: str):
    """Writes the card of the model in a folder, see [`render_model_card`]."""
    save_model_card(render_model_card(results, dataset), folder / "README.md")


def save_model_card(card: ModelCard, path: str | os.PathLike):
    """Writes a card under a temporary name and moves it, so that it is there whole or not at all."""
    write_text(path, str(card).rstrip("\n") + "\n")
