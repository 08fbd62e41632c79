"""The candidates of a study on disk: their checkpoints, and their adapters.

A stage trains each candidate to the cooldown start and saves it there. It cools down a copy, and
the copy is measured and saved apart. A later stage goes on from the cooldown start.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rung.data.batches import BatchOrder
from rung.engine.adapter_state import AdapterState, fresh_state
from rung.engine.checkpoint import (
    adapter_is_saved,
    checkpoint_is_readable,
    load_checkpoint,
    save_adapter,
    save_checkpoint,
    saved_position,
    saved_steps,
)
from rung.engine.pack import Pack
from rung.engine.trainer import Trainer
from rung.errors import StudyError
from rung.runner.packing import SavedProgress, StageSchedules
from rung.search.strategy import Stage
from rung.study.folder import StudyFolder
from rung.types import Candidate


class CandidateStore:
    """Saves and loads candidates.

    Args:
        folder: the study's.
        trainer: it knows the layers of an adapter, and where the base is from.
        steps: the batches of the study.
        schedules: of its stages.
    """

    def __init__(
        self, folder: StudyFolder, trainer: Trainer, steps: BatchOrder, schedules: StageSchedules
    ) -> None:
        self.folder, self.trainer, self.steps, self.schedules = folder, trainer, steps, schedules

    def progress(self, stage: Stage, candidate: Candidate) -> SavedProgress:
        """Where the candidate can go on in this stage."""
        usable = self._usable(stage, candidate)
        if not usable:
            return SavedProgress()
        last = max(usable)
        position = saved_position(usable[last], last)
        interrupted = position["pack"] if _is_of(stage, position) else ()
        return SavedProgress(frozenset(usable), tuple(interrupted))

    def stage_start(self, stage: Stage, candidate: Candidate, step: int) -> int:
        """The step at which this stage began for the candidate, which now goes on from `step`."""
        if not step:
            return 0
        position = saved_position(self._usable(stage, candidate)[step], step)
        return int(position["stage_start"]) if _is_of(stage, position) else step

    def load(self, stage: Stage, candidate: Candidate, step: int) -> AdapterState:
        """The candidate at a step of its `progress`; untrained at step 0."""
        saved = load_checkpoint(self._usable(stage, candidate)[step], step) if step else None
        return saved or fresh_state(self.trainer.frozen, candidate, self.steps.seed)

    def save(self, stage: Stage, pack: Pack, stage_start: int) -> None:
        """Write a checkpoint of every candidate of the pack.

        Args:
            stage_start: the step at which the stage began for them.
        """
        schedule = self.schedules.of(stage)
        position = {
            "stage": [stage.phase, stage.fraction],
            "stage_start": stage_start,
            "pack": [candidate.id for candidate in pack.candidates],
            "schedule": {"steps": self.steps.count, **asdict(schedule)},
            "data": {"seed": self.steps.seed, "batch_size": self.steps.batch_size},
            "randomness": "a function of the study's seed, the candidate's seed and the step",
        }
        for index, candidate in enumerate(pack.candidates):
            state = pack.state(index)
            if pack.steps[index] <= schedule.cooldown_start:
                save_checkpoint(self.folder.checkpoint(candidate), state, position)
                continue
            copy = self.folder.cooldown_copy(candidate, stage.fraction)
            save_checkpoint(copy, state, position)
            # The copies of earlier stages have been measured.
            for other in set(self.folder.cooldown_copies(candidate)) - {copy}:
                shutil.rmtree(other)

    def load_trained(self, candidate: Candidate) -> AdapterState:
        """The candidate at the end of its full budget.

        Raises:
            StudyError: its last checkpoint is missing or damaged.
        """
        path = self.folder.cooldown_copy(candidate, 1.0)
        with self.folder.reading(path):
            if (state := load_checkpoint(path, self.steps.count)) is None:
                raise ValueError("its last checkpoint is missing")
        return state

    def save_adapter(self, candidate: Candidate, state: AdapterState) -> None:
        """Write the adapter in PEFT's format."""
        frozen, source = self.trainer.frozen, self.trainer.base.source
        save_adapter(self.folder.adapter(candidate), candidate.setting, state, frozen, source)

    def repair_adapter(self, candidate: Candidate) -> bool:
        """See `Runner.repair_adapter`."""
        folder = self.folder.adapter(candidate)
        try:
            state = self.load_trained(candidate)
        except StudyError:
            if adapter_is_saved(folder):
                return False
            raise
        if adapter_is_saved(folder, state):
            return False
        self.save_adapter(candidate, state)
        return True

    def _usable(self, stage: Stage, candidate: Candidate) -> dict[int, Path]:
        """The steps that the candidate can go on from in this stage, and the folder of each."""
        schedule = self.schedules.of(stage)
        shared = self.folder.checkpoint(candidate)
        copy = self.folder.cooldown_copy(candidate, stage.fraction)
        # Steps beyond the schedule belong to a training that the ledger does not know.
        steps = {step: shared for step in saved_steps(shared) if step <= schedule.cooldown_start}
        steps |= {
            step: copy
            for step in saved_steps(copy)
            if schedule.cooldown_start < step <= schedule.stop
        }
        # A damaged checkpoint gives way to the one before it, which trains to the same end.
        return {step: path for step, path in steps.items() if checkpoint_is_readable(path, step)}


def _is_of(stage: Stage, position: Mapping[str, Any]) -> bool:
    """Whether a checkpoint was written within this very stage."""
    return bool(position.get("stage") == [stage.phase, stage.fraction])
