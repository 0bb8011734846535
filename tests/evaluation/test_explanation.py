import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pictures import assert_texts_are_apart
from PIL import Image
from tiny_model import make_tiny_model
from transformers import CLIPImageProcessorPil, ResNetConfig, pipeline

import dedn_hf.evaluation.explanation
from dedn_hf.evaluation.explanation import (
    AttributeEvidence,
    Explanation,
    explain_image,
    panel_title,
    plot_explanation,
)

RED, GREEN = 0, 1


@pytest.fixture
def classifier(monkeypatch):
    """Its feature map is the mean colour of 8 × 8 pixels; the coarse expert looks for red, the fine one for green."""
    model = make_tiny_model(feature_channels=3, word_vector_size=2, normalize_features=False)
    with torch.no_grad():
        for expert, color in ((model.coarse_expert, RED), (model.fine_expert, GREEN)):
            for head in expert.heads:
                head.word_vectors.fill_(1.0)
                head.region_weight.weight.zero_()
                head.region_weight.weight[color] = 10.0
    monkeypatch.setattr(model, "get_feature_map", lambda pixel_values: F.avg_pool2d(pixel_values, 8))
    model.config.backbone_config = ResNetConfig()  # which the pipeline asks for
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 24},
        crop_size=24,
        resample=2,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
    )
    return pipeline("zero-shot-attribute-classification", model=model, image_processor=processor, device="cpu")


@pytest.fixture
def image():
    """Black, wider than high, with a red square at the right of what the crop leaves and a green one at its left."""
    image = Image.new("RGB", (160, 96))
    image.paste((255, 0, 0), (96, 64, 128, 96))
    image.paste((0, 255, 0), (32, 0, 64, 32))
    return image


def share_within(attention, left, top, right, bottom):
    return (attention[top:bottom, left:right].sum() / attention.sum()).item()


@pytest.mark.parametrize("coarse_mix", [1.0, 0.75, 0.0])
def test_attention_is_where_the_image_has_what_the_experts_look_for(classifier, image, coarse_mix):
    classifier.model.config.coarse_mix = coarse_mix
    explanation = explain_image(classifier, image, top_attributes=7)
    assert len(explanation.attributes) == 7
    for attribute in explanation.attributes:
        attention = attribute.attention
        assert attention.shape == (96, 160) and attention.sum().item() == pytest.approx(1, abs=1e-5)
        # Half a region beyond the square, as it is bilinear; nothing in what was cropped away.
        assert share_within(attention, 80, 48, 128, 96) == pytest.approx(coarse_mix, abs=0.02)
        assert share_within(attention, 32, 0, 80, 48) == pytest.approx(1 - coarse_mix, abs=0.02)
        assert attention[:, :32].sum() == attention[:, 128:].sum() == 0


def test_explanation(classifier, image, tmp_path):
    explanation = explain_image(classifier, image, top_classes=3, top_attributes=4)
    result = classifier(image, top_k=3, top_attributes=4, attention="image")
    assert explanation.classes == [tuple(label.values()) for label in result["labels"]]
    for attribute, row in zip(explanation.attributes, result["attributes"], strict=True):
        assert (attribute.words, attribute.contribution) == (classifier.in_words(row), row["contribution"])
        assert np.array_equal(attribute.attention, row["attention"])
    assert explanation.runner_up == result["labels"][1]["label"]
    assert explain_image(classifier, image, top_classes=1).runner_up == explanation.runner_up
    single = explain_image(classifier, image, candidate_labels=["owl"])
    assert single.classes == [("owl", 1.0, False)] and single.runner_up is None

    path = tmp_path / "out" / "explanation.png"
    plot_explanation(explanation, image, path, "jay")
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels.shape[1] == 1200 and [file.name for file in path.parent.iterdir()] == [path.name]

    # Red and green are in the image, and red in four more, as attention leaves green out with the coarse expert's mix.
    red, green = ((np.abs(pixels - color).max(axis=2) < 40).sum() for color in ([255, 0, 0], [0, 255, 0]))
    assert 2 * green < red and green > 100


@pytest.mark.parametrize("num_attributes", [1, 2, 5])
def test_titles_do_not_run_into_each_other(num_attributes, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(dedn_hf.evaluation.explanation, "save_figure", lambda figure, path: figures.append(figure))
    words = ["no brown tail", "multi-coloured upperparts", "striped breast", "no red head", "MMMM WWWW mmmm wwww"]
    evidence = [AttributeEvidence(text, -0.88, np.ones((96, 96)) / 96**2) for text in words[:num_attributes]]
    explanation = Explanation([("Jay", 0.9, True)], evidence, "Common Lagoon Tern")
    plot_explanation(explanation, Image.new("RGB", (96, 96)), tmp_path / "explanation.png", "Jay, 90 % (right)")
    assert_texts_are_apart(figures[0], [axes.title for axes in figures[0].axes[: 1 + num_attributes]])


def test_what_speaks_for_the_runner_up_says_so():
    grid = np.ones((2, 2))
    evidence = [AttributeEvidence("no pink breast", 0.4, grid), AttributeEvidence("black crown", -0.2, grid)]
    explanation = Explanation([("Goldfinch", 0.7, True)], evidence, "Siskin")
    assert [explanation.words(row) for row in evidence] == ["no pink breast", "black crown, for Siskin"]
    assert panel_title(explanation, evidence[1], 20) == "black crown, for\nSiskin (-0.20)"


def test_the_true_class_may_be_written_otherwise():
    explanation = Explanation([("047.American_Goldfinch", 0.7, True)], [])
    assert explanation.heading("American Goldfinch") == "047.American_Goldfinch, 70 % (right)"
    assert explanation.heading("Pine Siskin") == "047.American_Goldfinch, 70 % (wrong: it is Pine Siskin)"
