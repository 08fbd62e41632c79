"""The surface through a race: what the settings that were tried say about all settings.

If the levers are tried one after the other, each run informs about one lever. Here every run
informs about all of its levers: the logarithm of the loss is fitted as a polynomial in the levers
(a response surface; Box & Wilson, JRSS B 13, 1951) by Bayesian linear regression, with the
shrinkage that makes the data most likely (MacKay, Neural Computation 4, 1992). The residuals are
the noise of a run, so one seed for each setting is enough to estimate it.

The same algebra says which settings to try. At first they are, one by one, those that the surface
knows least about (the greedy Bayesian D-optimal design; Chaloner & Verdinelli, Statistical Science
10, 1995). Later they are those that could be the best (a lower confidence bound, in batches;
Desautels, Krause & Burdick, JMLR 15, 2014).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rung.search.axes import Axes, Numbers
from rung.search.stats import Estimate, Variance, rows_variance
from rung.types import Scores, Setting

SHRINKAGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""The shrinkages to choose from: how many runs the prior of a coefficient counts for, at one unit
of its lever."""
INTERVAL_SHRINKAGE = 0.1
"""The shrinkage for intervals: just enough to determine a surface that has more coefficients than
runs."""
INTERCEPT_SHRINKAGE = 1e-4
"""The shrinkage of the intercept: the level of the losses is not known beforehand."""
LOSS_CLIP = 0.7
"""In log loss. Losses above about twice the best are clipped to that: how bad a bad setting is says
nothing about the good ones."""
MIN_LOSS = 1e-6
"""Nats per token. Lower losses count as this one, so that each loss has a logarithm."""
EXPLORATION = 1.0
"""How many standard errors are taken off the predicted loss of a setting that is not tried yet."""


def design(
    axes: Axes, pool: Sequence[Setting], count: int, known: Sequence[Setting] = ()
) -> list[Setting]:
    """Choose settings of the pool before anything is measured.

    Each one is the setting that the surface knows least about, given the ones before it.

    Args:
        axes: of the surface.
        pool: the settings to choose from.
        count: how many to choose, if the pool has so many.
        known: settings that were chosen before.
    """
    rows = axes(pool)
    known_rows = axes(known) if known else rows[:0]
    covariance = np.linalg.inv(np.diag(_prior(rows, 1.0)) + known_rows.T @ known_rows)
    return [pool[i] for i in _choose(rows, covariance, np.zeros(len(pool)), 1.0, count)]


def _prior(rows: Numbers, shrinkage: float) -> Numbers:
    """How many runs the prior of each coefficient counts for, (columns,)."""
    prior = np.full(rows.shape[1], shrinkage)
    prior[0] = INTERCEPT_SHRINKAGE
    return prior


def _choose(
    rows: Numbers, covariance: Numbers, predicted: Numbers, exploration: float, count: int
) -> list[int]:
    """Choose one by one the rows with the lowest confidence bound.

    After each choice the covariance is updated as if that row had been measured.

    Args:
        rows: (settings, columns) of the design matrix.
        covariance: (columns, columns) of the coefficients, for a noise of one.
        predicted: (settings,), the predicted log losses.
        exploration: how many units of the noise the bound is below the prediction.
    """
    free, chosen = np.ones(len(rows), dtype=bool), []
    variance = ((rows @ covariance) * rows).sum(axis=1)
    for _ in range(min(count, len(rows))):
        score = exploration * np.sqrt(variance.clip(min=0)) - predicted
        # Scores that differ only by rounding count as equal, and the first in the pool is taken.
        best = int(np.argmax(np.where(free, np.round(score, 9), -np.inf)))
        chosen.append(best)
        free[best] = False
        column, total = covariance @ rows[best], 1 + variance[best]
        covariance = covariance - np.outer(column, column) / total
        variance = variance - (rows @ column) ** 2 / total
    return chosen


@dataclass(frozen=True)
class Surface:
    """A polynomial in the levers, fitted to the log losses of the tried settings.

    Attributes:
        axes: the columns of the polynomial.
        tried, scores: what it was fitted to; the scores are None for a setting that diverged.
        level: the mean log loss, to which the polynomial adds.
        coefficients: (columns,).
        covariance: (columns, columns), of the coefficients, for a noise of one.
        noise: the variance of a run around the surface, in log loss. It contains chance, and what
            the polynomial cannot represent.
    """

    axes: Axes
    tried: tuple[Setting, ...]
    scores: tuple[Scores | None, ...]
    level: float
    coefficients: Numbers
    covariance: Numbers
    noise: Variance

    @classmethod
    def fit(
        cls,
        axes: Axes,
        tried: Sequence[Setting],
        scores: Sequence[Scores | None],
        shrinkage: float | None = None,
    ) -> Surface:
        """Fit a surface.

        Shrinkage improves predictions but biases them, so intervals use weak shrinkage.

        Args:
            axes: of the surface.
            tried: the settings.
            scores: one for each setting; None if it diverged. At least one is not None.
            shrinkage: by default the most likely of `SHRINKAGES`.
        """
        losses = np.array([_log_loss(s) for s in scores])
        losses = np.minimum(losses, losses.min() + LOSS_CLIP)
        rows, level = axes(tried), float(losses.mean())
        centred = losses - level
        prior = _prior(
            rows, shrinkage or max(SHRINKAGES, key=lambda s: _log_evidence(rows, centred, s))
        )
        covariance = np.linalg.inv(rows.T @ rows + np.diag(prior))
        coefficients = covariance @ rows.T @ centred
        freedom = len(tried) - float(np.trace(rows @ covariance @ rows.T))
        residual = float(((centred - rows @ coefficients) ** 2).sum())
        noise = Variance(residual / max(1.0, freedom), max(1.0, freedom))
        return cls(axes, tuple(tried), tuple(scores), level, coefficients, covariance, noise)

    def predict(self, settings: Sequence[Setting]) -> Numbers:
        """The expected log loss of each setting, (settings,)."""
        predicted: Numbers = self.level + self.axes(settings) @ self.coefficients
        return predicted

    @cached_property
    def smoothed_losses(self) -> dict[Setting, float]:
        """The log loss of each tried setting, halfway between its run and the surface.

        The run has been lucky or not, and the surface cannot represent everything. The value is
        infinite for a setting that diverged.
        """
        return {
            setting: (_log_loss(scores) + float(predicted)) / 2
            for setting, scores, predicted in zip(
                self.tried, self.scores, self.predict(self.tried), strict=True
            )
        }

    def propose(
        self, pool: Sequence[Setting], count: int, pending: Sequence[Setting] = ()
    ) -> list[Setting]:
        """The settings of the pool that could be the best.

        Args:
            pool: the settings to choose from. Those that were tried, or are pending, are left out.
            count: how many to choose, if there are so many.
            pending: settings that will be tried together with these.
        """
        taken = {*self.tried, *pending}
        new = [setting for setting in pool if setting not in taken]
        if not new or not count:
            return []
        covariance = self.covariance
        if pending:
            rows = self.axes(pending)
            covariance = np.linalg.inv(np.linalg.inv(covariance) + rows.T @ rows)
        exploration = EXPLORATION * math.sqrt(self.noise.value)
        chosen = _choose(self.axes(new), covariance, self.predict(new), exploration, count)
        return [new[i] for i in chosen]

    def gain(self, before: Setting, after: Setting) -> Estimate:
        """By how much the loss of `after` is lower, in nats per token.

        The settings need not have been tried. The variance contains the noise of the runs that the
        surface was fitted to, and of the rows that they were scored on.
        """
        row_before, row_after = self.axes([before, after])
        difference = row_before - row_after
        weights = self.axes(self.tried) @ self.covariance @ difference
        clip = min(map(_log_loss, self.scores)) + LOSS_CLIP
        any_scores = next(s for s in self.scores if s)
        # The rows of a run whose loss was clipped have no influence on the fit.
        unclipped = [
            (weight, scores)
            for weight, scores in zip(weights, self.scores, strict=True)
            if scores and _log_loss(scores) < clip
        ]
        by_row = np.sum(
            [weight * np.array(s.losses) / max(s.mean, MIN_LOSS) for weight, s in unclipped], axis=0
        )
        from_noise = self.noise.times(float(difference @ self.covariance @ difference))
        variance = from_noise + rows_variance(by_row, any_scores)
        loss_before, loss_after = np.exp(self.predict([before, after]))
        # The derivative of the loss by its logarithm is the loss.
        return Estimate(float(loss_before - loss_after), variance.times(float(loss_after) ** 2))


def _log_loss(scores: Scores | None) -> float:
    """The logarithm of the loss; infinite for a run that diverged."""
    return math.log(max(scores.mean, MIN_LOSS)) if scores else math.inf


def _log_evidence(rows: Numbers, centred: Numbers, shrinkage: float) -> float:
    """The log likelihood of the losses, with the noise integrated out, up to a constant.

    Args:
        rows: (settings, columns) of the design matrix.
        centred: (settings,), log losses around their mean.
    """
    covariance = np.eye(len(rows)) + rows @ np.diag(1 / _prior(rows, shrinkage)) @ rows.T
    _, log_determinant = np.linalg.slogdet(covariance)
    misfit = float(centred @ np.linalg.solve(covariance, centred))
    return float(-log_determinant / 2 - len(rows) / 2 * math.log(max(misfit, 1e-12)))
