"""Amounts as people write them: of memory, of tokens, of time."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

_NUMBER = r"(\d+(?:_\d+)*(?:\.\d+)?(?:e\+?\d+)?)"
_TOKENS = re.compile(rf"\s*{_NUMBER}\s*([kmg]?)\s*(tokens?)?\s*", re.IGNORECASE)
_TIME = re.compile(
    rf"\s*{_NUMBER}\s*(s|secs?|seconds?|mins?|minutes?|h|hrs?|hours?)\s*", re.IGNORECASE
)
_BYTES = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", re.IGNORECASE)

MAX_AMOUNT = 10**15
"""Bytes, tokens or seconds; no machine has as many."""
MIN_BYTES = 10**6
"""No process runs in less memory."""
_BYTES_EXAMPLE = "write a size such as 8GB or 512MB"
_BUDGET_EXAMPLE = "write a number of tokens such as 300k, or a time such as 30min"


class Budget(NamedTuple):
    """How much a study may train: an amount of tokens, or of seconds."""

    amount: float
    unit: Literal["tokens", "seconds"]

    def __str__(self) -> str:
        """The budget as `parse_budget` reads it back."""
        return f"{self.amount:.15g} {self.unit}"


def parse_bytes(text: str) -> int:
    """`8GB`, `512 MB`, `6GiB` ─▶ bytes.

    Raises:
        ValueError: The text is not a size, or it is below `MIN_BYTES` or above `MAX_AMOUNT`.
    """
    match = _BYTES.fullmatch(text)
    if not match:
        raise ValueError(_BYTES_EXAMPLE)
    power = " KMGT".index(match[2].upper() or " ")
    size = float(match[1]) * (1024 if match[3] else 1000) ** power
    if size > MAX_AMOUNT:
        raise ValueError(f"that is more than {MAX_AMOUNT / 10**12:,.0f} TB; {_BYTES_EXAMPLE}")
    if size < MIN_BYTES:
        raise ValueError(f"that is {int(size):,} bytes; {_BYTES_EXAMPLE}")
    return int(size)


def parse_budget(text: str) -> Budget:
    """`300k`, `2M tokens`, `30min`, `1.5 h` ─▶ tokens or seconds.

    Raises:
        ValueError: The text is neither, may be either (`90m`), is zero, or is above `MAX_AMOUNT`.
    """
    budget = _read_budget(text)
    if budget.amount == 0:
        raise ValueError(f"that is nothing; {_BUDGET_EXAMPLE}")
    if budget.amount > MAX_AMOUNT:
        raise ValueError(f"that is more than {MAX_AMOUNT:.0e} {budget.unit}; {_BUDGET_EXAMPLE}")
    return budget


def _read_budget(text: str) -> Budget:
    if match := _TOKENS.fullmatch(text):
        number, prefix, word = match.groups()
        if prefix == "m" and not word:
            raise ValueError(
                f"'m' may be minutes or millions; write {number}min, or {number}M tokens"
            )
        return Budget(float(number) * 1000 ** " kmg".index(prefix.lower() or " "), "tokens")
    if match := _TIME.fullmatch(text):
        number, word = match.groups()
        return Budget(float(number) * {"s": 1, "m": 60, "h": 3600}[word[0].lower()], "seconds")
    raise ValueError(_BUDGET_EXAMPLE)
