"""The climb against made-up worlds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.search.worlds import BASELINE, SPACE, hill, run

from rung.search.climb import Climb
from rung.search.effort import Effort, choose_race_fraction, rate_grid
from rung.search.race import LM_HEAD_LOSS_THRESHOLD
from rung.search.strategy import Decision
from rung.search.verdicts import NATS
from rung.types import LeverSpace, Measurement, Scores, Setting

IN_FULL = ("confirmation", "untuned")
"""The kinds of verdicts on what was trained in full."""

RANKS = LeverSpace((8, 16, 32, 64), (1e-3, 2e-3, 4e-3, 8e-3))


def test_it_races_ranks_and_rates_then_all_levers_and_then_confirms_the_finalists_in_full() -> None:
    decision, stages, _ = run(
        Climb(replace(SPACE, alphas=("2r", "r", "4r"))), hill(2e-3, steep=0.05)
    )
    assert [(stage.phase, stage.fraction, len(stage.candidates)) for stage in stages[:4]] == [
        ("race", 1 / 4, 9),
        ("race", 1 / 4, 8),
        ("semifinal", 1.0, 4),
        ("confirmation", 1.0, 12),
    ]
    first, second = stages[0].candidates, stages[1].candidates
    assert {(candidate.targets, candidate.scale) for candidate in first} == {("all-linear", 2)}, (
        "as is usual"
    )
    for lever in ("rank", "learning_rate"):
        assert len({getattr(candidate, lever) for candidate in first}) >= 3, (
            f"the first pack says little of {lever}"
        )
    assert {candidate.targets for candidate in second} == set(SPACE.targets), (
        "what was not tried is tried now"
    )
    assert {candidate.scale for candidate in second} >= {1, 2, 4}
    assert all(c.scale == 2 for c in second if c.targets == "attention"), "one thing at a time"
    assert decision.recommended is not None
    assert decision.recommended.targets == "all-linear"
    assert decision.recommended.rank == 8, "rank gains nothing here"


def test_a_space_that_is_no_larger_than_the_finalists_needs_no_race() -> None:
    decision, stages, _ = run(Climb(LeverSpace((8, 16), (2e-3,), pinned=True)), hill(2e-3))
    assert {stage.phase for stage in stages} == {"confirmation"}
    assert {v.lever for v in decision.verdicts} == {"rank", "adapter"}


def test_it_climbs_while_doubling_is_worth_it_and_no_further() -> None:
    decision, _, _ = run(Climb(RANKS), hill(2e-3, (0.1, 0.1, 0.0)))
    assert decision.recommended is not None
    assert decision.recommended.rank == 32
    decision, _, _ = run(Climb(RANKS), hill(2e-3, (0.1, 0.0, 0.0)))
    assert decision.recommended is not None
    assert decision.recommended.rank == 16


def test_a_rank_that_is_behind_at_the_look_is_not_given_up_for_it() -> None:
    """Short training favours small ranks: here the larger ones only win in full."""

    def world(setting: Setting, fraction: float) -> float:
        doublings = round(math.log2(setting.rank / 8))
        slow = 0.05 * doublings if fraction < 1 else -0.05 * doublings
        return hill(2e-3)(setting, fraction) + slow

    decision, stages, _ = run(Climb(RANKS), world)
    assert decision.recommended is not None
    assert decision.recommended.rank == 64
    assert len([stage for stage in stages if stage.fraction == 1]) >= 2, (
        "the ladder goes on in full"
    )


def test_the_semifinal_finds_what_wins_in_full_alone() -> None:
    """At the look the attention is better than all layers, and in full it is much worse."""

    def world(setting: Setting, fraction: float) -> float:
        attention = (
            {True: -0.2, False: 0.2}[fraction < 1] if setting.targets == "attention" else 0.0
        )
        return hill(2e-3)(setting, fraction) + attention

    space = replace(SPACE, targets=("attention", "all-linear"), alphas=("2r",))
    effort = Effort(semifinalists=0, finalists=2)
    missed, _, _ = run(Climb(space, effort=effort), world)
    found, stages, history = run(Climb(space, effort=replace(effort, semifinalists=8)), world)
    assert missed.recommended is not None
    assert missed.recommended.targets == "attention"
    assert found.recommended is not None
    assert found.recommended.targets == "all-linear"
    semifinal = next(stage for stage in stages if stage.phase == "semifinal")
    assert (semifinal.fraction, len(semifinal.candidates)) == (1.0, 8)
    raced = {m.candidate for m in history if m.fraction < 1}
    assert raced.issuperset(semifinal.candidates), (
        "they go on from the look, with the seed that they have"
    )
    assert found.recommended.seed in effort.seeds, "and what they showed there confirms nothing"


def test_the_leader_is_in_the_semifinal_where_dearer_ones_stand_before_it() -> None:
    """Each doubling gains a little, and less than the margin: the largest ranks are the best, a smaller one leads."""
    effort = Effort(semifinalists=1)
    _, stages, _ = run(
        Climb(RANKS, 0.05, effort), hill(2e-3, (0.02, 0.02, 0.02)), rows=0.001, seeds=0.0001
    )
    (semifinalist,) = next(stage.candidates for stage in stages if stage.phase == "semifinal")
    raced = [c for stage in stages if stage.phase == "race" for c in stage.candidates]
    assert max(c.rank for c in raced if c.learning_rate == 2e-3) > semifinalist.rank


def test_who_leaves_is_told_by_the_last_judgement_it_had() -> None:
    def world(setting: Setting, fraction: float) -> float:
        diverges = fraction == 1 and setting.learning_rate == 4e-3
        return math.inf if diverges else hill(2e-3, steep=0.05)(setting, fraction)

    decision, stages, _ = run(Climb(SPACE, effort=Effort(semifinalists=8)), world)
    semifinal = next(set(stage.candidates) for stage in stages if stage.phase == "semifinal")
    excluded = {c: why for c, why in decision.excluded.items() if c.seed == 0}
    in_full = {c: excluded[c] for c in semifinal & excluded.keys()}
    assert {(c.learning_rate >= 4e-3, why.reason, why.fraction) for c, why in in_full.items()} == {
        (True, "diverged", None),
        (False, "behind", 1.0),
    }
    assert {(why.reason, why.fraction) for c, why in excluded.items() if c not in semifinal} == {
        ("behind", 1 / 4)
    }
    for why in excluded.values():
        if why.reason == "behind":
            assert why.loss is not None
            assert why.best_loss is not None


def test_a_semifinal_in_which_everything_diverges_is_not_the_end() -> None:
    def world(setting: Setting, fraction: float) -> float:
        if setting.targets != "all-linear":
            return hill(2e-3)(setting, fraction)
        return math.inf if fraction == 1 else hill(2e-3)(setting, fraction) - 0.5

    decision, stages, _ = run(Climb(SPACE, effort=Effort(semifinalists=3)), world)
    assert {
        c.targets for stage in stages if stage.phase == "semifinal" for c in stage.candidates
    } == {"all-linear"}
    assert decision.recommended is not None
    assert decision.recommended.targets != "all-linear"


@pytest.mark.parametrize("shift", [0.0, 10.0])
@pytest.mark.parametrize("effort", [Effort(semifinalists=0), Effort(semifinalists=6)])
def test_what_is_judged_in_full_may_be_a_metric_and_below_zero(
    shift: float, effort: Effort
) -> None:
    """As a user's own metric is, where more is better and there is no best."""

    def judged(scores: Scores) -> Scores:
        losses = (
            loss - shift * tokens for loss, tokens in zip(scores.losses, scores.tokens, strict=True)
        )
        return Scores(tuple(losses), scores.tokens)

    class Judged(Climb):
        def decide(self, baseline: Scores, history: Sequence[Measurement]) -> Decision:
            full = [m.fraction == 1 and m.scores for m in history]
            seen = [
                replace(m, scores=judged(own)) if own else m
                for m, own in zip(history, full, strict=True)
            ]
            return super().decide(baseline, seen)

    strategy = Judged(SPACE, effort=effort, unit="of score", untuned=judged(BASELINE))
    decision, _, _ = run(strategy, hill(2e-3), seeds=0.001)
    plain, _, _ = run(Climb(SPACE, effort=effort), hill(2e-3), seeds=0.001)
    assert decision.recommended is not None
    assert plain.recommended is not None
    # A margin is relative, and so wider where numbers are larger.
    assert shift or decision.recommended.targets == plain.recommended.targets
    in_full = [verdict for verdict in decision.verdicts if verdict.kind in IN_FULL]
    assert all(verdict.margin > 0 for verdict in in_full)
    assert {verdict.unit for verdict in in_full} == {"of score"}
    assert {v.unit for v in decision.verdicts if v.kind not in IN_FULL} == {NATS}
    assert in_full[-1].kind == "untuned"
    assert in_full[-1].outcome == "better"


def test_the_confirmation_uses_seeds_that_the_race_has_not_seen_the_same_for_each_finalist() -> (
    None
):
    _, stages, _ = run(Climb(SPACE), hill())
    race = {c.seed for stage in stages if stage.phase != "confirmation" for c in stage.candidates}
    confirmation = [
        c
        for stage in stages
        if stage.phase == "confirmation" and stage.fraction == 1
        for c in stage.candidates
    ]
    assert race == {0}
    for setting in {c.setting for c in confirmation}:
        assert {c.seed for c in confirmation if c.setting == setting} == {1, 2, 3, 4}


def test_a_gain_that_is_sure_but_not_worthwhile_does_not_buy_a_rank() -> None:
    decision, _, _ = run(Climb(RANKS), hill(2e-3, (0.005, 0.0, 0.0)), rows=0.001, seeds=0.0005)
    assert decision.recommended is not None
    assert decision.recommended.rank == 8


def test_what_the_seeds_do_not_tell_apart_is_undecided_and_says_what_would_decide_it() -> None:
    decision, _, _ = run(Climb(RANKS), hill(2e-3, (0.02, 0.0, 0.0)), seeds=0.05)
    full = [v for v in decision.verdicts if v.lever == "rank" and v.kind == "confirmation"]
    assert {v.outcome for v in full} == {"undecided"}
    assert {v.reason for v in full} == {"wide_interval"}
    assert any(v.required and v.required.seeds and v.required.seeds > v.seeds for v in full)
    assert all(v.detectable and v.detectable > v.margin for v in full)
    assert {v.seeds for v in full} == {4}


def test_each_lever_that_was_tried_gets_its_verdict() -> None:
    decision, _, _ = run(Climb(SPACE), hill(2e-3, (0.1, 0.0, 0.0)))
    at_race_fraction = [v for v in decision.verdicts if v.fraction == 1 / 4]
    assert {v.kind for v in at_race_fraction} == {"race", "matched_parameters"}
    assert {v.lever for v in at_race_fraction} == {
        "learning_rate",
        "targets",
        "rank",
        "alpha",
    }
    assert {v.seeds for v in at_race_fraction} == {1}
    last = decision.verdicts[-1]
    assert (last.kind, last.lever, last.before) == ("untuned", "adapter", None)
    assert (last.outcome, last.reason) == ("better", "gain")


def test_a_large_difference_is_called_better_and_a_large_loss_no_gain() -> None:
    decision, _, _ = run(Climb(RANKS), hill(2e-3, (0.2, 0.0, 0.0)), rows=0.02, seeds=0.001)
    ranks = {
        (v.before.rank, v.after.rank): v.outcome
        for v in decision.verdicts
        if v.before and v.kind == "confirmation"
    }
    assert ranks[8, 16] == "better"
    assert ranks[16, 32] == "no_worthwhile_gain"


def test_in_full_nothing_is_claimed_with_one_seed() -> None:
    decision, _, _ = run(
        Climb(RANKS, effort=Effort(finalists=2, seeds=(1,))), hill(2e-3, (0.2, 0.0, 0.0))
    )
    full = [v for v in decision.verdicts if v.kind == "confirmation"]
    assert {(v.outcome, v.reason, v.seeds) for v in full} == {("undecided", "one_seed", 1)}
    assert {(v.detectable, v.required) for v in full} == {(None, None)}


def test_a_large_difference_at_the_look_is_called_better_and_a_small_one_is_not() -> None:
    def says(gain: float, noise: float) -> str:
        decision, _, _ = run(
            Climb(SPACE), lambda c, f: 1.5 - gain * (c.targets != "attention"), 0.02, noise
        )
        found = next(v for v in decision.verdicts if v.lever == "targets" and v.kind == "race")
        assert found.low <= gain <= found.high
        return found.outcome

    assert says(0.5, 0.02) == "better"
    assert says(0.02, 0.05) == "undecided"


@pytest.mark.parametrize(("best", "found"), [(16e-3, 16e-3), (5e-4, 5e-4)])
def test_the_grid_grows_where_the_best_rate_stands_at_its_edge(best: float, found: float) -> None:
    decision, _, _ = run(Climb(RANKS), hill(best))
    assert decision.recommended is not None
    assert decision.recommended.learning_rate == pytest.approx(found)


def test_the_grid_does_not_grow_where_the_best_lies_inside_or_the_rates_are_the_users() -> None:
    _, _, history = run(Climb(RANKS), hill(2e-3))
    assert {m.candidate.learning_rate for m in history} <= set(RANKS.learning_rates)
    _, _, history = run(Climb(replace(RANKS, pinned=True)), hill(16e-3))
    assert {m.candidate.learning_rate for m in history} <= set(RANKS.learning_rates)


def test_a_rate_beyond_the_grid_takes_a_part_of_a_round_and_other_levers_the_rest() -> None:
    """Here every low rate looks promising: a round that went to them alone told nothing of the other levers."""
    _, stages, _ = run(Climb(SPACE), hill(1e-4, steep=0.05))
    second = stages[1].candidates
    below = [c for c in second if c.learning_rate < min(SPACE.learning_rates)]
    assert len(below) == 2
    assert {c.targets for c in second} == set(SPACE.targets)


def test_a_grid_that_never_turns_ends_all_the_same() -> None:
    decision, _, _ = run(Climb(RANKS), hill(1e-9, steep=0.01))
    assert decision.recommended is not None


def test_a_rank_whose_best_rate_is_lower_is_not_held_to_the_rate_of_the_first_rung() -> None:
    def world(setting: Setting, fraction: float) -> float:
        best = 2e-3 if setting.rank == 8 else 1e-3
        gain = 0.2 if setting.rank >= 16 else 0.0
        return 1.5 - gain + 0.5 * math.log2(setting.learning_rate / best) ** 2 + (1 - fraction)

    decision, _, _ = run(Climb(RANKS), world)
    assert decision.recommended is not None
    assert (decision.recommended.rank, decision.recommended.learning_rate) == (16, 1e-3)


def test_alpha_is_told_apart_from_the_rate() -> None:
    """Here only scale · rate counts: another alpha at the same product is as good, and is no reason to change."""
    space = LeverSpace((8, 16), (1e-3, 2e-3, 4e-3), alphas=("2r", "r", "4r"))
    decision, _, _ = run(Climb(space), hill(2e-3))
    found = next(v for v in decision.verdicts if v.lever == "alpha")
    assert abs(found.gain) < 0.1, (
        "each side at the rate that suits it; at one rate they are 0.2 apart"
    )
    decision, _, _ = run(Climb(space), hill(2e-3, alpha=0.1))
    assert decision.recommended is not None
    assert decision.recommended.scale == 4


def test_the_output_head_is_tried_where_the_completions_are_far_from_what_the_model_writes() -> (
    None
):
    far = Scores(tuple(8.0 * 5 for _ in BASELINE.tokens), BASELINE.tokens)
    assert far.mean > LM_HEAD_LOSS_THRESHOLD > BASELINE.mean
    for baseline, tried in ((far, True), (BASELINE, False)):
        _, _, history = run(Climb(SPACE), hill(), baseline=baseline)
        assert any("lm_head" in m.candidate.targets for m in history) == tried
    _, _, history = run(Climb(RANKS), hill(), baseline=far)
    assert not any("lm_head" in m.candidate.targets for m in history), (
        "the user has named the modules"
    )


def test_the_budget_picks_the_plan_and_the_climb_keeps_to_it() -> None:
    thorough, thrifty = Effort.within(SPACE, 100), Effort.within(SPACE, 0.1)
    assert thorough.decides
    assert not thrifty.decides
    costs = [Effort.within(SPACE, budget).cost(SPACE) for budget in (5, 8, 11, 20, 40, 60)]
    assert costs == sorted(costs)
    for budget in (6, 9, 14, 25, 45):
        effort = Effort.within(SPACE, budget)
        assert effort.cost(SPACE) <= budget
        _, _, history = run(Climb(SPACE, effort=effort), hill())
        assert sum(m.spent for m in history) <= budget * 10_000


def test_a_race_is_judged_after_as_many_steps_as_tell_something() -> None:
    assert [choose_race_fraction(steps) for steps in (10, 40, 90, 150, 200, 1000)] == [
        1 / 2,
        1 / 2,
        1 / 4,
        1 / 4,
        1 / 8,
        1 / 16,
    ]
    _, stages, _ = run(Climb(SPACE, effort=Effort(choose_race_fraction(1000))), hill())
    assert stages[0].fraction == 1 / 16
    assert sum(Effort.within(SPACE, 8, 1 / 16).rounds) > sum(Effort.within(SPACE, 8, 1 / 2).rounds)


def test_wider_models_get_lower_rates() -> None:
    assert rate_grid(576) == (5e-4, 1e-3, 2e-3, 4e-3)
    assert max(rate_grid(8192)) < 1e-3
    assert rate_grid(4096)[2] == pytest.approx(4e-4)


def test_modules_that_lead_are_also_compared_at_matched_parameter_count() -> None:
    decision, _, _ = run(Climb(SPACE), hill(2e-3, (0.2, 0.2, 0.0), 0.05))
    (matched,) = [v for v in decision.verdicts if v.kind == "matched_parameters"]
    assert matched.before is not None
    assert (matched.lever, matched.fraction) == ("targets", 1 / 4)
    assert (matched.before.targets, matched.after.targets) == ("attention", "all-linear")
    sizes = {"attention": 10, "all-linear": 25}
    before, after = (s.rank * sizes[s.targets] for s in (matched.before, matched.after))
    assert before == pytest.approx(after, rel=0.1)


def test_two_alphas_that_are_one_scale_are_tried_once() -> None:
    space = LeverSpace((16,), (1e-3, 2e-3), alphas=("2r", "4r", "rslora", "16"))
    _, _, history = run(Climb(space), hill())
    # 16 under rsLoRA has the scale of 4r here.
    assert {(m.candidate.alpha, m.candidate.use_rslora) for m in history} == {
        (32, False),
        (64, False),
        (16, False),
    }


def test_two_alphas_that_are_one_scale_are_confirmed_once() -> None:
    """Rank 8 leads under rsLoRA; on the rung above, 16 under rsLoRA is the same training as 64, which is near too."""
    space = LeverSpace((8, 16, 32), (2e-3,), alphas=("2r", "4r", "rslora"), pinned=True)

    def world(setting: Setting, fraction: float) -> float:
        return 1.5 + 0.1 * abs(math.log2(setting.scale / 5))

    _, _, history = run(Climb(space, effort=Effort(finalists=4)), world, rows=0.001, seeds=0.0001)
    confirmed = [m.candidate for m in history if m.candidate.seed == 1]
    assert {(8, 16, True), (16, 16, True)} <= {(c.rank, c.alpha, c.use_rslora) for c in confirmed}
    assert len({(c.rank, c.scale) for c in confirmed}) == len(confirmed)


def test_the_ladder_keeps_to_rslora_beyond_a_rung_where_another_alpha_is_the_same() -> None:
    space = LeverSpace((8, 16, 32, 64), (2e-3,), alphas=("4r", "rslora"), pinned=True)

    def world(setting: Setting, fraction: float) -> float:
        rank = 0.1 * math.log2(setting.rank) * (-1 if fraction == 1 else 1)
        return 2 + rank + (0 if setting.use_rslora or setting.rank == 16 else 1)

    decision, _, _ = run(Climb(space, effort=Effort(finalists=2)), world, rows=0.001, seeds=0.0001)
    assert decision.recommended is not None
    assert (decision.recommended.rank, decision.recommended.use_rslora) == (64, True)


def test_an_alpha_that_is_a_number_is_that_number_on_every_rung() -> None:
    space = replace(RANKS, alphas=("16",))
    _, _, history = run(Climb(space), lambda c, fraction: 1.5 - 0.1 * math.log2(c.rank) * fraction)
    assert {m.candidate.rank for m in history if m.fraction == 1} >= {32, 64}
    assert {m.candidate.alpha for m in history} == {16}


def test_the_ladder_goes_on_where_the_topmost_rung_is_there_with_two_alphas() -> None:
    """The larger ranks only win in full, and the finalists have two alphas at the topmost of their rungs."""

    def world(setting: Setting, fraction: float) -> float:
        doublings = round(math.log2(setting.rank / 8))
        rank = -0.1 * doublings if fraction == 1 else 0.03 * doublings
        return 1.5 + rank + 0.001 * abs(math.log2(setting.scale / 4))

    space = LeverSpace((8, 16, 32, 64), (2e-3,), alphas=("2r", "4r"), pinned=True)
    decision, stages, _ = run(
        Climb(space, effort=Effort(finalists=4)), world, rows=0.001, seeds=0.0001
    )
    confirmed = [c for stage in stages if stage.fraction == 1 for c in stage.candidates]
    assert len({c.alpha for c in confirmed if c.rank == 16}) == 2
    assert decision.recommended is not None
    assert decision.recommended.rank == 64


def test_undecided_comparisons_get_more_seeds_where_those_can_decide_them() -> None:
    effort = Effort(finalists=2, seeds=(1, 2, 3), more=5)
    decided = 0
    for gain in (0.03, 0.035, 0.04, 0.045):
        decision, stages, _ = run(
            Climb(RANKS, effort=effort), hill(2e-3, (gain, 0.0, 0.0)), seeds=0.01
        )
        seeds = {
            c.seed for stage in stages if stage.phase == "confirmation" for c in stage.candidates
        }
        assert seeds <= set(range(1, 9))
        found = [v for v in decision.verdicts if v.kind == "confirmation"]
        if len(seeds) > 3:
            decided += any(v.outcome != "undecided" and v.seeds > 3 for v in found)
    assert decided


UNSURE = Effort(finalists=2, seeds=(1, 2, 3), more=5)


def test_a_further_seed_that_diverges_takes_its_setting_out_of_all_comparisons() -> None:
    world, climb = hill(2e-3, (0.04, 0.0, 0.0)), Climb(RANKS, effort=UNSURE)
    _, stages, _ = run(climb, world, seeds=0.01)
    assert {c.seed for c in stages[-1].candidates} == {4, 5, 6, 7, 8}, "this world asks for more"
    assert {c.rank for c in stages[-1].candidates} == {8, 16}
    decision, _, _ = run(climb, world, seeds=0.01, lost=lambda c: (c.rank, c.seed) == (16, 6))
    in_full = {
        (v.before.rank, v.after.rank)
        for v in decision.verdicts
        if v.before and v.lever == "rank" and v.kind == "confirmation"
    }
    assert in_full
    assert 16 not in {rank for pair in in_full for rank in pair}
    assert decision.recommended is not None
    assert decision.recommended.rank == 32


def test_where_every_finalist_loses_a_further_seed_the_nearest_other_stands_in() -> None:
    world, climb = hill(2e-3, (0.04, 0.0, 0.0)), Climb(RANKS, effort=replace(UNSURE, rungs=0))
    decision, stages, _ = run(climb, world, seeds=0.01, lost=lambda c: c.seed == 6)
    assert {c.seed for c in stages[-2].candidates} == {4, 5, 6, 7, 8}, "this world asks for more"
    (other,) = {c.setting for c in stages[-1].candidates}
    assert decision.recommended is not None
    assert decision.recommended.setting == other


def test_the_doubling_of_the_best_rank_is_trained_in_full_where_it_was_passed_over() -> None:
    """At the look ranks 8 and 64 lead and 32 is nowhere; in full 16 is the best that the race has left."""

    def world(setting: Setting, fraction: float) -> float:
        at_race_fraction = {8: 0.0, 16: 0.4, 32: 0.5, 64: 0.02}
        in_full = {8: 0.2, 16: 0.1, 32: 0.0, 64: 0.2}
        return 1.5 + (at_race_fraction if fraction < 1 else in_full)[setting.rank]

    space = LeverSpace((8, 16, 32, 64), (2e-3,), pinned=True)
    decision, stages, _ = run(
        Climb(space, effort=Effort(semifinalists=0)), world, rows=0.001, seeds=0.0001
    )
    first, second = [stage for stage in stages if stage.phase == "confirmation"]
    assert {c.rank for c in first.candidates} == {8, 16, 64}
    assert {c.rank for c in second.candidates} == {32}
    assert ("rank", 16, 32, "better") in {
        (v.lever, v.before.rank, v.after.rank, v.outcome) for v in decision.verdicts if v.before
    }
    assert decision.recommended is not None
    assert decision.recommended.rank == 32


def test_more_seeds_are_not_spent_where_they_would_not_decide() -> None:
    _, stages, _ = run(
        Climb(RANKS, effort=Effort(seeds=(1, 2, 3), more=2)),
        hill(2e-3, (0.016, 0.0, 0.0)),
        seeds=0.1,
    )
    assert {
        c.seed for stage in stages if stage.phase == "confirmation" for c in stage.candidates
    } == {1, 2, 3}


def test_where_ranks_and_rates_are_few_the_other_levers_come_in_at_once() -> None:
    space = LeverSpace((16,), (1e-3, 2e-3), ("attention", "mlp"), ("2r", "r", "4r"))
    _, stages, _ = run(Climb(space), hill())
    first = stages[0].candidates
    assert [(c.targets, c.scale) for c in first[:2]] == [("attention", 2)] * 2, (
        "the first of each, with no all-linear"
    )
    assert len({c.targets for c in first}) == 2
    assert len({c.scale for c in first}) == 3


@pytest.mark.parametrize("budget", [2.5, 3.5, 4.0, 5.0])
def test_a_small_budget_goes_to_rates_and_ranks_and_to_the_best_of_them_in_full(
    budget: float,
) -> None:
    """What leads goes on with the seed that it has: another one for each would take all that there is."""
    effort = Effort.within(SPACE, budget)
    assert not effort.decides
    decision, stages, history = run(Climb(SPACE, effort=effort), hill(2e-3, (0.05, 0.0, 0.0)))
    assert [stage.phase for stage in stages] == ["race", "semifinal"]
    assert {m.candidate.seed for m in history} == {0}
    assert {(m.candidate.targets, m.candidate.scale) for m in history} == {("all-linear", 2)}
    assert sum(m.spent for m in history) <= budget * 10_000
    assert decision.recommended is not None
    assert decision.recommended.learning_rate == 2e-3
    assert {v.lever for v in decision.verdicts} == {"learning_rate", "rank", "adapter"}, (
        "nothing is said of the others"
    )
    assert {v.outcome for v in decision.verdicts if v.lever != "adapter"} == {"undecided"}
    assert decision.untried == {"targets": ("attention", "mlp"), "alpha": ("r", "4r", "rslora")}
