"""The sentences about what a study has found: verdicts, exclusions, standings, cost and limits.

All sentences are made from data alone, here and, for the rank ladder, in `ladder_sentences`. None
claims more than its verdict: what is undecided is never called equal, and what one seed shows is
never called a gain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rung.metrics.report import Disagreement
from rung.report.format import (
    LEVER_NAMES,
    Unit,
    alpha_words,
    count,
    decimals_for,
    duration,
    fixed,
    fraction_words,
    gigabytes,
    lever_words,
    loss_decimals,
    metric_name,
    metric_value,
    rate_words,
    setting_words,
)
from rung.search.strategy import Exclusion, LeverStanding
from rung.search.verdicts import NATS
from rung.tuning.result import Cost, SeedNoise, StudyResult
from rung.types import Candidate, Lever, Setting, Verdict

# Verdicts.


def verdict_sentence(verdict: Verdict) -> str:
    """A verdict by itself: what was compared, where, and what came of it."""
    unit = unit_of(verdict)
    conclusion = _conclusion(verdict, f" {unit.words}")
    return f"{_subject(verdict)}{_conditions(verdict)}: {conclusion}{_remedy(verdict)}."


def conclusion(verdict: Verdict) -> str:
    """What came of a comparison, without what was compared: `better by 0.160 (0.051 to 0.270)`."""
    return _conclusion(verdict, "" if verdict.unit == NATS else f" {unit_of(verdict).words}")


def lever_verdict(verdict: Verdict, recommended: Setting) -> str:
    """A verdict for a line of the summary, which names the lever and the unit elsewhere."""
    before, after = _sides(verdict)
    if verdict.kind == "matched_parameters" and verdict.before:
        before, after = (
            f"{lever_words(side, 'targets')} at rank {side.rank}"
            for side in (verdict.before, verdict.after)
        )
        after += ", as many parameters,"
    elif verdict.lever == "setting":
        before, after = (
            "the recommended setting" if side == recommended else words
            for side, words in ((verdict.before, before), (verdict.after, after))
        )
    subject = f"{after} over {before}"
    if verdict.kind == "confirmation":
        return f"{subject}{_conditions(verdict, recommended)}: {conclusion(verdict)}"
    if verdict.outcome != "undecided":
        return f"{subject}: {conclusion(verdict)}"
    if verdict.reason != "wide_interval":
        return f"{subject}: too few runs to tell"
    gain = unit_of(verdict).interval(verdict.low, verdict.high)
    return f"{subject}: one seed cannot tell (gain {gain})"


def unit_of(verdict: Verdict) -> Unit:
    return Unit.of(verdict.unit, verdict.margin)


def _conclusion(verdict: Verdict, unit: str) -> str:
    """The result; `unit` follows the first number that stands for a gain."""
    own = unit_of(verdict)
    gain, low, high, margin = (
        own.number(value) for value in (verdict.gain, verdict.low, verdict.high, verdict.margin)
    )
    if verdict.reason == "gain":
        return f"better by {gain}{unit} ({low} to {high})"
    if verdict.reason == "worse":
        loss = own.number(-verdict.gain)
        interval = own.interval(-verdict.high, -verdict.low)
        return f"no worthwhile gain, worse by {loss}{unit} ({interval})"
    if verdict.reason == "below_margin":
        return f"no worthwhile gain, at most {high}{unit} ({margin} would be worth it)"
    if verdict.reason == "one_seed":
        runs = "one seed" if verdict.seeds == 1 else "these runs"
        return f"undecided, since {runs} cannot tell a gain of {gain}{unit} from luck"
    if verdict.reason == "no_information":
        detectable = f"{verdict.detectable:.3g}"
        return f"undecided, since even a gain of {detectable}{unit} would not show in so few runs"
    return f"undecided, a gain of {low} to {high}{unit} ({margin} would be worth it)"


def _subject(verdict: Verdict) -> str:
    before, after = _sides(verdict)
    if verdict.lever == "adapter":
        return f"Adapter ({after}) against the {before} model"
    name = "Setting" if verdict.lever == "setting" else LEVER_NAMES[verdict.lever].capitalize()
    return f"{name} {before} → {after}"


def _sides(verdict: Verdict) -> tuple[str, str]:
    """Both sides of a comparison, by what differs in them."""
    before, after = verdict.before, verdict.after
    if before is None:
        return "untuned", setting_words(after)
    if verdict.lever == "setting" or verdict.lever == "adapter":
        return contrast(before, after)
    return lever_words(before, verdict.lever), lever_words(after, verdict.lever)


def contrast(before: Setting, after: Setting) -> tuple[str, str]:
    """Two settings by the levers in which they differ."""
    parts = [
        (f"rank {before.rank}", f"rank {after.rank}"),
        (f"alpha {alpha_words(before)}", f"alpha {alpha_words(after)}"),
        (before.targets, after.targets),
        (
            f"learning rate {rate_words(before.learning_rate)}",
            f"learning rate {rate_words(after.learning_rate)}",
        ),
    ]
    different = [sides for sides in parts if sides[0] != sides[1]]
    one, other = zip(*(different or parts), strict=True)
    return ", ".join(one), ", ".join(other)


def _conditions(verdict: Verdict, recommended: Setting | None = None) -> str:
    """Under which conditions two sides were compared, in brackets.

    Args:
        recommended: name the learning rate where it is another than this setting's, since the same
            two values may be compared at several.
    """
    parts = []
    before, after = verdict.before, verdict.after
    if before and verdict.kind == "matched_parameters":
        parts.append(f"as many parameters, at rank {before.rank} → {after.rank}")
    elif before and verdict.lever not in ("learning_rate", "setting"):
        rates = [rate_words(side.learning_rate) for side in (before, after)]
        if rates[0] != rates[1]:
            parts.append(f"learning rate {rates[0]} → {rates[1]}")
        elif recommended and after.learning_rate != recommended.learning_rate:
            parts.append(f"learning rate {rates[1]}")
    if verdict.kind == "confirmation":
        parts = [*_context(verdict), *parts, f"in full, {count(verdict.seeds, 'seed')}"]
    elif verdict.fraction < 1:
        parts.append(f"after {fraction_words(verdict.fraction)} of the training")
    return f" ({', '.join(parts)})" if parts else ""


def _context(verdict: Verdict) -> list[str]:
    """The rank and the target modules of two finalists, where neither is what is compared."""
    after, lever = verdict.after, verdict.lever
    if lever == "setting":
        return []
    rank = [f"rank {after.rank}"] if lever != "rank" else []
    return rank + ([after.targets] if lever != "targets" else [])


def _remedy(verdict: Verdict) -> str:
    """What would decide an undecided verdict, and what a study like this one shows."""
    if verdict.reason != "wide_interval":
        return ""
    parts = []
    if verdict.detectable is not None:
        detectable = unit_of(verdict).number(verdict.detectable)
        parts.append(f"four of five such comparisons would show a gain of {detectable}")
    if more := more_needed(verdict):
        parts.append(f"{more} would decide it")
    return "".join(f"; {part}" for part in parts)


def more_needed(verdict: Verdict) -> str:
    """What would decide the verdict if its estimate stays: `about 300 more validation rows`.

    Empty where that is unknown.
    """
    required = verdict.required
    if required is None:
        return ""
    samples = [
        (required.rows, verdict.rows, "more validation row"),
        (required.seeds, verdict.seeds, "more seed"),
    ]
    enough = [
        count(total - present, noun)
        for total, present, noun in samples
        if total and total > present
    ]
    return f"about {' or '.join(enough)}" if enough else ""


# Exclusions and standings.


def exclusion_sentence(candidate: Candidate, exclusion: Exclusion) -> str:
    """Why a candidate is not trained on."""
    after = ""
    if exclusion.fraction is not None:
        after = " after the full training"
        if exclusion.fraction < 1:
            after = f" after {fraction_words(exclusion.fraction)} of the training"
    if exclusion.reason == "diverged":
        return f"{candidate.id} diverged{after} and is not trained on."
    if exclusion.reason == "stopped_early":
        return f"{candidate.id} is not trained on: Hyperband stopped it{after}."
    losses = ""
    if exclusion.loss is not None and exclusion.best_loss is not None:
        decimals = decimals_for(abs(exclusion.best_loss) / 100)
        loss, best = (fixed(value, decimals) for value in (exclusion.loss, exclusion.best_loss))
        losses = f": its loss{after} is {loss}, and the leader's is {best}"
    return f"{candidate.id} is not trained on{losses}."


def standing_sentence(standing: LeverStanding) -> str:
    """The values of a lever as they stand, the best first, with their losses."""
    values = ", ".join(
        f"{value} ({loss})" for value, loss in standing_values(standing, alpha_per_rank=False)
    )
    name = LEVER_NAMES[standing.lever].capitalize()
    where = "in full"
    if standing.fraction < 1:
        where = f"after {fraction_words(standing.fraction)} of the training"
    return f"{name} {where}, the best first: {values}."


def standing_values(standing: LeverStanding, alpha_per_rank: bool) -> list[tuple[str, str]]:
    """Each value of a standing with its loss, the best first."""
    decimals = decimals_for(abs(standing.losses[0][1]) / 100) if standing.losses else 3
    return [
        (lever_words(setting, standing.lever, alpha_per_rank), fixed(loss, decimals))
        for setting, loss in standing.losses
    ]


def race_sentence(standings: Sequence[LeverStanding], recommended: Setting) -> str:
    """What the losses of the standings are."""
    fraction = standings[0].fraction
    if fraction == 1:
        return (
            "Validation loss of the best setting with each value, trained in full with one seed; "
            "the best first. One seed cannot tell a gain from luck. ▸ is recommended."
        )
    leader = _leader(standings)
    others = "each with the other levers that suit it"
    if leader:
        others = "the other levers as "
        others += "recommended" if leader == recommended else f"in {setting_words(leader)}"
    return (
        f"Validation loss after {fraction_words(fraction)} of the training, estimated from a race "
        f"with one seed; the best first, {others}. ▸ is recommended."
    )


def _leader(standings: Sequence[LeverStanding]) -> Setting | None:
    """The setting around which a race was judged: it stands in every list."""
    shared = set.intersection(*({s for s, _ in standing.losses} for standing in standings))
    return shared.pop() if len(shared) == 1 and len(standings) > 1 else None


def untried_words(values: Sequence[str]) -> str:
    return f"not tried: {', '.join(values)}"


# Quality, cost and limits.


def disagreement_sentence(disagreement: Disagreement) -> str:
    """That the loss and a metric prefer different settings, and whether luck explains it."""
    name = disagreement.metric
    by_loss, by_metric = contrast(disagreement.by_loss, disagreement.by_metric)
    values = [
        metric_value(name, value)
        for value in (disagreement.by_metric_value, disagreement.by_loss_value)
    ]
    luck = {
        True: "The choice of rows and seeds can explain that difference.",
        False: "The choice of rows and seeds does not explain that difference.",
        None: "With one seed each nothing tells whether that is luck.",
    }[disagreement.explained]
    return (
        f"The loss prefers {by_loss}; {metric_name(name)} prefers {by_metric} ({values[0]} against "
        f"{values[1]}). {luck}"
    )


def cost_sentence(cost: Cost, peak_memory_bytes: int) -> str:
    """What the study took: time, memory at the most, and training."""
    return (
        f"Cost: {duration(cost.wall_seconds)}, at most {gigabytes(peak_memory_bytes)} of memory, "
        f"{cost.candidate_tokens:,} training tokens, as many as {cost.single_runs:.1f} single runs."
    )


def noise_sentence(noise: SeedNoise | None, decimals: int) -> str:
    """How much seeds vary, and what ± stands for."""
    if noise is None:
        return (
            "± is half the 95 % interval over the validation rows; one seed says nothing of seeds."
        )
    return (
        "± is half the 95 % interval over validation rows and seeds. From seed to seed the loss of "
        f"one setting varies by {fixed(noise.standard_deviation, decimals)} (standard deviation, "
        f"{noise.degrees_of_freedom:.0f} degrees of freedom)."
    )


def choice_sentence(result: StudyResult) -> str:
    """Why the recommended setting is not the one with the lowest loss; empty where it is."""
    best = result.recommendation
    if best.validation_loss is None or result.metrics.judge != "loss":
        return ""
    shown = {own.setting: own for own in result.settings if own.fraction == 1}
    # A setting with fewer seeds was selected by the very run that its loss is of.
    seeds = shown[best.setting].seeds if best.setting in shown else 1
    losses = {
        own.setting: own.validation_loss.mean
        for own in shown.values()
        if own.validation_loss and own.seeds >= seeds
    }
    lowest = min(losses, key=losses.__getitem__, default=best.setting)
    if losses.get(lowest, math.inf) >= best.validation_loss.mean:
        return ""
    loss = fixed(losses[lowest], loss_decimals(result))
    return (
        f"The lowest loss is {loss}, with {contrast(best.setting, lowest)[1]}. Recommended is the "
        "cheapest setting that is within the margin of it."
    )


def not_covered_sentence(one_seed: bool, raced: bool, untried: Sequence[Lever]) -> str:
    """What the intervals and the recommendation do not cover.

    Args:
        one_seed: nothing tells how much seeds vary.
        raced: the losses of levers are estimated from a race.
        untried: the levers of which not all values were tried.
    """
    parts = ["other data than this one data set", "that the setting was chosen on the same rows"]
    if raced:
        parts.append("levers that act together (the race takes each one's effect by itself)")
    if one_seed:
        parts.append("the luck of the seed")
    if untried:
        names = " and ".join(LEVER_NAMES[lever] for lever in untried)
        parts.append(f"values of {names} that were not tried")
    return f"Not covered: {'; '.join(parts)}."
