"""Amounts as people write them: of memory, of tokens, of time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

_NUMBER = r"(\d+(?:_\d+)*(?:\.\d+)?(?:e\+?\d+)?)"

LARGEST = 10**15
"""Bytes, tokens or seconds; nobody has as many."""


def parse_bytes(text: str) -> int:
    """`8GB`, `512 MB`, `6GiB` ─▶ bytes.

    Raises:
        ValueError: it is no size, or one that no process gets by with, or has.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    if not found:
        raise ValueError("write a size such as 8GB or 512MB")
    power = " KMGT".index(found[2].upper() or " ")
    size = float(found[1]) * (1024 if found[3] else 1000) ** power
    if size > LARGEST:
        raise ValueError(
            f"that is more than {LARGEST / 10**12:,.0f} TB; write a size such as 8GB or 512MB"
        )
    if size < 10**6:
        raise ValueError(f"that is {int(size):,} bytes; write a size such as 8GB or 512MB")
    return int(size)


def parse_budget(text: str) -> tuple[float, Literal["tokens", "seconds"]]:
    """`300k`, `2M tokens`, `30min`, `1.5 h` ─▶ tokens or seconds.

    Raises:
        ValueError: it is neither, may be either (`90m`), or nothing that a machine gets done.
    """
    amount, unit = _budget(text)
    if not 0 < amount <= LARGEST:
        says = "nothing" if not amount else f"more than {LARGEST:.0e} {unit}"
        raise ValueError(
            f"that is {says}; write a number of tokens such as 300k, or a time such as 30min"
        )
    return amount, unit


def _budget(text: str) -> tuple[float, Literal["tokens", "seconds"]]:
    found = re.fullmatch(rf"\s*{_NUMBER}\s*([kmg]?)\s*(tokens?)?\s*", text, re.IGNORECASE)
    if found:
        if found[2] == "m" and not found[3]:
            raise ValueError(
                f"'m' may be minutes or millions; write {found[1]}min, or {found[1]}M tokens"
            )
        return float(found[1]) * 1000 ** " kmg".index(found[2].lower() or " "), "tokens"
    found = re.fullmatch(
        rf"\s*{_NUMBER}\s*(s|secs?|seconds?|mins?|minutes?|h|hrs?|hours?)\s*", text, re.IGNORECASE
    )
    if found:
        return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2][0].lower()], "seconds"
    raise ValueError("write a number of tokens such as 300k, or a time such as 30min")


@dataclass(frozen=True, slots=True)
class Budget:
    """An amount of training tokens, or of seconds."""

    amount: float
    unit: Literal["tokens", "seconds"]

    def __str__(self) -> str:
        """As `parse_budget` reads it back."""
        return f"{self.amount:.15g} {self.unit}"
