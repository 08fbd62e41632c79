"""Rows whose prompt has another row's prompt and answer in it: a conversation given as growing rows, or an example that
is shown before the question.

Such rows are not independent. Texts are compared by their letters and digits alone, in lower case, and by where words
end: `3 + 4` is not `34`. Each row's prompt
and answer together are a *needle*. The last 2ᵏ bytes of a needle, for the largest k that they have, are its *tail*:
wherever the last 2ᵏ bytes before the end of a word in a prompt have the hash of a tail, the whole needle is compared,
by a hash too. Hashes of all stretches come from one running sum (Karp and Rabin, 1987), so every text is gone through
once for each k, and no row is compared with all others. The last line of a prompt and the answer are a needle too, for
rows that have the last turns alone.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rung.data.arrow_store import Examples

Numbers = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

ANYWHERE = 24
"""A needle of so many letters counts wherever it stands in a prompt."""
FIRST, FIRST_LINES = 12, 4
"""A shorter one counts at the prompt's beginning: of so many letters, or of so many if a line ends there."""
COMMON = 0.02
"""What stands in so large a share of all prompts, and in more than a hundred, is a frame that they share."""
_COMMONEST = 100
_COMMONEST_LINES = 10
"""A line and its answer that stand in more prompts are a commonplace."""
_CANDIDATES = 64
"""Needles with one tail that are compared."""
_PIECE = 1 << 17
_BASE = 0x9E3779B97F4A7C15
"""Odd, so that it has an inverse among numbers of 64 bits."""

_LETTER = np.array([byte >= 0x80 or chr(byte).isalnum() for byte in range(256)])
_LOWER = np.array([byte + 32 * (65 <= byte <= 90) for byte in range(256)], dtype=np.uint8)
_VALUES: Hashes = np.random.default_rng(20).integers(1, 2**63, 512, dtype=np.uint64) * np.uint64(
    2
) + np.uint64(1)
"""Of each letter, and then of each that begins a word."""


@dataclass(frozen=True)
class Contained:
    """Pairs of rows, numbered through all splits: the prompt of `rows[i]` has all of row `inside[i]` in it. Where it is
    `partly`, that is only the last line of the prompt and the answer, as where each row has the last turns alone.
    """

    rows: Numbers
    inside: Numbers
    partly: npt.NDArray[np.bool_]


def contained(parts: Sequence[Examples]) -> Contained:
    """Every such pair of rows, but for what many prompts share. Of rows with one text `inside` is the first."""
    needles = _Needles(parts)
    rows, found = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    first = 0
    for piece in _pieces(parts):
        own, needle = needles.within(_Stream(piece))
        rows.append(own + first)
        found.append(needle)
        first += len(piece)
    row, needle = np.unique(np.stack([np.concatenate(rows), np.concatenate(found)]), axis=1)
    inside = needles.number[needle].astype(np.int64)
    partly = inside >= needles.rows
    most = np.where(partly, _COMMONEST_LINES, max(_COMMONEST, COMMON * first))
    rare = np.bincount(needle, minlength=1)[needle] <= most
    return Contained(row[rare], (inside % max(1, needles.rows))[rare], partly[rare])


def _pieces(parts: Sequence[Examples]) -> Iterator[list[tuple[str, str]]]:
    """The prompts and answers of all rows, about a megabyte at a time."""
    for part in parts:
        piece, size = list[tuple[str, str]](), 0
        for pair in part.pairs():
            piece.append(pair)
            size += len(pair[0]) + len(pair[1])
            if size >= _PIECE:
                yield piece
                piece, size = [], 0
        if piece:
            yield piece


class _Stream:
    """The letters of some rows behind one another. `starts`, `middles` and `ends` are where each row's prompt begins,
    and where it and the answer end; where there is no prompt, it is a `bare` text, which is looked through in the place
    of one. Lengths and places count letters, which are bytes of UTF-8.
    """

    def __init__(self, rows: Sequence[tuple[str, str]]) -> None:
        texts = [text.encode(errors="replace") for row in rows for text in row]
        raw = np.frombuffer(b"".join(texts), np.uint8)
        places = np.flatnonzero(_LETTER[raw])
        bounds = np.searchsorted(places, np.cumsum([0, *map(len, texts)]))
        self.starts, self.ends = bounds[:-1:2], bounds[2::2]
        # A text without a prompt may have another text in it.
        self.bare = bounds[1::2] == self.starts
        self.middles = np.where(self.bare, self.ends, bounds[1::2])
        letters = _LOWER[raw[places]]
        # Between which letters a word may end: where something stood there, or a script without spaces.
        count = len(letters)
        self.parts, self.lines = np.ones(count + 1, dtype=bool), np.zeros(count + 1, dtype=bool)
        self.parts[1:-1] = np.diff(places) > 1
        foreign = np.flatnonzero(letters >= 0x80)
        self.parts[foreign] = self.parts[foreign + 1] = True
        self.lines[np.searchsorted(places, np.flatnonzero(raw == 10))] = True
        self.parts[bounds] = self.lines[bounds] = True
        # What begins a word counts as another letter, but for the first letter of what is compared.
        begins = self.parts[:-1] & (letters < 0x80)
        begins[1:] &= letters[:-1] < 0x80
        values = _VALUES[letters + 256 * begins]
        self._first = _VALUES[letters] - values
        powers, self._inverse = _powers(count.bit_length())
        self._sums = np.zeros(count + 1, np.uint64)
        np.cumsum(values * powers[:count], out=self._sums[1:])

    def last_lines(self) -> Numbers:
        """Where the last line of each prompt begins."""
        before = np.maximum.accumulate(np.where(self.lines, np.arange(len(self.lines)), 0))
        found: Numbers = before[np.maximum(self.middles - 1, 0)]
        return found

    def hash(self, first: Numbers, end: Numbers) -> Hashes:
        """Of the letters from `first` up to `end`, each an array (n,): the same for the same letters wherever they
        stand.
        """
        found: Hashes = (self._sums[end] - self._sums[first]) * self._inverse[first]
        return found + self._first[first] * (end > first)


@functools.cache
def _powers(bits: int) -> tuple[Hashes, Hashes]:
    """The powers of the base, and their inverses, of so many bits' worth of letters."""
    both = [
        np.full((1 << bits) + 1, base, dtype=np.uint64) for base in (_BASE, pow(_BASE, -1, 2**64))
    ]
    for powers in both:
        powers[0] = 1
    return np.cumprod(both[0]), np.cumprod(both[1])


class _Needles:
    """The prompt and answer of every row that has both, each once, in the order of their tails.

    A needle has 24 bytes here, since there may be millions. `rows` counts the rows; the `number` of a needle is that of
    its row, and `rows` more for one that is the last line of a prompt and the answer.
    """

    def __init__(self, parts: Sequence[Examples]) -> None:
        self.rows = sum(map(len, parts))
        self.number, self.length = np.empty((2, 2 * self.rows), np.uint32)
        self.whole, self.tail = np.empty((2, 2 * self.rows), np.uint64)
        count = first = 0
        for piece in _pieces(parts):
            stream = _Stream(piece)
            both, last = stream.ends > stream.middles, stream.last_lines()
            count = self._take(stream, stream.starts, both | stream.bare, FIRST_LINES, first, count)
            count = self._take(
                stream, last, both & (last > stream.starts), FIRST, self.rows + first, count
            )
            first += len(piece)
        order = np.lexsort((self.number[:count], self.whole[:count], self.tail[:count]))
        # One at a time: each is copied.
        self.tail = self.tail[order]
        self.whole = self.whole[order]
        once = np.ones(count, dtype=bool)
        once[1:] = (self.tail[1:] != self.tail[:-1]) | (self.whole[1:] != self.whole[:-1])
        self.tail, self.whole = self.tail[once], self.whole[once]
        self.length = self.length[order][once]
        self.number = self.number[order][once]
        self._sizes = [int(size) for size in np.unique(_tail(self.length))]
        self._bits = max(16, int(len(self.tail) * 8).bit_length())
        self._seen = np.zeros(1 << self._bits, dtype=bool)
        self._seen[self._slot(self.tail)] = True

    def _take(
        self,
        stream: _Stream,
        starts: Numbers,
        usable: npt.NDArray[np.bool_],
        least: int,
        first: int,
        count: int,
    ) -> int:
        """Take in the stretch of each row from such a start to its answer's end, and say how many there are then."""
        usable = usable & (stream.ends - starts >= least)
        start, end = starts[usable], stream.ends[usable]
        size = _tail(end - start)
        own = slice(count, count + len(start))
        self.number[own] = np.flatnonzero(usable) + first
        self.length[own] = end - start
        self.whole[own] = stream.hash(start, end)
        self.tail[own] = stream.hash(end - size, end) ^ _mark(size)
        return own.stop

    def within(self, stream: _Stream) -> tuple[Numbers, Numbers]:
        """The rows of the stream that have a needle in their prompt, each with the needle's place."""
        # The ends of words in prompts, but not where a prompt begins.
        ends = np.flatnonzero(stream.parts)
        row_of = np.searchsorted(stream.starts, ends, side="left") - 1
        chosen = (row_of >= 0) & (ends <= stream.middles[row_of]) & (ends > stream.starts[row_of])
        row_of, ends = row_of[chosen], ends[chosen]
        rows, found = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for size in self._sizes:
            deep = ends - stream.starts[row_of] >= size
            if 2 * size <= ANYWHERE:
                deep &= ends - stream.starts[row_of] < 2 * size  # they count at the beginning alone
            own, end = row_of[deep], ends[deep]
            hit, needle = self._like(stream.hash(end - size, end) ^ _mark(np.array([size])))
            own, end = own[hit], end[hit]
            length = self.length[needle].astype(np.int64)
            begin = end - length
            fits = begin >= stream.starts[own]
            own, end, begin, needle, length = (
                own[fits],
                end[fits],
                begin[fits],
                needle[fits],
                length[fits],
            )
            enough = np.where(stream.lines[end], FIRST_LINES, FIRST)
            counts = np.where(
                begin == stream.starts[own],
                length >= enough,
                stream.parts[begin] & (length >= ANYWHERE),
            )
            counts &= stream.hash(begin, end) == self.whole[needle]
            counts &= (begin > stream.starts[own]) | (
                end < stream.ends[own]
            )  # a text is not within itself
            rows.append(own[counts])
            found.append(needle[counts])
        return np.concatenate(rows), np.concatenate(found)

    def _like(self, tails: Hashes) -> tuple[Numbers, Numbers]:
        """Which of them a needle has for its tail, each as often as there are such needles, and these needles."""
        maybe = np.flatnonzero(self._seen[self._slot(tails)])
        first = np.searchsorted(self.tail, tails[maybe], "left")
        count = np.minimum(np.searchsorted(self.tail, tails[maybe], "right") - first, _CANDIDATES)
        hit = np.repeat(maybe, count)
        within = np.arange(len(hit)) - np.repeat(np.cumsum(count) - count, count)
        return hit, np.repeat(first, count) + within

    def _slot(self, hashes: Hashes) -> Hashes:
        # The low bits of the sums say little, and the product brings all of them to the top.
        mixed = (hashes ^ (hashes >> np.uint64(29))) * np.uint64(_BASE)
        slot: Hashes = mixed >> np.uint64(64 - self._bits)
        return slot


def _tail(length: npt.NDArray[Any]) -> Numbers:
    """The largest power of two that is no more than each length."""
    found: Numbers = 1 << np.floor(np.log2(np.maximum(length, 1))).astype(np.int64)
    return found


def _mark(size: Numbers) -> Hashes:
    """What tells tails of that size from those of others."""
    found: Hashes = size.astype(np.uint64) * np.uint64(_BASE)
    return found
