"""
The pooling of [`DednModel`] by attention, over the regions of a feature map or over its channels: by its formula, and
block-wise with a backward pass of its own.
"""

import torch
from torch.autograd import forward_ad

# Numbers in one tensor of a block of images: 4 MB in float32, so that a few of them stay in a processor's cache.
BLOCK_SIZE = 2**20


class AttentivePooling(torch.autograd.Function):
    """
    `p_a = Σ_n P_an S_an` with `P = softmax over n of W Tᵀ` and `S = V Tᵀ`, for tokens T, block of images by block, so
    that what one needs stays in the processor's cache.

    The textbook form keeps several tensors of batch × attributes × tokens. Here P is kept, and the smaller of S `(A,
    N)` and `Z = P T` `(A, E)`, with which the forward pass takes two matrix products either way, since p_a = ⟨Z_a,
    V_a⟩ too. With g = ∂loss/∂p, and because the softmax's derivative is P_an (δ_nm − P_am), the backward pass is

        ∂(W T)_an = g_a P_an (S_an − p_a) = D_an        ∂W = D T
        ∂S_an = g_a P_an                                ∂V = (g P) T = g ⊙ Z
        ∂T = Dᵀ W + Pᵀ (g V)

    and takes two more: the one that gives ∂W, and either the one that gives ∂V or, where Z is kept, S anew. (∂T only
    where the backbone is trained.) Where the backward pass is itself to be differentiated, it is that of the textbook
    form, made anew from the inputs.
    """

    @staticmethod
    def forward(ctx, tokens, value, weight):
        block = max(1, BLOCK_SIZE // (len(weight) * tokens.shape[1]))
        keep_values = tokens.shape[1] <= tokens.shape[2]
        both = torch.cat([weight, value])
        scores, kept = [], []
        for image in tokens.split(block):
            if keep_values:
                # Few tokens: one product for weights and values of the whole block, attributes first.
                logits, values = (both @ image.flatten(0, 1).T).view(2, len(weight), *image.shape[:2])
                # A copy of the values, so that the logits beside them are not kept with them.
                attention, pooled = logits.softmax(dim=-1), values.clone()
                scores.append((attention * pooled).sum(dim=-1).T)
            else:
                attention = torch.bmm(weight.expand(len(image), -1, -1), image.mT).softmax(dim=-1)
                pooled = torch.bmm(attention, image)
                scores.append((pooled * value).sum(dim=-1))
            if any(ctx.needs_input_grad):
                kept += [attention, pooled]
        scores = torch.cat(scores)
        ctx.block, ctx.keep_values = block, keep_values
        ctx.save_for_backward(tokens, value, weight, scores, *kept)
        return scores

    @staticmethod
    def backward(ctx, grad_scores):
        tokens, value, weight, scores, *kept = ctx.saved_tensors
        # Several gradients at once, as with `torch.autograd.grad(…, is_grads_batched=True)`, do not show otherwise.
        is_batched = "Batched" in str(torch._C._dispatch_keys(grad_scores))
        if torch.is_grad_enabled() or is_batched:
            inputs = [tensor for tensor, needed in zip((tokens, value, weight), ctx.needs_input_grad) if needed]
            with torch.enable_grad():
                scores = eager_pooling(tokens, value, weight)
            gradients = iter(torch.autograd.grad(scores, inputs, grad_scores, create_graph=torch.is_grad_enabled()))
            return tuple(next(gradients) if needed else None for needed in ctx.needs_input_grad)
        grad_both, grad_tokens = weight.new_zeros(2 * len(weight), weight.shape[1]), []
        grad_weight, grad_value = grad_both.chunk(2)
        blocks = zip(*(tensor.split(ctx.block) for tensor in (tokens, grad_scores, scores)))
        for (image, grad, score), attention, pooled in zip(blocks, kept[::2], kept[1::2]):
            if ctx.keep_values:
                grad_logits, grad_values = grads = attention.new_empty(2, *attention.shape)
                torch.mul(attention, grad.T[..., None], out=grad_values)
                torch.sub(pooled, score.T[..., None], out=grad_logits).mul_(grad_values)
                grads, rows = grads.flatten(0, 1).flatten(1), image.flatten(0, 1)
                torch.addmm(grad_both, grads, rows, out=grad_both)
                if ctx.needs_input_grad[0]:
                    grad_tokens.append((grads.T @ torch.cat([weight, value])).view_as(image))
            else:
                graded_value = grad[..., None] * value
                # g (S − p) by one product.
                grad_logits = torch.baddbmm(-(grad * score)[..., None], graded_value, image.mT).mul_(attention)
                grad_weight += torch.bmm(grad_logits, image).sum(dim=0)
                grad_value += (pooled * grad[..., None]).sum(dim=0)
                if ctx.needs_input_grad[0]:
                    grad_tokens.append(grad_logits.mT @ weight + attention.mT @ graded_value)
        return torch.cat(grad_tokens) if grad_tokens else None, grad_value, grad_weight


def _is_transformed(*tensors: torch.Tensor) -> bool:
    """Whether these go through a transform of `torch.func` or forward-mode differentiation."""
    return torch._C._are_functorch_transforms_active() or any(
        forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors
    )


def attentive_pooling(tokens: torch.Tensor, value: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """
    Pools tokens into one score an attribute: `Σ_n softmax_n(⟨weight_a, token_n⟩) · ⟨value_a, token_n⟩`.

    Block-wise ([`AttentivePooling`]), with gradients of any order. Where that cannot be followed, under a compiler or
    a transform of `torch.func`, it is [`eager_pooling`].

    Args:
        tokens (`torch.Tensor` of shape `(B, N, E)`): What is pooled over: R regions of C channels, or C channels of R
            regions.
        value (`torch.Tensor` of shape `(A, E)`): One row an attribute.
        weight (`torch.Tensor` of shape `(A, E)`): One row an attribute.

    Returns:
        `torch.Tensor` of shape `(B, A)`.
    """
    if torch.compiler.is_compiling() or _is_transformed(tokens, value, weight):
        return eager_pooling(tokens, value, weight)
    device = tokens.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        tokens, value, weight = tokens.to(dtype), value.to(dtype), weight.to(dtype)
    with torch.autocast(device, enabled=False):
        return AttentivePooling.apply(tokens, value, weight)


def eager_pooling(tokens: torch.Tensor, value: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The same as [`attentive_pooling`] by its formula."""
    return (attention_weights(tokens, weight) * (value @ tokens.mT)).sum(dim=-1)


def attention_weights(tokens: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The weights `(B, A, N)` with which [`attentive_pooling`] pools."""
    return (weight @ tokens.mT).softmax(dim=-1)


__all__ = ["attention_weights", "attentive_pooling", "eager_pooling"]
