"""Schedule, clipping, AdamW and loss scaling, for every candidate of a pack on its own.

A candidate's adapter is one row of numbers, and that row is one parameter of torch's own AdamW, in
a parameter group with the candidate's learning rate. So its moments and its count of steps are
separate from every other candidate's, and it ends where torch's optimizer would have taken it
alone: it is torch's optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

BETAS = (0.9, 0.999)
EPSILON = 1e-8

INITIAL_LOSS_SCALE = 2.0**16
LOSS_SCALE_GROWTH = 2.0
LOSS_SCALE_BACKOFF = 0.5
LOSS_SCALE_GROWTH_INTERVAL = 2000
"""The four values are those of torch.amp.GradScaler; the interval counts steps."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The learning rate over the steps up to an evaluation.

    It rises over `warmup_steps`, stays constant, and from the step `cooldown_start` falls to zero
    at the step `stop`.

    Adapters are evaluated after a cooldown because the noise at a constant rate grows with the
    rate, which would favour low rates. Up to `cooldown_start` the steps are the same whatever
    `stop` is. So an evaluation cools down a copy, and the training continues from
    `cooldown_start`. The fall is 1 − √, after Hägele et al. (2405.18392).
    """

    warmup_steps: int
    cooldown_start: int
    stop: int

    @classmethod
    def ending_at(cls, stop: int, steps: int, warmup: float, cooldown: float) -> Schedule:
        """The schedule of an evaluation after `stop` steps of a training of `steps`.

        Args:
            warmup: the fraction of all steps that the rise takes.
            cooldown: the fraction of the steps before `stop` that the fall takes.
        """
        return cls(round(warmup * steps), stop - max(1, round(cooldown * stop)), stop)

    def rate_factor(self, step: int) -> float:
        """The factor of the learning rate at a step, counted from 0.

        It is above zero at the first step and at the last.
        """
        warm = min(1.0, (step + 1) / (self.warmup_steps + 1))
        if step < self.cooldown_start:
            return warm
        cooled, length = step - self.cooldown_start + 1, self.stop - self.cooldown_start + 1
        return warm * (1 - math.sqrt(cooled / length))


@dataclass(frozen=True, slots=True)
class OptimizerProgress:
    """What AdamW and the loss scaling remember of one candidate, beside its moments.

    The names of the fields are part of the checkpoint format.

    Attributes:
        updates: the steps that moved the weights.
        loss_scale: the factor of the loss where the computation is in float16.
        streak: the steps since `loss_scale` last changed.
        high: how many of the last steps in a row had a loss above the limit.
    """

    updates: int = 0
    loss_scale: float = INITIAL_LOSS_SCALE
    streak: int = 0
    high: int = 0

    def after_step(self, overflowed: bool) -> OptimizerProgress:
        """The progress after one step with loss scaling.

        The rule is that of torch.amp.GradScaler (Micikevicius et al., 1710.03740, §3.2).
        """
        if overflowed:
            return replace(self, loss_scale=self.loss_scale * LOSS_SCALE_BACKOFF, streak=0)
        grows = self.streak + 1 == LOSS_SCALE_GROWTH_INTERVAL
        return replace(
            self,
            updates=self.updates + 1,
            loss_scale=self.loss_scale * (LOSS_SCALE_GROWTH if grows else 1),
            streak=0 if grows else self.streak + 1,
        )


class PackedAdamW:
    """torch.optim.AdamW over the rows of some candidates, with clipping for each of them.

    Args:
        rows: (P,) for each candidate, float32 (float64 in a test); updated in place.
        gradients: like `rows`; `step` reads them, and clips them in place.
        learning_rates: one for each candidate.
        weight_decay: decoupled, as in AdamW (Loshchilov & Hutter, 1711.05101).
        clip_norm: the largest norm of a candidate's whole gradient.
        loss_scaling: whether the losses were multiplied by each candidate's `loss_scale`.
    """

    def __init__(
        self,
        rows: Sequence[Tensor],
        gradients: Sequence[Tensor],
        learning_rates: Sequence[float],
        weight_decay: float,
        clip_norm: float,
        loss_scaling: bool = False,
    ) -> None:
        self.rows, self.gradients = list(rows), list(gradients)
        self.learning_rates = list(learning_rates)
        self.clip_norm = clip_norm
        self.loss_scaling = loss_scaling
        self.progress = [OptimizerProgress() for _ in self.rows]
        groups = [
            {"params": [row], "lr": rate}
            for row, rate in zip(self.rows, learning_rates, strict=True)
        ]
        if not groups:
            return
        # Fused: one pass over the memory. It allocates nothing, so it cannot run out of memory
        # halfway through.
        self._adamw = torch.optim.AdamW(
            groups, betas=BETAS, eps=EPSILON, weight_decay=weight_decay, fused=True
        )
        for row in self.rows:
            self._adamw.state[row] = {
                "step": torch.zeros((), dtype=torch.float32, device=row.device),
                "exp_avg": torch.zeros_like(row),
                "exp_avg_sq": torch.zeros_like(row),
            }

    @property
    def loss_scales(self) -> list[float]:
        """The factor of each candidate's loss: 1 without loss scaling."""
        return [p.loss_scale if self.loss_scaling else 1.0 for p in self.progress]

    def moments(self, index: int) -> Mapping[str, Tensor]:
        """The `first` and `second` moments of candidate `index`, (P,) each: AdamW's own tensors."""
        state = self._adamw.state[self.rows[index]]
        return {"first": state["exp_avg"], "second": state["exp_avg_sq"]}

    def restore(self, index: int, progress: OptimizerProgress) -> None:
        """Set the progress of candidate `index`. The caller copies the moments."""
        self.progress[index] = progress
        self._adamw.state[self.rows[index]]["step"].fill_(progress.updates)

    @torch.no_grad()
    def step(self, rate_factors: Sequence[float]) -> Tensor:
        """Clip the gradients and update each candidate with its factor of its learning rate.

        A candidate whose norm is not finite is not moved: with loss scaling it continues at half
        the scale, and without it has diverged.

        Returns:
            (K,) float32: the norm of each candidate's gradient before clipping.
        """
        norms = torch.stack([torch.linalg.vector_norm(g) for g in self.gradients])
        if self.loss_scaling:
            norms = norms / norms.new_tensor([p.loss_scale for p in self.progress])
        for i, (norm, rate_factor) in enumerate(zip(norms.tolist(), rate_factors, strict=True)):
            row, gradient = self.rows[i], self.gradients[i]
            finite = math.isfinite(norm)
            if finite:
                factor = min(1.0, self.clip_norm / (norm + 1e-6))
                if self.loss_scaling:
                    factor /= self.progress[i].loss_scale
                if factor != 1:
                    gradient.mul_(factor)
                self._adamw.param_groups[i]["lr"] = self.learning_rates[i] * rate_factor
            # AdamW skips a parameter without a gradient and does not count the step.
            row.grad = gradient if finite else None
            before = self.progress[i]
            if self.loss_scaling:
                self.progress[i] = before.after_step(overflowed=not finite)
            elif finite:
                self.progress[i] = replace(before, updates=before.updates + 1)
        self._adamw.step()
        for row in self.rows:
            row.grad = None
        return norms
