"""What a study's written texts are worth: metrics with intervals, row by row, and what they say beside the loss.

A metric of one run is made of the rows' pseudo-values (`metrics.py`), and those go the way of losses: the same rows are
compared, rows of one source count as one, and the noise of seeds is a layer of its own (`search/stats.py`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rung.errors import MetricError
from rung.formats.numbers import Column, Convention
from rung.metrics.custom import metric
from rung.metrics.text import OF_NUMBERS, SHARES, CompletionStats, Metric, measure, propose
from rung.search.stats import (
    NO_SEED_NOISE,
    Interval,
    Variance,
    gain_estimate,
    loss_estimate,
    seed_noise,
)
from rung.types import Candidate, Generation, Scores, shared_sources

UNREAD = 0.1
"""No metric of numbers is proposed where more held-out completions of a split than this are no such numbers."""
Texts = Sequence[Generation]
Runs = Mapping[Candidate, Texts]
"""What each run of some settings has written."""


@dataclass(frozen=True)
class Evaluator:
    """The metrics of a study; `known` is what its training rows say of the completions."""

    metrics: tuple[Metric, ...]
    known: CompletionStats

    @classmethod
    def of(
        cls,
        completions: Sequence[str],
        names: Sequence[str] = (),
        judge: str = "loss",
        numbers: Convention | None = None,
        held: Mapping[str, Sequence[str]] | None = None,
    ) -> Evaluator:
        """The metrics that are named, or those that fit; and the one to judge by, if that is named. `numbers` says how
        they are written, which is otherwise told from the completions; `held` are the completions of the other splits.

        Raises:
            MetricError: there is no such metric, or it is one of numbers and a split has none.
        """
        known, held = CompletionStats.of(completions, numbers), held or {}
        if known.mere and not _comparable(completions, held, known):
            known = replace(known, mere=False)
        wanted = [*(names or propose(completions, known))]
        if judge not in ("loss", "metric", *wanted):
            wanted.insert(0, judge)
        found = cls(tuple(metric(name) for name in wanted), known)
        for name in [name for name in wanted if name in OF_NUMBERS]:
            for split, texts in held.items():
                if texts and all(known.wanted(text) is None for text in texts):
                    judged_by(judge, found)  # what no rows could mend is said first
                    raise MetricError(
                        f"{name} cannot be worked out: the {split} completions, such as {texts[0].strip()[:40]!r}, "
                        "have no numbers as the training rows write them; write all of them alike."
                    )
        return found

    def values(self, written: Texts) -> dict[str, float]:
        """Every metric of what was written; nothing where nothing was."""
        return (
            {one.name: measure(one, written, self.known).value for one in self.metrics}
            if written
            else {}
        )

    def trivial(self, written: Texts) -> dict[str, float]:
        """The metrics of who always writes the same: the commonest completion, or the median number."""
        return self.values([replace(row, text=self.known.always) for row in written])

    def scores(self, one: Metric, written: Texts) -> Scores | None:
        """The rows' pseudo-values as losses, so that lower is better; None where a metric has none, or the rows are all
        of one source.
        """
        rows, sources = (
            measure(one, written, self.known).rows,
            shared_sources([row.source for row in written]),
        )
        if not len(rows) or len(set(sources)) == 1:
            return None
        return Scores(tuple(one.loss(float(value)) for value in rows), (1,) * len(rows), sources)

    def intervals(self, written: Texts) -> dict[str, dict[str, float]]:
        """The metrics of one run with bounds at 95 %, over the choice of rows alone."""
        found = {}
        for one in self.metrics if written else ():
            if scores := self.scores(one, written):
                found[one.name] = _bounds(one, loss_estimate([scores]).interval())
        return found

    def gains(self, before: Texts, to: Texts) -> dict[str, dict[str, float]]:
        """How much better one run is than another, for each metric, row by row; positive is better."""
        found = {}
        for one in self.metrics if before and to else ():
            sides = self.scores(one, before), self.scores(one, to)
            if sides[0] and sides[1]:
                found[one.name] = _gain(gain_estimate([sides[0]], [sides[1]]).interval())
        return found

    def document(
        self, runs: Runs, chosen: Candidate, losses: Mapping[Candidate, float], judge: str
    ) -> dict[str, Any]:
        """The metrics on validation rows of the settings that were trained in full, over their seeds, each beside the
        recommended one. `losses` are the runs' validation losses, `judge` is `loss` or the name of the metric that
        decided.
        """
        settings = _by_setting(runs)
        home = replace(chosen, seed=0)
        rows = len(next(iter(runs.values()), ()))
        if not rows:
            return {"judge": judge, "names": [], "rows": 0, "settings": [], "says": []}
        found: dict[Candidate, dict[str, Any]] = {setting: {} for setting in settings}
        for one in self.metrics:
            scored = {
                run: scores for run, texts in runs.items() if (scores := self.scores(one, texts))
            }
            noise = _noise({run: scores.mean for run, scores in scored.items()})
            for setting, members in settings.items():
                own = [scored[run] for run in members if run in scored]
                if not own:
                    values = [measure(one, runs[run], self.known).value for run in members]
                    found[setting][one.name] = {"mean": math.fsum(values) / len(values)}
                    continue
                interval = loss_estimate(own, (noise or NO_SEED_NOISE).times(1 / len(own))).interval()
                found[setting][one.name] = _bounds(one, interval)
                if setting != home:
                    sides = _paired(scored, settings[home], members)
                    found[setting][one.name]["gain"] = _gain(_compared(*sides, noise))
        return {
            "judge": judge,
            "names": [one.name for one in self.metrics],
            "rows": rows,
            "settings": [
                {
                    "rank": setting.rank,
                    "alpha": setting.alpha,
                    "targets": setting.targets,
                    "learning_rate": setting.learning_rate,
                    "use_rslora": setting.use_rslora,
                    "seeds": len(members),
                    "metrics": found[setting],
                }
                for setting, members in settings.items()
            ],
            "says": self._disagreement(runs, settings, losses, judge),
        }

    def _disagreement(
        self,
        runs: Runs,
        settings: Mapping[Candidate, Sequence[Candidate]],
        losses: Mapping[Candidate, float],
        judge: str,
    ) -> list[str]:
        """Where the loss and the first metric, or the one to judge by, would not choose the same."""
        one = next((one for one in self.metrics if one.name == judge), self.metrics[0])
        values = {
            setting: math.fsum(measure(one, runs[run], self.known).value for run in own) / len(own)
            for setting, own in settings.items()
        }
        by_loss = min(
            settings, key=lambda s: math.fsum(losses[run] for run in settings[s]) / len(settings[s])
        )
        by_metric = min(settings, key=lambda s: one.loss(values[s]))
        if values[by_loss] == values[by_metric]:
            return []
        says = (
            f"The loss and {in_words(one.name)} disagree: {_named(by_loss)} has the lowest loss and "
            f"{values[by_loss]:.4g}, {_named(by_metric)} has {values[by_metric]:.4g}"
        )
        scored = {run: scores for run, texts in runs.items() if (scores := self.scores(one, texts))}
        noise = _noise({run: scores.mean for run, scores in scored.items()})
        if noise is None or not scored:
            return [f"{says}; one seed of each cannot tell that from its luck."]
        found = _compared(*_paired(scored, settings[by_loss], settings[by_metric]), noise)
        return [
            f"{says}; that difference is {'more' if found.low > 0 else 'no more'} than rows and seeds explain."
        ]


def _comparable(
    completions: Sequence[str], held: Mapping[str, Sequence[str]], known: CompletionStats
) -> bool:
    """Whether the completions of the other splits are numbers too, but for a few, and of the same unit."""
    read = ([known.wanted(text) is not None for text in texts] for texts in held.values() if texts)
    if any(sum(own) < (1 - UNREAD) * len(own) for own in read):
        return False
    return Column.of(itertools.chain(completions, *held.values())).unit is not None


def _compared(before: Sequence[Scores], to: Sequence[Scores], noise: Variance | None) -> Interval:
    """How much better one side is, over its runs; `noise` is that of one run."""
    added = (noise or NO_SEED_NOISE).times(1 / len(before) + 1 / len(to))
    return gain_estimate(before, to, added).interval()


def judged_by(judge: str, quality: Evaluator) -> Metric | None:
    """The metric that decides; None for the loss. `metric` is the first one of the study.

    Raises:
        MetricError: it has no interval.
    """
    if judge == "loss":
        return None
    found = quality.metrics[0] if judge == "metric" else metric(judge)
    if found.total is None:
        raise MetricError(
            f"--judge: {found.name} has no interval, so it can decide nothing; give another metric."
        )
    return found


def in_words(name: str) -> str:
    return name.replace("_", " ")


def _by_setting(runs: Runs) -> dict[Candidate, list[Candidate]]:
    """The runs of each setting, in the order of their seeds: of those seeds that confirm, where it has any."""
    ordered = sorted(runs, key=lambda run: (replace(run, seed=0).id, run.seed))
    groups = {
        key: list(own)
        for key, own in itertools.groupby(ordered, key=lambda run: replace(run, seed=0))
    }
    return {setting: [run for run in own if run.seed] or own for setting, own in groups.items()}


def _paired(
    scored: Mapping[Candidate, Scores], before: Sequence[Candidate], to: Sequence[Candidate]
) -> tuple[list[Scores], list[Scores]]:
    """The runs of the seeds that both have, or all of them."""
    one, other = ({run.seed: scored[run] for run in side} for side in (before, to))
    shared = sorted(one.keys() & other.keys())
    return (
        ([one[s] for s in shared], [other[s] for s in shared])
        if shared
        else (list(one.values()), list(other.values()))
    )


def _noise(means: Mapping[Candidate, float]) -> Variance | None:
    """Of one run, from the settings with several seeds."""
    return seed_noise(
        {(replace(run, seed=0), run.seed): mean for run, mean in means.items() if run.seed}
    )


def _bounds(one: Metric, interval: Interval) -> dict[str, float]:
    """From what is lowered back to the metric; a share is not below 0 or above 1."""
    low, high = sorted((one.loss(interval.low), one.loss(interval.high)))
    if one.name in SHARES:
        low, high = max(0.0, low), min(1.0, high)
    return {"mean": one.loss(interval.mean), "low": low, "high": high}


def _gain(interval: Interval) -> dict[str, float]:
    return {"gain": interval.mean, "low": interval.low, "high": interval.high}


def _named(setting: Candidate) -> str:
    mark = "√" if setting.use_rslora else ""
    rate = f"{setting.learning_rate:.3g}"
    return f"rank {setting.rank} (alpha {setting.alpha:g}{mark}, {setting.targets}, {rate})"
