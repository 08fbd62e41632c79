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

from rung.data.render import Example
from rung.data.shapes import Row, flat

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
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flush()
        self._writer.close()

    def add(self, example: Example, row: Row, answer: tuple[str, str], where: str) -> None:
        spans = [number for span in example.spans for number in span]
        source = hashlib.blake2b(row.source.encode(), digest_size=8).hexdigest()
        own = (example.ids, example.prompt, spans, example.given, source, where, flat(row.prompt), *answer)
        self._rows.append(own)
        self.count += 1
        if len(self._rows) == _BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [pa.array(column, kind.type) for column, kind in zip(columns, SCHEMA, strict=True)]
            self._writer.write_batch(pa.record_batch(arrays, schema=SCHEMA))
            self._rows = []


class Examples(Sequence[Example]):
    """The rows of one split, read where they lie. `chosen` are the rows of the file that count, or all of them."""

    def __init__(self, path: Path, chosen: npt.NDArray[np.int64] | None = None) -> None:
        self.path = path
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        self._batches = [file.get_batch(i) for i in range(file.num_record_batches)]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
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

    @property
    def lengths(self) -> list[int]:
        """The tokens of each row."""
        found = [np.diff(batch.column(0).offsets.to_numpy()) for batch in self._batches]
        whole = np.concatenate(found) if found else np.zeros(0, dtype=np.int64)
        return [int(length) for length in whole[self._chosen]]

    def beyond(self, limit: int) -> tuple[int, int] | None:
        """The first row with a token of the number `limit` or more, and that token."""
        for start, batch in zip(self._starts, self._batches, strict=False):
            tokens = batch.column(0).flatten().to_numpy()
            if not len(tokens) or tokens.max() < limit:
                continue
            rows = np.repeat(np.arange(batch.num_rows), np.diff(batch.column(0).offsets.to_numpy()))
            for row, token in zip(rows[tokens >= limit], tokens[tokens >= limit], strict=True):
                at = np.flatnonzero(self._chosen == start + row)
                if len(at):
                    return int(at[0]), int(token)
        return None

    def _place(self, at: int) -> tuple[Any, int]:
        row = int(self._chosen[at])
        index = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._batches[index], row - int(self._starts[index])
