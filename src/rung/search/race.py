"""The race of a climb: what was tried at the race fraction, how it ranks, and which setting leads.

`rounds` chooses what the race tries, and `race_verdicts` judges what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from rung.search.axes import Axes
from rung.search.strategy import best
from rung.search.surface import Surface
from rung.types import Candidate, Lever, LeverSpace, Measurement, Scores, Setting, read_alpha

LM_HEAD_LOSS_THRESHOLD = 4.0
"""Nats per token. If the untuned model's loss is at least this, the completions are far from what
the model generates, and the output head is tried too. The right token has one chance in 55 then."""


@lru_cache(maxsize=8)
def settings_of(space: LeverSpace) -> tuple[Setting, ...]:
    """Every setting of the space once. Each decision replays its climb, so this is cached."""
    return space.settings()


@lru_cache(maxsize=8)
def axes_of(space: LeverSpace, tries_head: bool) -> Axes:
    """The axes of the surface, with the output head if that is tried."""
    settings = settings_of(space)
    if not tries_head:
        return Axes(settings)
    return Axes([*settings, replace(settings[0], targets=f"{space.targets[0]}+lm_head")])


def by_id(setting: Setting) -> str:
    """The last key that settings are sorted by, so that their order is always the same."""
    return Candidate(setting).id


class Race:
    """Settings that were trained to the race fraction with one seed, and the surface through them.

    Args:
        space: what may be tried. Settings of the same effect count as one.
        margin: the relative gain that is worth having.
        baseline: the untuned model's scores. A high loss asks for the output head to be tried, as
            `space.try_lm_head` does.

    Attributes:
        tries_head: whether the output head is tried beside the target modules of the space.
        measurements: what was measured at the race fraction, by setting.
        ranking: the settings that did not diverge, the best first.
        leader: the setting with the fewest parameters of those within the margin of the best.
    """

    def __init__(self, space: LeverSpace, margin: float, baseline: Scores) -> None:
        self.space, self.margin = space, margin
        wants_head = space.try_lm_head or baseline.mean >= LM_HEAD_LOSS_THRESHOLD
        # A space with one set of target modules is the user's choice, and nothing is added to it.
        self.tries_head = wants_head and len(space.targets) > 1
        self.axes = axes_of(space, self.tries_head)
        self.measurements: dict[Setting, Measurement] = {}
        self.ranking: list[Setting] = []
        self._surface: Surface | None = None
        self._full_losses: dict[Setting, float] = {}

    @property
    def started(self) -> bool:
        """Whether anything was raced."""
        return self._surface is not None

    @property
    def surface(self) -> Surface:
        """The surface for predictions."""
        assert self._surface is not None, "nothing has been raced"
        return self._surface

    def fit_surface(self, shrinkage: float | None = None) -> Surface:
        """A surface through everything that was raced, with the shrinkage of `Surface.fit`."""
        scores = [m.scores for m in self.measurements.values()]
        return Surface.fit(self.axes, list(self.measurements), scores, shrinkage)

    def add_race(self, measurements: Sequence[Measurement]) -> None:
        """Add what was measured at the race fraction.

        Raises:
            TrainingError: Everything has diverged so far.
        """
        self.measurements |= {m.candidate.setting: m for m in measurements}
        best(self.measurements.values())
        self._surface = self.fit_surface()
        self._rank(self._surface.smoothed_losses, math.log1p(self.margin))

    def add_semifinal(self, measurements: Sequence[Measurement]) -> None:
        """Add what was measured at the full budget.

        Semifinalists that did not diverge come first, ordered by full-budget loss; the others keep
        their order behind them. The surface does not change.
        """
        self._full_losses = {m.candidate.setting: m.loss for m in measurements}
        finished = {s: loss for s, loss in self._full_losses.items() if math.isfinite(loss)}
        others = [s for s in self.ranking if s not in self._full_losses]
        if finished:
            # The margin is not in logarithms here: what is judged in full may be a metric, and may
            # be below zero.
            self._rank(finished, self.margin * abs(min(finished.values())))
            self.ranking += others
        elif others:
            smoothed = self.surface.smoothed_losses
            self._rank({s: smoothed[s] for s in others}, math.log1p(self.margin))

    def _rank(self, losses: Mapping[Setting, float], margin: float) -> None:
        """Order the settings, and choose the leader. The margin is in the unit of the losses."""
        finite = (s for s in losses if math.isfinite(losses[s]))
        self.ranking = sorted(finite, key=lambda s: (losses[s], by_id(s)))
        near = [s for s in self.ranking if losses[s] <= losses[self.ranking[0]] + margin]
        self.leader = min(
            near, key=lambda s: (self.measurements[s].parameters, losses[s], by_id(s))
        )

    @property
    def finished(self) -> list[Setting]:
        """The settings that did not diverge in the race, in the order in which they were tried."""
        return [setting for setting, m in self.measurements.items() if m.scores]

    # The values of the levers that the race knows.

    def rates(self) -> list[float]:
        """The learning rates of the space and of what was tried, from low to high."""
        return sorted({*self.space.learning_rates, *(s.learning_rate for s in self.measurements)})

    def all_targets(self) -> list[str]:
        """The target modules of the space, and behind them others that were tried."""
        return list(dict.fromkeys([*self.space.targets, *(s.targets for s in self.measurements)]))

    def tried_targets(self) -> list[str]:
        tried = {setting.targets for setting in self.measurements}
        return [targets for targets in self.all_targets() if targets in tried]

    def untried_targets(self) -> list[str]:
        tried = self.tried_targets()
        return [targets for targets in self.space.targets if targets not in tried]

    def alpha_text(self, setting: Setting) -> str:
        """The setting's alpha as the space writes it, such as `2r`."""
        alpha = (setting.alpha, setting.use_rslora)
        return next(a for a in self.space.alphas if read_alpha(a, setting.rank) == alpha)

    def tried_alphas(self) -> set[str]:
        return {self.alpha_text(setting) for setting in self.measurements}

    def untried_alphas(self) -> list[str]:
        """The alphas that no setting had.

        An alpha that gives the same scale as an earlier one at each rank is not among them.
        """
        tried = self.tried_alphas()
        alphas = dict.fromkeys(map(self.alpha_text, settings_of(self.space)))
        return [alpha for alpha in alphas if alpha not in tried]

    def untried(self) -> dict[Lever, tuple[str, ...]]:
        """The target modules and the alphas that no setting had."""
        values: dict[Lever, list[str]] = {
            "targets": self.untried_targets(),
            "alpha": self.untried_alphas(),
        }
        return {lever: tuple(v) for lever, v in values.items() if self.measurements and v}

    # The learning rate that suits a setting.

    def rates_beyond_grid(self) -> list[float]:
        """The next learning rate beyond the grid, if it is worth trying.

        It is if the leader's rate is at the edge of the grid, the user has not named the rates, and
        the surface predicts a gain above the margin there.
        """
        rates = self.rates()
        position = rates.index(self.leader.learning_rate)
        edges = [rates[0] / 2] * (position == 0) + [rates[-1] * 2] * (position == len(rates) - 1)
        beyond = (
            []
            if self.space.rates_fixed
            else [float(f"{rate:.6g}") for rate in edges if 0 < rate < 1]
        )
        own_loss, *losses = self.surface.predict(
            [replace(self.leader, learning_rate=r) for r in (rates[position], *beyond)]
        )
        threshold = own_loss - math.log1p(self.margin)
        return [rate for rate, loss in zip(beyond, losses, strict=True) if loss < threshold]

    def at_rank(self, setting: Setting, rank: int) -> Setting:
        """The setting at another rank, at the rate that was best there in the semifinal.

        If the semifinal had none there, it has the rate that the surface predicts to be best.
        """
        there = self.predicted_at_rank(setting, rank)
        finished = {
            s.learning_rate: loss
            for s, loss in self._full_losses.items()
            if s.effect == there.effect and math.isfinite(loss)
        }
        if not finished:
            return there
        return replace(there, learning_rate=min(finished, key=finished.__getitem__))

    def predicted_at_rank(self, setting: Setting, rank: int) -> Setting:
        """The setting at another rank, with the same alpha text, at its predicted best rate."""
        rate, alpha = setting.learning_rate, self.alpha_text(setting)
        return self.at_best_rate(self.space.setting(rank, rate, setting.targets, alpha))

    def at_best_rate(self, setting: Setting) -> Setting:
        """The setting at the learning rate that the surface predicts to be best.

        The choice is among its own rate, the next ones, and all within a factor of two. Further
        away the surface extrapolates.
        """
        rates, own = self.rates(), setting.learning_rate
        position = rates.index(own)
        near = [
            rate
            for i, rate in enumerate(rates)
            if abs(i - position) <= 1 or own / 2 <= rate <= own * 2
        ]
        settings = [replace(setting, learning_rate=rate) for rate in near]
        settings = [s for s in settings if self._full_losses.get(s) != math.inf] or settings
        return settings[int(self.surface.predict(settings).argmin())]
