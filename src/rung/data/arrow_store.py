"""Rows as tokens and texts in an Arrow file, mapped into memory: however many there are, none is held.

An Arrow file with an index needs no reading: the kernel brings in the pages that are looked at, and takes them back.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rung.data.asked import hashes
from rung.data.example import Example
from rung.data.schema import Row, flat

_NUMBERS = pa.list_(pa.uint32())
SCHEMA = pa.schema(
    {
        "ids": _NUMBERS,
        "prompt": pa.uint32(),
        "spans": _NUMBERS,  # first, end, first, end …
        "given": _NUMBERS,
        "source": pa.string(),  # a hash of it
        "where": pa.string(),
        "before": pa.large_string(),  # the prompt's words
        "lead": pa.string(),  # what a template writes before the answer
        "after": pa.large_string(),  # those of the answer
        "asked": pa.uint64(),  # hashes: of what is asked, of the last question, of the answer
        "last": pa.uint64(),
        "answer": pa.uint64(),
    }
)
_BATCH = 1024
"""Rows of a record batch."""


@dataclass(frozen=True, slots=True)
class Texts:
    """The words of a row, and the file and line that it is from; `lead` comes before the answer, and is none of it."""

    before: str
    lead: str
    after: str
    where: str

    def answer_in(self, written: str) -> str:
        """What a model wrote, without the lead; where that ends thoughts with a tag, what comes after that tag."""
        tag = re.search(r"</\w+>\s*$", self.lead)
        if tag and (mark := tag[0].strip()) in written:
            return written.rpartition(mark)[2].lstrip()
        return written.removeprefix(self.lead)


class Writer:
    """Writes one split, row by row. A context manager."""

    def __init__(self, path: Path) -> None:
        self._writer = pa.ipc.new_file(str(path), SCHEMA)
        self._rows: list[tuple[Any, ...]] = []
        self.count = 0

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._flush()
        self._writer.close()

    def add(self, example: Example, row: Row, answer: tuple[str, str], where: str) -> None:
        spans = [number for span in example.spans for number in span]
        source = hashlib.blake2b(row.source.encode(), digest_size=8).hexdigest()
        texts = (flat(row.prompt), *answer)
        own = (
            example.ids,
            example.prompt_length,
            spans,
            example.separate_prompt,
            source,
            where,
            *texts,
            *hashes(row, answer[1]),
        )
        self._rows.append(own)
        self.count += 1
        if len(self._rows) == _BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [
                pa.array(column, kind.type) for column, kind in zip(columns, SCHEMA, strict=True)
            ]
            self._writer.write_batch(pa.record_batch(arrays, schema=SCHEMA))
            self._rows = []


class Examples(Sequence[Example]):
    """The rows of one split, read where they lie. `chosen` are the rows of the file that count, or all of them.

    `batches` are those of the file.
    """

    def __init__(self, path: Path, chosen: npt.NDArray[np.int64] | None = None) -> None:
        self.path = path
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        self.batches = [file.get_batch(i) for i in range(file.num_record_batches)]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self.batches)])
        self._chosen = np.arange(self._starts[-1]) if chosen is None else chosen

    def __len__(self) -> int:
        return len(self._chosen)

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> Examples: ...
    def __getitem__(self, at: int | slice) -> Example | Examples:
        if isinstance(at, slice):
            return Examples(self.path, self._chosen[at])
        batch, row = self._place(at)
        spans = batch.column(2)[row].as_py()
        return Example(
            tuple(batch.column(0)[row].as_py()),
            batch.column(1)[row].as_py(),
            batch.column(4)[row].as_py(),
            tuple(zip(spans[::2], spans[1::2], strict=True)),
            tuple(batch.column(3)[row].as_py()),
        )

    def texts(self, at: int) -> Texts:
        """The words of a row."""
        batch, row = self._place(at)
        where, before, lead, after = (batch.column(i)[row].as_py() for i in (5, 6, 7, 8))
        return Texts(before, lead, after, where)

    def every_text(self) -> Iterator[Texts]:
        """`texts` of all rows, a batch at a time."""
        for at in range(len(self)):
            yield self.texts(at)

    def pairs(self) -> Iterator[tuple[str, str]]:
        """The words of the prompts and of the answers of all rows."""
        for batch, own in self._by_batch():
            yield from zip(
                batch.column(6).take(own).to_pylist(),
                batch.column(8).take(own).to_pylist(),
                strict=True,
            )

    def sources(self) -> npt.NDArray[np.uint64]:
        """The hash of each row's source, as a number."""
        found = [
            np.array(
                [int(source, 16) for source in batch.column(4).take(own).to_pylist()], np.uint64
            )
            for batch, own in self._by_batch()
        ]
        return np.concatenate([np.zeros(0, np.uint64), *found])

    def hashes(self) -> npt.NDArray[np.uint64]:
        """Those of `asked`, of each row: (3, n)."""
        found = [
            np.stack([batch.column(i).take(own).to_numpy() for i in (9, 10, 11)])
            for batch, own in self._by_batch()
        ]
        return np.concatenate([np.zeros((3, 0), np.uint64), *found], axis=1)

    def _by_batch(self) -> Iterator[tuple[Any, pa.Array]]:
        """Each batch, and which of its rows are chosen."""
        bounds = np.searchsorted(self._chosen, self._starts)
        for number, batch in enumerate(self.batches):
            yield (
                batch,
                pa.array(self._chosen[bounds[number] : bounds[number + 1]] - self._starts[number]),
            )

    @property
    def lengths(self) -> list[int]:
        """The tokens of each row."""
        found = [np.diff(batch.column(0).offsets.to_numpy()) for batch in self.batches]
        whole = np.concatenate(found) if found else np.zeros(0, dtype=np.int64)
        return [int(length) for length in whole[self._chosen]]

    @property
    def highest_token(self) -> int:
        """No row has a token with a higher number."""
        found = [
            pc.max(pc.list_flatten(batch.column(i))).as_py()
            for batch in self.batches
            for i in (0, 3)
        ]
        return max((number for number in found if number is not None), default=0)

    def _place(self, at: int) -> tuple[Any, int]:
        row = int(self._chosen[at])
        index = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self.batches[index], row - int(self._starts[index])
