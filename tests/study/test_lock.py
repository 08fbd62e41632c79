"""One process works on a study at a time."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.study.records import END

from rung.errors import StudyError
from rung.study.folder import StudyFolder
from rung.study.ledger import Ledger
from rung.study.lock import locked

HOLDS = """
import sys, time
from pathlib import Path
from rung.study.folder import StudyFolder
from rung.study.lock import locked
with locked(StudyFolder(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder: StudyFolder) -> subprocess.Popen[str]:
    """A process that holds the study."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(folder.path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path / "studies" / "s")


def test_a_second_process_is_told_who_the_first_is_and_since_when(folder: StudyFolder) -> None:
    process = holder(folder)
    try:
        before = folder.lock.read_bytes()
        with pytest.raises(StudyError) as error, locked(folder):
            pass
        who = f"process {process.pid} on {re.escape(platform.node())}"
        since = r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
        says = f"is being worked on by {who}, {since}; wait for it, or give this study another"
        assert re.search(says, str(error.value))
        assert folder.lock.read_bytes() == before, "nothing is overwritten"
    finally:
        process.kill()
        process.wait()


def test_a_lock_that_cannot_be_opened_is_one_sentence(folder: StudyFolder) -> None:
    folder.lock.mkdir(parents=True)
    says = r"lock.json' cannot be opened \(Is a directory\); remove it"
    with pytest.raises(StudyError, match=says), locked(folder):
        pass
    assert folder.lock.is_dir()


def test_a_process_that_was_killed_holds_no_lock(folder: StudyFolder) -> None:
    process = holder(folder)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert json.loads(folder.lock.read_text())["process"] == process.pid, "it could not remove it"
    with locked(folder):
        assert json.loads(folder.lock.read_text())["process"] == os.getpid()


def test_one_process_holds_it_once_at_a_time(folder: StudyFolder) -> None:
    for _ in range(2):
        with (
            locked(folder),
            pytest.raises(StudyError, match=f"process {os.getpid()} on"),
            locked(folder),
        ):
            pass


def test_a_lock_that_is_being_written_names_no_process(folder: StudyFolder) -> None:
    with locked(folder):
        folder.lock.write_text("")
        with (
            pytest.raises(StudyError, match="is being worked on by another process;"),
            locked(folder),
        ):
            pass


def test_readers_are_not_kept_waiting(folder: StudyFolder) -> None:
    Ledger(folder).record(END)
    with locked(folder):
        assert Ledger(folder).history() == [END]


def test_a_new_folder_that_stays_empty_is_removed(folder: StudyFolder, tmp_path: Path) -> None:
    with locked(folder):
        assert folder.lock.exists()
    assert list(tmp_path.iterdir()) == []


def test_what_was_written_stays_and_the_lock_is_removed(folder: StudyFolder) -> None:
    with locked(folder):
        folder.recipe.touch()
    assert [path.name for path in folder.path.iterdir()] == [folder.recipe.name]


def test_a_lock_that_was_removed_meanwhile_is_made_again(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that opens the file just before its holder removes it has locked a file that no
    other process will see."""
    real, calls = fcntl.flock, []

    def lock(file: object, how: int) -> None:
        calls.append(how)
        if len(calls) == 1:
            folder.lock.unlink()
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", lock)
    with locked(folder):
        assert len(calls) == 2
        assert json.loads(folder.lock.read_text())["process"] == os.getpid()
