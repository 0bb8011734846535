import pytest

from dedn_hf.ranks_dedn import SURE, ranks_of, sure_ranks

PARENTS = {
    "Indigo Bunting": "Bunting",
    "Lazuli Bunting": "Bunting",
    "Blue Grosbeak": "Grosbeak",
    "Bunting": "Cardinalidae",
    "Grosbeak": "Cardinalidae",
    "Blue Jay": "Corvidae",
}


def said(*scores, names=("Indigo Bunting", "Lazuli Bunting", "Blue Grosbeak", "Blue Jay"), parents=PARENTS):
    ranks = sure_ranks(dict(zip(names, scores)), parents)
    return [(rank["label"], pytest.approx(rank["score"]), rank["depth"]) for rank in ranks]


@pytest.mark.parametrize(
    "scores, ranks",
    [
        ((0.85, 0.05, 0.05, 0.05), [("Indigo Bunting", 0.85, 2), ("Bunting", 0.9, 1), ("Cardinalidae", 0.95, 0)]),
        ((0.45, 0.40, 0.10, 0.05), [("Bunting", 0.85, 1), ("Cardinalidae", 0.95, 0)]),
        ((0.30, 0.30, 0.30, 0.10), [("Cardinalidae", 0.9, 0)]),
        ((0.05, 0.05, 0.05, 0.85), [("Blue Jay", 0.85, 1), ("Corvidae", 0.85, 0)]),
        ((0.25, 0.25, 0.25, 0.25), []),
        # The first label alone is of another family than what is sure.
        ((0.27, 0.27, 0.26, 0.20), [("Cardinalidae", 0.8, 0)]),
    ],
)
def test_scores_are_summed_over_what_stands_below(scores, ranks):
    assert said(*scores) == ranks


def test_a_class_without_parent_stands_for_itself():
    names = ("Blue Jay", "Sayornis")
    assert said(0.1, 0.9, names=names) == [("Sayornis", 0.9, 0)]
    assert said(0.5, 0.5, names=names) == []


def test_nothing_is_said_where_no_candidate_has_a_parent():
    assert sure_ranks({"Sayornis": 1.0}, PARENTS) is None
    assert sure_ranks({"Blue Jay": 0.9, "Wren": 0.1}, {}) is None


def test_a_class_may_stand_above_others():
    parents = {"Herring Gull": "Gull", "Gull": "Laridae"}
    names = ("Herring Gull", "Gull")
    assert said(0.3, 0.7, names=names, parents=parents) == [("Gull", 1, 1), ("Laridae", 1, 0)]


def test_names_may_be_written_otherwise():
    names = ("indigo bunting", "Lazuli_Bunting", "blue jay")
    assert said(0.5, 0.4, 0.1, names=names) == [("Bunting", 0.9, 1), ("Cardinalidae", 0.9, 0)]


def test_sums_are_no_more_than_one():
    names = tuple(f"{index} Bunting" for index in range(10))
    (rank,) = sure_ranks(dict.fromkeys(names, 0.1000001), dict.fromkeys(names, "Bunting"))
    assert rank == {"label": "Bunting", "score": 1.0, "depth": 0}
    assert SURE > 0.5


def test_ranks_of_some_classes():
    assert ranks_of(["blue grosbeak", "Wren"], PARENTS) == {
        "blue grosbeak": "Grosbeak",
        "Grosbeak": "Cardinalidae",
    }
    assert ranks_of(["Wren"], PARENTS) == {}
