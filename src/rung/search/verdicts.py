"""Judge a comparison: from an estimated gain to a `Verdict`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from rung.search.stats import Estimate, judge, minimum_detectable
from rung.types import (
    Lever,
    Outcome,
    Reason,
    RequiredSample,
    Scores,
    Setting,
    Verdict,
    VerdictKind,
)

NATS = "nats a token"

Difference = Lever | Literal["setting", "adapter"]


def lever_value(setting: Setting, lever: Difference) -> float | str:
    """The setting's value of the lever; its label where several levers are meant."""
    if lever == "learning_rate":
        return setting.learning_rate
    if lever == "rank":
        return setting.rank
    if lever == "alpha":
        return f"{setting.alpha:g}{' rsLoRA' if setting.use_rslora else ''}"
    return setting.targets if lever == "targets" else setting.label


def difference(before: Setting, after: Setting) -> Difference:
    """The one lever that two settings differ in, or `setting` where they differ in several.

    The learning rate may differ with any other lever: each value has a rate that suits it.
    """
    different: list[Lever] = []
    if before.rank != after.rank:
        different.append("rank")
    if before.targets != after.targets:
        different.append("targets")
    # Under alpha = 2r the alpha follows the rank, so it counts as a lever only at one rank.
    if before.rank == after.rank and not math.isclose(before.scale, after.scale):
        different.append("alpha")
    if not different:
        return "learning_rate"
    return different[0] if len(different) == 1 else "setting"


def make_verdict(
    kind: VerdictKind,
    lever: Difference,
    before: Setting | None,
    after: Setting,
    fraction: float,
    gain: Estimate,
    margin: float,
    confidence: float,
    scores: Sequence[Scores],
    noise_known: bool,
    required: RequiredSample | None = None,
    unit: str = NATS,
) -> Verdict:
    """Judge a comparison.

    Args:
        kind, lever, before, after, fraction, unit: see `Verdict`.
        gain: the estimate, in `unit`; positive is better.
        margin: the smallest gain that is worth having, in `unit`.
        confidence: of the interval.
        scores: the runs of one side; they say how many rows and seeds there were.
        noise_known: whether the noise of seeds is in the variance of `gain`. If not, nothing is
            claimed.
        required: what would decide the comparison, for the case that it stays undecided.
    """
    interval = gain.interval(confidence)
    detectable = minimum_detectable(gain, confidence) if noise_known else None
    outcome: Outcome = judge(interval, margin) if noise_known else "undecided"
    reason: Reason
    if detectable is None:
        reason = "one_seed"
    elif outcome == "better":
        reason = "gain"
    elif interval.high < 0:
        reason = "worse"
    elif outcome == "no_worthwhile_gain":
        reason = "below_margin"
    elif unit == NATS and detectable >= math.fsum(s.mean for s in scores) / len(scores):
        reason = "no_information"
    else:
        reason = "wide_interval"
    return Verdict(
        kind=kind,
        lever=lever,
        before=before,
        after=after,
        fraction=fraction,
        gain=gain.mean,
        low=interval.low,
        high=interval.high,
        margin=margin,
        outcome=outcome,
        reason=reason,
        rows=len(scores[0].tokens),
        seeds=len(scores),
        unit=unit,
        detectable=detectable,
        required=required if reason == "wide_interval" else None,
    )
