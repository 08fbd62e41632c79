"""Measure what passes take here, on a few hundred tokens of real rows."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from functools import partial

import torch

from rung.costs.memory_model import MemoryModel, candidate_memory, fit_activations
from rung.data.batches import Batch, collate
from rung.data.example import Example
from rung.engine.adapter_state import fresh_state
from rung.engine.pack import Pack
from rung.engine.process_memory import (
    give_back_freed_memory,
    peak_bytes,
    reset_peak,
    resident_bytes,
)
from rung.engine.trainer import Trainer
from rung.types import Candidate, Setting

PASSES = ((64, 0.25), (256, 1.0), (512, 0.5), (768, 1.0))
"""The measured passes: their tokens, and the length of a row as a share of the longest row's."""


def measure_memory(trainer: Trainer, setting: Setting, examples: Sequence[Example]) -> MemoryModel:
    """Measure what training and scoring passes take. They change no weights.

    Args:
        trainer: with no pack in it.
        setting: of the widest target modules that are to be planned for, since an adapted layer
            keeps its inputs.
        examples: rows of the data; the longest are used.
    """
    device = trainer.base.device
    longest = longest_rows(examples)
    candidate = Candidate(setting)
    own = candidate_memory(trainer.frozen, setting, trainer.base.dtype)
    with Pack(trainer.frozen, [candidate], [fresh_state(trainer.frozen, candidate, 0)]) as pack:
        batches = [probe_batch(longest, tokens, share, device) for tokens, share in PASSES]
        trainer.step(pack, batches[0], 0.0)  # some things are allocated once and then held
        training = [_peak(device, partial(trainer.step, pack, batch, 0.0)) for batch in batches]
        scoring = [_peak(device, partial(trainer.row_losses, pack, batch)) for batch in batches]
        held = bytes_in_use(device) - own.state
    shapes = [(batch.ids.numel(), batch.ids.shape[1]) for batch in batches]
    without_adapter = [
        peak - own.per_token * tokens for peak, (tokens, _) in zip(training, shapes, strict=True)
    ]
    return MemoryModel(
        held, fit_activations(shapes, without_adapter), fit_activations(shapes, scoring)
    )


def bytes_in_use(device: torch.device) -> int:
    """What the process holds, after it has given back the memory that it does not need."""
    give_back_freed_memory()
    held: int = torch.cuda.memory_allocated(device) if device.type == "cuda" else resident_bytes()
    return held


def _peak(device: torch.device, work: Callable[[], object]) -> int:
    """By how many bytes `work` raises what the process holds, at the most."""
    before = bytes_in_use(device)
    reset_peak(device)
    for _ in range(2):  # the second run finds the memory as fragmented as the first leaves it
        work()
    return max(0, peak_bytes(device) - before)


def longest_rows(examples: Sequence[Example], count: int = 64) -> list[Example]:
    """The longest rows, the longest first. Rows may be on disk, so they are read one by one."""
    return heapq.nlargest(count, examples, key=lambda example: len(example.ids))


def probe_batch(
    longest: Sequence[Example], tokens: int, share: float, device: torch.device
) -> Batch:
    """A batch of about so many tokens; each row has at least one token to complete.

    Args:
        longest: rows, the longest first; they are repeated or cut to length.
        tokens: of the whole batch.
        share: the length of its rows, as a share of the longest row's.
    """
    length = max(2, round(len(longest[0].ids) * share))
    rows = []
    for i in range(max(1, round(tokens / length))):
        example = longest[i % len(longest)]
        ids = (example.ids * -(-length // len(example.ids)))[:length]
        rows.append(Example(ids, max(1, min(example.prompt_length, length - 1))))
    return collate(rows, device)
