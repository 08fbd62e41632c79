"""Files of rows ─▶ records, each with where it stands. Everything streams: no file is ever held whole.

A record that cannot be read comes out as the error that says so, and the reading goes on: whoever reads decides whether
a bad row stops it.
"""

from __future__ import annotations

import itertools
import json
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rung.data.split_names import by_split
from rung.data.tables import read_table
from rung.data.text import Record, Records, Tell, foreign, not_text, open_text
from rung.errors import DataError
from rung.recipe import FIELD_NAMES

_PIECE = 1 << 16
"""Characters of a JSON file that are read at once."""
_BATCHES = 5
"""Objects that say whether each has many rows."""
_LEAST = 8
"""Rows of such an object."""
_NAMED = 5
_FIELDS = 20
"""An object with more parts of one kind is no row."""


def is_hub_id(data: str) -> bool:
    """Whether it is written as `owner/name` or `owner/name:configuration` and is no path."""
    return (
        bool(re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", data))
        and not _reader(Path(data))
        and not Path(data).exists()
    )


def find_files(data: str, tell: Tell = lambda _: None) -> dict[str, list[Path]]:
    """The files of a data set, by split; those of no known split are `train`.

    Args:
        data: a file, a folder of files, or a hub id, which `datasets` fetches.
        tell: hears which files are left out.

    Raises:
        DataError: nothing is there, or nothing that can be read.
    """
    path = Path(data)
    if path.is_dir():
        return _in_folder(path, tell)
    if path.is_file():
        if not _reader(path):
            raise DataError(
                f"The data file '{path}' ends in '{path.suffix}'; give {_ENDINGS}, or a folder of them."
            )
        return {"train": [path]}
    if is_hub_id(data):
        return _from_hub(data, tell)
    raise DataError(
        f"There is no data file '{data}'; give {_ENDINGS}, a folder of them, a hub id, or a built-in task."
    )


def _in_folder(folder: Path, tell: Tell) -> dict[str, list[Path]]:
    files = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith((".", "_")) for part in inside.parts)
        if path.is_file() and not hidden and _reader(path) and not _ABOUT.fullmatch(inside.name):
            files.append((inside, [path]))
    if not files:
        raise DataError(f"In the folder '{folder}' is no file of rows; put {_ENDINGS} there.")
    return _by_split(files, tell)


_ABOUT = re.compile(r"dataset_infos?\.json|state\.json|dataset_dict\.json|cache-.*\.arrow")
"""What `datasets` writes beside its files."""


def _by_split(named: Sequence[tuple[Path, list[Path]]], tell: Tell) -> dict[str, list[Path]]:
    """The files of each split, by their names."""
    found = by_split(named, tell)
    return {split: [path for paths in own for path in paths] for split, own in found.items()}


def _from_hub(data: str, tell: Tell) -> dict[str, list[Path]]:
    import datasets
    from datasets.exceptions import DatasetsError
    from huggingface_hub.utils import logging

    # Each of its tries would be told, and in the end it is told once.
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    name, _, configuration = data.partition(":")
    try:
        loaded = datasets.load_dataset(name, configuration or None)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        first = str(error).strip().splitlines()[0].rstrip(".")
        raise DataError(
            f"The data set '{data}' cannot be fetched from the hub ({first}); give owner/name, or "
            "owner/name:configuration, or the path of a file."
        ) from None
    named = [
        (Path(str(s)), [Path(f["filename"]) for f in rows.cache_files])
        for s, rows in loaded.items()
    ]
    return _by_split(named, tell)


def read_file(path: Path, tell: Tell = lambda _: None) -> Records:
    """The records of one file, or an error in the place of each that cannot be read.

    Args:
        tell: hears what was taken otherwise than somebody might think.

    Raises:
        DataError: the file itself cannot be read.
    """
    reader = _reader(path)
    if not reader:
        raise DataError(f"The data file '{path}' ends in '{path.suffix}'; give {_ENDINGS}.")
    try:
        yield from reader(path, tell)
    except UnicodeDecodeError as error:
        raise not_text(path, error) from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"The data file '{path}' cannot be read ({getattr(error, 'strerror', None) or error})."
        ) from None


def _json(path: Path, _: Tell) -> Records:
    """Objects, one a line; or JSON values one after another, be they lists of objects or objects over several lines."""
    with open_text(path) as file:
        start = file.read(_PIECE).lstrip(_BLANK)
    yield from _no_columns(path, _lines(path) if _by_lines(start) else _values(path))


def _by_lines(start: str) -> bool:
    """Whether a text that begins so has a value on each line: where the first line is one, or cannot be read at all."""
    line, more, _ = start.partition("\n")
    if line.startswith("[") or not start or line.rstrip() == "{":
        return False
    try:
        # A line that is broken is named, and those behind it are read.
        return not more or _DECODER.raw_decode(start)[1] <= len(line)
    except (ValueError, RecursionError):
        return True


def _lines(path: Path) -> Records:
    # A text in JSON has no line end within it, and U+2028 and the like, which it may have, end no line of a file.
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip(_BLANK):
                yield _parsed(
                    line.removeprefix("\ufeff"), f"{path}, line {number}", "write one object a line"
                )


def _parsed(text: str, where: str, remedy: str) -> Record | DataError:
    try:
        return _DECODER.decode(text), where
    except json.JSONDecodeError as error:
        return DataError(
            f"{where}: this is not JSON ({error.msg} at character {error.pos + 1}); {remedy}."
        )
    except (ValueError, RecursionError) as error:
        return DataError(f"{where}: this JSON cannot be read ({_short(error)}); {remedy}.")


def _short(error: Exception) -> str:
    return (
        "it is nested too deeply"
        if isinstance(error, RecursionError)
        else str(error).partition(";")[0]
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(
            f"the key '{next(name for name in names if names.count(name) > 1)}' stands twice"
        )
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)
_BLANK = " \t\r\n\ufeff"
"""What may stand between two values; a byte order mark too, where files were put one behind another."""


def _values(path: Path) -> Records:
    """JSON values one after another, read a piece at a time; those of a list are records."""
    with open_text(path) as file:
        text, at, line, ended, opened = "", 0, 1, False, False
        while True:
            # What stands between two values.
            while at < len(text) and (text[at] in _BLANK or (opened and text[at] == ",")):
                line += text[at] == "\n"
                at += 1
            if at < len(text) and text[at] == "[" and not opened:
                opened, at = True, at + 1
                continue
            if at < len(text) and text[at] == "]" and opened:
                opened, at = False, at + 1
                continue
            try:
                if at == len(text):
                    raise json.JSONDecodeError("the list has no end", text, at)
                value, end = _DECODER.raw_decode(text, at)
                if end == len(text) and not ended:
                    raise json.JSONDecodeError("a number may go on", text, at)
            except json.JSONDecodeError as error:
                if not ended:
                    more = file.read(max(_PIECE, len(text) - at))
                    text, at, ended = text[at:] + more, 0, not more
                    continue
                if not opened and at == len(text):
                    return
                # Where one object is broken, nobody can say where the next begins.
                line += text.count("\n", at, error.pos)
                says = f"{path}, line {line}: this is not JSON ({error.msg}), and what follows cannot be read"
                raise DataError(f"{says}; write a list of objects.") from None
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{path}, line {line}: this JSON cannot be read ({_short(error)})."
                ) from None
            yield value, f"{path}, line {line}"
            line += text.count("\n", at, end)
            at = end


def _no_columns(path: Path, records: Records) -> Records:
    """The records, unless the whole file is one object that has the rows in it, or each object has many rows.

    Raises:
        DataError: so it is, and it is to be turned into a list of rows.
    """
    first = list(itertools.islice(records, _BATCHES))
    values = [record[0] for record in first if not isinstance(record, DataError)]
    if len(first) == 1 and values and (how := _rows_inside(values[0])):
        raise DataError(f"{path} is one object {how}; write a list of objects, one for each row.")
    if len(first) > 1 and len(values) == len(first) and (many := _batched(values)):
        says = f"each object has {many:,} rows, as columns ({_listed(values[0])})"
        raise DataError(f"{path}: {says}; write one object for each row.")
    yield from first
    yield from records


def _rows_inside(value: Any) -> str:
    """How an object holds rows, where it seems to: as columns, by their numbers or not, or as a list under some key."""
    if not isinstance(value, dict):
        return ""
    names, parts = _listed(value), list(value.values())
    if {"columns", "data"} <= value.keys() <= {"columns", "index", "data"} and isinstance(
        value["data"], list
    ):
        return f"of {len(value['data']):,} rows as pandas writes them with orient='split'"
    if (
        all(isinstance(part, list) and len(part) > 1 for part in parts)
        and len(set(map(len, parts))) == 1
    ):
        objects = any(isinstance(one, dict) for part in parts for one in part)
        if len(parts) > 1 and not objects:
            return f"of columns ({names}, each a list of {len(parts[0]):,})"
    is_row = len(parts) <= _FIELDS or value.keys() & set(FIELD_NAMES)
    if not is_row and any(
        all(isinstance(part, kind) for part in parts) for kind in (dict, list, str)
    ):
        return f"of {len(parts):,} rows by their names ({names})"
    if (
        all(isinstance(part, dict) and len(part) > 1 for part in parts)
        and len({tuple(part) for part in parts}) == 1
    ):
        return (
            f"of columns ({names}, each an object with {len(parts[0]):,} rows)"
            if len(parts) > 1
            else ""
        )
    for name, part in value.items() if not value.keys() & set(FIELD_NAMES) else ():
        rows = part if isinstance(part, list) else []
        if len(rows) > 1 and all(
            isinstance(row, dict) and not {"role", "from"} & row.keys() for row in rows
        ):
            return f"that has its {len(rows):,} rows under '{name}'"
    return ""


def _batched(values: Sequence[Any]) -> int:
    """How many rows each object has, where all of its fields are lists as long in every object, but for the last."""
    lengths = [
        {len(part) if isinstance(part, list) else 0 for part in value.values()}
        if isinstance(value, dict)
        else set()
        for value in values
    ]
    whole = lengths if len(lengths) == _BATCHES else lengths[:-1]
    many = max(whole[0], default=0)
    chats = any(
        {"messages", "conversations"} & value.keys() for value in values if isinstance(value, dict)
    )
    return (
        many
        if many >= _LEAST
        and not chats
        and all(own == {many} for own in whole)
        and len(lengths[-1]) == 1
        else 0
    )


def _listed(value: Iterable[str]) -> str:
    names = list(itertools.islice(value, _NAMED + 1))
    return ", ".join(map(repr, names[:_NAMED])) + ", …" * (len(names) > _NAMED)


def _parquet(path: Path, _: Tell) -> Records:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _once(path, file.schema_arrow.names)
            yield from _of_batches(path, file.iter_batches(batch_size=1024))
    except pa.ArrowInvalid as error:
        raise _broken(path, "Parquet", error) from None


def _arrow(path: Path, _: Tell) -> Records:
    """Either form of Arrow's files, the one with an index and the stream that `datasets` writes."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            try:
                file = pa.ipc.open_file(source)
                batches: Iterable[Any] = (file.get_batch(i) for i in range(file.num_record_batches))
            except pa.ArrowInvalid:
                source.seek(0)
                file = batches = pa.ipc.open_stream(source)
            _once(path, file.schema.names)
            yield from _of_batches(path, batches)
    except pa.ArrowInvalid as error:
        raise _broken(path, "Arrow", error) from None


def _once(path: Path, names: Sequence[str]) -> None:
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(
            f"{path} has the column '{twice}' twice; give each column a name of its own."
        )


def _of_batches(path: Path, batches: Iterable[Any]) -> Records:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, 1024):
            try:
                records = batch.slice(start, 1024).to_pylist(maps_as_pydicts="strict")
            except (
                OverflowError,
                ValueError,
                KeyError,
            ) as error:  # a date that Python has no word for, a key twice
                first = number + 1
                raise DataError(
                    f"{path}, a row from {first} on has a value that cannot be read ({error})."
                ) from None
            for record in records:
                number += 1
                yield (
                    {name: _of_chat(name, value) for name, value in record.items()},
                    f"{path}, row {number}",
                )


def _of_chat(name: str, value: Any) -> Any:
    """A value without what its column adds to it, where it is messages, tools or the like. A null in another object may
    be its own: that of an answer in JSON, say.
    """
    first = value[0] if isinstance(value, list) and value else value
    beside = {"tools", "functions", "documents", "chat_template_kwargs"}
    chat = isinstance(first, dict) and any(
        first.get(key) is not None for key in ("role", "from", "function")
    )
    return _own(value) if chat or name in beside else value


def _own(value: Any) -> Any:
    """A nested value as it was before it stood in a column, which gives every object the fields of all, as null."""
    if isinstance(value, dict):
        return {name: _own(part) for name, part in value.items() if part is not None}
    if isinstance(value, list):
        return [_own(part) for part in value]
    return value


def _broken(path: Path, kind: str, error: Exception) -> DataError:
    with path.open("rb") as file:
        if what := foreign(file.read(64)):
            return DataError(f"{path} is {what}.")
    return DataError(
        f"{path} is no {kind} file ({str(error).splitlines()[0].rstrip('.')}); write it anew."
    )


Reader = Callable[[Path, Tell], Records]
_READERS: dict[str, Reader] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), _json),
    **dict.fromkeys((".csv", ".tsv"), read_table),
    ".parquet": _parquet,
    ".arrow": _arrow,
}
_ENDINGS = ".jsonl, .json, .csv, .tsv, .parquet or .arrow"


def _reader(path: Path) -> Reader | None:
    suffixes = path.suffixes
    if suffixes and suffixes[-1] == ".gz":
        text = [suffix for suffix in suffixes[-2:-1] if suffix not in (".parquet", ".arrow")]
        return _READERS.get(text[0].lower()) if text else None
    return _READERS.get(path.suffix.lower())
