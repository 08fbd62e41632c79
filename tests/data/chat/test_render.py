from __future__ import annotations

from typing import Any

from tests.data.chats import CHATML, answer, chat, chat_tokenizer, text_and_learned, tokenize_one

from rung.data.chat.render import chat_beginnings
from rung.data.example import Example
from rung.data.rows import Row
from rung.data.schema import RecordReader


def tokenize(template: str, record: dict[str, Any]) -> tuple[Any, Example]:
    tokenizer = chat_tokenizer(template)
    return tokenizer, tokenize_one(tokenizer, RecordReader().read(record, "line 1"))


def test_documents_and_variables_reach_the_template() -> None:
    record = {
        "messages": chat("q", "a"),
        "chat_template_kwargs": {"mood": "!"},
        "documents": [{"text": "d"}],
    }
    shows_both = "{{ mood }}{% for d in documents %}{{ d.text }}{% endfor %}" + CHATML
    tokenizer, example = tokenize(shows_both, record)
    assert text_and_learned(tokenizer, example)[0].startswith("!d[user]q")
    assert example.remarks == ()
    _, example = tokenize(CHATML, record)
    assert set(example.remarks) == {
        ("not_shown", "'documents'"),
        ("unused", "'mood' in 'chat_template_kwargs', which the chat template does not know"),
    }


def test_a_template_that_asks_with_other_text_than_it_shows_has_a_remark() -> None:
    asks = CHATML.replace("'assistant' + ']'", "'assistant' + ']<think>'")
    tokenizer, example = tokenize(asks, {"messages": chat("q", "a")})
    assert text_and_learned(tokenizer, example)[1] == "a<end>\n"
    assert example.remarks == (("not_asked", "'<think>'"),)
    prompt = "".join(tokenizer.convert_ids_to_tokens(example.prompt_ids))
    assert prompt.endswith("[assistant]<think>"), "the model generates after what asks for it"


def test_the_beginnings_of_a_conversation_are_those_of_the_assistants_turns() -> None:
    turns = chat("a", "b", "c", "d")
    row = Row(turns[:3], turns[3:], kind="messages")
    whole, asking_b, through_b, asking_d = (4, False), (1, True), (2, False), (3, True)
    assert chat_beginnings(row) == [whole, asking_b, through_b, asking_d]


def test_the_beginnings_of_a_pair_are_its_prompt_and_those_of_its_silent_turns() -> None:
    row = Row(chat("a"), [*answer("b"), *chat("c"), *answer("d")], untrained_turns=(3,))
    whole, prompt, asking_d = (4, False), (1, True), (3, True)
    assert chat_beginnings(row) == [whole, prompt, asking_d]
