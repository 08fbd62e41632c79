"""The loss at completion tokens only: the output head never multiplies a prompt token.

The head is frozen, so the gradient of a token's loss to its hidden state, (softmax − onehot) W,
needs only one factor from the backward pass. It is computed in the forward pass, a chunk of tokens
at a time, and the logits are discarded: that is two matrix products, and memory for the logits of
one chunk instead of every token's. Candidates that adapt the head get the gradients of its A and B
in the same loop.

Shapes: K candidates, M completion tokens of each, D hidden size, V vocabulary, R rank, C tokens of
a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rung.engine.lora import AdapterGroup, FrozenLinear, apply_dropout

CHUNK = 256
"""Tokens of a chunk: 50 MB of float32 logits for a vocabulary of 49,152."""

LOGIT_FACTOR_KEYS = ("logit_scale", "lm_head_multiplier")
"""Keys of a model's configuration that hold a factor of its logits."""
LOGIT_CAP_KEYS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""Keys of a model's configuration that hold a cap of its logits."""


@dataclass(frozen=True, slots=True)
class HeadAdapter:
    """One candidate's adapter of the output head.

    Attributes:
        group: an `AdapterGroup` of this candidate alone.
        dropout_mask: (M, D) bool; None without dropout.
    """

    group: AdapterGroup
    dropout_mask: Tensor | None = None

    def dropped(self, hidden: Tensor, start: int) -> Tensor:
        """Apply the dropout of the tokens from `start` to their states (C, D), or to a gradient."""
        if self.dropout_mask is None:
            return hidden
        mask = self.dropout_mask[start : start + hidden.shape[0]]
        return apply_dropout(hidden, mask, self.group.dropout)

    def product(self, hidden: Tensor, start: int = 0) -> Tensor:
        """What the adapter adds to the head's product: (C, D) ─▶ (C, V)."""
        return self.dropped(hidden, start) @ self.group.A[0].T @ self.group.B[0].T


@dataclass(frozen=True)
class Head:
    """The output head, and what the model does to its logits: z ─▶ cap · tanh(factor · z / cap).

    Cohere and Granite have a factor, Gemma 2 has a cap.
    """

    layer: FrozenLinear
    factor: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, layer: FrozenLinear, config: Any) -> Head:
        """The head of a model, with the factor and the cap that its text configuration names."""
        factor = _first_value(config, LOGIT_FACTOR_KEYS)
        divisor = getattr(config, "logits_scaling", None) or 1
        return cls(layer, factor or 1 / divisor, _first_value(config, LOGIT_CAP_KEYS))

    def logits_(self, z: Tensor) -> Tensor:
        """The logits from the product with the weight, in place.

        `z` is float32, or float64 where the hidden states are.
        """
        if self.layer.bias is not None:
            z.add_(self.layer.bias)
        if self.factor != 1:
            z.mul_(self.factor)
        return z if self.cap is None else z.div_(self.cap).tanh_().mul_(self.cap)

    def gradient_of_product_(self, grad: Tensor, logits: Tensor | None) -> Tensor:
        """The gradient of the product from the gradient of the logits, in place.

        `logits` must be given where there is a cap.
        """
        if self.cap is not None:
            assert logits is not None
            grad.mul_(1 - (logits / self.cap).square_())
        return grad.mul_(self.factor) if self.factor != 1 else grad


def completion_loss(
    hidden: Tensor,
    labels: Tensor,
    weights: Tensor,
    head: Head,
    adapters: Sequence[HeadAdapter | None],
    anchor: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """−log p(label) of each token, and the sum to differentiate.

    Args:
        hidden: (K·M, D), the states that predict the labels, grouped by candidate.
        labels: (K, M), int64.
        weights: (K, M) float64, the weight of each loss; zero where a candidate has fewer tokens
            than another.
        head: the frozen output head.
        adapters: for each candidate its adapter of the head, or None.
        anchor: a scalar that needs a gradient. It is needed where an adapter of the head learns and
            the hidden states need no gradient.

    Returns:
        The losses (K, M) in nats, without a gradient, float32 (float64 where the states are); and a
        scalar, the sum of all losses times their weights. Differentiating the scalar adds the
        gradients of the head's adapters to their groups.
    """
    inputs = (hidden, anchor, labels, weights, head, adapters)
    losses, total = CompletionLoss.apply(*inputs)  # type: ignore[no-untyped-call]
    return losses, total


def plain_completion_loss(
    hidden: Tensor, labels: Tensor, head: Head, adapter: HeadAdapter | None = None
) -> Tensor:
    """The plain twin, for one candidate: (M, D) ─▶ (M,)."""
    product = hidden @ head.layer.dense(hidden.dtype).T
    if adapter is not None:
        product = product + adapter.product(hidden)
    z = product.to(torch.promote_types(product.dtype, torch.float32))
    z = head.factor * (z if head.layer.bias is None else z + head.layer.bias)
    if head.cap is not None:
        z = head.cap * torch.tanh(z / head.cap)
    return torch.nn.functional.cross_entropy(z, labels, reduction="none")


class CompletionLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        anchor: Tensor | None,
        labels: Tensor,
        weights: Tensor,
        head: Head,
        adapters: Sequence[HeadAdapter | None],
    ) -> tuple[Tensor, Tensor]:
        K, M = labels.shape
        wide_dtype = torch.promote_types(hidden.dtype, torch.float32)
        losses = torch.empty(K, M, dtype=wide_dtype, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        needs_gradient = any(ctx.needs_input_grad)
        weight = head.layer.dense(hidden.dtype)
        weights = weights.to(losses.dtype)
        label_of, weight_of = labels.reshape(-1, 1), weights.reshape(-1, 1)
        ctx.adapter_gradients = []
        # The largest tensors of a step. They are allocated once and used in place, because touching
        # new memory is what takes the time.
        narrow = hidden.new_empty(min(CHUNK, K * M), weight.shape[0])
        wide = narrow
        if narrow.dtype != wide_dtype:
            wide = torch.empty_like(narrow, dtype=wide_dtype)
        for start, stop, adapter in _chunks(K, M, adapters):
            h, label = hidden[start:stop], label_of[start:stop]
            product = torch.mm(h, weight.T, out=narrow[: stop - start])
            if adapter is not None:
                product.add_(adapter.product(h, start % M))
            logits = head.logits_(wide[: stop - start].copy_(product))
            capped = logits.clone() if head.cap is not None else None
            logits.sub_(logits.amax(dim=1, keepdim=True))
            at_label = logits.gather(1, label)
            total = logits.exp_().sum(dim=1, keepdim=True)
            torch.sub(total.log(), at_label, out=losses.view(-1, 1)[start:stop])
            if not needs_gradient:
                continue
            # Multiply by the weight before the dtype narrows: it can keep small numbers from
            # becoming zero in float16.
            scaled = logits.mul_(weight_of[start:stop] / total)
            scaled.scatter_add_(1, label, -weight_of[start:stop])
            g = product.copy_(head.gradient_of_product_(scaled, capped))
            if gradient is not None:
                torch.mm(g, weight, out=gradient[start:stop])
            if adapter is not None:
                group, x = adapter.group, adapter.dropped(h, start % M)
                low = g @ group.B[0]
                if gradient is not None:
                    gradient[start:stop].add_(adapter.dropped(low @ group.A[0], start % M))
                grad_A, grad_B = low.T @ x, g.T @ (x @ group.A[0].T)
                ctx.adapter_gradients.append((group, grad_A, grad_B))
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(losses)
        return losses, (losses * weights).sum()

    @staticmethod
    def backward(
        ctx: Any, _: Any, grad: Tensor
    ) -> tuple[Tensor | None, None, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        for group, grad_A, grad_B in ctx.adapter_gradients:
            group.grad_A[0].add_(grad_A * grad)
            group.grad_B[0].add_(grad_B * grad)
        to_hidden = None if gradient is None else (gradient * grad).to(gradient.dtype)
        return to_hidden, None, None, None, None, None


def _chunks(
    K: int, M: int, adapters: Sequence[HeadAdapter | None]
) -> list[tuple[int, int, HeadAdapter | None]]:
    """Ranges of at most `CHUNK` tokens, each with its adapter of the head or with None.

    Neighbours without an adapter share their ranges.
    """
    stretches: list[tuple[int, int, HeadAdapter | None]] = []
    for k, adapter in enumerate(adapters):
        if stretches and adapter is None and stretches[-1][2] is None:
            stretches[-1] = (stretches[-1][0], (k + 1) * M, None)
        else:
            stretches.append((k * M, (k + 1) * M, adapter))
    return [
        (start, min(start + CHUNK, stop), adapter)
        for first, stop, adapter in stretches
        for start in range(first, stop, CHUNK)
    ]


def _first_value(config: Any, keys: Sequence[str]) -> float | None:
    """The first of the configuration's values under `keys` that is there and is not zero."""
    return next((value for key in keys if (value := getattr(config, key, None))), None)
