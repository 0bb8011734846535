"""
Renders the cards in model_cards/ from the results in model_cards/results/: `<name>.json` is the `results.json` of a
run, `<name>_ablation.json` the `ablation.json` of scripts/ablate.py.

    python scripts/render_model_cards.py
"""

from pathlib import Path

from dedn_hf.hub.model_card import read_results, render_model_card, save_model_card

MODEL_CARDS = Path(__file__).resolve().parents[1] / "model_cards"
# Name of the card's file after "dedn-", which is also that of its results -> arguments of render_model_card.
CARDS = {
    "cub": {"preset": "cub", "base_model": "google/mobilenet_v2_1.0_224"},
    "cub-14x14": {
        "preset": "cub",
        "base_model": "google/mobilenet_v2_1.0_224",
        "repo_id": "your-namespace/dedn-cub-14x14",
    },
    "sun": {"preset": "sun"},
    "awa2": {"preset": "awa2"},
    "synthetic-birds": {"preset": "synthetic_birds"},
}


def render(name: str):
    """The card of one model, from its results and its ablation where there are any."""
    file, ablation = (MODEL_CARDS / "results" / f"{stem}.json" for stem in (name, f"{name}_ablation"))
    if not file.is_file():
        return render_model_card(None, CARDS[name]["preset"])
    ablation = read_results(ablation) if ablation.is_file() else None
    return render_model_card(read_results(file), **CARDS[name], ablation=ablation)


def main():
    for name in CARDS:
        path = MODEL_CARDS / f"dedn-{name}.md"
        save_model_card(render(name), path)
        print(f"Wrote {path.relative_to(MODEL_CARDS.parent)}")


if __name__ == "__main__":
    main()
