"""Attention that is fast for short rows on a CPU, forward and backward.

The plain attention of transformers repeats the keys and values for grouped queries, and autograd
then adds up the gradients of the copies; its products' gradients come from strided views. Here the
queries that share a key head are stacked as more rows of one product, both passes are written out
with contiguous layouts, and only the probabilities are saved. Rows of more than `SHORT_ROW_TOKENS`
tokens go to torch's fused kernel, which never stores the T × T scores.

Shapes: B rows, H query heads, G key heads, T tokens, S tokens of the keys, D head size.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

SHORT_ROW_TOKENS = 128
"""The longest rows that use this attention; up to here the fused kernel is slower backwards."""

ATTENTION_NAME = "rung_short_rows"
"""The name under which transformers knows this attention."""


class AttentionKinds(NamedTuple):
    """The attention for short rows and for long rows, by the names that transformers knows."""

    short: str
    long: str

    def set_on(self, decoder: Any, row_tokens: int) -> None:
        """Choose the kind for rows of so many tokens; only the time depends on it."""
        kind = self.short if row_tokens <= SHORT_ROW_TOKENS else self.long
        if decoder.config._attn_implementation != kind:
            decoder.set_attn_implementation(kind)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls for an attention layer.

    Args:
        module: the layer; not used.
        query: (B, H, T, D).
        key, value: (B, G, S, D).
        attention_mask: (B or 1, 1, T, S), added to the scores; None where every key is visible.
        scaling: the factor of the scores; 1 / √D by default.
        dropout: not used; nothing is dropped from a frozen base.

    Returns:
        (B, T, H, D), and None in the place of the attention weights.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    apply: Any = _Attention.apply
    y: Tensor = apply(query, key, value, attention_mask, scale)
    return y, None


def register_attention() -> None:
    """Register this attention with transformers; its masks are those of the plain attention."""
    AttentionInterface.register(ATTENTION_NAME, attend)
    AttentionMaskInterface.register(ATTENTION_NAME, eager_mask)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
    ) -> Tensor:
        B, H, T, D = query.shape
        G, S = key.shape[1], key.shape[2]
        q = query.reshape(B * G, H // G * T, D)
        k, v = key.reshape(B * G, S, D), value.reshape(B * G, S, -1)
        scores = torch.bmm(q, k.mT).mul_(scale)
        if mask is not None:
            scores.view(B, H, T, S).add_(mask)
        weights = torch.softmax(scores, dim=-1)
        y = torch.bmm(weights, v)
        ctx.save_for_backward(q, k, v, weights)
        ctx.scale, ctx.shape = scale, (B, H, G, T, S)
        return y.view(B, H, T, -1).transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, weights = ctx.saved_tensors
        B, H, G, T, S = ctx.shape
        g = grad.transpose(1, 2).reshape(B * G, H // G * T, -1)
        to_weights = torch.bmm(g, v.mT)
        to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
        to_scores.mul_(ctx.scale)
        to_q = torch.bmm(to_scores, k)
        to_k = torch.bmm(to_scores.mT, q)
        to_v = torch.bmm(weights.mT, g)
        return to_q.view(B, H, T, -1), to_k.view(B, G, S, -1), to_v.view(B, G, S, -1), None, None
