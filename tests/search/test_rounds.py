"""What each round of a race tries."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.search.race_helpers import run_race
from tests.search.worlds import FAR_BASELINE, SPACE, hill

from rung.types import Lever, LeverSpace


def test_the_first_round_tries_ranks_and_rates_at_the_usual_modules_and_alpha() -> None:
    _, (first,) = run_race(SPACE, hill(2e-3), (9,))
    assert len(set(first)) == 9
    assert {(s.targets, s.scale) for s in first} == {("all-linear", 2)}
    assert len({s.rank for s in first}) >= 3
    assert len({s.learning_rate for s in first}) >= 3


def test_where_ranks_and_rates_are_few_the_first_round_tries_other_levers_too() -> None:
    space = LeverSpace((16,), (1e-3, 2e-3), ("attention", "mlp"), ("2r", "r", "4r"))
    _, (first,) = run_race(space, hill(), (9,))
    assert [(s.targets, s.scale) for s in first[:2]] == [("attention", 2)] * 2, (
        "without all-linear it begins with the first modules"
    )
    assert len({s.targets for s in first}) == 2
    assert len({s.scale for s in first}) == 3


@pytest.mark.parametrize(
    ("count", "untried"), [(4, {"alpha": ("4r",)}), (6, {"alpha": ("4r",)}), (10, {})]
)
def test_half_of_the_second_round_tries_values_that_no_setting_had(
    count: int, untried: dict[Lever, tuple[str, ...]]
) -> None:
    race, (_, second) = run_race(SPACE, hill(2e-3), (9, count))
    assert len(set(second)) == count
    assert {"attention", "mlp"} <= {s.targets for s in second}
    assert race.untried() == untried, "and the race knows which values are left"


def test_an_untried_value_is_tried_alone() -> None:
    _, (_, second) = run_race(SPACE, hill(2e-3), (9, 8))
    for setting in second[:4]:
        assert (setting.targets != "all-linear") + (setting.scale != 2) == 1


def test_an_alpha_is_tried_if_it_was_written_so_and_not_if_its_scale_was() -> None:
    """At rank 8 an alpha of 16 is 2r; held at 16, the scale falls with the rank."""
    space = replace(SPACE, alphas=("16", "2r"))
    _, (first, second) = run_race(space, hill(2e-3), (9, 8))
    assert {s.alpha for s in first} == {16}
    assert any(s.alpha == 2 * s.rank != 16 for s in second)
    assert all(s.alpha == 16 for s in second[:2]), "new modules come with the first alpha"


@pytest.mark.parametrize("count", [4, 8])
def test_the_output_head_takes_one_setting_of_a_round(count: int) -> None:
    _, (_, second) = run_race(SPACE, hill(2e-3), (9, count), baseline=FAR_BASELINE)
    assert "lm_head" in second[0].targets
    assert {"attention", "mlp"} <= {s.targets for s in second}


def test_the_output_head_is_tried_if_the_space_says_that_the_data_suggest_it() -> None:
    for space, with_head in ((replace(SPACE, try_lm_head=True), 1), (SPACE, 0)):
        _, (first, second) = run_race(space, hill(2e-3), (9, 8))
        assert not any("lm_head" in s.targets for s in first)
        assert sum("lm_head" in s.targets for s in second) == with_head


def test_a_rate_beyond_the_grid_takes_a_quarter_of_a_round_and_other_levers_the_rest() -> None:
    """Every low rate looks promising here. A round of those alone says nothing of other levers."""
    _, (_, second) = run_race(SPACE, hill(1e-4, steepness=0.05), (9, 8))
    assert sum(s.learning_rate < min(SPACE.learning_rates) for s in second) == 2
    assert {s.targets for s in second} == set(SPACE.targets)
