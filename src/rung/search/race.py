"""The race of a climb: which settings to try at the look, who leads, and what that says of each lever."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from rung.search.stats import shared_confidence
from rung.search.strategy import LeverStanding, best
from rung.search.surface import INTERVAL_SHRINKAGE, Axes, Surface, design
from rung.search.verdicts import lever_value, make_verdict
from rung.types import (
    Candidate,
    Lever,
    LeverSpace,
    Measurement,
    Scores,
    Setting,
    Verdict,
    VerdictKind,
    distinct_settings,
    read_alpha,
)

LM_HEAD_LOSS_THRESHOLD = 4.0
"""Nats a token of the untuned model from which on the completions are far from what it writes, and the output head is
tried: it gives the right token one chance in 55."""
WIDEST = "all-linear"
"""The target modules that a race begins with, if they may be tried."""
ROUNDS_SHARE_BEYOND_GRID = 4
"""Which part of a round, a quarter, may try the learning rate beyond the grid: what lies there is foretold and no more.
A whole round was lost at a rate that was too low, and told nothing of other levers (docs/log.md)."""
MIN_NOISE_FREEDOM = 3.0
"""Degrees of freedom from which on the noise around the surface is known well enough to claim anything."""


@dataclass(frozen=True, slots=True)
class _Question:
    """Two settings that differ in a lever, beside the learning rate; `values` of it could have been asked for."""

    lever: Lever
    before: Setting
    after: Setting
    values: int
    kind: VerdictKind = "race"


# Every decision plays its climb from the start, so what follows from the space alone is kept.


@lru_cache(maxsize=8)
def _pool(space: LeverSpace) -> tuple[Setting, ...]:
    """Every setting of the space, once."""
    return space.settings()


@lru_cache(maxsize=8)
def _axes(space: LeverSpace, headed: bool) -> Axes:
    pool = _pool(space)
    return Axes(
        [*pool, replace(pool[0], targets=f"{space.targets[0]}+lm_head")] if headed else pool
    )


@lru_cache(maxsize=8)
def _first(space: LeverSpace, headed: bool, count: int) -> tuple[Setting, ...]:
    axes, targets = _axes(space, headed), WIDEST if WIDEST in space.targets else space.targets[0]
    usual = [
        space.setting(rank, rate, targets) for rank in space.ranks for rate in space.learning_rates
    ]
    begun = design(axes, usual, count)
    others = [s for s in _pool(space) if s not in usual]
    return (*begun, *(design(axes, others, count - len(begun), begun) if others else ()))


@lru_cache(maxsize=32)
def _at_rates(space: LeverSpace, rates: tuple[float, ...]) -> tuple[Setting, ...]:
    """Every setting of the space, at each of these rates instead of its own."""
    shapes = dict.fromkeys(replace(s, learning_rate=0.0) for s in _pool(space))
    return tuple(replace(s, learning_rate=rate) for s in shapes for rate in rates)


class Race:
    """Settings tried with one seed at the look, and the surface through them.

    `standing` has those that lasted, from the best; the `leader` is the cheapest that is within the margin of the best.

    Args:
        space: what may be tried. Two settings of one scale are one: under rsLoRA an alpha is another one without it.
        margin: the relative gain that is worth having.
        baseline: the untuned model's scores, which may ask for the output head to be tried, as the space may.
    """

    def __init__(self, space: LeverSpace, margin: float, baseline: Scores) -> None:
        self.space, self.margin = space, margin
        self.pool = _pool(space)
        self._asks_for_head = (space.head or baseline.mean >= LM_HEAD_LOSS_THRESHOLD) and len(
            space.targets
        ) > 1
        self._axes = _axes(space, self._asks_for_head)
        self._runs: dict[Setting, Measurement] = {}
        self._surface: Surface | None = None
        self._ended: dict[Setting, float] = {}
        self.standing: list[Setting] = []

    @property
    def surface(self) -> Surface:
        assert self._surface is not None, "nothing has been raced"
        return self._surface

    def first(self, count: int) -> list[Setting]:
        """The settings to begin with: of the ranks and rates, those that together say the most, on all linear layers
        and at the first alpha. Rank and rate outweigh the rest and move each other; only where they are too few of them
        do other levers come in at once.
        """
        return list(_first(self.space, self._asks_for_head, count))

    def see(self, measurements: Sequence[Measurement]) -> None:
        """Take in what was measured.

        Raises:
            TrainingError: everything has diverged so far.
        """
        self._runs |= {measurement.candidate.setting: measurement for measurement in measurements}
        best(self._runs.values())
        self._surface = self._through()
        self._stand(self._surface.judged, math.log1p(self.margin))

    def see_in_full(self, measurements: Sequence[Measurement]) -> None:
        """Take in how the semifinalists ended: those that lasted stand first now, and by that, and behind them those
        that were not in it. The surface stays as it is.
        """
        self._ended = {m.candidate.setting: m.loss for m in measurements}
        lasted = {s: loss for s, loss in self._ended.items() if math.isfinite(loss)}
        others = [s for s in self.standing if s not in self._ended]
        if lasted:
            # Not their logarithms: what is judged in full may be a metric, and below zero.
            self._stand(lasted, self.margin * abs(min(lasted.values())))
            self.standing += others
        elif others:
            self._stand({s: self.surface.judged[s] for s in others}, math.log1p(self.margin))

    def _stand(self, judged: Mapping[Setting, float], reach: float) -> None:
        """Order the settings; those within `reach` of the best are near, and the cheapest of them leads."""
        self.standing = sorted(
            (s for s in judged if math.isfinite(judged[s])),
            key=lambda s: (judged[s], Candidate(s).id),
        )
        near = [s for s in self.standing if judged[s] <= judged[self.standing[0]] + reach]
        self.leader = min(
            near, key=lambda s: (self._runs[s].parameters, judged[s], Candidate(s).id)
        )

    def _through(self, shrinkage: float | None = None) -> Surface:
        return Surface.through(
            self._axes, list(self._runs), [m.scores for m in self._runs.values()], shrinkage
        )

    @property
    def tried(self) -> list[Setting]:
        """The settings that lasted to the look."""
        return [setting for setting, run in self._runs.items() if run.scores]

    def next(self, count: int) -> list[Setting]:
        """The settings to try next: some of what no setting had, up to half of them, and of the rate beyond the grid;
        then those that could be the best.
        """
        known = _at_rates(self.space, tuple(self._rates()))
        parties = [
            (self._with_head(known), 1),
            *((pool, 1) for pool in self._unknown(known)[: count // 2]),
            (
                _at_rates(self.space, tuple(self.beyond())),
                max(1, count // ROUNDS_SHARE_BEYOND_GRID),
            ),
            (known, count),
        ]
        new: list[Setting] = []
        for pool, most in parties:
            new += self.surface.next(pool, min(most, count - len(new)), new)
        return new

    def _with_head(self, pool: Sequence[Setting]) -> list[Setting]:
        """The leading modules and the output head, where the data ask for it and none had it."""
        leading = self.leader.targets
        if not self._asks_for_head or any("lm_head" in targets for targets in self._targets()):
            return []
        return [replace(s, targets=f"{leading}+lm_head") for s in pool if s.targets == leading]

    def _unknown(self, pool: Sequence[Setting]) -> list[list[Setting]]:
        """The settings with each kind of target modules, and each alpha, that none had: at the first alpha, and on
        modules that some had, so that what they show is owed to the one thing.
        """
        tried, (usual, *_) = self._tried_targets(), self.space.alphas
        return [
            *(
                [s for s in pool if s.targets == t and self._alpha(s) == usual]
                for t in self._untried_targets()
            ),
            *(
                [s for s in pool if s.targets in tried and self._alpha(s) == a]
                for a in self._untried_alphas()
            ),
        ]

    def _alpha(self, setting: Setting) -> str:
        """The setting's alpha, as the space has it written."""
        own = (setting.alpha, setting.use_rslora)
        return next(alpha for alpha in self.space.alphas if read_alpha(alpha, setting.rank) == own)

    def beyond(self) -> list[float]:
        """The learning rate beyond the grid, where the leader's stands at its edge and the surface goes on falling."""
        rates = self._rates()
        at = rates.index(self.leader.learning_rate)
        edges = [rates[0] / 2] * (at == 0) + [rates[-1] * 2] * (at == len(rates) - 1)
        further = (
            [] if self.space.pinned else [float(f"{rate:.6g}") for rate in edges if 0 < rate < 1]
        )
        here, *there = self.surface.expected(
            [replace(self.leader, learning_rate=r) for r in (rates[at], *further)]
        )
        return [
            rate
            for rate, loss in zip(further, there, strict=True)
            if loss < here - math.log1p(self.margin)
        ]

    def at_rank(self, setting: Setting, rank: int) -> Setting:
        """The setting on another rung, at the rate that did best there in the semifinal, or else is foretold to."""
        there = self._on_rung(setting, rank)
        shown = {
            s.learning_rate: loss for s, loss in self._ended.items() if s.effect == there.effect
        }
        lasted = [rate for rate, loss in shown.items() if math.isfinite(loss)]
        return replace(there, learning_rate=min(lasted, key=shown.__getitem__)) if lasted else there

    def _on_rung(self, setting: Setting, rank: int) -> Setting:
        """The setting on another rung, with its alpha as the space has it written, at the rate that suits it."""
        alpha = self._alpha(setting)
        return self._at_best_rate(
            self.space.setting(rank, setting.learning_rate, setting.targets, alpha)
        )

    def _at_best_rate(self, setting: Setting) -> Setting:
        """At the rate that is foretold to suit it, of its own and those beside it: the next ones, and whatever is
        within a factor of two. Further away the surface says what nobody has seen.
        """
        rates, own = self._rates(), setting.learning_rate
        at = rates.index(own)
        near = [
            rate for i, rate in enumerate(rates) if abs(i - at) <= 1 or own / 2 <= rate <= own * 2
        ]
        settings = [replace(setting, learning_rate=rate) for rate in near]
        settings = [s for s in settings if self._ended.get(s) != math.inf] or settings
        return settings[int(self.surface.expected(settings).argmin())]

    def _rates(self) -> list[float]:
        """The learning rates that are known."""
        return sorted({*self.space.learning_rates, *(s.learning_rate for s in self._runs)})

    def _targets(self) -> list[str]:
        """The sets of target modules that are known, in the order of the space."""
        return list(dict.fromkeys([*self.space.targets, *(s.targets for s in self._runs)]))

    # What it says. The surface knows nothing of a kind of module, or of scale, that nobody has tried.

    def untried(self) -> dict[Lever, tuple[str, ...]]:
        """The target modules and the alphas that no setting had, by lever."""
        missing: dict[Lever, list[str]] = {
            "targets": self._untried_targets(),
            "alpha": self._untried_alphas(),
        }
        return {lever: tuple(values) for lever, values in missing.items() if self._runs and values}

    def _tried_targets(self) -> list[str]:
        return [
            targets for targets in self._targets() if any(s.targets == targets for s in self._runs)
        ]

    def _untried_targets(self) -> list[str]:
        return [targets for targets in self.space.targets if targets not in self._tried_targets()]

    def _tried_alphas(self) -> set[str]:
        return {self._alpha(s) for s in self._runs}

    def _untried_alphas(self) -> list[str]:
        """An alpha that makes the same scales as those before it, at every rank, is none of them."""
        return [
            alpha
            for alpha in dict.fromkeys(map(self._alpha, self.pool))
            if alpha not in self._tried_alphas()
        ]

    def _scales_differ(self) -> bool:
        return len({f"{setting.scale:.6g}" for setting in self._runs}) > 1

    def standings(self, race_fraction: float) -> list[LeverStanding]:
        """How the values of each lever stand beside the leader, by the surface."""
        standings = []
        for lever, values in self._values().items() if self._surface else ():
            settings = [self.leader, *values]
            losses = dict(zip(settings, self.surface.expected(settings), strict=True))
            order = sorted(settings, key=lambda s: (losses[s], Candidate(s).id))
            standings.append(
                LeverStanding(lever, race_fraction, tuple((s, math.exp(losses[s])) for s in order))
            )
        return standings

    def verdicts(self, race_fraction: float, error: float) -> list[Verdict]:
        """What the race shows of each lever, around the leader, each side at the rate near the leader's that suits it.

        They are all wrong together with probability `error` at the most: whatever could have been compared counts,
        since the surface has picked what is (Bonferroni).
        """
        if self._surface is None:
            return []
        questions = self._questions()
        confidence = shared_confidence(sum(question.values for question in questions), 1 - error)
        surface = self._through(INTERVAL_SHRINKAGE)
        scores = [m.scores for m in (self._runs[self.leader],) if m.scores]
        return [
            make_verdict(
                q.kind,
                q.lever,
                q.before,
                q.after,
                race_fraction,
                surface.gain(q.before, q.after),
                self.margin * math.exp(self.surface.expected([q.before])[0]),
                confidence,
                scores,
                noise_known=surface.noise.freedom >= MIN_NOISE_FREEDOM,
            )
            for q in questions
        ]

    def _values(self) -> dict[Lever, list[Setting]]:
        """The leader with each other value of each lever of which several were tried, at the rate that suits it."""
        leader, space = self.leader, self.space
        at = leader.learning_rate
        tried = self._tried_alphas()
        alphas = [
            space.setting(leader.rank, at, leader.targets, alpha)
            for alpha in space.alphas
            if alpha in tried
        ]
        found: dict[Lever, list[Setting]] = {
            "learning_rate": [replace(leader, learning_rate=rate) for rate in self._rates()],
            "targets": [
                self._at_best_rate(replace(leader, targets=t)) for t in self._tried_targets()
            ],
            "rank": [self._on_rung(leader, rank) for rank in space.ranks],
            "alpha": [
                self._at_best_rate(s)
                for s in distinct_settings(alphas)
                if self._scales_differ() and not math.isclose(s.scale, leader.scale)
            ],
        }
        return {
            lever: others
            for lever, values in found.items()
            if (
                others := [s for s in values if lever_value(s, lever) != lever_value(leader, lever)]
            )
        }

    def _questions(self) -> list[_Question]:
        """From the usual value of each lever to the leader's; where the leader has that, to the best of the others."""
        leader, space = self.leader, self.space
        found = []
        for lever, others in self._values().items():
            nearest = others[int(self.surface.expected(others).argmin())]
            if lever == "rank":
                # The usual one is the rung below.
                below = [s for s in others if s.rank < leader.rank]
                sides = (below[-1], leader) if below else (leader, nearest)
            elif lever == "learning_rate":
                sides = nearest, leader
            elif lever == "targets":
                sides = (
                    (leader, nearest) if leader.targets == space.targets[0] else (others[0], leader)
                )
            else:
                usual = space.setting(leader.rank, 1.0).scale
                sides = (
                    (leader, nearest) if math.isclose(leader.scale, usual) else (others[0], leader)
                )
            found.append(_Question(lever, *sides, len(others)))
        return [*found, *self._at_matched_parameters()]

    def _at_matched_parameters(self) -> list[_Question]:
        """Are the leader's modules better than the first ones, or just more? Both at ranks within the ladder at which
        they have as many parameters. The surface says what nobody has trained.
        """
        first, leader, ranks = self.space.targets[0], self.leader, self.space.ranks
        sizes = {
            setting.targets: run.parameters / setting.rank for setting, run in self._runs.items()
        }
        if leader.targets == first or first not in sizes:
            return []
        share = sizes[first] / sizes[leader.targets]
        for before, to in ((leader.rank, leader.rank * share), (leader.rank / share, leader.rank)):
            if ranks[0] <= min(before, to) and max(before, to) <= ranks[-1]:
                sides = (
                    self._on_rung(replace(leader, targets=first), round(before)),
                    self._on_rung(leader, round(to)),
                )
                values = len(self._targets()) - 1
                return [_Question("targets", *sides, values, "matched_parameters")]
        return []
