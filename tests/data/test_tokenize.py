from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.data.chats import CHATML, answer, chat, chat_tokenizer, text_and_learned, tokenize_one
from tests.tiny import tiny_tokenizer

from rung.data.example import Example
from rung.data.rows import Row
from rung.data.tokenize import RowTokenizer, tokenize_rows
from rung.errors import DataError


def test_the_completion_and_the_end_token_are_trained_on() -> None:
    tokenizer = tiny_tokenizer()
    example = tokenize_one(tokenizer, Row("ab", "cd"))
    assert text_and_learned(tokenizer, example) == ("abcd<end>", "cd<end>")
    assert (example.prompt_length, example.loss_tokens) == (2, 3)
    assert example.prompt_ids == example.ids[:2]


def test_an_end_token_that_the_completion_writes_is_not_added_again() -> None:
    tokenizer = tiny_tokenizer()
    example = tokenize_one(tokenizer, Row("ab", "cd<end>"))
    assert text_and_learned(tokenizer, example)[0] == "abcd<end>"


def test_a_text_is_trained_on_whole_but_nothing_predicts_its_first_token() -> None:
    tokenizer = tiny_tokenizer()
    example = tokenize_one(tokenizer, Row("", "abc", kind="text"))
    assert text_and_learned(tokenizer, example) == ("abc<end>", "abc<end>")
    assert (example.loss_tokens, example.prompt_ids) == (3, ())


def test_rows_that_are_too_long_are_left_out() -> None:
    rows = [Row("ab", "cd"), Row("a" * 20, "b"), Row("x", "y")]
    examples = tokenize_rows(rows, tiny_tokenizer(), 5)
    assert [len(example.ids) for example in examples] == [5, 3]


def test_texts_and_chats_keep_their_order() -> None:
    tokenizer = chat_tokenizer()
    rows = [Row("a", "b"), Row(chat("c"), answer("d")), Row("e", "f")]
    examples = RowTokenizer(tokenizer).tokenize(rows)
    assert examples == [tokenize_one(tokenizer, row) for row in rows]


# Chat templates.


def test_a_chat_goes_through_the_models_own_template() -> None:
    tokenizer = chat_tokenizer()
    example = tokenize_one(tokenizer, Row(chat("hi"), answer("yo")))
    assert text_and_learned(tokenizer, example) == (
        "[user]hi<end>\n[assistant]yo<end>\n",
        "yo<end>\n",
    )


def test_of_several_templates_the_default_is_used() -> None:
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = {"default": CHATML, "tools": "{{ messages }}"}
    example = tokenize_one(tokenizer, Row(chat("hi"), answer("yo")))
    assert text_and_learned(tokenizer, example)[1] == "yo<end>\n"


def test_without_a_template_the_error_names_the_plain_one() -> None:
    row = Row(chat("hi"), answer("yo"))
    tokenizer = tiny_tokenizer()
    with pytest.raises(DataError, match="no chat template; give --template plain"):
        RowTokenizer(tokenizer).tokenize([row])
    example = tokenize_one(tokenizer, row, template="plain")
    assert text_and_learned(tokenizer, example) == (
        "### User:\nhi\n\n### Assistant:\nyo<end>\n\n",
        "yo<end>\n\n",
    )


def test_a_template_may_be_the_users_own_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text(CHATML.replace("'['", "'<'").replace("']'", "'>'"))
    tokenizer = chat_tokenizer()
    example = tokenize_one(tokenizer, Row(chat("hi"), answer("yo")), template=str(path))
    text, _ = text_and_learned(tokenizer, example)
    assert text == "<user>hi<end>\n<assistant>yo<end>\n"


def test_a_template_file_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(DataError, match=r"--template: the file 'none\.jinja' cannot be read"):
        RowTokenizer(tiny_tokenizer(), template="none.jinja")


# The answer that is wanted.


def answer_of(tokenizer: Any, row: Row, **options: Any) -> tuple[str, str]:
    row_tokenizer = RowTokenizer(tokenizer, **options)
    (example,) = row_tokenizer.tokenize([row])
    assert isinstance(example, Example), example
    return row_tokenizer.answer(row, example)


def test_what_a_template_writes_before_an_answer_is_not_part_of_it() -> None:
    thoughts = CHATML.replace(
        "m['content'] + eos", "('<t></t>' if m['role'] == 'assistant' else '') + m['content'] + eos"
    )
    tokenizer, row = chat_tokenizer(thoughts), Row(chat("2+2"), answer(" 4 "))
    example = tokenize_one(tokenizer, row)
    assert text_and_learned(tokenizer, example)[1] == "<t></t> 4 <end>\n"
    assert answer_of(tokenizer, row) == ("<t></t> ", "4")


@pytest.mark.parametrize("learn", ["completion", "all"])
def test_an_answer_ends_where_its_turn_ends(learn: str) -> None:
    turns = chat("a", "b", "c")
    row = Row(turns[:1], turns[1:], kind="messages")
    assert answer_of(chat_tokenizer(), row, learn=learn) == ("", "b")


def test_an_answer_ends_with_its_turn_though_the_template_ends_only_the_whole_chat() -> None:
    tokenizer = chat_tokenizer(
        "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] }}{% endfor %}"
        "{{ '[assistant]' if add_generation_prompt else eos_token }}"
    )
    turns = chat("a", "b", "c", "d", "e")
    row = Row(turns[:3], turns[3:], kind="messages")
    example = tokenize_one(tokenizer, row)
    assert text_and_learned(tokenizer, example) == (
        "[user]a[assistant]b[user]c[assistant]d[user]e<end>",
        "bd",
    )
    assert answer_of(tokenizer, row) == ("", "d")


def test_a_call_of_a_tool_belongs_to_the_answer() -> None:
    calls = CHATML.replace("m['content'] + eos", "m['content'] + (m['calls'] or '') + eos")
    row = Row(chat("q"), [{"role": "assistant", "content": "get", "calls": "{get(1)}"}])
    assert answer_of(chat_tokenizer(calls), row) == ("", "get{get(1)}")


@pytest.mark.parametrize("end", ["<end>", "<end>\n", " "])
@pytest.mark.parametrize("kind", ["pair", "messages"])
def test_an_end_token_that_an_answer_writes_is_not_part_of_it(end: str, kind: Any) -> None:
    turns = chat("q", "a" + end, "r", "b" + end)
    assert answer_of(chat_tokenizer(), Row(turns[:3], turns[3:], kind=kind)) == ("", "b")
