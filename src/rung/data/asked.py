"""Rows that ask the same and are answered the same, under another system prompt or after other words: the same sample.

Two things are compared, each with the answer: all that a chat asks but for its system turn; and, loosely, its last
question alone, be it the last turn, alpaca's `input` or the last line of a plain text. Loosely the same are rows of a
text that many are asked about, too, so that counts for less.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rung.data.schema import Row, flat, normal

if TYPE_CHECKING:
    from rung.data.arrow_store import Examples

Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
LEAST = 12
"""Bytes of a question. A shorter one may be asked anywhere."""
COMMON = 0.02
"""What so large a share of all rows asks, and more than a hundred rows, is part of a frame."""
_COMMONEST = 100
_COMMONEST_LAST = 10
"""More rows with one last question and answer are a commonplace, such as thanks."""
_ODD = np.uint64(0x9E3779B97F4A7C15)


def hashes(row: Row, answer: str) -> tuple[int, int, int]:
    """Of what a row asks, of its last question, and of its answer; 0 where there is no such thing."""
    whole, last = _asked(row)
    return _hash(whole, LEAST), _hash(last, LEAST), _hash(answer, 1)


def _asked(row: Row) -> tuple[str, str]:
    if isinstance(row.prompt, str):
        lines = [line for line in row.prompt.splitlines() if line.strip()]
        long = (line for line in reversed(lines) if len(line.strip()) >= LEAST)
        return "", next(long, "") if len(lines) > 1 else ""
    turns = [turn for turn in row.prompt if turn.get("role") not in ("system", "developer")]
    users = [i for i, turn in enumerate(turns) if turn.get("role") == "user"]
    return flat(turns), row.question or (flat(turns[users[-1] :]) if users else "")


def _hash(text: str, least: int) -> int:
    bare = normal(text).encode(errors="replace")
    return (
        int.from_bytes(hashlib.blake2b(bare, digest_size=8).digest(), "big")
        if len(bare) >= least
        else 0
    )


@dataclass(frozen=True)
class Alike:
    """Pairs of rows, numbered through all splits: `rows[i]` asks and answers what row `first[i]` does, the first that
    does. `loosely` it is the last question alone; it is `sure` where no row answers that question otherwise.
    """

    rows: Numbers
    first: Numbers
    loosely: Flags
    sure: Flags


def alike(parts: Sequence[Examples], shape: str) -> Alike:
    """Every such pair."""
    whole, last, answer = np.concatenate(
        [np.zeros((3, 0), np.uint64), *(part.hashes() for part in parts)], axis=1
    )
    # An instruction is written in many ways, and what it is for stays.
    most = _COMMONEST if shape == "alpaca" else _COMMONEST_LAST
    strict, loose = _pairs(whole, answer, len(whole)), _pairs(last, answer, most)
    columns = [np.concatenate(both) for both in zip(strict, loose, strict=True)]
    loosely = np.arange(len(columns[0])) >= len(strict[0])
    return Alike(columns[0], columns[1], loosely, columns[2].astype(bool))


def _pairs(
    asked: npt.NDArray[np.uint64], answer: npt.NDArray[np.uint64], most: int
) -> tuple[Numbers, Numbers, Flags]:
    """Rows with one question and answer, but for those of which there are more than `most`."""
    known = np.flatnonzero((asked != 0) & (answer != 0))
    _, question, asking = np.unique(asked[known], return_inverse=True, return_counts=True)
    both = asked[known] ^ (answer[known] * _ODD)
    _, first, pair, count = np.unique(
        both, return_index=True, return_inverse=True, return_counts=True
    )
    answers = np.bincount(question[first], minlength=len(asking))
    used = (count[pair] <= most) & (asking[question] <= max(_COMMONEST, COMMON * len(asked)))
    used &= first[pair] != np.arange(len(known))
    return known[used], known[first[pair]][used], (answers[question] == 1)[used]
