"""The climb in artificial worlds: its stages, and what it recommends."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from tests.search.worlds import (
    BASELINE,
    FAR_BASELINE,
    FULL_TOKENS,
    RANKS,
    SPACE,
    candidates_of,
    hill,
    recommended,
    run,
)

from rung.search.climb import Climb
from rung.search.effort import Effort
from rung.search.race import LM_HEAD_LOSS_THRESHOLD
from rung.types import LeverSpace, Scores, Setting


def test_it_races_ranks_and_rates_then_all_levers_and_then_confirms_the_finalists() -> None:
    decision, stages, _ = run(
        Climb(replace(SPACE, alphas=("2r", "r", "4r"))), hill(2e-3, steepness=0.05)
    )
    assert [(stage.phase, stage.fraction, len(stage.candidates)) for stage in stages[:4]] == [
        ("race", 1 / 4, 9),
        ("race", 1 / 4, 8),
        ("semifinal", 1.0, 4),
        ("confirmation", 1.0, 12),
    ]
    second = stages[1].candidates
    assert {c.targets for c in second} == set(SPACE.targets), "the second round tries what is new"
    assert {c.scale for c in second} >= {1, 2, 4}
    assert all(c.scale == 2 for c in second if c.targets == "attention"), "one lever at a time"
    assert recommended(decision).targets == "all-linear"
    assert recommended(decision).rank == 8, "a higher rank gains nothing here"


def test_a_space_that_is_no_larger_than_the_finalists_needs_no_race() -> None:
    decision, stages, _ = run(Climb(LeverSpace((8, 16), (2e-3,), rates_fixed=True)), hill(2e-3))
    assert {stage.phase for stage in stages} == {"confirmation"}
    assert {v.lever for v in decision.verdicts} == {"rank", "adapter"}


@pytest.mark.parametrize(("gains", "rank"), [((0.1, 0.1, 0.0), 32), ((0.1, 0.0, 0.0), 16)])
def test_it_climbs_while_doubling_is_worth_it_and_no_further(
    gains: tuple[float, ...], rank: int
) -> None:
    decision, _, _ = run(Climb(RANKS), hill(2e-3, gains))
    assert recommended(decision).rank == rank


@pytest.mark.parametrize("semifinalists", [0, 4])
def test_a_rank_that_is_behind_in_the_race_is_not_given_up(semifinalists: int) -> None:
    """Short training favours small ranks: here the larger ones win only at the full budget."""

    def world(setting: Setting, fraction: float) -> float:
        doublings = round(math.log2(setting.rank / 8))
        of_rank = 0.05 * doublings if fraction < 1 else -0.05 * doublings
        return hill(2e-3)(setting, fraction) + of_rank

    decision, stages, _ = run(Climb(RANKS, effort=Effort(semifinalists=semifinalists)), world)
    assert recommended(decision).rank == 64
    confirmations = [stage for stage in stages if stage.phase == "confirmation"]
    assert semifinalists or len(confirmations) >= 2, "ladder steps lead there"


def test_a_gain_that_is_certain_but_not_worthwhile_buys_no_rank() -> None:
    world = hill(2e-3, (0.005, 0.0, 0.0))
    decision, _, _ = run(Climb(RANKS), world, row_noise=0.001, seed_noise=0.0005)
    assert recommended(decision).rank == 8


# The semifinal.


def test_the_semifinal_finds_what_wins_only_at_the_full_budget() -> None:
    """In the race attention is better than all layers, and at the full budget it is much worse."""

    def world(setting: Setting, fraction: float) -> float:
        of_attention = -0.2 if fraction < 1 else 0.2
        return hill(2e-3)(setting, fraction) + of_attention * (setting.targets == "attention")

    space = replace(SPACE, targets=("attention", "all-linear"), alphas=("2r",))
    effort = Effort(semifinalists=0, finalists=2)
    without, _, _ = run(Climb(space, effort=effort), world)
    decision, stages, history = run(Climb(space, effort=replace(effort, semifinalists=8)), world)
    assert recommended(without).targets == "attention"
    assert recommended(decision).targets == "all-linear"
    (semifinal,) = [stage for stage in stages if stage.phase == "semifinal"]
    assert (semifinal.fraction, len(semifinal.candidates)) == (1.0, 8)
    raced = {m.candidate for m in history if m.fraction < 1}
    assert raced.issuperset(semifinal.candidates), "they go on with the seed that they have"
    assert recommended(decision).seed in effort.seeds, "and that seed confirms nothing"


def test_the_leader_is_in_the_semifinal_even_if_more_expensive_settings_rank_higher() -> None:
    """Each doubling gains less than the margin: the largest ranks are best, a smaller one leads."""
    _, stages, _ = run(
        Climb(RANKS, 0.05, Effort(semifinalists=1)),
        hill(2e-3, (0.02, 0.02, 0.02)),
        row_noise=0.001,
        seed_noise=0.0001,
    )
    (semifinalist,) = candidates_of("semifinal", stages)
    raced = candidates_of("race", stages)
    assert max(c.rank for c in raced if c.learning_rate == 2e-3) > semifinalist.rank


def test_a_semifinal_in_which_everything_diverges_is_not_the_end() -> None:
    def world(setting: Setting, fraction: float) -> float:
        if setting.targets != "all-linear":
            return hill(2e-3)(setting, fraction)
        return math.inf if fraction == 1 else hill(2e-3)(setting, fraction) - 0.5

    decision, stages, _ = run(Climb(SPACE, effort=Effort(semifinalists=3)), world)
    assert {c.targets for c in candidates_of("semifinal", stages)} == {"all-linear"}
    assert recommended(decision).targets != "all-linear"


def test_an_exclusion_has_the_last_losses_that_the_setting_and_the_leader_share() -> None:
    def world(setting: Setting, fraction: float) -> float:
        diverges = fraction == 1 and setting.learning_rate == 4e-3
        return math.inf if diverges else hill(2e-3, steepness=0.05)(setting, fraction)

    decision, stages, history = run(Climb(SPACE, effort=Effort(semifinalists=8)), world)
    semifinal = set(candidates_of("semifinal", stages))
    excluded = {c: why for c, why in decision.excluded.items() if c.seed == 0}
    in_full = {(c, excluded[c]) for c in semifinal & excluded.keys()}
    assert {(c.learning_rate == 4e-3, why.reason, why.fraction) for c, why in in_full} == {
        (True, "diverged", None),
        (False, "behind", 1.0),
    }
    others = {why for c, why in excluded.items() if c not in semifinal}
    assert {(why.reason, why.fraction) for why in others} == {("behind", 1 / 4)}
    losses = {(m.candidate, m.fraction): m.loss for m in history}
    behind = [(c, why) for c, why in excluded.items() if why.reason == "behind"]
    for candidate, why in behind:
        assert why.fraction is not None
        assert why.loss == losses[candidate, why.fraction]
    assert len({(why.fraction, why.best_loss) for _, why in behind}) == 2, "one leader"


# The learning rates.


@pytest.mark.parametrize("best", [16e-3, 5e-4])
def test_the_grid_grows_if_the_best_rate_is_at_its_edge(best: float) -> None:
    decision, _, _ = run(Climb(RANKS), hill(best))
    assert best not in RANKS.learning_rates
    assert recommended(decision).learning_rate == pytest.approx(best)


@pytest.mark.parametrize(
    ("space", "best"), [(RANKS, 2e-3), (replace(RANKS, rates_fixed=True), 16e-3)]
)
def test_the_grid_does_not_grow_if_the_best_is_inside_or_the_user_named_the_rates(
    space: LeverSpace, best: float
) -> None:
    _, _, history = run(Climb(space), hill(best))
    assert {m.candidate.learning_rate for m in history} <= set(RANKS.learning_rates)


def test_a_grid_that_could_grow_for_ever_has_an_end() -> None:
    decision, _, history = run(Climb(RANKS), hill(1e-9, steepness=0.01))
    lowest = min(m.candidate.learning_rate for m in history)
    assert lowest == min(RANKS.learning_rates) / 8, "in the second round and two extensions"
    assert recommended(decision).learning_rate == lowest


# Alphas, and the output head.


def test_alpha_is_told_apart_from_the_learning_rate() -> None:
    """Only scale · learning rate counts here, so another alpha at the same product is as good."""
    space = LeverSpace((8, 16), (1e-3, 2e-3, 4e-3), alphas=("2r", "r", "4r"))
    decision, _, _ = run(Climb(space), hill(2e-3))
    (verdict,) = [v for v in decision.verdicts if v.lever == "alpha"]
    assert abs(verdict.gain) < 0.1, (
        "each side has the rate that suits it; at one rate the losses differ by 0.2"
    )
    decision, _, _ = run(Climb(space), hill(2e-3, scale_gain=0.1))
    assert recommended(decision).scale == 4


def test_two_alphas_of_one_scale_are_tried_once() -> None:
    space = LeverSpace((16,), (1e-3, 2e-3), alphas=("2r", "4r", "rslora", "16"))
    _, _, history = run(Climb(space), hill())
    # At rank 16 the scale of rsLoRA with 16 is that of 4r.
    assert {(m.candidate.alpha, m.candidate.use_rslora) for m in history} == {
        (32, False),
        (64, False),
        (16, False),
    }


def test_two_alphas_of_one_scale_are_confirmed_once() -> None:
    """Rank 8 leads under rsLoRA. At rank 16, rsLoRA is the same training as 64, also near."""
    space = LeverSpace((8, 16, 32), (2e-3,), alphas=("2r", "4r", "rslora"), rates_fixed=True)

    def world(setting: Setting, fraction: float) -> float:
        return 1.5 + 0.1 * abs(math.log2(setting.scale / 5))

    climb = Climb(space, effort=Effort(finalists=4))
    _, _, history = run(climb, world, row_noise=0.001, seed_noise=0.0001)
    confirmed = [m.candidate for m in history if m.candidate.seed == 1]
    assert {(8, 16, True), (16, 16, True)} <= {(c.rank, c.alpha, c.use_rslora) for c in confirmed}
    assert len({(c.rank, c.scale) for c in confirmed}) == len(confirmed)


def test_the_ladder_keeps_to_rslora_beyond_a_rank_where_another_alpha_is_the_same() -> None:
    space = LeverSpace((8, 16, 32, 64), (2e-3,), alphas=("4r", "rslora"), rates_fixed=True)

    def world(setting: Setting, fraction: float) -> float:
        of_rank = 0.1 * math.log2(setting.rank) * (-1 if fraction == 1 else 1)
        return 2 + of_rank + (0 if setting.use_rslora or setting.rank == 16 else 1)

    climb = Climb(space, effort=Effort(finalists=2))
    decision, _, _ = run(climb, world, row_noise=0.001, seed_noise=0.0001)
    assert (recommended(decision).rank, recommended(decision).use_rslora) == (64, True)


def test_an_alpha_that_is_a_number_is_that_number_at_every_rank() -> None:
    def world(setting: Setting, fraction: float) -> float:
        return 1.5 - 0.1 * math.log2(setting.rank) * fraction

    _, _, history = run(Climb(replace(RANKS, alphas=("16",))), world)
    assert {m.candidate.rank for m in history if m.fraction == 1} >= {32, 64}
    assert {m.candidate.alpha for m in history} == {16}


@pytest.mark.parametrize(
    ("space", "baseline", "tried"),
    [(SPACE, FAR_BASELINE, True), (SPACE, BASELINE, False), (RANKS, FAR_BASELINE, False)],
    ids=["far from what the model writes", "near", "the user named the modules"],
)
def test_the_output_head_is_tried_if_the_untuned_loss_is_high(
    space: LeverSpace, baseline: Scores, tried: bool
) -> None:
    assert FAR_BASELINE.mean > LM_HEAD_LOSS_THRESHOLD > BASELINE.mean
    _, _, history = run(Climb(space), hill(), baseline=baseline)
    assert any("lm_head" in m.candidate.targets for m in history) == tried


# A small budget.


@pytest.mark.parametrize("budget", [2.5, 3.5, 4.0, 5.0])
def test_a_small_budget_goes_to_ranks_and_rates_and_to_the_best_of_them_in_full(
    budget: float,
) -> None:
    """The leaders go on with the seed that they have. Another seed for each costs too much."""
    effort = Effort.within_budget(SPACE, budget)
    assert not effort.can_decide
    decision, stages, history = run(Climb(SPACE, effort=effort), hill(2e-3, (0.05, 0.0, 0.0)))
    assert [stage.phase for stage in stages] == ["race", "semifinal"]
    assert {m.candidate.seed for m in history} == {0}
    assert {(m.candidate.targets, m.candidate.scale) for m in history} == {("all-linear", 2)}
    assert sum(m.spent for m in history) <= budget * FULL_TOKENS
    assert recommended(decision).learning_rate == 2e-3
    assert {v.lever for v in decision.verdicts} == {"learning_rate", "rank", "adapter"}, (
        "nothing is said about the other levers"
    )
    assert {v.outcome for v in decision.verdicts if v.lever != "adapter"} == {"undecided"}
    assert decision.untried == {"targets": ("attention", "mlp"), "alpha": ("r", "4r", "rslora")}
