"""What happened when the rows were read, and how many there are to judge by."""

from __future__ import annotations

from collections.abc import Iterator

from rung.data.audit.finding import Finding, RowList
from rung.data.prepare import Data
from rung.data.remarks import remark_messages

FEW_ROWS = 100
"""With fewer held-out rows, even differences of many percent do not show."""


def check_reading(data: Data) -> Iterator[Finding]:
    """How files were read, malformed rows, the number of rows, and what rows lost."""
    stats = data.stats
    if stats.file_notes:
        yield Finding("files", "warning", f"{RowList(stats.file_notes)}.")
    if stats.bad_rows:
        rows = RowList([error.rstrip(".") for error in stats.bad_row_messages], stats.bad_rows)
        message = f"{rows.counted('malformed row is', 'malformed rows are')} left out: {rows}."
        yield Finding("malformed", "warning", message)
    few = [
        f"{len(data.splits[name])} {name}"
        for name in ("validation", "test")
        if len(data.splits[name]) < FEW_ROWS
    ]
    if few:
        message = (
            f"There are {' and '.join(few)} rows; with fewer than {FEW_ROWS} only large "
            "differences can be seen."
        )
        yield Finding("few_rows", "warning", message)
    for kind, message in remark_messages(stats.remarks):
        yield Finding(kind, "note" if kind in ("as_json", "unused") else "warning", message)
