"""The rows that records of each format give."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.data.conversations import assistant, system, user

from rung.data.rows import Row
from rung.data.schema import RecordReader
from rung.errors import DataError

CHAT = [user("q"), assistant("a")]
TOOL = {"name": "f", "parameters": {"type": "object"}}
TOOLS = ({"type": "function", "function": TOOL},)


def read(record: dict[str, Any]) -> Row:
    return RecordReader().read(record, "a.jsonl, line 1")


class TestTexts:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (64, "64"),
            (1.5, "1.5"),
            (True, "true"),
            ({"달": [1]}, '{"달": [1]}'),
            (["a"], '["a"]'),
            ([{"sku": 1}], '[{"sku": 1}]'),
            ([{"from": "Oslo", "to": "Rome"}], '[{"from": "Oslo", "to": "Rome"}]'),
            ([{"from": "Oslo", "value": 3}], '[{"from": "Oslo", "value": 3}]'),
        ],
    )
    def test_numbers_objects_and_lists_are_written_as_json(self, value: Any, text: str) -> None:
        assert read({"prompt": "p", "completion": value}).completion == text
        assert read({"prompt": value, "completion": "c"}).prompt == text

    @pytest.mark.parametrize(
        ("record", "remark"),
        [
            ({"prompt": ["p"], "completion": 3}, "'prompt'"),
            ({"instruction": "q", "output": ["a", "b"]}, "'output'"),
            (
                {"prompt": "p", "completion": {"a": None}},
                "'completion', with nulls (a column of Parquet or Arrow has some for the fields "
                "of other rows)",
            ),
        ],
    )
    def test_a_remark_is_made_of_objects_and_lists(
        self, record: dict[str, Any], remark: str
    ) -> None:
        assert read(record).remarks == (("as_json", remark),)


class TestConversations:
    def test_messages_are_read_in_every_form(self) -> None:
        expected = Row(CHAT[:1], CHAT[1:], kind="messages")
        with_nulls = [{**message, "tool_calls": None, "name": None} for message in CHAT]
        in_parts = [{"role": "user", "content": [{"type": "text", "text": "q"}]}, CHAT[1]]
        for messages in (json.dumps(CHAT), repr(CHAT), with_nulls, in_parts):
            assert read({"messages": messages}) == expected

    def test_a_conversation_may_continue_after_the_assistant(self) -> None:
        row = read({"messages": [*CHAT, user("thanks")]})
        assert row == Row(CHAT[:1], [CHAT[1], user("thanks")], kind="messages")
        assert row.expected_text == "a"

    def test_a_text_beside_messages_is_a_turn(self) -> None:
        for record, field, role in (
            ({"prompt": "q", "completion": CHAT[1:]}, "prompt", "user"),
            ({"prompt": CHAT[:1], "completion": "a"}, "completion", "assistant"),
        ):
            row = read(record)
            assert row == Row(CHAT[:1], CHAT[1:])
            remark = f"a text for the '{field}' as a turn of the {role}"
            assert row.remarks == (("read_as", remark),)

    def test_a_text_of_messages_is_these_messages(self) -> None:
        row = read({"prompt": json.dumps(CHAT[:1]), "completion": json.dumps(CHAT[1:])})
        assert row == Row(CHAT[:1], CHAT[1:])
        assert row.remarks == tuple(
            ("read_as", f"a text for the '{field}' as the messages that it contains")
            for field in ("prompt", "completion")
        )

    def test_messages_in_the_field_text_are_a_conversation(self) -> None:
        row = read({"text": CHAT})
        assert row == Row(CHAT[:1], CHAT[1:], kind="messages")
        assert row.remarks == (("read_as", "messages in 'text' as a conversation"),)

    def test_other_turns_within_a_completion_are_trained_on_with_a_remark(self) -> None:
        completion = [*CHAT[1:], user("r"), assistant("b")]
        row = read({"prompt": CHAT[:1], "completion": completion})
        assert row == Row(CHAT[:1], completion)
        remark = "turns of the user within a completion as a part of it, which is trained on"
        assert row.remarks == (("read_as", remark),)


class TestAlpaca:
    @pytest.mark.parametrize(
        ("record", "prompt"),
        [
            ({"instruction": "q", "input": ""}, "q"),
            ({"instruction": "q", "input": "i"}, "q\n\ni"),
            ({"instruction": " ", "input": "i"}, "i"),
            ({"instruction": [user("q")]}, "q"),
        ],
    )
    def test_instruction_and_input_are_one_turn_of_the_user(
        self, record: dict[str, Any], prompt: str
    ) -> None:
        assert read({**record, "output": "a"}) == Row([user(prompt)], [assistant("a")])

    @pytest.mark.parametrize("output", ["a", [assistant("a")], json.dumps([assistant("a")])])
    def test_the_output_is_a_turn_of_the_assistant(self, output: Any) -> None:
        assert read({"instruction": "q", "output": output}) == Row(CHAT[:1], CHAT[1:])

    def test_the_input_is_the_question_of_the_row(self) -> None:
        assert read({"instruction": "q", "input": "i", "output": "a"}).question == "i"

    @pytest.mark.parametrize(
        ("history", "turns"),
        [
            ([["x", "y"]], [user("x"), assistant("y")]),
            ('[["", "y"]]', [assistant("y")]),
            ([user("x"), assistant("y")], [user("x"), assistant("y")]),
        ],
    )
    def test_a_history_is_earlier_turns_which_are_trained_on_too(
        self, history: Any, turns: list[dict[str, str]]
    ) -> None:
        row = read({"instruction": "q", "output": "a", "history": history, "system": ""})
        assert row == Row([*turns, CHAT[0]], CHAT[1:], kind="messages")


class TestContext:
    @pytest.mark.parametrize(
        ("record", "row"),
        [
            (
                {"messages": CHAT, "system": "s"},
                Row([system("s"), CHAT[0]], CHAT[1:], kind="messages"),
            ),
            (
                {"messages": CHAT, "system_prompt": "s"},
                Row([system("s"), CHAT[0]], CHAT[1:], kind="messages"),
            ),
            (
                {"messages": [system("s"), *CHAT], "system": "s"},
                Row([system("s"), CHAT[0]], CHAT[1:], kind="messages"),
            ),
            (
                {"prompt": CHAT[:1], "completion": CHAT[1:], "system": "s"},
                Row([system("s"), CHAT[0]], CHAT[1:]),
            ),
            (
                {"instruction": "q", "output": "a", "system": "s"},
                Row([system("s"), CHAT[0]], CHAT[1:]),
            ),
        ],
    )
    def test_a_system_message_begins_the_conversation(
        self, record: dict[str, Any], row: Row
    ) -> None:
        found = read(record)
        assert (found, found.remarks) == (row, ())

    def test_a_second_system_message_is_left_out_with_a_remark(self) -> None:
        row = read({"messages": [system("s"), *CHAT], "system": "another"})
        assert row.prompt == [system("s"), CHAT[0]]
        assert row.remarks == (("left_out", "'system'"),)

    @pytest.mark.parametrize(
        "tools",
        [
            {"tools": TOOLS[0]},
            {"tools": json.dumps([TOOL])},
            {"tools": [json.dumps(TOOL)]},
            {"functions": [TOOL]},
        ],
    )
    def test_tools_of_every_form_get_the_form_of_openai(self, tools: dict[str, Any]) -> None:
        row = read({"messages": CHAT, **tools})
        assert row == Row(CHAT[:1], CHAT[1:], kind="messages", tools=TOOLS)
        assert row.remarks == ()

    def test_empty_fields_add_nothing(self) -> None:
        row = read({"messages": CHAT, "tools": "[]", "system": None})
        assert row == Row(CHAT[:1], CHAT[1:], kind="messages")
        assert row.remarks == ()

    def test_documents_and_other_variables_are_given_to_the_template(self) -> None:
        documents = [{"text": "d"}]
        row = read(
            {
                "messages": CHAT,
                "chat_template_kwargs": {"thinking": False},
                "documents": documents,
            }
        )
        variables = {"thinking": False, "documents": documents}
        assert row == Row(CHAT[:1], CHAT[1:], kind="messages", variables=variables)
        assert row.remarks == ()


class TestPreferences:
    @pytest.mark.parametrize(
        ("record", "row"),
        [
            ({"prompt": "q", "chosen": "a", "rejected": "b"}, Row("q", "a")),
            (
                {"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": [assistant("b")]},
                Row(CHAT[:1], CHAT[1:]),
            ),
            (
                {"prompt": "q", "chosen": CHAT, "rejected": [CHAT[0], assistant("b")]},
                Row(CHAT[:1], CHAT[1:]),
            ),
            (
                {"chosen": CHAT, "rejected": [CHAT[0], assistant("b")], "prompt": None},
                Row(CHAT[:1], CHAT[1:]),
            ),
            ({"chosen": "q a", "rejected": "q b"}, Row("", "q a", kind="text")),
            (
                {
                    "instruction": "q",
                    "input": "i",
                    "system": "s",
                    "history": [["x", "y"]],
                    "chosen": "a",
                    "rejected": "b",
                },
                Row([system("s"), user("x"), assistant("y"), user("q\n\ni")], CHAT[1:]),
            ),
        ],
    )
    def test_the_chosen_answer_is_trained_on_with_a_remark(
        self, record: dict[str, Any], row: Row
    ) -> None:
        found = read(record)
        assert found == row
        assert found.remarks[-1] == (
            "read_as",
            "preference pairs, of which 'chosen' is trained on and 'rejected' is not used",
        )


class TestTurnsThatSayNotToTrainOnThem:
    def test_such_a_turn_before_the_last_answer_is_not_trained_on(self) -> None:
        turns = [
            user("q"),
            {**assistant("w"), "weight": 0},
            user("r"),
            {**assistant("a"), "weight": 1},
        ]
        row = read({"messages": turns})
        prompt = [user("q"), assistant("w"), user("r")]
        assert row == Row(prompt, [assistant("a")], kind="messages", untrained_turns=(1,))
        assert set(row.remarks) == {("read_as", "'weight' in turns as whether to train on them")}

    def test_such_a_last_answer_is_not_the_expected_text(self) -> None:
        turns = [user("q"), assistant("a"), user("r"), {**assistant("w"), "train": False}]
        row = read({"messages": turns})
        completion = [assistant("a"), user("r"), assistant("w")]
        assert row == Row([user("q")], completion, kind="messages", untrained_turns=(3,))
        assert row.expected_text == "a"

    def test_such_a_turn_at_the_start_of_a_completion_belongs_to_the_prompt(self) -> None:
        completion = [{**assistant("w"), "masked": True}, user("r"), assistant("a")]
        row = read({"prompt": [user("q")], "completion": completion})
        assert row == Row([user("q"), assistant("w"), user("r")], [assistant("a")])

    def test_a_turn_of_the_user_that_says_to_train_on_it_gets_a_remark(self) -> None:
        row = read({"messages": [{**user("q"), "train": True}, assistant("a")]})
        assert ("not_learnt", "turns of the user that say to train on them") in row.remarks


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"instruction": CHAT[:1], "input": "i", "output": "a"},
            'the "instruction" is messages, so the "input" beside it cannot be used',
        ),
        (
            {"instruction": "q", "input": CHAT[:1], "output": "a"},
            'the "input" is messages, but it must be a text',
        ),
        (
            {"messages": [{**user("q"), "role": "agent"}]},
            "there is nothing to train on; the roles are 'agent'",
        ),
        (
            {"messages": [user("q"), {**assistant("a"), "weight": 0.5}]},
            'message 2 of "messages" has the weight 0.5',
        ),
        (
            {"messages": [user("q"), {**assistant("a"), "loss": 0}]},
            "every turn of the assistant says not to train on it",
        ),
        (
            {"messages": CHAT, "tools": "a weather service"},
            '"tools" is a list of the tools\' schemas, and this is a text',
        ),
        (
            {"messages": CHAT, "chat_template_kwargs": "x"},
            '"chat_template_kwargs" is an object with named values',
        ),
        (
            {"instruction": "q", "output": "a", "history": "h"},
            '"history" is a list of questions with their answers',
        ),
        ({"prompt": " ", "completion": "b"}, 'the "prompt" is blank'),
        ({"prompt": "a", "completion": None}, 'the "completion" is null'),
        ({"prompt": "a", "completion": float("nan")}, 'the "completion" is nan'),
        (
            {"prompt": "a", "completion": "\ud83d"},
            'the "completion" has half of a surrogate pair at character 1',
        ),
        ({"prompt": "a", "completion": {"k": "\ud83d"}}, "half of a surrogate pair"),
        ({"prompt": "a", "completion": b"b"}, 'the "completion" is bytes'),
        ({"text": ""}, 'the "text" is blank'),
        ({"messages": []}, '"messages" must be a list of messages, but it is an empty list'),
        ({"messages": [user("q")]}, 'no message in "messages" is the assistant\'s'),
        ({"messages": [assistant("a")]}, "answers nothing"),
        (
            {"messages": [user("q"), {"role": "assistant"}]},
            'message 2 of "messages" needs a role and a content',
        ),
        ({"messages": [user("q"), "a"]}, 'message 2 of "messages" is a text'),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "parts that are not text",
        ),
        ({"prompt": CHAT[:1], "completion": CHAT[:1]}, "begins with a turn of the user"),
    ],
)
def test_an_invalid_row_is_one_sentence_with_its_location(
    record: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError) as error:
        read(record)
    assert str(error.value).startswith("a.jsonl, line 1: ")
    assert message in str(error.value)
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)
