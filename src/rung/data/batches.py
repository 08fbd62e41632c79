"""The one deterministic order of batches: the seed and the data alone decide which rows a step has.

Every candidate of one seed sees the same batches in the same order, in whatever pack it is trained.
This makes two candidates comparable row by row. Another seed has another order, because the order
of the rows is as much a part of the randomness of training as the first weights.

For each pass, rows are shuffled, sorted by length inside of windows of batches, and cut into
batches; then the batches of each window are shuffled. This needs little padding, and the order is
still random. The second shuffle is the same for all seeds, so seeds that train side by side have
batches of similar length at every step.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rung.data.example import Example

ORDER_VERSION = 2
"""The version of this order. A study that began with another version cannot be resumed."""
_MAX_WINDOW_BATCHES = 16
"""A pass has two windows or more, so that the seed decides which rows share a batch."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one step: B rows, T tokens (padded at the end), M trained tokens in all.

    A causal model never looks at later tokens, so the padding needs no mask.

    Attributes:
        ids: (B, T), int64.
        positions: (M,), int64: the places in the flattened (B·T) whose *next* token is trained on.
        labels: (M,), int64: these next tokens.
        rows: (M,), int64: the row of each.
        tokens: The number of tokens without padding.
    """

    ids: Tensor
    positions: Tensor
    labels: Tensor
    rows: Tensor
    tokens: int

    def part(self, first: int, last: int) -> Batch:
        """The rows from `first` up to `last`, padded as here. Its `tokens` include the padding."""
        rows, width = self.ids.shape
        if (first, last) == (0, rows):
            return self
        selected = (self.rows >= first) & (self.rows < last)
        return Batch(
            self.ids[first:last],
            self.positions[selected] - first * width,
            self.labels[selected],
            self.rows[selected] - first,
            (last - first) * width,
        )


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """The batches of K candidates side by side.

    Each is padded to the most rows B, tokens T and trained tokens M.

    Attributes:
        ids: (K·B, T), int64.
        places: (K, M), int64: the places in the flattened (B·T) that predict a trained token.
        labels: (K, M), int64: these tokens.
        counted: (K, M), bool: which of them are not padding.
        alike: Whether all candidates have the same batch.
    """

    ids: Tensor
    places: Tensor
    labels: Tensor
    counted: Tensor
    alike: bool


def side_by_side(batches: Sequence[Batch]) -> PackedBatch:
    """Join one batch for each candidate. Candidates with the same batch share the object."""
    first, count = batches[0], len(batches)
    if all(batch is first for batch in batches):
        counted = torch.ones(count, len(first.labels), dtype=torch.bool, device=first.ids.device)
        places, labels = first.positions.expand(count, -1), first.labels.expand(count, -1)
        return PackedBatch(first.ids.repeat(count, 1), places, labels, counted, alike=True)
    rows, width = (max(batch.ids.shape[axis] for batch in batches) for axis in (0, 1))
    most = max(len(batch.labels) for batch in batches)
    ids = first.ids.new_zeros(count, rows, width)
    places, labels = first.positions.new_zeros(2, count, most)
    counted = torch.zeros(count, most, dtype=torch.bool, device=first.ids.device)
    for k, batch in enumerate(batches):
        batch_rows, batch_width = batch.ids.shape
        tokens = len(batch.labels)
        ids[k, :batch_rows, :batch_width] = batch.ids
        places[k, :tokens] = batch.positions // batch_width * width + batch.positions % batch_width
        labels[k, :tokens] = batch.labels
        counted[k, :tokens] = True
    return PackedBatch(ids.view(count * rows, width), places, labels, counted, alike=False)


def steps_per_pass(rows: int, batch_size: int) -> int:
    """The steps of one pass over the rows."""
    return math.ceil(rows / batch_size)


def order(
    lengths: Sequence[int], batch_size: int, study_seed: int, seed: int, pass_number: int
) -> list[list[int]]:
    """The batches of one pass, as row numbers: every row once, and at most one short batch.

    Args:
        lengths: The tokens of each row.
        batch_size: The rows of a batch.
        study_seed: Decides at which steps the batches of short and of long rows come.
        seed: The candidate's seed, which decides which rows share a batch.
        pass_number: Counts the passes from 0.
    """
    row_generator = random.Random(f"order:{study_seed}:{seed}:{pass_number}")
    batch_generator = random.Random(f"places:{study_seed}:{pass_number}")
    rows = list(range(len(lengths)))
    row_generator.shuffle(rows)
    batches: list[list[int]] = []
    window_size = batch_size * max(1, min(_MAX_WINDOW_BATCHES, len(rows) // batch_size // 2))
    for start in range(0, len(rows), window_size):
        window = sorted(rows[start : start + window_size], key=lambda row: lengths[row])
        window_batches = _cut(window, batch_size)
        batch_generator.shuffle(window_batches)
        batches += window_batches
    return batches


def _cut(rows: Sequence[int], batch_size: int) -> list[list[int]]:
    return [list(rows[i : i + batch_size]) for i in range(0, len(rows), batch_size)]


class BatchOrder:
    """The steps of a candidate's full budget: `count` steps of up to `batch_size` rows.

    Args:
        lengths: The tokens of each training row.
        batch_size: The rows of a step.
        passes: Passes over the rows; may be less than one.
        seed: The study's seed.

    Attributes:
        rows: A function from a candidate's seed to the row numbers of each step.
        tokens: A function from a candidate's seed to the training tokens of each step, for one
            candidate.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, passes: float, seed: int) -> None:
        self.lengths, self.batch_size, self.seed = list(lengths), batch_size, seed
        self.count = max(1, round(passes * steps_per_pass(len(self.lengths), batch_size)))
        self.rows = functools.cache(self._rows)
        self.tokens = functools.cache(self._tokens)

    def _rows(self, seed: int) -> list[list[int]]:
        passes = math.ceil(self.count / steps_per_pass(len(self.lengths), self.batch_size))
        batches = [
            rows
            for pass_number in range(passes)
            for rows in order(self.lengths, self.batch_size, self.seed, seed, pass_number)
        ]
        return batches[: self.count]

    def _tokens(self, seed: int) -> list[int]:
        return [sum(self.lengths[row] for row in rows) for rows in self.rows(seed)]


def by_length(
    lengths: Sequence[int], batch_size: int, kinds: Sequence[int] | None = None
) -> list[list[int]]:
    """Batches for scoring and generation, where the order does not matter, as row numbers.

    Args:
        lengths: The tokens of each row. Rows are sorted by them, so padding is small.
        batch_size: The rows of a batch.
        kinds: The kind of each row; a batch has rows of one kind only.
    """
    rows = sorted(range(len(lengths)), key=lambda row: lengths[row])
    if kinds is None:
        return _cut(rows, batch_size)
    return [
        batch
        for kind in sorted(set(kinds))
        for batch in _cut([row for row in rows if kinds[row] == kind], batch_size)
    ]


def collate(examples: Sequence[Example], device: torch.device | str = "cpu") -> Batch:
    """The tensors of one batch."""
    width = max(len(example.ids) for example in examples)
    ids = torch.zeros(len(examples), width, dtype=torch.int64)
    positions: list[int] = []
    labels: list[int] = []
    rows: list[int] = []
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        for first, end in example.learned_spans:
            first = max(first, 1)  # nothing predicts the first token
            positions += range(row * width + first - 1, row * width + end - 1)
            labels += example.ids[first:end]
        rows += [row] * example.loss_tokens
    return Batch(
        ids.to(device),
        torch.tensor(positions).to(device),
        torch.tensor(labels).to(device),
        torch.tensor(rows).to(device),
        sum(len(example.ids) for example in examples),
    )


def left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Prompts as token ids, padded at the front.

    Returns:
        The ids (B, T), int64, and the mask (B, T), int64: 1 for each token that is not padding.
    """
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = torch.tensor(prompt)
        mask[i, width - len(prompt) :] = 1
    return ids, mask
