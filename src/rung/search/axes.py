"""The levers as numbers: the design matrix of the surface through a race."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from rung.types import Setting

Numbers = npt.NDArray[np.floating[Any]]


class Axes:
    """Turns settings into rows of a design matrix.

    The columns are: the intercept; the learning rate, the rank and the scale, as logarithms; each
    group or name of target modules, as 0 or 1; the product of the learning rate with each of those
    levers, since they move the best rate; each step of the rank ladder, since the gain of a step
    may vanish anywhere; and the square of the scale.

    Args:
        settings: they set the middle of each lever. One unit is a factor of four of the learning
            rate and of the rank, a doubling of the scale, and the presence of target modules.
    """

    def __init__(self, settings: Sequence[Setting]) -> None:
        self._modules = sorted({name for s in settings for name in _module_names(s.targets)})
        values = [self._lever_values(setting) for setting in settings]
        self._log_ranks = sorted({math.log2(setting.rank) for setting in settings})
        self._middles = [(min(lever) + max(lever)) / 2 for lever in zip(*values, strict=True)]
        self._rows: dict[Setting, list[float]] = {}

    def __call__(self, settings: Sequence[Setting]) -> Numbers:
        """The design matrix, (settings, columns), float64; its first column is all ones."""
        rows = self._rows
        return np.array([rows.get(s) or rows.setdefault(s, self._row(s)) for s in settings])

    def _row(self, setting: Setting) -> list[float]:
        levers = [
            value - middle
            for value, middle in zip(self._lever_values(setting), self._middles, strict=True)
        ]
        rate, _, scale, *_ = levers
        log_rank = math.log2(setting.rank)
        ladder = [
            min(1.0, max(0.0, (log_rank - below) / (above - below))) - 0.5
            for below, above in itertools.pairwise(self._log_ranks)
        ]
        return [1.0, *levers, *(rate * lever for lever in levers), *ladder, scale * scale]

    def _lever_values(self, setting: Setting) -> list[float]:
        present = [float(name in _module_names(setting.targets)) for name in self._modules]
        return [
            math.log2(setting.learning_rate) / 2,
            math.log2(setting.rank) / 2,
            math.log2(setting.scale),
            *present,
        ]


@cache
def _module_names(targets: str) -> frozenset[str]:
    return frozenset(re.split("[+,]", targets))
