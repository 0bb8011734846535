"""Derivatives of any order and of any kind, against those of the model written as the formulas are."""

import pytest
import torch
from textbook import TextbookDednModel
from tiny_model import make_tiny_model
from torch import func

from dedn_hf import DednModel

LABELS = torch.tensor([0, 3, 1, 4])
ATTENTIONS = ("blockwise", "eager")


@pytest.fixture
def feature_map():
    return torch.randn(4, 6, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def make_models(attention: str = "blockwise", rank: int | None = None) -> tuple[DednModel, TextbookDednModel]:
    model = make_tiny_model(region_value_rank=rank).double()
    model.set_attn_implementation(attention)
    textbook = TextbookDednModel(model.config).double()
    textbook.load_state_dict(model.state_dict())
    return model.train(), textbook.train()


def _loss(model, feature_map, labels=LABELS):
    return model(feature_map=feature_map, labels=labels).loss


def _penalized(model, feature_map):
    """A loss with a penalty on its gradients by the inputs and by the parameters."""
    feature_map = feature_map.clone().requires_grad_()
    loss = _loss(model, feature_map)
    gradients = torch.autograd.grad(loss, [feature_map, *model.parameters()], create_graph=True)
    return loss + 0.1 * sum(gradient.square().sum() for gradient in gradients)


def _check(actual, expected):
    scale = max(value.abs().max() for value in expected)
    assert len(actual) == len(expected) and scale > 0
    for ours, theirs in zip(actual, expected):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= 1e-9 * scale


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("rank", [None, 2])
def test_gradient_penalty(attention, rank, feature_map):
    gradients = []
    for model in make_models(attention, rank):
        _penalized(model, feature_map).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    _check(*gradients)


def test_gradient_penalty_in_single_precision(feature_map):
    gradients = []
    for model in make_models():
        _penalized(model.float(), feature_map.float()).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert (gradients[0] - gradients[1]).abs().max() <= 1e-4 * gradients[1].abs().max()


def test_gradient_penalty_over_several_blocks(monkeypatch, feature_map):
    monkeypatch.setattr("dedn_hf.attentive_pooling_dedn.BLOCK_SIZE", 14 * 9)
    gradients = []
    for model in make_models():
        _penalized(model, feature_map).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    _check(*gradients)


def test_third_derivative(feature_map):
    derivatives = []
    for model in make_models():
        inputs = feature_map.clone().requires_grad_()
        derivative = _loss(model, inputs)
        for _ in range(3):
            (derivative,) = torch.autograd.grad(derivative.sum(), inputs, create_graph=True)
        derivatives.append([derivative.detach()])
    _check(*derivatives)


@pytest.mark.parametrize("name", ["hvp", "vhp"])
def test_hessian_vector_products(name, feature_map):
    vector = torch.randn_like(feature_map)
    product = getattr(torch.autograd.functional, name)
    results = [[product(lambda x, m=model: _loss(m, x), feature_map, vector)[1]] for model in make_models()]
    _check(*results)


@pytest.mark.parametrize("vectorize", [False, True])
def test_hessian(vectorize, feature_map):
    feature_map = feature_map[:1]
    hessian = torch.autograd.functional.hessian
    results = [
        [hessian(lambda x, m=model: _loss(m, x, LABELS[:1]), feature_map, vectorize=vectorize)]
        for model in make_models()
    ]
    _check(*results)


def test_jacobian_of_many_outputs_at_once(feature_map):
    jacobian = torch.autograd.functional.jacobian
    results = [
        [jacobian(lambda x, m=model: m(feature_map=x, labels=LABELS).expert_scores, feature_map, vectorize=True)]
        for model in make_models()
    ]
    _check(*results)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_forward_mode(attention, feature_map):
    tangent = torch.randn_like(feature_map)
    results = []
    for model in make_models(attention):
        with torch.autograd.forward_ad.dual_level():
            loss = _loss(model, torch.autograd.forward_ad.make_dual(feature_map, tangent))
            results.append([torch.autograd.forward_ad.unpack_dual(loss).tangent])
    _check(*results)


def _functional(model):
    def loss(parameters, feature_map, labels):
        inputs = {"feature_map": feature_map, "labels": labels}
        return func.functional_call(model, parameters, args=(), kwargs=inputs).loss

    return loss, {name: parameter.detach() for name, parameter in model.named_parameters()}


def _grad(loss, parameters, feature_map):
    return func.grad(loss)(parameters, feature_map, LABELS).values()


def _vjp(loss, parameters, feature_map):
    output, pull = func.vjp(lambda p, x: loss(p, x, LABELS), parameters, feature_map)
    by_parameters, by_inputs = pull(torch.ones_like(output))
    return [*by_parameters.values(), by_inputs]


def _jvp(loss, parameters, feature_map):
    tangents = {name: torch.ones_like(value) for name, value in parameters.items()}
    return [func.jvp(lambda p: loss(p, feature_map, LABELS), (parameters,), (tangents,))[1]]


def _hvp(loss, parameters, feature_map):
    """Forward over reverse."""
    return [
        func.jvp(func.grad(lambda x: loss(parameters, x, LABELS)), (feature_map,), (torch.ones_like(feature_map),))[1]
    ]


def _per_sample(loss, parameters, feature_map):
    gradients = func.vmap(func.grad(lambda p, x, y: loss(p, x[None], y[None])), in_dims=(None, 0, 0))
    return gradients(parameters, feature_map, LABELS).values()


@pytest.mark.parametrize("transform", [_grad, _vjp, _jvp, _hvp, _per_sample])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_transforms_of_functions(transform, attention, feature_map):
    _check(*(list(transform(*_functional(model), feature_map)) for model in make_models(attention)))


def test_vmap_over_images_in_inference(feature_map):
    model = make_models()[0].eval()
    with torch.no_grad():
        expected = model(feature_map=feature_map).logits
        one_by_one = func.vmap(lambda image: model(feature_map=image[None]).logits[0])
        torch.testing.assert_close(one_by_one(feature_map), expected)
        # What inference keeps is not of the parameters that a function is called with.
        parameters = {name: 2 * value for name, value in model.named_parameters()}
        doubled = func.functional_call(model, parameters, args=(), kwargs={"feature_map": feature_map}).logits
        assert not torch.allclose(doubled, expected)
