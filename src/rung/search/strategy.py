"""The protocol between judgement and execution, and the course: a strategy written down as it happens.

A strategy is a pure function from all measurements so far to a decision. The plainest way to write one is a *course*: a
generator that asks for measurements with `yield`, goes on with what comes back, and returns what it recommends.
`follow` plays a course from its start with the measurements that are there, up to the first that is not.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rung.errors import TrainingError
from rung.levers import Candidate, Measurement, Scores, Verdict


@dataclass(frozen=True, slots=True)
class Heat:
    """One stretch of a race: train these candidates, from wherever each stands, until `until` of the full budget.

    `until` is in (0, 1]. What is measured there is a branch that has cooled down; a later heat goes on from before the
    cooling, so that a candidate which goes on is the same as one that was never judged.
    """

    phase: str
    candidates: tuple[Candidate, ...]
    until: float = 1.0


@dataclass(frozen=True, slots=True)
class Decision:
    """All that the measurements so far allow to say, and what to measure next.

    `heat` is None when the question is answered; `recommended` is set then, and only then. `left` are the candidates
    that are not worth training on, and why. `ahead` estimates the training that will be asked for after `heat`, in
    full budgets of one candidate. `said` are remarks on how the race stands: no claims. `untried` are values of the
    levers that nothing is known of, in words.
    """

    verdicts: tuple[Verdict, ...]
    left: tuple[tuple[Candidate, str], ...] = ()
    heat: Heat | None = None
    recommended: Candidate | None = None
    ahead: float = 0.0
    said: tuple[str, ...] = ()
    untried: tuple[str, ...] = ()


def in_words(fraction: float) -> str:
    """A share of the budget, as a person says it."""
    names = {1 / 16: "a sixteenth", 1 / 8: "an eighth", 1 / 4: "a quarter", 1 / 3: "a third", 1 / 2: "half"}
    return names.get(fraction, f"{fraction:.0%}")


class Strategy(Protocol):
    """Proposes candidates and judges measurements.

    A strategy is a pure function. It has no state, no clock and no randomness of its own: the same measurements give
    the same decision, in whatever order they come. So a study is continued by asking again with what the ledger holds,
    and any decision can be looked into long after it was made.

    Promises: a heat names no candidate twice and none that has been measured at its `until` already, or has left;
    verdicts are never taken back by later measurements; and after finitely many heats `heat` is None.
    """

    def decide(self, baseline: Scores, history: Sequence[Measurement]) -> Decision:
        """Judge what is known. `baseline` is the untuned model's; `history` has every measurement of the study.

        Raises:
            TrainingError: every candidate has diverged.
        """
        ...


@dataclass(frozen=True, slots=True)
class Ask:
    """What a course wants to be measured: the candidates, each once, at `until`. `ahead` as in `Decision`."""

    phase: str
    candidates: tuple[Candidate, ...]
    until: float = 1.0
    ahead: float = 0.0


@dataclass(slots=True)
class Notes:
    """What a course writes down on its way, in order."""

    verdicts: list[Verdict] = field(default_factory=list)
    left: dict[Candidate, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    untried: list[str] = field(default_factory=list)


Answer = Mapping[Candidate, Measurement]
"""A measurement of each candidate that was asked for: at `until`, or where it diverged."""

Course = Generator[Ask, Answer, Candidate]


def follow(course: Callable[[Notes], Course], history: Sequence[Measurement]) -> Decision:
    """What a course has come to, given these measurements."""
    known = {(m.candidate, m.fraction): m for m in history}
    diverged = {m.candidate: m for m in history if not m.scores}
    notes = Notes()
    running = course(notes)

    def decision(heat: Heat | None, recommended: Candidate | None, ahead: float = 0.0) -> Decision:
        left, said, untried = tuple(notes.left.items()), tuple(notes.said), tuple(notes.untried)
        return Decision(tuple(notes.verdicts), left, heat, recommended, ahead, said, untried)

    try:
        ask = next(running)
        while True:
            missing = tuple(c for c in ask.candidates if (c, ask.until) not in known and c not in diverged)
            if missing:
                return decision(Heat(ask.phase, missing, ask.until), None, ask.ahead)
            answer = {c: known.get((c, ask.until)) or diverged[c] for c in ask.candidates}
            notes.left.update({c: "it diverged" for c in ask.candidates if c in diverged})
            ask = running.send(answer)
    except StopIteration as end:
        return decision(None, end.value)


def best(measurements: Iterable[Measurement]) -> Measurement:
    """The measurement with the lowest loss; among equals the one that is cheaper, so that no order matters.

    Raises:
        TrainingError: all of them have diverged.
    """
    finished = [m for m in measurements if m.scores]
    if not finished:
        raise TrainingError("Every candidate has diverged; give lower learning rates with --learning-rates.")
    return min(finished, key=_cost_after_loss)


def _cost_after_loss(measurement: Measurement) -> tuple[float, int, float, float, int]:
    candidate = measurement.candidate
    return measurement.loss, measurement.parameters, candidate.alpha, candidate.learning_rate, candidate.seed
