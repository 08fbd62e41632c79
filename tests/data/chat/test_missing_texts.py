from __future__ import annotations

from typing import Any

from rung.data.chat.missing_texts import missing_texts


def subjects(text: str, *messages: dict[str, Any], hidden: frozenset[Any] = frozenset()) -> Any:
    return [subject for _, subject in missing_texts(list(messages), text, hidden)]


def test_a_text_that_is_not_shown_whole_is_named_by_its_role() -> None:
    turn = {"role": "assistant", "content": "first second"}
    assert subjects("…first second…", turn) == []
    assert subjects("…second…", turn) == ["a part of turns of 'assistant'"]


def test_white_space_and_the_escapes_of_json_make_no_difference() -> None:
    turn = {"role": "user", "content": ' say\n"yes"  now '}
    assert subjects('say "yes" now', turn) == []
    assert subjects(r'{"text": "say\n\"yes\"  now"}', turn) == []


def test_what_the_template_never_shows_is_not_named_again() -> None:
    turn = {"role": "tool", "content": "rain"}
    hidden = frozenset({("not_shown", "turns of 'tool'")})
    assert subjects("…", turn) == ["a part of turns of 'tool'"]
    assert subjects("…", turn, hidden=hidden) == []


def test_texts_inside_calls_are_looked_for_but_ids_are_not() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"a": "Oslo"}}}
    turn = {"role": "assistant", "content": "", "tool_calls": [call]}
    assert subjects("f(Oslo)", turn) == []
    assert subjects("f()", turn) == ["a part of 'tool_calls' in turns of 'assistant'"]


def test_fields_that_the_model_does_not_read_are_not_looked_for() -> None:
    assert subjects("q", {"role": "user", "content": "q", "name": "Bob"}) == []
