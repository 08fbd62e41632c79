"""Everything before the first training step of a study: read, check, load, prepare.

Nothing is written before every check has passed, and the manifest is written last: it says that
the study has started.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung.atomic import write_text
from rung.data.audit import Finding, audit, suggests_lm_head
from rung.data.prepare import Data, prepare
from rung.engine.preflight import preflight
from rung.errors import DataError
from rung.formats.documents import to_json
from rung.metrics.evaluate import judge_metric
from rung.metrics.metric import Metric
from rung.model.load import Base, check_files, end_tokens, load_base, load_tokenizer
from rung.model.targets import stacked_experts, star_numbers
from rung.recipe import Recipe
from rung.runner.local import LocalRunner
from rung.search.effort import choose_race_fraction
from rung.search.strategy import Strategy
from rung.study.folder import StudyFolder
from rung.study.ledger import Ledger
from rung.study.tables import write_json
from rung.tuning.generations import Generations, make_evaluator, tell_cut_generations
from rung.tuning.manifest import make_manifest
from rung.tuning.observer import Observer
from rung.tuning.same_study import check_same_study
from rung.tuning.space import (
    check_budget,
    check_grid,
    check_ranks,
    distinct_targets,
    fill_in,
    make_space,
    make_strategy,
)
from rung.types import LeverSpace


@dataclass(frozen=True)
class PreparedStudy:
    """A study that is ready to be trained."""

    recipe: Recipe
    base: Base
    runner: LocalRunner
    ledger: Ledger
    generations: Generations
    strategy: Strategy


def set_up(recipe: Recipe, folder: StudyFolder, observer: Observer) -> PreparedStudy:
    """Prepare a new study, or one that was interrupted.

    Raises:
        InputError: before anything is written.
    """
    check_files(recipe.model)
    tokenizer = load_tokenizer(recipe.model)
    data = prepare(recipe, tokenizer, observer.note, end_tokens(recipe.model, tokenizer))
    findings = _audit(data, tokenizer, recipe, observer)
    evaluator = make_evaluator(data, recipe)
    judge = judge_metric(recipe.judge, evaluator)
    observer.note(f"loading {recipe.model}")
    base = load_base(recipe.model, recipe.quantization, recipe.precision)
    user_recipe = recipe
    recipe = fill_in(recipe, base.model.config.get_text_config().hidden_size, base.dtype)
    check_same_study(recipe, folder, data, base)
    runner = LocalRunner(base, data, recipe, folder)
    space = _space(user_recipe, recipe, findings, runner, observer)
    _check_budget_of_tokens(recipe, space, runner)
    ledger = _start(recipe, folder, data, base, runner, space, observer)
    observer.note(_describe(recipe, base, runner))
    _tell_about_model(data, base, runner, observer)
    generations = Generations(runner, ledger, evaluator, judge, observer.note)
    strategy = _strategy(recipe, space, runner, ledger, generations, judge, observer)
    return PreparedStudy(recipe, base, runner, ledger, generations, strategy)


def _audit(data: Data, tokenizer: Any, recipe: Recipe, observer: Observer) -> list[Finding]:
    """All findings. Those that change or spoil a study are told.

    Raises:
        DataError: the same row stands in two splits, and the recipe does not allow that.
    """
    findings = audit(data, tokenizer, recipe.numbers)
    for finding in findings:
        if finding.severity == "error" and not recipe.allow_leakage:
            raise DataError(
                f"{finding.message.rstrip('.')}; take these rows out, or go on with "
                "--allow-leakage."
            )
        if finding.severity != "note" or suggests_lm_head([finding]):
            observer.note(finding.message)
    return findings


def _space(
    user_recipe: Recipe,
    recipe: Recipe,
    findings: list[Finding],
    runner: LocalRunner,
    observer: Observer,
) -> LeverSpace:
    """What may be tried; `user_recipe` is the recipe before anything was filled in."""
    frozen = runner.trainer.frozen
    rates_fixed = user_recipe.learning_rates is not None
    space = make_space(recipe, rates_fixed, try_lm_head=suggests_lm_head(findings))
    named = "targets" in user_recipe.model_fields_set
    space = distinct_targets(space, frozen.targets, named, observer.note)
    check_ranks(space, frozen.parameters, runner.memory.limit)
    return space


def _check_budget_of_tokens(recipe: Recipe, space: LeverSpace, runner: LocalRunner) -> None:
    """A budget in tokens is checked before anything is written; one in time needs a measurement."""
    if recipe.budget and recipe.budget.unit == "tokens":
        check_budget(recipe.budget.amount, runner.full_tokens)
        if recipe.strategy == "grid":
            check_grid(space, recipe.budget.amount / runner.full_tokens)


def _start(
    recipe: Recipe,
    folder: StudyFolder,
    data: Data,
    base: Base,
    runner: LocalRunner,
    space: LeverSpace,
    observer: Observer,
) -> Ledger:
    """Open the ledger; of a new study also check the adapters, and write recipe and manifest."""
    is_new = not folder.manifest.exists()
    if is_new:
        _check_adapters(runner, space, recipe, observer)
    ledger = Ledger(folder)
    ledger.check()
    if is_new:
        write_text(folder.recipe, recipe.as_yaml())
        write_json(folder.manifest, to_json(make_manifest(recipe, base, data)))
    return ledger


def _check_adapters(
    runner: LocalRunner, space: LeverSpace, recipe: Recipe, observer: Observer
) -> None:
    """Train an adapter of each set of target modules for a step, and let PEFT read it back.

    Raises:
        ModelError, TargetError: see `rung.engine.preflight`.
    """
    observer.note("checking that PEFT reads an adapter back as it was trained")
    sets = list(space.targets)
    if recipe.strategy == "climb" and space.try_lm_head and len(sets) > 1:
        sets.append(f"{sets[0]}+lm_head")  # the race adds this set by itself
    rank, rate = space.ranks[0], space.learning_rates[0]
    settings = [space.setting(rank, rate, targets) for targets in sets]
    if idle := preflight(runner.trainer, settings, runner.validation, recipe.seed):
        observer.note(
            f"{', '.join(star_numbers(idle))}: an adapter on these layers learns nothing from "
            "text, and its parameters count all the same"
        )


def _describe(recipe: Recipe, base: Base, runner: LocalRunner) -> str:
    megabytes = base.footprint_bytes / 1e6
    return (
        f"{Path(recipe.model).name} in {recipe.quantization} ({megabytes:,.0f} MB), computing in "
        f"{recipe.precision} on {base.device.type}; {recipe.data}: {len(runner.train):,} training "
        f"and {len(runner.validation):,} validation rows, {runner.full_tokens:,} tokens a candidate"
    )


def _tell_about_model(data: Data, base: Base, runner: LocalRunner, observer: Observer) -> None:
    """Tell what a user of this model should know before it is trained."""
    tell_cut_generations(data, runner.trainer.positions, observer.note)
    for text in base.notes:
        observer.note(text)
    frozen = runner.trainer.frozen
    if experts := stacked_experts(frozen.model):
        observer.note(
            f"{', '.join(experts)}: these experts are stacked parameters, so no adapter goes on "
            "them"
        )
    for why in dict.fromkeys(frozen.unsupported.values()):
        names = star_numbers(name for name, own in frozen.unsupported.items() if own == why)
        observer.note(f"{', '.join(names)}: {why}, so no adapter goes on them")


def _strategy(
    recipe: Recipe,
    space: LeverSpace,
    runner: LocalRunner,
    ledger: Ledger,
    generations: Generations,
    judge: Metric | None,
    observer: Observer,
) -> Strategy:
    budget = _budget(recipe, runner, ledger, observer)
    unit = (judge.name, generations.judge_scores(None)) if judge else None
    race_fraction = choose_race_fraction(runner.steps)
    return make_strategy(recipe, space, budget, race_fraction, observer.note, unit)


def _budget(
    recipe: Recipe, runner: LocalRunner, ledger: Ledger, observer: Observer
) -> float | None:
    """The recipe's budget in full budgets of one candidate; None where it has none.

    A time becomes tokens by a speed that is measured once for the study.
    """
    if recipe.budget is None:
        return None
    tokens = recipe.budget.amount
    if recipe.budget.unit == "seconds":
        if (speed := ledger.tokens_per_second()) is None:
            ledger.record_tokens_per_second(speed := runner.tokens_per_second())
            observer.note(
                f"a climb trains {speed:,.0f} tokens a second here, with the time to score them"
            )
        tokens *= speed
    check_budget(tokens, runner.full_tokens)
    trainings = tokens / runner.full_tokens
    amount, unit = recipe.budget
    observer.note(f"a budget of {amount:,.0f} {unit} is {trainings:,.1f} full trainings")
    return trainings
