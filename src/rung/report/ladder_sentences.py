"""The sentences about the rank ladder: where its returns diminish, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence

from rung.report.format import decimals_for, fixed, fraction_words
from rung.report.sentences import conclusion, more_needed, unit_of
from rung.search.verdicts import NATS
from rung.tuning.result import LadderStep, Recommendation
from rung.types import Setting, Verdict


def ladder_sentence(
    steps: Sequence[LadderStep], verdicts: Sequence[Verdict], recommended: Setting
) -> str:
    """Where the returns of a higher rank diminish, and how sure that is."""
    if len(steps) < 2:
        return f"Only rank {recommended.rank} was tried."
    if verdict := verdict_above(steps, verdicts, recommended):
        return _judged_ladder(verdict)
    above = [step for step in steps if step.rank > recommended.rank]
    return _unjudged_ladder(above[0], recommended) if above else _whole_ladder(steps)


def verdict_above(
    steps: Sequence[LadderStep], verdicts: Sequence[Verdict], recommended: Setting
) -> Verdict | None:
    """The verdict on the recommended rank and the next one above it that was compared in full.

    Of several on one rank it is the one on the setting that stands in the ladder.
    """
    higher = [
        verdict
        for verdict in verdicts
        if verdict.kind == "confirmation"
        and verdict.lever == "rank"
        and verdict.before == recommended
        and verdict.after.rank > recommended.rank
    ]
    on_ladder = {step.setting for step in steps}
    return min(higher, key=lambda v: (v.after.rank, v.after not in on_ladder), default=None)


def _judged_ladder(verdict: Verdict) -> str:
    assert verdict.before is not None
    unit, rank, higher = unit_of(verdict), verdict.before.rank, verdict.after.rank
    number = unit.number
    words = "" if verdict.unit == NATS else f" {unit.words}"
    worth = f"{number(verdict.margin)} would be worth it"
    if verdict.reason == "gain":
        return f"Returns do not diminish at rank {rank}: rank {higher} is {conclusion(verdict)}."
    if verdict.reason == "worse":
        loss, interval = -verdict.gain, unit.interval(-verdict.high, -verdict.low)
        return (
            f"Returns diminish at rank {rank}, and that is shown: rank {higher} is worse by "
            f"{number(loss)}{words} ({interval})."
        )
    if verdict.reason == "below_margin":
        return (
            f"Returns diminish at rank {rank}, and that is shown: rank {higher} gains at most "
            f"{number(verdict.high)}{words}, and {worth}."
        )
    text = f"Whether returns diminish at rank {rank} is undecided: "
    if verdict.reason != "wide_interval":
        runs = "one seed" if verdict.seeds == 1 else "so few runs"
        return f"{text}{runs} cannot tell rank {higher} from rank {rank}."
    gain = unit.interval(verdict.low, verdict.high)
    text += f"rank {higher} gains {gain}{words}, and {worth}."
    if more := more_needed(verdict):
        text += f" {more.capitalize()} would decide it."
    if verdict.detectable is not None:
        detectable = number(verdict.detectable)
        text += f" Four of five such comparisons would show a gain of {detectable}."
    return text


def _whole_ladder(steps: Sequence[LadderStep]) -> str:
    rank = steps[-1].rank
    text = f"The ladder ends at rank {rank}, so nothing is known of higher ranks."
    if steps[-1].outcome == "better":
        text += f" The step to {rank} was still worth it: try higher ones with --ranks."
    return text


def _unjudged_ladder(step: LadderStep, recommended: Setting) -> str:
    rank, higher = recommended.rank, step.rank
    text = f"Whether returns diminish at rank {rank} is not shown"
    if step.fraction != 1:
        return f"{text}: rank {higher} was not trained in full."
    if step.seeds == 1:
        return f"{text}: one seed cannot tell rank {higher} from rank {rank}."
    return f"{text}: rank {higher} was trained in full, but not compared with rank {rank}."


def race_loss_sentence(fraction: float) -> str:
    """What the race's losses in the ladder are."""
    return (
        f"Race losses are estimated after {fraction_words(fraction)} of the training, so they are "
        "not comparable with the others."
    )


def rank_use_sentence(recommendation: Recommendation) -> str:
    """How much of its rank the adapter uses."""
    use, rank = recommendation.rank_use, recommendation.setting.rank
    text = f"The adapter uses {use.effective_rank:.1f} of its {rank} ranks (effective rank)"
    if not use.truncated_losses:
        return f"{text}."
    own = recommendation.adapter_validation_loss
    decimals = decimals_for(abs(own) / 100)
    losses = [
        f"{fixed(loss, decimals)} at rank {lower}"
        for lower, loss in sorted(use.truncated_losses.items(), reverse=True)
    ]
    return f"{text}. Cut down, its loss of {fixed(own, decimals)} becomes {', '.join(losses)}."
