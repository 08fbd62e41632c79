from __future__ import annotations

import json
from typing import Any

import pytest

from rung.data.chat.tool_calls import has_function_call, read_tool_calls

FUNCTION: dict[str, Any] = {"name": "f", "arguments": {"from": "Oslo", "to": ["Rome"]}}
CALL = {"type": "function", "function": FUNCTION}


@pytest.mark.parametrize(
    "value",
    [
        [CALL],
        CALL,
        json.dumps([CALL]),
        [FUNCTION],
        json.dumps(FUNCTION),
        [{**CALL, "function": {**FUNCTION, "arguments": json.dumps(FUNCTION["arguments"])}}],
        [{**CALL, "id": None}],
    ],
)
def test_calls_of_every_form_get_the_form_of_openai(value: Any) -> None:
    assert read_tool_calls(value) == [CALL]


def test_an_id_stays_outside_of_the_function() -> None:
    assert read_tool_calls({"id": "c1", **FUNCTION}) == [{**CALL, "id": "c1"}]


def test_arguments_that_are_no_json_stay_text() -> None:
    (call,) = read_tool_calls({"name": "f", "arguments": "Oslo"}) or []
    assert call["function"] == {"name": "f", "arguments": "Oslo"}


@pytest.mark.parametrize("value", [True, None, "f(1)", "LOOKUP", [{"arguments": {}}], ["f"]])
def test_other_values_are_no_calls(value: Any) -> None:
    assert read_tool_calls(value) is None


def test_a_function_call_is_the_first_form_of_openai() -> None:
    assert has_function_call({"function_call": FUNCTION, "tool_calls": None})
    assert not has_function_call({"function_call": FUNCTION, "tool_calls": [CALL]})
    assert not has_function_call({"function_call": "auto"})
    assert not has_function_call({})
