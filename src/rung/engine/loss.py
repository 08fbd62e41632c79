"""The loss at completion tokens only: the output head never multiplies a prompt token.

The head is frozen, so the gradient of a token's loss to its hidden state, (softmax − onehot) W, needs nothing from
above but one factor. It is computed in the forward pass, a chunk of tokens at a time, and the logits are thrown away:
two matrix products, and memory for one chunk of the vocabulary instead of every token's. Candidates that adapt the
head itself get the gradients of its A and B on the way.

Shapes: K candidates, M completion tokens of each, D hidden size, V vocabulary, R rank, C tokens of a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rung.engine.lora import FrozenLinear, Part, drop

CHUNK = 256
"""Tokens at a time: 50 MB of float32 logits for a vocabulary of 49,152."""


@dataclass(frozen=True, slots=True)
class HeadAdapter:
    """One candidate's adapter of the head: a `Part` of one, and its dropout mask (M, D), where it has one."""

    part: Part
    keep: Tensor | None = None

    def inputs(self, hidden: Tensor, start: int) -> Tensor:
        """The states of the tokens from `start`, as the adapter sees them; and, alike, the gradient to them."""
        if self.keep is None:
            return hidden
        return drop(hidden, self.keep[start : start + hidden.shape[0]], self.part.dropout)

    def product(self, hidden: Tensor, start: int = 0) -> Tensor:
        """What the adapter adds: (C, D) ─▶ (C, V)."""
        return self.inputs(hidden, start) @ self.part.A[0].T @ self.part.B[0].T


@dataclass(frozen=True)
class Head:
    """The output head, and what the model does to its logits: z ─▶ cap · tanh(factor · z / cap).

    Cohere and Granite have a factor, Gemma 2 a cap.
    """

    layer: FrozenLinear
    factor: float = 1.0
    cap: float | None = None

    def logits_(self, z: Tensor) -> Tensor:
        """What comes after the product with the weight, in place: z in float32, or in float64 where the states are."""
        if self.layer.bias is not None:
            z.add_(self.layer.bias)
        if self.factor != 1:
            z.mul_(self.factor)
        return z if self.cap is None else z.div_(self.cap).tanh_().mul_(self.cap)

    def to_product(self, grad: Tensor, logits: Tensor | None) -> Tensor:
        """The gradient to the logits ─▶ that to the product; in place. `logits` are wanted where there is a cap."""
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
    """−log p(label) for each token, and what to differentiate.

    Args:
        hidden: (K·M, D), the states that predict, grouped by candidate.
        labels: (K, M), int64.
        weights: (K, M) float64, what each loss counts for; zero where a candidate has fewer tokens than another.
        head: the frozen output head.
        adapters: for each candidate its adapter of the head, or None.
        anchor: a scalar that needs a gradient, where an adapter does and the states may not.

    Returns:
        (K, M) in nats, without a gradient, float32, or float64 where the states are; and a scalar, the sum of all
        losses times their weights. Differentiating that adds the gradients of the head's adapters to their parts.
    """
    inputs = (hidden, anchor, labels, weights, head, adapters)
    losses, total = _CompletionLoss.apply(*inputs)  # type: ignore[no-untyped-call]
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


class _CompletionLoss(torch.autograd.Function):
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
        losses = torch.empty(
            K, M, dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device
        )
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        wanted = any(ctx.needs_input_grad)
        weight = head.layer.dense(hidden.dtype)
        weights = weights.to(losses.dtype)
        label_of, weight_of = labels.reshape(-1, 1), weights.reshape(-1, 1)
        ctx.adapted = []
        # The largest tensors of a step: made once, and worked on in place, because it is touching memory that costs.
        narrow = hidden.new_empty(min(CHUNK, K * M), weight.shape[0])
        wide = (
            narrow if narrow.dtype == losses.dtype else torch.empty_like(narrow, dtype=losses.dtype)
        )
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
            if not wanted:
                continue
            # The weight comes in before the dtype narrows: it may be what keeps float16 from losing small numbers.
            scaled = logits.mul_(weight_of[start:stop] / total)
            scaled.scatter_add_(1, label, -weight_of[start:stop])
            g = product.copy_(head.to_product(scaled, capped))
            if gradient is not None:
                torch.mm(g, weight, out=gradient[start:stop])
            if adapter is not None:
                part, x = adapter.part, adapter.inputs(h, start % M)
                low = g @ part.B[0]
                if gradient is not None:
                    gradient[start:stop].add_(adapter.inputs(low @ part.A[0], start % M))
                ctx.adapted.append((part, low.T @ x, g.T @ (x @ part.A[0].T)))
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(losses)
        return losses, (losses * weights).sum()

    @staticmethod
    def backward(
        ctx: Any, _: Any, grad: Tensor
    ) -> tuple[Tensor | None, None, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        for part, grad_A, grad_B in ctx.adapted:
            part.grad_A[0].add_(grad_A * grad)
            part.grad_B[0].add_(grad_B * grad)
        to_hidden = None if gradient is None else (gradient * grad).to(gradient.dtype)
        return to_hidden, None, None, None, None, None


def _chunks(
    K: int, M: int, adapters: Sequence[HeadAdapter | None]
) -> list[tuple[int, int, HeadAdapter | None]]:
    """Stretches of at most `CHUNK` tokens that share an adapter of the head, or have none."""
    runs: list[tuple[int, int, HeadAdapter | None]] = []
    for k, adapter in enumerate(adapters):
        if runs and adapter is None and runs[-1][2] is None:
            runs[-1] = (runs[-1][0], (k + 1) * M, None)
        else:
            runs.append((k * M, (k + 1) * M, adapter))
    return [
        (start, min(start + CHUNK, stop), adapter)
        for first, stop, adapter in runs
        for start in range(first, stop, CHUNK)
    ]
