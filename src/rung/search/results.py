"""What a strategy has had measured, by setting: losses over the seeds, and comparisons with the noise of seeds.

A *setting* is a candidate with seed 0, and stands for all of its seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable

from rung.search.stats import Estimate, Variance, gain_estimate, run_noise, seed_noise
from rung.search.strategy import Answer
from rung.types import Measurement, Scores, Setting


class Results:
    """Every run so far, by setting and by the share of the budget it was judged at.

    Args:
        confirming: the seeds that confirm. A comparison uses them alone, where both sides have them: the others have
            picked the sides, and flatter what they picked. The noise is taken from them alone too.
    """

    def __init__(self, confirming: Collection[int]) -> None:
        self.confirming = confirming
        self._runs: dict[tuple[Setting, float], dict[int, Measurement]] = {}

    def keep(self, answer: Answer, fraction: float) -> None:
        """Add what was measured at that share."""
        for candidate, measurement in answer.items():
            self._runs.setdefault((candidate.setting, fraction), {})[candidate.seed] = measurement

    def of(self, setting: Setting, fraction: float) -> list[Measurement]:
        """A run of each of its seeds: of those that confirm, where it has any."""
        results = self._runs[setting, fraction]
        return [m for seed, m in results.items() if seed in self.confirming] or list(
            results.values()
        )

    def has(self, setting: Setting, fraction: float) -> bool:
        """Whether any seed was measured there."""
        return (setting, fraction) in self._runs

    def parameters(self, setting: Setting, fraction: float) -> int:
        """How many numbers its adapter has."""
        return self.of(setting, fraction)[0].parameters

    def loss(self, setting: Setting, fraction: float) -> float:
        """The mean over the seeds; infinite where one of them diverged."""
        results = self.of(setting, fraction)
        return math.fsum(m.loss for m in results) / len(results)

    def losses(self, settings: Collection[Setting], fraction: float) -> dict[Setting, float]:
        """The mean of each over the seeds that all of them have, so that it is the same seeds' luck in all."""
        results = {
            setting: {m.candidate.seed: m.loss for m in self.of(setting, fraction)}
            for setting in settings
        }
        shared = set.intersection(*(set(own) for own in results.values()))
        return {
            setting: math.fsum(own[seed] for seed in shared) / len(shared)
            if shared
            else self.loss(setting, fraction)
            for setting, own in results.items()
        }

    def lasted(self, setting: Setting, fraction: float) -> bool:
        """Whether no seed diverged."""
        return math.isfinite(self.loss(setting, fraction))

    def by_loss(self, fraction: float) -> Callable[[Setting], tuple[float, int, float, float, str]]:
        """A key to sort settings by; among equals the smaller one comes first, so that no order of history matters."""
        return lambda s: (self.loss(s, fraction), s.rank, s.alpha, s.learning_rate, s.targets)

    def sides(
        self, before: Setting, to: Setting, fraction: float
    ) -> tuple[list[Scores], list[Scores]]:
        """The scores of both sides of a comparison, for the seeds that both have, in the same order."""
        one, other = self._runs[before, fraction], self._runs[to, fraction]
        shared = sorted(one.keys() & other.keys())
        seeds = [seed for seed in shared if seed in self.confirming] or shared
        return _scores(one[seed] for seed in seeds), _scores(other[seed] for seed in seeds)

    def gain(self, before: Setting, to: Setting, fraction: float, noise: Variance) -> Estimate:
        """How much better `to` is; `noise` is that of one run."""
        one, other = self.sides(before, to, fraction)
        return gain_estimate(one, other, noise.times(2 / len(one)))

    def noise(self, fraction: float) -> Variance | None:
        """Of one run in a comparison, from the settings that have several confirming seeds there."""
        return seed_noise(self._confirmed(fraction))

    def whole_noise(self, fraction: float) -> Variance | None:
        """Of one run by itself, with what its seed does to all settings."""
        return run_noise(self._confirmed(fraction))

    def _confirmed(self, fraction: float) -> dict[tuple[object, int], float]:
        return {
            (setting, seed): m.loss
            for (setting, share), results in self._runs.items()
            if share == fraction
            for seed, m in results.items()
            if m.scores and seed in self.confirming
        }


def _scores(results: Iterable[Measurement]) -> list[Scores]:
    return [run.scores for run in results if run.scores]
