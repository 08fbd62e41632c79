"""The one deterministic order: which rows are in which step, decided by the seed and the data alone.

Every candidate of one seed sees these batches, in this order, in whatever pack it is trained: that is what makes two of
them comparable row by row. Another seed has another order, since what training owes to chance is the order of its rows
as much as its first weights. Rows are shuffled for each pass, sorted by length within windows of batches, cut into
batches, and the batches of a window shuffled again: little padding, and still a random order. That second shuffle moves
the same places in every seed, so that seeds that train side by side have batches of like lengths at every step.
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

WINDOW = 16
"""The most batches of a window. A pass has two windows or more, so that the seed decides which rows share a batch."""
ORDER = 2
"""Which order this is: a study that has begun with another cannot go on with it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's rows. B rows, T tokens (padded at the end), M completion tokens in all.

    `ids` is (B, T), int64. `positions` (M,) are the places in the flattened (B·T) whose *next* token is of a
    completion, `labels` (M,) those next tokens, and `rows` (M,) the row each belongs to. `tokens` counts the real
    tokens. A causal model never looks at what stands after a token, so the padding needs no mask.
    """

    ids: Tensor
    positions: Tensor
    labels: Tensor
    rows: Tensor
    tokens: int

    def part(self, first: int, last: int) -> Batch:
        """The rows `first` to `last`, padded as they are here. `tokens` counts the padding then."""
        rows, width = self.ids.shape
        if (first, last) == (0, rows):
            return self
        own = (self.rows >= first) & (self.rows < last)
        return Batch(
            self.ids[first:last],
            self.positions[own] - first * width,
            self.labels[own],
            self.rows[own] - first,
            (last - first) * width,
        )


@dataclass(frozen=True, slots=True)
class Rows:
    """The batches of K candidates side by side, each padded to the most rows B, tokens T and completion tokens M.

    `ids` is (K·B, T). `places` (K, M) are the places in the flattened (B·T) that predict, `labels` (K, M) what they do,
    and `counted` (K, M) says which of them are there. `alike` says that all candidates have the same batch.
    """

    ids: Tensor
    places: Tensor
    labels: Tensor
    counted: Tensor
    alike: bool


def side_by_side(batches: Sequence[Batch]) -> Rows:
    """The rows of a pass: a batch for each candidate; those that share one share the object."""
    one, count = batches[0], len(batches)
    if all(batch is one for batch in batches):
        counted = torch.ones(count, len(one.labels), dtype=torch.bool, device=one.ids.device)
        places, labels = one.positions.expand(count, -1), one.labels.expand(count, -1)
        return Rows(one.ids.repeat(count, 1), places, labels, counted, alike=True)
    rows, width = max(b.ids.shape[0] for b in batches), max(b.ids.shape[1] for b in batches)
    most = max(len(b.labels) for b in batches)
    ids = one.ids.new_zeros(count, rows, width)
    places, labels = one.positions.new_zeros(2, count, most)
    counted = torch.zeros(count, most, dtype=torch.bool, device=one.ids.device)
    for k, batch in enumerate(batches):
        own, tokens = batch.ids.shape[1], len(batch.labels)
        ids[k, : batch.ids.shape[0], :own] = batch.ids
        places[k, :tokens] = batch.positions // own * width + batch.positions % own
        labels[k, :tokens] = batch.labels
        counted[k, :tokens] = True
    return Rows(ids.view(count * rows, width), places, labels, counted, alike=False)


def steps_per_pass(rows: int, batch_size: int) -> int:
    return math.ceil(rows / batch_size)


def order(
    lengths: Sequence[int], batch_size: int, study_seed: int, seed: int, number: int
) -> list[list[int]]:
    """The batches of the pass `number` as row numbers: every row once; only one batch may be short.

    `seed` decides which rows stand together, and the study's seed where the short and the long ones come.
    """
    draw, places = (
        random.Random(f"order:{study_seed}:{seed}:{number}"),
        random.Random(f"places:{study_seed}:{number}"),
    )
    rows = list(range(len(lengths)))
    draw.shuffle(rows)
    batches: list[list[int]] = []
    size = batch_size * max(1, min(WINDOW, len(rows) // batch_size // 2))
    for start in range(0, len(rows), size):
        window = sorted(rows[start : start + size], key=lambda row: lengths[row])
        cut = [window[i : i + batch_size] for i in range(0, len(window), batch_size)]
        places.shuffle(cut)
        batches += cut
    return batches


class Steps:
    """A candidate's full budget, step by step: `count` steps of up to `batch_size` rows.

    Args:
        lengths: the tokens of each training row.
        batch_size: rows in a step.
        passes: over the rows; may be less than one.
        seed: the study's.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, passes: float, seed: int) -> None:
        self.lengths, self.batch_size, self.seed = list(lengths), batch_size, seed
        self.count = max(1, round(passes * steps_per_pass(len(self.lengths), batch_size)))
        self.rows = functools.cache(self._rows)
        self.tokens = functools.cache(self._tokens)

    def _rows(self, seed: int) -> list[list[int]]:
        """The rows of each step, for candidates of that seed."""
        passes = range(-(-self.count // steps_per_pass(len(self.lengths), self.batch_size)))
        every = [
            rows
            for i in passes
            for rows in order(self.lengths, self.batch_size, self.seed, seed, i)
        ]
        return every[: self.count]

    def _tokens(self, seed: int) -> list[int]:
        """The training tokens of each step, for one candidate of that seed."""
        return [sum(self.lengths[row] for row in rows) for rows in self.rows(seed)]


def by_length(
    lengths: Sequence[int], batch_size: int, kinds: Sequence[int] | None = None
) -> list[list[int]]:
    """Batches for scoring and writing, where the order says nothing: sorted by length, each of one kind alone."""
    rows = sorted(range(len(lengths)), key=lambda row: lengths[row])
    parts = (
        [rows]
        if kinds is None
        else [[row for row in rows if kinds[row] == kind] for kind in sorted(set(kinds))]
    )
    return [part[i : i + batch_size] for part in parts for i in range(0, len(part), batch_size)]


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
    """Token ids (B, T), padded at the front, and the mask of those that are real."""
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = torch.tensor(prompt)
        mask[i, width - len(prompt) :] = 1
    return ids, mask
