"""`result.json`: what a study has found, as data. See docs/result.md.

Losses are in nats per completion token; intervals are at 95 %. Sentences are made of this in
`rung.report`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rung.metrics.report import MetricBounds, MetricGain, MetricsReport
from rung.search.stats import Interval
from rung.search.strategy import Exclusion, LeverStanding
from rung.search.verdicts import NATS
from rung.types import Lever, Outcome, RankUse, Setting, Verdict

SettingStatus = Literal["trained", "excluded", "diverged"]
"""`trained` to the full budget, `excluded` before that, or `diverged`."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The setting to use, and the adapter that was trained with it.

    Attributes:
        candidate: the id of the run that the adapter is from; `seed` is its seed.
        target_modules: the names of modules in PEFT's terms.
        adapter: the adapter's folder, relative to the study's.
        validation_loss: of the setting, over its seeds.
        adapter_validation_loss: of the adapter itself.
        test: the loss and the metrics of the adapter on the test rows, by name.
        test_intervals, test_gains: their intervals, and how much better than the untuned model
            the adapter is.
    """

    candidate: str
    setting: Setting
    seed: int
    target_modules: tuple[str, ...]
    adapter: str
    validation_loss: Interval | None
    adapter_validation_loss: float
    test: Mapping[str, float]
    test_intervals: Mapping[str, MetricBounds]
    test_gains: Mapping[str, MetricGain]
    rank_use: RankUse


@dataclass(frozen=True, slots=True)
class TrivialAnswer:
    """What always giving one text comes to on the test rows: the metrics, by name."""

    text: str
    test: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Baseline:
    """The untuned model, and the trivial answer where texts are generated.

    Attributes:
        test: the loss and the metrics on the test rows, by name.
        test_rows: how many rows the loss is of; `generated_rows`: how many the metrics are of.
    """

    validation_loss: float
    test: Mapping[str, float]
    test_rows: int
    generated_rows: int
    trivial: TrivialAnswer | None


@dataclass(frozen=True, slots=True)
class LadderStep:
    """A rank of the ladder, and what the step to it from the rank before gained.

    Attributes:
        setting: the setting at this rank with the recommended target modules; None where no run
            and no surface tells of it.
        fraction: the share of the full budget that `loss` is at; below 1 it is the race's.
        seeds: the runs behind `loss`; 0 where it is read off the race's surface.
        gain: by how much the loss is below that of the rank before, where both are at one
            fraction. `low`, `high` and `outcome` are set where the step was judged, and `unit` is
            a metric's name where a metric judges.
    """

    rank: int
    setting: Setting | None
    fraction: float | None
    seeds: int
    loss: float | None
    gain: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = NATS
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class SettingResult:
    """A setting over its seeds, as far as it was trained.

    Attributes:
        seeds: the runs that `validation_loss` is of.
        seconds: of all its runs, each with its share of the time of its packs.
    """

    setting: Setting
    seeds: int
    fraction: float
    status: SettingStatus
    validation_loss: Interval | None
    parameters: int
    peak_memory_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class CandidateResult:
    """One run, as far as it was trained.

    Attributes:
        exclusion: why it was not trained on; None where it was trained in full.
        reason: what went wrong where it diverged.
    """

    id: str
    setting: Setting
    seed: int
    target_modules: tuple[str, ...]
    status: SettingStatus
    exclusion: Exclusion | None
    reason: str
    fraction: float
    steps: int
    tokens: int
    validation_loss: Interval | None
    parameters: int
    adapter_bytes: int
    peak_memory_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class SeedNoise:
    """How much the loss of one setting varies from seed to seed."""

    standard_deviation: float
    degrees_of_freedom: float


@dataclass(frozen=True, slots=True)
class Cost:
    """What the study took. `single_run_tokens` are the training tokens of one full budget."""

    wall_seconds: float
    candidate_tokens: int
    single_run_tokens: int

    @property
    def single_runs(self) -> float:
        """The training of all candidates, in single runs."""
        return self.candidate_tokens / self.single_run_tokens


@dataclass(frozen=True, slots=True)
class StudyResult:
    """The answer of a study, with its evidence.

    Attributes:
        model_source: what `from_pretrained` loads the base from.
        standings: for each lever the values that were tried, with their losses: no claim.
        ladder: the ranks from small to large.
        noise: None where every setting was trained with one seed.
        untried: for a lever the values that no setting had.
    """

    schema: int
    study: str
    model: str
    model_source: str
    data: str
    recommendation: Recommendation
    baseline: Baseline
    verdicts: tuple[Verdict, ...]
    standings: tuple[LeverStanding, ...]
    ladder: tuple[LadderStep, ...]
    metrics: MetricsReport
    noise: SeedNoise | None
    untried: Mapping[Lever, tuple[str, ...]]
    settings: tuple[SettingResult, ...]
    candidates: tuple[CandidateResult, ...]
    cost: Cost
