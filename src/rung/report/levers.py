"""What each lever was worth, and the rank ladder: two parts of the summary of a study."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rung.report.format import (
    LEVER_NAMES,
    Flow,
    Unit,
    alphas_follow_rank,
    count,
    decimals_for,
    fixed,
    fraction_figures,
    lever_words,
    plain_table,
)
from rung.report.sentences import (
    ladder_sentence,
    lever_verdict,
    race_loss_sentence,
    race_sentence,
    rank_use_sentence,
    standing_values,
    untried_words,
)
from rung.search.verdicts import NATS
from rung.tuning.result import LadderStep, SettingResult, StudyResult
from rung.types import Lever, Outcome, Verdict

MARKS: dict[Outcome, tuple[str, str]] = {
    "better": ("▲", "green"),
    "no_worthwhile_gain": ("■", "yellow"),
    "undecided": ("?", "cyan"),
}
"""The sign and the colour of an outcome."""
OUTCOMES: dict[Outcome, str] = {
    "better": "better",
    "no_worthwhile_gain": "no worthwhile gain",
    "undecided": "undecided",
}
CHOSEN = "▸ "
"""Stands before what is recommended."""


def levers_part(result: StudyResult) -> Iterator[RenderableType]:
    """For each lever the values with their losses, and under them what was shown of them.

    What was shown of two ranks in full stands in the ladder instead.
    """
    shown = [v for v in result.verdicts if v.lever != "adapter" and not _in_ladder(v)]
    if not (result.standings or shown or result.untried):
        return
    yield Text("What each lever was worth", style="bold")
    if result.standings:
        yield Text(race_sentence(result.standings, result.recommendation.setting), style="dim")
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for lever, name in LEVER_NAMES.items():
        own = [verdict for verdict in shown if verdict.lever == lever]
        lines = [*_values(result, lever), *(_verdict_line(v, result) for v in own)]
        if lever in result.untried:
            lines.append(Text(untried_words(result.untried[lever]), style="dim"))
        if lines:
            grid.add_row(name, Group(*lines))
    several = [_verdict_line(verdict, result) for verdict in shown if verdict.lever == "setting"]
    if several:
        grid.add_row("several levers", Group(*several))
    yield grid


def _in_ladder(verdict: Verdict) -> bool:
    return verdict.kind == "confirmation" and verdict.lever == "rank"


def _values(result: StudyResult, lever: Lever) -> Iterator[RenderableType]:
    standing = next((one for one in result.standings if one.lever == lever), None)
    if standing is None:
        return
    recommended = result.recommendation.setting
    settings = [setting for setting, _ in standing.losses]
    # Alpha 32 is alpha 64 at twice the rank, where alphas are multiples of the rank.
    per_rank = {s.rank for s in settings} != {recommended.rank} and alphas_follow_rank(
        [s.setting for s in result.settings]
    )
    chosen = lever_words(recommended, lever, per_rank)
    diverged = _diverged_values(result.settings, lever, per_rank)
    items = []
    for value, loss in standing_values(standing, per_rank):
        mark, style = (CHOSEN, "bold green") if value == chosen else ("", "")
        if value not in diverged:
            items.append(Text.assemble((f"{mark}{value}:", style), f" {loss}"))
    items += [Text.assemble(f"{value}: ", ("diverged", "red")) for value in diverged]
    yield Flow(tuple(items))


def _diverged_values(
    settings: Sequence[SettingResult], lever: Lever, per_rank: bool
) -> tuple[str, ...]:
    """The values of a lever that no setting lasted with."""
    lasted = {lever_words(s.setting, lever, per_rank) for s in settings if s.validation_loss}
    values = dict.fromkeys(lever_words(s.setting, lever, per_rank) for s in settings)
    return tuple(value for value in values if value not in lasted)


def _verdict_line(verdict: Verdict, result: StudyResult) -> RenderableType:
    untold = verdict.kind != "confirmation" and verdict.outcome == "undecided"
    text = lever_verdict(verdict, result.recommendation.setting)
    return marked(verdict.outcome, text, "dim" if untold else "")


def marked(outcome: Outcome, text: str, style: str = "") -> RenderableType:
    """A text behind the sign of an outcome."""
    mark, colour = MARKS[outcome]
    return hanging(Text(mark, style=style or colour), Text(text, style=style))


def hanging(mark: Text, text: Text) -> RenderableType:
    """A text whose further lines are indented under the first, behind the mark."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=1)
    grid.add_column(overflow="fold")
    grid.add_row(mark, text)
    return grid


# The rank ladder.


def ladder_part(result: StudyResult) -> Iterator[RenderableType]:
    """The ladder as a table, where its returns diminish, and how much of its rank is used."""
    best = result.recommendation
    unit = _ladder_unit(result.ladder)
    gains = "" if unit.name == NATS else f", with gains in {unit.words.removeprefix('in ')}"
    yield Text(f"The rank ladder{gains}", style="bold")
    if len(result.ladder) > 1:
        yield _ladder_table(result, unit)
        if fractions := {step.fraction for step in result.ladder if step.fraction} - {1.0}:
            yield Text(race_loss_sentence(max(fractions)), style="dim")
    yield Text(ladder_sentence(result.ladder, result.verdicts, best.setting))
    yield Text(rank_use_sentence(best))


def _ladder_unit(steps: Sequence[LadderStep]) -> Unit:
    """The unit of the steps that were judged."""
    names = {step.unit for step in steps if step.outcome} - {NATS}
    return Unit.of(names.pop() if names else NATS, 0.0)


def _ladder_table(result: StudyResult, unit: Unit) -> Table:
    table = plain_table("rank", "trained", "loss", "gain of the step", left=0)
    table.columns[1].justify = "left"
    table.add_column("", no_wrap=True)
    intervals = {
        s.setting: s.validation_loss for s in result.settings if s.fraction == 1 and s.seeds
    }
    decimals = loss_decimals(result)
    for step in result.ladder:
        chosen = step.setting == result.recommendation.setting
        interval = intervals.get(step.setting) if step.setting and step.fraction == 1 else None
        table.add_row(
            f"{CHOSEN if chosen else ''}{step.rank}",
            _trained(step),
            plus_minus(step.loss, interval.half_width if interval else None, decimals),
            _gain(step, unit if unit.name != NATS else Unit(NATS, decimals)),
            _outcome(step),
            style="bold green" if chosen else "" if step.fraction == 1 else "dim",
        )
    return table


def _trained(step: LadderStep) -> str:
    if step.fraction is None:
        return "not tried"
    if step.fraction < 1:
        return f"race, {fraction_figures(step.fraction)}"
    return count(step.seeds, "seed")


def plus_minus(mean: float | None, half_width: float | None, decimals: int) -> str:
    """`1.363 ± 0.030`."""
    if mean is None:
        return "–"
    if half_width is None:
        return fixed(mean, decimals)
    return f"{fixed(mean, decimals)} ± {fixed(half_width, decimals)}"


def _gain(step: LadderStep, unit: Unit) -> str:
    if step.gain is None or step.unit != unit.name:
        return ""
    if step.low is None or step.high is None:
        return unit.number(step.gain)
    return f"{unit.number(step.gain)} ({unit.interval(step.low, step.high)})"


def _outcome(step: LadderStep) -> Text:
    if step.outcome is None:
        return Text()
    mark, colour = MARKS[step.outcome]
    return Text.assemble((f"{mark} ", colour), OUTCOMES[step.outcome])


def loss_decimals(result: StudyResult) -> int:
    """The decimals of all losses of a study."""
    best = result.recommendation
    loss = best.validation_loss.mean if best.validation_loss else best.adapter_validation_loss
    return decimals_for(abs(loss) / 100)
