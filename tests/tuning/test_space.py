"""What a strategy may try, from the recipe and the model, and the strategy itself."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
import torch

from rung.errors import RecipeError, TargetError
from rung.recipe import Recipe, read_recipe
from rung.search.climb import Climb
from rung.search.grid import Grid, Random
from rung.search.tpe import Tpe
from rung.tuning.space import (
    TRAINING_BYTES,
    check_budget,
    check_grid,
    check_ranks,
    distinct_targets,
    fill_in,
    make_space,
    make_strategy,
)
from rung.types import LeverSpace, Setting

SPACE = LeverSpace((2, 4), (1e-3, 4e-3), ("attention", "mlp"), ("2r", "r"))
LAYERS = {
    "attention": ("q", "v"),
    "q+v": ("q", "v"),
    "mlp": ("up", "down"),
    "all-linear": ("q", "v", "up", "down"),
}


def layers(setting: Setting) -> Collection[str]:
    """The layers of a model that has no module `x_proj`."""
    if setting.targets not in LAYERS:
        raise TargetError(f"There is no target module '{setting.targets}'")
    return LAYERS[setting.targets]


def with_targets(*targets: str) -> LeverSpace:
    return LeverSpace((2,), (1e-3,), targets)


# What is filled in.


def test_learning_rates_are_guessed_from_the_width_of_the_model() -> None:
    filled = fill_in(Recipe(), 576, "fp32")
    assert filled.learning_rates == (5e-4, 1e-3, 2e-3, 4e-3)
    wider = fill_in(Recipe(), 4096, "fp32").learning_rates
    assert wider is not None
    assert max(wider) < 2e-3


def test_learning_rates_of_the_user_stay() -> None:
    assert fill_in(Recipe(learning_rates=(3e-4,)), 576, "fp32").learning_rates == (3e-4,)


@pytest.mark.parametrize(("dtype", "name"), [(torch.bfloat16, "bf16"), ("fp32", "fp32")])
def test_the_precision_is_what_is_computed_in(dtype: Any, name: str) -> None:
    assert fill_in(Recipe(precision="auto"), 576, dtype).precision == name


# The levers.


def test_every_value_of_the_recipe_may_be_tried() -> None:
    recipe = Recipe(ranks=(2, 4), learning_rates=(1e-3, 4e-3), dropout=0.1)
    space = make_space(recipe, rates_fixed=True, try_lm_head=True)
    assert (space.ranks, space.learning_rates) == (recipe.ranks, recipe.learning_rates)
    assert (space.targets, space.alphas) == (recipe.targets, recipe.alphas)
    assert (space.dropout, space.rates_fixed, space.try_lm_head) == (0.1, True, True)


def test_a_lever_that_is_not_named_keeps_its_first_value() -> None:
    recipe = fill_in(Recipe(levers=("alpha",)), 576, "fp32")
    space = make_space(recipe, rates_fixed=False)
    assert (space.ranks, space.targets) == ((8,), ("attention",))
    assert space.alphas == recipe.alphas
    # The guess is the second rate of the grid that is laid around it.
    assert (space.learning_rates, space.rates_fixed) == ((1e-3,), True)


def test_the_first_rate_of_the_user_is_kept_where_rates_are_no_lever() -> None:
    recipe = Recipe(levers=("rank",), learning_rates=(3e-4, 1e-3))
    assert make_space(recipe, rates_fixed=True).learning_rates == (3e-4,)


# Sets of target modules.


def test_sets_that_are_the_same_layers_are_tried_once() -> None:
    told: list[str] = []
    space = distinct_targets(with_targets("q+v", "attention", "mlp"), layers, True, told.append)
    assert space.targets == ("q+v", "mlp")
    assert told == [
        "attention means the same layers as q+v in this model, so it is tried once",
        "target modules, 2 sets, tried one after the other: q+v; mlp",
    ]


def test_a_set_that_the_model_lacks_is_left_out_if_the_user_did_not_name_it() -> None:
    told: list[str] = []
    sets = with_targets("attention", "x_proj", "all-linear")
    assert distinct_targets(sets, layers, False, told.append).targets == ("attention", "all-linear")
    assert told == ["x_proj is not tried: this model has no such layers that an adapter fits on"]


@pytest.mark.parametrize(
    ("targets", "named"), [(("attention", "x_proj", "mlp"), True), (("attention", "x_proj"), False)]
)
def test_a_set_that_was_named_or_is_the_last_must_be_there(
    targets: tuple[str, ...], named: bool
) -> None:
    with pytest.raises(TargetError, match="no target module 'x_proj'"):
        distinct_targets(with_targets(*targets), layers, named, print)


# Limits.


def test_the_largest_adapter_has_to_fit_into_the_memory() -> None:
    def parameters(setting: Setting) -> int:
        return 1000 * setting.rank * len(layers(setting))

    needed = TRAINING_BYTES * 1000 * 4 * 2
    check_ranks(SPACE, parameters, needed)
    with pytest.raises(RecipeError, match="--ranks: an adapter of rank 4 on attention takes"):
        check_ranks(SPACE, parameters, needed - 1)


def test_a_budget_has_to_be_enough_for_one_candidate() -> None:
    check_budget(100.0, 100)
    says = "The budget is 99 training tokens, and one candidate takes 100; give a larger --budget"
    with pytest.raises(RecipeError, match=says):
        check_budget(99.0, 100)


def test_a_grid_has_to_fit_into_the_budget() -> None:
    check_grid(SPACE, None)
    check_grid(SPACE, 16.0)
    with pytest.raises(RecipeError, match=r"The grid has 16 candidates, and the budget is 15.0"):
        check_grid(SPACE, 15.0)


# The strategy.


def strategy_of(recipe: Recipe, budget: float | None, space: LeverSpace = SPACE) -> Any:
    told: list[str] = []
    return make_strategy(recipe, space, budget, 0.25, told.append), told


@pytest.mark.parametrize(
    ("name", "kind"), [("climb", Climb), ("grid", Grid), ("random", Random), ("tpe", Tpe)]
)
def test_the_recipe_names_the_strategy(name: str, kind: type) -> None:
    strategy, told = strategy_of(read_recipe(None, strategy=name), None)
    assert isinstance(strategy, kind)
    assert told == []


@pytest.mark.parametrize(("rates_fixed", "count"), [(True, 16.0), (False, 1e9)])
def test_tpe_proposes_no_more_than_there_are_settings_of_rates_that_the_user_gave(
    rates_fixed: bool, count: float
) -> None:
    space = LeverSpace(
        SPACE.ranks, SPACE.learning_rates, SPACE.targets, SPACE.alphas, 0.0, rates_fixed
    )
    strategy, _ = strategy_of(read_recipe(None, strategy="tpe"), 1e9, space)
    assert strategy.budget == count


def test_a_budget_that_is_too_small_is_told() -> None:
    _, told = strategy_of(Recipe(), 1.0)
    assert "this budget is too small for a verdict: the answer will be a guess, undecided" in told
    (short,) = [text for text in told if text.startswith("the budget is 1.0 full trainings")]
    assert "and a climb takes at least" in short


def test_settings_by_two_names_are_told() -> None:
    space = LeverSpace((8,), (1e-3,), ("attention",), ("2r", "16"))
    _, told = strategy_of(read_recipe(None, strategy="grid"), None, space)
    assert told == [
        "1 settings have two names, such as alpha 2r and 16 at rank 8; each setting is trained once"
    ]
