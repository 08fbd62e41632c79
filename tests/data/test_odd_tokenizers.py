"""Tokenizers that add tokens of their own to a text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.data.chats import tokenize_one
from tests.odd_tokenizers import Slow, byte_level, pieces, words
from tokenizers import AddedToken

from rung.data.example import Example
from rung.data.rows import Row
from rung.data.tokenize import RowTokenizer
from rung.data.tokenizer_state import first_tokens

PROMPT, COMPLETION = "The capital of Peru:", " lima"
CHAT = Row([{"role": "user", "content": "Peru?"}], [{"role": "assistant", "content": "Lima"}])


def first_and_end() -> Any:
    return byte_level(bos="<s>", around="<s> $A </s>")


TOKENIZERS: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "no token": (byte_level, []),
    "a first token that is also the unknown and the end token": (
        lambda: byte_level("<|endoftext|>", "<|endoftext|>", "<|endoftext|>", "<|endoftext|> $A"),
        ["<|endoftext|>"],
    ),
    "no token, and padding that is the end token": (lambda: byte_level(pad_token="</s>"), []),
    "an end token": (lambda: byte_level(around="$A </s>"), []),
    "a first and an end token": (first_and_end, ["<s>"]),
    "no token, and special tokens split as text": (
        lambda: byte_level(split_special_tokens=True),
        [],
    ),
    "a first token and a space": (pieces, ["<s>"]),
    "brackets": (words, ["[CLS]"]),
    "no token, without a fast version": (Slow, []),
}
"""Tokenizers by what they add to every text, with the first tokens."""


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_row_begins_with_the_first_tokens_and_has_one_end(name: str) -> None:
    make, first = TOKENIZERS[name]
    tokenizer = make()
    example = tokenize_one(tokenizer, Row(PROMPT, COMPLETION))
    assert tokenizer.convert_ids_to_tokens(list(first_tokens(tokenizer))) == first
    assert tokenizer.convert_ids_to_tokens(list(example.ids[: len(first)])) == first
    rest, end = example.ids[len(first) :], tokenizer.eos_token_id
    assert (rest.count(end), rest[-1]) == (1, end)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_nothing_stands_between_the_prompt_and_the_completion(name: str) -> None:
    tokenizer = TOKENIZERS[name][0]()
    example = tokenize_one(tokenizer, Row(PROMPT, COMPLETION))
    assert example.prompt_ids == example.ids[: example.prompt_length]
    completion = example.ids[example.prompt_length :]
    text = tokenizer.decode(completion, skip_special_tokens=True)
    assert text.strip() == COMPLETION.strip()
    assert example.mask[example.prompt_length :] == [1] * len(completion)


@pytest.mark.parametrize(
    "make", [first_and_end, lambda: byte_level("<e>", "<e>", around="<e> $A <e>"), pieces]
)
def test_first_and_end_tokens_that_a_text_writes_itself_are_not_added_again(
    make: Callable[[], Any],
) -> None:
    tokenizer = make()
    row_tokenizer = RowTokenizer(tokenizer)
    row = Row(f"{tokenizer.bos_token}{PROMPT}", f"{COMPLETION}{tokenizer.eos_token}")
    (example,) = row_tokenizer.tokenize([row])
    assert isinstance(example, Example)
    added = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    places = [place for place, token in enumerate(example.ids) if token in added]
    assert places == [0, len(example.ids) - 1]
    assert row_tokenizer.answer(row, example) == ("", COMPLETION), "the end token is no text"


def test_a_line_end_may_follow_the_end_token_that_a_completion_writes_but_a_word_may_not() -> None:
    tokenizer = byte_level()
    end = tokenizer.eos_token_id
    for row, count in (
        (Row(PROMPT, " Lima</s>\n"), 1),
        (Row(PROMPT, " Lima</s> x"), 2),
        (Row("Say </s>", "x"), 2),
    ):
        assert tokenize_one(tokenizer, row).ids.count(end) == count


def test_an_end_token_that_is_not_special_is_known_by_the_models_own_list() -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken("<|done|>", special=False)])
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + '<|done|>' }}{% endfor %}"
    done = tokenizer.convert_tokens_to_ids("<|done|>")
    without_list = tokenize_one(tokenizer, CHAT)
    assert without_list.ids[-2:] == (done, tokenizer.eos_token_id)
    row_tokenizer = RowTokenizer(tokenizer, ends={done})
    (with_list,) = row_tokenizer.tokenize([CHAT])
    assert isinstance(with_list, Example)
    assert with_list.ids[-1] == done
    assert row_tokenizer.ends == {done, tokenizer.eos_token_id}


def test_the_plain_template_begins_with_the_first_tokens() -> None:
    tokenizer = first_and_end()
    example = tokenize_one(tokenizer, CHAT, template="plain")
    assert tokenizer.decode(example.ids) == "<s>### User:\nPeru?\n\n### Assistant:\nLima</s>\n\n"
    assert example.prompt_ids[0] == tokenizer.bos_token_id
