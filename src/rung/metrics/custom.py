"""A user's own metric: a function in a Python file, which runs in this process."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rung.errors import MetricError
from rung.metrics.metric import Array, CompletionStats, Metric, ratio
from rung.types import Generation


def is_custom(name: str) -> bool:
    """Whether the name is that of a function in a file: `file.py:function`."""
    return ".py:" in name


def load_custom_metric(name: str) -> Metric:
    """The metric that is the mean of a user's function: `file.py:function`.

    The function gets the generated and the wanted text, and the prompt if it has three parameters
    without defaults. Higher is better, unless the function has a true attribute `lower_is_better`.

    Raises:
        MetricError: The file or the function is missing or cannot be loaded. Scoring raises it
            where the function fails on a row.
    """
    path, _, function_name = name.rpartition(":")
    function = _load_function(Path(path), function_name)
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    required = sum(
        p.kind in positional and p.default is inspect.Parameter.empty for p in parameters
    )
    n_arguments = max(2, required)

    def counts(generations: Sequence[Generation], _: CompletionStats) -> Array:
        return np.array(
            [[_score_row(function, name, row, n_arguments), 1.0] for row in generations]
        )

    lower_is_better = getattr(function, "lower_is_better", False)
    return Metric(function_name, None if lower_is_better else math.inf, counts, ratio)


@functools.cache
def _load_function(path: Path, function_name: str) -> Callable[..., Any]:
    spec = importlib.util.spec_from_file_location(f"rung_metric_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise MetricError(f"--metric: there is no file '{path}'; give file.py:function.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up the module that they are defined in
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise MetricError(
            f"--metric: '{path}' cannot be loaded ({type(error).__name__}: {error})."
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise MetricError(f"--metric: '{path}' has no function '{function_name}'.")
    loaded: Callable[..., Any] = function
    return loaded


def _score_row(function: Callable[..., Any], name: str, row: Generation, n_arguments: int) -> float:
    arguments = (row.text, row.wanted, row.prompt)[:n_arguments]
    where = row.where or "a row"
    try:
        value = float(function(*arguments))
    except Exception as error:
        raise MetricError(
            f"--metric {name} failed at {where} ({type(error).__name__}: {error}); the generated "
            f"text was {row.text!r:.80} and the wanted text {row.wanted!r:.80}."
        ) from error
    if not math.isfinite(value):
        raise MetricError(f"--metric {name} returned {value} at {where}; return a finite number.")
    return value
