"""A result has the same keys and plain values, whichever way it was asked for."""

import json

import numpy as np
import pytest
import torch
from tiny_pipeline import check_same, make_classifier, make_image, make_model, make_processor
from transformers import CLIPImageProcessorPil, ConvNextImageProcessorPil

from dedn_hf import ZeroShotAttributeClassificationPipeline
from dedn_hf.images_dedn import attention_in_image, crop_in_image
from dedn_hf.pipeline_dedn import AttributeResult, ImageResult, LabelResult

IMAGES = [make_image(seed, width=30 + 5 * seed) for seed in range(5)]
ALL = ["jay", "wren", "owl", "swift", "crow"]
CANDIDATES = [None, ["jay", "owl"], {"new": ["attribute 3"], "jay": None}]


@pytest.fixture(scope="module")
def classifier():
    return make_classifier()


def check_as_documented(result, attention=None):
    on_request = {"observed", "ask", "ranks", "understood"} | (set() if attention == "grid" else {"crop"})
    assert list(result) == [key for key in ImageResult.__annotations__ if key not in on_request]
    assert type(result) is dict and type(result["labels"]) is list and type(result["attributes"]) is list
    for part, documented in (("labels", LabelResult), ("attributes", AttributeResult)):
        on_request = {"observed"} if attention is not None else {"observed", "attention"}
        keys = [key for key in documented.__annotations__ if key not in on_request]
        for entry in result[part]:
            assert type(entry) is dict and list(entry) == keys
            for key in keys:
                if key != "attention":
                    assert type(entry[key]) is documented.__annotations__[key]
    scores = [label["score"] for label in result["labels"]]
    assert scores == sorted(scores, reverse=True)
    if attention == "grid":
        assert [type(edge) for edge in result["crop"]] == [float] * 4


@pytest.mark.parametrize("attention", [None, "grid", "image"])
@pytest.mark.parametrize("candidates", CANDIDATES, ids=["own", "names", "described"])
def test_keys_and_values_are_the_same_whichever_way_one_asks(classifier, candidates, attention):
    parameters = {"candidate_labels": candidates, "attention": attention}
    expected = [classifier(image, **parameters) for image in IMAGES]
    results = {
        "list": classifier(IMAGES, **parameters),
        "tuple": classifier(tuple(IMAGES), **parameters),
        "arrays": classifier([np.asarray(image) for image in IMAGES], **parameters),
        "generator": list(classifier((image for image in IMAGES), **parameters)),
        "batches": classifier(IMAGES, batch_size=4, **parameters),
        "batches of a generator": list(classifier((image for image in IMAGES), batch_size=4, **parameters)),
        "one list": [classifier([image], **parameters)[0] for image in IMAGES],
        "a list for each": classifier(IMAGES, **parameters | {"candidate_labels": [candidates or ALL] * 5}),
        "prepared": prepared(classifier, parameters),
        "the pipeline's parameters": make_classifier(batch_size=2, **parameters)(IMAGES),
    }
    for way, found in results.items():
        assert len(found) == 5, way
        for result, single in zip(found, expected):
            check_as_documented(result, attention)
            check_same(result, single)


def prepared(classifier, parameters):
    return classifier.prepare_call(**parameters)([classifier.preprocess(image) for image in IMAGES])


@pytest.mark.parametrize("parameters", [{"top_k": 0, "top_attributes": 0}, {"top_k": None}, {"threshold": 1.0}])
@pytest.mark.parametrize("attention", [None, "grid", "image"])
def test_keys_do_not_depend_on_what_is_left_out(classifier, parameters, attention):
    check_as_documented(classifier(IMAGES[0], attention=attention, **parameters), attention)


@pytest.mark.parametrize("attention", [None, "grid"])
def test_a_result_goes_to_json(classifier, attention):
    results = classifier(IMAGES, CANDIDATES[2], attention=attention)
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_attention_over_the_grid_and_over_the_image_are_the_same(classifier):
    image = make_image(width=80, height=48)
    grid, pixels = (classifier(image, attention=attention) for attention in ("grid", "image"))
    assert grid["crop"] == list(crop_in_image(classifier.image_processor, 80, 48)) == [16.0, 0.0, 64.0, 48.0]
    for on_grid, in_image in zip(grid["attributes"], pixels["attributes"], strict=True):
        rows = on_grid.pop("attention")
        assert [type(share) for row in rows for share in row] == [float] * 9 and [len(row) for row in rows] == [3] * 3
        assert sum(map(sum, rows)) == pytest.approx(1)
        attention = in_image.pop("attention")
        assert type(attention) is np.ndarray and attention.dtype == np.float32 and attention.shape == (48, 80)
        (expected,) = attention_in_image(torch.tensor([rows]), classifier.image_processor, 80, 48).numpy()
        np.testing.assert_allclose(attention, expected, rtol=1e-5)
        assert on_grid == in_image


def test_the_grid_lies_on_a_crop_beyond_the_edges_of_a_padded_image():
    processor = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=24, resample=2)
    classifier = ZeroShotAttributeClassificationPipeline(make_model(), image_processor=processor, device="cpu")
    assert classifier(make_image(width=32, height=32), attention="grid")["crop"] == [-8.0, -8.0, 40.0, 40.0]


@pytest.mark.parametrize("attention", ["grid", "image"])
def test_attention_that_cannot_be_placed_is_refused_before_any_image_is_read(attention, monkeypatch):
    class Stranger:
        """An image processor that does not say what it does, as timm's."""

        def __call__(self, images, return_tensors):
            return make_processor()(images, return_tensors=return_tensors)

    for processor in (ConvNextImageProcessorPil(size={"shortest_edge": 24}), Stranger()):
        classifier = ZeroShotAttributeClassificationPipeline(make_model(), image_processor=processor, device="cpu")
        assert classifier(IMAGES[0])["labels"]
        monkeypatch.setattr(classifier, "preprocess", lambda *args, **kwargs: pytest.fail("an image was read"))
        with pytest.raises(ValueError, match=r"cannot tell what part of an image a .* shows\. Use one that resizes"):
            classifier(IMAGES[0], attention=attention)


PARENTS = {"jay": "Corvidae", "crow": "Corvidae", "swift": "Apodidae", "Corvidae": "Passeriformes"}


def test_no_ranks_where_no_candidate_has_a_parent():
    classifier = make_classifier()
    assert "ranks" not in classifier(make_image())
    classifier.model.config.class_parents = PARENTS
    assert "ranks" not in classifier(make_image(), candidate_labels=["wren", "owl"])


def test_ranks_sum_the_scores_of_all_candidates():
    classifier = make_classifier()
    classifier.model.config.class_parents = PARENTS
    scores = {entry["label"]: entry["score"] for entry in classifier(make_image(), top_k=None)["labels"]}
    # Sharp enough for the first candidate, and then not.
    said = []
    for scale in (0.0001, 0.1, 1, 100):
        classifier.model.config.score_scale = scale
        scores = {entry["label"]: entry["score"] for entry in classifier(make_image(), top_k=None)["labels"]}
        sums = scores | {"Corvidae": scores["jay"] + scores["crow"], "Apodidae": scores["swift"]}
        sums["Passeriformes"] = sums["Corvidae"]
        result = classifier(make_image(), top_k=1, threshold=0.9)
        assert {rank["label"]: pytest.approx(rank["score"], abs=1e-6) for rank in result["ranks"]} == {
            name: score for name, score in sums.items() if score >= 0.8
        }
        assert json.loads(json.dumps(result)) == result
        said.append([rank["label"] for rank in result["ranks"]])
    assert said[0] == [] and said[-1][0] == max(scores, key=scores.get)


def test_candidates_may_be_written_otherwise_or_described_and_have_parents():
    classifier = make_classifier()
    classifier.model.config.class_parents = PARENTS | {"rook": "Corvidae"}
    result = classifier(make_image(), candidate_labels={"JAY": None, "rook": ["attribute 1"], "crow": None})
    assert [(rank["label"], rank["depth"]) for rank in result["ranks"][-2:]] == [("Corvidae", 1), ("Passeriformes", 0)]
    assert result["ranks"][-1]["score"] == pytest.approx(1)


def test_ranks_follow_answers():
    classifier = make_classifier()
    classifier.model.config.class_parents = PARENTS
    result = classifier(make_image(), top_k=None, top_attributes=None)
    observed = {f"attribute {index}": index % 2 for index in range(7)}
    again = classifier.rescore(result, observed=observed)
    expected = classifier(make_image(), top_k=None, top_attributes=None, observed=observed)
    assert [rank["label"] for rank in again["ranks"]] == [rank["label"] for rank in expected["ranks"]]
    for rank, other in zip(again["ranks"], expected["ranks"]):
        assert rank["score"] == pytest.approx(other["score"], abs=1e-5)
    classifier.model.config.score_scale = 10.0
    sharp = classifier(make_image(), top_k=None, top_attributes=None)
    assert classifier.rescore(sharp, observed={})["ranks"] == [
        rank | {"score": pytest.approx(rank["score"], abs=1e-5)} for rank in sharp["ranks"]
    ]
