"""Rows that are longer than the recipe's `max_tokens`."""

from __future__ import annotations

from collections.abc import Iterator

from rung.data.audit.finding import Finding
from rung.data.prepare import Data, fits


def check_lengths(data: Data) -> Iterator[Finding]:
    facts = data.facts
    if long := sum(facts.long.values()):
        rows = sum(facts.read.values())
        message = (
            f"{long:,} of {rows:,} rows ({long / rows:.1%}) are longer than max_tokens; the "
            f"longest has {max(facts.lengths):,} tokens, and 99 % have at most "
            f"{fits(facts.lengths, 0.99):,}."
        )
        yield Finding("long", "warning", message)
