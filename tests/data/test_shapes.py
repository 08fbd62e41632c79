from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.data.shapes import Reader, Row, normal
from rung.errors import DataError


def read(record: Any, fields: dict[str, str] | None = None) -> tuple[Row, str | None]:
    reader = Reader(fields)
    return reader.row(record, "a.jsonl, line 1"), reader.shape


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


CHAT = [user("q"), assistant("a")]


@pytest.mark.parametrize(
    ("record", "shape", "row"),
    [
        ({"prompt": "p", "completion": "c"}, "prompt_completion", Row("p", "c")),
        ({"prompt": CHAT[:1], "completion": CHAT[1:]}, "chat_prompt_completion", Row(CHAT[:1], CHAT[1:])),
        ({"messages": CHAT}, "messages", Row(CHAT[:1], CHAT[1:], kind="messages")),
        ({"text": "t", "meta": 1}, "text", Row("", "t", kind="text")),
        ({"instruction": "q", "input": "", "output": "a"}, "alpaca", Row(CHAT[:1], CHAT[1:])),
        ({"instruction": "q", "input": "i", "output": "a"}, "alpaca", Row([user("q\n\ni")], CHAT[1:])),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            "sharegpt",
            Row(CHAT[:1], CHAT[1:], kind="messages"),
        ),
    ],
)
def test_the_shapes(record: dict[str, Any], shape: str, row: Row) -> None:
    assert read(record) == (row, shape)


def test_numbers_objects_and_lists_are_written_as_json() -> None:
    for value, text in ((64, "64"), (1.5, "1.5"), (True, "true"), ({"달": [1]}, '{"달": [1]}'), (["a"], '["a"]')):
        assert read({"prompt": "p", "completion": value})[0].completion == text


def test_fields_of_other_names() -> None:
    record = {"question": "p", "answer": 3, "text": "t", "messages": [], "document": "d7"}
    row, shape = read(record, {"prompt": "question", "completion": "answer", "source": "document"})
    assert (row, shape) == (Row("p", "3", "d7"), "prompt_completion")


def test_what_belongs_to_a_named_field_may_have_our_name_already() -> None:
    assert read({"prompt": "p", "answer": "c"}, {"completion": "answer"}) == (Row("p", "c"), "prompt_completion")
    question = {"input": "2+2?", "output": "4"}
    assert read(question, {"instruction": "input"})[0].prompt == [user("2+2?")], "a field is not taken twice"
    tools = [{"type": "function"}]
    row, _ = read({"chat": CHAT, "tools": tools, "text": "t"}, {"messages": "chat"})
    assert (row.kind, row.tools) == ("messages", ({"type": "function"},))


def test_a_source_counts_only_where_it_was_named() -> None:
    record = {"prompt": "p", "completion": "c", "source": "the whole collection"}
    assert read(record)[0].source == "p"
    assert read(record, {"source": "source"})[0].source == "the whole collection"


def test_messages_in_a_cell_of_a_table_and_with_the_nulls_of_a_column() -> None:
    cell = '[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]'
    assert read({"messages": cell}) == read({"messages": CHAT})
    columns = [{**message, "tool_calls": None, "name": None} for message in CHAT]
    assert read({"messages": columns}) == read({"messages": CHAT})
    parts = [{"role": "user", "content": [{"type": "text", "text": "q"}]}, CHAT[1]]
    assert read({"messages": parts}) == read({"messages": CHAT})


def test_a_conversation_may_go_on_after_the_assistant() -> None:
    row, _ = read({"messages": [*CHAT, user("thanks")]})
    assert row == Row(CHAT[:1], [CHAT[1], user("thanks")], kind="messages")
    assert row.wanted == "a"


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ([1], "a row is an object with named fields, and this is a list"),
        ({"prompt": "a"}, "the row needs a \"completion\" too, and it has 'prompt'"),
        ({"q": 1, "a": 2}, "are of no known shape (prompt + completion, messages"),
        ({"q": 1, "a": 2}, "say which is which with --fields prompt=q,completion=a"),
        ({"prompt": " ", "completion": "b"}, 'the "prompt" is blank'),
        ({"prompt": "a", "completion": None}, 'the "completion" is null'),
        ({"prompt": "a", "completion": float("nan")}, 'the "completion" is nan'),
        ({"prompt": "a", "completion": "\ud83d"}, 'the "completion" has half a surrogate pair at character 1'),
        ({"prompt": "a", "completion": {"k": "\ud83d"}}, "half a surrogate pair"),
        ({"prompt": "a", "completion": b"b"}, 'the "completion" is bytes'),
        ({"text": ""}, 'the "text" is blank'),
        ({"messages": []}, '"messages" is a list of messages, and this is an empty list'),
        ({"messages": [user("q")]}, 'no message in "messages" is the assistant\'s'),
        ({"messages": [assistant("a")]}, "answers nothing"),
        ({"messages": [user("q"), {"role": "assistant"}]}, 'message 2 of "messages" needs a role and a content'),
        ({"messages": [user("q"), "a"]}, 'message 2 of "messages" is a text'),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "parts that are no text"),
        ({"conversations": [{"from": "cat", "value": "x"}]}, "is from 'cat'; known are human"),
        ({"prompt": CHAT[:1], "completion": CHAT[:1]}, "begins with a turn of the user"),
    ],
)
def test_what_is_no_row_is_told_where_and_why(record: Any, says: str) -> None:
    with pytest.raises(DataError) as error:
        read(record)
    assert str(error.value).startswith("a.jsonl, line 1: ")
    assert says in str(error.value)
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)


def test_every_row_has_the_shape_of_the_first() -> None:
    reader = Reader()
    reader.row({"prompt": "p", "completion": "c"}, "line 1")
    with pytest.raises(DataError, match="line 2: the row needs a \"prompt\" as the first row has, and it has 'text'"):
        reader.row({"text": "t"}, "line 2")
    with pytest.raises(DataError, match="line 3: there is no field 'x', which --fields names; the fields are 'y'"):
        Reader({"text": "x"}).row({"y": 1}, "line 3")


NAMES = st.sampled_from(["prompt", "completion", "messages", "text", "x"])


@given(st.dictionaries(NAMES, st.from_type(object) | st.text()))
def test_anything_is_a_row_or_one_clear_sentence(record: dict[str, Any]) -> None:
    found: Row | DataError
    try:
        found, _ = read(record)
    except DataError as error:
        found = error
    assert found.source if isinstance(found, Row) else str(found).startswith("a.jsonl, line 1: ")


def test_what_does_not_tell_rows_apart() -> None:
    assert normal("  How FAR is\tthe moon?!") == normal("how far is the moon") == "how far is the moon"
    assert normal("0.3 carat, $30") != normal("3.0 carat, $30")
    assert normal("-5") != normal("5")
    assert len({normal(f"a {sign} 1") for sign in "+-*/<>=%"}) == 8, "operators count"
    assert normal("दिन") != normal("दीन"), "and so do vowel signs"
    assert normal("C++") != normal("C#")
    assert normal("🌙") != normal("☀"), "marks alone are not nothing"
