"""The training loop of one pack: steps, checkpoints, scores, measurements."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rung.costs.memory_policy import MemoryPolicy
from rung.data.batches import Batch, BatchOrder, collate
from rung.data.example import Example
from rung.engine.pack import Pack
from rung.engine.process_memory import peak_bytes, reset_peak
from rung.engine.trainer import Trainer
from rung.runner.candidate_store import CandidateStore
from rung.runner.packing import PlannedPack
from rung.runner.protocol import OnStep, StepProgress
from rung.search.strategy import Stage
from rung.types import Candidate, Measurement, Scores

SAVING_SHARE = 0.05
"""The most of the time that checkpoints may take which guard against nothing but a kill."""


class CheckpointTimer:
    """Says when a checkpoint is due: every so many seconds, or less often where saving is slow.

    Args:
        clock: seconds from any start.
        seconds: between two checkpoints.
        share: the most of the time that saving may take; infinite for no limit.
    """

    def __init__(
        self, clock: Callable[[], float], seconds: float, share: float = SAVING_SHARE
    ) -> None:
        self.clock, self.seconds, self.share = clock, seconds, share
        self._last = clock()
        self._last_took = 0.0

    def start(self) -> None:
        """A pack begins: nothing of it needs saving yet."""
        self._last = self.clock()

    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return self.clock() - self._last > max(self.seconds, self._last_took / self.share)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Time a checkpoint that is made within."""
        begun = self.clock()
        yield
        self._last = self.clock()
        self._last_took = self._last - begun


class ProgressReporter:
    """Reports the steps of a stage, and counts down the tokens that it still has to train."""

    def __init__(self, tokens: int, on_step: OnStep) -> None:
        self.remaining, self.on_step = tokens, on_step

    def step(self, trained: int, dropped: int, running: int, started: int) -> None:
        """A step is done.

        Args:
            trained: its tokens.
            dropped: tokens that will not be trained, since their candidates diverged in it.
            running, started: see `StepProgress`.
        """
        self.remaining -= trained + dropped
        self.on_step(StepProgress(trained, running, started, self.remaining))


@dataclass(frozen=True, slots=True)
class Divergence:
    """The step after which a candidate was dropped, and why."""

    step: int
    reason: str


class PackTraining:
    """Trains packs through a stage and measures their candidates.

    Args:
        trainer: with no pack in it.
        rows: the training rows.
        steps: which rows are in which step.
        store: where candidates are saved.
        memory: sets up the trainer for a pack.
        timer: says when a checkpoint is due.
        weight_decay, clip_norm: see `Pack`.
    """

    def __init__(
        self,
        trainer: Trainer,
        rows: Sequence[Example],
        steps: BatchOrder,
        store: CandidateStore,
        memory: MemoryPolicy,
        timer: CheckpointTimer,
        weight_decay: float,
        clip_norm: float,
    ) -> None:
        self.trainer, self.rows, self.steps = trainer, rows, steps
        self.store, self.memory, self.timer = store, memory, timer
        self.weight_decay, self.clip_norm = weight_decay, clip_norm
        self.device = trainer.base.device

    def tokens(self, candidates: Sequence[Candidate], first: int, stop: int) -> int:
        """The training tokens of these candidates in the steps `first` to `stop`."""
        return sum(sum(self.steps.tokens(c.seed)[first:stop]) for c in candidates)

    def run(
        self,
        stage: Stage,
        planned: PlannedPack,
        judging: Sequence[Example],
        reporter: ProgressReporter,
    ) -> list[Measurement]:
        """Train a pack to the stage's end, save it, and measure it on the `judging` rows."""
        begun = self.timer.clock()
        self.timer.start()
        reset_peak(self.device)
        candidates, first = planned.candidates, planned.first_step
        schedule = self.store.schedules.of(stage)
        self.memory.prepare(candidates)
        stage_start = self.store.stage_start(stage, candidates[0], first)
        with Pack(
            self.trainer.frozen,
            candidates,
            [self.store.load(stage, candidate, first) for candidate in candidates],
            self.weight_decay,
            self.clip_norm,
            self.steps.seed,
        ) as pack:
            diverged = self._train(stage, pack, first, stage_start, reporter)
            scores = self.trainer.score(judging, pack) if len(pack) else []
            scored = dict(zip(pack.candidates, scores, strict=True))
            for candidate, own in scored.items():
                if not math.isfinite(own.mean):
                    reason = "the validation loss is not a number"
                    diverged[candidate] = Divergence(schedule.stop, reason)
            self.store.save(stage, pack, stage_start)
            for index, candidate in enumerate(pack.candidates):
                if candidate not in diverged:
                    self.store.save_adapter(candidate, pack.state(index))
        peak = peak_bytes(self.device)
        seconds = (self.timer.clock() - begun) / len(candidates)
        return [
            self._measurement(
                candidate,
                stage.fraction,
                stage_start,
                diverged.get(candidate) or schedule.stop,
                scored.get(candidate),
                peak,
                seconds,
            )
            for candidate in candidates
        ]

    def _train(
        self,
        stage: Stage,
        pack: Pack,
        first: int,
        stage_start: int,
        reporter: ProgressReporter,
    ) -> dict[Candidate, Divergence]:
        """Train to the stage's end, or until all have diverged. Those that diverge are dropped."""
        schedule, started = self.store.schedules.of(stage), len(pack)
        diverged: dict[Candidate, Divergence] = {}
        for step in range(first, schedule.stop):
            if not len(pack):
                break
            batches = self._batches(pack, step)
            self.trainer.step(pack, batches, schedule.rate_factor(step))
            lost = {pack.candidates[i]: reason for i, reason in pack.diverged.items()}
            diverged |= {c: Divergence(step + 1, reason) for c, reason in lost.items()}
            if pack.diverged:
                pack.drop(list(pack.diverged))
            trained = sum(batch.tokens for batch in batches)
            dropped = self.tokens(list(lost), step + 1, schedule.stop)
            reporter.step(trained, dropped, len(pack), started)
            if step + 1 == schedule.cooldown_start or self.timer.due():
                with self.timer.saving():
                    self.store.save(stage, pack, stage_start)
        return diverged

    def _batches(self, pack: Pack, step: int) -> list[Batch]:
        """The batch of each candidate of the pack in a step; one object for those of one seed."""
        seeds = {candidate.seed for candidate in pack.candidates}
        rows = {seed: [self.rows[row] for row in self.steps.rows(seed)[step]] for seed in seeds}
        batches = {seed: collate(rows[seed], self.device) for seed in seeds}
        return [batches[candidate.seed] for candidate in pack.candidates]

    def _measurement(
        self,
        candidate: Candidate,
        fraction: float,
        stage_start: int,
        end: Divergence | int,
        scores: Scores | None,
        peak: int,
        seconds: float,
    ) -> Measurement:
        """`end` is the last step, or how the candidate diverged before it."""
        steps, reason = (end.step, end.reason) if isinstance(end, Divergence) else (end, "")
        parameters = self.trainer.frozen.parameters(candidate.setting)
        return Measurement(
            candidate=candidate,
            fraction=fraction,
            steps=steps,
            tokens=self.tokens([candidate], 0, steps),
            spent=self.tokens([candidate], stage_start, steps),
            status="diverged" if reason else "trained",
            scores=None if reason else scores,
            parameters=parameters,
            adapter_bytes=4 * parameters,
            peak_memory_bytes=peak,
            seconds=seconds,
            reason=reason,
        )
