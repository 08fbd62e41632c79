"""Races in artificial worlds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.search.worlds import BASELINE, World, measure

from rung.search.race import Race
from rung.search.rounds import first_round, next_round
from rung.types import Candidate, LeverSpace, Scores, Setting

MARGIN = 0.01
RACE_FRACTION = 0.25


def run_race(
    space: LeverSpace,
    world: World,
    rounds: Sequence[int],
    seed_noise: float = 0.005,
    baseline: Scores = BASELINE,
) -> tuple[Race, list[list[Setting]]]:
    """A race of so many settings in each round, and what each round tried."""
    race, tried = Race(space, MARGIN, baseline), []
    for number, count in enumerate(rounds):
        settings = next_round(race, count) if number else first_round(race, count)
        tried.append(settings)
        race.add_race(
            [measure(world, Candidate(s), RACE_FRACTION, seed_noise=seed_noise) for s in settings]
        )
    return race, tried


def add_semifinal(race: Race, losses: Mapping[Setting, float]) -> None:
    """Add full-budget losses to the race; an infinite one diverged."""
    race.add_semifinal(
        [measure(lambda s, fraction: losses[s], Candidate(s), 1.0, 0, 0) for s in losses]
    )
