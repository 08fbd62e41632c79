"""The state of one candidate's training: the adapter, AdamW's moments, and the counts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rung.engine.frozen_model import FrozenModel
from rung.engine.optimizer import OptimizerProgress
from rung.types import Candidate

FACTORS = ("A", "B")
MOMENTS = ("first", "second")


@dataclass(frozen=True)
class AdapterState:
    """One candidate's training at the end of a step, in its own rank, on the CPU.

    Attributes:
        step: how many batches the candidate has trained on.
        tensors: for each adapted layer the factors `<layer>.A` (rank, in) and `<layer>.B`
            (out, rank), and AdamW's two moments of each under the same names followed by `.first`
            and `.second`.
        progress: what the optimizer remembers beside the moments.
    """

    step: int
    tensors: Mapping[str, Tensor] = field(repr=False)
    progress: OptimizerProgress = field(default_factory=OptimizerProgress)

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.tensors.values())).dtype

    @property
    def weights(self) -> dict[str, Tensor]:
        """The factors alone, without the moments."""
        return {name: tensor for name, tensor in self.tensors.items() if name.endswith(FACTORS)}


def fresh_state(frozen: FrozenModel, candidate: Candidate, study_seed: int) -> AdapterState:
    """An untrained adapter: A drawn as PEFT draws it (uniform within ±1/√in), B zero.

    Each layer's draw depends only on the study's seed, the candidate's seed and the layer. So
    candidates that differ in their learning rate start from the same numbers, and a smaller rank
    starts from the first rows of a larger one. That is less noise between the two sides of a
    comparison.
    """
    tensors: dict[str, Tensor] = {}
    for name, layer in frozen.targets(candidate.setting).items():
        digest = hashlib.sha256(f"{study_seed}:{candidate.seed}:{name}".encode()).digest()
        draw = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        bound = layer.in_features**-0.5
        A = torch.empty(candidate.rank, layer.in_features)
        tensors[f"{name}.A"] = A.uniform_(-bound, bound, generator=draw)
        tensors[f"{name}.B"] = torch.zeros(layer.out_features, candidate.rank)
    moments = {
        f"{key}.{moment}": torch.zeros_like(tensor)
        for key, tensor in tensors.items()
        for moment in MOMENTS
    }
    return AdapterState(0, tensors | moments)
