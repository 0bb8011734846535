import math

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, recall_score

from dedn_hf.evaluation.metrics import (
    expected_calibration_error,
    gzsl_metrics,
    harmonic_mean,
    mean_per_class_accuracy,
    per_class_accuracy,
    reliability_bins,
    top_confusions,
)

# Classes 0 and 1 are seen, 2 and 3 unseen. Class 0 has three images, the others one or two.
SEEN = [0, 1]
LOGITS = np.array(
    [
        [5.0, 1.0, 4.0, 0.0],  # class 0: right; its best unseen score is 1 lower
        [5.0, 1.0, 0.0, 2.0],  # class 0: right; 3 lower
        [1.0, 4.0, 0.0, 2.0],  # class 0: taken for 1
        [0.0, 3.0, 1.0, 1.0],  # class 1: right; 2 lower
        [4.0, 0.0, 3.0, 2.0],  # class 2: taken for 0; right among the unseen, 1 lower
        [0.0, 1.0, 2.0, 0.0],  # class 2: right
        [0.0, 5.0, 3.0, 1.0],  # class 3: taken for 1; among the unseen for 2
    ]
)
LABELS = [0, 0, 0, 1, 2, 2, 3]


def test_figures_worked_by_hand():
    metrics = gzsl_metrics(LOGITS, LABELS, SEEN)
    # S = (2/3 + 1/1) / 2 = 5/6; per image it would be 3/4.
    assert metrics["S"] == pytest.approx(100 * 5 / 6)
    # U = (1/2 + 0/1) / 2 = 1/4; per image it would be 1/3.
    assert metrics["U"] == pytest.approx(25.0)
    # T1 = (2/2 + 0/1) / 2 = 1/2; per image it would be 2/3.
    assert metrics["T1"] == pytest.approx(50.0)
    # H = 2 · 5/6 · 1/4 / (5/6 + 1/4) = (5/12) / (13/12) = 5/13
    assert metrics["H"] == pytest.approx(100 * 5 / 13)


def test_calibration_lowers_seen_classes_and_leaves_t1():
    # γ = 1.5 takes the images with a lead of 1 from the seen classes: S = (1/3 + 1) / 2, U = (2/2 + 0) / 2.
    metrics = gzsl_metrics(LOGITS, LABELS, SEEN, calibration=1.5)
    assert metrics["S"] == pytest.approx(100 * 2 / 3)
    assert metrics["U"] == pytest.approx(50.0)
    assert metrics["T1"] == pytest.approx(50.0)


def test_class_bias_is_half_a_calibration():
    bias = np.where(np.isin(np.arange(4), SEEN), -0.75, 0.75)
    assert gzsl_metrics(LOGITS + bias, LABELS, SEEN) == gzsl_metrics(LOGITS, LABELS, SEEN, calibration=1.5)


def test_equal_scores_go_to_the_lowest_id():
    logits = [[1.0, 1.0], [1.0, 1.0]]
    assert gzsl_metrics(logits, [0, 1], [0])["S"] == 100.0
    assert gzsl_metrics(logits, [0, 1], [0])["U"] == 0.0
    assert gzsl_metrics(logits, [0, 1], [1])["S"] == 0.0
    assert gzsl_metrics(logits, [0, 1], [1])["U"] == 100.0


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    shares = generator.dirichlet(np.full(9, 0.5))
    labels = generator.choice(9, size=200, p=shares)
    predictions = np.where(generator.random(200) < 0.4, labels, generator.integers(0, 9, 200))
    mine = mean_per_class_accuracy(predictions, labels)
    present = np.unique(labels)
    assert mine == pytest.approx(100 * recall_score(labels, predictions, labels=present, average="macro"))
    if np.isin(predictions, present).all():
        assert mine == pytest.approx(100 * balanced_accuracy_score(labels, predictions))
    each = per_class_accuracy(predictions, labels, num_classes=9)
    np.testing.assert_allclose(each[present], 100 * recall_score(labels, predictions, labels=present, average=None))
    np.testing.assert_array_equal(np.flatnonzero(~np.isnan(each)), present)


def test_gzsl_figures_agree_with_scikit_learn():
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), np.arange(1, 11))
    logits = generator.normal(size=(len(labels), 10)) + 1.5 * np.eye(10)[labels]
    seen = [7, 1, 3, 8, 0, 2]
    metrics = gzsl_metrics(logits, labels, seen)
    of_seen, predictions = np.isin(labels, seen), logits.argmax(axis=1)
    for figure, rows in (("S", of_seen), ("U", ~of_seen)):
        classes = np.unique(labels[rows])
        expected = recall_score(labels[rows], predictions[rows], labels=classes, average="macro")
        assert metrics[figure] == pytest.approx(100 * expected)
    masked = logits.copy()
    masked[:, seen] = -np.inf
    expected = balanced_accuracy_score(labels[~of_seen], masked[~of_seen].argmax(axis=1))
    assert metrics["T1"] == pytest.approx(100 * expected)


def test_per_class_differs_from_per_image_when_classes_are_unequal():
    # 98 of 98 and 0 of 2 images: 98 % of the images, half of the classes.
    labels = [0] * 98 + [1] * 2
    assert mean_per_class_accuracy([0] * 100, labels) == 50.0
    np.testing.assert_array_equal(per_class_accuracy([0] * 100, labels, num_classes=3), [100.0, 0.0, np.nan])


def test_a_class_without_images_does_not_count():
    # Class 5 is predicted, but no image has it.
    assert mean_per_class_accuracy([0, 5], [0, 1]) == 50.0
    assert math.isnan(mean_per_class_accuracy([], []))


def test_figures_that_no_image_speaks_of_are_nan():
    only_seen = gzsl_metrics(LOGITS[:4], LABELS[:4], SEEN)
    assert only_seen["S"] == pytest.approx(100 * 5 / 6)
    assert all(math.isnan(only_seen[figure]) for figure in ("T1", "U", "H"))
    only_unseen = gzsl_metrics(LOGITS[4:], LABELS[4:], SEEN)
    assert only_unseen["T1"] == pytest.approx(50.0)
    assert only_unseen["U"] == pytest.approx(25.0)
    assert math.isnan(only_unseen["S"]) and math.isnan(only_unseen["H"])


def test_without_seen_classes_u_is_t1_and_without_unseen_classes_s_alone_is_left():
    no_seen = gzsl_metrics(LOGITS, LABELS, [])
    assert no_seen["U"] == no_seen["T1"] and math.isnan(no_seen["S"])
    # Right: 2/3 of class 0, 1/1 of class 1, 1/2 of class 2, 0/1 of class 3.
    all_seen = gzsl_metrics(LOGITS, LABELS, [0, 1, 2, 3], calibration=2.0)
    assert all_seen["S"] == pytest.approx(100 * (2 / 3 + 1 + 1 / 2 + 0) / 4)
    assert math.isnan(all_seen["T1"]) and math.isnan(all_seen["U"])


def test_harmonic_mean():
    # 2 · 60 · 30 / 90
    assert harmonic_mean(60, 30) == 40.0
    assert harmonic_mean(0, 0) == 0.0
    assert harmonic_mean(100, 0) == 0.0
    assert math.isnan(harmonic_mean(float("nan"), 0))
    np.testing.assert_array_equal(harmonic_mean(np.array([60, 0]), np.array([30, 0])), [40.0, 0.0])


@pytest.mark.parametrize(
    ("logits", "labels", "seen", "message"),
    [
        (LOGITS, LABELS[:6], SEEN, "7 rows of `logits`, but 6 `labels`"),
        (LOGITS[0], [0], SEEN, r"`logits` has shape \(4,\)"),
        (LOGITS, [0, 0, 0, 1, 2, 4, -1], SEEN, r"`labels` holds the ids \[-1, 4\], outside of the 4 classes"),
        (LOGITS, LABELS, [0, 4], r"`seen_class_ids` holds the ids \[4\], outside of the 4 classes"),
        (LOGITS, LABELS, [0, 1, 1], r"`seen_class_ids` holds the ids \[1\] more than once"),
        (LOGITS, np.array(LABELS) + 0.5, SEEN, "`labels` has dtype float64"),
        (LOGITS, LABELS, [[0, 1]], r"`seen_class_ids` has shape \(1, 2\)"),
        (np.where(LOGITS == 3, np.nan, LOGITS), LABELS, SEEN, "3 of 7 rows of `logits` are not finite.*row 3"),
    ],
)
def test_gzsl_metrics_names_what_is_wrong(logits, labels, seen, message):
    with pytest.raises(ValueError, match=message):
        gzsl_metrics(logits, labels, seen)


def test_other_errors_name_the_sizes():
    with pytest.raises(ValueError, match="`calibration` is nan"):
        gzsl_metrics(LOGITS, LABELS, SEEN, calibration=float("nan"))
    with pytest.raises(ValueError, match="2 `predictions`, but 3 `labels`"):
        per_class_accuracy([0, 1], [0, 1, 1], num_classes=2)
    with pytest.raises(ValueError, match=r"`predictions` holds the ids \[2\]"):
        per_class_accuracy([0, 2], [0, 1], num_classes=2)
    with pytest.raises(ValueError, match="0 `predictions`, but 1 `labels`"):
        mean_per_class_accuracy([], [0])
    with pytest.raises(ValueError, match="3 `predictions`, but 2 `labels`"):
        top_confusions([0, 1, 1], [0, 1], ["a", "b"])
    with pytest.raises(ValueError, match=r"1\.2 at index 1"):
        expected_calibration_error([0.3, 1.2], [True, False])
    with pytest.raises(ValueError, match=r"`confidences` has shape \(2,\), but `correct` \(1,\)"):
        reliability_bins([0.3, 0.2], [True])


def test_expected_calibration_error_worked_by_hand():
    # Two bins. (0, 0.5]: 0.2, 0.5 → mean 0.35, accuracy 1/2. (0.5, 1]: 0.6, 0.9, 0.9, 1.0 → mean 0.85, accuracy 3/4.
    confidences, correct = [0.2, 0.5, 0.6, 0.9, 0.9, 1.0], [True, False, False, True, True, True]
    confidence, accuracy, counts = reliability_bins(confidences, correct, bins=2)
    np.testing.assert_allclose(confidence, [35, 85])
    np.testing.assert_allclose(accuracy, [50, 75])
    np.testing.assert_array_equal(counts, [2, 4])
    # (2 · |0.35 − 0.5| + 4 · |0.85 − 0.75|) / 6 = 0.7 / 6
    assert expected_calibration_error(confidences, correct, bins=2) == pytest.approx(70 / 6)


def test_confidences_on_edges_and_empty_bins():
    confidence, accuracy, counts = reliability_bins([0.0, 0.1, 0.3, 1.0], [False, True, True, True], bins=10)
    # 0 and 0.1 share the first bin; 0.3 is the upper edge of the third, 1 of the last.
    np.testing.assert_array_equal(counts, [2, 0, 1, 0, 0, 0, 0, 0, 0, 1])
    assert np.isnan(confidence[1]) and np.isnan(accuracy[1])
    assert math.isnan(expected_calibration_error([], []))


def test_a_calibrated_predictor_has_a_small_error():
    generator = np.random.default_rng(0)
    confidences = generator.random(200_000)
    correct = generator.random(200_000) < confidences
    assert expected_calibration_error(confidences, correct) < 0.7
    # Squared confidences are off by the mean of c − c² over [0, 1], 1/6.
    assert expected_calibration_error(confidences**2, correct) == pytest.approx(100 / 6, abs=0.7)


def test_top_confusions():
    labels = [0] * 10 + [1] * 4 + [2] * 2
    predictions = [0] * 7 + [1] * 2 + [2] + [0] * 2 + [1] * 2 + [2, 0]
    # 1→0: 2 of 4; 0→1: 2 of 10; then 2→0: 1 of 2 before 0→2: 1 of 10.
    assert top_confusions(predictions, labels, ["a", "b", "c"], k=3) == [
        {"label": "b", "prediction": "a", "count": 2, "percent": 50.0},
        {"label": "a", "prediction": "b", "count": 2, "percent": 20.0},
        {"label": "c", "prediction": "a", "count": 1, "percent": 50.0},
    ]
    assert top_confusions([0, 1], [0, 1], ["a", "b"]) == []
