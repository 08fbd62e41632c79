"""The protocol between the loop and whatever trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rung.search.strategy import Stage
from rung.types import Candidate, Generation, Measurement, RankUse, Scores


@dataclass(frozen=True, slots=True)
class StepProgress:
    """A sign of life, after each training step.

    `tokens` have been trained on in the step, over all candidates, and `tokens_left` are still to come in the heat.
    `alive` of the `started` candidates of the pack are still in it.
    """

    tokens: int
    alive: int
    started: int
    tokens_left: int


class Runner(Protocol):
    """Trains and measures. It never judges.

    Promises: a candidate ends as it would have ended alone, whatever it shared a pack with and however often it was
    paused (the packing law); one that diverges is measured as diverged and harms no other; what a heat has measured
    can be gone on from, by another process too.
    """

    @property
    def full_tokens(self) -> int:
        """The training tokens of one candidate's full budget."""
        ...

    def speed(self) -> float:
        """The training tokens that a climb gets done in a second here, scoring included; from a few steps that leave
        nothing behind.
        """
        ...

    def baseline(self) -> Scores:
        """The untuned model on the validation rows."""
        ...

    def run(self, stage: Stage, tick: Callable[[StepProgress], None]) -> list[Measurement]:
        """Train the heat's candidates to its end and measure them, in the heat's order."""
        ...

    def test(self, candidate: Candidate | None) -> Scores:
        """The test split's scores: of a candidate trained to its end, or of the untuned model."""
        ...

    def restore(self, candidate: Candidate) -> bool:
        """See to it that the adapter of a candidate trained to its end is there as it was trained. True where it was
        not, and had to be written again.
        """
        ...

    def write(self, who: Sequence[Candidate | None], split: str) -> list[list[Generation]]:
        """What candidates that are trained to their end, or the untuned model, write after the prompts of `validation`
        or `test`: for each of them, a text for each row. Nothing, where there is nothing to write after.
        """
        ...

    def rank_use(self, candidate: Candidate, ranks: Sequence[int]) -> RankUse:
        """How much of its rank a candidate uses that was trained to its end, also when it is cut down to `ranks`."""
        ...
