import copy
import json
import re
from pathlib import Path

import pytest
import render_model_cards
from finished_run import results
from huggingface_hub import ModelCard
from render_model_cards import ablation_section

from dedn_hf.hub import render_model_card, validate_model_card
from dedn_hf.recipes import recipe_names

MODEL_CARDS = Path(__file__).parents[2] / "model_cards"

ABLATION = {
    "dataset": "cub",
    "protocol": "validated",
    "split": {"name": "a split", "sha256": "0123abcd"},
    "settings": {
        "num_train_epochs": 5.0,
        "max_steps": -1,
        "freeze_backbone": True,
        "backbone": "mobilenet_v2_1.0_224",
        "image_size": 224,
        "grid_size": 7,
        "feature_channels": 1280,
    },
    "seeds": [0, 1],
    "variants": {
        "full": {
            "description": "nothing",
            "seeds": [0, 1],
            "runs": [{"steps": {"choose": 375, "final": 705}}, {"steps": {"choose": 375, "final": 564}}],
            "test": {"T1": 50.04, "U": 40.0, "S": 45.0, "H": 42.35, "AUSUC": 25.0},
            "std": {"test": {"T1": 1.25, "U": 0.5, "S": 0.5, "H": 0.75, "AUSUC": 0.1}},
            "difference_of_H_to_full": 0.0,
        },
        "no_margin": {
            "description": "no margins",
            "seeds": [0],
            "runs": [{"steps": {"choose": 375, "final": 705}}],
            "test": {"T1": 48.0, "U": 38.0, "S": 44.0, "H": 40.78, "AUSUC": 24.0},
            "difference_of_H_to_full": -1.57,
        },
        "random_groups": {"description": "random groups", "seeds": [], "runs": []},
    },
    "floors": {
        "eszsl": {
            "description": "ESZSL",
            "seeds": [],
            "runs": [{}],
            "test": {"T1": 26.4, "U": 21.4, "S": 33.2, "H": 26.0, "AUSUC": 10.9},
            "difference_of_H_to_full": -16.35,
        }
    },
    "commands": ["python scripts/ablate.py --seeds 0", "python scripts/ablate.py --seeds 0 1 --variants full"],
}


def all_rows(ablation):
    return ablation["variants"] | ablation["floors"]


def ablation_figures(text):
    """Row → T1, U, S and H in the table of a card, without their spread."""
    section = text.split("\n## What earns its place\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("|")]
    assert rows[0][3:7] == ["T1", "U", "S", "H"]
    return {row[0]: [cell.split(" ")[0] for cell in row[3:7]] for row in rows[2:] if row[3] != "not measured"}


@pytest.mark.parametrize("name", ["cub", "cub-7x7", "cub-14x14", "sun", "awa2", "synthetic-birds"])
def test_the_rendered_cards_are_up_to_date(name):
    card = render_model_cards.render(name)
    rendered = (MODEL_CARDS / f"dedn-{name}.md").read_text(encoding="utf-8")
    assert rendered == str(card).rstrip("\n") + "\n", "run python scripts/lab/render_model_cards.py"
    validate_model_card(ModelCard(rendered))
    measured = (MODEL_CARDS / "results" / f"{name}.json").is_file()
    ablated = MODEL_CARDS / "results" / f"{name}_ablation.json"
    assert ("\n## What earns its place\n" in rendered) == ablated.is_file()
    if ablated.is_file():
        assert ablation_figures(rendered) == {
            name: [f"{row['test'][metric]:.1f}" for metric in ("T1", "U", "S", "H")]
            for name, row in all_rows(json.loads(ablated.read_text(encoding="utf-8"))).items()
            if row["runs"]
        }
    assert measured == ("model-index" in card.data.to_dict())
    assert ("**Not measured.**" in rendered) == (not measured)


def test_there_is_one_card_a_data_set_and_no_results_without_a_card():
    assert {card["dataset"] for card in render_model_cards.CARDS.values()} == set(recipe_names()) - {"folder"}
    assert {path.name for path in MODEL_CARDS.glob("dedn-*.md")} == {
        f"dedn-{name}.md" for name in render_model_cards.CARDS
    }
    stems = {re.sub("_(ablation|evaluation)$", "", path.stem) for path in (MODEL_CARDS / "results").glob("*.json")}
    assert stems <= set(render_model_cards.CARDS)


def test_the_script_writes_the_cards_again_from_results(tmp_path, monkeypatch, capsys):
    (tmp_path / "model_cards" / "results").mkdir(parents=True)
    monkeypatch.setattr(render_model_cards, "MODEL_CARDS", tmp_path / "model_cards")
    render_model_cards.main([])
    assert "Not measured" in (tmp_path / "model_cards" / "dedn-cub-7x7.md").read_text()
    (tmp_path / "model_cards" / "results" / "cub-7x7.json").write_text(json.dumps(results()))
    render_model_cards.main([])
    card = ModelCard.load(tmp_path / "model_cards" / "dedn-cub-7x7.md")
    assert {result.metric_value for result in card.data.eval_results} >= {40.46, 22.25}
    assert card.data.base_model == "google/mobilenet_v2_1.0_224" and "What earns its place" not in card.text
    (tmp_path / "model_cards" / "results" / "cub-7x7_ablation.json").write_text(json.dumps(ABLATION))
    render_model_cards.main([])
    assert "eszsl" in ablation_figures((tmp_path / "model_cards" / "dedn-cub-7x7.md").read_text())
    assert "Wrote model_cards/dedn-cub-7x7.md" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.tmp"))


def test_an_ablation_is_in_the_card():
    card = render_model_card(
        results(), "cub", base_model="google/mobilenet_v2_1.0_224", sections=ablation_section(ABLATION)
    )
    assert ablation_figures(card.text) == {
        "full": ["50.0", "40.0", "45.0", "42.4"],
        "no_margin": ["48.0", "38.0", "44.0", "40.8"],
        "eszsl": ["26.4", "21.4", "33.2", "26.0"],
    }
    section = " ".join(card.text.split("\n## What earns its place\n")[1].split("\n## ")[0].split())
    assert (
        "features of mobilenet_v2_1.0_224 at 224 pixels, 7×7×1280, not on those of the paper's ResNet-101" in section
    )
    assert "5 epochs on the train classes" in section and "(939 to 1080 steps in both together)" in section
    assert "| no_margin | no margins | 0 | 48.0 | 38.0 | 44.0 | 40.8 | −1.6 | 24.0 |" in section
    assert "| full | nothing | 0, 1 | 50.0 ± 1.2 |" in section and "| random_groups | random groups | | not" in section
    assert "no spread is known. That of the full model's H is 0.8 over its 2 seeds." in section
    assert "maps averaged over regions, of the same frozen backbone." in section
    assert (
        "``` python scripts/lab/ablate.py --seeds 0 python scripts/lab/ablate.py --seeds 0 1 --variants full ```"
        in section
    )
    assert "\n\n\n" not in card.text and "What earns its place" not in render_model_card(results(), "cub").text


def test_an_ablation_with_a_trained_backbone_speaks_of_that():
    settings = {"num_train_epochs": 12, "max_steps": 30, "freeze_backbone": False}
    ablation = copy.deepcopy(ABLATION) | {"dataset": "synthetic_birds", "settings": settings}
    text = ablation_section(ablation)
    assert "30 steps on the train classes" in text and "ResNet-101" not in text
    assert "of the backbone that the full model of the same seed trained" in text and "too good" in text


def test_an_ablation_of_another_data_set(tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(render_model_cards, "MODEL_CARDS", tmp_path)
    (tmp_path / "results" / "sun.json").write_text(json.dumps(results(dataset="sun")))
    (tmp_path / "results" / "sun_ablation.json").write_text(json.dumps(ABLATION))
    with pytest.raises(ValueError, match="ablation is of 'cub', not of 'sun'"):
        render_model_cards.render("sun")
