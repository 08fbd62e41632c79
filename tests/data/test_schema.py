from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.data.rows import Row, normalize
from rung.data.schema import RecordReader
from rung.errors import DataError


def read(record: Any, fields: dict[str, str] | None = None) -> tuple[Row, str | None]:
    reader = RecordReader(fields)
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
        (
            {"prompt": CHAT[:1], "completion": CHAT[1:]},
            "chat_prompt_completion",
            Row(CHAT[:1], CHAT[1:]),
        ),
        ({"messages": CHAT}, "messages", Row(CHAT[:1], CHAT[1:], kind="messages")),
        ({"text": "t", "meta": 1}, "text", Row("", "t", kind="text")),
        ({"instruction": "q", "input": "", "output": "a"}, "alpaca", Row(CHAT[:1], CHAT[1:])),
        (
            {"instruction": "q", "input": "i", "output": "a"},
            "alpaca",
            Row([user("q\n\ni")], CHAT[1:]),
        ),
        ({"instruction": " ", "input": "i", "output": "a"}, "alpaca", Row([user("i")], CHAT[1:])),
        ({"instruction": "q", "output": CHAT[1:]}, "alpaca", Row(CHAT[:1], CHAT[1:])),
        ({"instruction": CHAT[:1], "output": "a"}, "alpaca", Row(CHAT[:1], CHAT[1:])),
        ({"instruction": "q", "output": json.dumps(CHAT[1:])}, "alpaca", Row(CHAT[:1], CHAT[1:])),
        ({"text": CHAT}, "messages", Row(CHAT[:1], CHAT[1:], kind="messages")),
        ({"text": json.dumps(CHAT)}, "messages", Row(CHAT[:1], CHAT[1:], kind="messages")),
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
    for value, text in (
        (64, "64"),
        (1.5, "1.5"),
        (True, "true"),
        ({"달": [1]}, '{"달": [1]}'),
        (["a"], '["a"]'),
    ):
        assert read({"prompt": "p", "completion": value})[0].completion == text


def test_fields_of_other_names() -> None:
    record = {"question": "p", "answer": 3, "text": "t", "messages": [], "document": "d7"}
    row, shape = read(record, {"prompt": "question", "completion": "answer", "source": "document"})
    assert (row, shape) == (Row("p", "3", "d7"), "prompt_completion")


def test_what_belongs_to_a_named_field_may_have_our_name_already() -> None:
    assert read({"prompt": "p", "answer": "c"}, {"completion": "answer"}) == (
        Row("p", "c"),
        "prompt_completion",
    )
    question = {"input": "2+2?", "output": "4"}
    assert read(question, {"instruction": "input"})[0].prompt == [user("2+2?")], (
        "a field is not taken twice"
    )
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
    assert read({"messages": repr(CHAT)}) == read({"messages": CHAT}), (
        "as pandas writes a list into a CSV file"
    )
    parts = [{"role": "user", "content": [{"type": "text", "text": "q"}]}, CHAT[1]]
    assert read({"messages": parts}) == read({"messages": CHAT})


SYSTEM = {"role": "system", "content": "s"}
TOOL = {"name": "f", "parameters": {"type": "object"}}
TOOLS = ({"type": "function", "function": TOOL},)


@pytest.mark.parametrize(
    ("record", "row"),
    [
        ({"messages": CHAT, "system": "s"}, Row([SYSTEM, CHAT[0]], CHAT[1:], kind="messages")),
        (
            {"messages": CHAT, "system_prompt": "s"},
            Row([SYSTEM, CHAT[0]], CHAT[1:], kind="messages"),
        ),
        (
            {"messages": [SYSTEM, *CHAT], "system": "s"},
            Row([SYSTEM, CHAT[0]], CHAT[1:], kind="messages"),
        ),
        (
            {"prompt": CHAT[:1], "completion": CHAT[1:], "system": "s"},
            Row([SYSTEM, CHAT[0]], CHAT[1:]),
        ),
        ({"instruction": "q", "output": "a", "system": "s"}, Row([SYSTEM, CHAT[0]], CHAT[1:])),
        (
            {"instruction": "q", "output": "a", "history": [["x", "y"]]},
            Row([user("x"), assistant("y"), CHAT[0]], CHAT[1:], kind="messages"),
        ),
        (
            {"instruction": "q", "output": "a", "history": '[["", "y"]]', "system": ""},
            Row([assistant("y"), CHAT[0]], CHAT[1:], kind="messages"),
        ),
        (
            {"messages": CHAT, "tools": TOOLS[0]},
            Row(CHAT[:1], CHAT[1:], kind="messages", tools=TOOLS),
        ),
        (
            {"messages": CHAT, "tools": json.dumps([TOOL])},
            Row(CHAT[:1], CHAT[1:], kind="messages", tools=TOOLS),
        ),
        (
            {"messages": CHAT, "tools": [json.dumps(TOOL)]},
            Row(CHAT[:1], CHAT[1:], kind="messages", tools=TOOLS),
        ),
        (
            {"messages": CHAT, "functions": [TOOL]},
            Row(CHAT[:1], CHAT[1:], kind="messages", tools=TOOLS),
        ),
        (
            {"messages": CHAT, "tools": "[]", "system": None},
            Row(CHAT[:1], CHAT[1:], kind="messages"),
        ),
        (
            {
                "messages": CHAT,
                "chat_template_kwargs": {"thinking": False},
                "documents": [{"text": "d"}],
            },
            Row(
                CHAT[:1],
                CHAT[1:],
                kind="messages",
                variables={"thinking": False, "documents": [{"text": "d"}]},
            ),
        ),
    ],
)
def test_what_belongs_to_a_conversation_comes_into_it(record: dict[str, Any], row: Row) -> None:
    found, _ = read(record)
    assert (found, found.told) == (row, ())


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (
            {"prompt": "p", "completion": "c", "id": 3, "tags": [], "note": " "},
            [("unused", "'id'")],
        ),
        ({"prompt": "p", "completion": "c", "system": "s"}, [("left_out", "'system'")]),
        ({"messages": [SYSTEM, *CHAT], "system": "another"}, [("left_out", "'system'")]),
        ({"messages": CHAT, "history": [["x", "y"]]}, [("left_out", "'history'")]),
        ({"text": "t", "source": "web"}, [("unused", "'source'")]),
        ({"prompt": "p", "completion": "c", "label": False}, [("left_out", "'label'")]),
        (
            {"messages": CHAT, "weight": 0.2, "score": 0.2},
            [("left_out", "'weight'"), ("unused", "'score'")],
        ),
        ({"prompt": ["p"], "completion": 3}, [("as_json", "'prompt'")]),
        (
            {"prompt": "p", "completion": {"a": None}},
            [
                (
                    "as_json",
                    "'completion', with nulls (a column of Parquet or Arrow has some for the fields of other rows)",
                )
            ],
        ),
        ({"text": CHAT}, [("read_as", "messages in 'text' as a conversation")]),
        (
            {"prompt": CHAT[:1], "completion": [*CHAT[1:], user("r"), assistant("b")]},
            [("read_as", "turns of the user within a completion as a part of it, which is learnt")],
        ),
        ({"instruction": "q", "output": ["a", "b"]}, [("as_json", "'output'")]),
    ],
)
def test_a_field_that_nothing_is_made_of_is_told(
    record: dict[str, Any], told: list[tuple[str, str]]
) -> None:
    assert list(read(record)[0].told) == told


def test_a_field_that_was_named_is_told_by_its_own_name() -> None:
    row, _ = read(
        {"question": "p", "answer": "c", "why": "w"}, {"prompt": "question", "completion": "answer"}
    )
    assert row.remarks == (("unused", "'why'"),)


def test_a_text_beside_messages_is_a_turn() -> None:
    for record in (
        {"prompt": "q", "completion": CHAT[1:]},
        {"prompt": CHAT[:1], "completion": "a"},
    ):
        row, shape = read(record)
        assert (row, shape) == (Row(CHAT[:1], CHAT[1:]), "chat_prompt_completion")
        ((kind, what),) = row.remarks
        assert kind == "read_as"
        assert "as a turn of the" in what


def test_a_prompt_that_is_the_text_of_a_list_is_a_text_unless_that_is_messages() -> None:
    for prompt in (
        '[{"sku": 1}]',
        "[1, 2]",
        "[draft] Hello",
        '[{"role": "engineer", "content": "builds"}]',
    ):
        assert read({"prompt": prompt, "completion": "c"}) == (
            Row(prompt, "c"),
            "prompt_completion",
        )
    for value in ([{"sku": 1}], [{"from": "Oslo", "to": "Rome"}], [{"from": "Oslo", "value": 3}]):
        assert read({"prompt": value, "completion": "c"})[0].prompt == json.dumps(value)
    row, shape = read({"prompt": json.dumps(CHAT[:1]), "completion": json.dumps(CHAT[1:])})
    assert (row, shape) == (Row(CHAT[:1], CHAT[1:]), "chat_prompt_completion")
    assert {what for _, what in row.remarks} == {
        "a text for the 'prompt' as the messages that it holds",
        "a text for the 'completion' as the messages that it holds",
    }


def test_messages_where_the_first_row_has_texts_are_not_learnt_as_json() -> None:
    reader = RecordReader()
    reader.row({"prompt": "p", "completion": "c"}, "line 1")
    with pytest.raises(
        DataError, match='line 2: the "completion" is messages, and in the first row both are texts'
    ):
        reader.row({"prompt": "p", "completion": CHAT[1:]}, "line 2")


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
            Row(
                [{"role": "system", "content": "s"}, user("x"), assistant("y"), user("q\n\ni")],
                CHAT[1:],
            ),
        ),
    ],
)
def test_of_preference_pairs_the_chosen_answer_is_learnt_and_told(
    record: dict[str, Any], row: Row
) -> None:
    found, shape = read(record)
    assert (found, shape) == (row, "preference")
    assert found.told[-1] == (
        "read_as",
        "preference pairs, of which 'chosen' is learnt and 'rejected' is not used",
    )


def test_turns_that_say_that_they_are_not_to_be_learnt() -> None:
    turns = [user("q"), {**assistant("w"), "weight": 0}, user("r"), {**assistant("a"), "weight": 1}]
    row, _ = read({"messages": turns})
    bare = [user("q"), assistant("w"), user("r")]
    assert row == Row(bare, [assistant("a")], kind="messages", silent=(1,))
    assert set(row.remarks) == {("read_as", "'weight' in turns as whether they are to be learnt")}
    last = [user("q"), assistant("a"), user("r"), {**assistant("w"), "train": False}]
    row, _ = read({"messages": last})
    assert row == Row(
        [user("q")], [assistant("a"), user("r"), assistant("w")], kind="messages", silent=(3,)
    )
    assert row.expected_text == "a", "what is judged is learnt"
    row, _ = read(
        {
            "prompt": [user("q")],
            "completion": [{**assistant("w"), "masked": True}, user("r"), assistant("a")],
        }
    )
    assert row == Row(bare, [assistant("a")])
    row, _ = read({"messages": [{**user("q"), "train": True}, assistant("a")]})
    assert ("not_learnt", "turns of the user that say they are to be") in row.remarks


def test_a_conversation_may_go_on_after_the_assistant() -> None:
    row, _ = read({"messages": [*CHAT, user("thanks")]})
    assert row == Row(CHAT[:1], [CHAT[1], user("thanks")], kind="messages")
    assert row.expected_text == "a"


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ([1], "a row is an object with named fields, and this is a list"),
        ({"prompt": "a"}, "the row needs a \"completion\" too, and it has 'prompt'"),
        ({"prompt": "a", "response": "b"}, "say which it is with --fields completion=response"),
        (
            {"prompt": "a", "response": "b", "input_ids": [1]},
            "the row is tokens already (input_ids)",
        ),
        (
            user("q"),
            'these are of one message; write {"messages": […]} with all of a conversation for each row',
        ),
        (
            {"question": "q", "system": "s", "chosen": "a", "rejected": "b"},
            "that is with --fields prompt=question",
        ),
        ({"instruction": CHAT[:1], "input": "i", "output": "a"}, 'beside it stands an "input"'),
        (
            {"instruction": "q", "input": CHAT[:1], "output": "a"},
            'the "input" is messages, and a text is needed',
        ),
        ({"q": 1, "a": 2}, "are of no known shape (prompt + completion, messages"),
        ({"q": 1, "a": 2}, "say which is which with --fields prompt=q,completion=a"),
        ({"id": 1, "answer": "a", "question": "q"}, "--fields prompt=question,completion=answer"),
        ({"id": 1, "body": "b"}, "say what is learnt with --fields text=body"),
        ({"conversation": CHAT}, "say where the messages are with --fields messages=conversation"),
        ({"conversation": [{"human": "q"}]}, "write the turns of a conversation as [{"),
        (
            {"question": ["q", "r"], "answer": ["a", "b"]},
            "these are columns of 2; write one object for each row",
        ),
        (
            {"messages": [{**user("q"), "role": "agent"}]},
            "there is nothing to learn; the roles are 'agent'",
        ),
        (
            {"messages": [user("q"), {**assistant("a"), "weight": 0.5}]},
            'message 2 of "messages" has the weight 0.5',
        ),
        (
            {"messages": [user("q"), {**assistant("a"), "loss": 0}]},
            "every turn of the assistant says",
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
            'the "completion" has half a surrogate pair at character 1',
        ),
        ({"prompt": "a", "completion": {"k": "\ud83d"}}, "half a surrogate pair"),
        ({"prompt": "a", "completion": b"b"}, 'the "completion" is bytes'),
        ({"text": ""}, 'the "text" is blank'),
        ({"messages": []}, '"messages" is a list of messages, and this is an empty list'),
        ({"messages": [user("q")]}, 'no message in "messages" is the assistant\'s'),
        ({"messages": [assistant("a")]}, "answers nothing"),
        (
            {"messages": [user("q"), {"role": "assistant"}]},
            'message 2 of "messages" needs a role and a content',
        ),
        ({"messages": [user("q"), "a"]}, 'message 2 of "messages" is a text'),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "parts that are no text",
        ),
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
    reader = RecordReader()
    reader.row({"prompt": "p", "completion": "c"}, "line 1")
    with pytest.raises(
        DataError,
        match="line 2: the row needs a \"prompt\" as the first row has, and it has 'text'",
    ):
        reader.row({"text": "t"}, "line 2")
    with pytest.raises(
        DataError, match="it has 'prompt', 'response'$|it has 'prompt', 'response'\\."
    ):
        reader.row({"prompt": "p", "response": "c"}, "line 2")
    reader = RecordReader()
    reader.row({"chosen": "a", "rejected": "b"}, "line 1")
    with pytest.raises(DataError, match='line 2: the row needs "chosen" as the first row has'):
        reader.row({"rejected": "b"}, "line 2")
    with pytest.raises(
        DataError, match="line 3: there is no field 'x', which --fields names; the fields are 'y'"
    ):
        RecordReader({"text": "x"}).row({"y": 1}, "line 3")


NAMES = st.sampled_from(["prompt", "completion", "messages", "text", "x"])
OTHERS = [
    "conversations",
    "instruction",
    "input",
    "output",
    "history",
    "system",
    "tools",
    "functions",
    "documents",
]
OTHERS += ["chosen", "rejected", "chat_template_kwargs", "source"]
KEYS = st.sampled_from(
    ["role", "content", "from", "value", "tool_calls", "function_call", "weight", "train", "name"]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.text()
    | st.sampled_from(["user", "gpt", "[{}]"])
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4)
)


@given(st.dictionaries(NAMES, st.from_type(object) | st.text()))
def test_anything_is_a_row_or_one_clear_sentence(record: dict[str, Any]) -> None:
    found: Row | DataError
    try:
        found, _ = read(record)
    except DataError as error:
        found = error
    assert found.source if isinstance(found, Row) else str(found).startswith("a.jsonl, line 1: ")


@given(st.dictionaries(NAMES | st.sampled_from(OTHERS), VALUES, max_size=5))
def test_any_json_is_a_row_or_one_clear_sentence(record: dict[str, Any]) -> None:
    found: Row | DataError
    try:
        found, _ = read(record)
    except DataError as error:
        found = error
    assert isinstance(found, Row) or str(found).startswith("a.jsonl, line 1: ")


def test_what_does_not_tell_rows_apart() -> None:
    assert (
        normalize("  How FAR is\tthe moon?!")
        == normalize("how far is the moon")
        == "how far is the moon"
    )
    assert normalize("0.3 carat, $30") != normalize("3.0 carat, $30")
    assert normalize("-5") != normalize("5")
    assert len({normalize(f"a {sign} 1") for sign in "+-*/<>=%"}) == 8, "operators count"
    assert normalize("दिन") != normalize("दीन"), "and so do vowel signs"
    assert normalize("C++") != normalize("C#")
    assert normalize("🌙") != normalize("☀"), "marks alone are not nothing"


def test_texts_that_hold_conversations_are_read_so_in_every_row() -> None:
    reader = RecordReader()
    rows = [reader.row({"text": text}, "line") for text in (json.dumps(CHAT), CHAT)]
    assert rows == [Row(CHAT[:1], CHAT[1:], kind="messages")] * 2
    reader = RecordReader()
    kinds = [reader.row({"text": text}, "line").kind for text in ("t", json.dumps(CHAT), "t")]
    assert (kinds, reader.shape) == (["text", "messages", "text"], "text")
