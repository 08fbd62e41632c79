"""How long training takes, as a sum over what it does, so that a few timed passes predict others.

A step of K candidates multiplies every token by the frozen weights, forwards and backwards; its
completion tokens by the output head too; and each candidate's tokens by its own adapter. Then it
updates each adapter's parameters. Whatever is in a pass, it dequantises the weights and starts its
operations. A `Workload` counts these, and a `TimeModel` has the seconds that each takes: measured
here, or estimated from a device's peaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from scipy.optimize import nnls

from rung.engine.frozen_model import FrozenModel
from rung.types import Candidate


@dataclass(frozen=True, slots=True)
class Workload:
    """What some passes do. Workloads add up.

    Attributes:
        passes: how many there are.
        frozen: multiply-adds with frozen weights.
        adapters: multiply-adds with adapters.
        updated: parameters of adapters that the optimizer updates.
    """

    passes: float = 0.0
    frozen: float = 0.0
    adapters: float = 0.0
    updated: float = 0.0

    def __add__(self, other: Workload) -> Workload:
        return Workload(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def times(self, factor: float) -> Workload:
        """The same, `factor` times."""
        return Workload(*(factor * part for part in astuple(self)))


@dataclass(frozen=True, slots=True)
class TimeModel:
    """Seconds for each unit of a `Workload`."""

    per_pass: float
    per_frozen: float
    per_adapter: float
    per_update: float

    def seconds(self, workload: Workload) -> float:
        """How long the workload takes."""
        return float(np.dot(astuple(self), astuple(workload)))

    @classmethod
    def fit(cls, workloads: Sequence[Workload], seconds: Sequence[float]) -> TimeModel:
        """Fit timed passes: least squares without negative terms, on relative errors."""
        terms, timed = np.array([astuple(one) for one in workloads]), np.array(seconds)
        scale = np.maximum(terms.max(axis=0), 1e-300)
        solution, _ = nnls(terms / scale / timed[:, None], np.ones(len(timed)))
        return cls(*(float(value) for value in solution / scale))


@dataclass(frozen=True, slots=True)
class ModelSize:
    """The numbers of frozen weights, and the workloads that follow from them.

    Attributes:
        layers: weights of all linear layers but the output head.
        head: weights of the output head.
    """

    layers: int
    head: int

    @classmethod
    def of(cls, frozen: FrozenModel) -> ModelSize:
        """The size of this model."""
        weights = {
            name: layer.in_features * layer.out_features for name, layer in frozen.layers.items()
        }
        head = weights.pop(frozen.head or "", 0)
        return cls(sum(weights.values()), head)

    def training(self, adapters: Sequence[int], tokens: float, completion: float) -> Workload:
        """The workload of one training step.

        The backward pass multiplies by the frozen weights once more, and by adapters twice.

        Args:
            adapters: the parameters of each candidate's adapter.
            tokens: of each candidate's batch, padding included.
            completion: the completion tokens among them.
        """
        width = len(adapters)
        frozen = 2.0 * width * (tokens * self.layers + completion * self.head)
        return Workload(1, frozen, 3.0 * tokens * sum(adapters), float(sum(adapters)))

    def scoring(self, adapters: Sequence[int], tokens: float, completion: float) -> Workload:
        """The workload of one scoring pass; the untuned model is one adapter without parameters."""
        frozen = 1.0 * len(adapters) * (tokens * self.layers + completion * self.head)
        return Workload(1, frozen, 1.0 * tokens * sum(adapters), 0.0)


def adapter_parameters(frozen: FrozenModel, candidates: Sequence[Candidate]) -> list[int]:
    """The parameters of each candidate's adapter."""
    return [frozen.parameters(candidate.setting) for candidate in candidates]
