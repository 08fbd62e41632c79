"""Studies of the tiny model, as small as what they show allows."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.tuning.observers import Recorder

from rung.formats.documents import to_json
from rung.recipe import Recipe, with_options
from rung.study.folder import StudyFolder
from rung.tuning.loop import tune
from rung.tuning.result import StudyResult

ONE_SETTING = {
    "ranks": (2,),
    "learning_rates": (4e-3,),
    "targets": ("attention",),
    "alphas": ("2r",),
}
"""The options of a study that has a single setting to try."""


def recipe_of(model: Path, rows: Path) -> Recipe:
    """Three ranks, three learning rates, two sets of target modules and two alphas."""
    return Recipe(
        model=str(model),
        quantization="fp32",
        precision="fp32",
        data=str(rows),
        validation=str(rows),
        test=str(rows),
        allow_leakage=True,
        ranks=(2, 4, 8),
        learning_rates=(1e-3, 4e-3, 1.6e-2),
        targets=("attention", "mlp"),
        alphas=("2r", "r"),
    )


def run(
    recipe: Recipe, folder: Path, observer: Recorder | None = None, **options: Any
) -> StudyResult:
    """Run a study in a folder, with options laid over the recipe."""
    whole = with_options(recipe, **options)
    return tune(whole, StudyFolder(folder), observer or Recorder())


def split_files(path: Path) -> dict[str, str]:
    """The options that take one file for every split."""
    return dict.fromkeys(("data", "validation", "test"), str(path))


@dataclass(frozen=True)
class Finished:
    """A whole study. Tests that go on in its folder take a copy."""

    recipe: Recipe
    folder: StudyFolder
    recorder: Recorder
    result: StudyResult

    def copy(self, into: Path) -> StudyFolder:
        return StudyFolder(shutil.copytree(self.folder.path, into / self.folder.name))


def without_times(result: StudyResult) -> Any:
    """What has to be the same in two runs: all but how long it took and how much memory it held."""
    return _without_times(to_json(result))


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        times = ("seconds", "wall_seconds", "peak_memory_bytes")
        return {key: _without_times(own) for key, own in value.items() if key not in times}
    if isinstance(value, list):
        return [_without_times(own) for own in value]
    return pytest.approx(value, rel=1e-4, abs=1e-4) if isinstance(value, float) else value
