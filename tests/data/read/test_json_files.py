from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.read.records import locations, records, write

from rung.data.read.files import read_file
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
"""Not one object alone: such a file may be refused, because the object may contain the rows."""


@given(RECORDS, st.booleans(), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_jsonl_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[Any],
    ascii_only: bool,
    line_end: str,
    has_mark: bool,
) -> None:
    text = "".join(json.dumps(row, ensure_ascii=ascii_only) + line_end for row in rows)
    content = text.encode("utf-8-sig" if has_mark else "utf-8")
    assert records(write(tmp_path_factory.mktemp("jsonl") / "a.jsonl", content)) == rows


@given(RECORDS, st.sampled_from([None, 1, "\t"]), st.integers(1, 40))
def test_a_json_list_is_read_in_pieces_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], indent: Any, piece: int
) -> None:
    path = write(tmp_path_factory.mktemp("json") / "a.json", json.dumps(rows, indent=indent))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rung.data.read.json_files.PIECE_CHARACTERS", piece)
        assert records(path) == rows


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("a.jsonl", '{"a": 1}\n\n{"a": "\u2028"}\n', ["line 1", "line 3"]),
        ("a.json", '[\n {"a": 1},\n\n {"a":\n 2}\n]', ["line 2", "line 4"]),
    ],
)
def test_a_record_is_located_by_its_first_line(
    tmp_path: Path, name: str, text: str, lines: list[str]
) -> None:
    path = write(tmp_path / name, text)
    assert locations(path) == [f"{path}, {line}" for line in lines]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"a": 1}\n{"a": \n{"a": 3}\n',
            "line 2: this is not valid JSON (Expecting value at character",
        ),
        (
            '{"a": 1}\n' + "[" * 100_000 + '\n{"a": 3}\n',
            "line 2: this JSON cannot be read (it is nested too deeply)",
        ),
        (
            '{"a": 1}\n{"a": 1' + "0" * 5000 + '}\n{"a": 3}\n',
            "line 2: this JSON cannot be read (Exceeds the",
        ),
        (
            '{"a": 1}\n{"a": 1, "a": 2}\n{"a": 3}\n',
            "line 2: this JSON cannot be read (the key 'a' appears twice)",
        ),
    ],
)
def test_the_error_of_a_bad_line_stands_in_its_place(
    tmp_path: Path, text: str, message: str
) -> None:
    path = write(tmp_path / "a.jsonl", text)
    first, error, last = read_file(path)
    assert not isinstance(first, DataError)
    assert not isinstance(last, DataError)
    assert (first[0], last[0]) == ({"a": 1}, {"a": 3})
    assert f"{path}, {message}" in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[{"a": 1},\n{"a" 2}]',
            "line 2: this is not valid JSON (Expecting ':' delimiter), and nothing after it",
        ),
        ('[{"a": 1},\n', "line 2: this is not valid JSON (the list is not closed)"),
        ("[" * 100_000, "line 1: this JSON cannot be read (it is nested too deeply)"),
        (
            '[{"a": 1}]\nand rubbish',
            "line 2: this is not valid JSON (Expecting value), and nothing after it",
        ),
        (
            '[{"a": 1}],\n[{"a": 2}]',
            "line 1: this is not valid JSON (Expecting value), and nothing after it",
        ),
        ('[{"a": 1}]]', "line 1: this is not valid JSON (Expecting value)"),
        (
            '[{"a": 1}]\n[{"a": 2}',
            "line 2: this is not valid JSON (the list is not closed)",
        ),
        (
            '[{"a": 1, "a": 2}]',
            "line 1: this JSON cannot be read (the key 'a' appears twice)",
        ),
    ],
)
def test_a_list_that_is_broken_is_never_read_in_part(
    tmp_path: Path, text: str, message: str
) -> None:
    path = write(tmp_path / "a.json", text)
    with pytest.raises(DataError) as error:
        records(path)
    assert f"{path}, {message}" in str(error.value)


def test_values_of_any_layout_are_all_read(tmp_path: Path) -> None:
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
    assert locations(tmp_path / "lists.json")[3] == f"{tmp_path}/lists.json, line 2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"p": ["x", "y"], "c": ["1", "2"]}',
            "one object of columns ('p', 'c', each a list of 2)",
        ),
        (
            '{"p": {"0": "x", "1": "y"}, "c": {"0": "1", "1": "2"}}',
            "one object of columns ('p', 'c', each an object with 2 rows); write a list of objects",
        ),
        (
            '{"train": [{"p": 1}, {"p": 2}], "test": [{"p": 3}, {"p": 4}]}',
            "one object that has its 2 rows under 'train'",
        ),
        (
            '{"version": 1, "data": [{"p": 1}, {"p": 2}]}',
            "one object that has its 2 rows under 'data'",
        ),
        (
            json.dumps({str(i): {"prompt": "p", f"c{i % 2}": "c"} for i in range(50_000)}),
            "one object of 50,000 rows by their names",
        ),
        (json.dumps({f"q{i}": f"a{i}" for i in range(5000)}), "('q0', 'q1', 'q2', 'q3', 'q4', …)"),
        (
            '{"columns": ["p", "c"], "index": [0, 1], "data": [["x", "1"], ["y", "2"]]}',
            "one object of 2 rows as pandas writes them with orient='split'",
        ),
        (
            "\n".join(
                json.dumps({"prompt": ["p"] * n, "completion": ["c"] * n}) for n in (50, 50, 50, 9)
            ),
            "each object has 50 rows, as columns ('prompt', 'completion'); write one object",
        ),
    ],
)
def test_rows_inside_of_objects_are_refused_in_one_short_sentence(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(DataError) as error:
        records(write(tmp_path / "a.json", text))
    assert message in str(error.value)
    assert len(str(error.value)) < len(str(tmp_path)) + 250


def test_objects_with_lists_of_different_lengths_are_rows(tmp_path: Path) -> None:
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


def test_very_long_lines_are_read(tmp_path: Path) -> None:
    row = {"a": "x" * 5_000_000}
    assert records(write(tmp_path / "a.jsonl", json.dumps(row))) == [row]
    assert records(write(tmp_path / "a.json", json.dumps([row, row]))) == [row, row]
