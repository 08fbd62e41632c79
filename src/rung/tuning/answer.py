"""The end of a study: the test split, the metrics, how much of its rank is used, the result."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rung.metrics.evaluate import Evaluator
from rung.metrics.report import MetricBounds, MetricGain, MetricsReport
from rung.recipe import Recipe
from rung.runner.protocol import Runner
from rung.search.stats import gain_estimate
from rung.search.strategy import Decision
from rung.study.folder import SCHEMA, candidate_label
from rung.study.ledger import Ledger
from rung.tuning.evidence import (
    Runs,
    furthest,
    lever_standings,
    loss_interval_of,
    rank_ladder,
    seed_noise_of,
    setting_loss,
    setting_results,
)
from rung.tuning.generations import Generations
from rung.tuning.observer import Observer
from rung.tuning.result import (
    Baseline,
    CandidateResult,
    Cost,
    Recommendation,
    SettingStatus,
    StudyResult,
    TrivialAnswer,
)
from rung.types import Candidate, Generation, Measurement, RankUse, Scores


@dataclass(frozen=True, slots=True)
class Tested:
    """The test split's scores and generated texts of one model."""

    scores: Scores
    texts: Sequence[Generation]

    def values(self, evaluator: Evaluator) -> dict[str, float]:
        """The loss and the metrics by name."""
        return {"loss": self.scores.mean, **evaluator.values(self.texts)}


def make_result(
    decision: Decision,
    recipe: Recipe,
    model_source: str,
    runner: Runner,
    ledger: Ledger,
    generations: Generations,
    baseline: Scores,
    observer: Observer,
) -> StudyResult:
    """Use the test split, once, and put the study's evidence together.

    The time of the study is filled in by the caller.
    """
    best = decision.recommended
    assert best is not None, "a strategy that asks for no stage recommends"
    if runner.repair_adapter(best):
        observer.note(
            f"the adapter of {best.id} was not as it was trained; it is written again from its "
            "checkpoint"
        )
    untuned = _test(None, runner, ledger, generations, observer)
    tuned = _test(best, runner, ledger, generations, observer)
    history = ledger.history()
    runs = Runs.of(history)
    noise = runs.noise()
    settings = setting_results(runs, noise)
    standings = lever_standings(decision, settings)
    return StudyResult(
        schema=SCHEMA,
        study=ledger.folder.name,
        model=recipe.model,
        model_source=model_source,
        data=recipe.data,
        recommendation=_recommendation(
            best,
            runs,
            ledger,
            untuned,
            tuned,
            generations.evaluator,
            _rank_use(best, recipe, runner, ledger),
        ),
        baseline=_baseline(baseline, untuned, generations.evaluator),
        verdicts=decision.verdicts,
        standings=standings,
        ladder=rank_ladder(recipe.ranks, best.setting, settings, standings, decision.verdicts),
        metrics=_metrics(history, best, generations),
        noise=seed_noise_of(noise),
        untried=decision.untried,
        settings=settings,
        candidates=tuple(
            _candidate_result(candidate, stages, decision, ledger)
            for candidate, stages in runs.stages.items()
        ),
        cost=Cost(
            wall_seconds=0.0,
            candidate_tokens=sum(m.spent for m in history),
            single_run_tokens=runner.full_tokens,
        ),
    )


def _test(
    who: Candidate | None,
    runner: Runner,
    ledger: Ledger,
    generations: Generations,
    observer: Observer,
) -> Tested:
    label = candidate_label(who)
    if (scores := ledger.test_scores(label)) is None:
        observer.note(f"test split: {label if who else 'the untuned model'}")
        ledger.record_test_scores(label, scores := runner.test_scores(who))
    (texts,) = generations.texts([who], "test")
    return Tested(scores, texts)


def _rank_use(best: Candidate, recipe: Recipe, runner: Runner, ledger: Ledger) -> RankUse:
    if (rank_use := ledger.rank_use(best.id)) is None:
        lower = [rank for rank in recipe.ranks if rank < best.rank]
        ledger.record_rank_use(best.id, rank_use := runner.measure_rank_use(best, lower))
    return rank_use


def _recommendation(
    best: Candidate,
    runs: Runs,
    ledger: Ledger,
    untuned: Tested,
    tuned: Tested,
    evaluator: Evaluator,
    rank_use: RankUse,
) -> Recommendation:
    last = runs.last
    own = [m for candidate, m in last.items() if candidate.setting == best.setting]
    gain = gain_estimate([untuned.scores], [tuned.scores]).interval()
    loss = loss_interval_of([tuned.scores])
    assert loss is not None
    folder = ledger.folder
    return Recommendation(
        candidate=best.id,
        setting=best.setting,
        seed=best.seed,
        target_modules=_target_modules(ledger, best),
        adapter=str(folder.adapter(best).relative_to(folder.path)),
        validation_loss=setting_loss(furthest(own), runs.noise()),
        adapter_validation_loss=last[best].loss,
        test=tuned.values(evaluator),
        test_intervals={
            "loss": MetricBounds(loss.mean, loss.low, loss.high),
            **evaluator.intervals(tuned.texts),
        },
        test_gains={
            "loss": MetricGain(gain.mean, gain.low, gain.high),
            **evaluator.gains(untuned.texts, tuned.texts),
        },
        rank_use=rank_use,
    )


def _baseline(validation: Scores, untuned: Tested, evaluator: Evaluator) -> Baseline:
    trivial = None
    if untuned.texts:
        text = evaluator.completion_stats.trivial_text
        trivial = TrivialAnswer(text, evaluator.trivial_values(untuned.texts))
    return Baseline(
        validation_loss=validation.mean,
        test=untuned.values(evaluator),
        test_rows=len(untuned.scores.losses),
        generated_rows=len(untuned.texts),
        trivial=trivial,
    )


def _metrics(
    history: Sequence[Measurement], best: Candidate, generations: Generations
) -> MetricsReport:
    finished = [m for m in history if m.fraction == 1 and m.scores]
    # Confirmed settings are compared with each other: seed 0 flatters the setting it selected.
    finished = [m for m in finished if m.candidate.seed] or finished
    losses = {m.candidate: m.loss for m in finished}
    texts = generations.texts(list(losses), "validation")
    runs: Mapping[Candidate, Sequence[Generation]] = dict(zip(losses, texts, strict=True))
    judge = generations.judge.name if generations.judge else "loss"
    return generations.evaluator.report(runs, best.setting, losses, judge)


def _candidate_result(
    candidate: Candidate, stages: Sequence[Measurement], decision: Decision, ledger: Ledger
) -> CandidateResult:
    last = max(stages, key=lambda m: m.fraction)
    exclusion = decision.excluded.get(candidate)
    status: SettingStatus = "excluded" if exclusion and last.scores else last.status
    return CandidateResult(
        id=candidate.id,
        setting=candidate.setting,
        seed=candidate.seed,
        target_modules=_target_modules(ledger, candidate),
        status=status,
        exclusion=exclusion,
        reason=last.reason,
        fraction=last.fraction,
        steps=last.steps,
        tokens=last.tokens,
        validation_loss=loss_interval_of([last.scores] if last.scores else []),
        parameters=last.parameters,
        adapter_bytes=last.adapter_bytes,
        peak_memory_bytes=max(m.peak_memory_bytes for m in stages),
        seconds=sum(m.seconds for m in stages),
    )


def _target_modules(ledger: Ledger, candidate: Candidate) -> tuple[str, ...]:
    """The names of modules in the adapter's own configuration; none where it left no adapter."""
    path = ledger.folder.adapter(candidate) / "adapter_config.json"
    if not path.exists():
        return ()
    with ledger.folder.reading(path):
        return tuple(json.loads(path.read_text(encoding="utf-8"))["target_modules"])
