import json

import numpy as np
import pytest
from measure_words import main, precision_and_recall, ridge_rows, sentences_of

from dedn_hf import DednConfig, DednModel

NAMES = ["has_wing_color::red", "has_wing_color::blue", "has_belly_color::red", "has_belly_color::white"]
STRENGTHS = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 0, 1], [0, 1, 1, 0]], np.float32)


def test_precision_and_recall():
    understood = {0: {NAMES[0]: 1.0, NAMES[1]: 0.6, NAMES[2]: 0.4}, 1: {NAMES[1]: 0.5}}
    # Of three that are said two are so, of four that are so two are said.
    assert precision_and_recall(understood, STRENGTHS, NAMES) == pytest.approx((200 / 3, 50))
    assert precision_and_recall({0: {}}, STRENGTHS, NAMES) == (0, 0)


def test_a_linear_map_finds_what_the_features_say():
    features = STRENGTHS[:, :1] + np.zeros((4, 1))
    rows = ridge_rows(np.hstack([features, 1 - features]), STRENGTHS, np.array([0, 1]), 1e-6)
    np.testing.assert_allclose(rows[2], STRENGTHS[0], atol=1e-3)  # the same feature as class 0
    np.testing.assert_allclose(rows[3], STRENGTHS[1], atol=1e-3)


def test_sentences_of_what_sets_a_class_apart():
    config = DednConfig(attribute_names=NAMES, num_labels=4, seen_class_ids=[0, 1])
    assert sentences_of(STRENGTHS, 2, config, 2) == ["red wing", "white belly"]


def test_right_prose_is_as_good_as_attributes(tmp_path, capsys):
    model = DednModel(
        DednConfig(
            feature_channels=2,
            grid_size=2,
            word_vector_size=3,
            attribute_names=NAMES,
            attribute_terms={"crimson": ["red"]},
            id2label=dict(enumerate("abcd")),
            seen_class_ids=[0, 1],
        )
    )
    model.set_classes(list("abcd"), STRENGTHS, seen=[True, True, False, False])
    model.save_pretrained(tmp_path / "model")
    scores = np.broadcast_to(STRENGTHS[[2, 3], None, None], (2, 2, 2, 4))
    np.savez(tmp_path / "scores.npz", expert_scores=scores, labels=[2, 3])
    prose = {"c": "crimson wings and a white belly", "d": ["blue wings", "its belly is red"]}
    (tmp_path / "prose.json").write_text(json.dumps(prose))
    arguments = ["--model", "model", "--dataset", "cub", "--scores", "scores.npz", "--descriptions", "prose.json"]
    main([str(tmp_path / entry) if "." in entry or entry == "model" else entry for entry in arguments])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[1:6]] == ["100.0"] * 5
    assert lines[-2:] == [
        "attributes understood of a class: 2.0; phrases not read: 0.0",
        "against attributes of the class with a strength from 0.5 on: precision 100.0, recall 100.0",
    ]
