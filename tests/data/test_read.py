from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.data.read.files import find_files, is_hub_id, read_file
from rung.errors import DataError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.lists(st.dictionaries(TEXTS, VALUES, max_size=4), max_size=6).filter(
    lambda rows: len(rows) != 1
)
"""A file of one object may be refused, as one that holds the rows as columns."""


def records(path: Path) -> list[Any]:
    """What is in the file, without where it stands; errors as their messages."""
    return [str(found) if isinstance(found, DataError) else found[0] for found in read_file(path)]


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@given(RECORDS, st.booleans(), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_jsonl_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[Any],
    ascii_only: bool,
    end: str,
    marked: bool,
) -> None:
    path = tmp_path_factory.mktemp("j") / "a.jsonl"
    text = "".join(json.dumps(row, ensure_ascii=ascii_only) + end for row in rows)
    path.write_bytes(text.encode("utf-8-sig" if marked else "utf-8"))
    assert records(path) == rows


@given(RECORDS, st.sampled_from([None, 1, "\t"]), st.integers(1, 40))
def test_a_json_list_is_read_in_pieces_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], indent: Any, piece: int
) -> None:
    path = write(tmp_path_factory.mktemp("j") / "a.json", json.dumps(rows, indent=indent))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rung.data.read._PIECE", piece)
        found = list(read_file(path))
    assert [record[0] for record in found if not isinstance(record, DataError)] == rows
    assert len(found) == len(rows)


@given(
    st.lists(
        st.lists(TEXTS.filter(lambda text: "\0" not in text), min_size=2, max_size=2), max_size=6
    )
)
def test_csv_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]
) -> None:
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t"), ("b.csv", ";")):
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL)
        writer.writerows([["prompt", "completion"], *rows])
        path = write(tmp_path_factory.mktemp("c") / name, text.getvalue())
        assert records(path) == [
            dict(zip(("prompt", "completion"), row, strict=True)) for row in rows
        ]


ROWS = [{"prompt": "p", "completion": "달 🌙"}, {"prompt": "q\nr", "completion": "null"}] * 700


def test_parquet_and_both_kinds_of_arrow_and_compressed_text(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    with pa.ipc.new_file(str(tmp_path / "file.arrow"), table.schema) as file:
        file.write_table(table)
    with pa.ipc.new_stream(str(tmp_path / "stream.arrow"), table.schema) as stream:
        stream.write_table(table)
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    write(tmp_path / "lines.json", lines)
    for name in ("a.parquet", "file.arrow", "stream.arrow", "a.jsonl.gz", "lines.json"):
        assert records(tmp_path / name) == ROWS, name


def test_a_record_says_where_it_stands(tmp_path: Path) -> None:
    cases = {
        "a.jsonl": ('{"a": 1}\n\n{"a": "\u2028"}\n', ["line 1", "line 3"]),
        "a.json": ('[\n {"a": 1},\n\n {"a":\n 2}\n]', ["line 2", "line 4"]),
        "a.csv": ('a,b\n"x\ny",1\nz,2\n', ["line 2", "line 4"]),
    }
    for name, (text, lines) in cases.items():
        path = write(tmp_path / name, text)
        found = [record[1] for record in read_file(path) if not isinstance(record, DataError)]
        assert found == [f"{path}, {line}" for line in lines]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        (
            "a.jsonl",
            '{"a": 1}\n{"a": \n{"a": 3}\n',
            "line 2: this is not JSON (Expecting value at character",
        ),
        (
            "a.jsonl",
            '{"a": 1}\n' + "[" * 100_000 + '\n{"a": 3}\n',
            "line 2: this JSON cannot be read (it is nested too deeply)",
        ),
        ("a.csv", "a,b\n1,2\n1,2,3\n4,5\n", "line 3: the row has 3 cells, and the header 2"),
        (
            "a.jsonl",
            '{"a": 1}\n{"a": 1' + "0" * 5000 + '}\n{"a": 3}\n',
            "line 2: this JSON cannot be read (Exceeds the",
        ),
    ],
)
def test_a_malformed_row_is_named_and_the_others_are_read(
    tmp_path: Path, name: str, text: str, says: str
) -> None:
    path = write(tmp_path / name, text)
    found = list(read_file(path))
    (error,) = (record for record in found if isinstance(record, DataError))
    assert f"{path}, {says}" in str(error)
    assert "\n" not in str(error)
    readable = sum(not isinstance(record, DataError) for record in found)
    assert readable == 2


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "a.json",
            b'[{"a": 1},\n{"a" 2}]',
            "line 2: this is not JSON (Expecting ':' delimiter), and what follows",
        ),
        ("a.json", b'[{"a": 1},\n', "line 2: this is not JSON (the list has no end)"),
        ("a.json", b"[" * 100_000, "line 1: this JSON cannot be read (it is nested too deeply)"),
        (
            "a.csv",
            b'a,b\n1,"2"x\n',
            "line 2: this is no CSV (',' expected after '\"'), and what follows cannot",
        ),
        ("a.csv", b"a,b,a\n1,2,3\n", "line 1: the header has 'a' twice"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"a": 1}\n' * 999, mtime=0)[:-20],
            "cannot be read (Compressed file ended",
        ),
        ("a.jsonl.gz", b"no gzip at all", "cannot be read (Not a gzipped file"),
    ],
)
def test_a_file_that_is_broken_in_the_middle_is_never_read_in_part(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    with pytest.raises(DataError) as error:
        records(write(tmp_path / name, content))
    assert says in str(error.value)
    assert name in str(error.value)


def test_quotes_in_a_file_with_tabs_are_quotes_where_that_makes_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'a\tb\n"Hello" he said\t1\n')
    assert records(path) == [{"a": '"Hello" he said', "b": "1"}]
    rows = [{"a": 'Say "hi" now', "b": "1"}, {"a": "two\nlines\tand a tab", "b": "2"}]
    with (tmp_path / "b.tsv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["a", "b"], delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    assert records(tmp_path / "b.tsv") == rows


def test_a_date_that_python_has_no_word_for(tmp_path: Path) -> None:
    column = pa.array([2**61], pa.timestamp("us"))
    pq.write_table(pa.table({"prompt": ["p"], "completion": column}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="a row from 1 on has a value that cannot be read"):
        records(tmp_path / "a.parquet")


def test_other_encodings(tmp_path: Path) -> None:
    row = {"a": "ü 달 🌙"}
    line = json.dumps(row, ensure_ascii=False)
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        assert records(write(tmp_path / f"{encoding}.jsonl", line.encode(encoding))) == [row], (
            encoding
        )
    latin = write(tmp_path / "latin.jsonl", '{"a": "ü"}'.encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.jsonl is no UTF-8 .* save it in UTF-8"):
        records(latin)


def test_very_long_lines(tmp_path: Path) -> None:
    long = {"a": "x" * 5_000_000}
    assert records(write(tmp_path / "a.jsonl", json.dumps(long))) == [long]
    assert records(write(tmp_path / "a.json", json.dumps([long, long]))) == [long, long]
    assert records(write(tmp_path / "a.csv", f"a,b\n{long['a']},1\n")) == [
        {"a": long["a"], "b": "1"}
    ]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_file_that_is_not_what_it_is_called(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"{name} is no (Parquet|Arrow) file"):
        records(write(tmp_path / name, b"x" * 100))


def test_the_files_of_a_folder_are_told_apart_by_their_names(tmp_path: Path) -> None:
    names = {
        "train": ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
        "validation": ["dev.jsonl", "eval.csv", "val/x.csv"],
        "test": ["my_test.json"],
    }
    others = [
        ".hidden.jsonl",
        "README.md",
        "dataset_info.json",
        "cache-1f.arrow",
        "unsupervised.jsonl",
    ]
    for name in [*(name for part in names.values() for name in part), *others]:
        write(tmp_path / name, "")
    assert find_files(str(tmp_path)) == {
        split: [tmp_path / name for name in part] for split, part in names.items()
    }


def test_what_save_to_disk_wrote(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": rows, "test": rows.select(range(3))}).save_to_disk(
        tmp_path / "saved"
    )
    found = find_files(str(tmp_path / "saved"))
    assert list(found) == ["train", "test"]
    assert records(found["train"][0]) == ROWS


def test_a_hub_id_is_fetched_by_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        split: str(write(tmp_path / f"{split}.jsonl", json.dumps(ROWS[0]) + "\n"))
        for split in ("train", "val")
    }
    asked = []

    def load(name: str, configuration: str | None) -> Any:
        asked.append((name, configuration))
        return loaded("json", data_files=files, cache_dir=str(tmp_path / "cache"))

    loaded = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", load)
    found = find_files("owner/name:main")
    assert asked == [("owner/name", "main")]
    assert list(found) == ["train", "validation"]
    assert records(found["validation"][0]) == ROWS[:1]


def test_a_hub_id_that_cannot_be_fetched() -> None:
    with pytest.raises(
        DataError, match="The data set 'nobody/nothing' cannot be fetched from the hub"
    ):
        find_files("nobody/nothing")
    assert is_hub_id("a/b:c")
    assert not is_hub_id("a/b.jsonl")
    assert not is_hub_id("./a/b")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("none.jsonl", "There is no data file 'none.jsonl'; give .jsonl, .json, .csv"),
        ("notes.txt", "The data file 'notes.txt' ends in '.txt'; give"),
        ("empty", "In the folder 'empty' is no file of rows"),
    ],
)
def test_what_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError) as error:
        find_files(data)
    assert says in str(error.value)


def test_nulls_that_a_column_adds_to_its_objects_are_no_values(tmp_path: Path) -> None:
    """In a column every object has the fields of all."""
    calls: list[Any] = [[{"town": "Oslo"}], [{"of": "1+1", "deep": {"x": 1}}]]
    own = [
        {
            "messages": [{"role": "assistant", "calls": call}],
            "tools": [{"name": "f", "of": call}],
            "top": top,
        }
        for call, top in zip(calls, (None, "t"), strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(own), tmp_path / "a.parquet")
    assert records(tmp_path / "a.parquet") == own


def test_nulls_of_other_objects_may_be_their_own(tmp_path: Path) -> None:
    own = [{"completion": {"name": "Ida", "age": None}}, {"completion": {"name": None, "age": 3}}]
    pq.write_table(pa.Table.from_pylist(own), tmp_path / "a.parquet")
    assert records(tmp_path / "a.parquet") == own


def test_json_values_one_after_another_are_all_read(tmp_path: Path) -> None:
    rows = [{"a": i, "b": "[\n{"} for i in range(6)]
    texts = {
        "lists.json": json.dumps(rows[:3]) + "\n" + json.dumps(rows[3:]),
        "glued.json": json.dumps(rows[:3], indent=1) + json.dumps(rows[3:]),
        "spread.json": "\n".join(json.dumps(row, indent=2) for row in rows),
        "spread.jsonl": "\n".join(json.dumps(row, indent=2) for row in rows),
        "list.jsonl": json.dumps(rows, indent=2),
        "mixed.json": json.dumps(rows[:3]) + "\n" + "\n".join(json.dumps(row) for row in rows[3:]),
        "old-mac.jsonl": "\r".join(json.dumps(row) for row in rows),
    }
    for name, text in texts.items():
        assert records(write(tmp_path / name, text)) == rows, name
    found = [where for _, where in read_file(write(tmp_path / "a.json", texts["lists.json"]))]  # type: ignore[misc]
    assert found[3] == f"{tmp_path}/a.json, line 2"


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        (
            "a.json",
            '[{"a": 1}]\nand rubbish',
            "line 2: this is not JSON (Expecting value), and what follows cannot",
        ),
        (
            "a.json",
            '[{"a": 1}],\n[{"a": 2}]',
            "line 1: this is not JSON (Expecting value), and what follows",
        ),
        ("a.json", '[{"a": 1}]]', "line 1: this is not JSON (Expecting value)"),
        ("a.json", '[{"a": 1}]\n[{"a": 2}', "line 2: this is not JSON (the list has no end)"),
        (
            "a.json",
            '[{"a": 1, "a": 2}]',
            "line 1: this JSON cannot be read (the key 'a' stands twice)",
        ),
        (
            "a.json",
            '{"p": ["x", "y"], "c": ["1", "2"]}',
            "one object of columns ('p', 'c', each a list of 2)",
        ),
        (
            "a.json",
            '{"p": {"0": "x", "1": "y"}, "c": {"0": "1", "1": "2"}}',
            "one object of columns ('p', 'c', each an object with 2 rows); write a list of objects",
        ),
        (
            "a.json",
            '{"train": [{"p": 1}, {"p": 2}], "test": [{"p": 3}, {"p": 4}]}',
            "has its 2 rows under 'train'",
        ),
        (
            "a.json",
            '{"version": 1, "data": [{"p": 1}, {"p": 2}]}',
            "one object that has its 2 rows under 'data'",
        ),
    ],
)
def test_json_that_is_no_list_of_rows_is_refused(
    tmp_path: Path, name: str, text: str, says: str
) -> None:
    with pytest.raises(DataError) as error:
        records(write(tmp_path / name, text))
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            json.dumps({str(i): {"prompt": "p", f"c{i % 2}": "c"} for i in range(50_000)}),
            "of 50,000 rows by their names",
        ),
        (json.dumps({f"q{i}": f"a{i}" for i in range(5000)}), "('q0', 'q1', 'q2', 'q3', 'q4', …)"),
        (
            '{"columns": ["p", "c"], "index": [0, 1], "data": [["x", "1"], ["y", "2"]]}',
            "of 2 rows as pandas writes them with orient='split'",
        ),
        (
            "\n".join(
                json.dumps({"prompt": ["p"] * n, "completion": ["c"] * n}) for n in (50, 50, 50, 9)
            ),
            "each object has 50 rows, as columns ('prompt', 'completion'); write one object for each row",
        ),
    ],
)
def test_rows_within_objects_are_refused_in_one_short_sentence(
    tmp_path: Path, text: str, says: str
) -> None:
    with pytest.raises(DataError) as error:
        records(write(tmp_path / "a.json", text))
    assert says in str(error.value)
    assert len(str(error.value)) < len(str(tmp_path)) + 250


def test_lists_of_several_lengths_are_rows(tmp_path: Path) -> None:
    rows = [{"prompt": ["w"] * n, "completion": ["t"] * n} for n in (9, 12, 8, 9, 9, 9)]
    assert records(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))) == rows


def test_one_conversation_alone_in_a_file_is_a_row(tmp_path: Path) -> None:
    turn = {"role": "user", "content": "x"}
    for row in (
        {"messages": [turn, turn]},
        {"prompt": [turn, turn], "completion": [turn, turn]},
        {"text": "x"},
    ):
        assert records(write(tmp_path / "a.json", json.dumps(row, indent=1))) == [row]


def test_a_key_twice_in_a_line_is_a_malformed_row(tmp_path: Path) -> None:
    found = records(write(tmp_path / "a.jsonl", '{"a": 1}\n{"a": 1, "a": 2}\n{"a": 3}\n'))
    assert found[::2] == [{"a": 1}, {"a": 3}]
    assert "line 2: this JSON cannot be read (the key 'a' stands twice)" in found[1]


def test_a_column_twice(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as stream:
        stream.write_table(table)
    for name in ("a.parquet", "a.arrow"):
        with pytest.raises(
            DataError, match="has the column 'text' twice; give each column a name of its own"
        ):
            records(tmp_path / name)


def test_nested_columns_are_objects_and_lists(tmp_path: Path) -> None:
    row = {"q": {"text": "x", "of": [1, 2]}, "m": {"k": 1}}
    kinds = pa.schema(
        {
            "q": pa.struct({"text": pa.string(), "of": pa.list_(pa.int64())}),
            "m": pa.map_(pa.string(), pa.int64()),
        }
    )
    table = pa.Table.from_pylist([{"q": row["q"], "m": [("k", 1)]}], kinds)
    pq.write_table(table, tmp_path / "a.parquet")
    assert records(tmp_path / "a.parquet") == [row]


def test_a_key_twice_in_a_map(tmp_path: Path) -> None:
    column = pa.array([[("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int64()))
    pq.write_table(pa.table({"m": column}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="a row from 1 on has a value that cannot be read"):
        records(tmp_path / "a.parquet")
