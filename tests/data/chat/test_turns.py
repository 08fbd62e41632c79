from __future__ import annotations

import json
from typing import Any

import pytest
from tests.data.conversations import user

from rung.data.chat.turns import ChatTurn, is_chat, read_turns
from rung.data.row_errors import InvalidRowError


def read_one(**message: Any) -> ChatTurn:
    (turn,) = read_turns([message], "messages")
    return turn


class TestRoles:
    @pytest.mark.parametrize(
        ("given", "role"),
        [
            ("human", "user"),
            ("USER", "user"),
            ("gpt", "assistant"),
            ("Assistant", "assistant"),
            ("model", "assistant"),
            ("bot", "assistant"),
            ("System", "system"),
            ("observation", "observation"),
            ("narrator", "narrator"),
        ],
    )
    def test_known_roles_get_one_name_and_a_remark_if_it_is_another(
        self, given: str, role: str
    ) -> None:
        turn = read_one(role=given, content="x")
        assert turn.message == {"role": role, "content": "x"}
        remark = ("read_as", f"turns of '{given}' as turns of the {role}")
        assert turn.remarks == (() if given.lower() == role else (remark,))

    def test_the_names_of_sharegpt_need_no_remark(self) -> None:
        messages = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
        assert read_turns(messages, "conversations") == [
            ChatTurn({"role": "user", "content": "q"}),
            ChatTurn({"role": "assistant", "content": "a"}),
        ]

    def test_an_unknown_role_of_sharegpt_is_an_error(self) -> None:
        with pytest.raises(
            InvalidRowError, match="is from 'cat'; the known roles are human, user, prompter, gpt"
        ):
            read_one(**{"from": "cat", "value": "x"})


CALL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "f", "arguments": {"from": "Oslo", "to": ["Rome"]}},
}


class TestToolCalls:
    @pytest.mark.parametrize(
        "message",
        [
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "assistant", "content": "", "tool_calls": json.dumps([CALL])},
            {"role": "assistant", "tool_calls": [CALL["function"]]},
            {"role": "assistant", "function_call": CALL["function"], "tool_calls": None},
            {"from": "function_call", "value": json.dumps(CALL["function"])},
        ],
    )
    def test_calls_of_every_form_are_in_one_field(self, message: dict[str, Any]) -> None:
        turn = read_one(**message)
        assert turn.message == {"role": "assistant", "content": "", "tool_calls": [CALL]}

    def test_nulls_among_the_arguments_stay_with_a_remark(self) -> None:
        """In JSON somebody wrote them; those that Parquet adds were removed by the reader."""
        call = {
            "id": None,
            "type": "function",
            "function": {"name": "f", "arguments": {"town": "Oslo", "of": None}},
        }
        turn = read_one(role="assistant", tool_calls=[call])
        assert turn.message["tool_calls"] == [{"type": "function", "function": call["function"]}]
        assert turn.remarks == (
            ("read_as", "nulls inside of tool calls as arguments that are null"),
        )

    @pytest.mark.parametrize("calls", [True, "f(1)", [{"arguments": {}}], ["f"]])
    def test_a_field_of_calls_that_has_none_is_an_error(self, calls: Any) -> None:
        with pytest.raises(
            InvalidRowError,
            match='message 1 of "messages" has tool_calls that are not tool calls; give each',
        ):
            read_one(role="assistant", content="a", tool_calls=calls)

    def test_a_turn_that_is_called_a_call_and_is_none_stays_text(self) -> None:
        turn = read_one(**{"from": "function_call", "value": "LOOKUP"})
        assert turn.message == {"role": "assistant", "content": "LOOKUP"}


class TestOtherFields:
    def test_empty_fields_are_removed(self) -> None:
        """Parquet adds them, and some templates only ask whether a field exists."""
        turn = read_one(role="user", content="q", tool_calls=[], name=None, note="")
        assert turn.message == {"role": "user", "content": "q"}

    def test_fields_that_say_something_else_under_another_name_are_kept(self) -> None:
        turn = read_one(role="user", content="q", value="more", **{"from": "gpt"})
        assert turn.message == {"role": "user", "content": "q", "value": "more", "from": "gpt"}

    def test_fields_that_say_the_same_under_another_name_are_removed(self) -> None:
        turn = read_one(role="user", content="q", value="q", **{"from": "human"})
        assert turn.message == {"role": "user", "content": "q"}

    def test_the_other_names_count_if_role_and_content_are_null(self) -> None:
        turn = read_one(role=None, content=None, value="q", **{"from": "human"})
        assert turn.message == {"role": "user", "content": "q"}


class TestTrainingFlags:
    def test_flags_are_removed_with_a_remark(self) -> None:
        turn = read_one(role="assistant", content="a", weight=1, train=False)
        assert turn.message == {"role": "assistant", "content": "a"}
        assert turn.is_trained is False
        assert turn.remarks == (
            ("read_as", "'weight' in turns as whether to train on them"),
            ("read_as", "'train' in turns as whether to train on them"),
        )

    def test_a_message_without_flags_does_not_say(self) -> None:
        turn = read_one(role="assistant", content="a", loss=2.31)
        assert (turn.is_trained, turn.message["loss"], turn.remarks) == (None, 2.31, ())


class TestContent:
    def test_parts_that_are_text_are_joined(self) -> None:
        parts = [{"type": "text", "text": "a", "image": None}, "b"]
        assert read_one(role="user", content=parts).message["content"] == "ab"

    @pytest.mark.parametrize(
        "part",
        [
            {"type": "image"},
            {"type": "image_url", "text": "a", "image_url": "x"},
            {"text": "a", "image": "x"},
        ],
    )
    def test_parts_that_are_not_text_are_an_error(self, part: dict[str, Any]) -> None:
        with pytest.raises(InvalidRowError, match="has parts that are not text"):
            read_one(role="user", content=[part])


def test_columns_of_a_sequence_are_messages() -> None:
    columns = {"from": ["human", "gpt"], "value": ["q", "a"]}
    turns = read_turns(columns, "conversations")
    assert [turn.message["content"] for turn in turns] == ["q", "a"]


class TestIsChat:
    def test_a_list_of_messages_is_a_chat_with_any_role(self) -> None:
        assert is_chat([user("q")])
        assert is_chat([{"role": "cat", "content": "q"}])

    def test_a_text_of_messages_is_a_chat_if_the_roles_are_known(self) -> None:
        assert is_chat(json.dumps([user("q")]))
        assert not is_chat('[{"role": "cat", "content": "q"}]')

    @pytest.mark.parametrize(
        "value", ["[]", "[1]", '[{"sku": 1}]', '[{"role": "user"}]', "{", [], ["a"]]
    )
    def test_other_values_are_no_chat(self, value: Any) -> None:
        assert not is_chat(value)
