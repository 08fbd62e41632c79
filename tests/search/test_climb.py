"""The climb against made-up worlds."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from tests.search.worlds import BASELINE, SPACE, hill, run

from rung.levers import Candidate, LeverSpace, Scores
from rung.search.climb import FAR, Climb
from rung.search.plan import Plan, rate_grid

RANKS = LeverSpace((8, 16, 32, 64), (1e-3, 2e-3, 4e-3, 8e-3))


def test_it_goes_from_the_rate_to_the_modules_the_rank_the_alpha_and_the_confirmation() -> None:
    decision, heats, _ = run(Climb(SPACE), hill(2e-3))
    phases = list(dict.fromkeys(heat.phase for heat in heats))
    assert phases == ["learning rate", "target modules", "rank", "alpha", "confirmation"]
    assert [heat.until for heat in heats][:4] == [1 / 8] * 4
    assert heats[-1].until == 1
    assert decision.recommended is not None
    assert decision.recommended.targets == "all-linear"
    assert decision.recommended.rank == 8, "rank gains nothing here"


def test_it_climbs_while_doubling_is_worth_it_and_no_further() -> None:
    decision, _, _ = run(Climb(RANKS), hill(2e-3, (0.1, 0.1, 0.0)))
    assert decision.recommended is not None
    assert decision.recommended.rank == 32
    decision, _, _ = run(Climb(RANKS), hill(2e-3, (0.1, 0.0, 0.0)))
    assert decision.recommended is not None
    assert decision.recommended.rank == 16


def test_a_rank_that_is_behind_at_the_look_is_not_given_up_for_it() -> None:
    """Short training favours small ranks: here the larger ones only win in full."""

    def world(candidate: Candidate, fraction: float) -> float:
        doublings = round(math.log2(candidate.rank / 8))
        slow = 0.05 * doublings if fraction < 1 else -0.05 * doublings
        return hill(2e-3)(candidate, fraction) + slow

    decision, heats, _ = run(Climb(RANKS), world)
    assert decision.recommended is not None
    assert decision.recommended.rank == 64
    assert len([heat for heat in heats if heat.until == 1]) >= 2, "the ladder goes on in full"


def test_the_confirmation_uses_seeds_that_the_race_has_not_seen_the_same_for_each_finalist() -> None:
    _, heats, _ = run(Climb(SPACE), hill())
    race = {c.seed for heat in heats if heat.phase != "confirmation" for c in heat.candidates}
    confirmation = [c for heat in heats if heat.phase == "confirmation" and heat.until == 1 for c in heat.candidates]
    assert race == {0}
    for setting in {replace(c, seed=0) for c in confirmation}:
        assert {c.seed for c in confirmation if replace(c, seed=0) == setting} == {1, 2, 3}


def test_a_gain_that_is_sure_but_not_worthwhile_does_not_buy_a_rank() -> None:
    decision, _, _ = run(Climb(RANKS), hill(2e-3, (0.005, 0.0, 0.0)), rows=0.001, seeds=0.0005)
    assert decision.recommended is not None
    assert decision.recommended.rank == 8


def test_what_the_seeds_do_not_tell_apart_is_undecided_and_says_what_would_decide_it() -> None:
    decision, _, _ = run(Climb(RANKS), hill(2e-3, (0.02, 0.0, 0.0)), seeds=0.05)
    full = [v for v in decision.verdicts if v.lever == "rank" and "of the budget" not in v.says]
    assert {v.outcome for v in full} == {"undecided"}
    assert any("more seeds would decide it" in v.says for v in full)
    assert {v.seeds for v in full} == {3}


def test_each_lever_that_was_tried_gets_its_verdict() -> None:
    decision, _, _ = run(Climb(SPACE), hill(2e-3, (0.1, 0.0, 0.0)))
    assert {v.lever for v in decision.verdicts} == {"learning_rate", "target_modules", "rank", "alpha", "adapter"}
    last = decision.verdicts[-1]
    assert (last.lever, last.before, last.outcome) == ("adapter", "untuned", "better")


def test_a_large_difference_is_called_better_and_a_large_loss_no_gain() -> None:
    decision, _, _ = run(Climb(RANKS), hill(2e-3, (0.2, 0.0, 0.0)), rows=0.02, seeds=0.001)
    ranks = {(v.before, v.to): v.outcome for v in decision.verdicts if "of the budget" not in v.says}
    assert ranks[8, 16] == "better"
    assert ranks[16, 32] == "no_worthwhile_gain"


def test_with_one_seed_nothing_is_claimed() -> None:
    decision, _, _ = run(Climb(RANKS, plan=Plan(1 / 8, 2, 2, (1,))), hill(2e-3, (0.2, 0.0, 0.0)))
    assert {v.outcome for v in decision.verdicts if v.lever != "adapter"} == {"undecided"}
    assert any("with one seed" in v.says for v in decision.verdicts)


@pytest.mark.parametrize(("best", "found"), [(16e-3, 16e-3), (5e-4, 5e-4)])
def test_the_grid_grows_where_the_best_rate_stands_at_its_edge(best: float, found: float) -> None:
    decision, _, _ = run(Climb(RANKS), hill(best))
    assert decision.recommended is not None
    assert decision.recommended.learning_rate == pytest.approx(found)


def test_the_grid_does_not_grow_where_its_edge_is_flat_or_the_rates_are_the_users() -> None:
    def flat(candidate: Candidate, fraction: float) -> float:
        return 1.5 + (0.2 if candidate.learning_rate > 3e-3 else 0.0) + (1 - fraction)

    _, _, history = run(Climb(RANKS), flat)
    assert min(m.candidate.learning_rate for m in history if m.candidate.rank == 8) == 1e-3
    _, _, history = run(Climb(replace(RANKS, pinned=True)), hill(16e-3))
    assert {m.candidate.learning_rate for m in history} <= set(RANKS.learning_rates)


def test_a_grid_that_never_turns_ends_all_the_same() -> None:
    decision, _, _ = run(Climb(RANKS), hill(1e-9, steep=0.01))
    assert decision.recommended is not None


def test_a_rank_whose_best_rate_is_lower_is_not_held_to_the_rate_of_the_first_rung() -> None:
    def world(candidate: Candidate, fraction: float) -> float:
        best = 2e-3 if candidate.rank == 8 else 1e-3
        gain = 0.2 if candidate.rank >= 16 else 0.0
        return 1.5 - gain + 0.5 * math.log2(candidate.learning_rate / best) ** 2 + (1 - fraction)

    decision, _, _ = run(Climb(RANKS), world)
    assert decision.recommended is not None
    assert (decision.recommended.rank, decision.recommended.learning_rate) == (16, 1e-3)


def test_alpha_is_told_apart_from_the_rate() -> None:
    """Here only scale · rate counts: another alpha at the same product is as good, and is no reason to change."""
    space = LeverSpace((8, 16), (1e-3, 2e-3, 4e-3), alphas=("2r", "r", "4r"))
    _, heats, _ = run(Climb(space), hill(2e-3))
    alphas = next(heat for heat in heats if heat.phase == "alpha")
    products = {round(c.scale * c.learning_rate, 9) for c in alphas.candidates}
    assert 2 * 2e-3 in products
    assert len(products) > 1
    decision, _, _ = run(Climb(space), hill(2e-3, alpha=0.1))
    assert decision.recommended is not None
    assert decision.recommended.scale == 4


def test_the_output_head_is_tried_where_the_completions_are_far_from_what_the_model_writes() -> None:
    far = Scores(tuple(8.0 * 5 for _ in BASELINE.tokens), BASELINE.tokens)
    assert far.mean > FAR > BASELINE.mean
    for baseline, tried in ((far, True), (BASELINE, False)):
        _, _, history = run(Climb(SPACE), hill(), baseline=baseline)
        assert any("lm_head" in m.candidate.targets for m in history) == tried
    _, _, history = run(Climb(RANKS), hill(), baseline=far)
    assert not any("lm_head" in m.candidate.targets for m in history), "the user has named the modules"


def test_the_budget_picks_the_plan_and_the_plan_keeps_to_it() -> None:
    thorough, thrifty = Plan.within(SPACE, 100), Plan.within(SPACE, 0.1)
    assert thorough.decides
    assert not thrifty.decides
    costs = [Plan.within(SPACE, budget).cost(SPACE) for budget in (5, 8, 11, 20, 30)]
    assert costs == sorted(costs)
    for budget in (6, 9, 14, 25):
        plan = Plan.within(SPACE, budget)
        _, _, history = run(Climb(SPACE, plan=plan), hill())
        assert sum(m.spent for m in history) <= plan.cost(SPACE) * 10_000 <= budget * 10_000


def test_wider_models_get_lower_rates() -> None:
    assert rate_grid(576) == (1e-3, 2e-3, 4e-3, 8e-3)
    assert max(rate_grid(8192)) < 1e-3
    assert rate_grid(4096)[1] == pytest.approx(4e-4)


def test_modules_that_lead_are_also_compared_at_matched_parameter_count() -> None:
    decision, _, history = run(Climb(SPACE), hill())
    matched = [m.candidate for m in history if m.candidate.rank not in SPACE.ranks]
    # Rank 8 on the attention has 80 parameters in these worlds, and all-linear 25 a rank.
    assert [(c.targets, c.rank, c.alpha) for c in matched] == [("all-linear", 3, 6)]
    assert decision.recommended is not None
    assert decision.recommended.rank in SPACE.ranks
    says = [v.says for v in decision.verdicts if v.lever == "target_modules"]
    assert any("attention → all-linear at matched parameter count at an eighth" in text for text in says)


def test_two_alphas_that_are_one_scale_are_tried_once() -> None:
    space = LeverSpace((16,), (1e-3, 2e-3), alphas=("2r", "4r", "rslora", "16"))
    _, heats, _ = run(Climb(space), hill())
    alphas = next(heat for heat in heats if heat.phase == "alpha")
    # 16 under rsLoRA has the scale of 4r here.
    assert {(c.alpha, c.use_rslora) for c in alphas.candidates} == {(64, False), (16, False)}


def test_the_ladder_goes_on_where_the_topmost_rung_is_there_with_two_alphas() -> None:
    """Rank 8 leads at the look, then 4r does; so rank 16 is a finalist at 4r, as the leader is, and at 2r, as raced."""

    def world(candidate: Candidate, fraction: float) -> float:
        at_look = {8: 0.0, 16: -0.005, 32: 0.05, 64: 0.05}[candidate.rank]
        doublings = round(math.log2(candidate.rank / 8))
        return 1.5 + (-0.1 * doublings if fraction == 1 else at_look) + 0.03 * abs(math.log2(candidate.scale / 4))

    space = LeverSpace((8, 16, 32, 64), (2e-3,), alphas=("2r", "4r"), pinned=True)
    decision, heats, _ = run(Climb(space), world, rows=0.001, seeds=0.0001)
    confirmed = next(heat for heat in heats if heat.until == 1)
    assert {(c.rank, c.alpha) for c in confirmed.candidates} == {(8, 32), (16, 64), (16, 32)}
    assert decision.recommended is not None
    assert decision.recommended.rank == 64
