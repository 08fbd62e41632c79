"""Remarks on rows: what a row says and its tokens do not show.

Nothing that a row says may be lost without a word. A remark is made for each field that is not
used, for what the chat template leaves out, for turns that should be trained on and are not, and
for what is read as something other than its name says. Remarks are counted while the rows go by,
with the place of the first, and the audit reports them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, get_args

RemarkKind = Literal[
    "not_shown", "left_out", "not_learnt", "not_asked", "read_as", "as_json", "unused"
]
Remark = tuple[RemarkKind, str]
"""The kind of a remark, and its subject in words, such as `turns of 'tool'`."""
RemarkCounts = list[tuple[RemarkKind, str, int, int, str]]
"""For each remark its kind, its subject, in how many rows it was made, how often, and where first.
"""
_MAX_SUBJECTS = 8


class RemarkCounter:
    """Counts the remarks on rows."""

    def __init__(self) -> None:
        self._rows: dict[Remark, int] = {}
        self._times: dict[Remark, int] = {}
        self._first_place: dict[Remark, str] = {}

    def add(self, remarks: Iterable[Remark], where: str) -> None:
        """Count the remarks on one row; `where` is its place."""
        of_row = tuple(remarks)
        for remark in of_row:
            self._times[remark] = self._times.get(remark, 0) + 1
            self._first_place.setdefault(remark, where)
        for remark in set(of_row):
            self._rows[remark] = self._rows.get(remark, 0) + 1

    @property
    def counts(self) -> RemarkCounts:
        return [
            (*remark, self._rows[remark], times, self._first_place[remark])
            for remark, times in sorted(self._times.items())
        ]


def remark_messages(counts: RemarkCounts) -> Iterator[tuple[RemarkKind, str]]:
    """A message for each kind of remark that was made."""
    for kind in get_args(RemarkKind):
        of_kind = [count for count in counts if count[0] == kind]
        of_kind.sort(key=lambda count: -count[2])
        if of_kind:
            subjects = "; ".join(_with_count(*count) for count in of_kind[:_MAX_SUBJECTS])
            if len(of_kind) > _MAX_SUBJECTS:
                subjects += f"; and {len(of_kind) - _MAX_SUBJECTS} more"
            yield kind, _MESSAGES[kind].format(subjects)


_MESSAGES: dict[RemarkKind, str] = {
    "not_shown": "The chat template leaves out parts of the rows, so the model never sees them: "
    "{}. Give a --template that shows them, or remove them from the rows.",
    "left_out": "Fields that may matter are not used: {}. Name them with --fields, or remove them.",
    "not_learnt": "Some turns that should be trained on are not: {}.",
    "not_asked": "The chat template asks for an answer with other text than it shows before one, "
    "so the model generates after another prompt than it is trained on: {}. Give a --template that "
    "shows the same text in both places.",
    "read_as": "Some things are read as something other than their name says: {}.",
    "as_json": "Lists and objects are trained on as JSON text: {}.",
    "unused": "Some things are neither in a prompt nor in a completion: {}.",
}


def _with_count(kind: RemarkKind, subject: str, rows: int, times: int, where: str) -> str:
    count = f"in {rows:,} row{'s' if rows > 1 else ''}"
    if kind == "not_learnt":
        count = f"{times:,} {count}"
    return f"{subject} ({count}, the first {where})"
