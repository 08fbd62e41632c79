"""Runners and candidates that the tests of this folder share."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rung.data.prepare import prepare
from rung.model.load import Base
from rung.recipe import Recipe
from rung.runner.local import LocalRunner
from rung.runner.protocol import StepProgress
from rung.runner.training import CheckpointTimer
from rung.study.folder import StudyFolder
from rung.types import Candidate, Setting

A = Candidate(Setting(4, 8, "attention", 1e-2))
A_SEED_1 = Candidate(A.setting, seed=1)
B = Candidate(Setting(8, 16, "attention", 3e-3))
WILD = Candidate(Setting(4, 8, "attention", 1e30))
"""It diverges."""


def make_runner(
    base: Base,
    rows: Path,
    folder: Path,
    checkpoint_seconds: float = 60.0,
    clock: Callable[[], float] = time.perf_counter,
    **options: Any,
) -> LocalRunner:
    """A runner on the same rows three times; `options` are the recipe's."""
    recipe = Recipe(data=str(rows), validation=str(rows), test=str(rows), **options)
    timer = CheckpointTimer(clock, checkpoint_seconds)
    data = prepare(recipe, base.tokenizer)
    return LocalRunner(base, data, recipe, StudyFolder(folder), timer)


def ignore(progress: StepProgress) -> None:
    """Nobody listens."""
