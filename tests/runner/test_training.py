"""The training loop of a pack: its checkpoints, its progress, and candidates that diverge."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from tests.runner.runners import WILD, A, ignore, make_runner

from rung.model.load import Base
from rung.runner.local import LocalRunner
from rung.runner.protocol import StepProgress
from rung.runner.training import CheckpointTimer, ProgressReporter
from rung.search.strategy import Stage


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_checkpoint_is_due_after_so_many_seconds_of_a_pack() -> None:
    clock = Clock()
    timer = CheckpointTimer(clock, 60)
    clock.now = 1000
    timer.start()
    assert not timer.due()
    clock.now += 60
    assert not timer.due()
    clock.now += 1
    assert timer.due()


def test_a_slow_checkpoint_is_made_less_often() -> None:
    clock = Clock()
    timer = CheckpointTimer(clock, 60, share=0.05)
    with timer.saving():
        clock.now += 15
    clock.now += 300
    assert not timer.due(), "15 seconds are a twentieth of 300"
    clock.now += 1
    assert timer.due()


def test_checkpoints_may_take_all_the_time_if_that_is_asked_for() -> None:
    clock = Clock()
    timer = CheckpointTimer(clock, 0, share=math.inf)
    with timer.saving():
        clock.now += 15
    clock.now += 1e-6
    assert timer.due()


def test_checkpoints_take_a_twentieth_of_the_time_at_most(
    tiny_base: Base, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, saved = Clock(), []
    runner = make_runner(tiny_base, rows_file, tmp_path, clock=clock)
    step, save = runner.trainer.step, runner.store.save

    def slow_step(*args: Any) -> Any:
        clock.now += 100
        return step(*args)

    def slow_save(*args: Any) -> None:
        saved.append(clock.now)
        clock.now += 15
        save(*args)

    monkeypatch.setattr(runner.trainer, "step", slow_step)
    monkeypatch.setattr(runner.store, "save", slow_save)
    runner.run(Stage("final", (A,)), ignore)
    # After a minute; then whenever more than twenty times 15 s have passed; at the cooldown start,
    # which is the twelfth step; and at the end.
    assert saved == [100, 515, 930, 1245, 1560]


def test_the_reporter_counts_down_what_is_trained_and_what_will_not_be() -> None:
    reports: list[StepProgress] = []
    reporter = ProgressReporter(100, reports.append)
    reporter.step(trained=30, dropped=0, running=2, started=2)
    reporter.step(trained=30, dropped=25, running=1, started=2)
    assert reports == [StepProgress(30, 2, 2, 70), StepProgress(30, 1, 2, 15)]


def test_a_candidate_that_diverges_is_measured_as_that_and_harms_no_other(
    runner: LocalRunner,
) -> None:
    reports: list[StepProgress] = []
    wild, well = runner.run(Stage("final", (WILD, A)), reports.append)
    assert (wild.status, wild.scores, well.status) == ("diverged", None, "trained")
    assert wild.reason
    assert not well.reason
    assert wild.steps < well.steps
    assert wild.spent < well.spent
    assert well.loss < runner.baseline().mean
    assert reports[0].started == 2
    assert reports[-1].running == 1
    assert reports[-1].remaining_tokens == 0
    remaining = [report.remaining_tokens for report in reports]
    assert remaining == sorted(set(remaining), reverse=True)
    assert not runner.store.folder.adapter(WILD).exists()


def test_a_pack_whose_candidates_have_all_diverged_ends_early(runner: LocalRunner) -> None:
    reports: list[StepProgress] = []
    (wild,) = runner.run(Stage("final", (WILD,)), reports.append)
    assert wild.status == "diverged"
    assert len(reports) < runner.steps
    assert reports[-1].remaining_tokens == 0
