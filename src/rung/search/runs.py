"""What a strategy has had measured, by setting: losses over the seeds, and comparisons with the noise of seeds.

A *setting* is a candidate with seed 0, and stands for all of its seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from rung.levers import Candidate, Measurement, Scores
from rung.search.stats import Estimate, Variance, gain_estimate, run_noise, seed_noise
from rung.search.strategy import Answer


class Runs:
    """Every run so far, by setting and by the share of the budget it was judged at.

    Args:
        confirming: the seeds that confirm. A comparison uses them alone, where both sides have them: the others have
            picked the sides, and flatter what they picked. The noise is taken from them alone too.
    """

    def __init__(self, confirming: Collection[int]) -> None:
        self.confirming = confirming
        self._runs: dict[tuple[Candidate, float], dict[int, Measurement]] = {}

    def keep(self, answer: Answer, until: float) -> None:
        """Add what was measured at that share."""
        for candidate, measurement in answer.items():
            self._runs.setdefault((replace(candidate, seed=0), until), {})[candidate.seed] = measurement

    def of(self, setting: Candidate, until: float) -> list[Measurement]:
        """A run of each of its seeds: of those that confirm, where it has any."""
        runs = self._runs[setting, until]
        return [m for seed, m in runs.items() if seed in self.confirming] or list(runs.values())

    def has(self, setting: Candidate, until: float) -> bool:
        """Whether any seed was measured there."""
        return (setting, until) in self._runs

    def parameters(self, setting: Candidate, until: float) -> int:
        """How many numbers its adapter has."""
        return self.of(setting, until)[0].parameters

    def loss(self, setting: Candidate, until: float) -> float:
        """The mean over the seeds; infinite where one of them diverged."""
        runs = self.of(setting, until)
        return math.fsum(m.loss for m in runs) / len(runs)

    def losses(self, settings: Collection[Candidate], until: float) -> dict[Candidate, float]:
        """The mean of each over the seeds that all of them have, so that it is the same seeds' luck in all."""
        runs = {setting: {m.candidate.seed: m.loss for m in self.of(setting, until)} for setting in settings}
        shared = set.intersection(*(set(own) for own in runs.values()))
        return {
            setting: math.fsum(own[seed] for seed in shared) / len(shared) if shared else self.loss(setting, until)
            for setting, own in runs.items()
        }

    def lasted(self, setting: Candidate, until: float) -> bool:
        """Whether no seed diverged."""
        return math.isfinite(self.loss(setting, until))

    def by_loss(self, until: float) -> Callable[[Candidate], tuple[float, int, float, float, str]]:
        """A key to sort settings by; among equals the smaller one comes first, so that no order of history matters."""
        return lambda s: (self.loss(s, until), s.rank, s.alpha, s.learning_rate, s.targets)

    def sides(self, before: Candidate, to: Candidate, until: float) -> tuple[list[Scores], list[Scores]]:
        """The scores of both sides of a comparison, for the seeds that both have, in the same order."""
        one, other = self._runs[before, until], self._runs[to, until]
        shared = sorted(one.keys() & other.keys())
        seeds = [seed for seed in shared if seed in self.confirming] or shared
        return _scores(one[seed] for seed in seeds), _scores(other[seed] for seed in seeds)

    def gain(self, before: Candidate, to: Candidate, until: float, noise: Variance) -> Estimate:
        """How much better `to` is; `noise` is that of one run."""
        one, other = self.sides(before, to, until)
        return gain_estimate(one, other, noise.times(2 / len(one)))

    def noise(self, until: float) -> Variance | None:
        """Of one run in a comparison, from the settings that have several confirming seeds there."""
        return seed_noise(self._confirmed(until))

    def whole_noise(self, until: float) -> Variance | None:
        """Of one run by itself, with what its seed does to all settings."""
        return run_noise(self._confirmed(until))

    def _confirmed(self, until: float) -> dict[tuple[object, int], float]:
        return {
            (setting, seed): m.loss
            for (setting, share), runs in self._runs.items()
            if share == until
            for seed, m in runs.items()
            if m.scores and seed in self.confirming
        }


def _scores(runs: Iterable[Measurement]) -> list[Scores]:
    return [run.scores for run in runs if run.scores]
