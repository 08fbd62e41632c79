"""Rung finds the rank, alpha, target modules and learning rate that a QLoRA fine-tune needs.

>>> import rung
>>> result = rung.tune(data="train.jsonl")  # doctest: +SKIP

`import rung` is fast: what needs torch is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rung.errors import (
    DataError,
    FolderError,
    InputError,
    MetricError,
    ModelError,
    RecipeError,
    RungError,
    StudyError,
    TargetError,
    TrainingError,
)
from rung.types import Candidate, LeverSpace, Measurement, Scores, Setting, Verdict
from rung.version import __version__

if TYPE_CHECKING:
    from rung.api import DataReport, Inspection, Plan, Result, audit, inspect, plan, tune
    from rung.recipe import Recipe, read_recipe

__all__ = [
    "Candidate",
    "DataError",
    "DataReport",
    "FolderError",
    "InputError",
    "Inspection",
    "LeverSpace",
    "Measurement",
    "MetricError",
    "ModelError",
    "Plan",
    "Recipe",
    "RecipeError",
    "Result",
    "RungError",
    "Scores",
    "Setting",
    "StudyError",
    "TargetError",
    "TrainingError",
    "Verdict",
    "__version__",
    "audit",
    "inspect",
    "plan",
    "read_recipe",
    "tune",
]

_LATER = {
    "DataReport": "rung.api",
    "Inspection": "rung.api",
    "Plan": "rung.api",
    "Recipe": "rung.recipe",
    "Result": "rung.api",
    "audit": "rung.api",
    "inspect": "rung.api",
    "plan": "rung.api",
    "read_recipe": "rung.recipe",
    "tune": "rung.api",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module 'rung' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
