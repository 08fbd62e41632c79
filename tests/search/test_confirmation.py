"""The confirmation of a climb: which finalists and seeds it trains, and its verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.search.worlds import (
    BASELINE,
    RANKS,
    SPACE,
    candidates_of,
    hill,
    recommended,
    run,
)

from rung.search.climb import Climb
from rung.search.effort import Effort
from rung.search.strategy import Decision
from rung.search.verdicts import NATS
from rung.types import LeverSpace, Measurement, Scores, Setting

FULL_KINDS = ("confirmation", "untuned")
"""The kinds of verdicts at the full budget."""


def test_each_finalist_is_confirmed_with_the_same_seeds_which_the_race_has_not_used() -> None:
    _, stages, _ = run(Climb(SPACE), hill())
    assert {c.seed for c in candidates_of("race", stages)} == {0}
    assert {c.seed for c in candidates_of("semifinal", stages)} == {0}
    confirmed = candidates_of("confirmation", stages)
    for setting in {c.setting for c in confirmed}:
        assert {c.seed for c in confirmed if c.setting == setting} == {1, 2, 3, 4}


def test_the_next_higher_rank_of_the_best_is_confirmed_if_the_race_passed_it_over() -> None:
    """Ranks 8 and 64 lead the race and 32 is last; at the full budget 16 is the best finalist."""

    def world(setting: Setting, fraction: float) -> float:
        race = {8: 0.0, 16: 0.4, 32: 0.5, 64: 0.02}
        full = {8: 0.2, 16: 0.1, 32: 0.0, 64: 0.2}
        return 1.5 + (race if fraction < 1 else full)[setting.rank]

    climb = Climb(
        LeverSpace((8, 16, 32, 64), (2e-3,), rates_fixed=True), effort=Effort(semifinalists=0)
    )
    decision, stages, _ = run(climb, world, row_noise=0.001, seed_noise=0.0001)
    first, second = [stage for stage in stages if stage.phase == "confirmation"]
    assert {c.rank for c in first.candidates} == {8, 16, 64}
    assert {c.rank for c in second.candidates} == {32}
    assert ("rank", 16, 32, "better") in {
        (v.lever, v.before.rank, v.after.rank, v.outcome) for v in decision.verdicts if v.before
    }
    assert recommended(decision).rank == 32


def test_the_ladder_goes_on_from_a_rank_that_is_confirmed_with_two_alphas() -> None:
    """The larger ranks win only at the full budget, and two finalists have the highest rank."""

    def world(setting: Setting, fraction: float) -> float:
        doublings = round(math.log2(setting.rank / 8))
        of_rank = -0.1 * doublings if fraction == 1 else 0.03 * doublings
        return 1.5 + of_rank + 0.001 * abs(math.log2(setting.scale / 4))

    space = LeverSpace((8, 16, 32, 64), (2e-3,), alphas=("2r", "4r"), rates_fixed=True)
    climb = Climb(space, effort=Effort(finalists=4))
    decision, stages, _ = run(climb, world, row_noise=0.001, seed_noise=0.0001)
    full = [c for stage in stages if stage.fraction == 1 for c in stage.candidates]
    assert len({c.alpha for c in full if c.rank == 16}) == 2
    assert recommended(decision).rank == 64


def test_a_rank_with_a_lower_best_rate_is_not_trained_at_the_rate_of_a_lower_rank() -> None:
    def world(setting: Setting, fraction: float) -> float:
        best = 2e-3 if setting.rank == 8 else 1e-3
        gain = 0.2 if setting.rank >= 16 else 0.0
        return 1.5 - gain + 0.5 * math.log2(setting.learning_rate / best) ** 2 + (1 - fraction)

    decision, _, _ = run(Climb(RANKS), world)
    assert (recommended(decision).rank, recommended(decision).learning_rate) == (16, 1e-3)


UNSURE = Effort(finalists=2, seeds=(1, 2, 3), extra_seeds=5)
"""An effort that can add five seeds where a comparison stays undecided."""


def test_undecided_comparisons_get_more_seeds_if_those_can_decide_them() -> None:
    decided = 0
    for gain in (0.03, 0.035, 0.04, 0.045):
        world = hill(2e-3, (gain, 0.0, 0.0))
        decision, stages, _ = run(Climb(RANKS, effort=UNSURE), world, seed_noise=0.01)
        seeds = {c.seed for c in candidates_of("confirmation", stages)}
        assert seeds in ({1, 2, 3}, set(range(1, 9))), "all of the extra seeds, or none"
        verdicts = [v for v in decision.verdicts if v.kind == "confirmation"]
        decided += any(v.outcome != "undecided" and v.seeds == 8 for v in verdicts)
    assert decided


def test_more_seeds_are_not_spent_if_they_would_not_decide() -> None:
    climb = Climb(RANKS, effort=Effort(seeds=(1, 2, 3), extra_seeds=2))
    _, stages, _ = run(climb, hill(2e-3, (0.016, 0.0, 0.0)), seed_noise=0.1)
    assert {c.seed for c in candidates_of("confirmation", stages)} == {1, 2, 3}


def test_a_setting_of_which_an_extra_seed_diverges_is_in_no_comparison() -> None:
    world, climb = hill(2e-3, (0.04, 0.0, 0.0)), Climb(RANKS, effort=UNSURE)
    _, stages, _ = run(climb, world, seed_noise=0.01)
    assert {c.seed for c in stages[-1].candidates} == {4, 5, 6, 7, 8}, "extra seeds are used here"
    assert {c.rank for c in stages[-1].candidates} == {8, 16}
    decision, _, _ = run(
        climb, world, seed_noise=0.01, diverges=lambda c: (c.rank, c.seed) == (16, 6)
    )
    verdicts = [v for v in decision.verdicts if v.kind == "confirmation"]
    ranks = {setting.rank for v in verdicts for setting in (v.before, v.after) if setting}
    assert ranks
    assert 16 not in ranks
    assert recommended(decision).rank == 32


def test_if_every_finalist_loses_an_extra_seed_the_next_of_the_race_is_confirmed() -> None:
    world = hill(2e-3, (0.04, 0.0, 0.0))
    climb = Climb(RANKS, effort=replace(UNSURE, max_ladder_steps=0))
    decision, stages, _ = run(climb, world, seed_noise=0.01, diverges=lambda c: c.seed == 6)
    assert {c.seed for c in stages[-2].candidates} == {4, 5, 6, 7, 8}, "extra seeds are used here"
    (other,) = {c.setting for c in stages[-1].candidates}
    assert recommended(decision).setting == other


# The verdicts.


def test_each_lever_that_was_tried_has_a_verdict_at_the_race_fraction() -> None:
    decision, _, _ = run(Climb(SPACE), hill(2e-3, (0.1, 0.0, 0.0)))
    of_race = [v for v in decision.verdicts if v.fraction == 1 / 4]
    assert {v.kind for v in of_race} == {"race", "matched_parameters"}
    assert {v.lever for v in of_race} == {"learning_rate", "targets", "rank", "alpha"}
    assert {v.seeds for v in of_race} == {1}
    assert {v.fraction for v in decision.verdicts if v not in of_race} == {1.0}


def test_the_last_verdict_compares_the_recommended_setting_with_the_untuned_model() -> None:
    decision, _, _ = run(Climb(SPACE), hill(2e-3, (0.1, 0.0, 0.0)))
    last = decision.verdicts[-1]
    assert (last.kind, last.lever, last.before) == ("untuned", "adapter", None)
    assert last.after == recommended(decision).setting
    assert (last.outcome, last.reason) == ("better", "gain")


def test_a_large_gain_is_better_and_a_loss_is_no_worthwhile_gain() -> None:
    world = hill(2e-3, (0.2, 0.0, 0.0))
    decision, _, _ = run(Climb(RANKS), world, row_noise=0.02, seed_noise=0.001)
    outcomes = {
        (v.before.rank, v.after.rank): v.outcome
        for v in decision.verdicts
        if v.before and v.kind == "confirmation"
    }
    assert outcomes[8, 16] == "better"
    assert outcomes[16, 32] == "no_worthwhile_gain"


def test_what_the_noise_of_seeds_hides_is_undecided_and_has_what_would_decide_it() -> None:
    decision, _, _ = run(Climb(RANKS), hill(2e-3, (0.02, 0.0, 0.0)), seed_noise=0.05)
    verdicts = [v for v in decision.verdicts if (v.kind, v.lever) == ("confirmation", "rank")]
    assert {(v.outcome, v.reason, v.seeds) for v in verdicts} == {("undecided", "wide_interval", 4)}
    assert any(v.required and v.required.seeds and v.required.seeds > 4 for v in verdicts)
    assert all(v.detectable and v.detectable > v.margin for v in verdicts)


def test_with_one_seed_nothing_is_claimed_about_finalists() -> None:
    climb = Climb(RANKS, effort=Effort(finalists=2, seeds=(1,)))
    decision, _, _ = run(climb, hill(2e-3, (0.2, 0.0, 0.0)))
    verdicts = [v for v in decision.verdicts if v.kind == "confirmation"]
    assert {(v.outcome, v.reason, v.seeds) for v in verdicts} == {("undecided", "one_seed", 1)}
    assert {(v.detectable, v.required) for v in verdicts} == {(None, None)}


@pytest.mark.parametrize(
    ("gain", "seed_noise", "outcome"), [(0.5, 0.02, "better"), (0.02, 0.05, "undecided")]
)
def test_the_race_shows_a_large_gain_and_not_a_small_one(
    gain: float, seed_noise: float, outcome: str
) -> None:
    def world(setting: Setting, fraction: float) -> float:
        return 1.5 - gain * (setting.targets != "attention")

    decision, _, _ = run(Climb(SPACE), world, 0.02, seed_noise)
    (verdict,) = [v for v in decision.verdicts if (v.kind, v.lever) == ("race", "targets")]
    assert verdict.low <= gain <= verdict.high
    assert verdict.outcome == outcome


@pytest.mark.parametrize("shift", [0.0, 10.0])
@pytest.mark.parametrize("effort", [Effort(semifinalists=0), Effort(semifinalists=6)])
def test_a_metric_may_judge_at_the_full_budget_and_be_below_zero(
    shift: float, effort: Effort
) -> None:
    """As a user's own metric may be, if more is better and there is no best value."""

    def shifted(scores: Scores) -> Scores:
        losses = (x - shift * n for x, n in zip(scores.losses, scores.tokens, strict=True))
        return Scores(tuple(losses), scores.tokens)

    class MetricClimb(Climb):
        def decide(self, baseline: Scores, history: Sequence[Measurement]) -> Decision:
            return super().decide(
                baseline,
                [
                    replace(m, scores=shifted(m.scores)) if m.fraction == 1 and m.scores else m
                    for m in history
                ],
            )

    climb = MetricClimb(SPACE, effort=effort, unit="of score", untuned=shifted(BASELINE))
    decision, _, _ = run(climb, hill(2e-3), seed_noise=0.001)
    by_loss, _, _ = run(Climb(SPACE, effort=effort), hill(2e-3), seed_noise=0.001)
    if not shift:
        # A margin is relative, so it is wider where the numbers are larger.
        assert recommended(decision).targets == recommended(by_loss).targets
    full = [v for v in decision.verdicts if v.kind in FULL_KINDS]
    assert all(v.margin > 0 for v in full)
    assert {v.unit for v in full} == {"of score"}
    assert {v.unit for v in decision.verdicts if v not in full} == {NATS}
    assert (full[-1].kind, full[-1].outcome) == ("untuned", "better")
