"""What a study can show, before anything is trained: from the untuned model's losses on the validation rows.

Two good settings differ, row by row, by about as much of their loss as the untuned model's loss is uncertain of its
own: the relative standard error of a difference was 0.9 and 1.1 times that of the untuned model's mean on the two
recorded tasks (docs/log.md, 2026-11-25), so it is taken as that. From seed to seed the loss of a run had a deviation of
2.0 and 3.0 % of itself among the sixteen best settings there; a study measures its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rung.search.climb import confidence_in_full
from rung.search.effort import Effort
from rung.search.stats import Estimate, Variance, loss_estimate, minimum_detectable
from rung.types import Scores

RUNS_DIFFER = 0.025
"""The deviation of one run's loss from seed to seed, relative to the loss."""


@dataclass(frozen=True, slots=True)
class DetectableGain:
    """Relative gains that would be seen in four of five studies: with all noise, and with that of the rows alone; and
    how many rows would show the margin if seeds were no matter, and how many seeds if rows were none.
    """

    rows: int
    seeds: int
    shown: float
    shown_by_rows: float
    rows_for_margin: int
    seeds_for_margin: int


def detectable_gain(
    baseline: Scores, seeds: int, settings: int, margin: float, confidence: float
) -> DetectableGain:
    """What a comparison of two settings can show.

    Args:
        baseline: the untuned model's scores.
        seeds, settings: how many seeds confirm how many finalists; the noise of seeds is known from both.
        margin: the relative gain that is worth having.
        confidence: of each comparison, so that all of a climb hold together.
    """
    own = loss_estimate([baseline])
    rows = Variance((own.error / own.mean) ** 2, own.variance.freedom)
    freedom = max(1, (seeds - 1) * (settings - 1))
    results = Variance(2 * RUNS_DIFFER**2 / seeds, freedom)
    by_rows = minimum_detectable(Estimate(0.0, rows), confidence)
    reach = by_rows / math.sqrt(rows.value) if rows.value else 0.0
    count = len(set(baseline.sources)) or len(baseline.tokens)
    return DetectableGain(
        rows=len(baseline.tokens),
        seeds=seeds,
        shown=minimum_detectable(Estimate(0.0, rows + results), confidence),
        shown_by_rows=by_rows,
        rows_for_margin=math.ceil(count * (by_rows / margin) ** 2),
        seeds_for_margin=math.ceil(2 * (reach * RUNS_DIFFER / margin) ** 2),
    )


def detectable_gain_of_climb(baseline: Scores, margin: float, effort: Effort) -> DetectableGain:
    """What the comparisons of a climb with that plan can show, by the untuned model's scores of some rows."""
    confidence = confidence_in_full(max(1, effort.finalists - 1), effort)
    return detectable_gain(baseline, len(effort.seeds), effort.finalists, margin, confidence)
