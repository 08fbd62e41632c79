from __future__ import annotations

from typing import Any

import pytest
from tests.data.conversations import assistant, user

from rung.data.field_hints import hint_for_unknown_fields, likely_field

CHAT = [user("q"), assistant("a")]


@pytest.mark.parametrize(
    ("record", "fields"),
    [
        ({"q": 1, "a": 2}, "name the two with --fields prompt=q,completion=a"),
        (
            {"id": 1, "answer": "a", "question": "q"},
            "name the two with --fields prompt=question,completion=answer",
        ),
        ({"id": 1, "body": "b"}, "name the text to train on with --fields text=body"),
        ({"conversation": CHAT}, "name the messages with --fields messages=conversation"),
    ],
)
def test_the_names_and_values_of_fields_say_which_ones_to_name(
    record: dict[str, Any], fields: str
) -> None:
    hint = hint_for_unknown_fields(record)
    assert (hint.remedy, hint.needs_fields) == (fields, True)


@pytest.mark.parametrize(
    ("record", "remedy"),
    [
        (
            user("q"),
            'these are the fields of one message; write {"messages": […]} with a whole',
        ),
        ({"conversation": [{"human": "q"}]}, 'write the turns of a conversation as [{"role"'),
        (
            {"question": ["q", "r"], "answer": ["a", "b"]},
            "these are columns of 2; write one object per row",
        ),
        (
            {"turns": "[{'role': 'user'}\n {'role': 'assistant'}]"},
            "the turns are written as numpy prints a list",
        ),
        (
            {"custom_id": "1", "method": "POST", "body": {}},
            "this is a batch file of OpenAI; join the messages",
        ),
    ],
)
def test_records_that_must_be_rewritten_get_another_remedy(
    record: dict[str, Any], remedy: str
) -> None:
    hint = hint_for_unknown_fields(record)
    assert hint.remedy.startswith(remedy)
    assert not hint.needs_fields


def test_a_missing_field_probably_has_a_common_name() -> None:
    assert likely_field("completion", {"id", "response"}) == "response"
    assert likely_field("prompt", {"question", "text"}) == "question"
    assert likely_field("prompt", {"id"}) == "…"
