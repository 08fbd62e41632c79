"""What a row says is either in the rendered text, or told: what is told, and how often.

Nothing that a row says may vanish in silence. What no part of a row is made of, what the chat template does not show,
which turns should be learnt and are not, and what is taken as something else than it is called: each such thing is
counted while rows go by, with the place of the first, and the audit says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, get_args

Kind = Literal["not_shown", "left_out", "not_learnt", "not_asked", "read_as", "as_json", "unused"]
Told = tuple[Kind, str]
"""What kind of thing, and its name in a sentence."""
Counts = list[tuple[Kind, str, int, int, str]]
"""Of each thing that was told: its kind, its name, in how many rows, how often, and where first."""
_NAMED = 8


class Tally:
    """Counts what is told of rows."""

    def __init__(self) -> None:
        self._seen: dict[Told, list[int]] = {}
        self._first: dict[Told, str] = {}

    def add(self, told: Iterable[Told], where: str) -> None:
        for one in (every := tuple(told)):
            self._seen.setdefault(one, [0, 0])[1] += 1
            self._first.setdefault(one, where)
        for one in set(every):
            self._seen[one][0] += 1

    @property
    def counts(self) -> Counts:
        return [
            (*one, rows, times, self._first[one])
            for one, (rows, times) in sorted(self._seen.items())
        ]


def sentences(counts: Counts) -> Iterator[tuple[Kind, str]]:
    """A sentence for each kind."""
    for kind in get_args(Kind):
        own = sorted((count for count in counts if count[0] == kind), key=lambda count: -count[2])
        if own:
            said = [_named(kind, *count[1:]) for count in own[:_NAMED]]
            more = f"; and {len(own) - _NAMED} more" if len(own) > _NAMED else ""
            yield kind, _SAYS[kind].format("; ".join(said) + more)


_SAYS: dict[Kind, str] = {
    "not_shown": "The chat template does not show all that rows say, so the model never sees it: {}. Give a --template "
    "that shows it, or take it out of the rows.",
    "left_out": "Fields that seem to matter come into no row: {}. Name them with --fields, or take them out.",
    "not_learnt": "Turns that should be learnt are not: {}.",
    "not_asked": "The chat template asks for an answer with other words than it shows before one, so that the model is "
    "given something else when it writes: {}. Give a --template in which an answer goes on from where it is asked for.",
    "read_as": "Taken as something else than they are called: {}.",
    "as_json": "Lists and objects are learnt as JSON writes them: {}.",
    "unused": "Neither given nor learnt: {}.",
}


def _named(kind: Kind, what: str, rows: int, times: int, where: str) -> str:
    count = f"in {rows:,} row{'s' if rows > 1 else ''}"
    if kind == "not_learnt":
        count = f"{times:,} {count}"
    return f"{what} ({count}, the first {where})"
