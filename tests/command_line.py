"""The command line in a process of its own, and in this process, which saves the imports."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from rung.cli import main

RUNG = [sys.executable, "-c", "from rung.cli import main; main()"]


def rung_process(*args: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `rung` in a process of its own, in a pipe of 80 columns."""
    environment = {**os.environ, "COLUMNS": "80", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [*RUNG, *map(str, args)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


class CommandLine:
    """Runs `rung` in this process, in a folder."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
    ) -> None:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("COLUMNS", "80")
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *args: str | Path) -> Ended:
        self.monkeypatch.setattr(sys, "argv", ["rung", *map(str, args)])
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main()
        out, err = self.capsys.readouterr()
        code = exit_info.value.code
        return Ended(code if isinstance(code, int) else 0, out, err)
