"""Schedule, clipping, AdamW and loss scaling, for every candidate of a pack on its own.

A candidate's adapter is one row of numbers, and that row is one parameter of torch's own AdamW, in a parameter group
with the candidate's learning rate. So its moments and its count of steps never meet another's, and it ends where
torch's optimizer would have taken it alone, because that is what it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

BETAS = (0.9, 0.999)
EPSILON = 1e-8

FIRST_SCALE, GROWTH, BACKOFF, PATIENCE = 2.0**16, 2.0, 0.5, 2000
"""Those of torch.amp.GradScaler."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The learning rate over the steps up to a judgement: a rise over `rise` steps, a plateau, and from the step `fork`
    a fall to zero at the step `stop`.

    What is judged has cooled down: at a constant rate the noise grows with the rate, so that hot adapters flatter low
    rates. Up to `fork` the steps are the same whatever `stop` is, so a judgement is a branch, and the training goes on
    from the fork. The fall is 1 − √, after Hägele et al. (2405.18392).
    """

    rise: int
    fork: int
    stop: int

    @classmethod
    def to(cls, stop: int, steps: int, warmup: float, cooldown: float) -> Schedule:
        """Judged after `stop` of `steps`; warmed up over that share of all steps, cooled down over that share of
        those before `stop`.
        """
        return cls(round(warmup * steps), stop - max(1, round(cooldown * stop)), stop)

    def share(self, step: int) -> float:
        """Of the learning rate, in the step `step`, from 0. The first step already moves, and so does the last."""
        warm = min(1.0, (step + 1) / (self.rise + 1))
        if step < self.fork:
            return warm
        return warm * (1 - math.sqrt((step - self.fork + 1) / (self.stop - self.fork + 1)))


@dataclass(frozen=True, slots=True)
class Progress:
    """What AdamW and the loss scaling remember of one candidate, beside its moments.

    `updates` counts the steps that moved it; `loss_scale` multiplies its loss where float16 is computed in, and
    `streak` counts the steps since that last changed; `high` counts the last steps whose loss was beyond all reason.
    """

    updates: int = 0
    loss_scale: float = FIRST_SCALE
    streak: int = 0
    high: int = 0

    def after(self, overflowed: bool) -> Progress:
        """How the loss scale moves: torch.amp.GradScaler's rule (Micikevicius et al., 1710.03740, §3.2)."""
        if overflowed:
            return replace(self, loss_scale=self.loss_scale * BACKOFF, streak=0)
        grown = self.streak + 1 == PATIENCE
        return replace(
            self,
            updates=self.updates + 1,
            loss_scale=self.loss_scale * (GROWTH if grown else 1),
            streak=0 if grown else self.streak + 1,
        )


class PackedAdamW:
    """torch.optim.AdamW over the rows of some candidates, with clipping for each of them.

    Args:
        rows: (P,) for each candidate, float32 (float64 in a test); updated in place.
        gradients: as the rows; what `step` reads, and clips in place.
        learning_rates: one for each candidate.
        weight_decay: decoupled, as in AdamW (Loshchilov & Hutter, 1711.05101).
        clip_norm: the greatest norm of a candidate's whole gradient.
        scaling: whether the losses were multiplied by each candidate's `loss_scale`.
    """

    def __init__(
        self,
        rows: Sequence[Tensor],
        gradients: Sequence[Tensor],
        learning_rates: Sequence[float],
        weight_decay: float,
        clip_norm: float,
        scaling: bool = False,
    ) -> None:
        self.rows, self.gradients = list(rows), list(gradients)
        self.learning_rates = list(learning_rates)
        self.clip_norm = clip_norm
        self.scaling = scaling
        self.progress = [Progress() for _ in self.rows]
        groups = [
            {"params": [row], "lr": rate}
            for row, rate in zip(self.rows, learning_rates, strict=True)
        ]
        if not groups:
            return
        # Fused: one pass over the memory, and nothing allocated, so that it can never fail half-way for want of it.
        self._adamw = torch.optim.AdamW(
            groups, betas=BETAS, eps=EPSILON, weight_decay=weight_decay, fused=True
        )
        for row in self.rows:
            self._adamw.state[row] = {
                "step": torch.zeros((), dtype=torch.float32, device=row.device),
                "exp_avg": torch.zeros_like(row),
                "exp_avg_sq": torch.zeros_like(row),
            }

    def moments(self, index: int) -> Mapping[str, Tensor]:
        """Candidate `index`'s `first` and `second` moments, (P,) each: the very tensors that AdamW moves."""
        state = self._adamw.state[self.rows[index]]
        return {"first": state["exp_avg"], "second": state["exp_avg_sq"]}

    def restore(self, index: int, progress: Progress) -> None:
        """Go on from `progress`; the moments are copied by whoever has them."""
        self.progress[index] = progress
        self._adamw.state[self.rows[index]]["step"].fill_(progress.updates)

    @torch.no_grad()
    def step(self, shares: Sequence[float]) -> Tensor:
        """Clip, and move each candidate by its share of its learning rate.

        Returns:
            (K,) float32: the norm of each candidate's gradient before clipping. A candidate whose norm is not finite
            is not moved: with loss scaling it goes on at half the scale, and without it has diverged.
        """
        norms = torch.stack([torch.linalg.vector_norm(g) for g in self.gradients])
        if self.scaling:
            norms = norms / norms.new_tensor([p.loss_scale for p in self.progress])
        found = norms.tolist()
        for i, (norm, share) in enumerate(zip(found, shares, strict=True)):
            row, gradient = self.rows[i], self.gradients[i]
            finite = math.isfinite(norm)
            if finite:
                factor = min(1.0, self.clip_norm / (norm + 1e-6))
                if self.scaling:
                    factor /= self.progress[i].loss_scale
                if factor != 1:
                    gradient.mul_(factor)
                self._adamw.param_groups[i]["lr"] = self.learning_rates[i] * share
            # A parameter without a gradient is passed over, and its count of steps stands still.
            row.grad = gradient if finite else None
            before = self.progress[i]
            if self.scaling:
                self.progress[i] = before.after(overflowed=not finite)
            elif finite:
                self.progress[i] = replace(before, updates=before.updates + 1)
        self._adamw.step()
        for row in self.rows:
            row.grad = None
        return norms
