"""A finding of the audit, and the parts that its messages share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
_ORDER: dict[Severity, int] = {"error": 0, "warning": 1, "note": 2}
_NAMED_ROWS = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about the data. An *error* stops a study; a *warning* may spoil it.

    Attributes:
        kind: a name for programs, such as `leakage`.
        message: the finding in words, for people.
    """

    kind: str
    severity: Severity
    message: str


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """The findings by severity; those of one severity keep their order."""
    return sorted(findings, key=lambda finding: _ORDER[finding.severity])


def suggests_lm_head(findings: Iterable[Finding]) -> bool:
    """Whether the data suggest that the output head (`lm_head`) is tried too."""
    return any(finding.kind == "language" for finding in findings)


class RowList:
    """Counts rows, and names the first of them in a message.

    Args:
        names: the rows so far, such as their file and line.
        count: how many there are, if that is more than are named.
    """

    def __init__(self, names: Sequence[str] = (), count: int | None = None) -> None:
        self.count = len(names) if count is None else count
        self.first = list(names[:_NAMED_ROWS])

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.first) < _NAMED_ROWS:
            self.first.append(name)

    def counted(self, one: str, several: str) -> str:
        """The count with what is counted, such as `1 row has` or `2 rows have`."""
        return f"{self.count:,} {one if self.count == 1 else several}"

    def __str__(self) -> str:
        more = self.count - len(self.first)
        return "; ".join(self.first) + (f"; and {more:,} more" if more > 0 else "")


def quote(text: str) -> str:
    """A text in quotes, shortened if it is long."""
    short = text if len(text) <= 40 else f"{text[:39]}…"
    return f"'{short}'"
