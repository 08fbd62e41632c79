"""Evaluate the generated texts of a study: metrics with intervals, gains, and how settings compare.

A metric of one run is the mean of its rows' pseudo-values (`rung.metrics.metric`), and those are
treated as losses are: the same rows are compared, rows of one source count as one, and the noise of
seeds is a layer of its own (`rung.search.stats`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rung.errors import MetricError
from rung.formats.numbers import Column, Convention
from rung.metrics.metric import CompletionStats, Metric, evaluate
from rung.metrics.registry import NEED_NUMBERS, find_metric, suggest_metrics
from rung.metrics.report import (
    Disagreement,
    MetricBounds,
    MetricGain,
    MetricInfo,
    MetricsReport,
    SettingMetrics,
)
from rung.search.stats import (
    NO_SEED_NOISE,
    Interval,
    Variance,
    gain_estimate,
    loss_estimate,
    seed_noise,
)
from rung.types import Candidate, Generation, Scores, Setting, shared_sources

MAX_UNREADABLE_SHARE = 0.1
"""Rung suggests no metric of numbers if more than this share of the completions of another split
cannot be read as numbers."""

Generations = Sequence[Generation]
Runs = Mapping[Candidate, Generations]
"""What each candidate generated, for the same rows."""


@dataclass(frozen=True)
class Evaluator:
    """The metrics of a study, and what its training completions are like."""

    metrics: tuple[Metric, ...]
    completion_stats: CompletionStats

    @classmethod
    def of(
        cls,
        completions: Sequence[str],
        names: Sequence[str] = (),
        judge: str = "loss",
        numbers: Convention | None = None,
        held_out: Mapping[str, Sequence[str]] | None = None,
    ) -> Evaluator:
        """The named metrics, or those that suit the completions; and the one that judges.

        Args:
            completions: of the training rows.
            names: of the metrics; empty for those that suit the completions.
            judge: `loss`, `metric` for the first metric, or the name of a metric, which is added
                in front if it is missing.
            numbers: how numbers are written; None to tell it from the completions.
            held_out: the completions of the other splits, by the names of the splits.

        Raises:
            MetricError: A metric is unknown or cannot judge, or it needs numbers and a split has
                none.
        """
        stats, held_out = CompletionStats.of(completions, numbers), held_out or {}
        if stats.all_numbers and not _all_splits_have_numbers(completions, held_out, stats):
            stats = replace(stats, all_numbers=False)
        wanted = [*(names or suggest_metrics(completions, stats))]
        if judge not in ("loss", "metric", *wanted):
            wanted.insert(0, judge)
        evaluator = cls(tuple(find_metric(name) for name in wanted), stats)
        for name in [name for name in wanted if name in NEED_NUMBERS]:
            for split, texts in held_out.items():
                if texts and all(stats.read_wanted(text) is None for text in texts):
                    # A judge without an interval is reported first: no other rows would help.
                    judge_metric(judge, evaluator)
                    raise MetricError(
                        f"{name} cannot be computed: the {split} completions, such as "
                        f"{texts[0].strip()[:40]!r}, have no numbers in the format of the training "
                        "rows; write all of them in one format."
                    )
        return evaluator

    def values(self, generations: Generations) -> dict[str, float]:
        """Each metric by its name; empty where nothing was generated."""
        if not generations:
            return {}
        return {metric.name: self._value(metric, generations) for metric in self.metrics}

    def trivial_values(self, generations: Generations) -> dict[str, float]:
        """The metrics of the trivial predictor on these rows: it always generates one text."""
        text = self.completion_stats.trivial_text
        return self.values([replace(row, text=text) for row in generations])

    def scores(self, metric: Metric, generations: Generations) -> Scores | None:
        """The rows' pseudo-values as losses, so that lower is better.

        Returns:
            None where the metric has no pseudo-values, or all rows are of one source.
        """
        rows = evaluate(metric, generations, self.completion_stats).pseudo_values
        sources = shared_sources([row.source for row in generations])
        if not len(rows) or len(set(sources)) == 1:
            return None
        losses = tuple(metric.to_loss(float(value)) for value in rows)
        return Scores(losses, (1,) * len(rows), sources)

    def intervals(self, generations: Generations) -> dict[str, MetricBounds]:
        """The metrics of one run by their names; the bounds cover the choice of rows alone.

        Metrics without an interval are left out.
        """
        intervals = {}
        for metric in self.metrics if generations else ():
            if scores := self.scores(metric, generations):
                intervals[metric.name] = _bounds(metric, loss_estimate([scores]).interval())
        return intervals

    def gains(self, before: Generations, after: Generations) -> dict[str, MetricGain]:
        """How much better one run is than another, row by row, by the names of the metrics.

        Metrics without an interval are left out.
        """
        gains = {}
        for metric in self.metrics if before and after else ():
            scores_before, scores_after = self.scores(metric, before), self.scores(metric, after)
            if scores_before and scores_after:
                interval = gain_estimate([scores_before], [scores_after]).interval()
                gains[metric.name] = _gain(interval)
        return gains

    def report(
        self, runs: Runs, recommended: Setting, losses: Mapping[Candidate, float], judge: str
    ) -> MetricsReport:
        """The metrics of the settings that were trained in full, over their seeds.

        Args:
            runs: what each candidate generated for the validation rows.
            recommended: the setting that the others are compared with; one of those of `runs`.
            losses: the validation loss of each candidate of `runs`.
            judge: `loss`, or the name of the metric that decided.
        """
        rows = len(next(iter(runs.values()), ()))
        if not rows:
            return MetricsReport(judge, (), 0, (), None)
        members = _runs_of_settings(runs)
        metrics: dict[Setting, dict[str, MetricBounds]] = {setting: {} for setting in members}
        gains: dict[Setting, dict[str, MetricGain]] = {setting: {} for setting in members}
        for metric in self.metrics:
            scored = self._scored(metric, runs)
            noise = _noise_of_seeds(scored)
            for setting, candidates in members.items():
                own = [scored[run] for run in candidates if run in scored]
                if not own:
                    mean = self._mean_value(metric, runs, candidates)
                    metrics[setting][metric.name] = MetricBounds(mean)
                    continue
                seeds = (noise or NO_SEED_NOISE).times(1 / len(own))
                interval = loss_estimate(own, seeds).interval()
                metrics[setting][metric.name] = _bounds(metric, interval)
                if setting != recommended:
                    sides = _same_seeds(scored, members[recommended], candidates)
                    gains[setting][metric.name] = _gain(_compare(*sides, noise))
        return MetricsReport(
            judge,
            tuple(MetricInfo(metric.name, metric.lower_is_better) for metric in self.metrics),
            rows,
            tuple(
                SettingMetrics(setting, len(candidates), metrics[setting], gains[setting])
                for setting, candidates in members.items()
            ),
            self._disagreement(runs, members, losses, judge),
        )

    def _disagreement(
        self,
        runs: Runs,
        members: Mapping[Setting, Sequence[Candidate]],
        losses: Mapping[Candidate, float],
        judge: str,
    ) -> Disagreement | None:
        """Whether the loss and the metric that judges, or else the first, prefer one setting."""
        metric = next((one for one in self.metrics if one.name == judge), self.metrics[0])
        values = {
            setting: self._mean_value(metric, runs, candidates)
            for setting, candidates in members.items()
        }
        by_loss = min(
            members, key=lambda s: math.fsum(losses[run] for run in members[s]) / len(members[s])
        )
        by_metric = min(members, key=lambda s: metric.to_loss(values[s]))
        if values[by_loss] == values[by_metric]:
            return None
        scored = self._scored(metric, runs)
        noise = _noise_of_seeds(scored)
        explained = None
        if noise is not None:
            sides = _same_seeds(scored, members[by_loss], members[by_metric])
            explained = _compare(*sides, noise).low <= 0
        return Disagreement(
            metric.name, by_loss, by_metric, values[by_loss], values[by_metric], explained
        )

    def _value(self, metric: Metric, generations: Generations) -> float:
        return evaluate(metric, generations, self.completion_stats).value

    def _mean_value(self, metric: Metric, runs: Runs, candidates: Sequence[Candidate]) -> float:
        return math.fsum(self._value(metric, runs[run]) for run in candidates) / len(candidates)

    def _scored(self, metric: Metric, runs: Runs) -> dict[Candidate, Scores]:
        """The scores of the runs that have any."""
        scores = {run: self.scores(metric, generations) for run, generations in runs.items()}
        return {run: own for run, own in scores.items() if own}


def judge_metric(judge: str, evaluator: Evaluator) -> Metric | None:
    """The metric that decides; None for the loss.

    Args:
        judge: `loss`, `metric` for the first metric of the study, or the name of a metric.

    Raises:
        MetricError: The metric is unknown, or has no interval.
    """
    if judge == "loss":
        return None
    metric = evaluator.metrics[0] if judge == "metric" else find_metric(judge)
    if metric.total is None:
        raise MetricError(
            f"--judge: {metric.name} has no interval, so it cannot decide; give another metric."
        )
    return metric


def _all_splits_have_numbers(
    completions: Sequence[str], held_out: Mapping[str, Sequence[str]], stats: CompletionStats
) -> bool:
    """Whether nearly all completions of the other splits are numbers too, of the same unit."""
    for texts in held_out.values():
        readable = sum(stats.read_wanted(text) is not None for text in texts)
        if readable < (1 - MAX_UNREADABLE_SHARE) * len(texts):
            return False
    return Column.of(itertools.chain(completions, *held_out.values())).unit is not None


def _compare(before: Sequence[Scores], after: Sequence[Scores], noise: Variance | None) -> Interval:
    """How much better one side is, over its runs; `noise` is that of one run."""
    seeds = (noise or NO_SEED_NOISE).times(1 / len(before) + 1 / len(after))
    return gain_estimate(before, after, seeds).interval()


def _runs_of_settings(runs: Runs) -> dict[Setting, list[Candidate]]:
    """The candidates of each setting, by seed: of the confirmation, if there are any.

    Those have seeds above 0. Seed 0 raced: it selected what was confirmed, so its result flatters
    the setting.
    """
    # By the id and not by the label: `-s0` behind a label changes the order of some.
    ordered = sorted(runs, key=lambda run: (Candidate(run.setting).id, run.seed))
    groups = itertools.groupby(ordered, key=lambda run: run.setting)
    candidates = {setting: list(own) for setting, own in groups}
    return {setting: [run for run in own if run.seed] or own for setting, own in candidates.items()}


def _same_seeds(
    scored: Mapping[Candidate, Scores], before: Sequence[Candidate], after: Sequence[Candidate]
) -> tuple[list[Scores], list[Scores]]:
    """The scores of the seeds that both sides have; of all their seeds if they share none."""
    scores_before = {run.seed: scored[run] for run in before}
    scores_after = {run.seed: scored[run] for run in after}
    shared = sorted(scores_before.keys() & scores_after.keys())
    if not shared:
        return list(scores_before.values()), list(scores_after.values())
    return [scores_before[seed] for seed in shared], [scores_after[seed] for seed in shared]


def _noise_of_seeds(scored: Mapping[Candidate, Scores]) -> Variance | None:
    """The variance of one run, from the confirmed settings; None if none has several seeds."""
    return seed_noise(
        {(run.setting, run.seed): scores.mean for run, scores in scored.items() if run.seed}
    )


def _bounds(metric: Metric, interval: Interval) -> MetricBounds:
    """From losses back to the metric; a share stays between 0 and 1."""
    low, high = sorted((metric.to_loss(interval.low), metric.to_loss(interval.high)))
    if metric.is_share:
        low, high = max(0.0, low), min(1.0, high)
    return MetricBounds(metric.to_loss(interval.mean), low, high)


def _gain(interval: Interval) -> MetricGain:
    return MetricGain(interval.mean, interval.low, interval.high)
