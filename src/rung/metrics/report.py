"""The metrics of a study's settings as data, for `result.json` and for the summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rung.types import Setting


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """A metric of the study, and which way it is better."""

    name: str
    lower_is_better: bool


@dataclass(frozen=True, slots=True)
class MetricBounds:
    """The value of a metric and its bounds at 95 %.

    `low` and `high` are None where the metric has no interval: for a median, or where all rows have
    one source.
    """

    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class MetricGain:
    """By how much one side is better than another in a metric, with bounds at 95 %.

    Positive is better, also for a metric where lower is better.
    """

    gain: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class SettingMetrics:
    """The metrics of a setting that was trained in full, over its seeds.

    Attributes:
        seeds: how many runs there are.
        metrics: by the metric's name.
        gains: the same for how much better it is than the recommended setting, which has none.
    """

    setting: Setting
    seeds: int
    metrics: Mapping[str, MetricBounds]
    gains: Mapping[str, MetricGain]


@dataclass(frozen=True, slots=True)
class Disagreement:
    """The loss and a metric would recommend different settings.

    Attributes:
        metric: its name.
        by_loss, by_metric: the settings with the lowest loss and with the best metric.
        by_loss_value, by_metric_value: the metric of the two.
        explained: whether the choice of rows and seeds explains the difference between the two
            values. None where no setting has several seeds, so that nothing tells.
    """

    metric: str
    by_loss: Setting
    by_metric: Setting
    by_loss_value: float
    by_metric_value: float
    explained: bool | None


@dataclass(frozen=True, slots=True)
class MetricsReport:
    """The metrics, on the validation rows, of the settings that were trained in full.

    Attributes:
        judge: `loss`, or the name of the metric that decided.
        metrics: the metrics of the study, the first one first in importance.
        rows: how many validation rows have generated texts.
        settings: in the order of their labels.
        disagreement: None where the loss and the metric that decides, or else the first, agree.
    """

    judge: str
    metrics: tuple[MetricInfo, ...]
    rows: int
    settings: tuple[SettingMetrics, ...]
    disagreement: Disagreement | None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the metrics."""
        return tuple(metric.name for metric in self.metrics)

    def best_first(self) -> tuple[SettingMetrics, ...]:
        """The settings by their first metric, the best first."""
        if not self.metrics:
            return self.settings
        first = self.metrics[0]
        return tuple(
            sorted(
                self.settings,
                key=lambda own: own.metrics[first.name].mean,
                reverse=not first.lower_is_better,
            )
        )
