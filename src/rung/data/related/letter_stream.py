"""The letters of many rows in one array, with a hash of any stretch of them.

Texts are compared by their letters and digits alone, in lower case, and by where words end: `3 + 4`
is not `34`. Hashes of all stretches come from one running sum (Karp and Rabin, 1987).

Lengths and places count letters, and a letter is a byte of UTF-8.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]

HASH_BASE = 0x9E3779B97F4A7C15
"""An odd number, so that it has an inverse among numbers of 64 bits."""

_IS_LETTER = np.array([byte >= 0x80 or chr(byte).isalnum() for byte in range(256)])
_LOWER = np.array([byte + 32 * (65 <= byte <= 90) for byte in range(256)], dtype=np.uint8)
_WORD_START = 256
"""Added to a letter that begins a word: it counts as another letter."""
_VALUES: Hashes = (
    np.random.default_rng(20).integers(1, 2**63, 2 * _WORD_START, dtype=np.uint64) * np.uint64(2)
    + np.uint64(1)
)  # fmt: skip
"""A random odd number for each letter, and for each letter that begins a word."""


class LetterStream:
    """The letters of some rows, one row after the other.

    Args:
        rows: the prompt and the answer of each row.

    Attributes:
        starts, middles, ends: (n,), where each row's prompt begins, where it ends, and where the
            answer ends. A row without a prompt is searched like a prompt, so its
            `middles` is its end.
        has_no_prompt: (n,).
        is_word_end: (letters + 1,), whether a word may end before each letter. This is where
            something stood between two letters, and anywhere in a script without spaces.
        is_line_end: (letters + 1,), the same for lines.
    """

    def __init__(self, rows: Sequence[tuple[str, str]]) -> None:
        texts = [text.encode(errors="replace") for row in rows for text in row]
        raw = np.frombuffer(b"".join(texts), np.uint8)
        places = np.flatnonzero(_IS_LETTER[raw])
        bounds = np.searchsorted(places, np.cumsum([0, *map(len, texts)]))
        self.starts, self.ends = bounds[:-1:2], bounds[2::2]
        self.has_no_prompt = bounds[1::2] == self.starts
        self.middles = np.where(self.has_no_prompt, self.ends, bounds[1::2])
        letters = _LOWER[raw[places]]
        count = len(letters)
        self.is_word_end = np.ones(count + 1, dtype=bool)
        self.is_line_end = np.zeros(count + 1, dtype=bool)
        self.is_word_end[1:-1] = np.diff(places) > 1
        not_ascii = np.flatnonzero(letters >= 0x80)
        self.is_word_end[not_ascii] = self.is_word_end[not_ascii + 1] = True
        self.is_line_end[np.searchsorted(places, np.flatnonzero(raw == ord("\n")))] = True
        self.is_word_end[bounds] = self.is_line_end[bounds] = True
        begins_word = self.is_word_end[:-1] & (letters < 0x80)
        begins_word[1:] &= letters[:-1] < 0x80
        values = _VALUES[letters + _WORD_START * begins_word]
        # The first letter of a stretch counts the same whether or not a word begins there.
        self._first_correction = _VALUES[letters] - values
        powers, self._inverse_powers = _powers(count.bit_length())
        self._sums = np.zeros(count + 1, np.uint64)
        np.cumsum(values * powers[:count], out=self._sums[1:])

    def last_lines(self) -> Numbers:
        """(n,): where the last line of each prompt begins."""
        line_start = np.maximum.accumulate(
            np.where(self.is_line_end, np.arange(len(self.is_line_end)), 0)
        )
        starts: Numbers = line_start[np.maximum(self.middles - 1, 0)]
        return starts

    def hash(self, first: Numbers, end: Numbers) -> Hashes:
        """Hashes of the letters from `first` up to `end`; all three are (n,).

        The same letters have the same hash at any place.
        """
        shifted: Hashes = (self._sums[end] - self._sums[first]) * self._inverse_powers[first]
        return shifted + self._first_correction[first] * (end > first)


@functools.cache
def _powers(bits: int) -> tuple[Hashes, Hashes]:
    """The powers of the base, and of its inverse, for up to 2^bits letters."""
    both = [
        np.full((1 << bits) + 1, base, dtype=np.uint64)
        for base in (HASH_BASE, pow(HASH_BASE, -1, 2**64))
    ]
    for powers in both:
        powers[0] = 1
    return np.cumprod(both[0]), np.cumprod(both[1])
