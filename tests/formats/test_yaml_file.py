"""A recipe's YAML file is read as texts, and what is not a recipe is refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from rung.errors import RecipeError
from rung.formats.yaml_file import MAX_BYTES, read_yaml


def write(tmp_path: Path, data: bytes | str) -> Path:
    path = tmp_path / "a.yaml"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_a_value_is_the_text_in_the_file(tmp_path: Path) -> None:
    text = (
        "a: on\nb: 1:30\nc: 2026-01-02\nd: 015\ne: 1e-4\nf: .inf\ng: '8'\nh: 1_000\n"
        'i: ""\nj: !!str 8\n'
    )
    values, lines = read_yaml(write(tmp_path, text))
    assert list(values.values()) == [
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


def test_an_empty_value_is_none_and_a_word_in_quotes_is_a_text(tmp_path: Path) -> None:
    values, _ = read_yaml(write(tmp_path, "a:\nb: null\nc: ~\nd: 'null'\ne: [1, ~]\n"))
    assert values == {"a": None, "b": None, "c": None, "d": "null", "e": ["1", None]}


def test_lists_in_lists_and_mappings_are_read(tmp_path: Path) -> None:
    values, _ = read_yaml(write(tmp_path, "a: [[x, y], [z]]\nb: {on: 1, 8: yes}\n"))
    assert values == {"a": [["x", "y"], ["z"]], "b": {"on": "1", "8": "yes"}}


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_an_empty_file_is_an_empty_mapping(tmp_path: Path, text: str) -> None:
    assert read_yaml(write(tmp_path, text)) == ({}, {})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_is_utf_8_or_utf_16_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    assert read_yaml(write(tmp_path, "a: 달\n".encode(encoding)))[0] == {"a": "달"}


def test_json_is_read_too_with_its_surrogates(tmp_path: Path) -> None:
    values, _ = read_yaml(write(tmp_path, '{"a": "\\ud83d\\ude00", "b": [8, 16]}'))
    assert values == {"a": "😀", "b": ["8", "16"]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("b: 1\na: !!python/tuple [8]\n", "line 2: the tag !!python/tuple is not read"),
        ("a: !mine 8\n", "line 1: the tag !mine is not read"),
        ("a: !!set {b, c}\n", "the tag !!set is not read"),
        ("!!python/name:os.system a: 1\n", "this key is not one word"),
        ("? [a, b]\n: 1\n", "line 1: this key is not one word, such as 'ranks'"),
        (
            "a: 1\nb: 2\na: 3\n",
            "line 3: the key 'a' is given twice, in line 1 too; remove one of them",
        ),
        ("8: 1\n'8': 2\n", "line 2: the key '8' is given twice"),
        ("a:\n  b: 1\n  b: 2\n", "line 3: the key 'b' is given twice, in line 2 too"),
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
            "not a list of 'key: value' lines, so it is not a recipe; give data with --data",
        ),
        ("hello\n", "so it is not a recipe"),
        (b"a: 1\nb: \xff\n", "line 2: this is not UTF-8"),
        (b"\x1f\x8b\x08\x00", "this is not UTF-8"),
        ("a: 1\nb: c\0d\n", "line 2: there is a character that YAML does not allow"),
        ('a: "\\ud83d"\n', "line 1: there is half a character"),
        ("a: " + "x" * MAX_BYTES, "so it is not a recipe; give data with --data"),
    ],
)
def test_an_unreadable_file_is_reported_in_one_sentence_with_its_line(
    tmp_path: Path, data: bytes | str, message: str
) -> None:
    with pytest.raises(RecipeError) as error:
        read_yaml(write(tmp_path, data))
    assert message in str(error.value)
    assert "a.yaml" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["", "none.yaml", "a\0b", "x" * 5000])
def test_a_missing_file_is_reported_in_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecipeError, match="cannot be read .*; give the path of a YAML file"):
        read_yaml(tmp_path / name)


def test_data_in_the_place_of_a_recipe_are_refused_with_the_option_for_data(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}\n')
    with pytest.raises(
        RecipeError, match=r"rows.jsonl, line 2: this is not YAML .*, and give data with --data\."
    ):
        read_yaml(path)
