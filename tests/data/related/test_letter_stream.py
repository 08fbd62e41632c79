from __future__ import annotations

import numpy as np
import pytest

from rung.data.related.letter_stream import LetterStream


def hash_of(text: str, before: str = "") -> int:
    """The hash of a whole text, with other letters before it."""
    stream = LetterStream([(before, text)])
    start = len(LetterStream([(before, "")]).is_word_end) - 1
    end = len(stream.is_word_end) - 1
    (value,) = stream.hash(np.array([start]), np.array([end]))
    return int(value)


@pytest.mark.parametrize("other", ["To the SEA!", "to - the\n\nsea", " 'to' the sea? "])
def test_case_white_space_and_punctuation_do_not_change_a_hash(other: str) -> None:
    assert hash_of(other) == hash_of("to the sea")


@pytest.mark.parametrize("other", ["tothe sea", "to these a", "to the sees", "sea the to"])
def test_words_and_their_order_do(other: str) -> None:
    assert hash_of(other) != hash_of("to the sea")


@pytest.mark.parametrize("before", ["a", "Long before that.\n", "바다 "])
def test_a_hash_is_the_same_wherever_the_text_stands(before: str) -> None:
    assert hash_of("To the sea", before) == hash_of("To the sea")


def test_the_first_letter_counts_the_same_inside_a_word() -> None:
    inside, alone = LetterStream([("grass", "")]), LetterStream([("rass", "")])
    (one,) = inside.hash(np.array([1]), np.array([5]))
    (other,) = alone.hash(np.array([0]), np.array([4]))
    assert one == other


def test_places_count_letters_without_what_is_between_them() -> None:
    stream = LetterStream([("Hi, you!", "Yes. "), ("", "No")])
    assert stream.starts.tolist() == [0, 8]
    assert stream.middles.tolist() == [5, 10], "a row without a prompt is searched itself"
    assert stream.ends.tolist() == [8, 10]
    assert stream.has_no_prompt.tolist() == [False, True]
    assert np.flatnonzero(stream.is_word_end).tolist() == [0, 2, 5, 8, 10]


def test_the_last_line_of_a_prompt_has_a_place() -> None:
    stream = LetterStream([("One\ntwo\n", "a"), ("one", "b")])
    assert stream.last_lines().tolist() == [3, 7]
