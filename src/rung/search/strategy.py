"""The protocol between judgement and execution, and the script: a strategy written as it happens.

A strategy is a pure function from all measurements so far to a decision. The plainest way to write
one is a *script*: a generator that yields the stage it wants to have measured, goes on with the
measurements, and returns the candidate it recommends. `replay` runs a script from its start with
the measurements that exist, up to the first stage that lacks one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from rung.errors import TrainingError
from rung.types import Candidate, Lever, Measurement, Scores, Setting, Verdict


@dataclass(frozen=True, slots=True)
class Stage:
    """Candidates to train together, each from where it stands, to a share of the full budget.

    The learning rate cools down at the end of a stage, on a copy of each candidate, and that copy
    is measured. A later stage goes on from before the cooldown, so a candidate ends the same
    whether or not it was measured on its way.

    Attributes:
        phase: its name, such as `race`.
        fraction: the share of the full budget to train to, in (0, 1].
        remaining: an estimate of the training after this stage, in full budgets of one candidate.
    """

    phase: str
    candidates: tuple[Candidate, ...]
    fraction: float = 1.0
    remaining: float = 0.0


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Why a candidate is not trained on.

    `diverged`: its loss or its gradient was not a number. `behind`: its `loss` at `fraction` is
    above `best_loss`, the leader's. `stopped_early`: Hyperband stopped it at `fraction`.
    """

    reason: Literal["diverged", "behind", "stopped_early"]
    fraction: float | None = None
    loss: float | None = None
    best_loss: float | None = None


@dataclass(frozen=True, slots=True)
class LeverStanding:
    """How the values of a lever stand after the race, by its surface: no claim.

    `losses` has for each value, the best first, the expected loss at `fraction` of the budget with
    the other levers of the leader, each at the learning rate that suits it.
    """

    lever: Lever
    fraction: float
    losses: tuple[tuple[Setting, float], ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """What the measurements so far allow to say, and what to measure next.

    Attributes:
        stage: what to measure next; None when the question is answered.
        recommended: the answer; set when `stage` is None, and only then.
        excluded: the candidates that are not worth training on.
        standings: how the values of each lever stand after the race.
        untried: for a lever the values that no setting had.
    """

    verdicts: tuple[Verdict, ...]
    excluded: Mapping[Candidate, Exclusion] = field(default_factory=dict)
    stage: Stage | None = None
    recommended: Candidate | None = None
    standings: tuple[LeverStanding, ...] = ()
    untried: Mapping[Lever, tuple[str, ...]] = field(default_factory=dict)


class Strategy(Protocol):
    """Proposes candidates and judges measurements.

    A strategy is a pure function. It has no state, no clock and no randomness of its own: the same
    measurements give the same decision, in whatever order they come. So an interrupted study goes
    on by asking again with what the ledger holds, and any decision can be looked into long after.

    Promises: a stage names no candidate twice, and none that was measured at its fraction already
    or is excluded; later measurements never take a verdict back; and after finitely many stages
    `stage` is None.
    """

    def decide(self, baseline: Scores, history: Sequence[Measurement]) -> Decision:
        """Judge what is known.

        Args:
            baseline: the untuned model's scores on the validation rows.
            history: every measurement of the study.

        Raises:
            TrainingError: every candidate has diverged.
        """
        ...


@dataclass(slots=True)
class Conclusions:
    """What a script concludes on its way, in order."""

    verdicts: list[Verdict] = field(default_factory=list)
    excluded: dict[Candidate, Exclusion] = field(default_factory=dict)
    standings: list[LeverStanding] = field(default_factory=list)
    untried: dict[Lever, tuple[str, ...]] = field(default_factory=dict)


StageResults = Mapping[Candidate, Measurement]
"""A measurement of each candidate of a stage: at the stage's fraction, or where it diverged."""

Script = Generator[Stage, StageResults, Candidate]


def replay(script: Callable[[Conclusions], Script], history: Sequence[Measurement]) -> Decision:
    """Run a script on these measurements, up to the first stage that lacks one."""
    known = {(m.candidate, m.fraction): m for m in history}
    diverged = {m.candidate: m for m in history if not m.scores}
    conclusions = Conclusions()
    running = script(conclusions)

    def decision(stage: Stage | None, recommended: Candidate | None) -> Decision:
        return Decision(
            tuple(conclusions.verdicts),
            dict(conclusions.excluded),
            stage,
            recommended,
            tuple(conclusions.standings),
            dict(conclusions.untried),
        )

    try:
        stage = next(running)
        while True:
            fraction = stage.fraction
            missing = tuple(
                c for c in stage.candidates if (c, fraction) not in known and c not in diverged
            )
            if missing:
                return decision(Stage(stage.phase, missing, fraction, stage.remaining), None)
            answer = {c: known.get((c, fraction)) or diverged[c] for c in stage.candidates}
            conclusions.excluded.update(
                {c: Exclusion("diverged") for c in stage.candidates if c in diverged}
            )
            stage = running.send(answer)
    except StopIteration as end:
        return decision(None, end.value)


def best(measurements: Iterable[Measurement]) -> Measurement:
    """The measurement with the lowest loss; among equals the cheaper one.

    So the order of the measurements does not matter.

    Raises:
        TrainingError: all of them have diverged.
    """
    finished = [m for m in measurements if m.scores]
    if not finished:
        raise TrainingError(
            "Every candidate has diverged; give lower learning rates with --learning-rates."
        )
    return min(finished, key=_loss_then_cost)


def _loss_then_cost(measurement: Measurement) -> tuple[float, int, float, float, int]:
    candidate = measurement.candidate
    return (
        measurement.loss,
        measurement.parameters,
        candidate.alpha,
        candidate.learning_rate,
        candidate.seed,
    )
