"""How good the models are: the test rows, the finalists by metrics, and the table of settings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from rung.metrics.report import MetricBounds, MetricGain
from rung.report.format import (
    Unit,
    count,
    fixed,
    is_share,
    loss_decimals,
    metric_decimals,
    metric_name,
    metric_value,
    parameter_count,
    plus_minus,
    shortened,
    targets_cell,
)
from rung.report.layout import CHOSEN, plain_table
from rung.report.sentences import disagreement_sentence
from rung.search.verdicts import NATS
from rung.tuning.result import SettingResult, StudyResult
from rung.types import Setting

MAX_METRICS = 2
"""Metrics of the finalists that have a column."""
MAX_NAME = 24
"""Cells of a metric's name."""
MAX_TRIVIAL_TEXT = 40
MAX_SETTINGS = 16
"""Rows of a table of settings."""


def quality_part(result: StudyResult) -> Iterator[RenderableType]:
    """The test rows by loss and metrics; the finalists by the metrics on validation rows."""
    baseline = result.baseline
    yield Text(f"Quality on {count(baseline.test_rows, 'test row')}", style="bold")
    yield _test_table(result)
    notes = []
    if baseline.trivial:
        text = shortened(baseline.trivial.text, MAX_TRIVIAL_TEXT)
        notes.append(f"Trivial: always answering '{text}'.")
    if baseline.generated_rows not in (0, baseline.test_rows):
        notes.append(f"All but the loss on {count(baseline.generated_rows, 'row')}.")
    if notes:
        yield Text(" ".join(notes), style="dim")
    if len(result.metrics.settings) > 1 and result.metrics.names:
        yield Text()
        yield Text(
            f"Finalists on {count(result.metrics.rows, 'validation row')}, the best first",
            style="bold",
        )
        yield _finalists_table(result)
    if result.metrics.disagreement:
        yield Text(disagreement_sentence(result.metrics.disagreement))


def _test_table(result: StudyResult) -> Table:
    best, baseline, decimals = result.recommendation, result.baseline, loss_decimals(result)
    trivial = baseline.trivial.test if baseline.trivial else {}
    columns = ["", "adapter", "untuned", "better by"]
    table = plain_table(*columns, *(["trivial"] if trivial else []))

    def cell(name: str, value: float | None) -> str:
        if value is None:
            return ""
        return fixed(value, decimals) if name == "loss" else metric_value(name, value)

    for name, value in best.test.items():
        row = [cell(name, value), cell(name, baseline.test.get(name))]
        row.append(_gain(name, best.test_gains.get(name), decimals))
        if trivial:
            row.append(cell(name, trivial.get(name)))
        table.add_row(shortened(metric_name(name), MAX_NAME), *row)
    return table


def _gain(name: str, gain: MetricGain | None, decimals: int) -> str:
    if gain is None:
        return ""
    largest = max(abs(gain.gain), abs(gain.low), abs(gain.high))
    points = " points" if is_share(name) else ""
    unit = Unit(NATS, decimals)
    if name != "loss":
        unit = Unit(name, 1 if is_share(name) else metric_decimals(largest))
    return f"{unit.number(gain.gain)}{points} ({unit.interval(gain.low, gain.high)})"


def _finalists_table(result: StudyResult) -> Table:
    names = result.metrics.names[:MAX_METRICS]
    table = _settings_table(*(shortened(metric_name(name), MAX_NAME) for name in names))
    for own in result.metrics.best_first()[:MAX_SETTINGS]:
        chosen = own.setting == result.recommendation.setting
        cells = [_bounds(name, own.metrics[name]) for name in names]
        table.add_row(
            *_setting_cells(own.setting, chosen), *cells, style="bold green" if chosen else ""
        )
    return table


def _bounds(name: str, bounds: MetricBounds) -> str:
    value = metric_value(name, bounds.mean)
    if bounds.low is None or bounds.high is None:
        return value
    # A share's bounds end at 0 and 1, and then lie unevenly around it.
    reach = max(bounds.high - bounds.mean, bounds.mean - bounds.low)
    return f"{value} ± {metric_value(name, reach, like=bounds.mean)}"


def settings_part(result: StudyResult) -> Iterator[RenderableType]:
    """The settings that were trained in full, the best first; under them the others, each at the
    learning rate that was best as far as it came.
    """
    shown = _shown(result.settings)
    rest = len(shown) - MAX_SETTINGS
    yield Text(f"The best {MAX_SETTINGS} settings" if rest > 0 else "All settings", style="bold")
    yield _all_settings_table(shown[:MAX_SETTINGS], result)
    if any(own.fraction < 1 for own in shown[:MAX_SETTINGS]):
        yield Text(
            "Trained: the share of the training, × seeds. Below 100 % a setting was only raced, "
            "and is shown at its best learning rate.",
            style="dim",
        )
    if rest > 0:
        yield Text(f"{count(rest, 'more setting')} in result.json.", style="dim")


def _all_settings_table(settings: Sequence[SettingResult], result: StudyResult) -> Table:
    table = _settings_table("trained", "loss", "size", "time")
    decimals = loss_decimals(result)
    for own in settings:
        chosen = own.setting == result.recommendation.setting
        loss = own.validation_loss
        table.add_row(
            *_setting_cells(own.setting, chosen),
            f"{own.fraction:.0%}{f' × {own.seeds}' if own.seeds > 1 else ''}",
            plus_minus(loss.mean, loss.half_width, decimals) if loss else "diverged",
            parameter_count(own.parameters),
            f"{own.seconds:,.0f} s",
            style="bold green" if chosen else "" if own.status == "trained" else "dim",
        )
    return table


def _settings_table(*columns: str) -> Table:
    table = plain_table("rank", "alpha", "targets", "rate", *columns, left=0)
    table.columns[2].justify = "left"
    table.columns[2].no_wrap = False
    table.columns[2].overflow = "fold"
    return table


def _setting_cells(setting: Setting, chosen: bool) -> list[str]:
    mark = CHOSEN if chosen else ""
    alpha = f"{setting.alpha:g}{'√' if setting.use_rslora else ''}"
    rate = f"{setting.learning_rate:.3g}"
    return [f"{mark}{setting.rank}", alpha, targets_cell(setting.targets), rate]


def _shown(settings: Sequence[SettingResult]) -> list[SettingResult]:
    shown, seen = [], set()
    for own in sorted(settings, key=_order):
        if own.fraction == 1 or own.setting.effect not in seen:
            shown.append(own)
        seen.add(own.setting.effect)
    return shown


def _order(own: SettingResult) -> tuple[float, float, int, float]:
    loss = own.validation_loss.mean if own.validation_loss else math.inf
    return -own.fraction, loss, own.setting.rank, own.setting.alpha
