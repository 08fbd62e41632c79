"""A study that has started and kept something."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.study.records import END, SCORES, TEXTS

from rung.study.folder import StudyFolder
from rung.study.ledger import Ledger


@pytest.fixture
def recorded(tmp_path: Path) -> StudyFolder:
    folder = StudyFolder(tmp_path / "s")
    ledger = Ledger(folder)
    ledger.record_baseline(SCORES)
    ledger.record(END)
    ledger.record_generations("test", "untuned", TEXTS)
    folder.manifest.touch()
    return folder
