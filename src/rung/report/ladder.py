"""The rank ladder as people ask for it: 8, 16, 32, 64, and what each step gained."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from rung.report.format import Unit, count, fraction_figures, loss_decimals, plus_minus
from rung.report.ladder_sentences import ladder_sentence, race_loss_sentence, rank_use_sentence
from rung.report.layout import CHOSEN, MARKS, OUTCOMES, plain_table
from rung.search.verdicts import NATS
from rung.tuning.result import LadderStep, StudyResult


def ladder_part(result: StudyResult) -> Iterator[RenderableType]:
    """The ladder as a table, where its returns diminish, and how much of its rank is used."""
    best = result.recommendation
    unit = _ladder_unit(result)
    gains = "" if unit.name == NATS else f", with gains in {unit.words.removeprefix('in ')}"
    yield Text(f"The rank ladder{gains}", style="bold")
    if len(result.ladder) > 1:
        yield _ladder_table(result, unit)
        if fractions := {step.fraction for step in result.ladder if step.fraction} - {1.0}:
            yield Text(race_loss_sentence(max(fractions)), style="dim")
    yield Text(ladder_sentence(result.ladder, result.verdicts, best.setting))
    yield Text(rank_use_sentence(best))


def _ladder_unit(result: StudyResult) -> Unit:
    """The unit of the steps that were judged."""
    names = {step.unit for step in result.ladder if step.outcome} - {NATS}
    if not names:
        return Unit(NATS, loss_decimals(result))
    name = names.pop()
    return Unit.of(name, next((v.margin for v in result.verdicts if v.unit == name), 0.0))


def _ladder_table(result: StudyResult, unit: Unit) -> Table:
    table = plain_table("rank", "trained", "loss", "gain of the step", left=0)
    table.columns[1].justify = "left"
    # The interval goes to a second line where numbers are very long.
    table.columns[3].no_wrap = False
    table.add_column("", no_wrap=True)
    intervals = {
        s.setting: s.validation_loss for s in result.settings if s.fraction == 1 and s.seeds
    }
    decimals = loss_decimals(result)
    targets = result.recommendation.setting.targets
    diverged = {
        own.setting.rank
        for own in result.settings
        if own.status == "diverged" and own.setting.targets == targets
    }
    for step in result.ladder:
        chosen = step.setting == result.recommendation.setting
        interval = intervals.get(step.setting) if step.setting and step.fraction == 1 else None
        table.add_row(
            f"{CHOSEN if chosen else ''}{step.rank}",
            "diverged" if step.fraction is None and step.rank in diverged else _trained(step),
            plus_minus(step.loss, interval.half_width if interval else None, decimals),
            _gain(step, unit),
            _outcome(step),
            style="bold green" if chosen else "" if step.fraction == 1 else "dim",
        )
    return table


def _trained(step: LadderStep) -> str:
    if step.fraction is None:
        return "not tried"
    if step.fraction < 1:
        return f"race {fraction_figures(step.fraction)}"
    return count(step.seeds, "seed")


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
