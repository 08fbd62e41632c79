from __future__ import annotations

from pathlib import Path

import pytest

from rung.errors import RecipeError
from rung.formats.yaml_file import LARGEST, read_yaml


def write(tmp_path: Path, data: bytes | str) -> Path:
    path = tmp_path / "a.yaml"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_a_value_is_the_text_that_stands_there(tmp_path: Path) -> None:
    text = "a: on\nb: 1:30\nc: 2026-01-02\nd: 015\ne: 1e-4\nf: .inf\ng: '8'\nh: 1_000\ni: \"\"\nj: !!str 8\n"
    found, lines = read_yaml(write(tmp_path, text))
    assert list(found.values()) == [
        "on",
        "1:30",
        "2026-01-02",
        "015",
        "1e-4",
        ".inf",
        "8",
        "1_000",
        "",
        "8",
    ]
    assert lines == {key: line for line, key in enumerate("abcdefghij", 1)}


def test_nothing_is_none_and_a_word_in_quotes_is_a_word(tmp_path: Path) -> None:
    found, _ = read_yaml(write(tmp_path, "a:\nb: null\nc: ~\nd: 'null'\ne: [1, ~]\n"))
    assert found == {"a": None, "b": None, "c": None, "d": "null", "e": ["1", None]}


def test_lists_in_lists_and_mappings_are_read_and_no_more(tmp_path: Path) -> None:
    found, _ = read_yaml(write(tmp_path, "a: [[x, y], [z]]\nb: {on: 1, 8: yes}\n"))
    assert found == {"a": [["x", "y"], ["z"]], "b": {"on": "1", "8": "yes"}}


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_an_empty_file_is_an_empty_mapping(tmp_path: Path, text: str) -> None:
    assert read_yaml(write(tmp_path, text)) == ({}, {})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_is_utf_8_or_says_that_it_is_utf_16(tmp_path: Path, encoding: str) -> None:
    assert read_yaml(write(tmp_path, "a: 달\n".encode(encoding)))[0] == {"a": "달"}


def test_json_is_yaml_too_and_writes_letters_in_halves(tmp_path: Path) -> None:
    found, _ = read_yaml(write(tmp_path, '{"a": "\\ud83d\\ude00", "b": [8, 16]}'))
    assert found == {"a": "😀", "b": ["8", "16"]}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("b: 1\na: !!python/tuple [8]\n", "line 2: the tag !!python/tuple is not read"),
        ("a: !mine 8\n", "line 1: the tag !mine is not read"),
        ("a: !!set {b, c}\n", "the tag !!set is not read"),
        ("!!python/name:os.system a: 1\n", "a key is one word"),
        ("? [a, b]\n: 1\n", "line 1: a key is one word, such as 'ranks', and this is none"),
        (
            "a: 1\nb: 2\na: 3\n",
            "line 3: 'a' stands there twice, in line 1 too; take one of them out",
        ),
        ("8: 1\n'8': 2\n", "line 2: '8' stands there twice"),
        ("a:\n  b: 1\n  b: 2\n", "line 3: 'b' stands there twice, in line 2 too"),
        ("a: [[[8]]]\n", "line 1: a value is a text, a number or a list of them"),
        ("a: &a [x, x]\nb: [*a, *a]\n", "a value is a text, a number or a list of them"),
        ("a: &a [*a]\n", "a value is a text, a number or a list of them"),
        ("a: " + "[" * 20_000, "nested too deep"),
        ("a:\tb\n", "line 1: this is not YAML (while scanning for the next token, found character"),
        ("a: b\n\tc: d\n", "; indent with spaces, not with tabs."),
        ("a: 1\n---\nb: 2\n", "line 2: this is not YAML (expected a single document in the stream"),
        ("a: [\n", "this is not YAML"),
        (
            "- a\n",
            "a recipe is a list of 'key: value' lines, and this is none; data are given with --data",
        ),
        ("hello\n", "and this is none"),
        (b"a: 1\nb: \xff\n", "line 2: this is not UTF-8"),
        (b"\x1f\x8b\x08\x00", "this is not UTF-8"),
        ("a: 1\nb: c\0d\n", "line 2: there is a character that no YAML may have"),
        ('a: "\\ud83d"\n', "line 1: there is half a character"),
        ("a: " + "x" * LARGEST, "so it is no recipe; data are given with --data"),
    ],
)
def test_what_cannot_be_read_is_one_sentence_with_its_line(
    tmp_path: Path, data: bytes | str, says: str
) -> None:
    with pytest.raises(RecipeError) as error:
        read_yaml(write(tmp_path, data))
    assert says in str(error.value)
    assert "a.yaml" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["", "none.yaml", "a\0b", "x" * 5000])
def test_a_file_that_is_none_is_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecipeError, match="cannot be read .*; give the path of a YAML file"):
        read_yaml(tmp_path / name)


def test_rows_in_the_place_of_a_recipe_are_told_where_they_belong(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}\n')
    with pytest.raises(
        RecipeError, match=r"rows.jsonl, line 2: this is not YAML .*, and give data with --data\."
    ):
        read_yaml(path)
