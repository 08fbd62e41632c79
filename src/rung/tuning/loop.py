"""The loop that ties strategy, runner and ledger together: ask, train, write down, until the question is answered.

It is the same for a new study and for one that was interrupted. The strategy is asked with what the ledger holds, so
whatever has been measured is not measured again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from rung.atomic import write_text
from rung.data.audit import Finding, asks_for_head, audit
from rung.data.batches import ORDER
from rung.data.prepare import Data, prepare
from rung.engine.preflight import preflight
from rung.errors import DataError, RecipeError, StudyError, TargetError
from rung.formats.amounts import parse_budget
from rung.metrics.evaluate import in_words, judged_by
from rung.model.files import fingerprint
from rung.model.load import PRECISIONS, Base, check_files, end_tokens, load_base, load_tokenizer
from rung.model.targets import folded, stacked_experts
from rung.recipe import Recipe, read_kept
from rung.runner.local import LocalRunner
from rung.runner.protocol import Runner, StepProgress
from rung.search.climb import Climb
from rung.search.effort import Effort, choose_race_fraction, rate_grid
from rung.search.grid import Grid, Random
from rung.search.power import detectable_gain_of_climb
from rung.search.strategy import Decision, Strategy
from rung.search.tpe import Tpe
from rung.study.folder import StudyFolder, write_json
from rung.study.ledger import Ledger
from rung.study.lock import locked
from rung.tuning.generations import Generations, make_evaluator, name_of, tell_room
from rung.tuning.result import Tested, document, manifest
from rung.types import TARGET_GROUPS, Candidate, LeverSpace, Scores, Verdict


class Observer(Protocol):
    """Hears what happens, in order; shows it or not."""

    def note(self, text: str) -> None:
        """Something has begun, or has been found."""

    def verdict(self, verdict: Verdict) -> None:
        """A comparison has been judged."""

    def left(self, candidate: Candidate, why: str) -> None:
        """A candidate is not trained on."""

    def stage(self, decision: Decision, full_tokens: int) -> None:
        """The decision's heat is about to run; a candidate's full budget has so many tokens."""

    def tick(self, tick: StepProgress) -> None:
        """A step of the heat is done."""


def tune(
    recipe: Recipe,
    folder: StudyFolder,
    observer: Observer,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Answer the recipe's question in the study folder, or go on with answering it.

    Returns:
        The document that is also in `result.json`.

    Raises:
        InputError: before anything is written.
        TrainingError: no candidate could be trained to the end.
    """
    folder.check()
    with locked(folder):
        return _tune(recipe, folder, observer, clock)


def _tune(
    recipe: Recipe, folder: StudyFolder, observer: Observer, clock: Callable[[], float]
) -> dict[str, Any]:
    started = clock()
    check_files(recipe.model)
    tokenizer = load_tokenizer(recipe.model)
    data = prepare(recipe, tokenizer, observer.note, end_tokens(recipe.model, tokenizer))
    findings = _tell_audit(data, tokenizer, recipe, observer)
    quality = make_evaluator(data, recipe)
    judge = judged_by(recipe.judge, quality)
    observer.note(f"loading {recipe.model}")
    base = load_base(recipe.model, recipe.quantization, recipe.precision)
    asked, recipe = (
        recipe,
        resolve(recipe, base.model.config.get_text_config().hidden_size, base.dtype),
    )
    _check_same(recipe, folder, data, base)
    runner = LocalRunner(base, data, recipe, folder)
    space = make_space(
        recipe, pinned=asked.learning_rates is not None, head=asks_for_head(findings)
    )
    named = "targets" in asked.model_fields_set
    space = distinct_targets(space, runner.trainer.frozen.targets, named, observer)
    check_ranks(space, runner.trainer.frozen.parameters, runner.memory)
    if recipe.budget and (found := parse_budget(recipe.budget))[1] == "tokens":
        # Before anything is written.
        check_budget(found[0], runner.full_tokens)
        if recipe.strategy == "grid":
            check_grid(space, found[0] / runner.full_tokens)
    begun = folder.manifest.exists()
    if not begun:
        _check_before_training(runner, space, recipe, observer)
    ledger = Ledger(folder)
    ledger.check()
    if not begun:
        # The manifest last: it says that the study has begun.
        write_text(folder.recipe, recipe.as_yaml())
        write_json(folder.manifest, manifest(recipe, base, data))
    observer.note(_describe(recipe, base, runner))
    tell_room(data, runner.trainer.positions, observer.note)
    for text in (*base.notes, *_left_out(runner)):
        observer.note(text)
    budget = _budget(recipe, runner, ledger, observer)
    written = Generations(runner, ledger, quality, judge, observer.note)
    judged = (f"of {in_words(judge.name)}", written.judged(None)) if judge else None
    strategy = make_strategy(
        recipe, space, budget, choose_race_fraction(runner.steps), observer, judged
    )
    return answer(
        strategy, runner, ledger, observer, base, recipe, written, lambda: clock() - started
    )


def make_strategy(
    recipe: Recipe,
    space: LeverSpace,
    budget: float | None,
    race_fraction: float,
    observer: Observer,
    judged: tuple[str, Scores | None] | None = None,
) -> Strategy:
    """The recipe's strategy, so that it takes no more than `budget` full budgets of one candidate.

    Without a budget a climb is as thorough as it is by default, and the others take as much as that. A climb judges its
    race at about the share `look` of a candidate's budget, by the loss; the end it judges by what `judged` names,
    where that is something else, with the untuned model's scores in it.

    Raises:
        RecipeError: see `check_grid`.
    """
    plan = Effort(race_fraction) if budget is None else Effort.within(space, budget, race_fraction)
    cost = plan.cost(space)
    if recipe.strategy == "climb":
        if budget is not None and cost > budget:
            observer.note(
                f"the budget is {budget:.1f} full trainings and a climb takes {cost:.1f} at the least"
            )
        if not plan.decides:
            observer.note(
                "this budget is too small for a verdict: the answer will be a guess, marked undecided"
            )
        return Climb(space, recipe.margin, plan, *(judged or ()))
    if recipe.strategy in ("grid", "random") and (
        again := space.combinations - len(space.settings())
    ):
        observer.note(
            f"{again} settings have two names, such as alpha 2r and 16 at rank 8; each setting is trained once"
        )
    if recipe.strategy == "grid":
        check_grid(space, budget)
        return Grid.of(space)
    count = max(1, int(cost if budget is None else budget))
    if space.pinned:
        count = min(count, len(space.settings()))
    if recipe.strategy == "tpe":
        return Tpe(space, float(count), seed=recipe.seed)
    return Random(space, count, recipe.seed)


def answer(
    strategy: Strategy,
    runner: Runner,
    ledger: Ledger,
    observer: Observer,
    base: Base,
    recipe: Recipe,
    written: Generations,
    elapsed: Callable[[], float],
) -> dict[str, Any]:
    """Ask the strategy and do as it says, until it recommends; then open the test split, once."""
    counted = 0.0

    def keep_time() -> float:
        nonlocal counted
        more, counted = elapsed() - counted, elapsed()
        return ledger.add_seconds(more)

    baseline = ledger.baseline() or _first_baseline(runner, ledger, observer)
    if isinstance(strategy, Climb) and strategy.plan.decides and not written.judge:
        _tell_what_would_show(baseline, recipe.margin, strategy.plan, observer)
    heard: set[object] = set()
    while True:
        decision = strategy.decide(baseline, written.judge_by(ledger.history()))
        _tell(decision, ledger, observer, heard)
        if decision.stage is None:
            break
        observer.stage(decision, runner.full_tokens)
        measurements = runner.run(decision.stage, observer.tick)
        assert tuple(m.candidate for m in measurements) == decision.stage.candidates
        for measurement in measurements:
            ledger.record(measurement)
        keep_time()
    assert decision.recommended is not None, "a strategy without a heat recommends"
    best = decision.recommended
    if runner.restore(best):
        observer.note(
            f"the adapter of {best.id} was not as it was trained; it is written again from its checkpoint"
        )
    tests = {}
    for candidate in (None, best):
        if (scores := ledger.test(name_of(candidate))) is None:
            observer.note(
                f"test split: {'the untuned model' if candidate is None else candidate.id}"
            )
            ledger.record_test(name_of(candidate), scores := runner.test(candidate))
        tests[candidate] = (scores, written.of([candidate], "test")[0])
    finished = [m for m in ledger.history() if m.fraction == 1 and m.scores]
    # Who was confirmed is compared with who was: one run that led flatters its setting.
    finished = [m for m in finished if m.candidate.seed] or finished
    losses = {m.candidate: m.loss for m in finished}
    runs = dict(zip(losses, written.of(list(losses), "validation"), strict=True))
    judge = written.judge.name if written.judge else "loss"
    metrics = written.quality.document(runs, best, losses, judge)
    if (rank_use := ledger.rank_use(best.id)) is None:
        lower = [rank for rank in recipe.ranks if rank < best.rank]
        ledger.record_rank_use(best.id, rank_use := runner.rank_use(best, lower))
    tested = Tested(written.quality, tests[None], tests[best], metrics)
    found = document(
        ledger,
        recipe,
        base.source,
        decision,
        baseline,
        tested,
        rank_use,
        keep_time(),
        runner.full_tokens,
    )
    write_json(ledger.folder.result, found)
    return found


def _tell_audit(data: Data, tokenizer: Any, recipe: Recipe, observer: Observer) -> list[Finding]:
    """All findings, when those that spoil a study, or change what it tries, have been told.

    Raises:
        DataError: the same row stands in two splits, and the recipe does not allow that.
    """
    findings = audit(data, tokenizer, recipe.numbers)
    for finding in findings:
        if finding.severity == "error" and not recipe.allow_leakage:
            raise DataError(
                f"{finding.says.rstrip('.')}; take them out, or go on with --allow-leakage."
            )
        if finding.severity != "note" or asks_for_head([finding]):
            observer.note(finding.says)
    return findings


def _first_baseline(runner: Runner, ledger: Ledger, observer: Observer) -> Scores:
    observer.note("scoring the untuned model")
    scores = runner.baseline()
    ledger.record_baseline(scores)
    observer.note(f"the untuned model's validation loss is {scores.mean:.3f} nats a token")
    return scores


def _tell_what_would_show(
    baseline: Scores, margin: float, plan: Effort, observer: Observer
) -> None:
    """Before anything is trained, say what these rows and seeds cannot tell apart."""
    seen = detectable_gain_of_climb(baseline, margin, plan)
    if seen.shown > margin:
        observer.note(
            f"{seen.rows} validation rows and {seen.seeds} seeds would show a gain of {seen.shown:.1%} of the loss in "
            f"four of five studies; smaller ones, the margin of {margin:.1%} too, mostly stay undecided"
        )


def _tell(decision: Decision, ledger: Ledger, observer: Observer, heard: set[object]) -> None:
    """Pass on what is new in a decision."""
    for text in decision.said:
        if text not in heard:
            heard.add(text)
            observer.note(text)
    for verdict in decision.verdicts:
        if verdict not in heard:
            heard.add(verdict)
            observer.verdict(verdict)
    for candidate, why in decision.left:
        if candidate not in heard:
            heard.add(candidate)
            ledger.record_excluded(candidate)
            observer.left(candidate, why)


def make_space(recipe: Recipe, pinned: bool, head: bool = False) -> LeverSpace:
    """What the recipe's levers may be set to; `pinned` says that the rates are the user's own, and `head` that the data
    ask for the output head.
    """
    ranks, rates, targets, alphas = (
        recipe.ranks,
        recipe.learning_rates or (),
        recipe.targets,
        recipe.alphas,
    )
    if "learning_rate" not in recipe.levers:
        # The guess stands second in the grid that is laid around it.
        rates, pinned = (rates[:1] if pinned else rates[1:2]), True
    return LeverSpace(
        ranks if "rank" in recipe.levers else ranks[:1],
        rates,
        targets if "target_modules" in recipe.levers else targets[:1],
        alphas if "alpha" in recipe.levers else alphas[:1],
        recipe.dropout,
        pinned,
        head,
    )


def distinct_targets(
    space: LeverSpace,
    layers: Callable[[Candidate], Collection[str]],
    named: bool,
    observer: Observer,
) -> LeverSpace:
    """The space without sets of target modules that are the same layers as one before them; `layers` are a candidate's.

    Where the user has not `named` the sets, one that the model has no layers for is left out, but for the last one, all
    of them: a mixture whose experts are stacked has no `mlp`.

    Raises:
        TargetError: the model has no such modules.
    """
    found: dict[frozenset[str], str] = {}
    for targets in space.targets:
        try:
            own = frozenset(layers(space.setting(space.ranks[0], space.learning_rates[0], targets)))
        except TargetError:
            if named or targets == space.targets[-1]:
                raise
            observer.note(
                f"{targets} is not tried: this model has no such layers that an adapter could go on"
            )
            continue
        if (same := found.setdefault(own, targets)) != targets:
            observer.note(f"{targets} are the same layers as {same} here, and are tried once")
    if any(targets not in TARGET_GROUPS for targets in found.values()):
        count = "one set" if len(found) == 1 else f"{len(found)} sets, each for itself"
        observer.note(f"target modules, {count}: {'; '.join(found.values())}")
    return replace(space, targets=tuple(found.values()))


def check_ranks(space: LeverSpace, parameters: Callable[[Candidate], int], memory: float) -> None:
    """
    Raises:
        RecipeError: one candidate alone, with its gradient and its moments, takes more than the memory.
    """
    rate = space.learning_rates[0]
    most = max(
        (space.setting(space.ranks[-1], rate, targets) for targets in space.targets), key=parameters
    )
    if (needed := 16 * parameters(most)) > memory:
        raise RecipeError(
            f"--ranks: an adapter of rank {most.rank} on {most.targets} takes {needed / 1e9:,.1f} GB in training, and "
            f"there are {memory / 1e9:,.1f} GB; give lower ranks, or more --memory."
        )


def _budget(recipe: Recipe, runner: Runner, ledger: Ledger, observer: Observer) -> float | None:
    """The recipe's budget in full budgets of one candidate. A time is turned into tokens by a measured speed, once."""
    if recipe.budget is None:
        return None
    amount, unit = parse_budget(recipe.budget)
    if unit == "seconds":
        if (speed := ledger.speed()) is None:
            ledger.record_speed(speed := runner.speed())
            observer.note(
                f"a climb trains {speed:,.0f} tokens a second here, with what it takes to score them"
            )
        amount *= speed
    check_budget(amount, runner.full_tokens)
    observer.note(
        f"a budget of {recipe.budget} is {amount / runner.full_tokens:,.1f} trainings in full"
    )
    return amount / runner.full_tokens


def check_budget(tokens: float, full_tokens: int) -> None:
    """
    Raises:
        RecipeError: the budget is smaller than that of one candidate.
    """
    if tokens < full_tokens:
        raise RecipeError(
            f"The budget is {tokens:,.0f} training tokens, and one candidate takes {full_tokens:,}; give a "
            "larger --budget, or fewer --passes."
        )


def check_grid(space: LeverSpace, budget: float | None) -> None:
    """
    Raises:
        RecipeError: the grid has more candidates than the budget has full trainings: it has no way of choosing.
    """
    count = len(space.settings())
    if budget is not None and count > budget:
        raise RecipeError(
            f"The grid has {count} candidates, and the budget is {budget:.1f} full trainings; give a larger --budget, "
            "fewer values with --ranks and the like, or --strategy random."
        )


def resolve(recipe: Recipe, hidden_size: int, computed_in: Any) -> Recipe:
    """The recipe with what depends on the model and the machine filled in; `computed_in` is a dtype or its name."""
    rates = recipe.learning_rates or rate_grid(hidden_size)
    precision = next(name for name, dtype in PRECISIONS.items() if computed_in in (name, dtype))
    return recipe.model_copy(update={"learning_rates": rates, "precision": precision})


def _check_before_training(
    runner: LocalRunner, space: LeverSpace, recipe: Recipe, observer: Observer
) -> None:
    """
    Raises:
        ModelError, TargetError: see `rung.engine.preflight`.
    """
    observer.note("checking that PEFT reads an adapter back as it is trained")
    sets = list(space.targets)
    if recipe.strategy == "climb" and space.head and len(sets) > 1:
        sets.append(f"{sets[0]}+lm_head")  # which the race adds by itself
    tried = [space.setting(space.ranks[0], space.learning_rates[0], targets) for targets in sets]
    if idle := preflight(runner.trainer, tried, runner.validation, recipe.seed):
        observer.note(
            f"{', '.join(folded(idle))}: an adapter on them learns nothing from text, and counts all the same"
        )


def _left_out(runner: LocalRunner) -> list[str]:
    """What of the model no adapter goes on."""
    frozen = runner.trainer.frozen
    said = []
    if experts := stacked_experts(frozen.model):
        said.append(
            f"{', '.join(experts)}: these experts are stacked parameters, and no adapter goes on them"
        )
    for why in dict.fromkeys(frozen.unsupported.values()):
        names = folded(name for name, own in frozen.unsupported.items() if own == why)
        said.append(f"{', '.join(names)}: {why}, so none goes on them")
    return said


def _check_same(recipe: Recipe, folder: StudyFolder, data: Data, base: Base) -> None:
    """A study folder answers one question.

    Raises:
        StudyError: the folder belongs to another recipe or to other data, or is damaged.
    """
    if not folder.manifest.exists():
        return
    try:
        before, now = read_kept(folder.recipe).model_dump(), recipe.model_dump()
    except RecipeError as error:
        raise folder.damaged(folder.recipe, error) from None
    # How wide the packs are changes no result (the packing law), nor does what is let pass, as the data are the same.
    free = {"pack_width", "memory", "skip_bad_rows", "max_long_rows", "allow_leakage"}
    # What was written is kept, so that other metrics of it can be asked for.
    free |= {"metrics", "numbers"} if recipe.judge == "loss" else set()
    other = [key for key in now if before[key] != now[key] and key not in free]
    if other:
        changes = ", ".join(f"{key} was {before[key]} and is {now[key]}" for key in other)
        raise StudyError(
            f"The study '{folder.path}' asks another question ({changes}); give this one a --study of its own."
        )
    begun = folder.read_manifest()
    if begun.get("order") != ORDER:
        raise StudyError(
            f"The study '{folder.path}' was begun by a version of Rung that trained on the rows in another order; give "
            "this one a --study of its own."
        )
    if begun.get("data_sha256") != data.facts.digest:
        raise StudyError(
            f"The data of the study '{folder.path}' has changed since it began; give it a new --study."
        )
    files, now = begun.get("model_files"), fingerprint(base.source)
    if files is None:
        raise StudyError(
            f"The study '{folder.path}' was begun by a version of Rung that did not write down what its model's files "
            "hold; give this one a --study of its own."
        )
    if not isinstance(files, dict):
        raise folder.damaged(folder.manifest, "its model_files are no names with hashes")
    if other := sorted(
        name for name in files.keys() | now.keys() if files.get(name) != now.get(name)
    ):
        raise StudyError(
            f"The model of the study '{folder.path}' has changed since it began ({', '.join(other)}); give it a new "
            "--study."
        )


def _describe(recipe: Recipe, base: Base, runner: LocalRunner) -> str:
    stored = base.footprint_bytes / 1e6
    return (
        f"{Path(recipe.model).name} in {recipe.quantization} ({stored:,.0f} MB), computing in {recipe.precision} on "
        f"{base.device.type}; {recipe.data}: {len(runner.train):,} training and {len(runner.validation):,} "
        f"validation rows, {runner.full_tokens:,} tokens a candidate"
    )
