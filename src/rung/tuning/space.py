"""From the recipe to what a strategy may try, and to the strategy itself.

Both `rung tune` and `rung plan` start here, so a plan is of the very search that will run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import torch

from rung.errors import RecipeError, TargetError
from rung.model.load import PRECISIONS
from rung.recipe import Recipe
from rung.search.climb import Climb
from rung.search.effort import Effort, rate_grid
from rung.search.grid import Grid, Random
from rung.search.strategy import Strategy
from rung.search.tpe import Tpe
from rung.search.verdicts import NATS
from rung.types import TARGET_GROUPS, LeverSpace, Scores, Setting

TRAINING_BYTES = 16
"""Bytes of each number of an adapter in training: weight, gradient and AdamW's two moments."""

Tell = Callable[[str], None]


def fill_in(recipe: Recipe, hidden_size: int, dtype: torch.dtype | str) -> Recipe:
    """The recipe with the values that depend on the model and the machine.

    Args:
        hidden_size: of the model; learning rates are guessed from it where the user gives none.
        dtype: what is computed in, or its name in a recipe.
    """
    rates = recipe.learning_rates or rate_grid(hidden_size)
    precision = next(name for name, own in PRECISIONS.items() if dtype in (name, own))
    return recipe.model_copy(update={"learning_rates": rates, "precision": precision})


def make_space(recipe: Recipe, rates_fixed: bool, try_lm_head: bool = False) -> LeverSpace:
    """The values of the recipe's levers.

    Args:
        recipe: with learning rates filled in.
        rates_fixed: the user gave the learning rates, so no others are tried.
        try_lm_head: the data suggest that the output head is tried.
    """
    rates = recipe.learning_rates or ()
    if "learning_rate" not in recipe.levers:
        # The guess is the second rate of the grid that is laid around it.
        rates, rates_fixed = (rates[:1] if rates_fixed else rates[1:2]), True
    return LeverSpace(
        recipe.ranks if "rank" in recipe.levers else recipe.ranks[:1],
        rates,
        recipe.targets if "targets" in recipe.levers else recipe.targets[:1],
        recipe.alphas if "alpha" in recipe.levers else recipe.alphas[:1],
        recipe.dropout,
        rates_fixed,
        try_lm_head,
    )


def distinct_targets(
    space: LeverSpace, layers: Callable[[Setting], Collection[str]], named: bool, tell: Tell
) -> LeverSpace:
    """The space without sets of target modules that are the same layers as an earlier set.

    Args:
        layers: the names of the layers that a setting adapts.
        named: the user gave the sets. Otherwise a set is left out where the model has no such
            layers, but for the last set: a mixture with stacked experts has no `mlp`.
        tell: is told what is left out.

    Raises:
        TargetError: the model has no such modules.
    """
    first_with: dict[frozenset[str], str] = {}
    for targets in space.targets:
        setting = space.setting(space.ranks[0], space.learning_rates[0], targets)
        try:
            own = frozenset(layers(setting))
        except TargetError:
            if named or targets == space.targets[-1]:
                raise
            tell(f"{targets} is not tried: this model has no such layers that an adapter fits on")
            continue
        if (same := first_with.setdefault(own, targets)) != targets:
            tell(f"{targets} means the same layers as {same} in this model, so it is tried once")
    kept = tuple(first_with.values())
    if any(targets not in TARGET_GROUPS for targets in kept):
        count = "one set" if len(kept) == 1 else f"{len(kept)} sets, tried one after the other"
        tell(f"target modules, {count}: {'; '.join(kept)}")
    return replace(space, targets=kept)


def check_ranks(space: LeverSpace, parameters: Callable[[Setting], int], memory: float) -> None:
    """Check that the largest adapter fits into the memory by itself.

    Raises:
        RecipeError: its weights, gradients and moments take more.
    """
    rate, rank = space.learning_rates[0], space.ranks[-1]
    settings = [space.setting(rank, rate, targets) for targets in space.targets]
    largest = max(settings, key=parameters)
    if (needed := TRAINING_BYTES * parameters(largest)) > memory:
        raise RecipeError(
            f"--ranks: an adapter of rank {rank} on {largest.targets} takes {needed / 1e9:,.1f} GB "
            f"in training, and there are {memory / 1e9:,.1f} GB; give lower ranks, or more "
            "--memory."
        )


def check_budget(tokens: float, full_tokens: int) -> None:
    """Check that the budget is enough for one candidate.

    Raises:
        RecipeError: it is not.
    """
    if tokens < full_tokens:
        raise RecipeError(
            f"The budget is {tokens:,.0f} training tokens, and one candidate takes "
            f"{full_tokens:,}; give a larger --budget, or fewer --passes."
        )


def check_grid(space: LeverSpace, budget: float | None) -> None:
    """Check that the budget is enough for every setting of a grid.

    Args:
        budget: in full budgets of one candidate; None for no limit.

    Raises:
        RecipeError: it is not. A grid has no way of choosing among its settings.
    """
    count = len(space.settings())
    if budget is not None and count > budget:
        raise RecipeError(
            f"The grid has {count} candidates, and the budget is {budget:.1f} full trainings; give "
            "a larger --budget, fewer values with --ranks and the like, or --strategy random."
        )


def make_strategy(
    recipe: Recipe,
    space: LeverSpace,
    budget: float | None,
    race_fraction: float,
    tell: Tell,
    judge: tuple[str, Scores | None] | None = None,
) -> Strategy:
    """The recipe's strategy, so that it takes at most the budget.

    Args:
        budget: in full budgets of one candidate. Without one a climb takes its default effort, and
            the other strategies take as much.
        race_fraction: about the share of a full budget at which a climb judges its race.
        judge: the name of the metric that judges finalists and the untuned model's scores in it;
            None for the loss.

    Raises:
        RecipeError: see `check_grid`.
    """
    effort = make_effort(space, budget, race_fraction)
    cost = effort.cost(space)
    if recipe.strategy == "climb":
        if budget is not None and cost > budget:
            tell(
                f"the budget is {budget:.1f} full trainings, and a climb takes at least {cost:.1f}"
            )
        if not effort.can_decide:
            tell("this budget is too small for a verdict: the answer will be a guess, undecided")
        unit, untuned = judge or (NATS, None)
        return Climb(space, recipe.margin, effort, unit, untuned)
    duplicates = space.combinations - len(space.settings())
    if recipe.strategy in ("grid", "random") and duplicates:
        tell(
            f"{duplicates} settings have two names, such as alpha 2r and 16 at rank 8; each "
            "setting is trained once"
        )
    if recipe.strategy == "grid":
        check_grid(space, budget)
        return Grid.of(space)
    count = max(1, int(cost if budget is None else budget))
    if space.rates_fixed:
        count = min(count, len(space.settings()))
    if recipe.strategy == "tpe":
        return Tpe(space, float(count), seed=recipe.seed)
    return Random(space, count, recipe.seed)


def make_effort(space: LeverSpace, budget: float | None, race_fraction: float) -> Effort:
    """How thorough a climb can be with the budget."""
    if budget is None:
        return Effort(race_fraction)
    return Effort.within_budget(space, budget, race_fraction)
