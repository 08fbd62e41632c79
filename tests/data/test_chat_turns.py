from __future__ import annotations

import json
from typing import Any

import pytest

from rung.data.chat_turns import ChatTurn, is_chat, read_turns
from rung.data.row_errors import InvalidRowError


def read(*messages: Any) -> list[ChatTurn]:
    return read_turns(list(messages), "messages")


def one(**message: Any) -> ChatTurn:
    (turn,) = read(message)
    return turn


@pytest.mark.parametrize(
    ("called", "role"),
    [("human", "user"), ("USER", "user"), ("gpt", "assistant"), ("Assistant", "assistant"), ("model", "assistant"),
     ("bot", "assistant"), ("System", "system"), ("observation", "observation"), ("narrator", "narrator")],
)  # fmt: skip
def test_who_is_plainly_the_user_or_the_assistant_is_called_so(called: str, role: str) -> None:
    turn = one(role=called, content="x")
    assert turn.message == {"role": role, "content": "x"}
    other = called.lower() != role
    assert turn.told == (
        (("read_as", f"turns of '{called}' as those of the {role}"),) if other else ()
    )


def test_sharegpts_own_names_need_no_word() -> None:
    assert read({"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}) == [
        ChatTurn({"role": "user", "content": "q"}),
        ChatTurn({"role": "assistant", "content": "a"}),
    ]


CALL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "f", "arguments": {"from": "Oslo", "to": ["Rome"]}},
}


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "assistant", "content": "", "tool_calls": json.dumps([CALL])},
        {"role": "assistant", "tool_calls": [CALL["function"]]},
        {
            "role": "assistant",
            "tool_calls": [{**CALL, "function": {"name": "f", "arguments": json.dumps(CALL["function"]["arguments"])}}],
        },
        {"role": "assistant", "content": None, "function_call": CALL["function"], "tool_calls": None},
        {"from": "function_call", "value": json.dumps(CALL["function"])},
    ],
)  # fmt: skip
def test_calls_of_tools_have_one_form(message: dict[str, Any]) -> None:
    assert one(**message).message == {"role": "assistant", "content": "", "tool_calls": [CALL]}


def test_nulls_among_the_arguments_are_arguments_and_told() -> None:
    """In JSON somebody wrote them; those that Parquet adds are gone when a file is read."""
    call = {
        "id": None,
        "type": "function",
        "function": {"name": "f", "arguments": {"town": "Oslo", "of": None}},
    }
    turn = one(role="assistant", tool_calls=[call])
    assert turn.message["tool_calls"] == [{"type": "function", "function": call["function"]}]
    assert turn.told == (("read_as", "nulls inside calls of tools as arguments that are null"),)


@pytest.mark.parametrize("calls", [True, "f(1)", [{"arguments": {}}], ["f"]])
def test_calls_that_are_none(calls: Any) -> None:
    with pytest.raises(
        InvalidRowError, match='message 1 of "messages" has tool_calls that are none'
    ):
        one(role="assistant", content="a", tool_calls=calls)


def test_a_call_that_is_none_stays_what_was_said() -> None:
    assert one(**{"from": "function_call", "value": "LOOKUP"}).message == {
        "role": "assistant",
        "content": "LOOKUP",
    }


def test_what_says_nothing_is_left_out_of_a_message() -> None:
    """As Parquet has it; some templates ask only whether a field is there."""
    assert one(role="user", content="q", tool_calls=[], name=None, note="").message == {
        "role": "user",
        "content": "q",
    }


@pytest.mark.parametrize(
    ("fields", "learnt"),
    [
        ({}, None),
        ({"weight": 0}, False),
        ({"weight": 1.0}, True),
        ({"train": False}, False),
        ({"loss": "false"}, False),
        ({"training": True}, True),
        ({"masked": True}, False),
        ({"masked": False}, None),
        ({"weight": 1, "train": False}, False),
        ({"weight": "0.0"}, False),
        ({"train": "no"}, False),
        ({"train": " Yes "}, True),
        ({"is_masked": 1}, False),
        ({"calculate_loss": 0}, False),
    ],
)
def test_whether_a_turn_is_to_be_learnt(fields: dict[str, Any], learnt: bool | None) -> None:
    turn = one(role="assistant", content="a", **fields)
    assert (turn.learnt, turn.message) == (learnt, {"role": "assistant", "content": "a"})
    assert [what for _, what in turn.told] == [
        f"'{name}' in turns as whether they are to be learnt" for name in fields
    ]


def test_a_loss_that_was_measured_is_no_weight() -> None:
    turn = one(role="assistant", content="a", loss=2.31)
    assert (turn.learnt, turn.message["loss"]) == (None, 2.31)
    with pytest.raises(
        InvalidRowError, match=r"has the weight 0\.5, and a turn is learnt or not; write 1 or 0"
    ):
        one(role="assistant", content="a", weight=0.5)
    with pytest.raises(InvalidRowError, match=r"has the weight 0\.5"):
        one(role="assistant", content="a", weight="0.5")
    assert one(role="assistant", content="a", train="later").message["train"] == "later", (
        "it is told"
    )


def test_what_a_turn_says_by_other_names_besides_is_kept_to_be_told() -> None:
    turn = one(role="user", content="q", value="more", **{"from": "gpt"})
    assert turn.message == {"role": "user", "content": "q", "value": "more", "from": "gpt"}
    assert one(role="user", content="q", value="q", **{"from": "human"}).message == {
        "role": "user",
        "content": "q",
    }
    nulls = one(role=None, content=None, value="q", **{"from": "human"})
    assert nulls.message == {"role": "user", "content": "q"}


def test_parts_of_a_content_are_texts_alone() -> None:
    assert (
        one(role="user", content=[{"type": "text", "text": "a", "image": None}, "b"]).message[
            "content"
        ]
        == "ab"
    )
    for part in (
        {"type": "image"},
        {"type": "image_url", "text": "a", "image_url": "x"},
        {"text": "a", "image": "x"},
    ):
        with pytest.raises(InvalidRowError, match="parts that are no text"):
            one(role="user", content=[part])


def test_a_sequence_of_objects_as_columns() -> None:
    columns = {"from": ["human", "gpt"], "value": ["q", "a"]}
    assert [turn.message["content"] for turn in read_turns(columns, "conversations")] == ["q", "a"]


def test_what_is_a_chat() -> None:
    chat = [{"role": "user", "content": "q"}]
    assert is_chat(chat)
    assert is_chat(json.dumps(chat))
    assert is_chat([{"role": "cat", "content": "q"}]), "a list of messages need not be guessed"
    for value in (
        "[]",
        "[1]",
        '[{"sku": 1}]',
        '[{"role": "cat", "content": "q"}]',
        '[{"role": "user"}]',
        "{",
        [],
        ["a"],
    ):
        assert not is_chat(value)
