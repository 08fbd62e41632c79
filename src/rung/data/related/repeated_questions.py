"""Rows with the same question and answer as another row, but other text around the question.

Two things are compared, each together with the answer. The first is the whole prompt of a
conversation without its system message. The second is its last question alone: the last turn,
alpaca's `input`, or the last line of a plain text. Rows about different documents may share a last
question, so a match of the last question alone is weaker evidence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rung.data.rows import Row, normalize, plain_text

if TYPE_CHECKING:
    from rung.data.arrow_store import Examples

RowNumbers = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]
_MIN_QUESTION_BYTES = 12
"""A shorter question may be asked anywhere."""
_MAX_SHARE_OF_ROWS = 0.02
_MAX_ROWS_PER_QUESTION = 100
"""A question in more rows than this and than the share above is part of a fixed wording."""
_MAX_ROWS_PER_LAST_PAIR = 10
"""A last question and answer in more rows than this are a commonplace, such as thanks."""
_ODD_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def question_hashes(row: Row, answer: str) -> tuple[int, int, int]:
    """Hashes of a row's whole question, of its last question, and of its answer; 0 if missing."""
    whole, last = _questions(row)
    return (
        _hash(whole, _MIN_QUESTION_BYTES),
        _hash(last, _MIN_QUESTION_BYTES),
        _hash(answer, 1),
    )


def _questions(row: Row) -> tuple[str, str]:
    if isinstance(row.prompt, str):
        lines = [line for line in row.prompt.splitlines() if line.strip()]
        long_lines = (line for line in reversed(lines) if len(line.strip()) >= _MIN_QUESTION_BYTES)
        return "", next(long_lines, "") if len(lines) > 1 else ""
    turns = [turn for turn in row.prompt if turn.get("role") not in ("system", "developer")]
    users = [i for i, turn in enumerate(turns) if turn.get("role") == "user"]
    last = row.question or (plain_text(turns[users[-1] :]) if users else "")
    return plain_text(turns), last


def _hash(text: str, min_bytes: int) -> int:
    normalized = normalize(text).encode(errors="replace")
    if len(normalized) < min_bytes:
        return 0
    return int.from_bytes(hashlib.blake2b(normalized, digest_size=8).digest(), "big")


@dataclass(frozen=True)
class RepeatedQuestions:
    """Pairs of rows with the same question and answer. Rows are numbered through all splits.

    Attributes:
        rows: The later row of each pair.
        first_rows: The first row with that question and answer.
        last_question_only: Whether only the last questions are the same.
        one_answer: Whether no row answers that question in another way.
    """

    rows: RowNumbers
    first_rows: RowNumbers
    last_question_only: Flags
    one_answer: Flags


def find_repeated_questions(parts: Sequence[Examples], record_format: str) -> RepeatedQuestions:
    """All pairs of rows with the same question and answer, in all the splits together."""
    whole, last, answer = np.concatenate(
        [np.zeros((3, 0), np.uint64), *(part.hashes() for part in parts)], axis=1
    )
    # An alpaca instruction is worded in many ways, while the input that it is about stays the same.
    max_last = _MAX_ROWS_PER_QUESTION if record_format == "alpaca" else _MAX_ROWS_PER_LAST_PAIR
    by_whole, by_last = _pairs(whole, answer, len(whole)), _pairs(last, answer, max_last)
    rows, first_rows, one_answer = (
        np.concatenate(both) for both in zip(by_whole, by_last, strict=True)
    )
    last_question_only = np.arange(len(rows)) >= len(by_whole[0])
    return RepeatedQuestions(rows, first_rows, last_question_only, one_answer.astype(bool))


def _pairs(
    questions: Hashes, answers: Hashes, max_rows: int
) -> tuple[RowNumbers, RowNumbers, Flags]:
    """Rows with the same question and answer, if at most `max_rows` rows have both."""
    known = np.flatnonzero((questions != 0) & (answers != 0))
    _, question, rows_of_question = np.unique(
        questions[known], return_inverse=True, return_counts=True
    )
    combined = questions[known] ^ (answers[known] * _ODD_FACTOR)
    _, first, pair, rows_of_pair = np.unique(
        combined, return_index=True, return_inverse=True, return_counts=True
    )
    answers_of_question = np.bincount(question[first], minlength=len(rows_of_question))
    most = max(_MAX_ROWS_PER_QUESTION, _MAX_SHARE_OF_ROWS * len(questions))
    is_pair = (
        (rows_of_pair[pair] <= max_rows)
        & (rows_of_question[question] <= most)
        & (first[pair] != np.arange(len(known)))
    )
    return (
        known[is_pair],
        known[first[pair]][is_pair],
        (answers_of_question[question] == 1)[is_pair],
    )
