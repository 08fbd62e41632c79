"""Records of JSON files: one value a line, or any JSON values one after another.

Values that are lists of objects give one record for each object. A file whose rows are hidden in
one large object, or in columns, is refused with its form, because a record must be one row.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rung.data.read.text_files import Notify, Record, Records, open_text
from rung.errors import DataError
from rung.recipe import FIELD_NAMES

PIECE_CHARACTERS = 1 << 16
"""Characters of a file that are read at once."""
_SAMPLE_RECORDS = 5
"""Records at the start of a file that show whether each has many rows."""
_MIN_ROWS_IN_OBJECT = 8
"""An object of columns with fewer rows is read as one row."""
_MAX_LISTED_NAMES = 5
_MAX_FIELDS_OF_ROW = 20
"""An object with more values of one kind is not a row."""
_BLANK = " \t\r\n\ufeff"
"""May stand between two values. The byte order mark stands where files were joined."""


def read_json(path: Path, _: Notify) -> Records:
    """Read the records of a JSON file: one object a line, or lists and objects of any layout.

    Yields:
        Each record and its location. In a file with one value a line, the error of a bad line
        stands in its place.

    Raises:
        DataError: A value that spans lines is broken, so nothing after it can be read; or the rows
            are inside of one object or in columns.
    """
    with open_text(path) as file:
        start = file.read(PIECE_CHARACTERS).lstrip(_BLANK)
    records = _values_of_lines(path) if _has_value_per_line(start) else _values(path)
    yield from _check_layout(path, records)


def _has_value_per_line(start: str) -> bool:
    """Whether the first line of a text is a whole value, or cannot be read at all.

    In the second case the broken line is reported, and the lines after it are read.
    """
    line, has_more, _ = start.partition("\n")
    if line.startswith("[") or not start or line.rstrip() == "{":
        return False
    try:
        return not has_more or _DECODER.raw_decode(start)[1] <= len(line)
    except (ValueError, RecursionError):
        return True


def _values_of_lines(path: Path) -> Records:
    # JSON text has no line break inside of a string. U+2028 and the like may be there, but they do
    # not end a line of a file.
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip(_BLANK):
                yield _parse(line.removeprefix("\ufeff"), f"{path}, line {number}")


def _parse(text: str, location: str) -> Record | DataError:
    try:
        return _DECODER.decode(text), location
    except json.JSONDecodeError as error:
        return DataError(
            f"{location}: this is not valid JSON ({error.msg} at character {error.pos + 1}); write "
            "one object a line."
        )
    except (ValueError, RecursionError) as error:
        return DataError(
            f"{location}: this JSON cannot be read ({_reason(error)}); write one object a line."
        )


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error).partition(";")[0]


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key '{repeated}' appears twice")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys)


def _values(path: Path) -> Records:
    """The JSON values of a file, read a piece at a time. The items of a list are records."""
    with open_text(path) as file:
        text, at, line = "", 0, 1
        at_end = in_list = False
        while True:
            # Skip what stands between two values.
            while at < len(text) and (text[at] in _BLANK or (in_list and text[at] == ",")):
                line += text[at] == "\n"
                at += 1
            if at < len(text) and text[at] == ("]" if in_list else "["):
                in_list, at = not in_list, at + 1
                continue
            try:
                if at == len(text):
                    raise json.JSONDecodeError("the list is not closed", text, at)
                value, end = _DECODER.raw_decode(text, at)
                if end == len(text) and not at_end:
                    raise json.JSONDecodeError("a number may continue", text, at)
            except json.JSONDecodeError as error:
                if not at_end:
                    more = file.read(max(PIECE_CHARACTERS, len(text) - at))
                    text, at, at_end = text[at:] + more, 0, not more
                    continue
                if not in_list and at == len(text):
                    return
                # After a broken object nobody can tell where the next one begins.
                line += text.count("\n", at, error.pos)
                raise DataError(
                    f"{path}, line {line}: this is not valid JSON ({error.msg}), and nothing after "
                    "it can be read; write a list of objects."
                ) from None
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{path}, line {line}: this JSON cannot be read ({_reason(error)})."
                ) from None
            yield value, f"{path}, line {line}"
            line += text.count("\n", at, end)
            at = end


def _check_layout(path: Path, records: Records) -> Records:
    """The same records, after a check of the first ones.

    Raises:
        DataError: The whole file is one object that contains the rows, or each object has many
            rows.
    """
    first = list(itertools.islice(records, _SAMPLE_RECORDS))
    values = [record[0] for record in first if not isinstance(record, DataError)]
    if len(first) == 1 and values and (layout := _describe_rows_inside(values[0])):
        raise DataError(f"{path} is one object {layout}; write a list of objects, one per row.")
    if len(first) > 1 and len(values) == len(first) and (count := _rows_per_object(values)):
        raise DataError(
            f"{path}: each object has {count:,} rows, as columns ({_list_names(values[0])}); write "
            "one object per row."
        )
    yield from first
    yield from records


def _describe_rows_inside(value: Any) -> str:
    """How an object holds many rows, in words; empty if it seems to be one row.

    The rows may be columns, the values of many keys, or a list under one key.
    """
    if not isinstance(value, dict):
        return ""
    return (
        _describe_pandas_split(value)
        or _describe_list_columns(value)
        or _describe_rows_by_key(value)
        or _describe_nested_rows(value)
    )


def _describe_pandas_split(value: dict[str, Any]) -> str:
    is_split = {"columns", "data"} <= value.keys() <= {"columns", "index", "data"}
    if is_split and isinstance(value["data"], list):
        return f"of {len(value['data']):,} rows as pandas writes them with orient='split'"
    return ""


def _describe_list_columns(value: dict[str, Any]) -> str:
    columns = list(value.values())
    if (
        len(columns) > 1
        and all(isinstance(column, list) and len(column) > 1 for column in columns)
        and len(set(map(len, columns))) == 1
        and not any(isinstance(cell, dict) for column in columns for cell in column)
    ):
        return f"of columns ({_list_names(value)}, each a list of {len(columns[0]):,})"
    return ""


def _describe_rows_by_key(value: dict[str, Any]) -> str:
    parts = list(value.values())
    is_row = len(parts) <= _MAX_FIELDS_OF_ROW or value.keys() & set(FIELD_NAMES)
    if not is_row and any(
        all(isinstance(part, kind) for part in parts) for kind in (dict, list, str)
    ):
        return f"of {len(parts):,} rows by their names ({_list_names(value)})"
    return ""


def _describe_nested_rows(value: dict[str, Any]) -> str:
    parts = list(value.values())
    if (
        all(isinstance(part, dict) and len(part) > 1 for part in parts)
        and len({tuple(part) for part in parts}) == 1
    ):
        if len(parts) == 1:
            return ""
        return f"of columns ({_list_names(value)}, each an object with {len(parts[0]):,} rows)"
    if value.keys() & set(FIELD_NAMES):
        return ""
    for name, part in value.items():
        rows = part if isinstance(part, list) else []
        if len(rows) > 1 and all(
            isinstance(row, dict) and not {"role", "from"} & row.keys() for row in rows
        ):
            return f"that has its {len(rows):,} rows under '{name}'"
    return ""


def _rows_per_object(values: Sequence[Any]) -> int:
    """The number of rows in each object, if all objects are batches of columns; else 0.

    All fields of all objects must then be lists of one length; the last object may be shorter.
    """
    lengths = [
        {len(part) if isinstance(part, list) else 0 for part in value.values()}
        if isinstance(value, dict)
        else set()
        for value in values
    ]
    full = lengths if len(lengths) == _SAMPLE_RECORDS else lengths[:-1]
    count = max(full[0], default=0)
    has_chats = any(
        isinstance(value, dict) and {"messages", "conversations"} & value.keys() for value in values
    )
    is_batched = (
        count >= _MIN_ROWS_IN_OBJECT
        and not has_chats
        and all(of_object == {count} for of_object in full)
        and len(lengths[-1]) == 1
    )
    return count if is_batched else 0


def _list_names(names: Iterable[str]) -> str:
    first = list(itertools.islice(names, _MAX_LISTED_NAMES + 1))
    return ", ".join(map(repr, first[:_MAX_LISTED_NAMES])) + ", …" * (
        len(first) > _MAX_LISTED_NAMES
    )
