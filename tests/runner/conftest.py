"""Runners on the tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.runner.runners import make_runner

from rung.model.load import Base
from rung.runner.local import LocalRunner


@pytest.fixture
def runner(tiny_base: Base, rows_file: Path, tmp_path: Path) -> LocalRunner:
    return make_runner(tiny_base, rows_file, tmp_path / "study")


@pytest.fixture
def exact(exact_base: Base, rows_file: Path, tmp_path: Path) -> LocalRunner:
    """In float64, but for the adapters: two trainings may differ by no more than `STRICT`."""
    return make_runner(exact_base, rows_file, tmp_path / "study")
