"""What each lever was worth: a part of the summary of a study."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rung.report.format import LEVER_NAMES, alphas_follow_rank, lever_words
from rung.report.ladder_sentences import verdict_above
from rung.report.layout import CHOSEN, Flow, marked
from rung.report.sentences import (
    lever_verdict,
    race_sentence,
    standing_values,
    untried_words,
)
from rung.tuning.result import SettingResult, StudyResult
from rung.types import Lever, Verdict


def levers_part(result: StudyResult) -> Iterator[RenderableType]:
    """For each lever the values with their losses, and under them what was shown of them.

    What the ladder shows is left out here.
    """
    in_ladder = _ladder_verdicts(result)
    shown = [v for v in result.verdicts if v.lever != "adapter" and v not in in_ladder]
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


def _ladder_verdicts(result: StudyResult) -> list[Verdict]:
    """The verdicts that the ladder's table and its sentence show."""
    steps, best = result.ladder, result.recommendation.setting
    pairs = [(before.setting, after.setting) for before, after in itertools.pairwise(steps)]
    verdicts = [
        verdict
        for verdict in result.verdicts
        if verdict.kind == "confirmation" and (verdict.before, verdict.after) in pairs
    ]
    above = verdict_above(steps, result.verdicts, best)
    return [*verdicts, above] if above else verdicts


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
    losses: dict[str, str] = {}
    for value, loss in standing_values(standing, per_rank):
        # Several settings may have one alpha as a multiple of the rank; the best is the first.
        losses.setdefault(value, "diverged" if value in diverged else loss)
    losses |= dict.fromkeys(diverged, "diverged")
    if len(losses) > 1:
        yield Flow(tuple(_value(value, loss, value == chosen) for value, loss in losses.items()))


def _value(value: str, loss: str, chosen: bool) -> Text:
    mark, style = (CHOSEN, "bold green") if chosen else ("", "")
    return Text.assemble(
        (f"{mark}{value}:", style), (f" {loss}", "red" if loss == "diverged" else "")
    )


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
