"""What `rung plan` computes: what a study will take, by running its search without training.

The recipe's strategy is run on an `EstimateRunner`, so the plan has the very stages and packs that
the study will have. `here`, a few real steps tell the time of steps, and the untuned model's losses
tell which gains the validation rows can show. For a named device the steps are traced by
their shapes, and its data sheet tells the time: an estimate, which says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rung.commands.plan_inputs import PlanInputs, read_inputs, widest_setting
from rung.costs.devices import HERE, device
from rung.costs.memory_policy import Fit
from rung.engine.loss import CHUNK
from rung.recipe import Recipe
from rung.runner.estimate import EstimateRunner, PlannedStage
from rung.runner.local import GENERATED_ROWS
from rung.search.effort import choose_race_fraction
from rung.search.power import DetectableGain, detectable_gain_of_climb
from rung.search.strategy import Stage
from rung.tuning.space import (
    check_budget,
    distinct_targets,
    make_effort,
    make_space,
    make_strategy,
)
from rung.types import Candidate, LeverSpace, Measurement, Setting

SCHEMA = 2
PACKED_GENERATION = 4.5 / 8
"""The time to generate for each of eight candidates in a pack, relative to one alone
(docs/log.md, 2026-11-25)."""


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """Where the study would run.

    Attributes:
        name: `here`, or a device's name; `title` is its full name.
        measured: whether real steps were timed there; else all is an estimate.
        memory_bytes: what the process may hold.
        source: of a data sheet.
    """

    name: str
    title: str
    measured: bool
    memory_bytes: int
    source: str | None = None


@dataclass(frozen=True, slots=True)
class PlannedCost:
    """What the study takes in all.

    Attributes:
        seconds: in all; `other_seconds` of these are not training: loading, the untuned model,
            the test split, generating.
        candidate_tokens: trained over all candidates, as many as `full_trainings` full budgets.
        ladder_step_seconds: of each further rank that the ladder takes.
        single_run_seconds: of one candidate in full, trained alone.
    """

    seconds: float
    other_seconds: float
    candidate_tokens: int
    full_trainings: float
    ladder_step_seconds: float
    single_run_seconds: float
    price_per_hour: float | None
    price: float | None


@dataclass(frozen=True, slots=True)
class PlannedMemory:
    """The bytes of the pack that holds the most: `width` candidates of the highest rank.

    Attributes:
        base: the process with the frozen base.
        adapters: weights and gradients.
        optimizer: AdamW's moments.
        logits: of one chunk of tokens.
        total: of all; `limit` is what the process may hold.
    """

    width: int
    rank: int
    base: int
    adapters: int
    optimizer: int
    activations: int
    logits: int
    total: int
    limit: int


@dataclass(frozen=True, slots=True)
class PackFit:
    """Whether a step of a pack fits, on the target modules that take the most."""

    rank: int
    targets: str
    width: int
    peak_bytes: int
    fits: Fit


@dataclass(frozen=True, slots=True)
class PlannedPower:
    """Which gains the validation rows can show. `baseline_loss` is the untuned model's."""

    margin: float
    baseline_loss: float
    gains: DetectableGain


@dataclass(frozen=True, slots=True)
class Plan:
    """What a study will take.

    Attributes:
        steps, candidate_tokens: of a full budget of one candidate.
        power: None where the model was not asked.
    """

    schema: int
    model: str
    data: str
    device: DeviceInfo
    steps: int
    candidate_tokens: int
    stages: tuple[PlannedStage, ...]
    cost: PlannedCost
    memory: PlannedMemory
    fits: tuple[PackFit, ...]
    power: PlannedPower | None
    notes: tuple[str, ...]


def make_plan(recipe: Recipe, where: str, price: float | None, tell: Callable[[str], None]) -> Plan:
    """Plan the study of a recipe.

    Args:
        where: `here`, or a name of `rung.costs.devices`.
        price: of an hour, in any currency.
        tell: is told what takes long.

    Raises:
        InputError: the recipe, the data, the model or the device cannot be used.
    """
    rates_fixed, named = recipe.learning_rates is not None, "targets" in recipe.model_fields_set
    inputs = read_inputs(recipe, where, tell)
    recipe, data = inputs.recipe, inputs.data
    space = make_space(recipe, rates_fixed, inputs.head)
    space = distinct_targets(space, inputs.costs.frozen.targets, named, tell)
    runner = EstimateRunner(inputs.costs, recipe, data.train, data.validation, inputs.limit)
    budget = _budget(recipe, runner)
    race_fraction = choose_race_fraction(runner.steps)
    strategy = make_strategy(recipe, space, budget, race_fraction, tell)
    history: list[Measurement] = []
    # The untuned model's loss may suggest the output head, as the data may.
    baseline = inputs.baseline or runner.baseline()
    while (decision := strategy.decide(baseline, history)).stage is not None:
        history += runner.run(decision.stage, lambda _: None)
    return Plan(
        schema=SCHEMA,
        model=recipe.model,
        data=recipe.data,
        device=_device(where, inputs),
        steps=runner.steps,
        candidate_tokens=runner.full_tokens,
        stages=tuple(runner.stages),
        cost=_cost(runner, inputs, space, decision.recommended, price),
        memory=_memory(inputs, runner),
        fits=_fits(inputs, runner, space),
        power=_power(inputs, space, budget, race_fraction),
        notes=inputs.notes,
    )


def _budget(recipe: Recipe, runner: EstimateRunner) -> float | None:
    """The recipe's budget in full budgets of one candidate."""
    if recipe.budget is None:
        return None
    speed = runner.tokens_per_second() if recipe.budget.unit == "seconds" else 1
    tokens = recipe.budget.amount * speed
    check_budget(tokens, runner.full_tokens)
    return tokens / runner.full_tokens


def _cost(
    runner: EstimateRunner,
    inputs: PlanInputs,
    space: LeverSpace,
    recommended: Candidate | None,
    price: float | None,
) -> PlannedCost:
    other = inputs.loading_seconds + _seconds_without_training(runner, inputs, recommended)
    seconds = other + sum(stage.seconds for stage in runner.stages)
    tokens = sum(stage.tokens for stage in runner.stages)
    last = runner.stages[-1]
    return PlannedCost(
        seconds=round(seconds, 1),
        other_seconds=round(other, 1),
        candidate_tokens=tokens,
        full_trainings=round(tokens / runner.full_tokens, 2),
        ladder_step_seconds=round(last.seconds / last.settings, 1),
        single_run_seconds=round(_single_run_seconds(runner, inputs, space), 1),
        price_per_hour=price,
        price=None if price is None else round(price * seconds / 3600, 2),
    )


def _seconds_without_training(
    runner: EstimateRunner, inputs: PlanInputs, recommended: Candidate | None
) -> float:
    """The untuned model, the test split, generated texts, the adapter truncated to lower ranks."""
    recipe, data = inputs.recipe, inputs.data
    lower = [rank for rank in recipe.ranks if recommended and rank < recommended.rank]
    both = (None, recommended)
    seconds = sum(runner.scoring_seconds(who, data.test) for who in both)
    seconds += (1 + len(lower)) * runner.scoring_seconds(None, data.validation)
    if data.stats.record_format == "text":
        return seconds
    most: Mapping[str, int] = GENERATED_ROWS if recipe.judge == "loss" else {}
    test, validation = data.test[: most.get("test")], data.validation[: most.get("validation")]
    finalists = sum(stage.settings * stage.seeds for stage in runner.stages if stage.fraction == 1)
    seconds += sum(runner.generation_seconds(who, test) for who in both)
    each = runner.generation_seconds(recommended, validation)
    return seconds + finalists * PACKED_GENERATION * each


def _single_run_seconds(runner: EstimateRunner, inputs: PlanInputs, space: LeverSpace) -> float:
    """One candidate in full, trained alone."""
    alone = EstimateRunner(
        inputs.costs, inputs.recipe, runner.train, runner.validation, inputs.limit
    )
    setting = space.setting(space.ranks[0], space.learning_rates[0])
    alone.run(Stage("alone", (Candidate(setting),)), lambda _: None)
    return alone.stages[0].seconds


def _device(where: str, inputs: PlanInputs) -> DeviceInfo:
    measured, memory = inputs.costs.measured, int(inputs.limit)
    if where == HERE:
        return DeviceInfo(where, "this machine", measured, memory)
    sheet = device(where)
    return DeviceInfo(where, sheet.title, measured, memory, sheet.source)


def _pack(rank: int, targets: str, width: int) -> list[Candidate]:
    setting = Setting(rank, 2.0 * rank, targets, 1e-3)
    return [Candidate(setting, seed) for seed in range(width)]


def _memory(inputs: PlanInputs, runner: EstimateRunner) -> PlannedMemory:
    costs, recipe = inputs.costs, inputs.recipe
    targets, rank = widest_setting(recipe, costs.frozen.parameters).targets, recipe.ranks[-1]
    pack = _pack(rank, targets, runner.pack_width(_pack(rank, targets, recipe.pack_width)))
    numbers = sum(costs.frozen.parameters(candidate.setting) for candidate in pack)
    base, adapters = costs.memory.held, numbers * (8 + costs.dtype.itemsize)
    optimizer, total = numbers * 8, runner.peak(pack)
    logits = CHUNK * inputs.vocabulary * (4 + costs.dtype.itemsize)
    return PlannedMemory(
        width=len(pack),
        rank=rank,
        base=base,
        adapters=adapters,
        optimizer=optimizer,
        activations=max(0, total - base - adapters - optimizer - logits),
        logits=logits,
        total=total,
        limit=int(inputs.limit),
    )


def _fits(inputs: PlanInputs, runner: EstimateRunner, space: LeverSpace) -> tuple[PackFit, ...]:
    """Packs by rank and width, on the target modules that take the most."""
    targets = widest_setting(inputs.recipe, inputs.costs.frozen.parameters).targets
    fits = []
    for rank in space.ranks:
        for width in sorted({1, 2, 4, 8, inputs.recipe.pack_width}):
            memory = runner.candidate_memory(_pack(rank, targets, width))
            peak = runner.rules.peak_in_one_pass(memory)
            fits.append(PackFit(rank, targets, width, peak, runner.rules.fit(memory)))
    return tuple(fits)


def _power(
    inputs: PlanInputs, space: LeverSpace, budget: float | None, race_fraction: float
) -> PlannedPower | None:
    if inputs.baseline is None:
        return None
    margin, effort = inputs.recipe.margin, make_effort(space, budget, race_fraction)
    gains = detectable_gain_of_climb(inputs.baseline, margin, effort)
    return PlannedPower(margin, inputs.baseline.mean, gains)
