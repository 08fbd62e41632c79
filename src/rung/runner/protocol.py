"""The protocol between the loop and whatever trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rung.search.strategy import Stage
from rung.types import Candidate, Generation, Measurement, RankUse, Scores


@dataclass(frozen=True, slots=True)
class StepProgress:
    """What a runner reports after each training step.

    Attributes:
        tokens: trained in this step, over all candidates.
        running: candidates of the pack that are still trained; the others have diverged.
        started: candidates that the pack began with.
        remaining_tokens: still to be trained in the stage, over all candidates.
    """

    tokens: int
    running: int
    started: int
    remaining_tokens: int


OnStep = Callable[[StepProgress], None]


class Runner(Protocol):
    """Trains and measures. It never judges.

    Promises:

    - A candidate ends as it would have ended alone, whatever shared its pack and however often it
      was paused (the packing law).
    - A candidate that diverges is measured as diverged, and harms no other.
    - A later stage can go on from whatever a stage has measured, in another process too.
    """

    @property
    def full_tokens(self) -> int:
        """The training tokens of one candidate's full budget."""
        ...

    def tokens_per_second(self) -> float:
        """The training tokens that a climb gets done in a second here, scoring included.

        It is measured on a few steps that leave nothing behind.
        """
        ...

    def baseline(self) -> Scores:
        """The untuned model's scores on the validation rows."""
        ...

    def run(self, stage: Stage, on_step: OnStep) -> list[Measurement]:
        """Train the stage's candidates to its end, and measure them.

        Returns:
            A measurement of each candidate, in the stage's order.
        """
        ...

    def test_scores(self, candidate: Candidate | None) -> Scores:
        """The scores on the test rows: a fully trained candidate's, or the untuned model's.

        Raises:
            StudyError: the candidate's last checkpoint is missing or damaged.
        """
        ...

    def repair_adapter(self, candidate: Candidate) -> bool:
        """Write a fully trained candidate's adapter again if it is missing or was altered.

        Returns:
            Whether it had to be written again.

        Raises:
            StudyError: it would have to be, and the last checkpoint is missing or damaged.
        """
        ...

    def generate(
        self, candidates: Sequence[Candidate | None], split: str
    ) -> list[list[Generation]]:
        """What the models generate after the prompts of a split.

        Args:
            candidates: fully trained candidates; None stands for the untuned model.
            split: `validation` or `test`.

        Returns:
            For each candidate a generation for each row; none where the rows have no prompts.

        Raises:
            StudyError: the last checkpoint of a candidate is missing or damaged.
        """
        ...

    def measure_rank_use(self, candidate: Candidate, ranks: Sequence[int]) -> RankUse:
        """How much of its rank a fully trained candidate uses, also when truncated to `ranks`.

        Raises:
            StudyError: the candidate's last checkpoint is missing or damaged.
        """
        ...
