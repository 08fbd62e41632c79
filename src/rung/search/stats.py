"""What the scores of some validation rows say of the loss on all such rows, with intervals.

A loss is nats per token, a ratio: the rows' summed losses over their token counts. Rows are what was drawn at random,
so they are the unit, and the ratio's error is taken from each row's residual (the delta method; Cochran, Sampling
Techniques, §6.4). Two candidates are compared through the differences of the same rows (the pairing law): what makes a
row hard is in both and cancels. See Miller, 2411.00640, on why unpaired and unclustered errors mislead.

The intervals cover the choice of validation rows. They do not cover the choice of seed or of training rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from rung.levers import Outcome, Scores


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its bounds."""

    mean: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


def loss_interval(scores: Scores, confidence: float = 0.95) -> Interval:
    """The loss, in nats per token, and its interval."""
    return _ratio(scores.losses, scores.tokens, confidence)


def gain_interval(before: Scores, to: Scores, confidence: float = 0.95) -> Interval:
    """How much lower the loss of `to` is than that of `before`, row by row; positive is better.

    Raises:
        ValueError: the two were not scored on the same rows.
    """
    if before.tokens != to.tokens:
        raise ValueError("a comparison needs the same rows on both sides")
    differences = [b - t for b, t in zip(before.losses, to.losses, strict=True)]
    return _ratio(differences, before.tokens, confidence)


def judge(gain: Interval, margin: float) -> Outcome:
    """What an interval for a gain shows, where gains under `margin` are not worth having.

    *better*: some gain is certain, and the estimate is worth having. *no worthwhile gain*: the upper bound lies under
    the margin. Everything else is *undecided*, and is never called equal.
    """
    if gain.high < margin:
        return "no_worthwhile_gain"
    return "better" if gain.low > 0 and gain.mean >= margin else "undecided"


def shared_confidence(comparisons: int, confidence: float = 0.95) -> float:
    """The confidence that each of several comparisons needs, for all to hold together (Bonferroni)."""
    return 1 - (1 - confidence) / max(1, comparisons)


def _ratio(values: Sequence[float], tokens: Sequence[int], confidence: float) -> Interval:
    n = len(values)
    if n < 2:
        raise ValueError("an interval needs at least two rows")
    total = sum(tokens)
    ratio = math.fsum(values) / total
    residual = math.fsum((v - ratio * t) ** 2 for v, t in zip(values, tokens, strict=True))
    error = math.sqrt(residual / (n - 1) * n) / total
    reach = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * error
    return Interval(ratio, ratio - reach, ratio + reach)
