"""The recipe of the tiny study, and that study as it ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.tiny import write_rows
from tests.tuning.observers import Recorder
from tests.tuning.studies import Finished, recipe_of

from rung.recipe import Recipe
from rung.study.folder import StudyFolder
from rung.tuning.loop import tune


@pytest.fixture
def recipe(tiny_folder: Path, rows_file: Path) -> Recipe:
    return recipe_of(tiny_folder, rows_file)


@pytest.fixture(scope="session")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A whole study, for tests that only read it."""
    root = tmp_path_factory.mktemp("finished")
    recipe = recipe_of(tiny_folder, write_rows(root / "rows.jsonl"))
    folder, recorder = StudyFolder(root / "studies" / "letters"), Recorder()
    return Finished(recipe, folder, recorder, tune(recipe, folder, recorder))
