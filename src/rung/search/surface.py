"""A surface through a race: what the settings that were tried say of all of them.

One lever after the other uses a run for one lever alone. Here every run speaks for all of its levers: the logarithm of
the loss is fitted as a polynomial in the levers (a response surface; Box & Wilson, JRSS B 13, 1951) by Bayesian linear
regression, with the shrinkage that makes the data likeliest (MacKay, Neural Computation 4, 1992). What the fit leaves
over is the noise of a run, so one seed each is enough to know it. Which settings to try follows from the same algebra:
at first those that the surface would know least about, one by one (the greedy Bayesian D-optimal design; Chaloner &
Verdinelli, Statistical Science 10, 1995), then those that could be the best, as far as is known (a lower confidence
bound, in batches; Desautels, Krause & Burdick, JMLR 15, 2014).
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from rung.search.stats import Estimate, Variance, rows_variance
from rung.types import Scores, Setting

Numbers = npt.NDArray[np.floating[Any]]

SHRINKAGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""How many runs a coefficient's prior is worth, at one unit of its lever."""
INTERVAL_SHRINKAGE = 0.1
"""The shrinkage for intervals: as little as keeps a surface through fewer runs than coefficients in place."""
INTERCEPT_SHRINKAGE = 1e-4
"""The same for the level of the surface, of which nothing is known beforehand."""
LOSS_CLIP = 0.7
"""Losses more than twice the best are all alike: how bad a bad setting is says nothing about the good ones."""
MIN_LOSS = 1e-6
"""Nats a token under which a loss is taken for this one, so that it has a logarithm."""
EXPLORATION = 1.0
"""How many standard errors below its expectation a setting is hoped to be."""


class Axes:
    """The levers as numbers: a coefficient for each, one for how much it moves the best learning rate, one for each
    rung of the ladder, whose returns may diminish anywhere, and one for the bend of the scale, which moves the rate.

    Args:
        settings: they set the middle of each lever. A unit is a factor of four of rate and rank, a doubling of the
            scale, and to have a kind of target modules or not.
    """

    def __init__(self, settings: Sequence[Setting]) -> None:
        self._parts = sorted({part for setting in settings for part in _parts_of(setting.targets)})
        raw = [self._raw(setting) for setting in settings]
        self._ranks = sorted({math.log2(setting.rank) for setting in settings})
        self._middle = [(min(lever) + max(lever)) / 2 for lever in zip(*raw, strict=True)]
        self._rows: dict[Setting, list[float]] = {}

    def __call__(self, settings: Sequence[Setting]) -> Numbers:
        """The design matrix: a row for each setting, its first column all ones."""
        rows = self._rows
        return np.array(
            [
                rows.get(setting) or rows.setdefault(setting, self._row(setting))
                for setting in settings
            ]
        )

    def _row(self, setting: Setting) -> list[float]:
        levers = [
            value - middle for value, middle in zip(self._raw(setting), self._middle, strict=True)
        ]
        rate, _, scale, *_ = levers
        doublings = math.log2(setting.rank)
        rungs = [
            min(1.0, max(0.0, (doublings - below) / (above - below))) - 0.5
            for below, above in itertools.pairwise(self._ranks)
        ]
        return [1.0, *levers, *(rate * lever for lever in levers), *rungs, scale * scale]

    def _raw(self, setting: Setting) -> list[float]:
        kinds = [float(part in _parts_of(setting.targets)) for part in self._parts]
        return [
            math.log2(setting.learning_rate) / 2,
            math.log2(setting.rank) / 2,
            math.log2(setting.scale),
            *kinds,
        ]


@cache
def _parts_of(targets: str) -> frozenset[str]:
    return frozenset(re.split("[+,]", targets))


def design(
    axes: Axes, pool: Sequence[Setting], count: int, after: Sequence[Setting] = ()
) -> list[Setting]:
    """The settings of the pool to begin with, or to go on with after others: each the one that is known least about
    after those before it.
    """
    rows = axes(pool)
    known = axes(after) if after else rows[:0]
    inverse = np.linalg.inv(np.diag(_prior(rows, 1.0)) + known.T @ known)
    return [pool[i] for i in _pick(rows, inverse, np.zeros(len(pool)), 1.0, count)]


def _prior(rows: Numbers, shrinkage: float) -> Numbers:
    """How many runs the prior of each coefficient is worth."""
    worth = np.full(rows.shape[1], shrinkage)
    worth[0] = INTERCEPT_SHRINKAGE
    return worth


def _pick(rows: Numbers, inverse: Numbers, expected: Numbers, hope: float, count: int) -> list[int]:
    """One by one those that could be the lowest, each as if the ones before had come out as expected."""
    free, chosen = np.ones(len(rows), dtype=bool), []
    variance = ((rows @ inverse) * rows).sum(axis=1)
    for _ in range(min(count, len(rows))):
        score = hope * np.sqrt(variance.clip(min=0)) - expected
        # What differs by rounding alone is taken in the order of the pool.
        best = int(np.argmax(np.where(free, np.round(score, 9), -np.inf)))
        chosen.append(best)
        free[best] = False
        column, known = inverse @ rows[best], 1 + variance[best]
        inverse = inverse - np.outer(column, column) / known
        variance = variance - (rows @ column) ** 2 / known
    return chosen


@dataclass(frozen=True)
class Surface:
    """The surface through what was tried.

    `noise` is the variance of a run around it, in log loss, of chance and of what the polynomial cannot follow.
    """

    axes: Axes
    tried: tuple[Setting, ...]
    scores: tuple[Scores | None, ...]
    level: float
    coefficients: Numbers
    inverse: Numbers
    noise: Variance

    @classmethod
    def through(
        cls,
        axes: Axes,
        tried: Sequence[Setting],
        scores: Sequence[Scores | None],
        shrinkage: float | None = None,
    ) -> Surface:
        """Fit it, with the likeliest shrinkage if none is given. A setting without scores has diverged; not all have.

        What is shrunk is foretold better, and is off to one side: intervals hold the truth where little is shrunk.
        """
        losses = np.array([_log_loss(s) for s in scores])
        losses = np.minimum(losses, losses.min() + LOSS_CLIP)
        rows, level = axes(tried), float(losses.mean())
        found = losses - level
        worth = _prior(
            rows, shrinkage or max(SHRINKAGES, key=lambda likely: _evidence(rows, found, likely))
        )
        inverse = np.linalg.inv(rows.T @ rows + np.diag(worth))
        coefficients = inverse @ rows.T @ found
        freedom = len(tried) - float(np.trace(rows @ inverse @ rows.T))
        residual = float(((found - rows @ coefficients) ** 2).sum())
        noise = Variance(residual / max(1.0, freedom), max(1.0, freedom))
        return cls(axes, tuple(tried), tuple(scores), level, coefficients, inverse, noise)

    def expected(self, settings: Sequence[Setting]) -> Numbers:
        """The log loss of each setting."""
        found: Numbers = self.level + self.axes(settings) @ self.coefficients
        return found

    @cached_property
    def judged(self) -> dict[Setting, float]:
        """The log loss of what was tried, halfway between its run, which has been lucky or not, and the surface, which
        cannot follow everything. Infinite where it diverged.
        """
        expected = self.expected(self.tried)
        return {
            setting: (_log_loss(scores) + float(on_surface)) / 2
            for setting, scores, on_surface in zip(self.tried, self.scores, expected, strict=True)
        }

    def next(
        self, pool: Sequence[Setting], count: int, beside: Sequence[Setting] = ()
    ) -> list[Setting]:
        """The settings of the pool that could be the best, and have neither been tried nor are about to be, `beside`
        these.
        """
        known = {*self.tried, *beside}
        new = [setting for setting in pool if setting not in known]
        if not new or not count:
            return []
        hope, inverse = EXPLORATION * math.sqrt(self.noise.value), self.inverse
        if beside:
            rows = self.axes(beside)
            inverse = np.linalg.inv(np.linalg.inv(inverse) + rows.T @ rows)
        return [new[i] for i in _pick(self.axes(new), inverse, self.expected(new), hope, count)]

    def gain(self, before: Setting, to: Setting) -> Estimate:
        """How much lower the loss of `to` is, in nats a token; for settings that need not have been tried.

        Its variance has the noise of the runs that say so, and of the rows that they were scored on.
        """
        one, other = self.axes([before, to])
        across = one - other
        weights = self.axes(self.tried) @ self.inverse @ across
        cut = min(map(_log_loss, self.scores)) + LOSS_CLIP
        like = next(s for s in self.scores if s)
        # Where a loss was cut to the worst that counts, its rows say nothing.
        inside = [
            (w, s) for w, s in zip(weights, self.scores, strict=True) if s and _log_loss(s) < cut
        ]
        rows = np.sum([w * np.array(s.losses) / max(s.mean, MIN_LOSS) for w, s in inside], axis=0)
        variance = self.noise.times(float(across @ self.inverse @ across)) + rows_variance(
            rows, like
        )
        high, low = np.exp(self.expected([before, to]))
        return Estimate(float(high - low), variance.times(float(low) ** 2))


def _log_loss(scores: Scores | None) -> float:
    """Infinite where there are none."""
    return math.log(max(scores.mean, MIN_LOSS)) if scores else math.inf


def _evidence(rows: Numbers, found: Numbers, shrinkage: float) -> float:
    """The logarithm of how likely the losses are, with the noise integrated out, but for a constant."""
    covariance = np.eye(len(rows)) + rows @ np.diag(1 / _prior(rows, shrinkage)) @ rows.T
    _, determinant = np.linalg.slogdet(covariance)
    misfit = float(found @ np.linalg.solve(covariance, found))
    return float(-determinant / 2 - len(rows) / 2 * math.log(max(misfit, 1e-12)))
