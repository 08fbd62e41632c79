"""The parts that pages are laid out of: tables, marks, items in a line, hanging indents."""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from rung.types import Outcome

MARKS: dict[Outcome, tuple[str, str]] = {
    "better": ("▲", "green"),
    "no_worthwhile_gain": ("■", "yellow"),
    "undecided": ("?", "cyan"),
}
"""The sign and the colour of an outcome."""
OUTCOMES: dict[Outcome, str] = {
    "better": "better",
    "no_worthwhile_gain": "not worthwhile",
    "undecided": "undecided",
}
"""An outcome in few words."""
CHOSEN = "▸ "
"""Stands before what is recommended."""


def marked(outcome: Outcome, text: str, style: str = "") -> RenderableType:
    """A text behind the sign of an outcome."""
    mark, colour = MARKS[outcome]
    return hanging(Text(mark, style=style or colour), Text(text, style=style))


def hanging(mark: Text, text: Text) -> RenderableType:
    """A text whose further lines are indented under the first, behind the mark."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=1)
    grid.add_column(overflow="fold")
    grid.add_row(mark, text)
    return grid


def plain_table(*columns: str | Text, left: int = 1) -> Table:
    """A table without lines: the first `left` columns stand left, the others, of numbers, right."""
    table = Table(
        box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", show_edge=False
    )
    for at, column in enumerate(columns):
        if at < left:
            table.add_column(column, overflow="fold")
        else:
            table.add_column(column, justify="right", no_wrap=True)
    return table


@dataclass(frozen=True, slots=True)
class Flow:
    """Items one after the other, in as many lines as they take; an item is broken only if it must.

    Attributes:
        items: none holds a line break.
        separator: between two items of a line.
    """

    items: tuple[Text, ...]
    separator: str = " · "

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = Text(overflow="fold")
        for item in self.items:
            if line and cell_len(f"{line.plain}{self.separator}{item.plain}") > options.max_width:
                yield line
                line = Text(overflow="fold")
            if line:
                line.append(self.separator, "dim")
            line.append_text(item)
        yield line

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        widths = [cell_len(item.plain) for item in self.items] or [0]
        whole = sum(widths) + cell_len(self.separator) * (len(widths) - 1)
        return Measurement(max(widths), whole).with_maximum(options.max_width)
