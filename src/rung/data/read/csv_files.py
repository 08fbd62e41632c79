"""Records of CSV and TSV files. CSV has no single standard: the first rows decide how it is read.

The delimiter is the one that makes most rows as long as the header. A first line `sep=;`, which
Excel writes, decides it too. Every cell is text, exactly as it is written: `NA`, `007` and `1e5`
are neither nulls nor numbers. A row whose length differs from the header's is malformed. A row that
repeats the header is skipped. After a wrong quote nobody can tell where the next row begins, so
reading stops there.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from rung.data.read.text_files import Notify, Records, open_text
from rung.errors import DataError

_MAX_CELL_CHARACTERS = 1 << 30
_SAMPLE_ROWS = 1000
"""Rows at the start of a file that decide how it is read."""
_MAX_SHARE_OF_SWALLOWED = 0.01
"""If more rows than this share have lines that look like rows, the texts are simply like that."""
_SEP_LINE = re.compile(r'"?sep=(.)"?[\r\n]*')
_DELIMITER_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}


@dataclass(frozen=True, slots=True)
class _Dialect:
    """How a CSV file is written.

    Attributes:
        delimiter: The character between cells.
        quote: The character around quoted cells; empty if quotes have no meaning.
        spaced: Whether a space after a delimiter is not part of the cell.
        skipped_lines: The number of lines before the header.
    """

    delimiter: str
    quote: str = '"'
    spaced: bool = False
    skipped_lines: int = 0

    def rows(self, lines: Iterable[str]) -> Any:
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            quotechar=self.quote or None,
            quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            skipinitialspace=self.spaced,
            strict=True,
        )

    def has_space_before_quote(self, line: str) -> bool:
        """Whether a cell of the line begins with a space and a quote that is not closed at once."""
        mark = re.escape(self.delimiter)
        return bool(re.search(rf'(?:^|{mark})[ \xa0]+"(?!["{mark}\r\n]|$)', line))


def read_csv(path: Path, notify: Notify) -> Records:
    """Read the rows of a CSV or TSV file with a header.

    Args:
        path: The file.
        notify: Takes notes about the file, for the user.

    Yields:
        A dictionary from column name to text and its location, or the error of a malformed row.

    Raises:
        DataError: The header names a column twice, or a quote is wrong.
    """
    csv.field_size_limit(_MAX_CELL_CHARACTERS)
    with open_text(path, newline="") as file:
        dialect = _detect_dialect(file)
        if dialect.spaced:
            notify(
                f"{path} has spaces between delimiters and quotes; spaces after a delimiter are "
                "not part of a cell"
            )
        if dialect.quote == "'":
            notify(f"{path} has its cells in single quotes; the quotes are not part of the cells")
        yield from _records(path, file, dialect, notify)


def _records(path: Path, file: IO[str], dialect: _Dialect, notify: Notify) -> Records:
    names: list[str] = []
    swallowing_rows: list[str] = []
    repeated_headers: list[str] = []
    row_count = 0
    lines = _LineRecorder(file)
    rows = dialect.rows(lines)
    for _ in range(dialect.skipped_lines):
        next(lines)
    while True:
        location = f"{path}, line {lines.count + 1}"
        lines.of_row = []
        try:
            cells = next(rows)
        except StopIteration:
            break
        except csv.Error as error:
            raise DataError(
                f"{location}: this is not valid CSV ({error}), and nothing after it can be read; "
                "check the quotes of this row."
            ) from None
        if not names:
            names = _column_names(cells, location)
        elif _without_marks(cells) == _without_marks(names):
            repeated_headers.append(location)
        elif problem := _row_problem(cells, names, lines.of_row, dialect):
            yield DataError(f"{location}: {problem}.")
        elif cells:
            if len(lines.of_row) > 1 and dialect.quote and _are_rows(lines.of_row, dialect, names):
                swallowing_rows.append(location)
            row_count += 1
            yield dict(zip(names, cells, strict=True)), location
    if repeated_headers:
        notify(f"{_first_and_count(repeated_headers)} repeats the header and is skipped")
    if 0 < len(swallowing_rows) <= max(3, _MAX_SHARE_OF_SWALLOWED * row_count):
        notify(
            f"In {_first_and_count(swallowing_rows)}, a quoted cell has lines that look like rows; "
            "close its quote"
        )


def _column_names(header: list[str], location: str) -> list[str]:
    names = [name.strip() for name in header]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise DataError(
            f"{location}: the header has the column '{repeated}' twice; give each column its own "
            "name."
        )
    return names


def _first_and_count(locations: list[str]) -> str:
    more = f" and {len(locations) - 1:,} more" if len(locations) > 1 else ""
    return locations[0] + more


def _without_marks(cells: list[str]) -> list[str]:
    """Cells without the characters that may stand around a repeated header.

    Where files were joined, a byte order mark stands before the header. The quote after it is then
    read as text.
    """
    return [cell.strip('\ufeff" \t') for cell in cells]


def _row_problem(cells: list[str], names: list[str], lines: list[str], dialect: _Dialect) -> str:
    """What is wrong with a row, in words; empty if nothing is."""
    if any("\0" in line for line in lines):
        return "the row has a zero byte, which is not text; write the file again"
    if cells and len(cells) != len(names):
        return (
            f"the row has {len(cells)} cells, and the header has {len(names)}; quote the cells "
            f"that contain {_DELIMITER_NAMES.get(dialect.delimiter, 'delimiter')}s"
        )
    suspicious = dialect.quote == '"' and not dialect.spaced and any(map(_is_spaced_quote, cells))
    if suspicious and any(map(dialect.has_space_before_quote, lines)):
        return (
            "a space stands before a quote, so nobody can tell whether both are part of the text; "
            "remove the space"
        )
    return ""


def _is_spaced_quote(cell: str) -> bool:
    return cell[:1] in " \xa0" and cell.lstrip().startswith('"')


def _detect_dialect(file: IO[str]) -> _Dialect:
    """Find how the file is written by its first rows. The file is at its start again afterwards."""
    first_line = file.readline()
    sep = _SEP_LINE.fullmatch(first_line)
    header = file.readline() if sep else first_line
    possible = [mark for mark in ",;\t|" if mark in header] or [","]
    delimiters = [sep[1]] if sep else possible
    dialects = [
        _with_quoting(file, _Dialect(delimiter, skipped_lines=int(sep is not None)))
        for delimiter in delimiters
    ]
    best = max(dialects, key=lambda dialect: _regularity(_sample_rows(file, dialect) or []))
    file.seek(0)
    return best


def _with_quoting(file: IO[str], dialect: _Dialect) -> _Dialect:
    """The dialect with its quote character and its treatment of spaces decided."""
    lines = _sample_lines(file, dialect.skipped_lines)
    rows = _sample_rows(file, dialect)
    if any(map(dialect.has_space_before_quote, lines)) and any(
        _is_spaced_quote(cell) for row in rows or [] for cell in row
    ):
        return replace(dialect, spaced=True)
    if len(lines) > 1 and all(
        line.startswith("'") and line.rstrip().endswith("'") for line in lines[1:]
    ):
        single_quoted = replace(dialect, quote="'")
        is_regular = _regularity(_sample_rows(file, single_quoted) or [])[0] == 1
        return single_quoted if is_regular else dialect
    if dialect.delimiter == "\t":
        # A text seldom has tabs, so files with tabs are often written without quoting, and a quote
        # is then an ordinary character. It is one if quoting makes rows of different lengths, or if
        # it swallows lines that are rows without quoting, unless the header's names are quoted.
        unquoted = replace(dialect, quote="")
        unquoted_rows = _sample_rows(file, unquoted) or []
        is_header_quoted = all(re.fullmatch('".*"', name) for name in (unquoted_rows or [[""]])[0])
        spans_lines = any("\n" in cell or "\r" in cell for row in rows or [] for cell in row)
        if (
            not rows
            or _regularity(rows)[0] < 1
            or (spans_lines and not is_header_quoted and _regularity(unquoted_rows)[0] == 1)
        ):
            return unquoted
    return dialect


def _sample_rows(file: IO[str], dialect: _Dialect) -> list[list[str]] | None:
    """The first rows in this dialect; None if they cannot be read."""
    file.seek(0)
    for _ in range(dialect.skipped_lines):
        file.readline()
    try:
        return [row for row in itertools.islice(dialect.rows(file), _SAMPLE_ROWS) if row]
    except csv.Error:
        return None


def _sample_lines(file: IO[str], skipped_lines: int) -> list[str]:
    file.seek(0)
    return [line for line in itertools.islice(file, skipped_lines, _SAMPLE_ROWS) if line.strip()]


def _regularity(rows: list[list[str]]) -> tuple[float, int]:
    """The share of rows as long as the header (0 if it has one cell), and the header's length."""
    width = len(rows[0]) if rows else 0
    return (sum(len(row) == width for row in rows) / len(rows) if width > 1 else 0.0), width


def _are_rows(lines: list[str], dialect: _Dialect, names: list[str]) -> bool:
    """Whether every line looks like a row of its own."""
    # In a text a comma is followed by a space; between cells it is not.
    separators = [re.findall(re.escape(dialect.delimiter) + "(?! )", line) for line in lines]
    return len(names) > 1 and all(
        line.count(dialect.delimiter) == len(found) == len(names) - 1
        for line, found in zip(lines, separators, strict=True)
    )


class _LineRecorder:
    """An iterator over the lines of a file that records them.

    Attributes:
        of_row: The lines since the list was last emptied.
        count: The number of lines so far.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self.of_row: list[str] = []
        self.count = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._file)
        self.of_row.append(line)
        self.count += 1
        return line
