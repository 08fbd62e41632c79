"""What a study can detect, before anything is trained: from the untuned model's validation losses.

Two good settings differ from row to row, relative to their loss, by about as much as the untuned
model's loss varies relative to itself. On the two recorded tasks the relative standard error of a
difference was 0.9 and 1.1 times that of the untuned model's mean (docs/log.md, 2026-11-25), so the
two are taken to be equal. The loss of a run varied from seed to seed by 2.0 and 3.0 % of itself
among the sixteen best settings there. A study measures its own noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rung.search.confirmation import confirmation_confidence
from rung.search.effort import Effort
from rung.search.stats import Estimate, Variance, loss_estimate, minimum_detectable
from rung.types import Scores

SEED_DEVIATION = 0.025
"""The standard deviation of a run's loss from seed to seed, relative to the loss."""


@dataclass(frozen=True, slots=True)
class DetectableGain:
    """The gains that a comparison of two settings would show in four of five studies.

    Gains are relative to the loss.

    Attributes:
        rows, seeds: how many there are.
        detectable: the gain that is shown, with the noise of rows and of seeds.
        detectable_by_rows: the gain that would be shown if seeds made no difference.
        rows_for_margin: how many rows would show the margin if seeds made no difference.
        seeds_for_margin: how many seeds would show the margin if rows made no difference.
    """

    rows: int
    seeds: int
    detectable: float
    detectable_by_rows: float
    rows_for_margin: int
    seeds_for_margin: int


def detectable_gain(
    baseline: Scores, seeds: int, settings: int, margin: float, confidence: float
) -> DetectableGain:
    """What a comparison of two settings can show.

    Args:
        baseline: the untuned model's scores.
        seeds: how many seeds each finalist is trained with.
        settings: how many finalists there are; with the seeds they say how well the noise will be
            known.
        margin: the relative gain that is worth having.
        confidence: of each comparison.
    """
    loss = loss_estimate([baseline])
    from_rows = Variance((loss.error / loss.mean) ** 2, loss.variance.degrees_of_freedom)
    freedom = max(1, (seeds - 1) * (settings - 1))
    from_seeds = Variance(2 * SEED_DEVIATION**2 / seeds, freedom)
    by_rows = minimum_detectable(Estimate(0.0, from_rows), confidence)
    # A detectable gain is so many standard errors.
    multiple = by_rows / math.sqrt(from_rows.value) if from_rows.value else 0.0
    sources = len(set(baseline.sources)) or len(baseline.tokens)
    return DetectableGain(
        rows=len(baseline.tokens),
        seeds=seeds,
        detectable=minimum_detectable(Estimate(0.0, from_rows + from_seeds), confidence),
        detectable_by_rows=by_rows,
        rows_for_margin=math.ceil(sources * (by_rows / margin) ** 2),
        seeds_for_margin=math.ceil(2 * (multiple * SEED_DEVIATION / margin) ** 2),
    )


def detectable_gain_of_climb(baseline: Scores, margin: float, effort: Effort) -> DetectableGain:
    """What the comparisons of a climb with this effort can show."""
    confidence = confirmation_confidence(max(1, effort.finalists - 1), effort)
    return detectable_gain(baseline, len(effort.seeds), effort.finalists, margin, confidence)
