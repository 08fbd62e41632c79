"""What the scores of some validation rows, from some seeds, say of the loss on all such rows; with intervals.

A loss is nats per token, a ratio: the rows' summed losses over their token counts. Two things are drawn at random, and
each has its own layer in the error of a comparison:

- *Rows.* They are the unit; the ratio's error is taken from each row's residual (the delta method; Cochran, Sampling
  Techniques, §6.4). Rows that share a source count as one (Miller, 2411.00640). Two candidates are compared through the
  differences of the same rows (the pairing law): what makes a row hard is in both and cancels.
- *Seeds.* The same setting, trained again with other first weights and another order of rows, ends elsewhere. That is
  noise which more rows do not lessen: it is estimated from settings that were trained with several seeds, as what is
  left of their losses when the setting's and the seed's own effect are taken away (two-way layout without replication;
  Scheffé, The Analysis of Variance, §4.2). Rows of several seeds are averaged, and never counted as more rows. What a
  seed does to all settings alike cancels in a comparison, but not in the loss of a setting, which carries both
  (`run_noise`).

The variances add up; the degrees of freedom of the sum are Satterthwaite's (1946), and the quantiles Student's.
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

Losses = npt.NDArray[np.float64]


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
    """A variance and the degrees of freedom that it is known with; infinitely many where it is known for sure."""

    value: float
    freedom: float

    def __add__(self, other: Variance) -> Variance:
        """Of a sum of two independent estimates (Satterthwaite, 1946)."""
        total = self.value + other.value
        if total == 0:
            return Variance(0.0, min(self.freedom, other.freedom))
        uncertain = sum(v.value**2 / v.freedom for v in (self, other) if v.value)
        return Variance(total, total**2 / uncertain if uncertain else math.inf)

    def times(self, factor: float) -> Variance:
        return Variance(self.value * factor, self.freedom)


KNOWN_ZERO = Variance(0.0, math.inf)
"""No noise from seeds: what an interval assumes that covers the choice of rows alone."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number in nats per token, and the variance of its error."""

    mean: float
    variance: Variance

    @property
    def error(self) -> float:
        """The standard error."""
        return math.sqrt(self.variance.value)

    def interval(self, confidence: float = 0.95) -> Interval:
        reach = _quantile(0.5 + confidence / 2, self.variance.freedom) * self.error
        return Interval(self.mean, self.mean - reach, self.mean + reach)


def loss_estimate(scores: Sequence[Scores], seeds: Variance = KNOWN_ZERO) -> Estimate:
    """The loss of one setting, from a run of each of some seeds; `seeds` is what they add to the variance: the noise of
    one run (`run_noise`), over their number.
    """
    rows = _ratio(_averaged(scores), scores[0])
    return Estimate(rows.mean, rows.variance + seeds)


def gain_estimate(
    before: Sequence[Scores], to: Sequence[Scores], seeds: Variance = KNOWN_ZERO
) -> Estimate:
    """How much lower the loss of `to` is than that of `before`, row by row; positive is better.

    Args:
        before, to: a run of each of some seeds, on the same rows. Where both have the same seeds in the same order,
            what the seeds have in common cancels.
        seeds: what the seeds add to the variance: the noise of one run (`seed_noise`), over the runs of each side.

    Raises:
        ValueError: the two were not scored on the same rows.
    """
    if any(scores.tokens != before[0].tokens for scores in (*before, *to)):
        raise ValueError("a comparison needs the same rows on both sides")
    rows = _ratio(_averaged(before) - _averaged(to), before[0])
    return Estimate(rows.mean, rows.variance + seeds)


def loss_interval(scores: Scores, confidence: float = 0.95) -> Interval:
    """The loss of one run, in nats per token; the interval covers the choice of rows alone."""
    return loss_estimate([scores]).interval(confidence)


def seed_noise(losses: Mapping[tuple[object, int], float]) -> Variance | None:
    """The variance of one run's loss that is owed to chance in training: neither to its setting nor to its seed.

    What a seed does to all settings alike (the same rows come late, say) cancels in a comparison of the same seeds, so
    it is taken away. With one setting there is nothing to tell that from, and the seed's whole effect counts.

    Args:
        losses: by setting and seed; settings and seeds may be missing from one another.

    Returns:
        None where no setting has two seeds.
    """
    cells = _with_several_seeds(losses)
    shared = len({setting for setting, _ in cells}) > 1
    residual, freedom = _left_over(cells, shared)
    return Variance(residual / freedom, freedom) if freedom > 0 else None


def run_noise(losses: Mapping[tuple[object, int], float]) -> Variance | None:
    """The variance of one run's loss around what its setting comes to on average: what the seed does to all settings
    alike, and what it does to this one alone (`seed_noise`). It is what the loss of a setting is uncertain by.

    From the mean squares of the two-way layout: with k settings, that of the seeds is expected to be the residual
    variance and k times the seeds' own (Scheffé, §7.4). Args and Returns as in `seed_noise`.
    """
    cells = _with_several_seeds(losses)
    within, freedom = _left_over(cells, shared=False)
    residual, own = _left_over(cells, shared=True)
    if not freedom:
        return None
    seeds = freedom - own
    if not own or not seeds:
        return Variance(within / freedom, freedom)
    settings = len(cells) / len({seed for _, seed in cells})
    of_seeds, alone = Variance((within - residual) / seeds, seeds), Variance(residual / own, own)
    return of_seeds.times(1 / settings) + alone.times(1 - 1 / settings)


def _with_several_seeds(
    losses: Mapping[tuple[object, int], float],
) -> dict[tuple[object, int], float]:
    """Those of the settings that have more than one seed."""
    seeds = Counter(setting for setting, _ in losses)
    return {(setting, seed): loss for (setting, seed), loss in losses.items() if seeds[setting] > 1}


def _left_over(cells: Mapping[tuple[object, int], float], shared: bool) -> tuple[float, int]:
    """The sum of squares that a layout of settings, and of seeds where they are shared, leaves over; its freedom."""
    if not cells:
        return 0.0, 0
    settings, seeds = sorted({s for s, _ in cells}, key=str), sorted({seed for _, seed in cells})
    design = np.zeros((len(cells), len(settings) + (len(seeds) if shared else 0)))
    for row, (setting, seed) in enumerate(cells):
        design[row, settings.index(setting)] = 1
        if shared:
            design[row, len(settings) + seeds.index(seed)] = 1
    found = np.array(list(cells.values()))
    solution, _, rank, _ = np.linalg.lstsq(design, found, rcond=None)
    return float(((found - design @ solution) ** 2).sum()), len(cells) - int(rank)


def judge(gain: Interval, margin: float) -> Outcome:
    """What an interval for a gain shows, where gains under `margin` are not worth having.

    *better*: some gain is certain, and the estimate is worth having. *no worthwhile gain*: the upper bound lies under
    the margin. Everything else is *undecided*, and is never called equal.
    """
    if gain.high < margin:
        return "no_worthwhile_gain"
    return "better" if gain.low > 0 and gain.mean >= margin else "undecided"


def shared_confidence(comparisons: int, confidence: float = 0.95) -> float:
    """The confidence that each of several comparisons needs, for all to hold together (Bonferroni).

    Looks count as comparisons: whoever judges a comparison three times, as the data come in, has three chances to be
    wrong. The bound holds however the comparisons depend on each other.
    """
    return 1 - (1 - confidence) / max(1, comparisons)


def minimum_detectable(estimate: Estimate, confidence: float = 0.95, power: float = 0.8) -> float:
    """The smallest true gain that a comparison like this one would show to be above zero, in `power` of all cases.

    (t(1 − α/2) + t(power)) · standard error; Bloom, Evaluation Review 19(5), 1995.
    """
    freedom = estimate.variance.freedom
    return (_quantile(0.5 + confidence / 2, freedom) + _quantile(power, freedom)) * estimate.error


def required_sample(
    before: Sequence[Scores],
    to: Sequence[Scores],
    noise: Variance,
    margin: float,
    confidence: float = 0.95,
) -> RequiredSample:
    """What would decide a comparison if its estimate stays where it is: more validation rows, or more seeds.

    The interval has to become so narrow that it lies above zero, for an estimate that reaches the margin, or below the
    margin, for one that does not. Each is asked with the other as it is; the totals are returned, not what is to be
    added. Numbers over a million are as good as never.
    """
    rows_only = gain_estimate(before, to)
    n, s = len(before[0].tokens), min(len(before), len(to))
    gain = rows_only.mean
    reach = gain if gain >= margin else margin - gain

    def wide(rows: int, seeds: int) -> float:
        sources = (rows_only.variance.freedom + 1) * rows / n
        from_rows = Variance(rows_only.variance.value * n / rows, max(1, sources - 1))
        # A further seed also makes the noise better known: two runs, less the effect of that seed on both.
        from_seeds = Variance(noise.value * 2 / seeds, noise.freedom + seeds - s)
        variance = from_rows + from_seeds
        return _quantile(0.5 + confidence / 2, variance.freedom) * math.sqrt(variance.value)

    return RequiredSample(
        _first(n, lambda rows: wide(rows, s) < reach),
        _first(s, lambda seeds: wide(n, seeds) < reach),
    )


def _first(start: int, enough: Callable[[int], bool]) -> int | None:
    """The smallest number from `start` that is enough, if one below a million is."""
    high = max(1, start)
    while not enough(high):
        high *= 2
        if high > 1_000_000:
            return None
    low = max(start, high // 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return high


def rows_variance(values: Losses, like: Scores) -> Variance:
    """The variance over the rows of Σ values / Σ tokens, where a value is some sum of the losses of a row."""
    return _ratio(values, like).variance


def _averaged(scores: Sequence[Scores]) -> Losses:
    """Each row's loss, averaged over the seeds."""
    averaged: Losses = np.mean([s.losses for s in scores], axis=0)
    return averaged


def _ratio(values: Losses, like: Scores) -> Estimate:
    """Σ values / Σ tokens, with the variance over the sources of the rows."""
    tokens = np.array(like.tokens, dtype=np.float64)
    total = float(tokens.sum())
    ratio = float(values.sum()) / total
    residuals = values - ratio * tokens
    if like.sources:
        residuals = np.bincount(np.unique(like.sources, return_inverse=True)[1], residuals).astype(
            np.float64
        )
    n = len(residuals)
    if n < 2:
        raise ValueError("an interval needs at least two rows, of two sources")
    return Estimate(ratio, Variance(float(residuals @ residuals) / (n - 1) * n / total**2, n - 1))


def _quantile(probability: float, freedom: float) -> float:
    """Student's t, which is the normal one where nothing had to be estimated."""
    return float(
        special.ndtri(probability) if math.isinf(freedom) else special.stdtrit(freedom, probability)
    )
