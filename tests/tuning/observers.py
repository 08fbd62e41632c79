"""Observers of a study: one that keeps what it is told, and one that interrupts."""

from __future__ import annotations

from typing import Any

from rung.runner.protocol import StepProgress
from rung.search.strategy import Exclusion, LeverStanding, Stage
from rung.types import Candidate, Verdict


class Recorder:
    """Keeps everything that it is told, in order."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def note(self, text: str) -> None:
        self.events.append(text)

    def stage_started(self, stage: Stage, full_tokens: int) -> None:
        self.events.append(stage)

    def step_done(self, progress: StepProgress) -> None:
        self.events.append(progress)

    def excluded(self, candidate: Candidate, exclusion: Exclusion) -> None:
        self.events.append((candidate, exclusion))

    def standing(self, standing: LeverStanding) -> None:
        self.events.append(standing)

    def verdict(self, verdict: Verdict) -> None:
        self.events.append(verdict)

    @property
    def notes(self) -> list[str]:
        return [event for event in self.events if isinstance(event, str)]

    @property
    def stages(self) -> list[Stage]:
        return [event for event in self.events if isinstance(event, Stage)]

    @property
    def steps(self) -> list[StepProgress]:
        return [event for event in self.events if isinstance(event, StepProgress)]

    @property
    def verdicts(self) -> list[Verdict]:
        return [event for event in self.events if isinstance(event, Verdict)]


class InterruptAfterRace(Recorder):
    """Interrupts the study when the race is over."""

    def stage_started(self, stage: Stage, full_tokens: int) -> None:
        if stage.phase != "race":
            raise KeyboardInterrupt
        super().stage_started(stage, full_tokens)


class InterruptAt(Recorder):
    """Interrupts the study at its n-th training step, as Ctrl-C would."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def step_done(self, progress: StepProgress) -> None:
        super().step_done(progress)
        if len(self.steps) == self.step:
            raise KeyboardInterrupt
