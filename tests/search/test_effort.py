"""How thorough a climb is, when it judges its race, and which learning rates it starts with."""

from __future__ import annotations

import pytest
from tests.search.worlds import FULL_TOKENS, SPACE, hill, run

from rung.search.climb import Climb
from rung.search.effort import Effort, choose_race_fraction, rate_grid
from rung.types import LeverSpace


def test_a_larger_budget_gives_a_more_thorough_climb() -> None:
    thorough, cheapest = Effort.within_budget(SPACE, 100), Effort.within_budget(SPACE, 0.1)
    assert thorough.can_decide
    assert not cheapest.can_decide
    budgets = (5, 8, 11, 20, 40, 60)
    costs = [Effort.within_budget(SPACE, budget).cost(SPACE) for budget in budgets]
    assert costs == sorted(set(costs)), "each budget buys more than the one before"


@pytest.mark.parametrize("budget", [6, 9, 14, 25, 45])
def test_a_climb_keeps_to_its_budget(budget: float) -> None:
    effort = Effort.within_budget(SPACE, budget)
    assert effort.cost(SPACE) <= budget
    _, _, history = run(Climb(SPACE, effort=effort), hill())
    assert sum(m.spent for m in history) <= budget * FULL_TOKENS


def test_what_the_budget_leaves_over_goes_to_ladder_steps() -> None:
    efforts = {budget: Effort.within_budget(SPACE, budget) for budget in range(3, 200)}
    for budget, effort in efforts.items():
        ladder = effort.max_ladder_steps * len(effort.seeds)
        assert effort.cost(SPACE) + ladder <= budget
    assert {effort.max_ladder_steps for effort in efforts.values()} == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("steps", "fraction"),
    [(10, 1 / 2), (40, 1 / 2), (90, 1 / 4), (150, 1 / 4), (200, 1 / 8), (1000, 1 / 16)],
)
def test_a_race_is_judged_after_enough_steps_to_show_something(steps: int, fraction: float) -> None:
    assert choose_race_fraction(steps) == fraction


def test_a_climb_races_at_the_race_fraction() -> None:
    _, stages, _ = run(Climb(SPACE, effort=Effort(choose_race_fraction(1000))), hill())
    assert stages[0].fraction == 1 / 16


def test_a_shorter_race_tries_more_settings_for_the_same_budget() -> None:
    short, long = (Effort.within_budget(SPACE, 8, fraction) for fraction in (1 / 16, 1 / 2))
    assert sum(short.rounds) > sum(long.rounds)


def test_wider_models_get_lower_learning_rates() -> None:
    assert rate_grid(576) == (5e-4, 1e-3, 2e-3, 4e-3)
    assert max(rate_grid(8192)) < 1e-3
    assert rate_grid(4096)[2] == pytest.approx(4e-4)


def test_the_cost_counts_race_semifinal_and_confirmation_in_full_budgets() -> None:
    # 17 settings and two extensions of four race to a quarter, four train on from before their
    # cooldown, and three finalists have four seeds each.
    assert Effort().cost(SPACE) == 25 / 4 + 4 * (7 / 8) + 3 * 4
    assert Effort(extra_seeds=2).cost(SPACE) == Effort().cost(SPACE) + 3 * 2
    four_settings = LeverSpace((8, 16), (1e-3, 2e-3), rates_fixed=True)
    assert Effort().cost(four_settings) == 4 / 4 + 4 * (7 / 8) + 3 * 4, "no setting races twice"
    two_settings = LeverSpace((8, 16), (1e-3,), rates_fixed=True)
    assert Effort().cost(two_settings) == 2 * 4, "so few need no race"
