"""What each round of a race tries.

The first round tries ranks and learning rates, which matter more than the other levers and move
each other. Later rounds try what no setting had, and then the settings that could be the best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from rung.search.race import Race, axes_of, settings_of
from rung.search.surface import design
from rung.types import LeverSpace, Setting

WIDEST_TARGETS = "all-linear"
"""The target modules of the first round, if the space has them."""
ROUND_DIVISOR_BEYOND_GRID = 4
"""One in so many settings of a round may try the learning rate beyond the grid. The surface
extrapolates there, so at most a quarter of a round tries it. A whole round was once lost at a rate
that was too low, and told nothing about the other levers (docs/log.md)."""


def first_round(race: Race, count: int) -> list[Setting]:
    """The settings that together say the most about ranks and learning rates.

    They have all linear layers and the first alpha. If those are fewer than `count`, settings with
    other values follow.
    """
    return list(_first_round(race.space, race.tries_head, count))


def next_round(race: Race, count: int) -> list[Setting]:
    """The settings to try next.

    Up to half of them have a value that no setting had. Up to a quarter have the learning rate
    beyond the grid. The rest are those that could be the best.
    """
    settings = _at_rates(race.space, tuple(race.rates()))
    beyond_grid = _at_rates(race.space, tuple(race.rates_beyond_grid()))
    pools_and_counts = [
        (_with_head(race, settings), 1),
        *((pool, 1) for pool in _untried_values(race, settings)[: count // 2]),
        (beyond_grid, max(1, count // ROUND_DIVISOR_BEYOND_GRID)),
        (settings, count),
    ]
    chosen: list[Setting] = []
    for pool, most in pools_and_counts:
        chosen += race.surface.propose(pool, min(most, count - len(chosen)), chosen)
    return chosen


# Each decision replays its climb from the start, so what follows from the space alone is cached.


@lru_cache(maxsize=8)
def _first_round(space: LeverSpace, tries_head: bool, count: int) -> tuple[Setting, ...]:
    axes = axes_of(space, tries_head)
    targets = WIDEST_TARGETS if WIDEST_TARGETS in space.targets else space.targets[0]
    default = [
        space.setting(rank, rate, targets) for rank in space.ranks for rate in space.learning_rates
    ]
    chosen = design(axes, default, count)
    others = [setting for setting in settings_of(space) if setting not in default]
    return (*chosen, *(design(axes, others, count - len(chosen), chosen) if others else ()))


@lru_cache(maxsize=32)
def _at_rates(space: LeverSpace, rates: tuple[float, ...]) -> tuple[Setting, ...]:
    """Every setting of the space, at each of these learning rates instead of its own."""
    without_rate = dict.fromkeys(replace(s, learning_rate=0.0) for s in settings_of(space))
    return tuple(replace(s, learning_rate=rate) for s in without_rate for rate in rates)


def _with_head(race: Race, pool: Sequence[Setting]) -> list[Setting]:
    """The leader's target modules and the output head, if it is to be tried and none had it."""
    if not race.tries_head or any("lm_head" in targets for targets in race.all_targets()):
        return []
    leading = race.leader.targets
    return [replace(s, targets=f"{leading}+lm_head") for s in pool if s.targets == leading]


def _untried_values(race: Race, pool: Sequence[Setting]) -> list[list[Setting]]:
    """The settings with each set of target modules, and with each alpha, that none had.

    Untried modules come with the first alpha, and untried alphas on modules that were tried. So a
    difference is due to the one lever.
    """
    tried, first_alpha = race.tried_targets(), race.space.alphas[0]
    return [
        *(
            [s for s in pool if s.targets == targets and race.alpha_text(s) == first_alpha]
            for targets in race.untried_targets()
        ),
        *(
            [s for s in pool if s.targets in tried and race.alpha_text(s) == alpha]
            for alpha in race.untried_alphas()
        ),
    ]
