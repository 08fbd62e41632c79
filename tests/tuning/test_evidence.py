"""From measurements to settings over their seeds, standings of levers, and the ladder of ranks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.search.worlds import RANKS, SPACE, measure, run

from rung.search.climb import Climb
from rung.search.effort import Effort
from rung.search.grid import Grid
from rung.search.stats import Interval, Variance
from rung.search.strategy import Decision, LeverStanding
from rung.tuning.evidence import (
    Runs,
    furthest,
    lever_standings,
    loss_interval_of,
    rank_ladder,
    seed_noise_of,
    setting_loss,
    setting_results,
)
from rung.tuning.result import SettingResult
from rung.types import Candidate, LeverSpace, Measurement, Setting, Verdict

SETTING = Setting(16, 32, "all-linear", 1e-3)


def measured(setting: Setting, loss: float, seed: int = 0, fraction: float = 1.0) -> Measurement:
    return measure(lambda s, f: loss, Candidate(setting, seed), fraction, 0, 0)


def finished(*losses: float, setting: Setting = SETTING) -> list[Measurement]:
    """Full runs of the seeds from 0 on."""
    return [measured(setting, loss, seed) for seed, loss in enumerate(losses)]


def results(*history: Measurement, noise: Variance | None = None) -> tuple[SettingResult, ...]:
    return setting_results(Runs.of(history), noise)


def loss_of(result: SettingResult) -> float:
    assert result.validation_loss is not None
    return result.validation_loss.mean


# Runs.


def test_the_last_measurement_of_a_candidate_is_the_one_at_its_largest_fraction() -> None:
    part, whole = measured(SETTING, 2.0, fraction=0.25), measured(SETTING, 1.0)
    runs = Runs.of([whole, part])
    assert runs.last == {Candidate(SETTING): whole}
    assert runs.stages == {Candidate(SETTING): [whole, part]}


def test_noise_is_that_of_confirming_seeds_alone() -> None:
    """Seed 0 raced: it selected what was confirmed."""
    flattered = Runs.of(finished(-5.0, 1.0, 1.2)).noise()
    same = Runs.of(finished(9.0, 1.0, 1.2)).noise()
    assert flattered == same
    assert same is not None
    assert same.value > 0
    noise = seed_noise_of(same)
    assert noise is not None
    assert noise.standard_deviation == pytest.approx(math.sqrt(same.value))
    assert noise.degrees_of_freedom == same.degrees_of_freedom


def test_noise_is_unknown_where_no_setting_has_two_confirming_seeds() -> None:
    assert Runs.of(finished(1.0, 1.2)).noise() is None
    assert seed_noise_of(None) is None


# Settings over their seeds.


def test_the_seed_that_raced_is_not_among_those_that_confirm() -> None:
    runs = finished(1.0, 1.5, 1.7)
    assert furthest(runs) == runs[1:]
    (result,) = results(*runs, noise=Variance(0.01, 5))
    assert (result.seeds, result.status) == (2, "trained")
    assert loss_of(result) == pytest.approx(1.6, abs=0.05)
    assert result.seconds == 3, "its time was spent all the same"


def test_a_setting_that_was_not_confirmed_has_the_seed_that_raced() -> None:
    runs = finished(1.0)
    assert furthest(runs) == runs
    (result,) = results(*runs)
    assert result.seeds == 1
    assert loss_of(result) == pytest.approx(1.0, abs=0.05)


def test_runs_that_were_trained_less_far_are_not_mixed_in() -> None:
    part = measured(SETTING, 9.0, seed=3, fraction=0.25)
    runs = finished(1.0, 1.5)
    assert furthest([part, *runs]) == runs[1:]
    (result,) = results(part, *runs)
    assert loss_of(result) == pytest.approx(1.5, abs=0.05)


def test_a_setting_of_which_one_run_diverged_has_no_loss() -> None:
    (result,) = results(*finished(1.0, 1.5, math.inf))
    assert (result.status, result.validation_loss) == ("diverged", None)


def test_settings_that_raced_in_part_are_told_apart_from_those_trained_in_full() -> None:
    raced = replace(SETTING, rank=8)
    history = [*finished(1.0, 1.5), measured(raced, 2.0, fraction=0.25)]
    whole, part = results(*history)
    assert (whole.setting, whole.fraction, whole.status, whole.seeds) == (
        (SETTING, 1.0, "trained", 1)
    )
    assert (part.setting, part.fraction, part.status, part.seeds) == (raced, 0.25, "excluded", 1)


def test_settings_come_in_the_order_in_which_they_were_first_tried() -> None:
    other = replace(SETTING, rank=8)
    history = [measured(other, 2.0, fraction=0.25), *finished(1.0), measured(other, 1.0)]
    assert [result.setting for result in results(*history)] == [other, SETTING]


def test_the_noise_of_seeds_widens_the_interval_of_full_runs_alone() -> None:
    noise = Variance(0.04, 5)

    def width(runs: Sequence[Measurement], own: Variance | None) -> float:
        interval = setting_loss(runs, own)
        assert interval is not None
        return interval.high - interval.low

    full = finished(1.0)
    part = [measured(SETTING, 1.0, fraction=0.5)]
    assert width(full, noise) > 2 * width(full, None)
    assert width(part, noise) == width(part, None)


def test_without_runs_there_is_no_interval() -> None:
    assert loss_interval_of([]) is None


# How the values of each lever stand.


def test_standings_of_a_race_are_those_of_the_decision() -> None:
    standing = LeverStanding("rank", 0.25, ((SETTING, 1.0), (replace(SETTING, rank=8), 1.1)))
    decision = Decision((), standings=(standing,))
    assert lever_standings(decision, results(*finished(1.0))) == (standing,)


def test_without_a_race_a_value_stands_by_the_best_setting_that_has_it() -> None:
    low, high = replace(SETTING, rank=8), SETTING
    faster = replace(low, learning_rate=2e-3)
    diverged = replace(low, learning_rate=1.0)
    part = replace(low, rank=4)
    history = [
        measured(low, 1.5),
        measured(faster, 1.3),
        measured(high, 1.1),
        measured(diverged, math.inf),
        measured(part, 0.1, fraction=0.5),
    ]
    standings = {s.lever: s for s in lever_standings(Decision(()), results(*history))}
    assert set(standings) == {"rank", "learning_rate"}
    assert {standing.fraction for standing in standings.values()} == {1.0}
    assert [setting for setting, _ in standings["rank"].losses] == [high, faster]
    losses = [loss for _, loss in standings["rank"].losses]
    assert losses == pytest.approx([1.1, 1.3], abs=0.05)
    rates = [setting.learning_rate for setting, _ in standings["learning_rate"].losses]
    assert rates == [1e-3, 2e-3]


def test_a_lever_with_one_value_has_no_standing() -> None:
    assert lever_standings(Decision(()), results(*finished(1.0, 1.1))) == ()


def test_a_grid_has_standings_of_full_runs() -> None:
    space = LeverSpace((8, 16), (1e-3, 2e-3), rates_fixed=True)
    decision, _, history = run(Grid.of(space), lambda s, f: 1 / s.rank + s.learning_rate)
    standings = lever_standings(decision, results(*history))
    assert [standing.lever for standing in standings] == ["learning_rate", "rank", "alpha"]
    assert {standing.fraction for standing in standings} == {1.0}
    assert {len(standing.losses) for standing in standings} == {2}


# The ladder of ranks.


def at(rank: int, targets: str = "all-linear") -> Setting:
    return Setting(rank, 2.0 * rank, targets, 1e-3)


def full(rank: int, loss: float, targets: str = "all-linear", seeds: int = 4) -> SettingResult:
    interval = Interval(loss, loss - 0.01, loss + 0.01)
    return SettingResult(at(rank, targets), seeds, 1.0, "trained", interval, 1, 1, 1.0)


def confirmed(before: Setting, after: Setting, gain: float, unit: str = "nats a token") -> Verdict:
    return Verdict(
        "confirmation",
        "rank",
        before,
        after,
        1.0,
        gain,
        gain - 0.02,
        gain + 0.02,
        0.01,
        "better",
        "gain",
        200,
        4,
        unit,
    )


RACE = LeverStanding("rank", 0.25, ((at(32), 1.8), (at(16), 1.9), (at(8), 2.0)))


def test_a_judged_step_carries_the_interval_of_its_verdict() -> None:
    verdict = confirmed(at(8), at(16), 0.11)
    ladder = rank_ladder((8, 16), at(16), [full(8, 1.4), full(16, 1.3)], (), [verdict])
    first, second = ladder
    assert (first.gain, first.low, first.high, first.outcome) == (None, None, None, None)
    assert (second.gain, second.low, second.high) == (0.11, verdict.low, verdict.high)
    assert (second.outcome, second.unit) == ("better", "nats a token")
    assert (second.loss, second.seeds, second.fraction) == (1.3, 4, 1.0)


def test_a_judged_step_is_in_the_unit_of_the_metric_that_judges() -> None:
    verdict = confirmed(at(8), at(16), 0.3, "exact_match")
    ladder = rank_ladder((8, 16), at(16), [full(8, 1.4), full(16, 1.3)], (), [verdict])
    assert (ladder[1].unit, ladder[1].gain) == ("exact_match", 0.3)


def test_a_step_that_was_not_judged_has_a_gain_without_an_interval() -> None:
    ladder = rank_ladder((8, 16), at(16), [full(8, 1.4), full(16, 1.3)], (), [])
    assert ladder[1].gain == pytest.approx(0.1)
    assert (ladder[1].low, ladder[1].high, ladder[1].outcome) == (None, None, None)


def test_a_rank_of_the_race_is_marked_by_its_fraction() -> None:
    ladder = rank_ladder((8, 16, 32), at(32), [full(32, 1.2)], (RACE,), [])
    assert [step.fraction for step in ladder] == [0.25, 0.25, 1.0]
    assert [step.loss for step in ladder] == [2.0, 1.9, 1.2]
    assert [step.seeds for step in ladder] == [0, 0, 4], "a surface has no runs"
    assert [step.setting for step in ladder] == [at(8), at(16), at(32)]


def test_between_fractions_there_is_no_gain() -> None:
    ladder = rank_ladder((8, 16, 32), at(32), [full(32, 1.2)], (RACE,), [])
    assert ladder[1].gain == pytest.approx(0.1), "both on the surface"
    assert ladder[2].gain is None, "a longer training is no gain of the rank"


def test_a_rank_that_nothing_is_known_of_has_an_empty_step() -> None:
    ladder = rank_ladder((4, 8, 16), at(16), [full(8, 1.4), full(16, 1.3)], (), [])
    assert (ladder[0].rank, ladder[0].setting, ladder[0].loss) == (4, None, None)
    assert (ladder[0].fraction, ladder[0].seeds) == (None, 0)
    assert ladder[1].gain is None


def test_the_ladder_is_of_the_recommended_target_modules() -> None:
    others = [full(8, 0.5, "mlp"), full(16, 1.3)]
    verdict = confirmed(at(8, "mlp"), at(16, "mlp"), 9.0)
    ladder = rank_ladder((8, 16), at(16), others, (), [verdict])
    assert (ladder[0].setting, ladder[1].gain) == (None, None)


def test_a_rank_stands_by_the_setting_that_was_judged_and_not_by_a_luckier_one() -> None:
    lucky = replace(full(8, 1.0), setting=replace(at(8), learning_rate=2e-3), seeds=1)
    verdict = confirmed(at(8), at(16), 0.1)
    ladder = rank_ladder((8, 16), at(16), [lucky, full(8, 1.4), full(16, 1.3)], (), [verdict])
    assert (ladder[0].setting, ladder[0].seeds) == (at(8), 4)


def test_a_rank_above_those_of_the_recipe_is_shown_too() -> None:
    ladder = rank_ladder((8,), at(16), [full(8, 1.4), full(16, 1.3)], (), [])
    assert [step.rank for step in ladder] == [8, 16]


@pytest.mark.parametrize("space", [RANKS, SPACE])
def test_the_ladder_of_a_climb_has_the_gains_of_its_verdicts(space: LeverSpace) -> None:
    def world(setting: Setting, fraction: float) -> float:
        rate = abs(math.log2(setting.scale * setting.learning_rate / 4e-3))
        return 1.0 + 2.0 / setting.rank + 0.05 * rate + 0.5 * (1 - fraction)

    strategy = Climb(space, 0.01, Effort())
    decision, _, history = run(strategy, world)
    assert decision.recommended is not None
    runs = Runs.of(history)
    settings = setting_results(runs, runs.noise())
    standings = lever_standings(decision, settings)
    best = decision.recommended.setting
    ladder = rank_ladder(space.ranks, best, settings, standings, decision.verdicts)
    assert [step.rank for step in ladder] == sorted({*space.ranks, best.rank})
    judged = [v for v in decision.verdicts if v.kind == "confirmation" and v.lever == "rank"]
    judged = [v for v in judged if v.after.targets == best.targets]
    assert judged
    shown = {(step.gain, step.low, step.high) for step in ladder if step.outcome}
    assert shown <= {(v.gain, v.low, v.high) for v in judged}
    for before, step in itertools.pairwise(ladder):
        if step.gain is not None:
            assert step.outcome or step.fraction == before.fraction
