"""The protocol between judgement and execution, and the course: a strategy written down as it happens.

A strategy is a pure function from all measurements so far to a decision. The plainest way to write one is a *course*: a
generator that asks for measurements with `yield`, goes on with what comes back, and returns what it recommends.
`follow` plays a course from its start with the measurements that are there, up to the first that is not.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rung.levers import Candidate, Measurement, Scores, Verdict
from rung.search.stats import Variance


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
    full budgets of one candidate. `noise` is the variance of one run's loss that is owed to chance in its training,
    where that has been measured.
    """

    verdicts: tuple[Verdict, ...]
    left: tuple[tuple[Candidate, str], ...] = ()
    heat: Heat | None = None
    recommended: Candidate | None = None
    ahead: float = 0.0
    noise: Variance | None = None


class Strategy(Protocol):
    """Proposes candidates and judges measurements.

    A strategy is a pure function. It has no state, no clock and no randomness of its own: the same measurements give
    the same decision, in whatever order they come. So a study is continued by asking again with what the ledger holds,
    and any decision can be looked into long after it was made.

    Promises: a heat names no candidate twice and none that has been measured at its `until` already or has diverged;
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
    noise: Variance | None = None


Answer = Mapping[Candidate, Measurement]
"""A measurement of each candidate that was asked for: at `until`, or where it diverged."""

Course = Generator[Ask, Answer, Candidate]


def follow(course: Callable[[Notes], Course], history: Sequence[Measurement]) -> Decision:
    """What a course has come to, given these measurements."""
    known = {(m.candidate, m.fraction): m for m in history}
    diverged = {m.candidate: m for m in history if not m.scores}
    notes = Notes()
    running = course(notes)
    try:
        ask = next(running)
        while True:
            missing = tuple(c for c in ask.candidates if (c, ask.until) not in known and c not in diverged)
            if missing:
                heat = Heat(ask.phase, missing, ask.until)
                return Decision(tuple(notes.verdicts), tuple(notes.left.items()), heat, None, ask.ahead, notes.noise)
            answer = {c: known.get((c, ask.until)) or diverged[c] for c in ask.candidates}
            notes.left.update({c: "it diverged" for c in ask.candidates if c in diverged})
            ask = running.send(answer)
    except StopIteration as end:
        return Decision(tuple(notes.verdicts), tuple(notes.left.items()), None, end.value, 0.0, notes.noise)
