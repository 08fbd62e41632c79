from __future__ import annotations

import json
from pathlib import Path

import pytest

from rung.data.read import Row, read_rows, read_splits
from rung.errors import DataError


def write(path: Path, rows: list[object]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def rows(count: int, word: str = "p") -> list[object]:
    return [{"prompt": f"{word}{i}", "completion": f"c{i}"} for i in range(count)]


def test_rows_are_read_in_order_and_blank_lines_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    text = '\ufeff{"prompt": "a", "completion": "b", "more": 1}\r\n\n{"prompt": "ü\u2028", "completion": "d"}\n'
    path.write_text(text, encoding="utf-8")
    assert read_rows(path) == (Row("a", "b"), Row("ü\u2028", "d"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty; write one"),
        ("\n \n", "is empty"),
        ("{", "line 1: this is not JSON"),
        ('{"prompt": "a", "completion": "b"}\n[1]', "line 2: a row is an object"),
        ('{"prompt": "a"}', "line 1: the row needs a text in \"completion\", and it has 'prompt'"),
        ('{"prompt": 3, "completion": "b"}', 'needs a text in "prompt"'),
        ('{"prompt": " ", "completion": "b"}', 'the "prompt" is blank'),
    ],
)
def test_a_wrong_file_is_answered_with_the_line_and_the_remedy(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        read_rows(path)
    assert says in str(error.value)
    assert "bad.jsonl" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_and_one_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no data file"):
        read_rows(tmp_path / "none.jsonl")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="UTF-8"):
        read_rows(tmp_path / "binary")


def test_without_files_of_their_own_validation_and_test_are_split_off_by_the_prompt(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", rows(400) + rows(400))
    splits = read_splits(str(path))
    parts = [{row.prompt for row in part} for part in (splits.train, splits.validation, splits.test)]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert sum(map(len, parts)) == 400
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 800
    assert splits == read_splits(str(path)), "the split depends on the rows alone"


def test_files_of_their_own_are_taken_whole(tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", rows(10))
    validation, test = write(tmp_path / "v.jsonl", rows(3, "v")), write(tmp_path / "t.jsonl", rows(2, "t"))
    splits = read_splits(str(data), str(validation), str(test))
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [10, 3, 2]


def test_a_split_that_is_too_small_to_judge_by_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give more rows, or a --validation file"):
        read_splits(str(write(tmp_path / "a.jsonl", rows(30))))
    data, one = (str(write(tmp_path / f"{count}.jsonl", rows(count))) for count in (100, 1))
    with pytest.raises(DataError, match="at least two"):
        read_splits(data, one, data)


def test_a_built_in_task_has_its_own_splits() -> None:
    with pytest.raises(DataError, match="brings its own splits"):
        read_splits("price", validation="x.jsonl")


def test_the_digest_tells_data_apart(tmp_path: Path) -> None:
    one = read_splits(str(write(tmp_path / "a.jsonl", rows(400))))
    other = read_splits(str(write(tmp_path / "b.jsonl", rows(401))))
    assert one.digest != other.digest
