"""How much memory a pack will take, from a few measured steps: what fits, before anything fails.

A training step holds four things:

- what is there anyway: the process, its libraries, the frozen base;
- each candidate's adapter: weights, gradients, AdamW's two moments in float32, and the weights once more in the dtype
  that is computed in;
- the activations of one pass, which grow with its tokens N, and under plain attention with N · T too, for rows of T;
- the adapters' own activations, x Aᵀ, which grow with N and the ranks.

The first is read off, the second and the last follow from shapes; the activations are measured, on a few steps of
real rows. Scoring keeps no activations for a backward pass, so it is measured and planned apart.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.optimize import nnls

from rung.data.batches import Batch, collate
from rung.data.tokenize import Example
from rung.engine.adapter_state import fresh_state
from rung.engine.frozen_model import FrozenModel
from rung.engine.loss import CHUNK
from rung.engine.pack import Pack
from rung.engine.process_memory import (
    give_back_freed_memory,
    peak_bytes,
    reset_peak,
    resident_bytes,
)
from rung.engine.trainer import Trainer
from rung.types import Candidate, Setting

MEMORY_HEADROOM = 0.1
"""The share of the memory that is not planned with: what fragments, and what others take meanwhile."""

ACTIVATION_BYTES_BOUND = 16
"""Bytes that a pass may hold for each number that its linear layers take and give, for sure: 4 to 6 were measured in
float32, and 4 to 8 in bfloat16, where a part of the work is done in float32 (docs/log.md)."""

_PASSES = ((1, 0.25), (4, 1.0), (8, 0.5), (12, 1.0))
"""The measured passes: how many times `_TOKENS`, and the share of the rows' length."""
_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Activations:
    """Bytes that one pass takes: `fixed`, for each token, and for each token times the tokens of its row."""

    fixed: float
    per_token: float
    per_pair: float

    def bytes(self, tokens: int, length: int) -> float:
        """Of a pass of `tokens`, in rows of `length`."""
        return self.fixed + tokens * (self.per_token + length * self.per_pair)

    def tokens(self, room: float, length: int, more_per_token: float = 0.0) -> int:
        """How many tokens, in rows of `length`, fit in `room` bytes."""
        return int(
            (room - self.fixed) // (self.per_token + length * self.per_pair + more_per_token)
        )


@dataclass(frozen=True, slots=True)
class CandidateMemory:
    """What one candidate adds: `state` bytes for good, and `per_token` bytes for each token of its rows in a pass."""

    state: int
    per_token: int


@dataclass(frozen=True, slots=True)
class MemoryModel:
    """What training and scoring take on this machine: `held` bytes are there before any pack."""

    held: int
    training: Activations
    scoring: Activations

    def peak(self, needs: Sequence[CandidateMemory], rows: int, length: int) -> int:
        """The most that a step of a pack of these candidates holds, on `rows` rows of `length` tokens, in one pass."""
        tokens = len(needs) * rows * length
        own = sum(need.state + need.per_token * rows * length for need in needs)
        return int(self.held + own + self.training.bytes(tokens, length))

    def width(self, needs: Sequence[CandidateMemory], rows: int, length: int, memory: float) -> int:
        """How many of these candidates, from the first, fit in a pack: at least one.

        Their states stay; a step may be done candidate by candidate (`room`), so the activations of one are enough.
        """
        budget = memory * (1 - MEMORY_HEADROOM) - self.held
        width = 0
        for count in range(1, len(needs) + 1):
            states = sum(need.state for need in needs[:count])
            one_pass = max(need.per_token for need in needs[:count]) * rows * length
            if states + one_pass + self.training.bytes(rows * length, length) > budget:
                break
            width = count
        return max(1, width)

    def room(self, needs: Sequence[CandidateMemory], length: int, memory: float) -> int:
        """How many tokens one training pass of a pack of these candidates may have; zero where not one row fits."""
        left = memory * (1 - MEMORY_HEADROOM) - self.held - sum(need.state for need in needs)
        found = self.training.tokens(left, length, max(need.per_token for need in needs))
        return found if found >= length else 0

    def scoring_room(self, needs: Sequence[CandidateMemory], length: int, memory: float) -> int:
        """The same for scoring, at least one row."""
        left = memory * (1 - MEMORY_HEADROOM) - self.held - sum(need.state for need in needs)
        return max(length, self.scoring.tokens(left, length))


def need(frozen: FrozenModel, setting: Setting, dtype: torch.dtype) -> CandidateMemory:
    """What the candidate adds, from the shapes alone; `dtype` is what is computed in."""
    layers = frozen.targets(setting).values()
    state = frozen.parameters(setting) * (4 * 4 + dtype.itemsize)
    # x Aᵀ of each layer, kept for the backward pass; with dropout, which inputs were dropped.
    low = setting.rank * len(layers) * dtype.itemsize
    dropped = sum(layer.in_features for layer in layers) if setting.dropout else 0
    return CandidateMemory(state, low + dropped)


def bound(
    trainer: Trainer, needs: Sequence[CandidateMemory], rows: int, scored_rows: int, length: int
) -> int:
    """More than a process will hold in training and scoring a pack of these candidates: crude, from shapes alone.

    It spares the measuring where there is memory in plenty. Args as in `MemoryModel.peak`.
    """
    size, head = trainer.base.dtype.itemsize, trainer.head.layer
    layers = [layer for layer in trainer.frozen.layers.values() if layer is not head]
    widths = [layer.in_features + layer.out_features for layer in layers]
    scores = length * (
        getattr(trainer.model.config.get_text_config(), "num_attention_heads", None) or 1
    )
    training = len(needs) * rows * length * (sum(widths) + scores * len(layers))
    scoring = scored_rows * length * (max(widths) + scores)
    logits = CHUNK * head.out_features * (4 + size)
    own = sum(need.state + need.per_token * rows * length for need in needs)
    return int(
        _settled(trainer.base.device)
        + own
        + ACTIVATION_BYTES_BOUND * max(training, scoring)
        + 2 * logits
    )


def measure(trainer: Trainer, setting: Setting, examples: Sequence[Example]) -> MemoryModel:
    """Measure what passes of a few hundred tokens take, in training and in scoring.

    Args:
        trainer: with no pack in it.
        setting: of the widest target modules that are to be planned for: its layers keep their inputs.
        examples: rows of the data; the longest are taken.
    """
    device = trainer.base.device
    longest = longest_rows(examples)
    candidate = Candidate(setting)
    own = need(trainer.frozen, setting, trainer.base.dtype)
    with Pack(trainer.frozen, [candidate], [fresh_state(trainer.frozen, candidate, 0)]) as pack:
        batches = [probe_batch(longest, times * _TOKENS, share, device) for times, share in _PASSES]
        trainer.step(pack, batches[0], 0.0)  # some things are allocated once, and then held
        training = [_peak(device, partial(trainer.step, pack, batch, 0.0)) for batch in batches]
        scored = [_peak(device, partial(trainer.row_losses, pack, batch)) for batch in batches]
        held = _settled(device) - own.state
    shapes = [(batch.ids.numel(), batch.ids.shape[1]) for batch in batches]
    lean = [
        peak - own.per_token * tokens for peak, (tokens, _) in zip(training, shapes, strict=True)
    ]
    return MemoryModel(held, fit(shapes, lean), fit(shapes, scored))


def _settled(device: torch.device) -> int:
    """What the process holds, after it has given back what it does not need."""
    give_back_freed_memory()
    held: int = torch.cuda.memory_allocated(device) if device.type == "cuda" else resident_bytes()
    return held


def _peak(device: torch.device, work: Callable[[], object]) -> int:
    """By how much `work` raises what the process holds, at the most."""
    before = _settled(device)
    reset_peak(device)
    for _ in range(2):  # the second finds the memory in the pieces that the first has left
        work()
    return max(0, peak_bytes(device) - before)


def longest_rows(examples: Sequence[Example], count: int = 64) -> list[Example]:
    """Some of the longest rows; the others may lie on the disk, and are looked at one by one."""
    return heapq.nlargest(count, examples, key=lambda example: len(example.ids))


def probe_batch(
    longest: Sequence[Example], tokens: int, share: float, device: torch.device
) -> Batch:
    """About `tokens` tokens in rows of a share of the longest row's length, each with at least one to complete.

    `longest` has the longest row first.
    """
    length = max(2, round(len(longest[0].ids) * share))
    rows = []
    for i in range(max(1, round(tokens / length))):
        example = longest[i % len(longest)]
        ids = (example.ids * -(-length // len(example.ids)))[:length]
        rows.append(Example(ids, max(1, min(example.prompt, length - 1))))
    return collate(rows, device)


def fit(shapes: Sequence[tuple[int, int]], peaks: Sequence[float]) -> Activations:
    """Least squares without negative terms, each pass weighted alike."""
    rows = np.array([[1.0, tokens, tokens * length] for tokens, length in shapes])
    found = np.array(peaks, dtype=np.float64)
    weight = 1 / np.maximum(found, 1.0)
    scale = rows.max(axis=0)
    solution, _ = nnls(rows / scale * weight[:, None], found * weight)
    return Activations(*(float(value) for value in solution / scale))
