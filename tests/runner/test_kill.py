"""The nothing-lost law: killed at any instant, a heat goes on and ends at the very same bits."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE, STDOUT

import pytest

from rung.study.folder import StudyFolder
from rung.study.ledger import Ledger

PROGRAM = """
import json
import math
import os
import sys
from pathlib import Path
from rung.data.prepare import prepare
from rung.types import Candidate
from rung.model.load import load_base
from rung.recipe import Recipe
from rung.runner import local
from rung.runner.local import LocalRunner
from rung.search.strategy import Heat
from rung.study.folder import StudyFolder
from rung.study.ledger import Ledger

local.SAVING = math.inf  # a checkpoint at every step, however long it takes
candidates = (
    Candidate(4, 8, "attention", 1e-2), Candidate(4, 8, "attention", 3e-3, dropout=0.2),
    Candidate(8, 16, "all-linear", 3e-3), Candidate(4, 1e6, "lm_head", 0.9), Candidate(2, 4, "mlp", 1e-2, seed=1),
)


def train(model, rows, folder):
    recipe = Recipe(data=rows, validation=rows, test=rows, pack_width=3, passes=2)
    base = load_base(model, "nf4", "fp32")
    study = StudyFolder(Path(folder))
    runner = LocalRunner(base, prepare(recipe, base.tokenizer), recipe, study, checkpoint_seconds=0)
    ledger = Ledger(study)
    ticks = 0

    def tick(_):
        nonlocal ticks
        ticks += 1
        print("tick", ticks, flush=True)

    done = {(m.candidate, m.fraction) for m in ledger.history()}
    alive = [c for c in candidates if c.targets != "lm_head"]
    for heat in (Heat("look", candidates, 0.5), Heat("end", tuple(alive))):
        if any((c, heat.until) not in done for c in heat.candidates):
            for measurement in runner.run(heat, tick):
                ledger.record(measurement)


# Half of a process's time is its imports. So each run is a process of its own, but a copy of this one, which has done
# nothing else than import.
for line in sys.stdin:
    child = os.fork()
    if not child:
        print("pid", os.getpid(), flush=True)
        train(*json.loads(line))
        sys.exit()
    print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Template:
    """A process that is copied for every run of the program, and the copies can be killed."""

    def __init__(self, model: Path, rows: Path) -> None:
        self.model, self.rows = model, rows
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=PIPE,
            stdout=PIPE,
            stderr=STDOUT,
            text=True,
            bufsize=1,
        )

    def __enter__(self) -> Template:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def run(self, folder: Path, stop_after: int | None = None) -> bool:
        """Whether the program came to its end; otherwise it was killed after so many steps."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([str(self.model), str(self.rows), str(folder)]) + "\n")
        said, child = [], 0
        for line in self.process.stdout:
            said.append(line)
            match line.split():
                case ["pid", number]:
                    child = int(number)
                case ["tick", number] if int(number) == stop_after:
                    os.kill(child, signal.SIGKILL)
                case ["ended", code]:
                    assert int(code) in (0, -signal.SIGKILL), "".join(said[-30:])
                    return int(code) == 0
        raise AssertionError("".join(said[-30:]))


@pytest.mark.slow
def test_killed_at_random_steps_it_ends_at_the_same_bits(
    tiny_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    draw = random.Random(20261125)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    kills = 0
    with Template(tiny_folder, rows_file) as one:
        assert one.run(whole)
    with Template(tiny_folder, rows_file) as other:
        while not other.run(killed, stop_after=draw.randint(1, 25)):
            kills += 1
            assert kills < 40, "it gets somewhere each time"
    assert kills >= 3
    weights = sorted(path.relative_to(whole) for path in whole.rglob("*.safetensors"))
    # Four candidates that end, each with an adapter and two checkpoints.
    assert len([path for path in weights if path.name == "adapter_model.safetensors"]) == 4
    for path in weights:
        assert (killed / path).read_bytes() == (whole / path).read_bytes(), path
    histories = [Ledger(StudyFolder(folder)).history() for folder in (whole, killed)]
    assert len(histories[0]) == 9
    for one, other in zip(
        *(sorted(h, key=lambda m: (m.candidate.id, m.fraction)) for h in histories), strict=True
    ):
        assert one.scores == other.scores
        assert (one.candidate, one.fraction, one.steps, one.status) == (
            other.candidate,
            other.fraction,
            other.steps,
            other.status,
        )
        assert one.reason == other.reason
