"""What a race shows about each lever, around its leader.

The surface knows nothing about target modules, or about a scale, that no setting had, so nothing is
said about those.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from rung.search.race import Race, by_id
from rung.search.stats import shared_confidence
from rung.search.strategy import LeverStanding
from rung.search.surface import INTERVAL_SHRINKAGE
from rung.search.verdicts import lever_value, make_verdict
from rung.types import Lever, Setting, Verdict, VerdictKind, distinct_settings

MIN_NOISE_FREEDOM = 3.0
"""The degrees of freedom from which on the noise is known well enough to claim anything."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two settings that differ in a lever, and possibly in the learning rate.

    Attributes:
        choices: how many values of the lever the leader could have been compared with.
    """

    lever: Lever
    before: Setting
    after: Setting
    choices: int
    kind: VerdictKind = "race"


def lever_standings(race: Race, race_fraction: float) -> list[LeverStanding]:
    """How the values of each lever stand, by the surface, with the other levers of the leader."""
    standings = []
    for lever, others in _alternatives(race).items() if race.started else ():
        settings = [race.leader, *others]
        losses = dict(zip(settings, race.surface.predict(settings), strict=True))
        order = sorted(settings, key=lambda s: (losses[s], by_id(s)))
        standings.append(
            LeverStanding(lever, race_fraction, tuple((s, math.exp(losses[s])) for s in order))
        )
    return standings


def race_verdicts(race: Race, race_fraction: float, error: float) -> list[Verdict]:
    """A verdict on each lever, with each side at the learning rate that suits it.

    Args:
        race: the race.
        race_fraction: the share of the budget that it was judged at.
        error: the probability that any of the verdicts is wrong. It is shared by all values that
            could have been compared, since the surface chose those that are (Bonferroni).
    """
    if not race.started:
        return []
    comparisons = _comparisons(race)
    confidence = shared_confidence(sum(c.choices for c in comparisons), 1 - error)
    surface = race.fit_surface(INTERVAL_SHRINKAGE)
    scores = race.measurements[race.leader].scores
    assert scores is not None, "a leader has not diverged"
    return [
        make_verdict(
            c.kind,
            c.lever,
            c.before,
            c.after,
            race_fraction,
            surface.gain(c.before, c.after),
            race.margin * math.exp(race.surface.predict([c.before])[0]),
            confidence,
            [scores],
            noise_known=surface.noise.degrees_of_freedom >= MIN_NOISE_FREEDOM,
        )
        for c in comparisons
    ]


def _alternatives(race: Race) -> dict[Lever, list[Setting]]:
    """The leader with each other tried value of each lever, at the learning rate that suits it.

    A lever of which one value was tried is left out.
    """
    leader, space = race.leader, race.space
    tried_alphas = race.tried_alphas()
    at_alphas = [
        space.setting(leader.rank, leader.learning_rate, leader.targets, alpha)
        for alpha in space.alphas
        if alpha in tried_alphas
    ]
    scales_differ = len({f"{setting.scale:.6g}" for setting in race.measurements}) > 1
    settings: dict[Lever, list[Setting]] = {
        "learning_rate": [replace(leader, learning_rate=rate) for rate in race.rates()],
        "targets": [
            race.at_best_rate(replace(leader, targets=targets)) for targets in race.tried_targets()
        ],
        "rank": [race.predicted_at_rank(leader, rank) for rank in space.ranks],
        "alpha": [
            race.at_best_rate(setting)
            for setting in distinct_settings(at_alphas)
            if scales_differ and not math.isclose(setting.scale, leader.scale)
        ],
    }
    others = {
        lever: [s for s in values if lever_value(s, lever) != lever_value(leader, lever)]
        for lever, values in settings.items()
    }
    return {lever: values for lever, values in others.items() if values}


def _comparisons(race: Race) -> list[Comparison]:
    """One for each lever, and one at matched parameters.

    A comparison goes from the usual value of the lever to the leader's value. If the leader has the
    usual value, it goes to the best of the others.
    """
    leader, space = race.leader, race.space
    comparisons = []
    for lever, others in _alternatives(race).items():
        best_other = others[int(race.surface.predict(others).argmin())]
        if lever == "rank":
            # The usual value is the next lower rank.
            lower = [s for s in others if s.rank < leader.rank]
            sides = (lower[-1], leader) if lower else (leader, best_other)
        elif lever == "learning_rate":
            sides = best_other, leader
        else:
            usual = space.setting(leader.rank, 1.0)
            has_usual = (
                leader.targets == usual.targets
                if lever == "targets"
                else math.isclose(leader.scale, usual.scale)
            )
            sides = (leader, best_other) if has_usual else (others[0], leader)
        comparisons.append(Comparison(lever, *sides, len(others)))
    return [*comparisons, *_matched_parameters(race)]


def _matched_parameters(race: Race) -> list[Comparison]:
    """Whether the leader's target modules are better than the first ones, or just more.

    Both sides are at ranks of the ladder that give them the same number of parameters. The surface
    predicts them; they need not have been trained.
    """
    first, leader, ranks = race.space.targets[0], race.leader, race.space.ranks
    parameters_per_rank = {s.targets: m.parameters / s.rank for s, m in race.measurements.items()}
    if leader.targets == first or first not in parameters_per_rank:
        return []
    ratio = parameters_per_rank[first] / parameters_per_rank[leader.targets]
    for before, after in (
        (leader.rank, leader.rank * ratio),
        (leader.rank / ratio, leader.rank),
    ):
        if ranks[0] <= min(before, after) and max(before, after) <= ranks[-1]:
            sides = (
                race.predicted_at_rank(replace(leader, targets=first), round(before)),
                race.predicted_at_rank(leader, round(after)),
            )
            choices = len(race.all_targets()) - 1
            return [Comparison("targets", *sides, choices, "matched_parameters")]
    return []
