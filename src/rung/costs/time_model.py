"""How long training takes, as a sum of what it does: so that a few timed steps tell the time of any other.

A step of K candidates multiplies every token by the frozen weights, forwards and backwards, its completion tokens by
the head too, and each candidate's tokens by its own adapter; it moves each adapter's numbers; and whatever is in it, it
dequantises the weights and starts its operations. `Load` counts those, and `Speed` has what each takes: measured here,
or worked out from a device's peaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from scipy.optimize import nnls

from rung.engine.frozen_model import FrozenModel
from rung.types import Candidate


@dataclass(frozen=True, slots=True)
class Load:
    """What some passes do: how many there are, their multiply-adds with frozen weights and with adapters, and how many
    numbers of adapters they move. Loads add up.
    """

    passes: float = 0.0
    frozen: float = 0.0
    adapters: float = 0.0
    moved: float = 0.0

    def __add__(self, other: Load) -> Load:
        return Load(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def times(self, factor: float) -> Load:
        return Load(*(factor * part for part in astuple(self)))


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds for each unit of a `Load`."""

    per_pass: float
    per_frozen: float
    per_adapter: float
    per_moved: float

    def seconds(self, load: Load) -> float:
        return float(np.dot(astuple(self), astuple(load)))

    @classmethod
    def through(cls, loads: Sequence[Load], seconds: Sequence[float]) -> Speed:
        """Least squares without negative terms, each pass weighted alike."""
        rows, found = np.array([astuple(load) for load in loads]), np.array(seconds)
        scale = np.maximum(rows.max(axis=0), 1e-300)
        solution, _ = nnls(rows / scale / found[:, None], np.ones(len(found)))
        return cls(*(float(value) for value in solution / scale))


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many numbers the frozen weights have, apart from the head, and the head."""

    blocks: int
    head: int

    @classmethod
    def of(cls, frozen: FrozenModel) -> Sizes:
        numbers = {
            name: layer.in_features * layer.out_features for name, layer in frozen.layers.items()
        }
        head = numbers.pop(frozen.head or "", 0)
        return cls(sum(numbers.values()), head)

    def training(self, adapters: Sequence[int], tokens: float, completion: float) -> Load:
        """A step of candidates whose adapters have so many numbers, on `tokens` with padding of each candidate and
        `completion` tokens of each. Backwards the frozen weights are multiplied by once more, adapters twice.
        """
        width = len(adapters)
        frozen = 2.0 * width * (tokens * self.blocks + completion * self.head)
        return Load(1, frozen, 3.0 * tokens * sum(adapters), float(sum(adapters)))

    def scoring(self, adapters: Sequence[int], tokens: float, completion: float) -> Load:
        """The same without a way back; for the untuned model, one adapter of nothing."""
        frozen = 1.0 * len(adapters) * (tokens * self.blocks + completion * self.head)
        return Load(1, frozen, 1.0 * tokens * sum(adapters), 0.0)


def adapter_numbers(frozen: FrozenModel, candidates: Sequence[Candidate]) -> list[int]:
    """Of each candidate's adapter."""
    return [frozen.parameters(candidate.setting) for candidate in candidates]
