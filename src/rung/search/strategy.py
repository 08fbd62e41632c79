"""The protocol between judgement and execution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rung.levers import Candidate, Measurement, Scores, Verdict


@dataclass(frozen=True, slots=True)
class Heat:
    """One stretch of a race: train these candidates, from wherever each stands, until `until` of the full budget.

    `until` is in (0, 1]. The learning rate's decay always spans the full budget, so that a candidate that goes on is
    the same as one that never stopped.
    """

    phase: str
    candidates: tuple[Candidate, ...]
    until: float = 1.0


@dataclass(frozen=True, slots=True)
class Decision:
    """All that the measurements so far allow to say, and what to measure next.

    `heat` is None when the question is answered; `recommended` is set then, and only then. `left` are the candidates
    that are not worth training on, and why. `ahead` estimates the training that will be asked for after `heat`, in
    full budgets of one candidate.
    """

    verdicts: tuple[Verdict, ...]
    left: tuple[tuple[Candidate, str], ...] = ()
    heat: Heat | None = None
    recommended: Candidate | None = None
    ahead: float = 0.0


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
