import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from golden_cases import VARIANTS, check_agreement, golden_model, run_case
from launching import launch_script
from safetensors.torch import load_file, save_file
from tiny_model import gradients, make_tiny_config, make_tiny_model
from torch import nn
from torch.nn.utils import parametrize, prune
from transformers import (
    AutoModel,
    AutoModelForZeroShotImageClassification,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    MobileNetV2Config,
    ResNetConfig,
    ViTConfig,
)

from dedn_hf import DednConfig, DednModel, DednOutput
from dedn_hf.backbone_dedn import backbone_feature_map, load_backbone
from dedn_hf.modeling_dedn import distillation_distance
from dedn_hf.recipes import read_recipe

LABELS = torch.tensor([0, 3, 1, 4])


@pytest.fixture
def feature_map():
    return torch.randn(4, 6, 3, 3, generator=torch.Generator().manual_seed(1))


def class_scores(model, attribute_scores):
    """Class scores without class bias."""
    return attribute_scores @ F.normalize(model.class_attributes, dim=-1).T


# The released program's numbers


@pytest.mark.parametrize("variant", VARIANTS)
def test_golden(variant):
    model, case = golden_model(variant)
    check_agreement(run_case(model, case), case)


@pytest.mark.parametrize("variant, millions", [("cub", 9.61), ("sun", 6.73), ("awa2", 6.34)])
def test_number_of_parameters_at_full_size(variant, millions):
    released = read_recipe(variant, "reference").model
    num_attributes = sum(map(len, released["attribute_groups"].values()))
    names = [f"attribute {index}" for index in range(num_attributes)]
    with torch.device("meta"):
        model = DednModel(DednConfig(**released, attribute_names=names))
    assert round(model.num_parameters(only_trainable=True) / 1e6, 2) == millions


# Outputs


def test_output_shapes(tiny_model, feature_map):
    output = tiny_model(feature_map=feature_map, labels=LABELS, output_attentions=True)
    assert isinstance(output, DednOutput)
    assert output.loss.shape == ()
    assert output.logits.shape == output.coarse_logits.shape == output.fine_logits.shape == (4, 5)
    assert output.attribute_scores.shape == (4, 7)
    assert output.expert_scores.shape == (4, 2, 2, 7)
    assert {name: attention.shape for name, attention in output.attentions.items()} == {
        "coarse": (4, 7, 3, 3),
        "fine": (4, 7, 3, 3),
    }
    without = tiny_model(feature_map=feature_map)
    assert without.loss is None and without.loss_parts is None and without.attentions is None


def test_logits_follow_the_mode(feature_map):
    model = make_tiny_model(region_mix=0.7, coarse_mix=0.6, class_bias=0.5, calibration=3.0)
    seen = model.seen_classes
    for mode, shares, bias in (("train", (1, 1), 0.5), ("eval", (0.7, 0.3), 1.5)):
        model.train(mode == "train")
        output = model(feature_map=feature_map)
        coarse, fine = (torch.tensor(shares)[:, None] * output.expert_scores).sum(dim=2).unbind(1)
        class_bias = torch.where(seen, -bias, bias)
        torch.testing.assert_close(output.coarse_logits, class_scores(model, coarse) + class_bias)
        torch.testing.assert_close(output.fine_logits, class_scores(model, fine) + class_bias)
        torch.testing.assert_close(output.logits, 0.6 * output.coarse_logits + 0.4 * output.fine_logits)
        torch.testing.assert_close(output.attribute_scores, 0.6 * coarse + 0.4 * fine)


def test_loss_is_the_same_in_either_mode_and_for_any_mix_and_calibration(feature_map):
    losses = {}
    for region_mix, coarse_mix, calibration in ((0.8, 0.9, None), (0.1, 0.2, 5.0)):
        model = make_tiny_model(region_mix=region_mix, coarse_mix=coarse_mix, calibration=calibration)
        for mode in (True, False):
            losses[region_mix, mode] = model.train(mode)(feature_map=feature_map, labels=LABELS).loss.item()
    assert len(set(losses.values())) == 1, losses


def test_loss_is_the_weighted_sum_of_its_parts(feature_map):
    weights = {"self_calibration_weight": 0.3, "distillation_weight": 0.2, "alignment_weight": 0.05}
    output = make_tiny_model(**weights)(feature_map=feature_map, labels=LABELS)
    parts = output.loss_parts
    expected = parts["coarse_margin"] + parts["fine_margin"] + 0.2 * parts["distillation"]
    expected = expected + 0.3 * (parts["coarse_calibration"] + parts["fine_calibration"])
    expected = expected + 0.05 * (parts["coarse_alignment"] + parts["fine_alignment"])
    torch.testing.assert_close(output.loss, expected)
    assert all(part > 0 for part in parts.values())


def test_calibration_is_twice_the_class_bias_by_default(feature_map):
    default = make_tiny_model(class_bias=0.7)(feature_map=feature_map).logits
    explicit = make_tiny_model(class_bias=0.7, calibration=1.4)(feature_map=feature_map).logits
    none = make_tiny_model(class_bias=0.7, calibration=0.0)(feature_map=feature_map).logits
    torch.testing.assert_close(default, explicit)
    expected = torch.tensor([-0.7, -0.7, 0.7, -0.7, 0.7]).expand(4, 5)
    torch.testing.assert_close(default - none, expected)


def test_attentions_are_the_region_weights_in_attribute_order(tiny_model, feature_map):
    attentions = tiny_model(feature_map=feature_map, output_attentions=True).attentions
    regions = F.normalize(feature_map, dim=1)
    for expert, name in ((tiny_model.coarse_expert, "coarse"), (tiny_model.fine_expert, "fine")):
        attention = attentions[name]
        torch.testing.assert_close(attention.sum(dim=(2, 3)), torch.ones(4, 7))
        for group, head in zip(expert.groups, expert.heads, strict=True):
            for row, attribute in enumerate(group):
                query = head.region_weight(head.word_vectors[row])
                expected = torch.einsum("c,bchw->bhw", query, regions).flatten(1).softmax(dim=-1).unflatten(1, (3, 3))
                torch.testing.assert_close(attention[:, attribute], expected)


def test_attention_starts_uniform(feature_map):
    model = DednModel(make_tiny_config()).eval()
    model.set_classes(list("abcde"), torch.rand(5, 7))
    attentions = model(feature_map=feature_map, output_attentions=True).attentions
    torch.testing.assert_close(attentions["coarse"], torch.full((4, 7, 3, 3), 1 / 9))
    torch.testing.assert_close(attentions["fine"], torch.full((4, 7, 3, 3), 1 / 9))


def test_return_dict_false_gives_the_same_in_order(tiny_model, feature_map):
    output = tiny_model(feature_map=feature_map, labels=LABELS)
    values = tiny_model(feature_map=feature_map, labels=LABELS, return_dict=False)
    assert isinstance(values, tuple) and len(values) == 7
    torch.testing.assert_close(values[0], output.loss)
    torch.testing.assert_close(values[1], output.logits)
    assert set(values[-1]) == set(output.loss_parts)


def test_attribute_order_does_not_depend_on_the_heads_order(feature_map):
    model = make_tiny_model()
    # The same groups under names that turn the heads around, with their attributes turned around too.
    groups = {"1": [5, 3, 0], "2": [4, 2], "3": [6, 1]}
    originals = ["body", "tail", "wing"]
    other = make_tiny_model(attribute_groups=dict(zip("321", [groups["1"], groups["2"], groups["3"]], strict=True)))
    assert list(other.config.attribute_groups.values()) == [[6, 1], [4, 2], [5, 3, 0]]
    assert list(model.config.attribute_groups) == originals
    with torch.no_grad():
        for head, original in zip(other.fine_expert.heads, reversed(model.fine_expert.heads), strict=True):
            for name, parameter in head.named_parameters():
                value = original.get_parameter(name)
                parameter.copy_(value.flip(0) if name == "word_vectors" else value)
    other.coarse_expert.load_state_dict(model.coarse_expert.state_dict())
    other.set_classes(list(model.config.id2label.values()), model.class_attributes, seen=model.seen_classes.tolist())
    expected = model(feature_map=feature_map, output_attentions=True)
    output = other(feature_map=feature_map, output_attentions=True)
    torch.testing.assert_close(output.expert_scores, expected.expert_scores)
    torch.testing.assert_close(output.logits, expected.logits)
    torch.testing.assert_close(output.attentions["fine"], expected.attentions["fine"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_region_in_which_nothing_is(feature_map, dtype):
    feature_map = feature_map.clone()
    feature_map[0, :, 1, 1] = 0
    model = make_tiny_model().to(dtype)
    scores, expected = (each(feature_map=feature_map).logits.float() for each in (model, make_tiny_model()))
    assert scores.isfinite().all()
    torch.testing.assert_close(scores, expected, rtol=0.05, atol=0.05)


def test_normalize_features(feature_map):
    model = make_tiny_model()
    torch.testing.assert_close(model(feature_map=feature_map * 10).logits, model(feature_map=feature_map).logits)
    raw = make_tiny_model(normalize_features=False)
    torch.testing.assert_close(
        raw(feature_map=F.normalize(feature_map, dim=1)).logits, model(feature_map=feature_map).logits
    )
    assert not torch.allclose(raw(feature_map=feature_map).logits, model(feature_map=feature_map).logits)


# Losses


def test_self_calibration_is_zero_without_unseen_classes(feature_map):
    model = make_tiny_model(seen_class_ids=None, self_calibration_weight=1.0).train()
    output = model(feature_map=feature_map, labels=LABELS)
    assert output.loss_parts["coarse_calibration"] == output.loss_parts["fine_calibration"] == 0
    output.loss.backward()
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())


def test_distance_is_finite_where_both_sides_are_the_same():
    x = torch.randn(3, 5, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    distance = distillation_distance(x, y)
    distance.backward()
    assert abs(distance.item()) < 1e-6
    assert x.grad.isfinite().all() and y.grad.isfinite().all()


def test_experts_that_agree_exactly_give_a_finite_loss_and_gradients(feature_map):
    model = make_tiny_model(attribute_groups=None).train()
    model.fine_expert.load_state_dict(model.coarse_expert.state_dict())
    output = model(feature_map=feature_map, labels=LABELS)
    assert abs(output.loss_parts["distillation"].item()) < 1e-6
    output.loss.backward()
    assert output.loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients(model).values())


def test_word_vector_and_feature_map_of_zeros_give_a_finite_loss_and_gradients(feature_map):
    model = make_tiny_model().train()
    word_vectors = torch.randn(7, 4)
    word_vectors[2] = 0
    model.set_word_vectors(word_vectors)
    feature_map[0] = 0
    loss = model(feature_map=feature_map, labels=LABELS).loss
    loss.backward()
    assert loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients(model).values())


# Training


def test_same_seed_same_model_same_step(feature_map):
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        model = DednModel(make_tiny_config()).train()
        model.set_classes(list("abcde"), torch.rand(5, 7), seen=[True, True, False, True, False])
        loss = model(feature_map=feature_map, labels=LABELS).loss
        loss.backward()
        runs.append((loss, gradients(model)))
    assert torch.equal(runs[0][0], runs[1][0])
    assert all(torch.equal(runs[0][1][name], gradient) for name, gradient in runs[1][1].items())


def test_accumulated_gradients_equal_those_of_one_batch(feature_map):
    model = make_tiny_model(self_calibration_weight=0.0).train()
    model(feature_map=feature_map, labels=LABELS).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    for half in (slice(0, 2), slice(2, 4)):
        (model(feature_map=feature_map[half], labels=LABELS[half]).loss / 2).backward()
    accumulated = gradients(model)
    assert set(accumulated) == set(expected)
    for name in expected:
        torch.testing.assert_close(accumulated[name], expected[name], rtol=1e-4, atol=1e-6)


def test_gradient_of_the_feature_map_reaches_a_trained_backbone(tiny_model, feature_map):
    # Against central differences, in double precision (the losses are in single precision always).
    model = tiny_model.double().train()
    inputs = feature_map[:2].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: model(feature_map=x).expert_scores, inputs)


def test_training_lowers_the_loss(feature_map):
    model = make_tiny_model().train()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = model(feature_map=feature_map, labels=LABELS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5


def test_bfloat16(tiny_model, feature_map):
    expected = tiny_model(feature_map=feature_map, labels=LABELS)
    model = make_tiny_model().to(torch.bfloat16)
    output = model(feature_map=feature_map, labels=LABELS)
    assert output.logits.dtype == torch.bfloat16
    torch.testing.assert_close(output.logits.float(), expected.logits, rtol=0.05, atol=0.1)
    assert output.loss.dtype == torch.float32
    torch.testing.assert_close(output.loss, expected.loss, rtol=0.05, atol=0)
    output.loss.backward()
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())


def test_autocast(tiny_model, feature_map):
    expected = tiny_model(feature_map=feature_map, labels=LABELS).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = tiny_model(feature_map=feature_map, labels=LABELS).loss
    torch.testing.assert_close(loss, expected, rtol=0.05, atol=0)
    loss.backward()
    assert all(gradient.isfinite().all() for gradient in gradients(tiny_model).values())


@pytest.mark.parametrize("training", [False, True])
def test_compiles_without_a_graph_break(feature_map, training):
    inputs = {"feature_map": feature_map, "labels": LABELS} if training else {"feature_map": feature_map}
    model = make_tiny_model().train(training)
    expected = model(**inputs)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    output = compiled(**inputs)
    torch.testing.assert_close(output.logits, expected.logits)
    if training:
        expected.loss.backward()
        expected_gradients = gradients(model)
        model.zero_grad()
        output.loss.backward()
        for name, gradient in gradients(model).items():
            torch.testing.assert_close(gradient, expected_gradients[name])


def test_exports_with_any_batch_size(tiny_model, feature_map):
    program = torch.export.export(
        tiny_model, (), {"feature_map": feature_map}, dynamic_shapes={"feature_map": {0: torch.export.Dim("batch")}}
    )
    more = torch.cat([feature_map, -feature_map])
    torch.testing.assert_close(program.module()(feature_map=more).logits, tiny_model(feature_map=more).logits)


# Word vectors and classes


def test_set_word_vectors_are_normalised_and_in_attribute_order(tiny_model):
    word_vectors = torch.randn(7, 4)
    word_vectors[5] = 0
    tiny_model.set_word_vectors(word_vectors.numpy())
    expected = F.normalize(word_vectors, dim=-1)
    torch.testing.assert_close(tiny_model.coarse_expert.heads[0].word_vectors.data, expected)
    groups = tiny_model.config.attribute_groups.values()
    for group, head in zip(groups, tiny_model.fine_expert.heads, strict=True):
        torch.testing.assert_close(head.word_vectors.data, expected[group])


def test_set_classes_takes_trained_classes_for_seen(tiny_model, feature_map):
    attributes = torch.rand(3, 7)
    tiny_model.set_classes(["heron", "wren", "owl"], attributes)
    config = tiny_model.config
    assert config.seen_class_ids == [1] and tiny_model.seen_classes.tolist() == [False, True, False]
    assert config.id2label == {0: "heron", 1: "wren", 2: "owl"}
    assert config.label2id == {"heron": 0, "wren": 1, "owl": 2}
    assert config.num_labels == 3
    assert tiny_model(feature_map=feature_map).logits.shape == (4, 3)
    assert set(config.trained_class_names) == {"jay", "wren", "swift"}


def test_set_classes_remembers_the_classes_that_it_is_told_are_seen(tiny_model):
    attributes = torch.rand(2, 7)
    tiny_model.set_classes(["heron", "stork"], attributes, seen=[True, False])
    tiny_model.set_classes(["stork", "heron"], attributes)
    assert tiny_model.config.seen_class_ids == [1]


def test_classes_that_stay_keep_their_ranks(tiny_model, tmp_path):
    config = tiny_model.config
    config.class_parents = {"jay": "Corvidae", "owl": "Strigidae", "Corvidae": "Passeriformes", "Strigidae": "Aves"}
    tiny_model.set_classes(["heron", "Jay"], torch.rand(2, 7))
    assert config.class_parents == {"Jay": "Corvidae", "Corvidae": "Passeriformes"}
    tiny_model.save_pretrained(tmp_path)
    tiny_model = DednModel.from_pretrained(tmp_path)
    config = tiny_model.config
    assert config.class_parents == {"Jay": "Corvidae", "Corvidae": "Passeriformes"}
    given = {"heron": "Ardeidae", "stork": "Ciconiidae"}
    tiny_model.set_classes(["heron"], torch.rand(1, 7), class_parents=given)
    assert config.class_parents == given
    with pytest.raises(ValueError, match="in a circle: 'heron' → 'heron'"):
        tiny_model.set_classes(["egret"], torch.rand(1, 7), class_parents={"heron": "heron"})
    assert config.class_parents == given and config.id2label == {0: "heron"}
    tiny_model.set_classes(["heron"], torch.rand(1, 7), class_parents={})
    assert config.class_parents == {}


def test_going_to_new_classes_and_back(tiny_model, feature_map, tmp_path):
    names, attributes = list(tiny_model.config.id2label.values()), tiny_model.class_attributes.clone()
    expected = tiny_model(feature_map=feature_map, labels=LABELS)
    tiny_model.set_classes(["heron", "stork"], torch.rand(2, 7))
    assert tiny_model.config.seen_class_ids == []
    tiny_model.save_pretrained(tmp_path)
    back = DednModel.from_pretrained(tmp_path)
    back.set_classes(names, attributes)
    output = back(feature_map=feature_map, labels=LABELS)
    # But for rounding: a matrix product goes by where in memory a file's weights happen to lie.
    torch.testing.assert_close(output.logits, expected.logits)
    torch.testing.assert_close(output.loss, expected.loss)
    assert back.config.seen_class_ids == [0, 1, 3]


def test_classes_of_one_call_are_all_unseen(tiny_model, feature_map):
    attributes = torch.rand(6, 7)
    logits = tiny_model(feature_map=feature_map, class_attributes=attributes).logits
    again = tiny_model(feature_map=feature_map).logits
    assert logits.shape == (4, 6) and again.shape == (4, 5)
    tiny_model.set_classes(list("abcdef"), attributes, seen=[False] * 6)
    torch.testing.assert_close(logits, tiny_model(feature_map=feature_map).logits)


def test_class_attributes_need_no_normalisation(tiny_model, feature_map):
    attributes = torch.rand(2, 7)
    first, second = (tiny_model(feature_map=feature_map, class_attributes=scale * attributes) for scale in (1, 100))
    torch.testing.assert_close(first.logits, second.logits)


# Predictions


@pytest.mark.parametrize("calibration", [None, 0.6])
def test_prediction_for_the_models_own_classes(feature_map, calibration):
    model = make_tiny_model(calibration=calibration, region_mix=0.7, coarse_mix=0.6)
    output = model(feature_map=feature_map, output_attentions=True)
    prediction = model.predict(feature_map=feature_map, output_attentions=True)
    for name in ("logits", "attribute_scores", "expert_scores"):
        assert torch.equal(prediction[name], output[name]) and not prediction[name].requires_grad
    assert torch.equal(
        prediction.attribute_probabilities, model.attribute_probabilities(output.attribute_scores.detach())
    )
    coarse, fine = output.attentions["coarse"], output.attentions["fine"]
    torch.testing.assert_close(
        prediction.attentions, {"coarse": coarse, "fine": fine, "mixed": 0.6 * coarse + 0.4 * fine}
    )
    assert model.predict(feature_map=feature_map).attentions is None


def test_calibration_of_a_prediction_takes_the_place_of_the_configs(feature_map):
    expected = make_tiny_model(calibration=0.3)(feature_map=feature_map).logits.softmax(dim=-1)
    logits = make_tiny_model(calibration=2.5).predict(feature_map=feature_map, calibration=0.3).logits
    torch.testing.assert_close(logits.softmax(dim=-1), expected)


def test_prediction_for_candidates(tiny_model, feature_map):
    rows, seen = torch.rand(3, 7), torch.tensor([False, True, False])
    unseen = tiny_model(feature_map=feature_map, class_attributes=rows).logits
    prediction = tiny_model.predict(feature_map=feature_map, class_attributes=rows)
    torch.testing.assert_close(prediction.logits, unseen)
    for calibration, gamma in ((None, 2.0), (0.4, 0.4)):
        prediction = tiny_model.predict(
            feature_map=feature_map, class_attributes=rows, seen=seen, calibration=calibration
        )
        torch.testing.assert_close(prediction.logits, unseen - gamma * seen)
    # The model's own classes as candidates are its own classes, but for what all have in common.
    own = tiny_model.predict(
        feature_map=feature_map, class_attributes=tiny_model.class_attributes, seen=tiny_model.seen_classes
    )
    expected = tiny_model.predict(feature_map=feature_map)
    torch.testing.assert_close(own.logits.softmax(dim=-1), expected.logits.softmax(dim=-1))
    torch.testing.assert_close(own.contributions, expected.contributions)


def calibrated_model():
    model = make_tiny_model()
    model.set_attribute_calibration(torch.stack([torch.linspace(0.2, 0.5, 7), torch.linspace(-1, 1, 7)]))
    return model


@pytest.mark.parametrize("make_model", [make_tiny_model, calibrated_model])
def test_contributions_sum_to_the_lead_over_the_runner_up_but_for_a_constant(make_model, feature_map):
    model = make_model()
    rows = torch.rand(4, 7) + 0.1
    prediction = model.predict(feature_map=feature_map, class_attributes=rows)
    best = prediction.logits.argsort(dim=1, descending=True)[:, :2]
    lead = prediction.logits.gather(1, best[:, :1]) - prediction.logits.gather(1, best[:, 1:])
    # What the lead is in an image that has as much of everything as usual.
    usual = F.normalize(rows, dim=-1) @ model.attribute_levels
    constant = usual[best[:, 0]] - usual[best[:, 1]]
    torch.testing.assert_close(prediction.contributions.sum(dim=1), lead[:, 0] - constant)
    # Of the two best after calibration, which here are the two that were not seen, by their scores without it.
    seen = torch.tensor([True, False, True, False])
    set_back = model.predict(feature_map=feature_map, class_attributes=rows, seen=seen, calibration=1e3)
    of_both = model.predict(feature_map=feature_map, class_attributes=rows[~seen])
    torch.testing.assert_close(set_back.contributions, of_both.contributions)
    single = model.predict(feature_map=feature_map, class_attributes=rows[:1])
    assert (single.contributions == 0).all()


def test_contributions_of_what_the_image_has_less_of_than_usual(feature_map):
    model = calibrated_model()
    rows = 0.5 + torch.zeros(2, 7)
    rows[0, 3] = 0.1
    prediction = model.predict(feature_map=feature_map, class_attributes=rows)
    is_less = prediction.attribute_scores[:, 3] < model.attribute_levels[3]
    # The first class has less of the attribute: for it speaks that the image has less of it, too.
    first = prediction.logits.argmax(dim=1) == 0
    assert torch.equal(prediction.contributions[:, 3] > 0, is_less == first)


def test_levels_of_attributes(feature_map):
    model = calibrated_model()
    strengths = model.class_attributes / model.class_attributes.max()
    usual = (strengths[model.seen_classes].sum(dim=0) + 1) / (3 + 2)
    torch.testing.assert_close(model.attribute_probabilities(model.attribute_levels), usual)
    # Scores that tell nothing, by which the level would be anywhere.
    slopes = torch.tensor([0, 1e-6, 0.2, 0.3, 0.4, 0.5, 0.6])
    model.set_attribute_calibration(torch.stack([slopes, torch.linspace(-1, 1, 7)]))
    contributions = model.predict(feature_map=feature_map).contributions
    assert (contributions[:, :2] == 0).all() and contributions[:, 2:].all() and contributions.isfinite().all()
    # Nobody knows the levels of a model without calibration.
    assert (make_tiny_model().attribute_levels == 0).all()


def test_levels_of_attributes_outlive_other_classes_and_saving(tmp_path):
    model = calibrated_model()
    levels = model.attribute_levels.clone()
    model.set_classes(["one", "two"], torch.eye(7)[:2])
    assert torch.equal(model.attribute_levels, levels)
    model.save_pretrained(tmp_path)
    assert torch.equal(DednModel.from_pretrained(tmp_path).attribute_levels, levels)


def test_a_model_that_was_saved_without_levels_finds_them(tmp_path, caplog):
    model = calibrated_model()
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["attribute_levels"]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    loaded, info = DednModel.from_pretrained(tmp_path, output_loading_info=True)
    assert torch.equal(loaded.attribute_levels, model.attribute_levels) and model.attribute_levels.any()
    assert not info["missing_keys"] and not caplog.messages
    other = DednModel(model.config).eval()
    other.load_state_dict({key: value for key, value in model.state_dict().items() if key != "attribute_levels"})
    assert torch.equal(other.attribute_levels, model.attribute_levels)


def test_a_class_is_seen_however_its_name_is_written():
    official = ["001.Jay", "002.Brandt_Cormorant", "003.Owl", "004.Swift", "005.Crow"]
    model = make_tiny_model(id2label=dict(enumerate(official)))
    names = ["Jay", "Brandt's Cormorant", "Owl", "swift", "Crow"]
    model.set_classes(names, model.class_attributes)
    assert model.config.seen_class_ids == [0, 1, 3] and list(model.config.id2label.values()) == names


def test_predictions_that_cannot_be_made(tiny_model, feature_map):
    rows = torch.rand(3, 7)
    for parameters in ({"seen": torch.ones(5)}, {"seen": torch.ones(2), "class_attributes": rows}):
        with pytest.raises(ValueError, match="`seen` goes with `class_attributes`"):
            tiny_model.predict(feature_map=feature_map, **parameters)
    with pytest.raises(ValueError, match="A mirrored feature map is not that of the mirrored image"):
        tiny_model.predict(feature_map=feature_map, average_flips=True)
    with pytest.raises(ValueError, match=r"evaluation mode: call `model.eval\(\)`"):
        tiny_model.train().predict(feature_map=feature_map)


# Saving and loading


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForZeroShotImageClassification])
def test_save_and_load(tmp_path, feature_map, rank, auto_class):
    model = make_tiny_model(region_value_rank=rank)
    model.save_pretrained(tmp_path)
    loaded, report = auto_class.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(loaded, DednModel) and not loaded.training
    assert not report["missing_keys"] and not report["unexpected_keys"]
    state, loaded_state = model.state_dict(), loaded.state_dict()
    assert set(state) == set(dict(model.named_parameters())) | set(dict(model.named_buffers()))
    assert set(loaded_state) == set(state)
    for name, value in state.items():
        assert torch.equal(loaded_state[name], value) and loaded_state[name].dtype == value.dtype, name
    expected = model(feature_map=feature_map, labels=LABELS)
    output = loaded(feature_map=feature_map, labels=LABELS)
    torch.testing.assert_close((output.logits, output.loss), (expected.logits, expected.loss))


def test_save_and_load_agree_after_set_classes(tiny_model, tmp_path, feature_map):
    # More classes than ten, so that ids sorted as text would be out of order.
    names = [f"class {index}" for index in range(12)]
    tiny_model.set_classes(names, torch.rand(12, 7), seen=[index % 3 > 0 for index in range(12)])
    tiny_model.save_pretrained(tmp_path)
    loaded = DednModel.from_pretrained(tmp_path)
    assert list(loaded.config.id2label.values()) == names
    assert loaded.config.seen_class_ids == tiny_model.config.seen_class_ids
    assert torch.equal(loaded.seen_classes, tiny_model.seen_classes)
    torch.testing.assert_close(loaded(feature_map=feature_map).logits, tiny_model(feature_map=feature_map).logits)


def test_saved_model_carries_its_code_and_its_auto_classes(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    assert (tmp_path / "modeling_dedn.py").is_file() and (tmp_path / "configuration_dedn.py").is_file()
    assert DednConfig.from_pretrained(tmp_path).auto_map == {
        "AutoConfig": "configuration_dedn.DednConfig",
        "AutoModel": "modeling_dedn.DednModel",
        "AutoModelForImageClassification": "modeling_dedn.DednModel",
        "AutoModelForZeroShotImageClassification": "modeling_dedn.DednModel",
    }


# Backbones

BACKBONES = {
    "resnet": ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 6], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    ),
    "mobilenet_v2": MobileNetV2Config(depth_multiplier=0.05, min_depth=2, depth_divisible_by=2, output_stride=8),
    "vit": ViTConfig(
        hidden_size=6, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=24, patch_size=8
    ),
    "dinov2": Dinov2Config(hidden_size=6, num_hidden_layers=1, num_attention_heads=2, image_size=24, patch_size=8),
    "dinov2_with_registers": Dinov2WithRegistersConfig(
        hidden_size=6, num_hidden_layers=1, num_attention_heads=2, image_size=24, patch_size=8
    ),
}
BACKBONE_CHANNELS = dict.fromkeys(BACKBONES, 6) | {"mobilenet_v2": 1280}


def make_backbone_model(name="resnet", **changes):
    return make_tiny_model(
        backbone_config=BACKBONES[name].to_dict(), feature_channels=BACKBONE_CHANNELS[name], **changes
    )


@pytest.fixture
def pixel_values():
    return torch.randn(4, 3, 24, 24, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", BACKBONES)
def test_any_backbone(name, pixel_values, tmp_path):
    model = make_backbone_model(name)
    feature_map = model.get_feature_map(pixel_values)
    assert feature_map.shape == (4, BACKBONE_CHANNELS[name], 3, 3)
    output = model(pixel_values)
    torch.testing.assert_close(output.logits, model(feature_map=feature_map).logits)

    raw = model.backbone(pixel_values)
    if name in ("resnet", "dinov2", "dinov2_with_registers"):
        expected = raw.feature_maps[0]
    elif name == "vit":
        tokens = raw.last_hidden_state
        assert tokens.shape == (4, 10, 6)
        rows = [torch.stack([tokens[:, 1 + 3 * row + column] for column in range(3)], dim=-1) for row in range(3)]
        expected = torch.stack(rows, dim=-2)
    else:
        expected = raw.last_hidden_state
    # To rounding: the model lays its images out for faster convolutions.
    torch.testing.assert_close(feature_map, expected)

    model.save_pretrained(tmp_path)
    loaded, report = DednModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    torch.testing.assert_close(loaded(pixel_values).logits, output.logits)


@pytest.mark.parametrize("name", ["resnet", "mobilenet_v2", "vit"])
def test_load_backbone_from_a_folder(name, pixel_values, tmp_path):
    backbone = make_backbone_model(name).backbone
    backbone.save_pretrained(tmp_path)
    loaded = load_backbone(tmp_path)
    assert not loaded.training
    assert torch.equal(backbone_feature_map(loaded, pixel_values), backbone_feature_map(backbone.eval(), pixel_values))


def check_frozen(model, pixel_values):
    """A training step leaves the backbone as it is and trains the experts."""
    model.train()
    assert model.training and model.coarse_expert.training
    assert not any(module.training for module in model.backbone.modules())
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    model(pixel_values, labels=LABELS).loss.backward()
    assert all(torch.equal(value, before[name]) for name, value in model.backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    assert all(parameter.grad is not None for parameter in model.coarse_expert.parameters())


def test_frozen_backbone_stays_frozen(pixel_values, tmp_path):
    model = make_backbone_model()
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.backbone.modules())
    check_frozen(model, pixel_values)
    model.save_pretrained(tmp_path)
    loaded = DednModel.from_pretrained(tmp_path)
    # Before train() is ever called, as an optimizer or DDP may see it.
    for untouched in (loaded, DednModel(loaded.config)):
        assert not any(parameter.requires_grad for parameter in untouched.backbone.parameters())
    check_frozen(loaded, pixel_values)
    check_frozen(loaded.eval(), pixel_values)
    fresh = AutoModel.from_config(loaded.config)
    fresh.set_classes(list("abcde"), torch.rand(5, 7))
    check_frozen(fresh, pixel_values)


def test_unfrozen_backbone_trains(pixel_values):
    model = make_backbone_model(freeze_backbone=False).train()
    before = {name: value.clone() for name, value in model.backbone.named_buffers()}
    model(pixel_values, labels=LABELS).loss.backward()
    assert all(module.training for module in model.backbone.modules())
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.backbone.parameters())
    assert any(not torch.equal(value, before[name]) for name, value in model.backbone.named_buffers())


def test_batch_norm_of_a_trained_backbone_can_keep_its_statistics(pixel_values, tmp_path):
    model = make_backbone_model(freeze_backbone=False, freeze_batch_norm=True).train()
    before = {name: value.clone() for name, value in model.backbone.named_buffers()}
    model(pixel_values, labels=LABELS).loss.backward()
    for module in model.backbone.modules():
        assert module.training != isinstance(module, nn.BatchNorm2d)
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.backbone.parameters())
    assert before and all(torch.equal(value, before[name]) for name, value in model.backbone.named_buffers())
    model.save_pretrained(tmp_path)
    assert DednModel.from_pretrained(tmp_path).config.freeze_batch_norm
    # The same features in training as in evaluation, where nothing else is random.
    torch.testing.assert_close(model.get_feature_map(pixel_values), model.eval().get_feature_map(pixel_values))


@pytest.mark.slow
def test_frozen_backbone_in_two_processes(pixel_values, tmp_path, two_processes):
    model = make_backbone_model(self_calibration_weight=0.0)
    model.save_pretrained(tmp_path / "model")
    save_file({"pixel_values": pixel_values, "labels": LABELS}, tmp_path / "batch.safetensors")
    script = Path(__file__).with_name("backbone_gradients.py")
    launch_script(script, str(tmp_path), num_processes=2, folder=tmp_path / "log")
    model.train()(pixel_values, labels=LABELS).loss.backward()
    expected = gradients(model)
    for rank in range(2):
        actual = load_file(tmp_path / f"gradients_{rank}.safetensors")
        assert set(actual) == set(expected)
        for name in expected:
            torch.testing.assert_close(actual[name], expected[name], rtol=1e-4, atol=1e-6)


# Bad input


def test_pixel_values_without_a_backbone(tiny_model, pixel_values):
    with pytest.raises(ValueError, match=r"no backbone.*backbone_config.*pass `feature_map`"):
        tiny_model(pixel_values)


def test_exactly_one_of_images_and_feature_maps(pixel_values):
    model = make_backbone_model()
    for inputs in ({}, {"pixel_values": pixel_values, "feature_map": torch.zeros(4, 6, 3, 3)}):
        with pytest.raises(ValueError, match=r"exactly one of `pixel_values`.*`feature_map`"):
            model(**inputs)


@pytest.mark.parametrize("shape", [(4, 8, 3, 3), (4, 6, 2, 2), (4, 6, 3, 4), (6, 3, 3), (4, 6, 9)])
def test_feature_map_of_another_size(tiny_model, shape):
    with pytest.raises(ValueError) as error:
        tiny_model(feature_map=torch.zeros(shape))
    message = str(error.value)
    assert "6 channels × 3 × 3" in message and str(shape) in message
    assert "feature_channels" in message and "grid_size" in message


def test_image_that_is_no_batch():
    with pytest.raises(ValueError, match=r"`pixel_values`.*\(B, 3, height, width\).*\(3, 24, 24\).*\[None\]"):
        make_backbone_model()(torch.zeros(3, 24, 24))


def test_images_of_another_size():
    with pytest.raises(ValueError, match=r"6 channels × 3 × 3.*\(2, 6, 4, 4\).*image size"):
        make_backbone_model()(torch.zeros(2, 3, 32, 32))


@pytest.mark.parametrize("label", [-1, 5])
def test_labels_out_of_range(tiny_model, feature_map, label):
    with pytest.raises(ValueError, match=rf"from 0 to 4, the model's 5 classes.* {label}.*set_classes"):
        tiny_model(feature_map=feature_map, labels=torch.tensor([0, 1, 2, label]))


def test_labels_with_the_classes_of_one_call(tiny_model, feature_map):
    with pytest.raises(ValueError, match=r"`labels`.*`class_attributes`.*set_classes"):
        tiny_model(feature_map=feature_map, labels=LABELS, class_attributes=torch.rand(5, 7))


@pytest.mark.parametrize("shape", [(5, 8), (5, 1), (7,)])
def test_class_attributes_of_another_width(tiny_model, feature_map, shape):
    message = rf"7 attributes, but its shape is {shape}.*attribute_names".replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=message):
        tiny_model(feature_map=feature_map, class_attributes=torch.rand(shape))
    with pytest.raises(ValueError, match=message):
        tiny_model.set_classes(list("abcde"), torch.rand(shape))


def test_set_classes_of_different_numbers(tiny_model):
    before = tiny_model.state_dict()["class_attributes"].clone(), tiny_model.config.to_dict()
    with pytest.raises(ValueError, match="2 class names but 3 rows"):
        tiny_model.set_classes(["a", "b"], torch.rand(3, 7))
    with pytest.raises(ValueError, match="2 class names but 1 entries in `seen`"):
        tiny_model.set_classes(["a", "b"], torch.rand(2, 7), seen=[True])
    with pytest.raises(ValueError, match=r"\['a'\] occur more than once"):
        tiny_model.set_classes(["a", "a"], torch.rand(2, 7))
    assert torch.equal(tiny_model.class_attributes, before[0]) and tiny_model.config.to_dict() == before[1]


@pytest.mark.parametrize("shape", [(6, 4), (7, 5)])
def test_word_vectors_of_another_shape(tiny_model, shape):
    with pytest.raises(ValueError, match=rf"\({shape[0]}, {shape[1]}\).*7 attributes.*`word_vector_size` 4"):
        tiny_model.set_word_vectors(torch.rand(shape))


def test_model_without_attributes():
    with pytest.raises(ValueError, match="attribute_names"):
        DednModel(DednConfig())


# What inference keeps


def _load(model):
    state = {name: tensor + 1 if "word_vectors" in name else tensor for name, tensor in model.state_dict().items()}
    model.load_state_dict(state)


def _step(model):
    with torch.enable_grad():
        case = torch.randn(2, 6, 3, 3, generator=torch.Generator().manual_seed(5))
        model(feature_map=case, labels=torch.tensor([0, 1])).loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()


def _replace(model):
    model.coarse_expert.heads[0].word_vectors = torch.nn.Parameter(torch.ones(7, 4))


def _set_word_vectors(model):
    model.set_word_vectors(torch.rand(7, 4))


def _change_data(model):
    model.fine_expert.heads[1].region_value.weight.data[3, 2] += 0.1


def _swap_data(model):
    data = model.coarse_expert.heads[0].word_vectors.data
    data[:2] = data[:2].flip(0)


def _change_through_numpy(model):
    model.coarse_expert.heads[0].channel_value.weight.detach().numpy()[:] *= 2


@pytest.mark.parametrize(
    "change", [_load, _step, _replace, _set_word_vectors, _change_data, _swap_data, _change_through_numpy]
)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_what_inference_keeps_is_dropped_when_a_weight_changes(change, mode):
    model = make_tiny_model()
    feature_map = torch.randn(2, 6, 3, 3)
    with mode():
        before = model(feature_map=feature_map).logits
        kept = model._folded(model.device)
        assert torch.equal(model(feature_map=feature_map).logits, before)
        assert model._folded(model.device) is kept
    change(model)
    with mode():
        after = model(feature_map=feature_map).logits
    # With gradients nothing is kept.
    torch.testing.assert_close(after, model(feature_map=feature_map).logits)
    assert not torch.allclose(after, before)


def test_what_inference_keeps_is_of_no_use_to_training():
    model = make_tiny_model()
    feature_map = torch.randn(2, 6, 3, 3)
    with torch.inference_mode():
        model(feature_map=feature_map)
    model(feature_map=feature_map, labels=torch.tensor([0, 1])).loss.backward()
    assert model.coarse_expert.heads[0].word_vectors.grad is not None


def test_what_inference_keeps_is_of_one_precision():
    model = make_tiny_model()
    feature_map = torch.randn(2, 6, 3, 3)
    with torch.no_grad():
        expected = model(feature_map=feature_map).logits
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(feature_map=feature_map).logits
        assert not torch.equal(rounded.float(), expected)
        assert torch.equal(model(feature_map=feature_map).logits, expected)
        assert model.double()(feature_map=feature_map).logits.dtype == torch.float64


def test_what_inference_keeps_does_not_depend_on_the_defaults_of_torch(feature_map):
    model = make_tiny_model()
    expected = model(feature_map=feature_map).logits
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        with torch.no_grad():
            kept = model._folded(model.device)
            assert model._folded(model.device) is kept
            torch.testing.assert_close(model(feature_map=feature_map).logits, expected)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


def test_a_copy_takes_along_nothing_that_inference_keeps():
    model = make_tiny_model()
    before = pickle.dumps(model)
    with torch.no_grad():
        model(feature_map=torch.randn(2, 6, 3, 3))
    assert len(pickle.dumps(model)) == len(before)
    copied = copy.deepcopy(model)
    copied.set_word_vectors(torch.rand(7, 4))
    with torch.no_grad():
        assert not torch.allclose(*(m(feature_map=torch.ones(1, 6, 3, 3)).logits for m in (model, copied)))


# Modules that are called


def _hook(calls):
    return lambda module, *_: calls.append(type(module).__name__)


def test_hooks_fire_at_every_call():
    model, calls = make_tiny_model(), []
    feature_map = torch.randn(2, 6, 3, 3)
    with torch.no_grad():
        expected = model(feature_map=feature_map).logits
        owners = [module for module in model.modules() if list(module.parameters(recurse=False))]
        assert len(owners) == 4 * 5  # four heads, each with four matrices
        for module in owners:
            module.register_forward_hook(_hook(calls))
        for _ in range(2):
            calls.clear()
            assert torch.equal(model(feature_map=feature_map).logits, expected)
            assert len(calls) == len(owners)


def test_global_hooks_fire_at_every_call():
    model, calls = make_tiny_model(), []
    feature_map = torch.randn(2, 6, 3, 3)
    with torch.no_grad():
        model(feature_map=feature_map)
        handle = torch.nn.modules.module.register_module_forward_hook(_hook(calls))
        try:
            for _ in range(2):
                calls.clear()
                model(feature_map=feature_map)
                assert calls.count("Linear") == 16 and calls.count("DednAttentionHead") == 4
        finally:
            handle.remove()


class _Double(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = 2.0

    def forward(self, weight):
        return self.factor * weight


@pytest.mark.parametrize("name", ["word_vectors", "region_value"])
def test_parametrizations_reach_the_experts(name):
    model = make_tiny_model()
    feature_map = torch.randn(2, 6, 3, 3)
    head = model.coarse_expert.heads[0]
    with torch.no_grad():
        model(feature_map=feature_map)
        expected = copy.deepcopy(model)
        changed = expected.coarse_expert.heads[0]
        (changed.word_vectors if name == "word_vectors" else changed.region_value.weight).mul_(2)
        parametrization = _Double()
        if name == "word_vectors":
            parametrize.register_parametrization(head, "word_vectors", parametrization)
        else:
            parametrize.register_parametrization(head.region_value, "weight", parametrization)
        for _ in range(2):
            torch.testing.assert_close(model(feature_map=feature_map).logits, expected(feature_map=feature_map).logits)
        # A parametrization may have a state that is no parameter.
        parametrization.factor = 3.0
        (changed.word_vectors if name == "word_vectors" else changed.region_value.weight).mul_(1.5)
        torch.testing.assert_close(model(feature_map=feature_map).logits, expected(feature_map=feature_map).logits)


def test_pruning_reaches_the_experts():
    model = make_tiny_model()
    feature_map = torch.randn(2, 6, 3, 3)
    with torch.no_grad():
        model(feature_map=feature_map)
        expected = copy.deepcopy(model)
        expected.fine_expert.heads[0].region_value.weight.zero_()
        prune.l1_unstructured(model.fine_expert.heads[0].region_value, "weight", amount=1.0)
        for _ in range(2):
            torch.testing.assert_close(model(feature_map=feature_map).logits, expected(feature_map=feature_map).logits)


def test_a_replica_without_parameters(feature_map):
    """What `nn.DataParallel` puts on each of several GPUs: its tensors are attributes and no parameters."""
    model = make_tiny_model()
    replica = copy.deepcopy(model)
    for module in replica.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            del module._parameters[name]
            object.__setattr__(module, name, parameter.detach().clone())
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(replica(feature_map=feature_map).logits, model(feature_map=feature_map).logits)


# Folders of before


def _as_before(state):
    """Until version 0.2 a matrix of a head was a parameter, (D, C) where the weight of the module is (C, D)."""
    return {
        name.removesuffix(".weight"): value.T.contiguous() if name.endswith(".weight") else value
        for name, value in state.items()
    }


class Subclass(DednModel):
    pass


@pytest.mark.parametrize("rank", [None, 2])
def test_folders_and_states_of_before_load_to_the_same_numbers(rank, tmp_path, feature_map):
    model = make_tiny_model(region_value_rank=rank)
    model.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == set(model.state_dict())
    before = _as_before(model.state_dict())
    save_file(before, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded, report = DednModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    other = DednModel(model.config)
    other.load_state_dict(before)
    for copied in (loaded, other.eval(), Subclass.from_pretrained(tmp_path)):
        assert all(torch.equal(value, copied.state_dict()[name]) for name, value in model.state_dict().items())
    # And are saved as folders are now.
    loaded.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == set(model.state_dict())


def test_a_missing_matrix_starts_as_a_new_model_has_it(tmp_path):
    model = make_tiny_model()
    model.save_pretrained(tmp_path)
    missing = [f"coarse_expert.heads.0.{name}.weight" for name in ("region_value", "region_weight")]
    state = {name: value for name, value in model.state_dict().items() if name not in missing}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded, report = DednModel.from_pretrained(tmp_path, output_loading_info=True)
    assert report["missing_keys"] == set(missing)
    head = loaded.coarse_expert.heads[0]
    assert not head.region_weight.weight.any() and 0.3 < head.region_value.weight.std() < 3


@pytest.mark.parametrize("std, expected", [(None, 1), (1.0, 8), (0.5, 4)])
def test_low_rank_region_values_start_as_large_as_full_ones(std, expected):
    torch.manual_seed(0)
    sizes = {"word_vector_size": 50, "feature_channels": 80, "region_value_rank": 64, "region_value_std": std}
    head = DednModel(make_tiny_config(**sizes)).coarse_expert.heads[0]
    product = head.region_value_out.weight @ head.region_value.weight
    assert product.std().item() == pytest.approx(expected, rel=0.1)
    assert DednModel(make_tiny_config(**sizes | {"region_value_rank": None})).coarse_expert.heads[
        0
    ].region_value.weight.std().item() == pytest.approx(1, rel=0.1)


# Which attention


@pytest.mark.parametrize("rank", [None, 2])
def test_eager_attention_gives_the_same(rank, feature_map):
    model = make_tiny_model(region_value_rank=rank)
    assert model.config._attn_implementation == "blockwise"
    expected = model(feature_map=feature_map, labels=LABELS, output_attentions=True)
    expected.loss.backward()
    by_blocks = gradients(model)
    model.zero_grad()
    model.set_attn_implementation("eager")
    output = model(feature_map=feature_map, labels=LABELS, output_attentions=True)
    output.loss.backward()
    assert "AttentivePooling" not in _graph(output.loss) and "AttentivePooling" in _graph(expected.loss)
    torch.testing.assert_close(dict(output), dict(expected), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients(model), by_blocks, atol=1e-5, rtol=1e-5)


def _graph(tensor):
    """Names of all functions that a tensor came from."""
    found, todo = {}, [tensor.grad_fn]
    while todo:
        function = todo.pop()
        if function not in found:
            found[function] = function.name()
            todo += [parent for parent, _ in function.next_functions if parent is not None]
    return " ".join(found.values())


def test_the_attention_that_was_asked_for_is_kept(tmp_path):
    model = make_tiny_model()
    model.save_pretrained(tmp_path)
    assert "attn_implementation" not in json.loads((tmp_path / "config.json").read_text())
    assert AutoModel.from_pretrained(tmp_path).config._attn_implementation == "blockwise"
    eager = AutoModel.from_pretrained(tmp_path, attn_implementation="eager")
    assert eager.config._attn_implementation == "eager"
    eager.save_pretrained(tmp_path / "eager")
    assert AutoModel.from_pretrained(tmp_path / "eager").config._attn_implementation == "eager"
    assert DednModel(DednConfig.from_pretrained(tmp_path / "eager")).config._attn_implementation == "eager"
    again = AutoModel.from_pretrained(tmp_path / "eager", attn_implementation="blockwise")
    assert again.config._attn_implementation == "blockwise"
    again.save_pretrained(tmp_path / "again")
    assert AutoModel.from_pretrained(tmp_path / "again").config._attn_implementation == "blockwise"


@pytest.mark.parametrize("asked", ["sdpa", "flash_attention_2", "flex_attention", "blockwize"])
def test_an_attention_that_there_is_not(asked, tmp_path):
    model = make_tiny_model()
    model.save_pretrained(tmp_path)
    message = f'no attention \'{asked}\'.*"blockwise".*"eager".*backbone_config'
    with pytest.raises(ValueError, match=message):
        DednModel.from_pretrained(tmp_path, attn_implementation=asked)
    with pytest.raises(ValueError, match=message):
        AutoModel.from_config(copy.deepcopy(model.config), attn_implementation=asked)
    with pytest.raises(ValueError, match=message):
        model.set_attn_implementation(asked)
    assert model.config._attn_implementation == "blockwise"


def test_a_backbone_keeps_its_own_attention(tmp_path):
    config = make_tiny_config(backbone_config=BACKBONES["vit"])
    model = DednModel(config)
    assert model.backbone.config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    assert model.backbone.config._attn_implementation == "sdpa"
    model.set_attn_implementation({"": "blockwise", "backbone_config": "eager"})
    assert model.config._attn_implementation == "blockwise"
    assert model.backbone.config._attn_implementation == "eager"
    model.save_pretrained(tmp_path)
    for asked, ours, backbones in (
        ("blockwise", "blockwise", "sdpa"),
        ("eager", "eager", "sdpa"),
        ({"backbone_config": "eager"}, "blockwise", "eager"),
        ({"": "eager", "backbone_config": "eager"}, "eager", "eager"),
    ):
        loaded = DednModel.from_pretrained(tmp_path, attn_implementation=asked)
        assert loaded.config._attn_implementation == ours, asked
        assert loaded.backbone.config._attn_implementation == backbones, asked
