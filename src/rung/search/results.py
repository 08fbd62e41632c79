"""The measurements of a climb by setting: losses over seeds, and comparisons with seed noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable

from rung.search.stats import Estimate, Variance, gain_estimate, run_noise, seed_noise
from rung.search.strategy import StageResults
from rung.types import Measurement, Scores, Setting


class Results:
    """Every measurement so far, by setting and by the fraction of the budget.

    Args:
        confirmation_seeds: the seeds that confirm. Comparisons use these alone wherever both sides
            have some, and the noise is estimated from them alone. The other seeds chose the
            settings that are compared, so their losses flatter what they chose.
    """

    def __init__(self, confirmation_seeds: Collection[int]) -> None:
        self.confirmation_seeds = confirmation_seeds
        self._by_seed: dict[tuple[Setting, float], dict[int, Measurement]] = {}

    def add(self, answer: StageResults, fraction: float) -> None:
        """Add what was measured at that fraction."""
        for candidate, measurement in answer.items():
            by_seed = self._by_seed.setdefault((candidate.setting, fraction), {})
            by_seed[candidate.seed] = measurement

    def measurements(self, setting: Setting, fraction: float) -> list[Measurement]:
        """One for each confirmation seed of the setting; if it has none, for each other seed."""
        by_seed = self._by_seed[setting, fraction]
        confirmed = [m for seed, m in by_seed.items() if seed in self.confirmation_seeds]
        return confirmed or list(by_seed.values())

    def has(self, setting: Setting, fraction: float) -> bool:
        """Whether any seed of the setting was measured there."""
        return (setting, fraction) in self._by_seed

    def parameters(self, setting: Setting, fraction: float) -> int:
        """How many parameters the adapter of the setting has."""
        return self.measurements(setting, fraction)[0].parameters

    def loss(self, setting: Setting, fraction: float) -> float:
        """The mean over the seeds; infinite if one of them diverged."""
        measurements = self.measurements(setting, fraction)
        return math.fsum(m.loss for m in measurements) / len(measurements)

    def shared_seed_losses(
        self, settings: Collection[Setting], fraction: float
    ) -> dict[Setting, float]:
        """The mean of each setting over the seeds that all of them have.

        So all means contain the luck of the same seeds. If the settings share no seed, each mean is
        over the setting's own seeds.
        """
        losses = {
            setting: {m.candidate.seed: m.loss for m in self.measurements(setting, fraction)}
            for setting in settings
        }
        shared = set.intersection(*(set(by_seed) for by_seed in losses.values()))
        return {
            setting: math.fsum(by_seed[seed] for seed in shared) / len(shared)
            if shared
            else self.loss(setting, fraction)
            for setting, by_seed in losses.items()
        }

    def finished(self, setting: Setting, fraction: float) -> bool:
        """Whether no seed diverged."""
        return math.isfinite(self.loss(setting, fraction))

    def by_loss(self, fraction: float) -> Callable[[Setting], tuple[float, int, float, float, str]]:
        """A key that sorts settings by loss.

        Of equal losses the smaller setting comes first, so the order of the history has no
        influence.
        """
        return lambda s: (self.loss(s, fraction), s.rank, s.alpha, s.learning_rate, s.targets)

    def paired_scores(
        self, before: Setting, after: Setting, fraction: float
    ) -> tuple[list[Scores], list[Scores]]:
        """The scores of both sides for the seeds that both have, in the same order."""
        runs_before, runs_after = self._by_seed[before, fraction], self._by_seed[after, fraction]
        shared = sorted(runs_before.keys() & runs_after.keys())
        seeds = [seed for seed in shared if seed in self.confirmation_seeds] or shared
        return (
            _scores(runs_before[seed] for seed in seeds),
            _scores(runs_after[seed] for seed in seeds),
        )

    def gain(self, before: Setting, after: Setting, fraction: float, noise: Variance) -> Estimate:
        """By how much the loss of `after` is lower; `noise` is that of one run."""
        scores_before, scores_after = self.paired_scores(before, after, fraction)
        return gain_estimate(scores_before, scores_after, noise.times(2 / len(scores_before)))

    def seed_noise(self, fraction: float) -> Variance | None:
        """The noise of one run in a comparison; None if no setting has two confirmation seeds."""
        return seed_noise(self._confirmation_losses(fraction))

    def run_noise(self, fraction: float) -> Variance | None:
        """The noise of one run by itself, with what its seed does to all settings alike."""
        return run_noise(self._confirmation_losses(fraction))

    def _confirmation_losses(self, fraction: float) -> dict[tuple[object, int], float]:
        return {
            (setting, seed): measurement.loss
            for (setting, measured_at), by_seed in self._by_seed.items()
            if measured_at == fraction
            for seed, measurement in by_seed.items()
            if measurement.scores and seed in self.confirmation_seeds
        }


def _scores(measurements: Iterable[Measurement]) -> list[Scores]:
    return [m.scores for m in measurements if m.scores]
