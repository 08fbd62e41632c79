"""Records of Parquet and Arrow files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rung.data.read.text_files import Notify, Records, other_file_kind
from rung.errors import DataError

_ROWS_AT_ONCE = 1024
_FIELDS_OF_OBJECTS = {"tools", "functions", "documents", "chat_template_kwargs"}


def read_parquet(path: Path, _: Notify) -> Records:
    """Read the rows of a Parquet file.

    Raises:
        DataError: The file is not Parquet, names a column twice, or has a value that Python cannot
            represent.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _check_column_names(path, file.schema_arrow.names)
            yield from _records(path, file.iter_batches(batch_size=_ROWS_AT_ONCE))
    except pa.ArrowInvalid as error:
        raise _invalid_file(path, "a Parquet file", error) from None


def read_arrow(path: Path, _: Notify) -> Records:
    """Read the rows of an Arrow file: either the form with an index or a stream.

    `datasets` writes streams.

    Raises:
        DataError: As for `read_parquet`.
    """
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            try:
                file = pa.ipc.open_file(source)
                batches: Iterable[Any] = (file.get_batch(i) for i in range(file.num_record_batches))
            except pa.ArrowInvalid:
                source.seek(0)
                file = batches = pa.ipc.open_stream(source)
            _check_column_names(path, file.schema.names)
            yield from _records(path, batches)
    except pa.ArrowInvalid as error:
        raise _invalid_file(path, "an Arrow file", error) from None


def _check_column_names(path: Path, names: Sequence[str]) -> None:
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"{path} has the column '{repeated}' twice; give each column its own name.")


def _records(path: Path, batches: Iterable[Any]) -> Records:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
            try:
                rows = batch.slice(start, _ROWS_AT_ONCE).to_pylist(maps_as_pydicts="strict")
            # A date beyond Python's years, or a map with a key twice.
            except (OverflowError, ValueError, KeyError) as error:
                raise DataError(
                    f"{path}: row {number + 1} or one after it has a value that cannot be read "
                    f"({error})."
                ) from None
            for row in rows:
                number += 1
                yield (
                    {name: _without_added_nulls(name, value) for name, value in row.items()},
                    f"{path}, row {number}",
                )


def _without_added_nulls(name: str, value: Any) -> Any:
    """A chat, its tools or the like without the nulls that its column adds.

    Every object of a column has the fields of all objects in it. A null in another object may be
    the row's own: that of an answer in JSON, for example.
    """
    first = value[0] if isinstance(value, list) and value else value
    is_chat = isinstance(first, dict) and any(
        first.get(key) is not None for key in ("role", "from", "function")
    )
    return _without_nulls(value) if is_chat or name in _FIELDS_OF_OBJECTS else value


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(part) for name, part in value.items() if part is not None}
    if isinstance(value, list):
        return [_without_nulls(part) for part in value]
    return value


def _invalid_file(path: Path, expected: str, error: Exception) -> DataError:
    with path.open("rb") as file:
        if kind := other_file_kind(file.read(64)):
            return DataError(f"{path} is {kind}.")
    reason = str(error).splitlines()[0].rstrip(".")
    return DataError(f"{path} is not {expected} ({reason}); write it again.")
