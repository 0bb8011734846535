import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny_model import make_tiny_model
from transformers import CLIPImageProcessor

from dedn_hf.evaluation import attention_maps, explain_image, plot_explanation, plot_explanations
from dedn_hf.evaluation.explanation import attribute_contributions, describe_attribute

RED, GREEN = 0, 1


@pytest.fixture
def processor():
    return CLIPImageProcessor(
        size={"shortest_edge": 24},
        crop_size=24,
        resample=2,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
    )


@pytest.fixture
def model(monkeypatch):
    """Its feature map is the mean colour of 8 × 8 pixels; the coarse expert looks for red, the fine one for green."""
    model = make_tiny_model(feature_channels=3, word_vector_size=2, normalize_features=False)
    with torch.no_grad():
        for expert, color in ((model.coarse_expert, RED), (model.fine_expert, GREEN)):
            for head in expert.heads:
                head.word_vectors.fill_(1.0)
                head.region_weight.zero_()
                head.region_weight[:, color] = 10.0
    monkeypatch.setattr(model, "get_feature_map", lambda pixel_values: F.avg_pool2d(pixel_values, 8))
    return model


@pytest.fixture
def image():
    """Black, wider than high, with a red square at the right of what the crop leaves and a green one at its left."""
    image = Image.new("RGB", (160, 96))
    image.paste((255, 0, 0), (96, 64, 128, 96))
    image.paste((0, 255, 0), (32, 0, 64, 32))
    return image


def share_within(attention, left, top, right, bottom):
    return attention[:, top:bottom, left:right].sum(dim=(1, 2)) / attention.sum(dim=(1, 2))


def test_attention_is_where_the_image_has_what_an_expert_looks_for(model, processor, image):
    coarse = attention_maps(model, processor, image, range(7), expert="coarse")
    assert coarse.shape == (7, 96, 160)
    torch.testing.assert_close(coarse.sum(dim=(1, 2)), torch.ones(7))
    # Half a region beyond the square, as it is bilinear; nothing in what was cropped away.
    assert (share_within(coarse, 80, 48, 128, 96) > 0.98).all()
    assert coarse[:, :, :32].sum() == coarse[:, :, 128:].sum() == 0
    peaks = [divmod(int(attention.argmax()), 160) for attention in coarse]
    assert all(64 <= y < 96 and 96 <= x < 128 for y, x in peaks)
    fine = attention_maps(model, processor, image, range(7), expert="fine")
    assert (share_within(fine, 32, 0, 80, 48) > 0.98).all()


def test_experts_are_mixed_as_their_scores_are(model, processor, image):
    model.config.coarse_mix = 0.75
    mixed = attention_maps(model, processor, image, [3])
    assert share_within(mixed, 80, 48, 128, 96) == pytest.approx(0.75, abs=0.02)
    assert share_within(mixed, 32, 0, 80, 48) == pytest.approx(0.25, abs=0.02)


def test_attributes_by_name_and_by_index(processor, image, monkeypatch):
    model = make_tiny_model(feature_channels=3)
    monkeypatch.setattr(model, "get_feature_map", lambda pixel_values: F.avg_pool2d(pixel_values, 8))
    by_name = attention_maps(model, processor, image, ["attribute 5", "attribute 2"])
    every = attention_maps(model, processor, image, range(7))
    torch.testing.assert_close(by_name, every[[5, 2]])
    assert not torch.allclose(by_name[0], by_name[1])


@pytest.mark.parametrize(
    "attributes, expert, message",
    [
        (["red wing"], "mixed", "no attributes .'red wing'."),
        ([7], "mixed", r"no attributes \[7\]"),
        ([-1], "coarse", r"no attributes \[-1\]"),
        ([0], "both", "no expert 'both'"),
    ],
)
def test_unknown_attributes_and_experts(model, processor, image, attributes, expert, message):
    with pytest.raises(ValueError, match=message):
        attention_maps(model, processor, image, attributes, expert=expert)


def test_model_without_backbone(processor, image):
    with pytest.raises(ValueError, match="no backbone"):
        explain_image(make_tiny_model(), processor, image)


@pytest.mark.parametrize(
    "name, words",
    [
        ("has_wing_color::red", "red wing"),
        ("has_upper_tail_color::buff", "buff upper tail"),
        ("has_bill_shape::hooked", "hooked bill"),
        ("has_back_pattern::multi-colored", "multi-colored back"),
        ("has_tail_shape::forked_tail", "forked tail"),
        ("has_wing_shape::rounded-wings", "rounded wings"),
        ("has_bill_length::shorter_than_head", "bill length: shorter than head"),
        ("has_bill_shape::hooked_seabird", "bill shape: hooked seabird"),
        ("has_size::small_(5_-_9_in)", "size: small (5 - 9 in)"),
        ("has_size::small", "small size"),
        ("has_shape::round", "round shape"),
        ("has_primary_color::red", "primary color: red"),
        ("man-made", "man-made"),
        ("new_world", "new world"),
    ],
)
def test_attributes_in_words(name, words):
    assert describe_attribute(name) == words


def test_contributions_sum_to_the_lead_over_the_average_class():
    torch.manual_seed(0)
    # No class has less of anything than the average one but the last, which has nothing and is never predicted.
    model = make_tiny_model(num_labels=2, id2label={0: "jay", 1: "owl"}, seen_class_ids=[0, 1])
    model.set_classes(["jay", "owl"], torch.stack([torch.rand(7) + 0.1, torch.zeros(7)]))
    output = model(feature_map=torch.randn(20, 6, 3, 3))
    jays = output.logits.argmax(dim=1) == 0
    assert jays.any()
    contributions = attribute_contributions(model, output)
    lead = output.logits[:, 0] - output.logits.mean(dim=1)
    torch.testing.assert_close(contributions[jays].sum(dim=1), lead[jays])
    assert (contributions[~jays] == 0).all()


def test_explanation(model, processor, image, tmp_path):
    explanation = explain_image(model, processor, image, top_classes=3, top_attributes=4)
    with torch.no_grad():
        pixel_values = processor(image, return_tensors="pt")["pixel_values"]
        output = model(pixel_values=pixel_values)
    shares = output.logits[0].softmax(dim=-1)
    best = shares.argsort(descending=True)[:3].tolist()
    assert [name for name, _, _ in explanation.classes] == [model.config.id2label[index] for index in best]
    assert [share for _, share, _ in explanation.classes] == pytest.approx(shares[best].tolist())
    assert [seen for _, _, seen in explanation.classes] == [index in (0, 1, 3) for index in best]

    contributions = attribute_contributions(model, output)[0]
    order = [attribute.index for attribute in explanation.attributes]
    assert [attribute.contribution for attribute in explanation.attributes] == pytest.approx(
        contributions.sort(descending=True).values[:4].tolist()
    )
    assert contributions[order].tolist() == [attribute.contribution for attribute in explanation.attributes]
    assert [attribute.words for attribute in explanation.attributes] == [f"attribute {index}" for index in order]
    maps = attention_maps(model, processor, image, order)
    torch.testing.assert_close(torch.stack([attribute.attention for attribute in explanation.attributes]), maps)

    path = tmp_path / "out" / "explanation.png"
    plot_explanation(explanation, image, path, "jay")
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels.shape[1] == 1200 and [file.name for file in path.parent.iterdir()] == [path.name]

    # Red and green are in the image, and red in four more, as attention leaves green out with the coarse expert's mix.
    red, green = ((np.abs(pixels - color).max(axis=2) < 40).sum() for color in ([255, 0, 0], [0, 255, 0]))
    assert 2 * green < red and green > 100


def test_sheet(model, processor, image, tmp_path, monkeypatch):
    import dedn_hf.evaluation.explanation as module

    images = [image, image.rotate(90, expand=True), image]
    explanations = [explain_image(model, processor, of_row, top_attributes=3) for of_row in images]
    predicted = [explanation.classes[0][0] for explanation in explanations]
    long = "bill shape: a very long description of what it is"
    explanations[1].attributes[0].words = long
    path = tmp_path / "out" / "sheet.png"
    plot_explanations(explanations, images, [predicted[0], predicted[1], "emu"], path)
    with Image.open(path) as picture:
        picture.verify()
        assert picture.size[0] == 1200 and picture.size[1] > 1000

    figures = []
    monkeypatch.setattr(module, "save_figure", lambda figure, path: figures.append(figure))
    plot_explanations(explanations, images, [predicted[0], predicted[1], "emu"], path)
    rows = figures[0].subfigs
    headings = [row.get_suptitle() for row in rows]
    assert headings[0] == f"✓ {predicted[0]}, {100 * explanations[0].classes[0][1]:.0f} % (right)"
    assert headings[2].startswith(f"✗ {predicted[2]}, ") and headings[2].endswith(" % (wrong: it is emu)")
    for row, explanation in zip(rows, explanations):
        titles = [axes.get_title() for axes in row.axes]
        assert titles[0] == "" and len(titles) == 4
        words = [title.rsplit("\n", 1)[0].replace("\n", " ") for title in titles[1:]]
        assert words == [attribute.words for attribute in explanation.attributes]


def test_attention_maps_is_the_function_whatever_was_imported_before():
    import dedn_hf.evaluation.explanation

    assert dedn_hf.evaluation.attention_maps is dedn_hf.evaluation.explanation.attention_maps
    with pytest.raises(AttributeError, match="has no attribute 'attention_map'"):
        dedn_hf.evaluation.attention_map  # noqa: B018
