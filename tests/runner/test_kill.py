"""The nothing-lost law: killed at any instant, a heat goes on and ends at the very same bits."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rung.study.files import StudyFolder
from rung.study.ledger import Ledger

PROGRAM = """
import math
import sys
from pathlib import Path
from rung.data.prepare import prepare
from rung.levers import Candidate
from rung.model.load import load_base
from rung.recipe import Recipe
from rung.runner import local
from rung.runner.local import LocalRunner
from rung.search.strategy import Heat
from rung.study.files import StudyFolder
from rung.study.ledger import Ledger

local.SAVING = math.inf  # a checkpoint at every step, however long it takes
model, rows, folder = sys.argv[1:]
candidates = (
    Candidate(4, 8, "attention", 1e-2), Candidate(4, 8, "attention", 3e-3, dropout=0.2),
    Candidate(8, 16, "all-linear", 3e-3), Candidate(4, 1e6, "lm_head", 0.9), Candidate(2, 4, "mlp", 1e-2, seed=1),
)
recipe = Recipe(data=rows, validation=rows, test=rows, pack_width=3, passes=2)
base = load_base(model, "nf4", "fp32")
runner = LocalRunner(base, prepare(recipe, base.tokenizer), recipe, StudyFolder(Path(folder)), checkpoint_seconds=0)
ledger = Ledger(StudyFolder(Path(folder)))
ticks = 0

def tick(_):
    global ticks
    ticks += 1
    print("tick", ticks, flush=True)

print("ready", flush=True)
done = {(m.candidate, m.fraction) for m in ledger.history()}
alive = [c for c in candidates if c.targets != "lm_head"]
for heat in (Heat("look", candidates, 0.5), Heat("end", tuple(alive))):
    if any((c, heat.until) not in done for c in heat.candidates):
        for measurement in runner.run(heat, tick):
            ledger.record(measurement)
print("finished", flush=True)
"""


def run(model: Path, rows: Path, folder: Path, stop_after: int | None = None) -> bool:
    """Whether the program came to its end; otherwise it was killed after so many steps."""
    arguments = [sys.executable, "-c", PROGRAM, str(model), str(rows), str(folder)]
    said: list[str] = []
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if stop_after is not None and line.strip() == f"tick {stop_after}":
                process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode in (0, -signal.SIGKILL), "".join(said[-30:])
    return process.returncode == 0


@pytest.mark.slow
def test_killed_at_random_steps_it_ends_at_the_same_bits(tiny_folder: Path, rows_file: Path, tmp_path: Path) -> None:
    draw = random.Random(20261125)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(tiny_folder, rows_file, whole)
    kills = 0
    while not run(tiny_folder, rows_file, killed, stop_after=draw.randint(1, 25)):
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
    for one, other in zip(*(sorted(h, key=lambda m: (m.candidate.id, m.fraction)) for h in histories), strict=True):
        assert one.scores == other.scores
        assert (one.candidate, one.fraction, one.steps, one.status) == (
            other.candidate,
            other.fraction,
            other.steps,
            other.status,
        )
        assert one.reason == other.reason
