"""A metric by its name: one of Rung's, or the user's own function in a file, run as the user's code in this process."""

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
from rung.metrics.text import METRICS, Array, CompletionStats, Metric, ratio
from rung.types import Generation


def metric(name: str) -> Metric:
    """A metric by its name, or a user's own: `file.py:function`.

    Raises:
        MetricError: there is none of that name, or the file or the function cannot be used.
    """
    if name in METRICS:
        return METRICS[name]
    if ".py:" not in name:
        raise MetricError(
            f"There is no metric '{name}'; there are {', '.join(METRICS)}, and your own as file.py:function."
        )
    return _users(name)


def _users(name: str) -> Metric:
    """A function of the user's: of the text and what was wanted, and of the prompt if it takes three; more is better,
    unless it has an attribute `lower_is_better`.
    """
    path, _, function = name.rpartition(":")
    called = _loaded(Path(path), function)
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    asked = inspect.signature(called).parameters.values()
    takes = sum(one.kind in places and one.default is inspect.Parameter.empty for one in asked)

    def counts(written: Sequence[Generation], _: CompletionStats) -> Array:
        return np.array([[_called(called, name, row, takes), 1.0] for row in written])

    return Metric(
        function, None if getattr(called, "lower_is_better", False) else math.inf, counts, ratio
    )


@functools.cache
def _loaded(path: Path, function: str) -> Callable[..., Any]:
    spec = importlib.util.spec_from_file_location(f"rung_metric_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise MetricError(f"--metric: there is no file '{path}'; give file.py:function.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise MetricError(
            f"--metric: '{path}' cannot be loaded ({type(error).__name__}: {error})."
        ) from error
    found = getattr(module, function, None)
    if not callable(found):
        raise MetricError(f"--metric: '{path}' has no function '{function}'.")
    called: Callable[..., Any] = found
    return called


def _called(called: Callable[..., Any], name: str, row: Generation, takes: int) -> float:
    arguments = (row.text, row.wanted, row.prompt)[: max(2, takes)]
    try:
        value = float(called(*arguments))
    except Exception as error:
        raise MetricError(
            f"--metric {name} failed at {row.where or 'a row'} ({type(error).__name__}: {error}), where "
            f"{row.text!r:.80} was written and {row.wanted!r:.80} was wanted."
        ) from error
    if not math.isfinite(value):
        raise MetricError(
            f"--metric {name} gave {value} at {row.where or 'a row'}; give a finite number."
        )
    return value
