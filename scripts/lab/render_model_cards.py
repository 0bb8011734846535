"""
Renders the cards in model_cards/ from the results in model_cards/results/: `<name>.json` is the `results.json` of a
run, `<name>_ablation.json` the `ablation.json` of scripts/lab/ablate.py.

    python scripts/lab/render_model_cards.py
"""

import argparse
import json
from pathlib import Path

from ablation_report import describe_ablation

from dedn_hf.hub.model_card import render_model_card, save_model_card

MODEL_CARDS = Path(__file__).resolve().parents[2] / "model_cards"
# Name of the card's file after "dedn-", which is also that of its results -> arguments of render_model_card.
CARDS = {
    "cub": {"dataset": "cub", "base_model": "google/mobilenet_v2_1.0_224"},
    "cub-14x14": {
        "dataset": "cub",
        "base_model": "google/mobilenet_v2_1.0_224",
        "repo_id": "your-namespace/dedn-cub-14x14",
    },
    "sun": {"dataset": "sun"},
    "awa2": {"dataset": "awa2"},
    "synthetic-birds": {"dataset": "synthetic_birds"},
}


def render(name: str):
    """
    The card of one model, from its results and its ablation where there are any.

    Raises:
        ValueError: If either is of another data set.
    """
    file, ablation_file = (MODEL_CARDS / "results" / f"{stem}.json" for stem in (name, f"{name}_ablation"))
    dataset = CARDS[name]["dataset"]
    if not file.is_file():
        return render_model_card(None, dataset)
    sections = None
    if ablation_file.is_file():
        ablation = json.loads(ablation_file.read_text(encoding="utf-8"))
        if ablation["dataset"] != dataset:
            raise ValueError(f"{ablation_file}: the ablation is of {ablation['dataset']!r}, not of {dataset!r}.")
        sections = ablation_section(ablation)
    results = json.loads(file.read_text(encoding="utf-8"))
    return render_model_card(results, **CARDS[name], sections=sections)


def ablation_section(ablation: dict) -> str:
    """What `ablation.json` holds as a section of a card."""
    settings, paragraphs = ablation["settings"], ["## What earns its place"]
    if settings.get("backbone"):
        grid = f"{settings['grid_size']}×{settings['grid_size']}×{settings['feature_channels']}"
        paragraphs.append(
            f"Measured on frozen features of {settings['backbone']} at {settings['image_size']} pixels, {grid}, not "
            "on those of the paper's ResNet-101: what earns its place there may differ."
        )
    # Earlier ones name the script where it stood then.
    commands = "\n".join(ablation["commands"]).replace("scripts/ablate.py", "scripts/lab/ablate.py")
    return "\n\n".join([*paragraphs, describe_ablation(ablation), f"```\n{commands}\n```"])


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(arguments)
    for name in CARDS:
        path = MODEL_CARDS / f"dedn-{name}.md"
        save_model_card(render(name), path)
        print(f"Wrote {path.relative_to(MODEL_CARDS.parent)}")


if __name__ == "__main__":
    main()
