"""The format of records, the names of their fields, and the errors of both."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.conversations import assistant, user

from rung.data.row_errors import InvalidFieldsError
from rung.data.rows import Row
from rung.data.schema import RecordReader
from rung.errors import DataError

CHAT = [user("q"), assistant("a")]


def read(record: Any, fields: dict[str, str] | None = None) -> tuple[Row, str | None]:
    """The row of a record, and its format."""
    reader = RecordReader(fields)
    return reader.read(record, "a.jsonl, line 1"), reader.format


class TestFormats:
    @pytest.mark.parametrize(
        ("record", "record_format", "row"),
        [
            ({"prompt": "p", "completion": "c"}, "prompt_completion", Row("p", "c")),
            (
                {"prompt": CHAT[:1], "completion": CHAT[1:]},
                "chat_prompt_completion",
                Row(CHAT[:1], CHAT[1:]),
            ),
            ({"messages": CHAT}, "messages", Row(CHAT[:1], CHAT[1:], kind="messages")),
            ({"text": "t", "meta": 1}, "text", Row("", "t", kind="text")),
            ({"text": CHAT}, "messages", Row(CHAT[:1], CHAT[1:], kind="messages")),
            ({"text": json.dumps(CHAT)}, "messages", Row(CHAT[:1], CHAT[1:], kind="messages")),
            ({"instruction": "q", "output": "a"}, "alpaca", Row(CHAT[:1], CHAT[1:])),
            (
                {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
                "sharegpt",
                Row(CHAT[:1], CHAT[1:], kind="messages"),
            ),
            ({"prompt": "q", "chosen": "a", "rejected": "b"}, "preference", Row("q", "a")),
        ],
    )
    def test_the_fields_of_a_record_decide_its_format(
        self, record: dict[str, Any], record_format: str, row: Row
    ) -> None:
        assert read(record) == (row, record_format)

    def test_a_text_that_contains_messages_makes_a_pair_a_conversation(self) -> None:
        for record in (
            {"prompt": "q", "completion": CHAT[1:]},
            {"prompt": CHAT[:1], "completion": "a"},
            {"prompt": json.dumps(CHAT[:1]), "completion": json.dumps(CHAT[1:])},
        ):
            assert read(record) == (Row(CHAT[:1], CHAT[1:]), "chat_prompt_completion")

    @pytest.mark.parametrize(
        "prompt",
        ['[{"sku": 1}]', "[1, 2]", "[draft] Hello", '[{"role": "engineer", "content": "builds"}]'],
    )
    def test_a_text_of_any_other_list_is_a_text(self, prompt: str) -> None:
        record = {"prompt": prompt, "completion": "c"}
        assert read(record) == (Row(prompt, "c"), "prompt_completion")

    def test_texts_that_contain_conversations_are_read_as_such_in_every_row(self) -> None:
        reader = RecordReader()
        rows = [reader.read({"text": text}, "line") for text in (json.dumps(CHAT), CHAT)]
        assert rows == [Row(CHAT[:1], CHAT[1:], kind="messages")] * 2
        reader = RecordReader()
        texts = ("t", json.dumps(CHAT), "t")
        kinds = [reader.read({"text": text}, "line").kind for text in texts]
        assert (kinds, reader.format) == (["text", "messages", "text"], "text")


class TestEveryRowHasTheFormatOfTheFirst:
    @pytest.mark.parametrize(
        ("first", "second", "message"),
        [
            (
                {"prompt": "p", "completion": "c"},
                {"text": "t"},
                "the row needs a \"prompt\", as the first row has, but its fields are 'text'.",
            ),
            (
                {"prompt": "p", "completion": "c"},
                {"prompt": "p", "response": "c"},
                'needs a "completion", as the first row has, but its fields are '
                "'prompt', 'response'.",
            ),
            (
                {"chosen": "a", "rejected": "b"},
                {"rejected": "b"},
                'the row needs a "chosen", as the first row has',
            ),
            (
                {"prompt": "p", "completion": "c"},
                {"prompt": "p", "completion": CHAT[1:]},
                'the "completion" is messages, but in the first row both are texts',
            ),
        ],
    )
    def test_another_format_is_an_error(
        self, first: dict[str, Any], second: dict[str, Any], message: str
    ) -> None:
        reader = RecordReader()
        reader.read(first, "line 1")
        with pytest.raises(DataError) as error:
            reader.read(second, "line 2")
        assert str(error.value).startswith("line 2: ")
        assert message in str(error.value)


class TestNamedFields:
    def test_named_fields_are_used_and_others_are_not(self) -> None:
        record = {"question": "p", "answer": 3, "text": "t", "messages": [], "document": "d7"}
        fields = {"prompt": "question", "completion": "answer", "source": "document"}
        assert read(record, fields) == (Row("p", "3", "d7"), "prompt_completion")

    def test_fields_that_belong_to_a_named_one_may_have_rungs_names(self) -> None:
        assert read({"prompt": "p", "answer": "c"}, {"completion": "answer"}) == (
            Row("p", "c"),
            "prompt_completion",
        )
        tools = [{"type": "function"}]
        row, _ = read({"chat": CHAT, "tools": tools, "text": "t"}, {"messages": "chat"})
        assert (row.kind, row.tools) == ("messages", ({"type": "function"},))

    def test_a_field_is_not_used_twice(self) -> None:
        row, _ = read({"input": "2+2?", "output": "4"}, {"instruction": "input"})
        assert row.prompt == [user("2+2?")]

    def test_a_source_counts_only_if_it_is_named(self) -> None:
        record = {"prompt": "p", "completion": "c", "source": "the whole collection"}
        assert read(record)[0].source == "p"
        assert read(record, {"source": "source"})[0].source == "the whole collection"

    def test_a_named_field_that_is_missing_is_an_error(self) -> None:
        with pytest.raises(
            InvalidFieldsError,
            match="line 3: there is no field 'x', which --fields names; the fields are 'y'",
        ):
            RecordReader({"text": "x"}).read({"y": 1}, "line 3")


class TestUnusedFields:
    @pytest.mark.parametrize(
        ("record", "remarks"),
        [
            (
                {"prompt": "p", "completion": "c", "id": 3, "tags": [], "note": " "},
                [("unused", "'id'")],
            ),
            ({"prompt": "p", "completion": "c", "system": "s"}, [("left_out", "'system'")]),
            ({"messages": CHAT, "history": [["x", "y"]]}, [("left_out", "'history'")]),
            ({"text": "t", "source": "web"}, [("unused", "'source'")]),
            ({"prompt": "p", "completion": "c", "label": False}, [("left_out", "'label'")]),
            (
                {"messages": CHAT, "weight": 0.2, "score": 0.2},
                [("left_out", "'weight'"), ("unused", "'score'")],
            ),
        ],
    )
    def test_a_remark_is_made_of_each_field_with_a_value(
        self, record: dict[str, Any], remarks: list[tuple[str, str]]
    ) -> None:
        assert list(read(record)[0].remarks) == remarks

    def test_the_remark_has_the_users_name(self) -> None:
        record = {"question": "p", "answer": "c", "why": "w"}
        row, _ = read(record, {"prompt": "question", "completion": "answer"})
        assert row.remarks == (("unused", "'why'"),)


class TestErrors:
    @pytest.mark.parametrize(
        ("record", "message"),
        [
            ({"prompt": "a"}, "the row also needs a \"completion\", but its fields are 'prompt'"),
            ({"prompt": "a", "response": "b"}, "name it with --fields completion=response"),
            ({"completion": "a", "query": "b"}, "name it with --fields prompt=query"),
            (
                {"question": "q", "system": "s", "chosen": "a", "rejected": "b"},
                "name that field with --fields prompt=question",
            ),
            ({"q": 1, "a": 2}, "are of no known format (prompt + completion, messages"),
            ({"q": 1, "a": 2}, "name the two with --fields prompt=q,completion=a"),
        ],
    )
    def test_fields_with_other_names_are_an_error_that_says_how_to_name_them(
        self, record: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(InvalidFieldsError) as error:
            read(record)
        assert message in str(error.value)

    @pytest.mark.parametrize(
        ("record", "message"),
        [
            ([1], "a row must be an object with named fields, but this is a list"),
            (
                {"prompt": "a", "response": "b", "input_ids": [1]},
                "the row is already tokens (input_ids)",
            ),
            (user("q"), "these are the fields of one message"),
        ],
    )
    def test_other_errors_do_not_ask_for_names(self, record: Any, message: str) -> None:
        with pytest.raises(DataError) as error:
            read(record)
        assert message in str(error.value)
        assert not isinstance(error.value, InvalidFieldsError)


def read_or_error(record: dict[str, Any]) -> Row | DataError:
    try:
        return read(record)[0]
    except DataError as error:
        return error


def is_one_clear_sentence(error: DataError) -> bool:
    message = str(error)
    return message.startswith("a.jsonl, line 1: ") and message.endswith(".")


FORMAT_FIELDS = st.sampled_from(["prompt", "completion", "messages", "text", "x"])
OTHER_FIELDS = st.sampled_from(
    [
        *("conversations", "instruction", "input", "output", "history", "system", "tools"),
        *("functions", "documents", "chosen", "rejected", "chat_template_kwargs", "source"),
    ]
)
MESSAGE_FIELDS = st.sampled_from(
    ["role", "content", "from", "value", "tool_calls", "function_call", "weight", "train", "name"]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.text()
    | st.sampled_from(["user", "gpt", "[{}]"])
)
JSON_VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(MESSAGE_FIELDS, inner, max_size=4),
)


@given(st.dictionaries(FORMAT_FIELDS, st.from_type(object) | st.text()))
def test_any_object_is_a_row_with_a_source_or_one_clear_sentence(record: dict[str, Any]) -> None:
    result = read_or_error(record)
    assert result.source if isinstance(result, Row) else is_one_clear_sentence(result)


@given(st.dictionaries(FORMAT_FIELDS | OTHER_FIELDS, JSON_VALUES, max_size=5))
def test_any_json_is_a_row_or_one_clear_sentence(record: dict[str, Any]) -> None:
    result = read_or_error(record)
    assert isinstance(result, Row) or is_one_clear_sentence(result)
