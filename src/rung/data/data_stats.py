"""What was counted while the rows of a data set were read."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from rung.data.example import Example
from rung.data.read.split_names import SPLITS
from rung.data.related.related_rows import RelatedRows
from rung.data.remarks import RemarkCounter, RemarkCounts
from rung.data.row_errors import InvalidFieldsError
from rung.data.rows import Row
from rung.errors import DataError
from rung.formats.numbers import Column

_MAX_LISTED_BAD_ROWS = 20


@dataclass(frozen=True)
class DataStats:
    """What was counted while the rows of a data set were read.

    Attributes:
        record_format: The format of the records.
        digest: A SHA-256 of every row and its tokens. Two studies with the same digest have the
            same data.
        row_counts: The rows of each split.
        long_rows: The rows of each split that are longer than `max_tokens`.
        lengths: The number of rows for each number of tokens.
        made_splits: The splits that were made from the training rows by a hash.
        bad_rows: The number of malformed rows.
        bad_row_messages: What is wrong with the first of them.
        bad_rows_need_fields: Whether the first bad row is due to the names of its fields, so that
            skipping bad rows does not help.
        merged_rows: Rows whose prompt ends in a token that merges with the completion.
        end_tokens: The tokens at which generation stops.
        template_end_tokens: Those of them that only the chat template ends its turns with: neither
            the tokenizer nor the model's generation_config.json names them.
        numbers: How the numbers in the completions are written.
        file_notes: What was read from the files in a way that the user may not expect.
        remarks: What rows say and their tokens do not, counted.
        grouped_rows: Rows that share a split because they are related.
        ungrouped_rows: Related rows that are too many to share a split.
    """

    record_format: str
    digest: str
    row_counts: dict[str, int]
    long_rows: dict[str, int]
    lengths: dict[int, int]
    made_splits: list[str]
    bad_rows: int
    bad_row_messages: list[str]
    bad_rows_need_fields: bool
    merged_rows: int
    end_tokens: list[int]
    template_end_tokens: list[int]
    numbers: Column
    file_notes: list[str]
    remarks: RemarkCounts
    grouped_rows: int
    ungrouped_rows: int

    def to_json(self) -> str:
        """The statistics as a JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> DataStats:
        """Read what `to_json` wrote."""
        values = json.loads(text)
        values["lengths"] = {int(length): count for length, count in values["lengths"].items()}
        values["remarks"] = [tuple(remark) for remark in values["remarks"]]
        values["numbers"] = Column(**values["numbers"])
        return cls(**values)

    def covering_length(self, share: float) -> int:
        """The least number of tokens that this share of the rows fits in."""
        required, count = share * sum(self.lengths.values()), 0
        for length, rows in sorted(self.lengths.items()):
            count += rows
            if count >= required:
                return length
        raise AssertionError("a share is at most 1")


@dataclass
class StatsCollector:
    """Counts rows while they are read."""

    file_notes: list[str]
    row_counts: Counter[str] = field(default_factory=Counter)
    long_rows: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    bad_rows: int = 0
    bad_row_messages: list[str] = field(default_factory=list)
    bad_rows_need_fields: bool = False
    merged_rows: int = 0
    remarks: RemarkCounter = field(default_factory=RemarkCounter)
    numbers: Column = field(default_factory=Column)
    _digest: Any = field(default_factory=hashlib.sha256)

    def add_row(self, row: Row, split: str, location: str, example: Example, is_long: bool) -> None:
        """Count a row and the tokens that were made from it."""
        self.row_counts[split] += 1
        self.long_rows[split] += is_long
        self.lengths[len(example.ids)] += 1
        self.remarks.add(example.remarks, location)
        # If the template asks with other text than it shows, the tokens differ without a merge.
        asks_otherwise = any(kind == "not_asked" for kind, _ in example.remarks)
        self.merged_rows += bool(example.separate_prompt) and not asks_otherwise
        # The tokens are included: with another template or tokenizer, the same rows are other data.
        content = [
            split,
            row.kind,
            row.prompt,
            row.completion,
            row.tools,
            example.ids,
            example.learned_spans,
            example.separate_prompt,
        ]
        self._digest.update(json.dumps(content, default=str).encode())

    def add_bad_row(self, error: DataError) -> None:
        """Count a malformed row."""
        if not self.bad_rows:
            self.bad_rows_need_fields = isinstance(error, InvalidFieldsError)
        self.bad_rows += 1
        if len(self.bad_row_messages) < _MAX_LISTED_BAD_ROWS:
            self.bad_row_messages.append(str(error))

    def finish(
        self,
        record_format: str,
        made_splits: list[str],
        related: RelatedRows,
        end_tokens: Iterable[int],
        template_end_tokens: Iterable[int],
    ) -> DataStats:
        """The statistics of all rows, after related rows have been moved."""
        return DataStats(
            record_format=record_format,
            digest=self._digest.hexdigest(),
            row_counts={
                split: self.row_counts[split] - related.left.get(split, 0) for split in SPLITS
            },
            long_rows={split: self.long_rows[split] for split in SPLITS},
            lengths=dict(sorted(self.lengths.items())),
            made_splits=made_splits,
            bad_rows=self.bad_rows,
            bad_row_messages=self.bad_row_messages,
            bad_rows_need_fields=self.bad_rows_need_fields,
            merged_rows=self.merged_rows,
            end_tokens=sorted(end_tokens),
            template_end_tokens=sorted(template_end_tokens),
            numbers=self.numbers,
            file_notes=self.file_notes,
            remarks=self.remarks.counts,
            grouped_rows=related.grouped,
            ungrouped_rows=related.ungrouped,
        )
