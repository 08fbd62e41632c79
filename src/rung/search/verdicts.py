"""What a comparison showed, in numbers and in one sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rung.levers import Candidate, Scores, Verdict
from rung.search.stats import Estimate, Needed, judge, minimum_detectable

_NAMES = {
    "learning_rate": "Learning rate",
    "rank": "Rank",
    "alpha": "Alpha",
    "target_modules": "Target modules",
    "setting": "Setting",
    "adapter": "Adapter",
}


def value_of(setting: Candidate, lever: str) -> object:
    """What the setting has for the lever; its whole name where it is about several at once."""
    if lever == "learning_rate":
        return setting.learning_rate
    if lever == "rank":
        return setting.rank
    if lever == "alpha":
        return f"{setting.alpha:g}{' rsLoRA' if setting.use_rslora else ''}"
    return setting.targets if lever == "target_modules" else name_of(setting)


def value_in_words(setting: Candidate, lever: str) -> str:
    """`value_of`, as it is printed."""
    value = value_of(setting, lever)
    return f"{value:g}" if isinstance(value, float) else str(value)


def name_of(setting: Candidate) -> str:
    """Its levers, without a seed."""
    return setting.id.removesuffix(f"-s{setting.seed}")


def difference(before: Candidate, to: Candidate) -> str:
    """The one lever that two settings differ in, beside the rate that goes with it; or that they differ in several."""
    ratios = [s.scale for s in (before, to)]
    unlike = [
        lever
        for lever, differs in (
            ("rank", before.rank != to.rank),
            ("target_modules", before.targets != to.targets),
            ("alpha", not math.isclose(*ratios) and before.rank == to.rank),
        )
        if differs
    ]
    return unlike[0] if len(unlike) == 1 else "setting" if unlike else "learning_rate"


def rates_apart(lever: str, before: Candidate, to: Candidate) -> str:
    """The learning rates of a comparison of another lever, where they differ: in words, to stand behind it."""
    if lever in ("learning_rate", "setting") or before.learning_rate == to.learning_rate:
        return ""
    return f" (learning rate {before.learning_rate:g} → {to.learning_rate:g})"


NATS = "nats a token"


def make_verdict(
    lever: str,
    values: tuple[object, object],
    gain: Estimate,
    worth: float,
    confidence: float,
    scores: Sequence[Scores],
    noise_known: bool,
    at: str,
    more: Needed | None,
    unit: str = NATS,
) -> Verdict:
    """A comparison, judged and put into a sentence.

    Args:
        lever: what was compared, and `values` of what it had before and after.
        gain: from before to after; `worth` is the smallest that is worth having, `confidence` that of the interval.
        scores: one side's runs, which say how many rows and seeds there were.
        noise_known: whether the seeds are in the gain's variance. If not, nothing is claimed.
        at: how and where it was compared, as in ` at an eighth of the budget`.
        more: what would decide it, if it stays undecided.
        unit: of the gain.
    """
    interval = gain.interval(confidence)
    outcome = judge(interval, worth) if noise_known else "undecided"
    what = " → ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
    if not noise_known:
        says = f"undecided: {gain.mean:+.3f} {unit} with one seed, which cannot tell a gain from its luck"
    elif outcome == "better":
        says = f"better by {gain.mean:.3f} {unit} ({interval.low:.3f} to {interval.high:.3f})"
    elif interval.high < 0:
        says = f"no worthwhile gain: worse by {-gain.mean:.3f} {unit} ({-interval.high:.3f} to {-interval.low:.3f})"
    elif outcome == "no_worthwhile_gain":
        says = f"no worthwhile gain: at most {interval.high:.3f} {unit}, and {worth:.3f} would be worth it"
    elif (seen := minimum_detectable(gain, confidence)) >= math.fsum(s.mean for s in scores) / len(scores) and (
        unit == NATS
    ):
        says = f"undecided: nothing can be told, for any gain under {seen:.3g} {unit} would go unseen"
    else:
        says = f"undecided: a gain of {interval.low:.3f} to {interval.high:.3f}, and {worth:.3f} would be worth it"
        says += f"; {seen:.3f} would be seen in four of five studies like this"
        says += _would_decide(more, len(scores[0].tokens), len(scores))
    return Verdict(
        lever,
        *values,
        gain.mean,
        interval.low,
        interval.high,
        worth,
        outcome,
        len(scores[0].tokens),
        len(scores),
        f"{_NAMES[lever]} {what}{at}: {says}.",
    )


def _would_decide(more: Needed | None, rows: int, seeds: int) -> str:
    """What would decide it, in words."""
    wanted = [("validation row", more.rows - rows if more and more.rows else 0)]
    wanted += [("seed", more.seeds - seeds if more and more.seeds else 0)]
    found = [f"about {count:,} more {what}{'s' * (count > 1)}" for what, count in wanted if count > 0]
    return f"; {' or '.join(found)} would decide it" if found else ""
