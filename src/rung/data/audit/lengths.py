"""Rows that are longer than the recipe's `max_tokens`."""

from __future__ import annotations

from collections.abc import Iterator

from rung.data.audit.finding import Finding
from rung.data.prepare import Data


def check_lengths(data: Data) -> Iterator[Finding]:
    stats = data.stats
    if long := sum(stats.long_rows.values()):
        rows = sum(stats.row_counts.values())
        message = (
            f"{long:,} of {rows:,} rows ({long / rows:.1%}) are longer than max_tokens; the "
            f"longest has {max(stats.lengths):,} tokens, and 99 % have at most "
            f"{stats.covering_length(0.99):,}."
        )
        yield Finding("long", "warning", message)
