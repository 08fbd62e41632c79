from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model's folder, for a test to change."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))
