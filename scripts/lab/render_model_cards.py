"""
Renders the cards in model_cards/ from the results in model_cards/results/: `<name>.json` is the `results.json` of a
run, `<name>_ablation.json` the `ablation.json` of scripts/lab/ablate.py, and `<name>_evaluation.json` the
`results.json` of `dedn evaluate` of the very weights that travel with the package, see scripts/lab/box.py.

    python scripts/lab/render_model_cards.py
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

from ablation_report import describe_ablation

from dedn_hf.evaluation.report import accuracy_by_family
from dedn_hf.hub.model_card import render_model_card, save_model_card

MODEL_CARDS = Path(__file__).resolve().parents[2] / "model_cards"
# A family with fewer classes has no row of its own.
MIN_CLASSES = 4
# Name of the card's file after "dedn-", which is also that of its results -> arguments of render_model_card.
CARDS = {
    "cub": {"dataset": "cub", "base_model": "timm/tf_efficientnet_lite2.in1k"},  # the one in the box
    "cub-7x7": {
        "dataset": "cub",
        "base_model": "google/mobilenet_v2_1.0_224",
        "repo_id": "your-namespace/dedn-cub-7x7",
    },
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
    file, ablation_file, evaluation_file = (
        MODEL_CARDS / "results" / f"{stem}.json" for stem in (name, f"{name}_ablation", f"{name}_evaluation")
    )
    dataset = CARDS[name]["dataset"]
    if not file.is_file():
        return render_model_card(None, dataset)
    results, sections = json.loads(file.read_text(encoding="utf-8")), []
    if evaluation_file.is_file():
        sections.append(box_sections(results["box"], json.loads(evaluation_file.read_text(encoding="utf-8"))))
    if ablation_file.is_file():
        ablation = json.loads(ablation_file.read_text(encoding="utf-8"))
        if ablation["dataset"] != dataset:
            raise ValueError(f"{ablation_file}: the ablation is of {ablation['dataset']!r}, not of {dataset!r}.")
        sections.append(ablation_section(ablation))
    return render_model_card(results, **CARDS[name], sections="\n\n".join(sections) or None)


def box_sections(box: dict, evaluation: dict) -> str:
    """
    What the card of the model in the box says beyond others: what it is for, its figures as it is stored, by family
    and by confidence, and where it errs.

    Args:
        box (`dict`):
            `box` of its results, see [`box.make_box`].
        evaluation (`dict`):
            The `results.json` of `dedn evaluate` of the stored weights.
    """
    figures, differences = evaluation["test"], box["differences"]
    names = ("T1", "U", "S", "H", "AUSUC")
    closeness = "; ".join(
        f"{dtype}: {of_dtype['largest']:.2g}, another first class for {of_dtype['other_first_class']}"
        for dtype, of_dtype in differences.items()
    )
    families = {}
    for family, of_family in accuracy_by_family(evaluation["classes"]).items():
        label = family if of_family["classes"] >= MIN_CLASSES else "all others"
        families.setdefault(label, []).append(of_family)
    rows = [
        (
            family,
            sum(m["classes"] for m in members),
            sum(m["images"] for m in members),
            sum(m["accuracy"] * m["classes"] for m in members) / sum(m["classes"] for m in members),
        )
        for family, members in sorted(families.items(), key=lambda item: item[0] == "all others")
    ]
    total = sum(of_bin["images"] for of_bin in evaluation["reliability"])
    return "\n\n".join(
        [
            "## What it is for",
            "For trying dedn-hf on photos of birds, for teaching, and for research on recognition by attributes and "
            "on classes that are only described: non-commercial, as CUB's terms are. It is at its best where one bird "
            "of CUB's 200 species, most of them North American, fills much of the middle of a photo.",
            "It is not for products and services, not for records of rare or protected species, and not for what is "
            "no bird or a bird of elsewhere: it names one of its classes all the same.",
            "## The weights in the box",
            f"`model.safetensors` has {box['bytes'] / 1e6:.1f} MB: weights are {box['dtype']}, tables and batch "
            f"statistics float32, and all of it is loaded as float32. Largest difference of a class score to the "
            f"trained float32 on {box['images']} training images, and how many of them had another first class: "
            f"{closeness}. These weights, as they are stored, on the test images, in per cent:",
            _table(names, [[f"{figures[name]:.1f}" for name in names]]),
            f"```\n{evaluation['command']}\n```",
            "By family, which here is the last word of a name; accuracy among all classes, per class:",
            _table(
                ("family", "classes", "images", "accuracy"),
                [[family, classes, images, f"{accuracy:.1f}"] for family, classes, images, accuracy in rows],
            ),
            f"How far a label's score can be trusted: the images by the score of their first label. The mean distance "
            f"of score and accuracy (expected calibration error) is {evaluation['expected_calibration_error']:.1f}.",
            _table(
                ("mean score", "right", "images"),
                [
                    [f"{b['confidence']:.0f} %", f"{b['accuracy']:.0f} %", f"{100 * b['images'] / total:.1f} %"]
                    for b in evaluation["reliability"]
                ],
            ),
            "## Where it errs",
            "- Species that differ in little but size, voice or where they live, which a photo or CUB's attributes do "
            "not show, and females and young birds in the plumage of another species.\n"
            "- Birds that are small in the photo, hidden or at its edge: the middle square is all that is looked at.\n"
            "- Pictures unlike CUB's: drawings, museum skins, night cameras, flocks.\n"
            "- The confusions that cost most:",
            "\n".join(
                f"  - {_readable(confusion['label'])}, taken for {_readable(confusion['prediction'])} in "
                f"{confusion['percent']:.0f} % of its images"
                for confusion in evaluation["confusions"][:10]
            ),
        ]
    )


def _table(head: Sequence[str], rows: Sequence[Sequence]) -> str:
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in [head, ["---"] * len(head), *rows])


def _readable(name: str) -> str:
    """`American Goldfinch` for CUB's `047.American_Goldfinch`."""
    return re.sub(r"^\d+\.", "", name).replace("_", " ")


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
