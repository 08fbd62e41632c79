"""Leakage: rows that Rung judges by and that are also trained on, whole or in part.

They flatter any model that memorizes. Two rows are the same if they differ only in case, white
space and punctuation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rung.data.arrow_store import Examples, Texts
from rung.data.audit.finding import Finding, RowList
from rung.data.prepare import Data
from rung.data.related.contained_rows import find_contained_rows
from rung.data.related.repeated_questions import find_repeated_questions
from rung.data.rows import normalize

_TRAIN = 2
"""The place of the training split in `_Splits`."""
_SHAPES_WITH_HISTORY = ("messages", "sharegpt", "text")
"""The shapes of rows in which all turns are trained on, and not only the last answer."""


def check_repeated_rows(data: Data) -> Iterator[Finding]:
    """Rows that are in two splits, and rows that are twice in the training split."""
    rows: dict[int, tuple[str, str]] = {}
    prompts: dict[int, tuple[str, str]] = {}
    same_rows, same_prompts = RowList(), RowList()
    # Only the held-out rows are kept in memory, as hashes.
    for split in ("test", "validation", "train"):
        for text in data.splits[split].every_text():
            prompt = normalize(text.prompt)
            row_hash, prompt_hash = _hash(f"{prompt}\n{normalize(text.answer)}"), _hash(prompt)
            if (other := rows.get(row_hash)) and other[0] != split:
                same_rows.add(f"{text.location} = {other[1]}")
            elif text.prompt and (other := prompts.get(prompt_hash)) and other[0] != split:
                same_prompts.add(f"{text.location} ~ {other[1]}")
            if split != "train":
                rows.setdefault(row_hash, (split, text.location))
                prompts.setdefault(prompt_hash, (split, text.location))
    if same_rows.count:
        count = same_rows.counted("row stands", "rows stand")
        message = f"{count} in two splits, so memorizing them looks like learning: {same_rows}."
        yield Finding("leakage", "error", message)
    if same_prompts.count:
        count = same_prompts.counted("row has", "rows have")
        message = f"{count} a prompt that another split has too: {same_prompts}."
        yield Finding("same_prompt", "warning", message)
    hashes = np.fromiter(
        (_hash(f"{text.prompt}\n{text.answer}") for text in data.train.every_text()),
        np.uint64,
        len(data.train),
    )
    if repeated := len(hashes) - len(np.unique(hashes)):
        message = (
            f"{repeated:,} of {len(hashes):,} training rows repeat an earlier row, which counts "
            "twice or more."
        )
        yield Finding("duplicates", "note", message)


def check_contained_rows(data: Data) -> Iterator[Finding]:
    """Rows whose prompt contains another row, as in a conversation given answer by answer."""
    stats = data.stats
    if stats.grouped_rows:
        message = (
            f"{stats.grouped_rows:,} rows contain the prompt and the answer of another row, as the "
            "rows of one conversation do, or ask and answer the same as another; such rows are "
            "kept in one split and count as one."
        )
        yield Finding("grown", "note", message)
    if len(stats.made_splits) == 2 and not stats.ungrouped_rows:
        return
    splits = _Splits(data)
    pairs = find_contained_rows(splits.parts)
    columns = (pairs.rows, pairs.inside, pairs.is_partial)
    trained_on, others = dict[int, int](), dict[int, int]()
    for (row, inside, is_partial), to, of in zip(
        zip(*(column.tolist() for column in columns), strict=True),
        splits.split_of(pairs.rows),
        splits.split_of(pairs.inside),
        strict=True,
    ):
        if to == of:
            continue
        if to == _TRAIN and not is_partial and stats.record_format in _SHAPES_WITH_HISTORY:
            trained_on.setdefault(inside, row)
        elif to == _TRAIN:
            others.setdefault(inside, row)
        else:
            others.setdefault(row, inside)
    if trained_on:
        rows = splits.name_pairs(trained_on, "⊂")
        count = rows.counted("held-out row is", "held-out rows are")
        what = "texts" if stats.record_format == "text" else "conversations"
        message = f"{count} part of {what} in the training split, which trains on them: {rows}."
        yield Finding("leakage", "error", message)
    if others:
        rows = splits.name_pairs(others, "~")
        count = rows.counted("row has", "rows have")
        message = f"{count} all of another split's row in the prompt, or the reverse: {rows}."
        yield Finding("same_prompt", "warning", message)


def check_same_questions(data: Data) -> Iterator[Finding]:
    """Rows that ask and answer the same as a row of another split, though the prompts differ."""
    splits = _Splits(data)
    pairs = find_repeated_questions(splits.parts, data.stats.record_format)
    columns = (pairs.rows, pairs.first_rows, pairs.last_question_only, pairs.one_answer)
    known = list(
        zip(
            *(column.tolist() for column in columns),
            splits.split_of(pairs.rows),
            splits.split_of(pairs.first_rows),
            strict=True,
        )
    )
    # Pairs name the first row of a kind, which is a held-out one if any is. So look up a training
    # row of each kind too.
    training_rows = {
        (first, loosely): row for row, first, loosely, _, to, _ in reversed(known) if to == _TRAIN
    }
    trained_on, others = dict[int, str](), dict[int, str]()
    for row, first, loosely, sure, to, of in known:
        kind = (first, loosely)
        held_out, split = (first, of) if to == _TRAIN else (row, to)
        other = row if to == _TRAIN else training_rows.get(kind, first)
        is_leak = sure and not loosely and kind in training_rows
        if split == _TRAIN or (other == first and to == of):
            continue
        if held_out in trained_on or (loosely and not sure):
            continue
        one, two = splits.text(held_out), splits.text(other)
        # The same prompts are a finding of `check_repeated_rows`.
        if normalize(one.prompt) != normalize(two.prompt) and (is_leak or held_out not in others):
            (trained_on if is_leak else others)[held_out] = f"{one.location} ~ {two.location}"
    if trained_on:
        rows = RowList(list(trained_on.values()))
        count = rows.counted("held-out row asks and answers", "held-out rows ask and answer")
        message = f"{count} the same as training rows, with another system prompt or none: {rows}."
        yield Finding("leakage", "error", message)
    if names := [name for row, name in others.items() if row not in trained_on]:
        rows = RowList(names)
        message = (
            f"In {rows.counted('row', 'rows')} the last question and the answer are those of a row "
            f"in another split, after other text: {rows}."
        )
        yield Finding("same_prompt", "warning", message)


class _Splits:
    """The rows of all splits, numbered through: the held-out ones first.

    If several rows have one text, the checks below name the first. So a held-out row is named if
    there is one.
    """

    def __init__(self, data: Data) -> None:
        self.parts: Sequence[Examples] = [
            data.splits[name] for name in ("validation", "test", "train")
        ]
        self._starts = np.cumsum([0, *map(len, self.parts)])

    def split_of(self, rows: Any) -> list[int]:
        """The place in `parts` of each row's split; `rows` is (n,)."""
        places = np.searchsorted(self._starts, rows, side="right") - 1
        return [int(place) for place in places]

    def text(self, row: int) -> Texts:
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self.parts[part].texts(row - int(self._starts[part]))

    def name_pairs(self, pairs: dict[int, int], sign: str) -> RowList:
        """A list of pairs of rows, by their places."""
        return RowList(
            [
                f"{self.text(row).location} {sign} {self.text(other).location}"
                for row, other in pairs.items()
            ]
        )


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
