"""The loop of a study: ask the strategy, train its stage, record, until the question is answered.

It is the same for a new study and for one that was interrupted. The strategy is asked with what the
ledger holds, so nothing is measured twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from rung.formats.documents import to_json
from rung.recipe import Recipe
from rung.runner.protocol import Runner
from rung.search.climb import Climb
from rung.search.effort import Effort
from rung.search.power import detectable_gain_of_climb
from rung.search.strategy import Decision, Strategy
from rung.study.folder import StudyFolder
from rung.study.ledger import Ledger
from rung.study.lock import locked
from rung.study.tables import write_json
from rung.tuning.answer import make_result
from rung.tuning.generations import Generations
from rung.tuning.observer import Observer
from rung.tuning.result import StudyResult
from rung.tuning.setup import set_up
from rung.types import Scores


def tune(
    recipe: Recipe,
    folder: StudyFolder,
    observer: Observer,
    clock: Callable[[], float] = time.perf_counter,
) -> StudyResult:
    """Answer the recipe's question in the study folder, or go on with answering it.

    Returns:
        The content of `result.json`.

    Raises:
        InputError: before anything is written.
        TrainingError: no candidate could be trained to the end.
    """
    folder.check()
    with locked(folder):
        started = clock()
        study = set_up(recipe, folder, observer)
        return answer(
            study.strategy,
            study.recipe,
            study.base.source,
            study.runner,
            study.ledger,
            study.generations,
            observer,
            lambda: clock() - started,
        )


def answer(
    strategy: Strategy,
    recipe: Recipe,
    model_source: str,
    runner: Runner,
    ledger: Ledger,
    generations: Generations,
    observer: Observer,
    elapsed: Callable[[], float],
) -> StudyResult:
    """Do what the strategy says until it recommends; then write the result.

    Args:
        elapsed: the seconds since this process started on the study.
    """
    counted = 0.0

    def record_time() -> float:
        nonlocal counted
        more, counted = elapsed() - counted, elapsed()
        return ledger.add_seconds(more)

    baseline = ledger.baseline() or _score_untuned(runner, ledger, observer)
    if isinstance(strategy, Climb) and strategy.effort.can_decide and not generations.judge:
        _tell_detectable_gain(baseline, recipe.margin, strategy.effort, observer)
    told = _Announcer(ledger, observer)
    while True:
        decision = strategy.decide(baseline, generations.as_judged(ledger.history()))
        told.tell(decision)
        if decision.stage is None:
            break
        observer.stage_started(decision.stage, runner.full_tokens)
        measurements = runner.run(decision.stage, observer.step_done)
        assert tuple(m.candidate for m in measurements) == decision.stage.candidates
        for measurement in measurements:
            ledger.record(measurement)
        record_time()
    result = make_result(
        decision, recipe, model_source, runner, ledger, generations, baseline, observer
    )
    result = replace(result, cost=replace(result.cost, wall_seconds=record_time()))
    write_json(ledger.folder.result, to_json(result))
    return result


def _score_untuned(runner: Runner, ledger: Ledger, observer: Observer) -> Scores:
    observer.note("scoring the untuned model")
    scores = runner.baseline()
    ledger.record_baseline(scores)
    observer.note(f"the untuned model's validation loss is {scores.mean:.3f} nats a token")
    return scores


def _tell_detectable_gain(
    baseline: Scores, margin: float, effort: Effort, observer: Observer
) -> None:
    """Before anything is trained, tell which gains these rows and seeds cannot show."""
    power = detectable_gain_of_climb(baseline, margin, effort)
    if power.detectable > margin:
        observer.note(
            f"{power.rows} validation rows and {power.seeds} seeds would show a gain of "
            f"{power.detectable:.1%} of the loss in four of five studies; smaller gains, and so "
            f"the margin of {margin:.1%}, mostly stay undecided"
        )


class _Announcer:
    """Tells the observer what is new in each decision, once."""

    def __init__(self, ledger: Ledger, observer: Observer) -> None:
        self.ledger, self.observer = ledger, observer
        self._told: set[object] = set()

    def tell(self, decision: Decision) -> None:
        for standing in decision.standings:
            if self._is_new(standing):
                self.observer.standing(standing)
        for verdict in decision.verdicts:
            if self._is_new(verdict):
                self.observer.verdict(verdict)
        for candidate, exclusion in decision.excluded.items():
            if self._is_new(candidate):
                self.ledger.record_excluded(candidate)
                self.observer.excluded(candidate, exclusion)

    def _is_new(self, value: object) -> bool:
        if value in self._told:
            return False
        self._told.add(value)
        return True
