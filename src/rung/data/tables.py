"""CSV and TSV ─▶ records. There is no one way to write them, so the first rows say which it is.

The delimiter is the one that gives most rows the length of the header; where Excel's `sep=;` says it, that goes. Every
cell is a text as it stands: `NA`, `007` and `1e5` are no nulls and no numbers. A row that is not as long as the header
is malformed, and one that is the header again is no row; where quotes are wrong nobody can say where the next row
begins, and nothing more is read.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from rung.data.text import Records, Tell, open_text
from rung.errors import DataError

_LONGEST_FIELD = 1 << 30
_LOOKED_AT = 1000
"""Rows of a file that say how it is written."""
_RARE = 0.01
"""Rows whose quotes are wrong are no larger a share of a file."""
_SEP = re.compile(r'"?sep=(.)"?[\r\n]*')
_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}


@dataclass(frozen=True, slots=True)
class _Form:
    """How a file is written. `quote` is the sign that cells may stand in, if any; `spaced` says that what comes behind
    a delimiter may be a space that is no part of the cell; `skip` are lines before the header.
    """

    delimiter: str
    quote: str = '"'
    spaced: bool = False
    skip: int = 0

    def rows(self, lines: Iterable[str]) -> Any:
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            quotechar=self.quote or None,
            quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            skipinitialspace=self.spaced,
            strict=True,
        )

    def space_before_quote(self, line: str) -> bool:
        """Whether a cell of that line begins with a space and then a quote, one that is not closed at once."""
        mark = re.escape(self.delimiter)
        return bool(re.search(rf'(?:^|{mark})[ \xa0]+"(?!["{mark}\r\n]|$)', line))


def read_table(path: Path, tell: Tell) -> Records:
    """The rows of a file with a header."""
    csv.field_size_limit(_LONGEST_FIELD)
    with open_text(path, newline="") as file:
        form = _form(file)
        if form.spaced:
            tell(
                f"{path} has spaces between delimiters and quotes; no space behind a delimiter is part of a cell"
            )
        if form.quote == "'":
            tell(f"{path} has its cells in single quotes, and they are no part of the cells")
        yield from _records(path, file, form, tell)


def _records(path: Path, file: IO[str], form: _Form, tell: Tell) -> Records:
    names: list[str] = []
    swallowed: list[str] = []
    again: list[str] = []
    read = 0
    lines = _Lines(file)
    rows = form.rows(lines)
    for _ in range(form.skip):
        next(lines)
    while True:
        where = f"{path}, line {lines.count + 1}"
        lines.own = []
        try:
            cells = next(rows)
        except StopIteration:
            break
        except csv.Error as error:
            says = f"{where}: this is no CSV ({error}), and what follows cannot be read; look at this row's quotes."
            raise DataError(says) from None
        if not names:
            names = [name.strip() for name in cells]
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise DataError(
                    f"{where}: the header has '{twice}' twice; give each column a name of its own."
                )
        elif _bare(cells) == _bare(names):
            again.append(where)
        elif wrong := _wrong(cells, names, lines.own, form):
            yield DataError(f"{where}: {wrong}.")
        elif cells:
            if len(lines.own) > 1 and form.quote and _all_rows(lines.own, form, len(names)):
                swallowed.append(where)
            read += 1
            yield dict(zip(names, cells, strict=True)), where
    if again:
        tell(f"{_and_more(again)} is the header again, and no row")
    # Where many cells have such lines, that is how the texts are.
    if 0 < len(swallowed) <= max(3, _RARE * read):
        tell(
            f"In {_and_more(swallowed)}, a cell in quotes has lines that look like rows of their own; close its quote"
        )


def _and_more(places: list[str]) -> str:
    return places[0] + (f" and {len(places) - 1:,} more" if len(places) > 1 else "")


def _bare(cells: list[str]) -> list[str]:
    """Cells without what may stand around a header within a file: where a byte order mark does, a quote is no quote."""
    return [cell.strip('\ufeff" \t') for cell in cells]


def _wrong(cells: list[str], names: list[str], lines: list[str], form: _Form) -> str:
    if any("\0" in line for line in lines):
        return "the row has a byte of 0, which is no text; write the file anew"
    if cells and len(cells) != len(names):
        return (
            f"the row has {len(cells)} cells, and the header {len(names)}; quote cells that have "
            f"{_NAMES.get(form.delimiter, 'delimiter')}s in them"
        )
    spaced = form.quote == '"' and not form.spaced and any(map(_space_first, cells))
    if spaced and any(map(form.space_before_quote, lines)):
        return "a space stands before a quote, so nobody can tell whether both are part of the text; take it out"
    return ""


def _space_first(cell: str) -> bool:
    return cell[:1] in " \xa0" and cell.lstrip().startswith('"')


def _form(file: IO[str]) -> _Form:
    """How a file is written, by its first rows; the file is at its start again."""
    first = file.readline()
    named = _SEP.fullmatch(first)
    head = file.readline() if named else first
    marks = [named[1]] if named else [mark for mark in ",;\t|" if mark in head] or [","]
    skip = int(named is not None)
    forms = [_quoting(file, _Form(mark, skip=skip)) for mark in marks]
    found = max(forms, key=lambda form: _even(_first_rows(file, form) or []))
    file.seek(0)
    return found


def _quoting(file: IO[str], form: _Form) -> _Form:
    """The same, with what its quotes are."""
    lines = _first_lines(file, form.skip)
    rows = _first_rows(file, form)
    if any(map(form.space_before_quote, lines)) and any(
        _space_first(cell) for row in rows or [] for cell in row
    ):
        return replace(form, spaced=True)
    if len(lines) > 1 and all(
        line.startswith("'") and line.rstrip().endswith("'") for line in lines[1:]
    ):
        single = replace(form, quote="'")
        return single if _even(_first_rows(file, single) or [])[0] == 1 else form
    if form.delimiter == "\t":
        # Tabs are seldom in a text, so files with tabs often are written without quotes; then a quote is a quote. They
        # are if they make no rows of one length, or swallow lines that are rows without them.
        bare = replace(form, quote="")
        several = any("\n" in cell or "\r" in cell for row in rows or [] for cell in row)
        if (
            not rows
            or _even(rows)[0] < 1
            or (several and _even(_first_rows(file, bare) or [])[0] == 1)
        ):
            return bare
    return form


def _first_rows(file: IO[str], form: _Form) -> list[list[str]] | None:
    """None where they cannot be read."""
    file.seek(0)
    for _ in range(form.skip):
        file.readline()
    try:
        return [row for row in itertools.islice(form.rows(file), _LOOKED_AT) if row]
    except csv.Error:
        return None


def _first_lines(file: IO[str], skip: int) -> list[str]:
    file.seek(0)
    return [line for line in itertools.islice(file, skip, _LOOKED_AT) if line.strip()]


def _even(rows: list[list[str]]) -> tuple[float, int]:
    """The share of the rows that are as long as the header, where that has more than one cell; and how long it is."""
    width = len(rows[0]) if rows else 0
    return (sum(len(row) == width for row in rows) / len(rows) if width > 1 else 0.0), width


def _all_rows(lines: list[str], form: _Form, width: int) -> bool:
    # In a text a space follows a comma, and between cells there is none.
    marks = [re.findall(re.escape(form.delimiter) + "(?! )", line) for line in lines]
    counts = zip(lines, marks, strict=True)
    return width > 1 and all(
        line.count(form.delimiter) == len(own) == width - 1 for line, own in counts
    )


class _Lines:
    """The lines of a file; `own` are those since it was emptied, and `count` is how many there were."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self.own: list[str] = []
        self.count = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._file)
        self.own.append(line)
        self.count += 1
        return line
