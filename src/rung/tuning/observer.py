"""The interface between a study and whoever watches it."""

from __future__ import annotations

from typing import Protocol

from rung.runner.protocol import StepProgress
from rung.search.strategy import Exclusion, LeverStanding, Stage
from rung.types import Candidate, Verdict


class Observer(Protocol):
    """It is told what happens, in order. It never changes what happens."""

    def note(self, text: str) -> None:
        """Something has started or was noticed."""

    def stage_started(self, stage: Stage, full_tokens: int) -> None:
        """A stage starts; `full_tokens` are the training tokens of a full budget."""

    def step_done(self, progress: StepProgress) -> None:
        """A training step of the stage is done."""

    def excluded(self, candidate: Candidate, exclusion: Exclusion) -> None:
        """A candidate is not trained on."""

    def standing(self, standing: LeverStanding) -> None:
        """The race has shown how the values of a lever stand."""

    def verdict(self, verdict: Verdict) -> None:
        """A comparison was judged."""
