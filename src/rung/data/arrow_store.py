"""Rows as tokens and texts in an Arrow file that is mapped into memory.

No rows are held in memory, however many there are: an Arrow file with an index needs no reading.
The kernel loads the pages that are accessed, and drops them again when memory is short.
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

from rung.data.example import Example
from rung.data.related.repeated_questions import question_hashes
from rung.data.rows import Row, plain_text

_TOKENS = pa.list_(pa.uint32())
SCHEMA = pa.schema(
    {
        "ids": _TOKENS,
        "prompt_length": pa.uint32(),
        "spans": _TOKENS,  # first, end, first, end …
        "separate_prompt": _TOKENS,
        "source": pa.string(),  # a hash of it
        "location": pa.string(),
        "prompt": pa.large_string(),
        "lead": pa.string(),  # what a template writes before the answer
        "answer": pa.large_string(),
        "question_hash": pa.uint64(),
        "last_question_hash": pa.uint64(),
        "answer_hash": pa.uint64(),
    }
)
_BATCH_ROWS = 1024
"""Rows of a record batch."""


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts of a row.

    Attributes:
        prompt: The text of the prompt, without the marks of a chat.
        lead: What the chat template writes before the answer; not part of the answer.
        answer: The text of the answer.
        location: The file and line that the row is from.
    """

    prompt: str
    lead: str
    answer: str
    location: str

    def answer_in(self, generated: str) -> str:
        """The answer in a generated text, without the lead.

        If the lead ends with a tag that closes thoughts, the answer is what comes after that tag.
        """
        closing_tag = re.search(r"</\w+>\s*$", self.lead)
        if closing_tag and (tag := closing_tag[0].strip()) in generated:
            return generated.rpartition(tag)[2].lstrip()
        return generated.removeprefix(self.lead)


class ExampleWriter:
    """A context manager that writes one split, row by row."""

    def __init__(self, path: Path) -> None:
        self._writer = pa.ipc.new_file(str(path), SCHEMA)
        self._rows: list[tuple[Any, ...]] = []

    def __enter__(self) -> ExampleWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._flush()
        self._writer.close()

    def add(self, example: Example, row: Row, answer: tuple[str, str], location: str) -> None:
        """Write one row.

        Args:
            example: The row as tokens.
            row: The row as texts.
            answer: The lead and the text of the answer, see `Texts`.
            location: The file and line that the row is from.
        """
        values = (
            example.ids,
            example.prompt_length,
            [place for span in example.spans for place in span],
            example.separate_prompt,
            hashlib.blake2b(row.source.encode(), digest_size=8).hexdigest(),
            location,
            plain_text(row.prompt),
            *answer,
            *question_hashes(row, answer[1]),
        )
        self._rows.append(values)
        if len(self._rows) == _BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [
                pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)
            ]
            self._writer.write_batch(pa.record_batch(arrays, schema=SCHEMA))
            self._rows = []


class Examples(Sequence[Example]):
    """The rows of one split, read from its file on access.

    Args:
        path: An Arrow file that `ExampleWriter` wrote.
        selected: (n,), the rows of the file that count, in increasing order; all rows if None.

    Attributes:
        batches: The record batches of the whole file.
    """

    def __init__(self, path: Path, selected: npt.NDArray[np.int64] | None = None) -> None:
        self.path = path
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        self.batches = [file.get_batch(i) for i in range(file.num_record_batches)]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self.batches)])
        self._selected = np.arange(self._starts[-1]) if selected is None else selected

    def __len__(self) -> int:
        return len(self._selected)

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> Examples: ...
    def __getitem__(self, at: int | slice) -> Example | Examples:
        if isinstance(at, slice):
            return Examples(self.path, self._selected[at])
        ids, prompt_length, spans, separate_prompt, source = self._cells(
            at, "ids", "prompt_length", "spans", "separate_prompt", "source"
        )
        return Example(
            tuple(ids),
            prompt_length,
            source,
            tuple(zip(spans[::2], spans[1::2], strict=True)),
            tuple(separate_prompt),
        )

    def texts(self, at: int) -> Texts:
        """The texts of a row."""
        return Texts(*self._cells(at, "prompt", "lead", "answer", "location"))

    def every_text(self) -> Iterator[Texts]:
        """The texts of all rows."""
        for at in range(len(self)):
            yield self.texts(at)

    def pairs(self) -> Iterator[tuple[str, str]]:
        """The texts of the prompt and of the answer of all rows."""
        for batch, rows in self._selected_by_batch():
            yield from zip(
                batch.column("prompt").take(rows).to_pylist(),
                batch.column("answer").take(rows).to_pylist(),
                strict=True,
            )

    def sources(self) -> npt.NDArray[np.uint64]:
        """The hash of each row's source: (n,)."""
        sources = [
            np.array(
                [int(source, 16) for source in batch.column("source").take(rows).to_pylist()],
                np.uint64,
            )
            for batch, rows in self._selected_by_batch()
        ]
        return np.concatenate([np.zeros(0, np.uint64), *sources])

    def hashes(self) -> npt.NDArray[np.uint64]:
        """The `question_hashes` of each row: (3, n)."""
        names = ("question_hash", "last_question_hash", "answer_hash")
        hashes = [
            np.stack([batch.column(name).take(rows).to_numpy() for name in names])
            for batch, rows in self._selected_by_batch()
        ]
        return np.concatenate([np.zeros((3, 0), np.uint64), *hashes], axis=1)

    @property
    def lengths(self) -> list[int]:
        """The number of tokens of each row."""
        lengths = [np.diff(batch.column("ids").offsets.to_numpy()) for batch in self.batches]
        of_file = np.concatenate(lengths) if lengths else np.zeros(0, dtype=np.int64)
        return [int(length) for length in of_file[self._selected]]

    @property
    def highest_token(self) -> int:
        """An upper bound of the token numbers of all rows."""
        highest = [
            pc.max(pc.list_flatten(batch.column(name))).as_py()
            for batch in self.batches
            for name in ("ids", "separate_prompt")
        ]
        return max((token for token in highest if token is not None), default=0)

    def _selected_by_batch(self) -> Iterator[tuple[Any, pa.Array]]:
        """Each record batch, and the selected rows in it."""
        bounds = np.searchsorted(self._selected, self._starts)
        for number, batch in enumerate(self.batches):
            rows = self._selected[bounds[number] : bounds[number + 1]] - self._starts[number]
            yield batch, pa.array(rows)

    def _cells(self, at: int, *names: str) -> list[Any]:
        """The values of one row in some columns."""
        row = int(self._selected[at])
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        batch, row = self.batches[number], row - int(self._starts[number])
        return [batch.column(name)[row].as_py() for name in names]
