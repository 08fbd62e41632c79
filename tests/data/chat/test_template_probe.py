from __future__ import annotations

from typing import Any

import pytest
from tests.data.chats import chat_tokenizer, text_and_learned, tokenize_one

from rung.data.schema import RecordReader

ASK = "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
CHATML = "{% for m in messages %}{{ '[' + m.role + ']' + m.content + eos_token }}{% endfor %}" + ASK
SOME_ROLES = (
    "{% for m in messages %}{% if m.role in ('system', 'user', 'assistant', 'tool') %}"
    "{{ '[' + m.role + ']' + m.content + eos_token }}{% endif %}{% endfor %}" + ASK
)
"""Shows the turns of these roles only."""
CALL = "{{ c.function.name + '(' + c.function.arguments | tojson + ')' }}"
CALLS = CHATML.replace(
    "+ eos_token", "}}{% for c in m.tool_calls or [] %}" + CALL + "{% endfor %}{{ eos_token"
)
"""Shows calls of tools, with their arguments as JSON."""


def tokenize(
    template: str, record: dict[str, Any], **options: Any
) -> tuple[str, str, set[tuple[str, str]]]:
    """The text of a record, what of it is trained on, and the remarks."""
    tokenizer = chat_tokenizer(template)
    example = tokenize_one(tokenizer, RecordReader().read(record, "line 1"), **options)
    return *text_and_learned(tokenizer, example), set(example.remarks)


def remarks_on(template: str, *messages: dict[str, Any], **fields: Any) -> set[tuple[str, str]]:
    """The remarks on a conversation, and on other fields of its record."""
    return tokenize(template, {"messages": list(messages), **fields})[2]


def user(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


def assistant(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def call(name: str, arguments: Any) -> dict[str, Any]:
    return {"type": "function", "id": "c1", "function": {"name": name, "arguments": arguments}}


def test_a_row_that_is_shown_whole_has_no_remarks() -> None:
    system = {"role": "system", "content": "s"}
    record = {"messages": [system, user(" q\n"), assistant("a")]}
    text, learned, remarks = tokenize(CHATML, record)
    assert text == "[system]s<end>[user] q\n<end>[assistant]a<end>"
    assert learned == "a<end>"
    assert remarks == set()


def test_white_space_at_the_ends_of_a_text_may_be_missing() -> None:
    trimmed = CHATML.replace("m.content", "m.content | trim")
    assert remarks_on(trimmed, user(" q\n"), assistant("a  b")) == set()


# Roles.

KNOWN_AS_TOOL = (
    "read_as",
    "turns of 'observation' as those of 'tool', which the chat template knows",
)


def with_turn(role: str) -> dict[str, Any]:
    """A conversation with a turn of that role."""
    observed = {"role": role, "content": "rain"}
    return {"messages": [user("q"), assistant("look"), observed, assistant("It rains.")]}


def test_a_role_is_given_by_the_name_that_the_template_knows() -> None:
    text, learned, remarks = tokenize(SOME_ROLES, with_turn("observation"))
    assert text == "[user]q<end>[assistant]look<end>[tool]rain<end>[assistant]It rains.<end>"
    assert learned == "look<end>It rains.<end>"
    assert remarks == {KNOWN_AS_TOOL}
    record = with_turn("tool")
    record["messages"][0] = {"role": "developer", "content": "Be brief."}
    assert tokenize(SOME_ROLES, record)[0].startswith("[system]Be brief.<end>")


def test_a_role_that_the_template_shows_keeps_its_name() -> None:
    text, _, remarks = tokenize(CHATML, with_turn("observation"))
    assert "[observation]rain<end>" in text
    assert remarks == set()


def test_a_role_that_the_template_names_is_preferred_to_one_that_it_only_passes_on() -> None:
    """Llama's template has a case for tools, and writes any other role by its name."""
    template = CHATML.replace(
        "'[' + m.role + ']'", "('[env]' if m.role == 'tool' else '[' + m.role + ']')"
    )
    text, _, remarks = tokenize(template, with_turn("observation"))
    assert text == "[user]q<end>[assistant]look<end>[env]rain<end>[assistant]It rains.<end>"
    assert remarks == {KNOWN_AS_TOOL}
    assert "[narrator]rain<end>" in tokenize(template, with_turn("narrator"))[0]


def test_a_turn_that_is_not_shown_has_a_remark_though_its_words_are_elsewhere() -> None:
    narrator = {"role": "narrator", "content": "four"}
    record = {"messages": [user("four"), narrator, assistant("four")]}
    text, _, remarks = tokenize(SOME_ROLES, record)
    assert text == "[user]four<end>[assistant]four<end>"
    assert remarks == {("not_shown", "turns of 'narrator'")}


# Thoughts.


def test_thoughts_that_the_template_removes_from_a_text_have_a_remark() -> None:
    removes = CHATML.replace("m.content", "m.content.split('</think>')[-1]")
    record = {"messages": [user("q"), assistant("<think>three more</think>4")]}
    text, _, remarks = tokenize(removes, record)
    assert "three more" not in text
    assert remarks == {("not_shown", "a part of turns of 'assistant'")}
    assert remarks_on(removes, user("q"), assistant("4")) == set()


def test_thoughts_that_the_template_does_not_show_have_a_remark() -> None:
    thinks = assistant("4", reasoning_content="three more")
    assert remarks_on(CHATML, user("q"), thinks) == {
        ("not_shown", "'reasoning_content' in turns of 'assistant'")
    }


def test_thoughts_that_are_shown_only_in_the_last_turn_are_shown_in_part() -> None:
    last = CHATML.replace(
        "+ m.content", "+ (m.thinking if loop.last and m.thinking else '') + m.content"
    )
    turns = [user("q"), assistant("a", thinking="hm"), user("r"), assistant("b", thinking="so")]
    _, learned, remarks = tokenize(last, {"messages": turns})
    assert learned == "sob<end>"
    assert remarks == {
        ("not_shown", "a part of 'thinking' in turns of 'assistant'"),
        (
            "not_learnt",
            "turns of the assistant that the chat template shows differently once more turns "
            "follow",
        ),
    }


# Calls of tools.

CALLING = [
    user("q"),
    assistant("", tool_calls=[call("f", {"town": "Oslo", "n": 3})]),
    assistant("done"),
]
TOOLS = [{"type": "function", "function": {"name": "f"}}]


def test_calls_are_trained_on_and_tools_that_are_not_shown_have_a_remark() -> None:
    _, learned, remarks = tokenize(CALLS, {"messages": CALLING, "tools": TOOLS})
    assert learned == 'f({"town": "Oslo", "n": 3})<end>done<end>'
    assert remarks == {
        ("not_shown", "'tools'"),
        ("unused", "'id' of 'tool_calls' in turns of 'assistant'"),
    }
    shows_tools = "{% for t in tools or [] %}{{ t.function.name }}{% endfor %}" + CALLS
    assert ("not_shown", "'tools'") not in remarks_on(shows_tools, *CALLING, tools=TOOLS)


def test_calls_that_are_not_shown_or_only_in_part_have_a_remark() -> None:
    calls = "'tool_calls' in turns of 'assistant'"
    assert ("not_shown", calls) in remarks_on(CHATML, *CALLING)
    without_arguments = CALLS.replace("c.function.arguments | tojson", "'…'")
    assert ("not_shown", f"a part of {calls}") in remarks_on(without_arguments, *CALLING)


# Other forms of messages.


def test_arguments_are_given_as_json_text_if_the_template_wants_them_so() -> None:
    joins = CALLS.replace("c.function.arguments | tojson", "c.function.arguments")
    assert 'f({"town": "Oslo", "n": 3})' in tokenize(joins, {"messages": CALLING})[0]


def test_contents_are_given_in_parts_if_the_template_wants_them_so() -> None:
    parts = CHATML.replace("m.content", "m.content[0].text")
    text, learned, remarks = tokenize(parts, {"messages": [user("q"), assistant("a")]})
    assert (text, learned, remarks) == ("[user]q<end>[assistant]a<end>", "a<end>", set())


# Fields about a message.


def test_a_field_that_is_not_shown_is_unused() -> None:
    messages = [user("q", name="Bob"), assistant("a")]
    assert remarks_on(CHATML, *messages) == {("unused", "'name' in turns of 'user'")}
    shows_names = CHATML.replace("m.content", "(m.name or '') + m.content")
    assert remarks_on(shows_names, *messages) == set()


@pytest.mark.parametrize(
    ("turn", "field"),
    [
        (user("q", hidden=True), "'hidden' in turns of 'user'"),
        (user("q", value="more"), "'value' in turns of 'user'"),
        (assistant("a", mask=1), "'mask' in turns of 'assistant'"),
        (assistant("a", train="later"), "'train' in turns of 'assistant'"),
    ],
)
def test_a_field_that_may_matter_is_left_out(turn: dict[str, Any], field: str) -> None:
    """Such as a truth value, or a field that may say whether the turn is trained on."""
    messages = [turn, assistant("b")] if turn["role"] == "user" else [user("r"), turn]
    named = [user("s", name="Bob"), assistant("c"), *messages]
    assert remarks_on(CHATML, *named) == {
        ("unused", "'name' in turns of 'user'"),
        ("left_out", field),
    }
