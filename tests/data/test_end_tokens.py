from __future__ import annotations

from typing import Any

import pytest
from tests.odd_tokenizers import byte_level
from tests.tiny import tiny_tokenizer

from rung.data.example import Example
from rung.data.special_tokens import SpecialTokens, common_prefix_length, encode


@pytest.fixture
def tokenizer() -> Any:
    """A token for each letter; `~` and `|` are special, and `<end>` ends a text."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["~", "|"]})
    return tokenizer


def ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    (tokens,) = encode(tokenizer, [text])
    return tokens


def end_names(tokenizer: Any, special: SpecialTokens) -> set[str]:
    return set(tokenizer.convert_ids_to_tokens(sorted(special.ends)))


def test_the_token_for_unknown_text_is_special_only_if_it_is_an_end_token_too() -> None:
    assert tiny_tokenizer().unk_token_id not in SpecialTokens(tiny_tokenizer()).all
    both = byte_level("<e>", unk="<e>")
    assert SpecialTokens(both).all == {both.eos_token_id}


def test_the_models_own_ends_are_stops(tokenizer: Any) -> None:
    tilde = tokenizer.convert_tokens_to_ids("~")
    assert SpecialTokens(tokenizer).stops == {tokenizer.eos_token_id}
    assert SpecialTokens(tokenizer, [tilde]).stops == {tokenizer.eos_token_id, tilde}


def test_first_tokens_are_put_before_a_text_once() -> None:
    tokenizer = byte_level(bos="<s>", around="<s> $A")
    special = SpecialTokens(tokenizer)
    once = special.with_first_tokens(ids(tokenizer, "a"))
    assert once == ids(tokenizer, "<s>a")
    assert special.with_first_tokens(once) == once


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("ab~", 0, 3),
        ("ab~\n", 0, 3),
        ("a~b", 0, 0),
        ("~ab~", 1, 4),
        ("~", 1, 0),
        ("ab", 0, 0),
    ],
)
def test_an_end_is_found_behind_the_last_words(
    tokenizer: Any, text: str, start: int, end: int
) -> None:
    special = SpecialTokens(tokenizer)
    assert special.find_end(ids(tokenizer, text), start, special.all) == end


def test_an_end_token_is_added_unless_there_is_one_which_is_remembered(tokenizer: Any) -> None:
    special = SpecialTokens(tokenizer)
    without, with_one = ids(tokenizer, "ab"), ids(tokenizer, "ab~")
    assert special.with_end(without, 0) == (*without, tokenizer.eos_token_id)
    assert end_names(tokenizer, special) == {"<end>"}
    assert special.with_end(with_one, 0) == with_one
    assert end_names(tokenizer, special) == {"<end>", "~"}


@pytest.mark.parametrize(
    ("text", "is_closed"), [("ab<end>", True), ("ab<end>\n", True), ("ab<end> c", False)]
)
def test_white_space_may_follow_an_end_token_and_words_may_not(
    tokenizer: Any, text: str, is_closed: bool
) -> None:
    assert SpecialTokens(tokenizer).is_closed(ids(tokenizer, text), 0) == is_closed


def test_a_token_between_turns_ends_generation_unless_it_is_inside_answers(tokenizer: Any) -> None:
    special = SpecialTokens(tokenizer)
    for name in "~|":
        special.add_end_between_turns(tokenizer.convert_tokens_to_ids(name))
    special.update_ends(Example(ids(tokenizer, "q~a~"), 2))
    assert end_names(tokenizer, special) == {"<end>", "~", "|"}
    special.update_ends(Example(ids(tokenizer, "q~hm|a~"), 2))
    assert end_names(tokenizer, special) == {"<end>", "~"}


def test_a_stop_at_the_end_of_a_text_is_removed(tokenizer: Any) -> None:
    special = SpecialTokens(tokenizer)
    assert special.strip_stop("a b<end>\n") == "a b"
    assert special.strip_stop("a <end> b ") == "a <end> b "


@pytest.mark.parametrize(
    ("one", "other", "length"),
    [("abc", "abd", 2), ("ab", "abc", 2), ("abc", "ab", 2), ("", "a", 0)],
)
def test_a_common_prefix_has_a_length(one: str, other: str, length: int) -> None:
    assert common_prefix_length(one, other) == length
