"""The pooling by attention, whose backward pass is written by hand."""

import pytest
import torch
from textbook import TextbookDednModel, textbook_pooling
from tiny_model import gradients, make_tiny_config
from torch.autograd import gradcheck

from dedn_hf import DednModel
from dedn_hf.attentive_pooling_dedn import AttentivePooling, attention_weights, attentive_pooling

# Fewer tokens than entries (regions) and more (channels): each has a way of its own through both passes.
SHAPES = [pytest.param((3, 4, 7), id="regions"), pytest.param((3, 7, 4), id="channels")]
NUM_ATTRIBUTES = 5


def make_inputs(shape, dtype=torch.float32, requires_grad=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = (NUM_ATTRIBUTES, shape[2])
    return [
        torch.randn(size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_(requires_grad)
        for size in (shape, rows, rows)
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_finite_differences(shape):
    assert gradcheck(AttentivePooling.apply, make_inputs(shape, torch.float64))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_agrees_with_the_textbook_form_whatever_the_blocks(shape, batch_size, monkeypatch):
    inputs = make_inputs((batch_size, *shape[1:]), torch.float64)
    expected = textbook_pooling(*inputs)
    grad = torch.randn_like(expected)
    expected_gradients = torch.autograd.grad(expected, inputs, grad)

    blocks = []
    split = torch.Tensor.split
    # So small a cache that a block has one image.
    monkeypatch.setattr("dedn_hf.attentive_pooling_dedn.BLOCK_SIZE", 1)
    monkeypatch.setattr(torch.Tensor, "split", lambda self, size: blocks.append(size) or split(self, size))
    scores = attentive_pooling(*inputs)
    gradients = torch.autograd.grad(scores, inputs, grad)

    assert set(blocks) == {1}
    torch.testing.assert_close(scores, expected)
    torch.testing.assert_close(gradients, expected_gradients)


def test_frozen_features_get_no_gradient_and_parameters_get_theirs():
    tokens, value, weight = make_inputs((2, 4, 7))
    tokens.requires_grad_(False)
    attentive_pooling(tokens, value, weight).sum().backward()
    assert tokens.grad is None
    assert value.grad.abs().sum() > 0
    assert weight.grad.abs().sum() > 0


def test_keeps_nothing_for_a_backward_pass_that_will_not_come():
    inputs = make_inputs((2, 7, 4), requires_grad=False)
    assert attentive_pooling(*inputs).grad_fn is None


@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_is_close_to_float32(shape):
    inputs = make_inputs(shape)
    expected = attentive_pooling(*inputs)
    expected_gradients = torch.autograd.grad(expected.sum(), inputs)
    low = [tensor.detach().bfloat16().requires_grad_() for tensor in inputs]
    scores = attentive_pooling(*low)
    assert scores.dtype == torch.bfloat16
    torch.testing.assert_close(scores.float(), expected, rtol=0.05, atol=0.05)
    for gradient, reference in zip(torch.autograd.grad(scores.sum(), low), expected_gradients):
        torch.testing.assert_close(gradient.float(), reference, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("shape", SHAPES)
def test_under_autocast_it_computes_in_bfloat16_and_gives_float32_gradients(shape):
    inputs = make_inputs(shape)
    with torch.autocast("cpu", torch.bfloat16):
        scores = attentive_pooling(*inputs)
    scores.float().sum().backward()
    assert scores.dtype == torch.bfloat16
    low = [tensor.detach().bfloat16() for tensor in inputs]
    torch.testing.assert_close(scores, attentive_pooling(*low))
    assert all(tensor.grad.dtype == torch.float32 for tensor in inputs)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_form_that_is_traced_is_equal(shape):
    inputs = make_inputs(shape, torch.float64)
    traced = torch.compile(attentive_pooling, fullgraph=True, backend="aot_eager")
    scores, expected = traced(*inputs), attentive_pooling(*inputs)
    torch.testing.assert_close(scores, expected)
    grad = torch.randn_like(expected)
    torch.testing.assert_close(torch.autograd.grad(scores, inputs, grad), torch.autograd.grad(expected, inputs, grad))


def test_attention_weights_are_what_it_pools_with():
    tokens, value, weight = make_inputs((2, 4, 7))
    weights = attention_weights(tokens, weight)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, NUM_ATTRIBUTES))
    torch.testing.assert_close((weights * (value @ tokens.mT)).sum(dim=-1), attentive_pooling(tokens, value, weight))


def make_models(**changes):
    """Ours and textbook with the same parameters and classes, in float64, with attention that is not uniform."""
    torch.manual_seed(0)
    config = make_tiny_config(**changes)
    ours, textbook = DednModel(config).double(), TextbookDednModel(config).double()
    with torch.no_grad():
        for expert in (ours.coarse_expert, ours.fine_expert):
            for parameter in expert.parameters():
                parameter.normal_()
    class_attributes = torch.rand(config.num_labels, 7, dtype=torch.float64)
    for model in (ours, textbook):
        seen = [index in config.seen_class_ids for index in range(config.num_labels)]
        model.set_classes(list(config.id2label.values()), class_attributes, seen=seen)
    textbook.load_state_dict(ours.state_dict())
    return ours, textbook


# More regions than channels, fewer, and as many: each attention takes either way through the kernel.
@pytest.mark.parametrize("channels, grid", [(6, 3), (6, 2), (4, 2)])
@pytest.mark.parametrize("changes", [{}, {"region_value_rank": 2}, {"normalize_features": False, "calibration": 0.4}])
def test_textbook_and_ours_are_the_same_model(channels, grid, changes):
    models = make_models(feature_channels=channels, grid_size=grid, **changes)
    feature_map = torch.randn(5, channels, grid, grid, dtype=torch.float64)
    labels, training, of_parameters, inference = torch.tensor([0, 1, 3, 3, 0]), [], [], []
    for model in models:
        training.append(model.train()(feature_map=feature_map, labels=labels))
        training[-1].loss.backward()
        of_parameters.append(gradients(model))
        with torch.no_grad():
            inference.append(model.eval()(feature_map=feature_map))
    for ours, textbook in (training, inference):
        torch.testing.assert_close(ours.expert_scores, textbook.expert_scores)
    # The losses take class attributes in float32.
    torch.testing.assert_close(training[0].loss, training[1].loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(training[0].loss_parts, training[1].loss_parts, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(*of_parameters, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(inference[0].logits, inference[1].logits, rtol=1e-6, atol=1e-6)
    assert of_parameters[0].keys() == dict(models[0].named_parameters()).keys()
    assert all(gradient.abs().max() > 1e-2 for gradient in of_parameters[0].values())
