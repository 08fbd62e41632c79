"""The race alone: what it asks for next, and what it foretells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.search.worlds import BASELINE, SPACE, World, hill, measure

from rung.search.race import Race
from rung.search.verdicts import lever_value
from rung.types import Candidate, Lever, LeverSpace, Scores, Setting

RANKS = LeverSpace((8, 16, 32, 64), (1e-3, 2e-3, 4e-3, 8e-3))


def raced(
    space: LeverSpace,
    world: World,
    rounds: Sequence[int],
    seeds: float = 0.005,
    baseline: Scores = BASELINE,
) -> tuple[Race, list[list[Setting]]]:
    """A race over these rounds, and what each of them tried."""
    race, tried = Race(space, 0.01, baseline), []
    for number, count in enumerate(rounds):
        tried.append(race.next(count) if number else race.first(count))
        race.see([measure(world, Candidate(setting), 0.25, seeds=seeds) for setting in tried[-1]])
    return race, tried


@pytest.mark.parametrize(
    ("count", "untried"), [(4, {"alpha": ("4r",)}), (6, {"alpha": ("4r",)}), (10, {})]
)
def test_a_second_round_gives_half_of_itself_to_what_nobody_has_tried(
    count: int, untried: dict[Lever, tuple[str, ...]]
) -> None:
    race, (_, second) = raced(SPACE, hill(2e-3), (9, count))
    assert len(set(second)) == count
    assert {"attention", "mlp"} <= {s.targets for s in second}
    assert race.untried() == untried, "and says what is left"


@pytest.mark.parametrize(("count", "alphas"), [(6, {"16", "16 rsLoRA"}), (10, {"16", "64"})])
def test_nothing_is_said_of_an_alpha_that_nobody_has_tried(count: int, alphas: set[str]) -> None:
    """With six settings more r and rsLoRA are tried, and with ten 4r is too, which at rank 16 is rsLoRA's scale."""
    race, _ = raced(SPACE, hill(2e-3, (0.1, 0.0, 0.0)), (9, count))
    assert (race.leader.rank, race.leader.alpha) == (16, 32)
    (standing,) = [standing for standing in race.standings(1 / 4) if standing.lever == "alpha"]
    assert {lever_value(setting, "alpha") for setting, _ in standing.losses} == {"32", *alphas}
    (verdict,) = [v for v in race.verdicts(1 / 4, 0.005) if v.lever == "alpha"]
    assert verdict.before is not None
    sides = {lever_value(verdict.before, "alpha"), lever_value(verdict.after, "alpha")}
    assert sides <= {"32", *alphas}


def test_what_a_new_value_of_a_lever_shows_is_owed_to_it_alone() -> None:
    _, (_, second) = raced(SPACE, hill(2e-3), (9, 8))
    for setting in second[:4]:
        assert (setting.targets != "all-linear") + (setting.scale != 2) == 1


def test_an_alpha_counts_as_tried_where_it_is_written_so_and_not_for_a_scale_that_it_shares() -> (
    None
):
    """At rank 8 an alpha of 16 is 2r; held at 16, the scale falls with the rank."""
    space = replace(SPACE, alphas=("16", "2r"))
    _, (first, second) = raced(space, hill(2e-3), (9, 8))
    assert {s.alpha for s in first} == {16}
    assert any(s.alpha == 2 * s.rank != 16 for s in second)
    assert all(s.alpha == 16 for s in second[:2]), "new modules at the usual alpha"


@pytest.mark.parametrize("count", [4, 8])
def test_the_head_takes_one_setting_and_leaves_the_other_modules_theirs(count: int) -> None:
    far = Scores(tuple(8.0 * tokens for tokens in BASELINE.tokens), BASELINE.tokens)
    _, (_, second) = raced(SPACE, hill(2e-3), (9, count), baseline=far)
    assert "lm_head" in second[0].targets
    assert {"attention", "mlp"} <= {s.targets for s in second}


def test_the_head_is_tried_too_where_the_space_says_that_the_data_ask_for_it() -> None:
    for space, headed in ((replace(SPACE, head=True), True), (SPACE, False)):
        _, (first, second) = raced(space, hill(2e-3), (9, 8))
        assert not any("lm_head" in s.targets for s in first)
        assert ["lm_head" in s.targets for s in second].count(True) == headed


def test_a_rate_beyond_the_grid_takes_a_part_of_a_round_and_the_other_levers_the_rest() -> None:
    """Here every low rate looks promising: a round that went to them alone told nothing of the other levers."""
    _, (_, second) = raced(SPACE, hill(1e-4, steep=0.05), (9, 8))
    assert sum(s.learning_rate < min(SPACE.learning_rates) for s in second) == 2
    assert {s.targets for s in second} == set(SPACE.targets)


def test_a_rung_is_tried_at_the_leaders_rate_or_beside_it_however_far_the_best_one_is_foretold() -> (
    None
):
    """The best rate falls fourfold with each doubling: what is four steps away is a guess."""

    def world(setting: Setting, fraction: float) -> float:
        best = 4e-3 / 4 ** math.log2(setting.rank / 8)
        return 1.5 + 0.05 * math.log2(setting.learning_rate / best) ** 2

    race, _ = raced(RANKS, world, (9,))
    rungs = [race.at_rank(race.leader, rank) for rank in RANKS.ranks if rank != race.leader.rank]
    assert {rung.learning_rate / race.leader.learning_rate for rung in rungs} <= {1 / 2, 1, 2}
    assert any(rung.learning_rate < race.leader.learning_rate for rung in rungs), (
        "it follows as far as it may"
    )


def ended(race: Race, ends: dict[Setting, float]) -> None:
    race.see_in_full(
        [measure(lambda s, f: ends[s], Candidate(setting), 1.0, 0, 0) for setting in ends]
    )


def test_a_rung_that_ran_in_full_keeps_the_rate_that_was_best_there() -> None:
    race, _ = raced(RANKS, hill(2e-3), (9, 8))
    leader, foretold = race.leader, race.at_rank(race.leader, 16)
    other = replace(foretold, learning_rate=foretold.learning_rate / 4)
    ended(race, {leader: 1.0, foretold: 1.2, other: 1.1})
    assert race.at_rank(leader, 16) == other
    ended(race, {leader: 1.0, foretold: 1.2, other: math.inf})
    assert race.at_rank(leader, 16) == foretold, "what diverged showed nothing"
    ended(race, {leader: 1.0, foretold: math.inf})
    assert race.at_rank(leader, 16) != foretold, "and is not asked for again"


def test_a_rung_is_known_from_the_semifinal_however_its_scale_is_written() -> None:
    """At rank 64 an alpha of 2r is the training that rsLoRA with 16 is."""
    race, _ = raced(replace(RANKS, alphas=("2r", "rslora")), hill(2e-3), (9, 8))
    leader = race.space.setting(32, 2e-3, alpha="rslora")
    shown = race.space.setting(64, 8e-3, alpha="2r")
    ended(race, {shown: 1.0})
    assert race.at_rank(leader, 64) == race.space.setting(64, 8e-3, alpha="rslora")


def test_behind_those_that_lasted_in_full_stand_those_that_were_not_asked() -> None:
    race, _ = raced(RANKS, hill(2e-3), (9, 8))
    before = list(race.standing)
    one, two, three, *rest = before
    ended(race, {one: math.inf, two: 1.2, three: 1.1})
    assert race.standing == [three, two, *rest], "what diverged is gone"
    assert race.leader == three
    ended(race, dict.fromkeys((two, three), math.inf))
    assert race.standing == rest
    assert race.leader in rest


def test_where_the_runs_are_too_few_or_too_noisy_to_tell_anything_of_a_lever_it_says_so() -> None:
    race, _ = raced(SPACE, hill(2e-3), (9, 8), seeds=0.5)
    hopeless = [v for v in race.verdicts(0.25, 0.005) if v.high - v.low > 5]
    assert hopeless
    assert {v.outcome for v in hopeless} == {"undecided"}
    assert {v.reason for v in hopeless} == {"no_information"}
    assert {v.required for v in hopeless} == {None}
