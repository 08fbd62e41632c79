"""The nothing-lost law: killed at any step, a stage goes on and ends at the very same bits."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE, STDOUT

import pytest
from tests.runner import kill_program

from rung.study.folder import StudyFolder
from rung.study.ledger import Ledger
from rung.types import Measurement

MOST_STEPS = 25
"""The most steps of a process that is killed."""


class Studies:
    """Runs `kill_program`, and kills it."""

    def __init__(self, model: Path, rows: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, kill_program.__file__, str(model), str(rows)],
            stdin=PIPE,
            stdout=PIPE,
            stderr=STDOUT,
            text=True,
            bufsize=1,
        )

    def __enter__(self) -> Studies:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def train(self, folder: Path, kill_after: int | None = None) -> bool:
        """Whether the study came to its end; otherwise it was killed after so many steps."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{folder}\n")
        output, child = [], 0
        for line in self.process.stdout:
            output.append(line)
            match line.split():
                case ["pid", number]:
                    child = int(number)
                case ["step", number] if int(number) == kill_after:
                    os.kill(child, signal.SIGKILL)
                case ["ended", code]:
                    assert int(code) in (0, -signal.SIGKILL), "".join(output[-30:])
                    return int(code) == 0
        raise AssertionError("".join(output[-30:]))


def history(folder: Path) -> list[Measurement]:
    measurements = Ledger(StudyFolder(folder)).history()
    return sorted(measurements, key=lambda m: (m.candidate.id, m.fraction))


@pytest.mark.slow
def test_killed_at_random_steps_it_ends_at_the_same_bits(
    tiny_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    draw = random.Random(20261125)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    kills = 0
    with Studies(tiny_folder, rows_file) as studies:
        assert studies.train(whole)
    with Studies(tiny_folder, rows_file) as studies:
        while not studies.train(killed, kill_after=draw.randint(1, MOST_STEPS)):
            kills += 1
            assert kills < 40, "it gets somewhere each time"
    assert kills >= 3
    weights = sorted(path.relative_to(whole) for path in whole.rglob("*.safetensors"))
    # Four candidates end, each with an adapter and its checkpoints.
    assert len([path for path in weights if path.name == "adapter_model.safetensors"]) == 4
    assert len([path for path in weights if path.name == "state.safetensors"]) >= 8
    for path in weights:
        assert (killed / path).read_bytes() == (whole / path).read_bytes(), path
    uninterrupted, interrupted = history(whole), history(killed)
    assert len(uninterrupted) == 9
    for one, other in zip(uninterrupted, interrupted, strict=True):
        assert (one.candidate, one.fraction, one.steps) == (
            other.candidate,
            other.fraction,
            other.steps,
        )
        assert (one.tokens, one.spent) == (other.tokens, other.spent)
        assert one.scores == other.scores
        assert (one.status, one.reason) == (other.status, other.reason)
