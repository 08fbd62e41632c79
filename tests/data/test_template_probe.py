from __future__ import annotations

from typing import Any

import pytest
from tests.tiny import tiny_tokenizer

from rung.data.example import Example
from rung.data.schema import RecordReader
from rung.data.tokenize import RowTokenizer

ASK = "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
CHATML = "{% for m in messages %}{{ '[' + m.role + ']' + m.content + eos_token }}{% endfor %}" + ASK
MIN_NOISE_FREEDOM = CHATML.replace(
    "{{ '[' +", "{% if m.role in ('system', 'user', 'assistant', 'tool') %}{{ '[' +"
).replace("eos_token }}", "eos_token }}{% endif %}", 1)  # fmt: skip
CALL = "{{ c.function.name + '(' + c.function.arguments | tojson + ')' }}"
CALLS = CHATML.replace(
    "+ eos_token", "}}{% for c in m.tool_calls or [] %}" + CALL + "{% endfor %}{{ eos_token"
)


def rendered(
    template: str, record: dict[str, Any], **options: Any
) -> tuple[str, str, set[tuple[str, str]]]:
    """The text, what of it is learnt, and what is told."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    (example,) = RowTokenizer(tokenizer, **options).tokenize([RecordReader().row(record, "line 1")])
    assert isinstance(example, Example), example
    letters = tokenizer.convert_ids_to_tokens(list(example.ids))
    learnt = "".join(a for a, on in zip(letters, example.mask, strict=True) if on)
    return "".join(letters), learnt, set(example.remarks)


def user(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


def assistant(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def call(name: str, arguments: Any) -> dict[str, Any]:
    return {"type": "function", "id": "c1", "function": {"name": name, "arguments": arguments}}


def test_of_a_row_that_is_shown_whole_nothing_is_told() -> None:
    system = {"role": "system", "content": "s"}
    text, learnt, told = rendered(CHATML, {"messages": [system, user(" q\n"), assistant("a")]})
    assert (text, learnt, told) == (
        "[system]s<end>[user] q\n<end>[assistant]a<end>",
        "a<end>",
        set(),
    )
    trimmed = CHATML.replace("m.content", "m.content | trim")
    assert rendered(trimmed, {"messages": [user(" q\n"), assistant("a  b")]})[2] == set()


def test_a_role_that_the_template_knows_by_another_name_is_given_by_that() -> None:
    turns = [
        user("q"),
        assistant("look"),
        {"role": "observation", "content": "rain"},
        assistant("It rains."),
    ]
    text, learnt, told = rendered(MIN_NOISE_FREEDOM, {"messages": turns})
    assert "[tool]rain<end>" in text
    assert learnt == "look<end>It rains.<end>"
    assert told == {
        ("read_as", "turns of 'observation' as those of 'tool', which the chat template knows")
    }
    assert "[observation]rain<end>" in rendered(CHATML, {"messages": turns})[0], (
        "where it shows it, it stays"
    )
    turns[0] = {"role": "developer", "content": "Be brief."}
    assert "[system]Be brief.<end>" in rendered(MIN_NOISE_FREEDOM, {"messages": turns})[0]


def test_a_turn_that_the_template_does_not_show_is_told_though_its_words_stand_elsewhere() -> None:
    turns = [user("four"), {"role": "narrator", "content": "four"}, assistant("four")]
    text, _, told = rendered(MIN_NOISE_FREEDOM, {"messages": turns})
    assert text == "[user]four<end>[assistant]four<end>"
    assert told == {("not_shown", "turns of 'narrator'")}


def test_thoughts_that_the_template_leaves_out_are_told() -> None:
    drops = CHATML.replace("m.content", "m.content.split('</think>')[-1]")
    text, _, told = rendered(
        drops, {"messages": [user("q"), assistant("<think>three more</think>4")]}
    )
    assert "three more" not in text
    assert told == {("not_shown", "a part of turns of 'assistant'")}
    assert rendered(drops, {"messages": [user("q"), assistant("4")]})[2] == set()
    _, _, told = rendered(
        CHATML, {"messages": [user("q"), assistant("4", reasoning_content="three more")]}
    )
    assert told == {("not_shown", "'reasoning_content' in turns of 'assistant'")}


def test_thoughts_that_are_shown_of_the_last_turn_alone_are_a_part() -> None:
    last = CHATML.replace(
        "+ m.content", "+ (m.thinking if loop.last and m.thinking else '') + m.content"
    )
    turns = [user("q"), assistant("a", thinking="hm"), user("r"), assistant("b", thinking="so")]
    _, learnt, told = rendered(last, {"messages": turns})
    assert learnt == "sob<end>"
    assert told == {
        ("not_shown", "a part of 'thinking' in turns of 'assistant'"),
        (
            "not_learnt",
            "turns of the assistant that the chat template shows otherwise once others follow",
        ),
    }


def test_calls_and_tools() -> None:
    turns = [
        user("q"),
        assistant("", tool_calls=[call("f", {"town": "Oslo", "n": 3})]),
        assistant("done"),
    ]
    record = {"messages": turns, "tools": [{"type": "function", "function": {"name": "f"}}]}
    _, learnt, told = rendered(CALLS, record)
    assert learnt == 'f({"town": "Oslo", "n": 3})<end>done<end>'
    assert told == {
        ("not_shown", "'tools'"),
        ("unused", "'id' of 'tool_calls' in turns of 'assistant'"),
    }
    tools = "{% for t in tools or [] %}{{ t.function.name }}{% endfor %}"
    assert ("not_shown", "'tools'") not in rendered(tools + CALLS, record)[2]
    assert ("not_shown", "'tool_calls' in turns of 'assistant'") in rendered(CHATML, record)[2]
    names = CALLS.replace("c.function.arguments | tojson", "'…'")
    assert ("not_shown", "a part of 'tool_calls' in turns of 'assistant'") in rendered(
        names, record
    )[2]
    joins = CALLS.replace("c.function.arguments | tojson", "c.function.arguments")
    assert 'f({"town": "Oslo", "n": 3})' in rendered(joins, record)[0], (
        "some templates want a text of JSON"
    )


def test_a_template_that_takes_contents_in_parts_gets_them_so() -> None:
    parts = CHATML.replace("m.content", "m.content[0].text")
    text, learnt, told = rendered(parts, {"messages": [user("q"), assistant("a")]})
    assert (text, learnt, told) == ("[user]q<end>[assistant]a<end>", "a<end>", set())


def test_fields_about_a_message_are_noted_where_they_are_not_shown() -> None:
    turns = [user("q", name="Bob"), assistant("a")]
    assert rendered(CHATML, {"messages": turns})[2] == {("unused", "'name' in turns of 'user'")}
    flagged = {"messages": [user("q", name="Bob", hidden=True), assistant("a", mask=1)]}
    assert rendered(CHATML, flagged)[2] == {
        ("unused", "'name' in turns of 'user'"),
        ("left_out", "'hidden' in turns of 'user'"),
        ("left_out", "'mask' in turns of 'assistant'"),
    }
    twice = {"messages": [user("q", value="more"), assistant("a", train="later")]}
    assert rendered(CHATML, twice)[2] == {
        ("left_out", "'value' in turns of 'user'"),
        ("left_out", "'train' in turns of 'assistant'"),
    }
    named = CHATML.replace("m.content", "(m.name or '') + m.content")
    assert rendered(named, {"messages": turns})[2] == set()


def test_documents_and_variables_reach_the_template() -> None:
    record = {
        "messages": [user("q"), assistant("a")],
        "chat_template_kwargs": {"mood": "!"},
        "documents": [{"text": "d"}],
    }
    text, _, told = rendered(
        "{{ mood }}{% for d in documents %}{{ d.text }}{% endfor %}" + CHATML, record
    )
    assert text.startswith("!d[user]q")
    assert told == set()
    assert rendered(CHATML, record)[2] == {
        ("not_shown", "'documents'"),
        ("unused", "'mood' in 'chat_template_kwargs', which the chat template does not know"),
    }


def test_a_template_that_asks_for_an_answer_otherwise_than_it_shows_one() -> None:
    asks = CHATML.replace("'[assistant]' }}", "'[assistant]<think>' }}")
    _, learnt, told = rendered(asks, {"messages": [user("q"), assistant("a")]})
    assert learnt == "a<end>"
    assert told == {("not_asked", "'<think>'")}


@pytest.mark.parametrize("learn", ["completion", "all"])
def test_turns_that_are_not_to_be_learnt(learn: str) -> None:
    turns = [user("q"), assistant("w", weight=0), user("r"), assistant("a")]
    text, learnt, _ = rendered(CHATML, {"messages": turns}, learn=learn)
    assert text == "[user]q<end>[assistant]w<end>[user]r<end>[assistant]a<end>"
    assert (
        learnt
        == {"completion": "a<end>", "all": "[user]q<end>[assistant][user]r<end>[assistant]a<end>"}[
            learn
        ]
    )
    pair = {
        "prompt": turns[:1],
        "completion": [assistant("a"), user("r"), assistant("w", weight=0)],
    }
    assert rendered(CHATML, pair)[1] == "a<end>[user]r<end>[assistant]"


def test_an_end_token_behind_the_whole_chat_ends_every_turn() -> None:
    last = "{% for m in messages %}{{ '[' + m.role + ']' + m.content + '~' }}{% endfor %}"
    last += "{{ '[assistant]' if add_generation_prompt else eos_token }}"
    turns = [user("q"), assistant("alpha"), user("r"), assistant("beta")]
    text, learnt, told = rendered(last, {"messages": turns})
    assert text == "[user]q~[assistant]alpha~[user]r~[assistant]beta~<end>"
    assert (learnt, told) == ("alpha~beta~<end>", set())
    text, learnt, _ = rendered(last, {"messages": [*turns, user("thanks")]})
    assert text.endswith("[user]thanks~<end>")
    assert learnt == "alpha~beta~"


def test_turns_that_begin_a_conversation_are_told() -> None:
    turns = [assistant("hello"), user("q"), assistant("a")]
    told = (
        "not_learnt",
        "turns of the assistant that begin a conversation, which nothing asks for",
    )
    assert rendered(CHATML, {"messages": turns})[2] == {told}
    assert rendered(CHATML, {"messages": turns}, learn="all")[2] == set()
    hidden = {"messages": [assistant("hello", weight=0), user("q"), assistant("a")]}
    assert {kind for kind, _ in rendered(CHATML, hidden)[2]} == {"read_as"}


def test_a_role_that_the_template_names_is_preferred_to_one_that_it_only_passes_on() -> None:
    """As Llama's does, which has a case for tools, and writes any other role as it is called."""
    template = CHATML.replace(
        "'[' + m.role + ']'", "('[env]' if m.role == 'tool' else '[' + m.role + ']')"
    )
    turns = [
        user("q"),
        assistant("look"),
        {"role": "observation", "content": "rain"},
        assistant("It rains."),
    ]
    text, _, told = rendered(template, {"messages": turns})
    assert text == "[user]q<end>[assistant]look<end>[env]rain<end>[assistant]It rains.<end>"
    assert told == {
        ("read_as", "turns of 'observation' as those of 'tool', which the chat template knows")
    }
    turns[2]["role"] = "narrator"
    assert "[narrator]rain<end>" in rendered(template, {"messages": turns})[0]
