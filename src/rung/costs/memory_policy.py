"""Every decision about memory, in one place.

`MemoryRules` are pure: by a memory model and a limit they say how wide a pack may be and how many
tokens one pass may have. The estimate asks them for a device that is not here. `MemoryPolicy` asks
them for this process: it measures the model when it is needed, and sets up the trainer.

No result depends on these decisions (the packing law).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from rung.costs.devices import Device
from rung.costs.memory_model import CandidateMemory, MemoryModel, candidate_memory
from rung.costs.memory_probes import bytes_in_use, measure_memory
from rung.data.arrow_store import Examples
from rung.engine.loss import CHUNK
from rung.engine.process_memory import memory_limit
from rung.engine.tiling import TokenLimit
from rung.engine.trainer import SCORING_BATCH_SIZE, Trainer
from rung.errors import TargetError
from rung.types import Candidate, Setting

MEMORY_HEADROOM = 0.1
"""The share of the memory that stays free: for fragmentation, and for other processes."""

ACTIVATION_BYTES_BOUND = 16
"""An upper bound of the bytes that a pass holds for each number that its linear layers take and
give: 4 to 6 were measured in float32, and 4 to 8 in bfloat16, where a part of the work is done in
float32 (docs/log.md)."""

Fit = Literal["in one pass", "in parts", "no"]
"""How a step of a pack fits: in one pass, split into several, or not at all."""


def process_limit(requested: int | None, device: torch.device) -> int:
    """The bytes that this process may hold: what the user asks for, or else what it can have."""
    return memory_limit(device) if requested is None else requested


def device_limit(requested: int | None, device: Device) -> float:
    """The bytes that a process may hold on a device that is not here."""
    return min(device.memory_gb * 1e9, math.inf if requested is None else requested)


@dataclass(frozen=True, slots=True)
class MemoryRules:
    """What a pack may do, by a memory model.

    Attributes:
        model: of the device.
        limit: the bytes that the process may hold in all.
        batch_size: rows of a batch; each candidate has a batch of its own.
        longest: tokens of the longest row.
    """

    model: MemoryModel
    limit: float
    batch_size: int
    longest: int

    @property
    def usable(self) -> float:
        """The limit without the headroom, in bytes."""
        return self.limit * (1 - MEMORY_HEADROOM)

    def pack_width(self, candidates: Sequence[CandidateMemory]) -> int:
        """How many of these candidates, from the first, fit in a pack: at least one.

        The states of all are held. A step may be done candidate by candidate (see
        `training_tokens`), so the activations of one batch are enough.
        """
        budget = self.usable - self.model.held
        rows, length = self.batch_size, self.longest
        width = 0
        for count in range(1, len(candidates) + 1):
            states = sum(one.state for one in candidates[:count])
            one_batch = max(one.per_token for one in candidates[:count]) * rows * length
            if states + one_batch + self.model.training.bytes(rows * length, length) > budget:
                break
            width = count
        return max(1, width)

    def training_tokens(self, candidates: Sequence[CandidateMemory]) -> int:
        """How many tokens one training pass of this pack may have; zero if not one row fits."""
        extra = max(one.per_token for one in candidates)
        tokens = self.model.training.tokens_within(self._left(candidates), self.longest, extra)
        return tokens if tokens >= self.longest else 0

    def scoring_tokens(self, candidates: Sequence[CandidateMemory]) -> int:
        """How many tokens one scoring pass of this pack may have: at least one row's."""
        tokens = self.model.scoring.tokens_within(self._left(candidates), self.longest)
        return max(self.longest, tokens)

    def peak(self, candidates: Sequence[CandidateMemory]) -> int:
        """The most bytes that a step holds, in one pass if that fits and in parts if not."""
        whole = self.peak_in_one_pass(candidates)
        states = self.model.held + sum(one.state for one in candidates)
        row = max(one.per_token for one in candidates) * self.longest
        least = int(states + row + self.model.training.bytes(self.longest, self.longest))
        return min(whole, max(least, int(self.usable)))

    def peak_in_one_pass(self, candidates: Sequence[CandidateMemory]) -> int:
        """The most bytes that a step holds if it is done in one pass, whether that fits or not."""
        return self.model.peak(candidates, self.batch_size, self.longest)

    def fit(self, candidates: Sequence[CandidateMemory]) -> Fit:
        """How a step of exactly this pack fits."""
        if self.peak_in_one_pass(candidates) <= self.usable:
            return "in one pass"
        whole_pack = self.pack_width(candidates) == len(candidates)
        return "in parts" if whole_pack and self.training_tokens(candidates) > 0 else "no"

    def _left(self, candidates: Sequence[CandidateMemory]) -> float:
        """Bytes that are left for the activations of this pack."""
        return self.usable - self.model.held - sum(one.state for one in candidates)


class MemoryPolicy:
    """The one owner of the memory of this process: what packs may do, and how the trainer is set.

    Args:
        trainer: with no pack in it.
        rows: the training rows.
        batch_size: rows of a batch.
        limit: bytes that the user lets the process hold; None for what it can have.
        targets: the sets of target modules that are to be tried. The memory is measured once, for
            the set with the most layers that this model has.

    Attributes:
        limit: the bytes that the process may hold in all.
    """

    def __init__(
        self,
        trainer: Trainer,
        rows: Examples,
        batch_size: int,
        limit: int | None = None,
        targets: Sequence[str] = (),
    ) -> None:
        self.trainer, self.rows, self.batch_size, self.targets = trainer, rows, batch_size, targets
        self.longest = max(rows.lengths)
        self.limit = process_limit(limit, trainer.base.device)
        trainer.memory = limit  # generation plans with it too
        self._measured: tuple[int, MemoryModel] | None = None

    def pack_width(self, candidates: Sequence[Candidate]) -> int:
        """How many of these candidates, from the first, may be trained together: at least one."""
        if self._spare_bytes(candidates):
            return len(candidates)
        return self._rules(candidates).pack_width(self._memory(candidates))

    def prepare(self, candidates: Sequence[Candidate]) -> None:
        """Set up the trainer for a pack of these candidates.

        Where memory is plentiful, passes are not limited, and the dense weights are held if there
        is room for them too. Elsewhere passes are limited by the rules, and if not one row fits,
        activation checkpointing is switched on for good.
        """
        trainer, frozen, dtype = self.trainer, self.trainer.frozen, self.trainer.base.dtype
        if spare := self._spare_bytes(candidates):
            trainer.training_limit, trainer.scoring_limit = TokenLimit(), TokenLimit()
            frozen.hold_dense(dtype if spare > frozen.dense_bytes(dtype) else None)
            return
        frozen.hold_dense(None)
        memory = self._memory(candidates)
        tokens = self._rules(candidates).training_tokens(memory)
        if not tokens and not trainer.activation_checkpointing:
            trainer.enable_activation_checkpointing()
            self._measured = None
            tokens = self._rules(candidates).training_tokens(memory)
        trainer.training_limit = TokenLimit(max(tokens, self.longest))
        trainer.scoring_limit = TokenLimit(self._rules(candidates).scoring_tokens(memory))

    def _spare_bytes(self, candidates: Sequence[Candidate]) -> int:
        """Bytes that are certainly free beside a pack of these; if any, nothing is measured."""
        frozen, dtype = self.trainer.frozen, self.trainer.base.dtype
        memory = self._memory(candidates)
        most = upper_bound(self.trainer, memory, self.batch_size, SCORING_BATCH_SIZE, self.longest)
        most -= frozen.dense_bytes(dtype) if frozen.holds_dense else 0
        return max(0, int(self.limit * (1 - MEMORY_HEADROOM)) - most)

    def _rules(self, candidates: Sequence[Candidate]) -> MemoryRules:
        """By a model that is measured once, and again where candidates adapt more layers."""
        frozen = self.trainer.frozen
        settings = [
            *self._planned(candidates[0].setting),
            *(candidate.setting for candidate in candidates),
        ]
        widest = max(settings, key=lambda setting: len(frozen.targets(setting)))
        layers = len(frozen.targets(widest))
        if self._measured is None or layers > self._measured[0]:
            frozen.hold_dense(None)
            self._measured = (layers, measure_memory(self.trainer, widest, self.rows))
        return MemoryRules(self._measured[1], self.limit, self.batch_size, self.longest)

    def _planned(self, setting: Setting) -> Iterator[Setting]:
        """The setting with each set of target modules that is to be tried and this model has."""
        for targets in self.targets:
            planned = replace(setting, targets=targets)
            with contextlib.suppress(TargetError):
                self.trainer.frozen.targets(planned)
                yield planned

    def _memory(self, candidates: Sequence[Candidate]) -> list[CandidateMemory]:
        frozen, dtype = self.trainer.frozen, self.trainer.base.dtype
        return [candidate_memory(frozen, candidate.setting, dtype) for candidate in candidates]


def upper_bound(
    trainer: Trainer,
    candidates: Sequence[CandidateMemory],
    rows: int,
    scored_rows: int,
    length: int,
) -> int:
    """More bytes than a process will hold in training and scoring a pack of these candidates.

    It is crude, from shapes alone, and saves the measuring where memory is plentiful.

    Args:
        rows: the rows of a batch; each candidate has a batch of its own.
        scored_rows: the rows of a scoring pass, over all candidates.
        length: the tokens of a row.
    """
    size, head = trainer.base.dtype.itemsize, trainer.head.layer
    layers = [layer for layer in trainer.frozen.layers.values() if layer is not head]
    widths = [layer.in_features + layer.out_features for layer in layers]
    heads = getattr(trainer.model.config.get_text_config(), "num_attention_heads", None) or 1
    scores = length * heads  # of the attention, for each token
    training = len(candidates) * rows * length * (sum(widths) + scores * len(layers))
    scoring = scored_rows * length * (max(widths) + scores)
    logits = CHUNK * head.out_features * (4 + size)
    own = sum(one.state + one.per_token * rows * length for one in candidates)
    return int(
        bytes_in_use(trainer.base.device)
        + own
        + ACTIVATION_BYTES_BOUND * max(training, scoring)
        + 2 * logits
    )
