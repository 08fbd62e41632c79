from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.data.read.records import locations, records, write

from rung.errors import DataError


def test_a_record_is_located_by_its_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x", "y"]}), path)
    assert locations(path) == [f"{path}, row 1", f"{path}, row 2"]


def test_a_date_that_python_cannot_represent_is_an_error(tmp_path: Path) -> None:
    column = pa.array([2**61], pa.timestamp("us"))
    pq.write_table(pa.table({"prompt": ["p"], "completion": column}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="row 1 or one after it has a value that cannot be read"):
        records(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("name", "kind"), [("a.parquet", "a Parquet file"), ("a.arrow", "an Arrow file")]
)
def test_a_file_of_another_kind_than_its_name_says_is_an_error(
    tmp_path: Path, name: str, kind: str
) -> None:
    with pytest.raises(DataError, match=f"{name} is not {kind}"):
        records(write(tmp_path / name, b"x" * 100))


def test_a_git_lfs_pointer_instead_of_a_parquet_file_is_an_error(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"
    with pytest.raises(DataError, match=r"a\.parquet is a pointer of Git LFS"):
        records(write(tmp_path / "a.parquet", pointer))


def test_nulls_that_a_column_adds_to_the_objects_of_a_chat_are_removed(tmp_path: Path) -> None:
    """Every object of a column has the fields of all objects in it."""
    arguments: list[Any] = [[{"town": "Oslo"}], [{"of": "1+1", "deep": {"x": 1}}]]
    rows = [
        {
            "messages": [{"role": "assistant", "calls": calls}],
            "tools": [{"name": "f", "of": calls}],
            "top": top,
        }
        for calls, top in zip(arguments, (None, "t"), strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert records(tmp_path / "a.parquet") == rows


def test_nulls_in_other_objects_stay_because_they_may_belong_to_the_row(tmp_path: Path) -> None:
    rows = [{"completion": {"name": "Ida", "age": None}}, {"completion": {"name": None, "age": 3}}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert records(tmp_path / "a.parquet") == rows


def test_a_column_that_is_there_twice_is_an_error(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as stream:
        stream.write_table(table)
    for name in ("a.parquet", "a.arrow"):
        with pytest.raises(
            DataError, match="has the column 'text' twice; give each column its own name"
        ):
            records(tmp_path / name)


def test_nested_columns_are_objects_and_lists(tmp_path: Path) -> None:
    row = {"q": {"text": "x", "of": [1, 2]}, "m": {"k": 1}}
    schema = pa.schema(
        {
            "q": pa.struct({"text": pa.string(), "of": pa.list_(pa.int64())}),
            "m": pa.map_(pa.string(), pa.int64()),
        }
    )
    table = pa.Table.from_pylist([{"q": row["q"], "m": [("k", 1)]}], schema)
    pq.write_table(table, tmp_path / "a.parquet")
    assert records(tmp_path / "a.parquet") == [row]


def test_a_key_that_is_in_a_map_twice_is_an_error(tmp_path: Path) -> None:
    column = pa.array([[("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int64()))
    pq.write_table(pa.table({"m": column}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="row 1 or one after it has a value that cannot be read"):
        records(tmp_path / "a.parquet")
