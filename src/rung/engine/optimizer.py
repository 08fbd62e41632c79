"""AdamW, schedule and clipping, for every candidate of a pack on its own.

The parameters are the stacked factors of the packed layers, with the candidate first: (K, …). One candidate's learning
rate, clipping factor and moments never meet another's. The arithmetic and its order are torch.optim.AdamW's
(Loshchilov & Hutter, 1711.05101), so that a candidate ends where torch's optimizer would have taken it alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

BETAS = (0.9, 0.999)
EPSILON = 1e-8


def schedule(step: int, steps: int, warmup: float) -> float:
    """The share of the learning rate for `step` (from 0) of `steps`: a linear warm-up, then a half cosine to zero.

    The first step already moves (its share is not zero), and the step after the last would not.
    """
    rise = round(warmup * steps)
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


class PackedAdamW:
    """AdamW over stacked parameters, each (K, …) float32.

    Args:
        parameters: the stacked factors, float32 (float64 in the tests); updated in place.
        learning_rates: one for each of the K candidates.
        weight_decay: decoupled, as in AdamW.
        clip_norm: the greatest norm of a candidate's whole gradient.
    """

    def __init__(
        self, parameters: Sequence[Tensor], learning_rates: Sequence[float], weight_decay: float, clip_norm: float
    ) -> None:
        self.parameters = list(parameters)
        device = self.parameters[0].device
        # float64, as torch.optim computes its step sizes in Python floats.
        self.learning_rates = torch.tensor(learning_rates, dtype=torch.float64, device=device)
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]
        self.steps = 0

    @torch.no_grad()
    def step(self, share: float) -> Tensor:
        """Clip, move by `share` of the learning rates, and forget the gradients.

        Returns:
            (K,) float32: the norm of each candidate's gradient before clipping; not finite where it diverged. Such a
            candidate's parameters are spoilt by this step, and nobody else's.
        """
        gradients = [_gradient(p) for p in self.parameters]
        norms: Tensor = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
        clip = (self.clip_norm / (norms + 1e-6)).clamp(max=1.0)
        self.steps += 1
        rates = self.learning_rates * share
        shrink = 1 - rates * self.weight_decay
        move = -rates / (1 - BETAS[0] ** self.steps)
        root = math.sqrt(1 - BETAS[1] ** self.steps)
        for p, g, first, second in zip(self.parameters, gradients, self.first, self.second, strict=True):
            g.mul_(_over(clip, g))
            if self.weight_decay:
                p.mul_(_over(shrink, p))
            first.lerp_(g, 1 - BETAS[0])
            second.mul_(BETAS[1]).addcmul_(g, g, value=1 - BETAS[1])
            denominator = (second.sqrt() / root).add_(EPSILON)
            p.add_(first.div(denominator).mul_(_over(move, p)))
            p.grad = None
        return norms


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None, "step() needs the gradients of a backward pass"
    return parameter.grad


def _over(values: Tensor, like: Tensor) -> Tensor:
    """(K,) ─▶ (K, 1, …), to multiply a stacked parameter."""
    return values.to(like.dtype).view(-1, *[1] * (like.dim() - 1))
