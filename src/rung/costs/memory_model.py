"""How much memory a pack takes, so that nothing has to fail first.

A training step holds four things:

- what the process holds before any pack: its libraries and the frozen base;
- each candidate's adapter: weights, gradients and AdamW's two moments in float32, and the weights
  once more in the dtype of the computation;
- the activations of one pass, which grow with its tokens N, and under plain attention with N · T
  too, for rows of T tokens;
- the adapters' own activations, x Aᵀ, which grow with N and the ranks.

The first is read from the process, the second and the fourth follow from shapes, and the third is
measured (`rung.costs.memory_probes`) or traced (`rung.costs.trace`) on a few passes. Scoring keeps
no activations for a backward pass, so it has a model of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import nnls

from rung.engine.frozen_model import FrozenModel
from rung.types import Setting


@dataclass(frozen=True, slots=True)
class Activations:
    """Bytes that one pass takes.

    Attributes:
        fixed: bytes of any pass.
        per_token: bytes for each token.
        per_pair: bytes for each token times the tokens of its row.
    """

    fixed: float
    per_token: float
    per_pair: float

    def bytes(self, tokens: int, length: int) -> float:
        """The bytes of a pass of `tokens` tokens in rows of `length` tokens."""
        return self.fixed + tokens * (self.per_token + length * self.per_pair)

    def tokens_within(self, limit: float, length: int, extra_per_token: float = 0.0) -> int:
        """How many tokens, in rows of `length` tokens, fit in `limit` bytes.

        Args:
            extra_per_token: further bytes for each token, such as an adapter's own activations.
        """
        each = self.per_token + length * self.per_pair + extra_per_token
        if not each:  # nothing was seen to grow, as with a tiny model
            return sys.maxsize if limit >= self.fixed else 0
        return int((limit - self.fixed) // each)


@dataclass(frozen=True, slots=True)
class CandidateMemory:
    """What one candidate adds to the memory of a pack.

    Attributes:
        state: bytes that it holds all the time.
        per_token: bytes for each token of its rows in a training pass.
    """

    state: int
    per_token: int


@dataclass(frozen=True, slots=True)
class MemoryModel:
    """What training and scoring take on some device.

    Attributes:
        held: bytes that are held before any pack.
        training, scoring: the activations of a pass.
    """

    held: int
    training: Activations
    scoring: Activations

    def peak(self, candidates: Sequence[CandidateMemory], rows: int, length: int) -> int:
        """The most bytes that a training step holds when it is done in one pass.

        Args:
            candidates: those of the pack.
            rows: the rows of a batch; each candidate has a batch of its own.
            length: the tokens of a row.
        """
        tokens = len(candidates) * rows * length
        own = sum(one.state + one.per_token * rows * length for one in candidates)
        return int(self.held + own + self.training.bytes(tokens, length))


def candidate_memory(frozen: FrozenModel, setting: Setting, dtype: torch.dtype) -> CandidateMemory:
    """What a candidate of this setting adds, from the shapes alone.

    Args:
        dtype: of the computation.

    Raises:
        TargetError: the model has no such target modules.
    """
    layers = frozen.targets(setting).values()
    state = frozen.parameters(setting) * (4 * 4 + dtype.itemsize)
    # x Aᵀ of each layer, kept for the backward pass; with dropout, the mask of the inputs too.
    products = setting.rank * len(layers) * dtype.itemsize
    masks = sum(layer.in_features for layer in layers) if setting.dropout else 0
    return CandidateMemory(state, products + masks)


def fit_activations(shapes: Sequence[tuple[int, int]], peaks: Sequence[float]) -> Activations:
    """Fit the bytes of passes: least squares without negative terms, on relative errors.

    Args:
        shapes: the tokens of each pass, and the tokens of its rows.
        peaks: the bytes that each pass took.
    """
    terms = np.array([[1.0, tokens, tokens * length] for tokens, length in shapes])
    measured = np.array(peaks, dtype=np.float64)
    weight = 1 / np.maximum(measured, 1.0)
    scale = terms.max(axis=0)
    solution, _ = nnls(terms / scale * weight[:, None], measured * weight)
    return Activations(*(float(value) for value in solution / scale))
