"""Files of rows ─▶ records, each with where it stands. Everything streams: no file is ever held whole.

A record that cannot be read comes out as the error that says so, and the reading goes on: whoever reads decides whether
a bad row stops it.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from rung.errors import DataError

Record = tuple[Any, str]
"""What was read, and where: `train.jsonl, line 12`."""
Records = Iterator[Record | DataError]

SPLITS = ("train", "validation", "test")
_SPLIT_NAMES = {"train": "train", "training": "train", "validation": "validation", "valid": "validation"}
_SPLIT_NAMES |= {"val": "validation", "dev": "validation", "eval": "validation", "evaluation": "validation"}
_SPLIT_NAMES |= {"test": "test", "testing": "test", "holdout": "test"}
_PIECE = 1 << 16
"""Characters of a JSON file that are read at once."""
_LONGEST_FIELD = 1 << 30
_LOOKED_AT = 1000
"""Rows of a file with tabs that say whether it has quotes."""


def is_hub_id(data: str) -> bool:
    """Whether it is written as `owner/name` or `owner/name:configuration` and is no path."""
    return (
        bool(re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", data)) and not _reader(Path(data)) and not Path(data).exists()
    )


def find_files(data: str) -> dict[str, list[Path]]:
    """The files of a data set, by split; those of no known split are `train`.

    Args:
        data: a file, a folder of files, or a hub id, which `datasets` fetches.

    Raises:
        DataError: nothing is there, or nothing that can be read.
    """
    path = Path(data)
    if path.is_dir():
        return _in_folder(path)
    if path.is_file():
        if not _reader(path):
            raise DataError(f"The data file '{path}' ends in '{path.suffix}'; give {_ENDINGS}, or a folder of them.")
        return {"train": [path]}
    if is_hub_id(data):
        return _from_hub(data)
    raise DataError(f"There is no data file '{data}'; give {_ENDINGS}, a folder of them, a hub id, or a built-in task.")


def _in_folder(folder: Path) -> dict[str, list[Path]]:
    files = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith((".", "_")) for part in inside.parts)
        if path.is_file() and not hidden and _reader(path) and not _ABOUT.fullmatch(inside.name):
            files.append((inside, [path]))
    if not files:
        raise DataError(f"In the folder '{folder}' is no file of rows; put {_ENDINGS} there.")
    return _by_split(files)


_ABOUT = re.compile(r"dataset_infos?\.json|state\.json|dataset_dict\.json|cache-.*\.arrow")
"""What `datasets` writes beside its files."""


def _by_split(named: Sequence[tuple[Path, list[Path]]]) -> dict[str, list[Path]]:
    """The files of each split, by the first word of a name that says one: `test/a.csv`, `my-train-00000.parquet`. Those
    that name none are to train on, unless others say that they are.
    """
    found: dict[str, list[Path]] = {}
    for name, paths in named:
        words = re.split(r"[^a-z]+", str(name.with_name(name.name.partition(".")[0])).lower())
        found.setdefault(next((_SPLIT_NAMES[word] for word in words if word in _SPLIT_NAMES), ""), []).extend(paths)
    unnamed = found.pop("", [])
    if unnamed and "train" not in found:
        found["train"] = unnamed
    return {split: found[split] for split in SPLITS if split in found}


def _from_hub(data: str) -> dict[str, list[Path]]:
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
    return _by_split([(Path(str(s)), [Path(f["filename"]) for f in rows.cache_files]) for s, rows in loaded.items()])


def read_file(path: Path) -> Records:
    """The records of one file, or an error in the place of each that cannot be read.

    Raises:
        DataError: the file itself cannot be read.
    """
    reader = _reader(path)
    if not reader:
        raise DataError(f"The data file '{path}' ends in '{path.suffix}'; give {_ENDINGS}.")
    try:
        yield from reader(path)
    except UnicodeDecodeError as error:
        says = f"{path} is no UTF-8 ({error.reason}); save it in UTF-8, say with iconv -f latin1 -t utf-8."
        raise DataError(says) from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"The data file '{path}' cannot be read ({getattr(error, 'strerror', None) or error})."
        ) from None


def _open(path: Path, newline: str | None = None) -> IO[str]:
    """A text, compressed or not; a byte order mark is passed over, also that of UTF-16."""
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        mark = file.read(2)
    encoding = "utf-16" if mark in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    found: IO[str] = opener(path, "rt", encoding=encoding, newline=newline)
    return found


def _jsonl(path: Path) -> Records:
    # Lines end at \n alone: JSON allows others of Unicode's line ends, such as U+2028, inside a text.
    with _open(path, newline="\n") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _parsed(line, f"{path}, line {number}", "write one object a line")


def _parsed(text: str, where: str, remedy: str) -> Record | DataError:
    try:
        return json.loads(text), where
    except json.JSONDecodeError as error:
        return DataError(f"{where}: this is not JSON ({error.msg} at character {error.pos + 1}); {remedy}.")
    except (ValueError, RecursionError) as error:
        return DataError(f"{where}: this JSON cannot be read ({_short(error)}); {remedy}.")


def _short(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error).partition(";")[0]


def _json(path: Path) -> Records:
    """A list of objects, read a piece at a time. A file that begins with an object has one a line."""
    with _open(path) as file:
        text = file.read(_PIECE).lstrip()
    if text.startswith("[") or not text:
        yield from _array(path)
    else:
        yield from _jsonl(path)


def _array(path: Path) -> Records:
    decoder = json.JSONDecoder()
    with _open(path) as file:
        text, at, line, ended, opened = "", 0, 1, False, False
        while True:
            # What stands between two values.
            while at < len(text) and (text[at].isspace() or (opened and text[at] == ",")):
                line += text[at] == "\n"
                at += 1
            if at < len(text) and not opened:
                opened, at = True, at + 1  # the bracket
                continue
            if at < len(text) and text[at] == "]":
                return
            try:
                if at == len(text):
                    raise json.JSONDecodeError("the list has no end", text, at)
                value, end = decoder.raw_decode(text, at)
                if end == len(text) and not ended:
                    raise json.JSONDecodeError("a number may go on", text, at)
            except json.JSONDecodeError as error:
                if not ended:
                    more = file.read(max(_PIECE, len(text) - at))
                    text, at, ended = text[at:] + more, 0, not more
                    continue
                if not opened and not text.strip():
                    return
                # Where one object is broken, nobody can say where the next begins.
                line += text.count("\n", at, error.pos)
                says = f"{path}, line {line}: this is not JSON ({error.msg}), and what follows cannot be read"
                raise DataError(f"{says}; write a list of objects.") from None
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}, line {line}: this JSON cannot be read ({_short(error)}).") from None
            yield value, f"{path}, line {line}"
            line += text.count("\n", at, end)
            at = end


def _csv(path: Path) -> Records:
    csv.field_size_limit(_LONGEST_FIELD)
    with _open(path, newline="") as file:
        head = file.readline()
        delimiter = max(",;\t", key=head.count)
        file.seek(0)
        bare = delimiter == "\t" and not _quotes_mean_something(file)
        file.seek(0)
        lines = csv.reader(
            file, delimiter=delimiter, quoting=csv.QUOTE_NONE if bare else csv.QUOTE_MINIMAL, strict=True
        )
        names: list[str] = []
        while True:
            where = f"{path}, line {lines.line_num + 1}"
            try:
                cells = next(lines)
            except StopIteration:
                return
            except csv.Error as error:
                # Where the quotes are wrong, nobody can say where the next row begins.
                says = f"{where}: this is no CSV ({error}), and what follows cannot be read; look at this row's quotes."
                raise DataError(says) from None
            if not names:
                names = [name.strip() for name in cells]
                if twice := next((name for name in names if names.count(name) > 1), None):
                    raise DataError(f"{where}: the header has '{twice}' twice; give each column a name of its own.")
            elif len(cells) == len(names):
                yield dict(zip(names, cells, strict=True)), where
            elif cells:
                counts = f"{len(cells)} cells, and the header {len(names)}"
                yield DataError(f"{where}: the row has {counts}; quote cells that have commas in them.")


def _quotes_mean_something(file: IO[str]) -> bool:
    """Tabs are seldom in a text, so files with tabs often are written without quotes; then a quote is a quote. By the
    first rows: whether they are rows of the header's length if quotes are read as such.
    """
    lines = csv.reader(file, delimiter="\t", strict=True)
    try:
        rows = list(itertools.islice(lines, _LOOKED_AT))
    except csv.Error:
        return False
    return len({len(row) for row in rows if row}) <= 1


def _parquet(path: Path) -> Records:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield from _of_batches(path, file.iter_batches(batch_size=1024))
    except pa.ArrowInvalid as error:
        raise _broken(path, "Parquet", error) from None


def _arrow(path: Path) -> Records:
    """Either form of Arrow's files, the one with an index and the stream that `datasets` writes."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            try:
                file = pa.ipc.open_file(source)
                batches: Iterable[Any] = (file.get_batch(i) for i in range(file.num_record_batches))
            except pa.ArrowInvalid:
                source.seek(0)
                batches = pa.ipc.open_stream(source)
            yield from _of_batches(path, batches)
    except pa.ArrowInvalid as error:
        raise _broken(path, "Arrow", error) from None


def _of_batches(path: Path, batches: Iterable[Any]) -> Records:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, 1024):
            try:
                records = batch.slice(start, 1024).to_pylist()
            except (OverflowError, ValueError) as error:  # a date that Python has no word for
                first = number + 1
                raise DataError(f"{path}, a row from {first} on has a value that cannot be read ({error}).") from None
            for record in records:
                number += 1
                yield {name: _own(value) for name, value in record.items()}, f"{path}, row {number}"


def _own(value: Any) -> Any:
    """A nested value as it was before it stood in a column, which gives every object the fields of all, as null, and
    makes pairs of what had keys of its own.
    """
    if isinstance(value, dict):
        return {name: _own(part) for name, part in value.items() if part is not None}
    if isinstance(value, list):
        pairs = bool(value) and all(isinstance(part, tuple) for part in value)
        return {name: _own(part) for name, part in value} if pairs else [_own(part) for part in value]
    return value


def _broken(path: Path, kind: str, error: Exception) -> DataError:
    return DataError(f"{path} is no {kind} file ({str(error).splitlines()[0].rstrip('.')}); write it anew.")


_READERS: dict[str, Callable[[Path], Records]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
    ".arrow": _arrow,
}
_ENDINGS = ".jsonl, .json, .csv, .tsv, .parquet or .arrow"


def _reader(path: Path) -> Callable[[Path], Records] | None:
    suffixes = path.suffixes
    if suffixes and suffixes[-1] == ".gz":
        text = [suffix for suffix in suffixes[-2:-1] if suffix not in (".parquet", ".arrow")]
        return _READERS.get(text[0].lower()) if text else None
    return _READERS.get(path.suffix.lower())
