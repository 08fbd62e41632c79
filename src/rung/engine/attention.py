"""Attention that is fast for short rows on a CPU, forward and backward.

transformers' plain attention repeats the keys and values for grouped queries, and leaves autograd to add up what it
repeated; its products' gradients come from strided views. Here the queries that share a key head are stacked as more
rows of one product, both passes are written out with contiguous layouts, and only the probabilities are kept. Rows of
more than `SHORT` tokens go to torch's fused kernel, which never writes the T × T scores down.

Shapes: B rows, H query heads, G key heads, n = H / G, T tokens, S tokens of the keys, D head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

SHORT = 128
"""Rows of up to so many tokens are taken: the fused kernel's backward pass is slower there."""

NAME = "rung_short_rows"
"""What transformers knows it by."""


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
    """What transformers asks of an attention.

    Args:
        module: the layer; not used.
        query: (B, H, T, D).
        key, value: (B, G, S, D).
        attention_mask: (B or 1, 1, T, S), added to the scores; None where every key may be seen.
        scaling: of the scores; 1 / √D by default.
        dropout: nothing is dropped from a frozen base.

    Returns:
        (B, T, H, D), and no weights.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    y: Tensor = _Attention.apply(query, key, value, attention_mask, scale)  # type: ignore[no-untyped-call]
    return y, None


def register() -> None:
    """Make it known to transformers, with the masks of its plain attention."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, eager_mask)


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
        to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype).mul_(
            ctx.scale
        )
        to_q, to_k, to_v = (
            torch.bmm(to_scores, k),
            torch.bmm(to_scores.mT, q),
            torch.bmm(weights.mT, g),
        )
        return to_q.view(B, H, T, -1), to_k.view(B, G, S, -1), to_v.view(B, G, S, -1), None, None
