from __future__ import annotations

import math
from typing import Any

import pytest

from rung.data.field_values import (
    check_text,
    describe_kind,
    has_null,
    is_empty,
    list_names,
    parse_nested,
)
from rung.data.row_errors import InvalidRowError


@pytest.mark.parametrize("value", [None, "", " \n", math.nan, [], {}, ()])
def test_values_without_information_are_empty(value: Any) -> None:
    assert is_empty(value)


@pytest.mark.parametrize("value", [0, False, 0.0, "0", [None], {"a": None}])
def test_zero_and_false_are_not_empty(value: Any) -> None:
    assert not is_empty(value)


def test_a_null_is_found_at_any_depth() -> None:
    assert has_null({"a": [{"b": None}]})
    assert not has_null({"a": [{"b": 0}]})


@pytest.mark.parametrize("text", ['[{"a": true}]', "[{'a': True}]", ' [{"a": true}] '])
def test_a_list_in_a_text_is_parsed_as_json_or_python(text: str) -> None:
    assert parse_nested(text) == [{"a": True}]


@pytest.mark.parametrize("value", ["[draft] Hello", "{", "['a', 'b']", "a", "1", 1, None])
def test_other_values_are_not_parsed(value: Any) -> None:
    assert parse_nested(value) == value


def test_half_of_a_surrogate_pair_is_not_text() -> None:
    assert check_text("🌙", "text") == "🌙"
    with pytest.raises(InvalidRowError, match='the "text" has half of a surrogate pair at char'):
        check_text("\ud83d", "text")


def test_a_message_lists_at_most_20_names() -> None:
    assert list_names(["a", "b"]) == "'a', 'b'"
    assert list_names([]) == "no fields"
    assert list_names(map(str, range(21))).endswith("'18', '19', …")


def test_kinds_of_values_are_described_in_words() -> None:
    values: list[Any] = ["x", [1], [], {}, None, True, 1.5]
    assert [describe_kind(value) for value in values] == [
        "a text",
        "a list",
        "an empty list",
        "an object",
        "null",
        "true or false",
        "a number",
    ]
