"""The loss at completion tokens only: the output head never multiplies a prompt token.

The head is frozen, so the gradient of a token's loss to its hidden state, (softmax − onehot) W, needs nothing from
above but one factor. It is computed in the forward pass, a chunk of tokens at a time, and the logits are thrown away:
two matrix products, and memory for one chunk of the vocabulary instead of every token's.

Shapes: M completion tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 512
"""Tokens at a time: 100 MB of float32 logits for a vocabulary of 49,152."""


def completion_loss(hidden: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """−log p(label) for each token.

    Args:
        hidden: (M, D), the states that predict.
        labels: (M,), int64.
        weight: (V, D), the frozen output head.

    Returns:
        (M,) in nats; float32, or float64 where the states are.
    """
    loss: Tensor = _CompletionLoss.apply(hidden, labels, weight)  # type: ignore[no-untyped-call]
    return loss


def plain_completion_loss(hidden: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """The plain twin of `completion_loss`."""
    return torch.nn.functional.cross_entropy((hidden @ weight.T).float(), labels, reduction="none")


class _CompletionLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        losses, gradients = [], []
        for h, label in zip(torch.split(hidden, CHUNK), torch.split(labels, CHUNK), strict=True):
            logits = (h @ weight.T).to(torch.promote_types(h.dtype, torch.float32))
            picked = label[:, None]
            # In place: the chunk's logits are the step's largest tensor, and reading it is what costs.
            logits.sub_(logits.amax(dim=1, keepdim=True))
            at_label = logits.gather(1, picked)
            total = logits.exp_().sum(dim=1, keepdim=True)
            losses.append((total.log() - at_label).squeeze(1))
            if ctx.needs_input_grad[0]:
                probability = logits.div_(total)
                probability.scatter_add_(1, picked, probability.new_full(picked.shape, -1.0))
                gradients.append(probability.to(h.dtype) @ weight)
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grad[:, None]).to(gradient.dtype), None, None
