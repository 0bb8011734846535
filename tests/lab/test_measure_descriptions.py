import numpy as np
import pytest
import torch
from measure_descriptions import describe_classes, read_scores, short_description_accuracy

from dedn_hf.candidates_dedn import likely_attributes

# Classes 0 and 1 are seen; their mean is (0.5, 0.2, 0.4).
MATRIX = np.array([[1.0, 0.0, 0.4], [0.0, 0.4, 0.4], [0.6, 0.8, 0.5], [0.2, 0.1, 0.9]])


def test_keeps_the_attributes_furthest_above_the_mean_of_the_seen_classes():
    # Class 2 is above the mean by (0.1, 0.6, 0.1), class 3 by (−0.3, −0.1, 0.5).
    np.testing.assert_allclose(
        describe_classes(MATRIX, [2, 3], [0, 1], 1, "zero"), [[0, 0.8, 0], [0, 0, 0.9]], atol=1e-12
    )
    np.testing.assert_allclose(
        describe_classes(MATRIX, [2, 3], [0, 1], 1, "mean"), [[0.5, 0.8, 0.4], [0.5, 0.2, 0.9]], atol=1e-12
    )


def test_without_strengths_a_named_attribute_is_as_strong_as_the_largest_entry():
    described = describe_classes(MATRIX, [2], [0, 1], 2, "zero", with_strengths=False)
    np.testing.assert_allclose(described, [[1.0, 1.0, 0.0]])  # of equal ones, the first is named


def test_the_others_are_as_the_pipeline_has_them():
    described = describe_classes(MATRIX, [2, 3], [0, 1], 1, "likely")
    for row, named in zip(described, (1, 2)):
        values = torch.tensor(row[[named]])
        expected = likely_attributes(torch.from_numpy(MATRIX[:2]), torch.tensor([named]), values).numpy()
        expected[named] = row[named]
        np.testing.assert_allclose(row, expected, atol=1e-12)


@pytest.mark.parametrize("unnamed", ["zero", "mean", "likely"])
def test_a_whole_description_is_the_row(unnamed):
    np.testing.assert_array_equal(describe_classes(MATRIX, [2, 3], [0, 1], 3, unnamed), MATRIX[[2, 3]])


def test_accuracy_falls_when_what_tells_two_classes_apart_is_not_named():
    # Class 3 differs from class 2 in its second-most distinctive attribute only.
    matrix = np.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.8]])
    scores = np.zeros((2, 2, 2, 3))
    scores[0, ...] = [0.0, 1.0, 0.0]
    scores[1, ...] = [0.0, 1.0, 0.8]
    table = short_description_accuracy(scores, [2, 3], matrix, [0, 1], 0.5, 0.5, counts=(1,))
    found = {(row["attributes"], row["with_strengths"], row["unnamed"]): row["T1"] for row in table}
    # Told apart by nothing, both images go to the first of the two classes.
    assert found[1, True, "zero"] == 50
    assert found[3, True, "zero"] == found[3, True, "mean"] == 100


def test_scores_that_were_written_are_read(tmp_path):
    np.savez(tmp_path / "scores.npz", expert_scores=np.ones((2, 2, 2, 3)), labels=[2, 3])
    scores, labels = read_scores(None, "cub", scores=str(tmp_path / "scores.npz"))
    assert scores.shape == (2, 2, 2, 3) and labels.tolist() == [2, 3]
