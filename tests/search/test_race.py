"""The race: its ranking, its leader, and the learning rate that suits a setting at another rank."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from tests.search.race_helpers import add_semifinal, run_race
from tests.search.worlds import RANKS, SPACE, hill, measure

from rung.errors import TrainingError
from rung.search.rounds import first_round
from rung.types import Candidate, Setting


def test_the_leader_is_the_cheapest_setting_within_the_margin_of_the_best() -> None:
    """Each doubling of the rank gains less than the margin."""
    race, _ = run_race(RANKS, hill(2e-3, (0.002, 0.002, 0.002)), (9, 8), seed_noise=0.0001)
    best = race.ranking[0]
    losses = race.surface.smoothed_losses
    near = [s for s in race.ranking if losses[s] <= losses[best] + math.log(1.01)]
    assert race.leader.rank == min(s.rank for s in near) < best.rank


def test_the_ranking_goes_from_the_lowest_loss_and_leaves_out_what_diverged() -> None:
    def world(setting: Setting, fraction: float) -> float:
        return math.inf if setting.learning_rate > 5e-3 else hill(2e-3)(setting, fraction)

    race, (tried,) = run_race(RANKS, world, (9,))
    assert set(race.ranking) == {s for s in tried if s.learning_rate < 5e-3} != set(tried)
    losses = [race.surface.smoothed_losses[s] for s in race.ranking]
    assert losses == sorted(losses)


def test_a_race_in_which_everything_diverged_is_an_error() -> None:
    race, _ = run_race(RANKS, hill(), ())
    settings = first_round(race, 9)
    with pytest.raises(TrainingError, match="diverged"):
        race.add_race([measure(lambda s, f: math.inf, Candidate(s), 0.25) for s in settings])


def test_semifinalists_that_finished_come_first_and_the_others_keep_their_order() -> None:
    race, _ = run_race(RANKS, hill(2e-3), (9, 8))
    one, two, three, *rest = race.ranking
    add_semifinal(race, {one: math.inf, two: 1.2, three: 1.1})
    assert race.ranking == [three, two, *rest], "a setting that diverged is gone"
    assert race.leader == three
    add_semifinal(race, dict.fromkeys((two, three), math.inf))
    assert race.ranking == rest
    assert race.leader in rest


def test_another_rank_gets_the_leaders_rate_or_one_beside_it_however_far_the_prediction_is() -> (
    None
):
    """The best rate falls fourfold with each doubling: four steps away is a guess."""

    def world(setting: Setting, fraction: float) -> float:
        best = 4e-3 / 4 ** math.log2(setting.rank / 8)
        return 1.5 + 0.05 * math.log2(setting.learning_rate / best) ** 2

    race, _ = run_race(RANKS, world, (9,))
    leader = race.leader
    others = [race.at_rank(leader, rank) for rank in RANKS.ranks if rank != leader.rank]
    assert {s.learning_rate / leader.learning_rate for s in others} <= {1 / 2, 1, 2}
    assert any(s.learning_rate < leader.learning_rate for s in others), (
        "it follows the prediction as far as it may"
    )


def test_a_rank_that_ran_in_the_semifinal_keeps_the_rate_that_was_best_there() -> None:
    race, _ = run_race(RANKS, hill(2e-3), (9, 8))
    leader, predicted = race.leader, race.at_rank(race.leader, 16)
    other = replace(predicted, learning_rate=predicted.learning_rate / 4)
    add_semifinal(race, {leader: 1.0, predicted: 1.2, other: 1.1})
    assert race.at_rank(leader, 16) == other
    add_semifinal(race, {leader: 1.0, predicted: 1.2, other: math.inf})
    assert race.at_rank(leader, 16) == predicted, "what diverged shows no rate"
    add_semifinal(race, {leader: 1.0, predicted: math.inf})
    assert race.at_rank(leader, 16) != predicted, "and is not trained again"


def test_the_semifinal_is_recognized_however_a_scale_is_written() -> None:
    """At rank 64 an alpha of 2r is the same training as rsLoRA with 16."""
    race, _ = run_race(replace(RANKS, alphas=("2r", "rslora")), hill(2e-3), (9, 8))
    leader = race.space.setting(32, 2e-3, alpha="rslora")
    add_semifinal(race, {race.space.setting(64, 8e-3, alpha="2r"): 1.0})
    assert race.at_rank(leader, 64) == race.space.setting(64, 8e-3, alpha="rslora")


@pytest.mark.parametrize(("best_rate", "beyond"), [(16e-3, [16e-3]), (2e-3, []), (2.5e-4, [5e-4])])
def test_a_rate_beyond_the_grid_is_worth_trying_only_from_its_edge(
    best_rate: float, beyond: list[float]
) -> None:
    race, _ = run_race(RANKS, hill(best_rate, steepness=0.05), (9,))
    assert race.rates_beyond_grid() == beyond


def test_rates_that_the_user_named_are_all_that_there_are() -> None:
    race, _ = run_race(replace(RANKS, rates_fixed=True), hill(16e-3), (9,))
    assert race.rates_beyond_grid() == []


def test_a_race_of_nothing_has_not_started() -> None:
    race, _ = run_race(SPACE, hill(), ())
    assert not race.started
    assert race.untried() == {}


def test_the_margin_of_the_semifinal_is_relative_to_its_best_value() -> None:
    """It may be a metric, so it is not in logarithms."""
    race, _ = run_race(RANKS, hill(2e-3), (9, 8))
    small, large = (
        next(s for s in race.ranking if s.rank == rank) for rank in (min(RANKS.ranks), 64)
    )
    add_semifinal(race, {small: 10.05, large: 10.0})
    assert (race.ranking[0], race.leader) == (large, small)
    add_semifinal(race, {small: 10.2, large: 10.0})
    assert race.leader == large
