from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.data.arrow_store import Examples, ExampleWriter
from rung.data.example import Example
from rung.data.related.contained_rows import (
    MIN_LETTERS,
    MIN_LETTERS_AT_START,
    MIN_LETTERS_OF_FIRST_LINES,
    PIECE_LETTERS,
    find_contained_rows,
)
from rung.data.rows import Row

Pairs = list[tuple[str, str]]
"""Prompts and answers."""


def store(path: Path, rows: Pairs) -> Examples:
    with ExampleWriter(path) as writer:
        for prompt, answer in rows:
            writer.add(Example((1, 2), 1), Row(prompt, answer), ("", answer), "")
    return Examples(path)


def find_all(
    folder: Path, *splits: Pairs, piece_letters: int = PIECE_LETTERS
) -> set[tuple[int, int, bool]]:
    """Each pair as (row, the row inside it, whether that is partial)."""
    stores = [store(folder / f"{number}.arrow", rows) for number, rows in enumerate(splits)]
    pairs = find_contained_rows(stores, piece_letters)
    columns = (pairs.rows, pairs.inside, pairs.is_partial)
    return set(zip(*(column.tolist() for column in columns), strict=True))


def find_whole(folder: Path, *splits: Pairs) -> set[tuple[int, int]]:
    """The pairs that are not partial."""
    return {
        (row, inside) for row, inside, is_partial in find_all(folder, *splits) if not is_partial
    }


def words_and_lines(text: str) -> str:
    """A text of ASCII in small letters, with spaces and line ends in the place of other marks."""
    return "".join(
        char.lower() if char.isalnum() else "\n" if char == "\n" else " " for char in text
    )


def reference(rows: Pairs) -> set[tuple[int, int, bool]]:
    """The plain twin: every stretch of every prompt is compared with every needle."""
    first_row_of = reference_needles(rows)
    pairs = set()
    for number, (prompt, answer) in enumerate(rows):
        has_prompt = bool(words_and_lines(prompt).split())
        searched = words_and_lines(prompt if has_prompt else answer)
        for needle, inside in first_row_of.items():
            if tuple(words_and_lines(f"{prompt} {answer}").split()) != needle and any(
                counts_at(searched, begin, end, needle)
                for begin in range(len(searched))
                for end in range(begin + 1, len(searched) + 1)
            ):
                pairs.add((number, *inside))
    return pairs


def reference_needles(rows: Pairs) -> dict[tuple[str, ...], tuple[int, bool]]:
    """Each needle's words, with the first row that has it and whether it is partial."""
    needles: dict[tuple[str, ...], tuple[int, bool]] = {}
    for is_partial, least in ((False, MIN_LETTERS_OF_FIRST_LINES), (True, MIN_LETTERS_AT_START)):
        for number, (prompt, answer) in enumerate(rows):
            shown = words_and_lines(prompt).strip()
            asked = shown.rpartition("\n")[2] if is_partial else shown
            needle = tuple(words_and_lines(f"{asked} {answer}").split())
            is_complete = words_and_lines(answer).split() and (asked.split() or not shown.split())
            has_lines = not is_partial or "\n" in shown
            if is_complete and has_lines and len("".join(needle)) >= least:
                needles.setdefault(needle, (number, is_partial))
    return needles


def counts_at(text: str, begin: int, end: int, needle: tuple[str, ...]) -> bool:
    """Whether this stretch of a text is the needle, from word to word, and long enough there."""
    edges = (text[begin], text[end - 1])
    if tuple(text[begin:end].split()) != needle or " " in edges or "\n" in edges:
        return False
    behind = text[end:]
    if behind[:1].isalnum():
        return False
    size = len("".join(needle))
    if text[:begin].split():
        return size >= MIN_LETTERS and not text[begin - 1].isalnum()
    gap = behind[: len(behind) - len(behind.lstrip())]
    line_ends = not behind.strip() or "\n" in gap
    return size >= (MIN_LETTERS_OF_FIRST_LINES if line_ends else MIN_LETTERS_AT_START)


WORDS = st.lists(
    st.sampled_from(["ab", "c", "Hello", "77", "dialogue", "x.", "\n", "of all kinds\n"]),
    max_size=7,
)
TEXTS = WORDS.map(" ".join)


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=5), st.data())
def test_the_pairs_are_those_of_the_plain_twin(
    tmp_path_factory: pytest.TempPathFactory, rows: Pairs, data: st.DataObject
) -> None:
    grown = data.draw(
        st.lists(st.tuples(TEXTS, st.sampled_from(rows or [("", "")]), TEXTS, TEXTS), max_size=3)
    )
    rows = [
        *rows,
        *((f"{lead}{row[0]} {row[1]}{more}", answer) for lead, row, more, answer in grown),
    ]
    folder = tmp_path_factory.mktemp("rows")
    piece_letters = data.draw(st.sampled_from([1, 50, 1000]))
    assert find_all(folder, rows[:2], rows[2:], piece_letters=piece_letters) == reference(rows)


def test_a_conversation_may_grow_in_several_ways(tmp_path: Path) -> None:
    first = ("Where did you go?", "To the sea of grass.")
    rows = [
        first,
        ("where did you go?\n\nTo the sea of grass!\nAnd then?", "Home."),
        ("Be brief.\nWhere did you go?\nTo the sea of grass.\nWhy?", "To swim."),
        ("User: Where did you go? Bot: To the sea of grass. User: Why?", "To swim."),
        ("Where did you go? Inland, or to the sea of grass?", "Yes."),
        ("Where did you go?", "To the sea of grasses."),
        ("Somewhere did you go? To the sea of grass.", "Yes."),
    ]
    assert find_whole(tmp_path, rows) == {(1, 0), (2, 0)}
    text = [("User: Hi Bot:", " Hello there"), ("User: Hi Bot: Hello there User: Bye Bot:", " Bye")]
    assert find_whole(tmp_path, text) == {(1, 0)}


def test_a_short_row_counts_if_it_is_the_first_lines_of_a_prompt(tmp_path: Path) -> None:
    assert find_whole(tmp_path, [("Hi", "Yo"), ("Hi\nYo\nWho?", "Me"), ("Hi yo who", "me")]) == {
        (1, 0)
    }


def test_words_are_compared_whole(tmp_path: Path) -> None:
    assert (
        find_whole(
            tmp_path,
            [
                ("What is 3 + 4? ", "7"),
                ("What is 34 + 7? ", "41"),
                ("What is 3 + 4? 7. And? ", "x"),
            ],
        )
        == set()
    )
    assert find_whole(
        tmp_path, [("q 1 is it", "1"), ("q 11 is it", "0"), ("q 1 is it\n1\nq 3", "0")]
    ) == {(2, 0)}
    assert find_whole(tmp_path, [("This is to", "day"), ("This is today\nor", "so")]) == set()


def test_a_script_without_spaces_has_word_ends_between_all_letters(tmp_path: Path) -> None:
    assert find_whole(
        tmp_path, [("你从哪里来", "我从海边来"), ("你从哪里来我从海边来你呢", "山上")]
    ) == {(1, 0)}


def test_a_row_that_more_than_a_hundred_prompts_show_is_a_frame(tmp_path: Path) -> None:
    shown = ("Question: what is two and two? Answer:", " it is four")
    rows = [
        (f"{shown[0]}{shown[1]}\nQuestion: what is {i} and {i}? Answer:", f" it is {2 * i}")
        for i in range(150)
    ]
    assert find_whole(tmp_path, [shown, *rows]) == set()
    assert len(find_whole(tmp_path, [shown, *rows[:90]])) == 90


def test_a_row_with_only_the_last_turns_gives_partial_pairs(tmp_path: Path) -> None:
    turns = [
        "Where did you go?",
        "To the sea of grass.",
        "Did you like it there?",
        "I did like it well.",
        "And now?",
        "Home.",
    ]
    rows = [
        ("\n".join(turns[:3]), turns[3]),
        ("\n".join(turns[2:5]), turns[5]),
        (f"Be brief.\n{turns[2]}\n{turns[3]}\nWhy?", "So."),
    ]
    assert find_all(tmp_path, rows) == {(1, 0, True), (2, 0, True)}


def test_a_last_line_that_more_than_ten_prompts_show_gives_no_pairs(tmp_path: Path) -> None:
    rows = [
        (f"Story {i}\nThank you very much for this!", "You are welcome, any time!")
        for i in range(20)
    ]
    more = [(f"{prompt}\n{answer}\nAnd {i}?", "No.") for i, (prompt, answer) in enumerate(rows)]
    assert {is_partial for _, _, is_partial in find_all(tmp_path, rows, more)} == {False}
    assert find_whole(tmp_path, rows, more) == {(20 + i, i) for i in range(20)}


def test_a_text_without_a_prompt_may_contain_another_text(tmp_path: Path) -> None:
    rows = [
        ("", "One day it rained."),
        ("", "One day it rained.\nThen it froze."),
        ("", "One day"),
        ("", "One day it rained!"),
    ]
    assert find_whole(tmp_path, rows) == {(1, 0)}
