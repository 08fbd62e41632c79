"""Near-duplicates: training rows that are nearly the same as a held-out row.

Two rows are nearly the same if their prompts share eight of ten runs of three words (Jaccard
similarity; found by MinHash and banding: Broder, 1997; Leskovec, Rajaraman and Ullman, Mining of
Massive Datasets, chapter 3). Runs that many rows have do not count: they are the frame of the
prompts. A row with a short prompt is compared as a whole, and very short rows have too few runs.
"""

from __future__ import annotations

import itertools
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from rung.data.arrow_store import Examples, Texts
from rung.data.audit.finding import Finding, RowList
from rung.data.prepare import Data
from rung.data.rows import normalize

MIN_SIMILARITY = 0.8
"""The Jaccard similarity from which on two rows are nearly the same."""
MIN_RUNS = 8
"""Rows with fewer runs of three words are compared as a whole only."""
FRAME_SHARE = 0.02
"""A run of words in a larger share of the rows is part of the frame."""
_PERMUTATIONS = 128
_MAX_INDEXED_ROWS = 20_000
"""How many rows of each held-out split the training rows are compared with."""
_FRAME_SAMPLE = 5_000
_BATCH = 1024


def check_near_duplicates(data: Data) -> Iterator[Finding]:
    """Training rows that are nearly the same as a held-out row."""
    from datasketch import MinHashLSH

    frame = _frame(data.train)
    held_out: list[tuple[str, set[int]]] = []
    index = MinHashLSH(threshold=MIN_SIMILARITY, num_perm=_PERMUTATIONS)
    for name in ("validation", "test"):
        for where, runs, sketch in _sketch(data.splits[name], _MAX_INDEXED_ROWS, frame):
            index.insert(len(held_out), sketch)
            held_out.append((where, runs))
    if not held_out:
        return
    pairs = RowList()
    for where, runs, sketch in _sketch(data.train, len(data.train), frame):
        # MinHash only proposes rows. Their similarity is computed from the runs themselves.
        similar = [
            row
            for row in index.query(sketch)
            if MIN_SIMILARITY <= _jaccard(runs, held_out[row][1]) < 1
        ]
        if similar:
            pairs.add(f"{where} ≈ {held_out[similar[0]][0]}")
    if pairs.count:
        count = pairs.counted("training row is", "training rows are")
        message = f"{count} nearly the same as a held-out row: {pairs}."
        yield Finding("near_duplicates", "warning", message)


def _sketch(
    examples: Examples, max_rows: int, frame: set[int]
) -> Iterator[tuple[str, set[int], Any]]:
    """For each row that is long enough its place, its runs outside the frame, and their MinHash."""
    from datasketch import MinHash

    texts = itertools.islice(examples.every_text(), max_rows)
    while batch := list(itertools.islice(texts, _BATCH)):
        runs_of = [(text.location, _runs(text) - frame) for text in batch]
        long_enough = [(where, runs) for where, runs in runs_of if len(runs) >= MIN_RUNS]
        sketches = MinHash.generator(
            [list(runs) for _, runs in long_enough], num_perm=_PERMUTATIONS, hashfunc=int
        )
        for (where, runs), sketch in zip(long_enough, sketches, strict=True):
            yield where, runs, sketch


def _runs(text: Texts) -> set[int]:
    """The runs of three words of a prompt; of the whole row if the prompt is short."""
    runs = _runs_of_three(text.prompt)
    return runs if len(runs) >= MIN_RUNS else _runs_of_three(f"{text.prompt} {text.answer}")


def _runs_of_three(text: str) -> set[int]:
    """Each run of three words as a number."""
    words = [zlib.crc32(word.encode()) for word in normalize(text).split()]
    return {
        (a * 31 + b) * 31 + c & 0xFFFFFFFF
        for a, b, c in zip(words, words[1:], words[2:], strict=False)
    }


def _frame(examples: Examples) -> set[int]:
    """The runs that many rows have, by a sample that is spread over all of them."""
    rows = range(0, len(examples), max(1, len(examples) // _FRAME_SAMPLE))
    counts = Counter(run for row in rows for run in _runs(examples.texts(row)))
    return {run for run, count in counts.items() if count > max(2, FRAME_SHARE * len(rows))}


def _jaccard(one: set[int], other: set[int]) -> float:
    return len(one & other) / len(one | other)
