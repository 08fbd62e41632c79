"""Estimates with intervals: what the scores of some rows and seeds say about the loss on all rows.

A loss is a ratio, in nats per token: the sum of the rows' losses over the sum of their tokens. Two
things are drawn at random, and each adds a layer to the error of a comparison.

*Rows* are the sampling unit. The error of the ratio comes from the residual of each row (the delta
method; Cochran, Sampling Techniques, §6.4). Rows that share a source count as one (Miller,
2411.00640). Two candidates are compared by the differences on the same rows, because what makes a
row hard is in both and cancels.

*Seeds.* A setting that is trained again, with other first weights and another order of the rows,
ends with another loss, and more rows do not lessen that noise. It is estimated from settings that
were trained with several seeds, as what remains of their losses without the effect of the setting
and of the seed (two-way layout without replication; Scheffé, The Analysis of Variance, §4.2). The
losses of several seeds are averaged row by row, and never counted as more rows. What a seed does to
all settings alike cancels in a comparison, but not in the loss of one setting, which has both parts
(`run_noise`).

The variances add up. The degrees of freedom of the sum are Satterthwaite's (1946), and the
quantiles are Student's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from rung.types import Outcome, RequiredSample, Scores

RowLosses = npt.NDArray[np.float64]
"""A number for each row, (rows,), in nats."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its bounds."""

    mean: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


@dataclass(frozen=True, slots=True)
class Variance:
    """A variance, and the degrees of freedom of its estimate: infinite if it is exact."""

    value: float
    degrees_of_freedom: float

    def __add__(self, other: Variance) -> Variance:
        """The variance of the sum of two independent estimates (Satterthwaite, 1946)."""
        total = self.value + other.value
        if total == 0:
            return Variance(0.0, min(self.degrees_of_freedom, other.degrees_of_freedom))
        uncertainty = sum(v.value**2 / v.degrees_of_freedom for v in (self, other) if v.value)
        return Variance(total, total**2 / uncertainty if uncertainty else math.inf)

    def times(self, factor: float) -> Variance:
        """The variance, multiplied by a known factor."""
        return Variance(self.value * factor, self.degrees_of_freedom)


NO_SEED_NOISE = Variance(0.0, math.inf)
"""Zero, known exactly: for an interval that covers the choice of rows alone."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimate in nats per token, and the variance of its error."""

    mean: float
    variance: Variance

    @property
    def error(self) -> float:
        """The standard error."""
        return math.sqrt(self.variance.value)

    def interval(self, confidence: float = 0.95) -> Interval:
        half = _t_quantile(0.5 + confidence / 2, self.variance.degrees_of_freedom) * self.error
        return Interval(self.mean, self.mean - half, self.mean + half)


def loss_estimate(scores: Sequence[Scores], seed_variance: Variance = NO_SEED_NOISE) -> Estimate:
    """The loss of one setting.

    Args:
        scores: one run for each seed, all on the same rows.
        seed_variance: what the seeds add to the variance: `run_noise` over the number of runs.
    """
    over_rows = _ratio_estimate(_mean_over_seeds(scores), scores[0])
    return Estimate(over_rows.mean, over_rows.variance + seed_variance)


def gain_estimate(
    before: Sequence[Scores], after: Sequence[Scores], seed_variance: Variance = NO_SEED_NOISE
) -> Estimate:
    """By how much the loss of `after` is below that of `before`; positive is better.

    Args:
        before, after: one run for each seed, all on the same rows. If both sides have the same
            seeds in the same order, what those have in common cancels.
        seed_variance: what the seeds add to the variance: `seed_noise` over the runs of each side.

    Raises:
        ValueError: The two sides were not scored on the same rows.
    """
    if any(scores.tokens != before[0].tokens for scores in (*before, *after)):
        raise ValueError("a comparison needs the same rows on both sides")
    over_rows = _ratio_estimate(_mean_over_seeds(before) - _mean_over_seeds(after), before[0])
    return Estimate(over_rows.mean, over_rows.variance + seed_variance)


def loss_interval(scores: Scores, confidence: float = 0.95) -> Interval:
    """The loss of one run, in nats per token. The interval covers the choice of rows alone."""
    return loss_estimate([scores]).interval(confidence)


def seed_noise(losses: Mapping[tuple[object, int], float]) -> Variance | None:
    """The part of the variance of a run's loss that neither its setting nor its seed explains.

    This is the noise of a comparison on the same seeds. What a seed does to all settings alike
    (such as presenting the same rows late) cancels there, so it is left out. With one setting it
    cannot be told apart, and the whole effect of the seed counts.

    Args:
        losses: the loss of each run, by setting and seed. Not every setting needs every seed.

    Returns:
        The variance of one run; None if no setting has two seeds.
    """
    cells = _settings_with_several_seeds(losses)
    several_settings = len({setting for setting, _ in cells}) > 1
    residual, freedom = _residual_sum_of_squares(cells, several_settings)
    return Variance(residual / freedom, freedom) if freedom > 0 else None


def run_noise(losses: Mapping[tuple[object, int], float]) -> Variance | None:
    """The variance of a run's loss around the mean of its setting.

    It is the sum of what a seed does to all settings alike and of `seed_noise`: the uncertainty of
    the loss of one setting. It comes from the mean squares of the two-way layout: with k settings,
    the mean square of the seeds is expected to be the residual variance plus k times the variance
    of the seeds (Scheffé, §7.4).

    Args:
        losses: as in `seed_noise`.

    Returns:
        The variance of one run; None if no setting has two seeds.
    """
    cells = _settings_with_several_seeds(losses)
    within, within_freedom = _residual_sum_of_squares(cells, seed_effect=False)
    residual, residual_freedom = _residual_sum_of_squares(cells, seed_effect=True)
    if not within_freedom:
        return None
    seeds_freedom = within_freedom - residual_freedom
    if not residual_freedom or not seeds_freedom:
        return Variance(within / within_freedom, within_freedom)
    settings_per_seed = len(cells) / len({seed for _, seed in cells})
    of_seeds = Variance((within - residual) / seeds_freedom, seeds_freedom)
    of_residual = Variance(residual / residual_freedom, residual_freedom)
    return of_seeds.times(1 / settings_per_seed) + of_residual.times(1 - 1 / settings_per_seed)


def _settings_with_several_seeds(
    losses: Mapping[tuple[object, int], float],
) -> dict[tuple[object, int], float]:
    seeds = Counter(setting for setting, _ in losses)
    return {(setting, seed): loss for (setting, seed), loss in losses.items() if seeds[setting] > 1}


def _residual_sum_of_squares(
    cells: Mapping[tuple[object, int], float], seed_effect: bool
) -> tuple[float, int]:
    """The residual sum of squares of a layout, and its degrees of freedom.

    The layout has an effect of each setting and, with `seed_effect`, one of each seed.
    """
    if not cells:
        return 0.0, 0
    settings, seeds = sorted({s for s, _ in cells}, key=str), sorted({seed for _, seed in cells})
    design = np.zeros((len(cells), len(settings) + (len(seeds) if seed_effect else 0)))
    for row, (setting, seed) in enumerate(cells):
        design[row, settings.index(setting)] = 1
        if seed_effect:
            design[row, len(settings) + seeds.index(seed)] = 1
    losses = np.array(list(cells.values()))
    solution, _, rank, _ = np.linalg.lstsq(design, losses, rcond=None)
    return float(((losses - design @ solution) ** 2).sum()), len(cells) - int(rank)


def judge(gain: Interval, margin: float) -> Outcome:
    """What the interval of a gain shows, if gains below `margin` are not worth having.

    `better`: there is some gain for certain, and the estimate is worth having.
    `no_worthwhile_gain`: the upper bound is below the margin. Everything else is `undecided`, and
    is never called equal.
    """
    if gain.high < margin:
        return "no_worthwhile_gain"
    return "better" if gain.low > 0 and gain.mean >= margin else "undecided"


def shared_confidence(comparisons: int, confidence: float = 0.95) -> float:
    """The confidence that each comparison needs, so that all hold together (Bonferroni).

    A repeated look at the same comparison counts as a comparison: three looks, as the data come in,
    are three chances to be wrong. The bound holds however the comparisons depend on each other.
    """
    return 1 - (1 - confidence) / max(1, comparisons)


def minimum_detectable(estimate: Estimate, confidence: float = 0.95, power: float = 0.8) -> float:
    """The smallest true gain that such a comparison shows to be above zero in `power` of all cases.

    (t(1 − α/2) + t(power)) · standard error; Bloom, Evaluation Review 19(5), 1995.
    """
    freedom = estimate.variance.degrees_of_freedom
    return (
        _t_quantile(0.5 + confidence / 2, freedom) + _t_quantile(power, freedom)
    ) * estimate.error


def required_sample(
    before: Sequence[Scores],
    after: Sequence[Scores],
    noise: Variance,
    margin: float,
    confidence: float = 0.95,
) -> RequiredSample:
    """How many validation rows, or seeds, would decide a comparison if its estimate stays the same.

    The interval has to become so narrow that it is above zero, for an estimate that reaches the
    margin, or below the margin, for one that does not. Rows and seeds are each computed with the
    other number as it is. A number above a million is given as None.

    Args:
        before, after: the runs of the two sides, as in `gain_estimate`.
        noise: of one run, from `seed_noise`.
        margin: the smallest gain that is worth having, in nats per token.
        confidence: of the interval.
    """
    rows_alone = gain_estimate(before, after)
    rows_now, seeds_now = len(before[0].tokens), min(len(before), len(after))
    gain = rows_alone.mean
    enough = gain if gain >= margin else margin - gain

    def half_width(rows: int, seeds: int) -> float:
        sources = (rows_alone.variance.degrees_of_freedom + 1) * rows / rows_now
        from_rows = Variance(rows_alone.variance.value * rows_now / rows, max(1, sources - 1))
        # A further seed also makes the noise better known. It adds two runs, and takes one degree
        # of freedom for the effect of that seed on both.
        freedom = noise.degrees_of_freedom + seeds - seeds_now
        variance = from_rows + Variance(noise.value * 2 / seeds, freedom)
        quantile = _t_quantile(0.5 + confidence / 2, variance.degrees_of_freedom)
        return quantile * math.sqrt(variance.value)

    return RequiredSample(
        _smallest_sufficient(rows_now, lambda rows: half_width(rows, seeds_now) < enough),
        _smallest_sufficient(seeds_now, lambda seeds: half_width(rows_now, seeds) < enough),
    )


def _smallest_sufficient(start: int, sufficient: Callable[[int], bool]) -> int | None:
    """The smallest sufficient number from `start` on; None if it is above a million."""
    high = max(1, start)
    while not sufficient(high):
        high *= 2
        if high > 1_000_000:
            return None
    low = max(start, high // 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if sufficient(middle) else (middle + 1, high)
    return high


def rows_variance(values: RowLosses, scores: Scores) -> Variance:
    """The variance over the rows of Σ values / Σ tokens.

    Args:
        values: (rows,), a linear combination of losses for each row.
        scores: any scores on those rows; only its tokens and sources are used.
    """
    return _ratio_estimate(values, scores).variance


def _mean_over_seeds(scores: Sequence[Scores]) -> RowLosses:
    """The loss of each row, averaged over the seeds."""
    mean: RowLosses = np.mean([s.losses for s in scores], axis=0)
    return mean


def _ratio_estimate(values: RowLosses, scores: Scores) -> Estimate:
    """Σ values / Σ tokens, with its variance over the sources of the rows."""
    tokens = np.array(scores.tokens, dtype=np.float64)
    total = float(tokens.sum())
    ratio = float(values.sum()) / total
    residuals = values - ratio * tokens
    if scores.sources:
        source_of_row = np.unique(scores.sources, return_inverse=True)[1]
        residuals = np.bincount(source_of_row, residuals).astype(np.float64)
    n = len(residuals)
    if n < 2:
        raise ValueError("an interval needs at least two rows, of two sources")
    return Estimate(ratio, Variance(float(residuals @ residuals) / (n - 1) * n / total**2, n - 1))


def _t_quantile(probability: float, degrees_of_freedom: float) -> float:
    """A quantile of Student's t, which is the normal one at infinite degrees of freedom."""
    if math.isinf(degrees_of_freedom):
        return float(special.ndtri(probability))
    return float(special.stdtrit(degrees_of_freedom, probability))
