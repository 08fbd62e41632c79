"""Rows whose prompt contains another row's prompt and answer.

A conversation may be given as rows that grow, or an example may be shown before the question. Such
rows are not independent.

Each row's prompt and answer together are a *needle*. The last 2ᵏ letters of a needle, for the
largest k that they have, are its *tail*. Wherever the last 2ᵏ letters before the end of a word in a
prompt have the hash of a tail, the whole needle is compared, by a hash too. So every text is read
once for each k, and no row is compared with all others. The last line of a prompt and the
answer are a needle too, for rows that have only the last turns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rung.data.arrow_store import Examples
from rung.data.related.letter_stream import HASH_BASE, Flags, Hashes, LetterStream, Numbers

MIN_LETTERS = 24
"""A needle with this many letters counts anywhere in a prompt."""
MIN_LETTERS_AT_START = 12
"""A shorter needle counts at the start of a prompt, from this many letters on."""
MIN_LETTERS_OF_FIRST_LINES = 4
"""From this many letters on, it counts at the start of a prompt if a line ends after it."""
MAX_SHARE_OF_PROMPTS = 0.02
"""What is in a larger share of all prompts, and in more than a hundred of them, is a frame that
the prompts share."""
_MAX_PROMPTS = 100
_MAX_PROMPTS_OF_LAST_LINE = 10
"""A last line and its answer that are in more prompts are a commonplace, such as thanks."""
_MAX_NEEDLES_OF_TAIL = 64
"""How many needles with one tail are compared."""
PIECE_LETTERS = 1 << 17
"""How much text is searched at a time."""


@dataclass(frozen=True)
class ContainedRows:
    """Pairs of rows, numbered through all splits.

    Attributes:
        rows, inside: (n,), the prompt of `rows[i]` contains all of row `inside[i]`.
        is_partial: (n,), whether it contains only the last line of the prompt, and the answer.
    """

    rows: Numbers
    inside: Numbers
    is_partial: Flags


def find_contained_rows(
    splits: Sequence[Examples], piece_letters: int = PIECE_LETTERS
) -> ContainedRows:
    """Find all such pairs, except for what many prompts share.

    If several rows have one text, `inside` is the first of them.
    """
    needles = _Needles(splits, piece_letters)
    rows, found = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    count = 0
    for piece in _pieces(splits, piece_letters):
        row, needle = needles.find_in_prompts(LetterStream(piece))
        rows.append(row + count)
        found.append(needle)
        count += len(piece)
    row, needle = np.unique(np.stack([np.concatenate(rows), np.concatenate(found)]), axis=1)
    numbers = needles.number[needle].astype(np.int64)
    is_partial = numbers >= needles.rows
    max_prompts = np.where(
        is_partial, _MAX_PROMPTS_OF_LAST_LINE, max(_MAX_PROMPTS, MAX_SHARE_OF_PROMPTS * count)
    )
    is_rare = np.bincount(needle, minlength=1)[needle] <= max_prompts
    inside = numbers % max(1, needles.rows)
    return ContainedRows(row[is_rare], inside[is_rare], is_partial[is_rare])


def _pieces(splits: Sequence[Examples], letters: int) -> Iterator[list[tuple[str, str]]]:
    """The prompts and answers of all rows, some at a time."""
    for split in splits:
        piece, size = list[tuple[str, str]](), 0
        for pair in split.pairs():
            piece.append(pair)
            size += len(pair[0]) + len(pair[1])
            if size >= letters:
                yield piece
                piece, size = [], 0
        if piece:
            yield piece


class _Needles:
    """The prompt and answer of every row that has both, each once, in the order of their tails.

    There may be millions of them, so a needle takes only 24 bytes here.

    Attributes:
        rows: how many rows there are.
        number: (n,), the number of each needle's row. For the last line of a prompt and the answer
            it is `rows` more.
        length: (n,), in letters.
        whole, tail: (n,), the hashes of the needle and of its tail.
    """

    def __init__(self, splits: Sequence[Examples], piece_letters: int) -> None:
        self.rows = sum(map(len, splits))
        self.number, self.length = np.empty((2, 2 * self.rows), np.uint32)
        self.whole, self.tail = np.empty((2, 2 * self.rows), np.uint64)
        count = first_row = 0
        for piece in _pieces(splits, piece_letters):
            stream = LetterStream(piece)
            has_answer = stream.ends > stream.middles
            last_lines = stream.last_lines()
            count = self._add(
                count,
                stream,
                stream.starts,
                (has_answer | stream.has_no_prompt)
                & (stream.ends - stream.starts >= MIN_LETTERS_OF_FIRST_LINES),
                first_row,
            )
            count = self._add(
                count,
                stream,
                last_lines,
                has_answer
                & (last_lines > stream.starts)
                & (stream.ends - last_lines >= MIN_LETTERS_AT_START),
                self.rows + first_row,
            )
            first_row += len(piece)
        self._sort(count)
        self._sizes = [int(size) for size in np.unique(_tail_length(self.length))]
        # A table with a bit for each tail, so that most places are ruled out by one look.
        self._table_bits = max(16, int(len(self.tail) * 8).bit_length())
        self._has_tail = np.zeros(1 << self._table_bits, dtype=bool)
        self._has_tail[self._slot(self.tail)] = True

    def _add(
        self,
        count: int,
        stream: LetterStream,
        starts: Numbers,
        is_needle: npt.NDArray[np.bool_],
        first_number: int,
    ) -> int:
        """Add a needle for each chosen row, from `starts` to the end of its answer.

        Args:
            count: how many needles there are already.
            starts, is_needle: (n,), for each row of the stream.
            first_number: the number of the stream's first row.

        Returns:
            How many needles there are now.
        """
        start, end = starts[is_needle], stream.ends[is_needle]
        size = _tail_length(end - start)
        added = slice(count, count + len(start))
        self.number[added] = np.flatnonzero(is_needle) + first_number
        self.length[added] = end - start
        self.whole[added] = stream.hash(start, end)
        self.tail[added] = stream.hash(end - size, end) ^ _size_mark(size)
        return added.stop

    def _sort(self, count: int) -> None:
        """Put the needles in the order of their tails, each text once, as that of the first row."""
        order = np.lexsort((self.number[:count], self.whole[:count], self.tail[:count]))
        # One array at a time, since each is copied.
        self.tail = self.tail[order]
        self.whole = self.whole[order]
        is_first = np.ones(count, dtype=bool)
        is_first[1:] = (self.tail[1:] != self.tail[:-1]) | (self.whole[1:] != self.whole[:-1])
        self.tail, self.whole = self.tail[is_first], self.whole[is_first]
        self.length = self.length[order][is_first]
        self.number = self.number[order][is_first]

    def find_in_prompts(self, stream: LetterStream) -> tuple[Numbers, Numbers]:
        """The rows of the stream that have a needle in their prompt, and the needles' places."""
        # The ends of words in prompts, but not where a prompt begins.
        ends = np.flatnonzero(stream.is_word_end)
        row_of = np.searchsorted(stream.starts, ends, side="left") - 1
        in_prompt = (row_of >= 0) & (ends <= stream.middles[row_of])
        in_prompt &= ends > stream.starts[row_of]
        row_of, ends = row_of[in_prompt], ends[in_prompt]
        depth = ends - stream.starts[row_of]
        rows, found = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for size in self._sizes:
            has_room = depth >= size
            if 2 * size <= MIN_LETTERS:
                # Such a short needle counts only at the start of a prompt.
                has_room &= depth < 2 * size
            row, end = row_of[has_room], ends[has_room]
            tails = stream.hash(end - size, end) ^ _size_mark(np.array([size]))
            hit, needle = self._with_tail(tails)
            row, end = row[hit], end[hit]
            is_match = self._is_match(stream, row, end, needle)
            rows.append(row[is_match])
            found.append(needle[is_match])
        return np.concatenate(rows), np.concatenate(found)

    def _is_match(self, stream: LetterStream, row: Numbers, end: Numbers, needle: Numbers) -> Flags:
        """(n,): whether the whole needle ends at `end` in the row, and counts there."""
        length = self.length[needle].astype(np.int64)
        begin = end - length
        start = stream.starts[row]
        fits = begin >= start
        # Where it does not fit, any place that exists will do for the look-ups.
        begin = np.where(fits, begin, start)
        min_at_start = np.where(
            stream.is_line_end[end], MIN_LETTERS_OF_FIRST_LINES, MIN_LETTERS_AT_START
        )
        counts: Flags = np.where(
            begin == start,
            length >= min_at_start,
            stream.is_word_end[begin] & (length >= MIN_LETTERS),
        )
        counts &= fits & (stream.hash(begin, end) == self.whole[needle])
        # A text does not contain itself.
        return counts & ((begin > start) | (end < stream.ends[row]))

    def _with_tail(self, tails: Hashes) -> tuple[Numbers, Numbers]:
        """The places in `tails` of those that needles have, and these needles.

        A place comes once for each of its needles.
        """
        maybe = np.flatnonzero(self._has_tail[self._slot(tails)])
        first = np.searchsorted(self.tail, tails[maybe], "left")
        count = np.searchsorted(self.tail, tails[maybe], "right") - first
        count = np.minimum(count, _MAX_NEEDLES_OF_TAIL)
        hit = np.repeat(maybe, count)
        within = np.arange(len(hit)) - np.repeat(np.cumsum(count) - count, count)
        return hit, np.repeat(first, count) + within

    def _slot(self, hashes: Hashes) -> Hashes:
        # The low bits of the sums vary little. The product brings all bits to the top.
        mixed = (hashes ^ (hashes >> np.uint64(29))) * np.uint64(HASH_BASE)
        slot: Hashes = mixed >> np.uint64(64 - self._table_bits)
        return slot


def _tail_length(length: npt.NDArray[Any]) -> Numbers:
    """The largest power of two that is at most each length."""
    size: Numbers = 1 << np.floor(np.log2(np.maximum(length, 1))).astype(np.int64)
    return size


def _size_mark(size: Numbers) -> Hashes:
    """A number that keeps tails of this size apart from those of others."""
    mark: Hashes = size.astype(np.uint64) * np.uint64(HASH_BASE)
    return mark
