"""The program that `test_kill` kills: two stages of a study, with a checkpoint at every step.

It reads folders from its input, a line each, and trains a study in each. Most of the time of a
process goes into its imports, its base and its data. So each study is trained in a fork of this
process, which has done that much and nothing else, and the forks can be killed.
"""

from __future__ import annotations

import gc
import math
import os
import sys
import tempfile
import time
from pathlib import Path

import torch

from rung.data.prepare import Data, prepare
from rung.model.load import Base, load_base
from rung.recipe import Recipe
from rung.runner.local import LocalRunner
from rung.runner.protocol import StepProgress
from rung.runner.training import CheckpointTimer
from rung.search.strategy import Stage
from rung.study.folder import StudyFolder
from rung.study.ledger import Ledger
from rung.types import Candidate, Setting

DIVERGES = Candidate(Setting(4, 1e6, "lm_head", 0.9))
CANDIDATES = (
    Candidate(Setting(4, 8, "attention", 1e-2)),
    Candidate(Setting(4, 8, "attention", 3e-3, dropout=0.2)),
    Candidate(Setting(8, 16, "all-linear", 3e-3)),
    DIVERGES,
    Candidate(Setting(2, 4, "mlp", 1e-2), seed=1),
)
STAGES = (
    Stage("race", CANDIDATES, 0.5),
    Stage("final", tuple(candidate for candidate in CANDIDATES if candidate != DIVERGES)),
)


def train(base: Base, data: Data, recipe: Recipe, folder: Path) -> None:
    """Train both stages, or what the ledger lacks of them, and print each step."""
    study = StudyFolder(folder)
    timer = CheckpointTimer(time.perf_counter, seconds=0, share=math.inf)
    runner = LocalRunner(base, data, recipe, study, timer)
    ledger = Ledger(study)
    steps = 0

    def on_step(progress: StepProgress) -> None:
        nonlocal steps
        steps += 1
        print("step", steps, flush=True)

    done = {(m.candidate, m.fraction) for m in ledger.history()}
    for stage in STAGES:
        if any((candidate, stage.fraction) not in done for candidate in stage.candidates):
            for measurement in runner.run(stage, on_step):
                ledger.record(measurement)


def warm_up() -> None:
    """Spare the forks what takes them seconds and has no part in what is tested."""
    with tempfile.TemporaryDirectory() as folder:
        Ledger(StudyFolder(Path(folder) / "study"))  # it imports its database's drivers
    # A kill loses nothing that was written. Only a power cut does, which is what fsync is for.
    os.fsync = lambda fd: None
    # The garbage collector need not look at what is here already. (It runs for each pack.)
    gc.collect()
    gc.freeze()


def main(model: str, rows: str) -> None:
    """Prepare once, and train a study for each line."""
    torch.set_num_threads(1)  # a fork has no other threads
    recipe = Recipe(data=rows, validation=rows, test=rows, pack_width=3, passes=2)
    base = load_base(model, "nf4", "fp32")
    data = prepare(recipe, base.tokenizer)
    warm_up()
    for line in sys.stdin:
        child = os.fork()
        if not child:
            print("pid", os.getpid(), flush=True)
            train(base, data, recipe, Path(line.rstrip("\n")))
            sys.exit()
        print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
