import numpy as np
import pytest
from measure_ranks import last_words, main, rank_figures
from synthetic_model import SYNTHETIC_MODEL

NAMES = ["Indigo Bunting", "Lazuli Bunting", "Blue Jay", "Sayornis"]


def test_the_rank_above_a_bird_is_its_last_word():
    assert last_words(NAMES) == {"Indigo Bunting": "Bunting", "Lazuli Bunting": "Bunting", "Blue Jay": "Jay"}


def test_figures_by_hand():
    scores = np.array(
        [
            [0.90, 0.04, 0.03, 0.03],  # an Indigo Bunting, and sure of it
            [0.50, 0.40, 0.05, 0.05],  # a Bunting, and not the one that is first
            [0.45, 0.45, 0.05, 0.05],  # said to be a Bunting, and is none
            [0.02, 0.03, 0.05, 0.90],  # said to be a Sayornis, and is none
            [0.30, 0.10, 0.30, 0.30],  # nothing is sure
        ]
    )
    figures = rank_figures(scores, np.array([0, 1, 3, 2, 0]), NAMES, last_words(NAMES))
    assert figures == {
        "images": 5,
        "label": pytest.approx(40),
        "parent": pytest.approx(60),
        "sure": pytest.approx(80),
        "class": pytest.approx(50),
        "right": pytest.approx(50),
        "class_right": pytest.approx(50),
        "rank_right": pytest.approx(50),
    }


def test_a_share_of_nothing_is_none():
    figures = rank_figures(np.full((2, 4), 0.25), np.array([0, 1]), NAMES, last_words(NAMES))
    assert figures["sure"] == 0 and np.isnan(figures["right"]) and np.isnan(figures["class_right"])


@pytest.mark.slow
def test_on_the_synthetic_birds(capsys):
    main(["--model", str(SYNTHETIC_MODEL), "--dataset", "synthetic_birds"])
    printed = capsys.readouterr().out
    assert "sure from 0.8 on" in printed
    for split in ("test_unseen", "test_seen", "both"):
        assert f"\n{split}\n" in printed
    both = dict(line.rsplit(maxsplit=1) for line in printed.partition("both\n")[2].splitlines())
    both = {name.strip(): float(value) for name, value in both.items()}
    assert both["rank above it right"] >= both["first label right"] > 50
    assert both["finest rank right"] > both["first label right"]
