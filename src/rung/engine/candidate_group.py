"""Candidates alike in rank, layers and dropout: their adapters are the rows of one matrix.

A row holds one candidate's whole adapter: the A of every layer first, and then the B of every
layer. Its gradient and AdamW's moments are rows of the same layout. So a candidate's norm is one
reduction, its update is one pass over the memory, a candidate joins or leaves by copying a row, and
what one candidate does to its numbers cannot reach another's.

Shapes: k candidates of the group, P parameters of an adapter, R rank, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rung.engine.adapter_state import FACTORS
from rung.engine.lora import AdapterGroup, FrozenLinear
from rung.types import Candidate


@dataclass(frozen=True)
class FactorSlice:
    """Where one factor of one layer lies in a candidate's row.

    Attributes:
        factor: `A` or `B`.
        offset: the place of its first number in the row.
        shape: (R, I) for A, (O, R) for B.
    """

    layer: str
    factor: str
    offset: int
    shape: tuple[int, int]

    @property
    def name(self) -> str:
        """The name of the factor in an `AdapterState`."""
        return f"{self.layer}.{self.factor}"

    def of(self, rows: Tensor) -> Tensor:
        """The factor in one row (P,) or in several rows (k, P): a view."""
        size = self.shape[0] * self.shape[1]
        return rows[..., self.offset : self.offset + size].view(*rows.shape[:-1], *self.shape)


class CandidateGroup:
    """The candidates `start` to `stop` of a pack, alike in rank, layers and dropout.

    Attributes:
        factors: where each factor of each layer lies in a row.
        weights, gradients: (k, P) float32 (float64 in a test).
        scale: (k, 1), each candidate's scale.
        compute_weights: (k, P), the weights that the layers multiply by: in the dtype of the
            computation, B times the candidate's scale.
    """

    def __init__(
        self,
        start: int,
        candidates: Sequence[Candidate],
        layers: Mapping[str, FrozenLinear],
        dtype: torch.dtype,
        compute_dtype: torch.dtype,
    ) -> None:
        self.start, self.stop = start, start + len(candidates)
        self.candidates = list(candidates)
        self.layer_names = list(layers)
        self.factors: list[FactorSlice] = []
        rank, offset = candidates[0].rank, 0
        for factor in FACTORS:
            if factor == "B":
                self._first_b = offset
            for name, layer in layers.items():
                shape = (rank, layer.in_features) if factor == "A" else (layer.out_features, rank)
                self.factors.append(FactorSlice(name, factor, offset, shape))
                offset += shape[0] * shape[1]
        device = next(iter(layers.values())).weight.device
        self.weights = torch.zeros((len(candidates), offset), dtype=dtype, device=device)
        self.gradients = torch.zeros_like(self.weights)
        self.scale = torch.tensor([[c.scale] for c in candidates], dtype=dtype).to(device)
        self.compute_weights = torch.empty_like(self.weights, dtype=compute_dtype)

    def update_compute_weights(self) -> None:
        """Compute `compute_weights` from the weights."""
        self.compute_weights[:, : self._first_b].copy_(self.weights[:, : self._first_b])
        # Layer by layer, because narrowing the dtype makes a copy of what is multiplied.
        for factor in self.factors:
            if factor.factor == "B":
                B, scale = factor.of(self.weights), self.scale[:, :, None]
                torch.mul(B, scale, out=factor.of(self.compute_weights))

    def scale_gradients(self) -> None:
        """Turn the gradient of scale · B, by which the layers multiply, into that of B."""
        self.gradients[:, self._first_b :].mul_(self.scale)

    def adapters(
        self, dropout_masks: Callable[[str], Callable[[int, int, Sequence[int], int], Tensor]]
    ) -> dict[str, AdapterGroup]:
        """The group's adapters at each of its layers: views of its rows.

        Args:
            dropout_masks: gives a layer's `AdapterGroup.dropout_mask`.
        """
        slices = {(factor.layer, factor.factor): factor for factor in self.factors}
        adapters = {}
        for name in self.layer_names:
            A, B = slices[name, "A"], slices[name, "B"]
            adapters[name] = AdapterGroup(
                self.start,
                self.stop,
                A.of(self.compute_weights),
                B.of(self.compute_weights),
                A.of(self.gradients),
                B.of(self.gradients),
                self.candidates[0].dropout,
                dropout_masks(name),
            )
        return adapters
