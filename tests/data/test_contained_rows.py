from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rung.data.contained_rows
from rung.data.arrow_store import Examples, ExampleWriter
from rung.data.contained_rows import ANYWHERE, FIRST, FIRST_LINES, find_contained_rows
from rung.data.example import Example
from rung.data.rows import Row

Pairs = list[tuple[str, str]]


def stored(path: Path, rows: Pairs) -> Examples:
    with ExampleWriter(path) as writer:
        for prompt, answer in rows:
            writer.add(Example((1, 2), 1), Row(prompt, answer), ("", answer), "")
    return Examples(path)


def all_found(folder: Path, *parts: Pairs) -> set[tuple[int, int, bool]]:
    stores = [stored(folder / f"{number}.arrow", rows) for number, rows in enumerate(parts)]
    pairs = find_contained_rows(stores)
    return set(zip(pairs.rows.tolist(), pairs.inside.tolist(), pairs.partly.tolist(), strict=True))


def found(folder: Path, *parts: Pairs) -> set[tuple[int, int]]:
    return {(row, inside) for row, inside, partly in all_found(folder, *parts) if not partly}


def letters(text: str) -> str:
    """The plain twin's view of a text: letters and digits, with a bar where words and lines end."""
    return "".join(
        char.lower() if char.isalnum() else "\n" if char == "\n" else " " for char in text
    )


def plainly(rows: Pairs) -> set[tuple[int, int, bool]]:
    """The same pairs, by trying every stretch of every prompt; for texts in ASCII."""
    first: dict[tuple[str, ...], tuple[int, bool]] = {}
    for partly, least in ((False, FIRST_LINES), (True, FIRST)):
        for number, (prompt, answer) in enumerate(rows):
            shown = letters(prompt).strip()
            asked = shown.rpartition("\n")[2] if partly else shown
            bare = tuple(letters(f"{asked} {answer}").split())
            whole = letters(answer).split() and (asked.split() or not shown.split())
            if whole and len("".join(bare)) >= least and (not partly or "\n" in shown):
                first.setdefault(bare, (number, partly))
    pairs = set()
    for number, (prompt, answer) in enumerate(rows):
        text = not letters(prompt).split()
        marked = letters(answer if text else prompt)
        for needle, inside in first.items():
            if tuple(letters(f"{prompt} {answer}").split()) == needle:
                continue
            size = len("".join(needle))
            for begin in range(len(marked)):
                for end in range(begin + 1, len(marked) + 1):
                    if tuple(marked[begin:end].split()) != needle or " " in (
                        marked[begin],
                        marked[end - 1],
                    ):
                        continue
                    if "\n" in (marked[begin], marked[end - 1]) or (
                        end < len(marked) and marked[end].isalnum()
                    ):
                        continue
                    gap = marked[end:]
                    line = not gap.strip() or "\n" in gap[: len(gap) - len(gap.lstrip())]
                    if not marked[:begin].split():
                        fits = size >= (FIRST_LINES if line else FIRST)
                    else:
                        fits = size >= ANYWHERE and not marked[begin - 1].isalnum()
                    if fits:
                        pairs.add((number, *inside))
    return pairs


WORDS = st.lists(
    st.sampled_from(["ab", "c", "Hello", "77", "dialogue", "x.", "\n", "of all kinds\n"]),
    max_size=7,
)
TEXTS = WORDS.map(" ".join)


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=5), st.data())
def test_the_pairs_are_those_of_plain_comparison(
    tmp_path_factory: pytest.TempPathFactory, rows: Pairs, data: st.DataObject
) -> None:
    grown = data.draw(
        st.lists(st.tuples(TEXTS, st.sampled_from(rows or [("", "")]), TEXTS, TEXTS), max_size=3)
    )
    rows = [
        *rows,
        *((f"{lead}{row[0]} {row[1]}{more}", answer) for lead, row, more, answer in grown),
    ]
    folder = tmp_path_factory.mktemp("c")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rung.data.contained_rows, "_PIECE", data.draw(st.sampled_from([1, 50, 1000])))
        assert all_found(folder, rows[:2], rows[2:]) == plainly(rows)


def test_a_conversation_that_grows_in_several_ways(tmp_path: Path) -> None:
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
    assert found(tmp_path, rows) == {(1, 0), (2, 0)}
    text = [("User: Hi Bot:", " Hello there"), ("User: Hi Bot: Hello there User: Bye Bot:", " Bye")]
    assert found(tmp_path, text) == {(1, 0)}


def test_short_turns_count_where_lines_end(tmp_path: Path) -> None:
    assert found(tmp_path, [("Hi", "Yo"), ("Hi\nYo\nWho?", "Me"), ("Hi yo who", "me")]) == {(1, 0)}


def test_words_are_not_joined(tmp_path: Path) -> None:
    assert (
        found(
            tmp_path,
            [
                ("What is 3 + 4? ", "7"),
                ("What is 34 + 7? ", "41"),
                ("What is 3 + 4? 7. And? ", "x"),
            ],
        )
        == set()
    )
    assert found(
        tmp_path, [("q 1 is it", "1"), ("q 11 is it", "0"), ("q 1 is it\n1\nq 3", "0")]
    ) == {(2, 0)}
    assert found(tmp_path, [("This is to", "day"), ("This is today\nor", "so")]) == set()


def test_letters_of_scripts_without_spaces(tmp_path: Path) -> None:
    assert found(
        tmp_path, [("你从哪里来", "我从海边来"), ("你从哪里来我从海边来你呢", "山上")]
    ) == {(1, 0)}


def test_what_all_prompts_show_is_a_frame(tmp_path: Path) -> None:
    shown = ("Question: what is two and two? Answer:", " it is four")
    rows = [
        (f"{shown[0]}{shown[1]}\nQuestion: what is {i} and {i}? Answer:", f" it is {2 * i}")
        for i in range(150)
    ]
    assert found(tmp_path, [shown, *rows]) == set()
    assert len(found(tmp_path, [shown, *rows[:90]])) == 90


def test_rows_that_have_the_last_turns_alone(tmp_path: Path) -> None:
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
    assert all_found(tmp_path, rows) == {(1, 0, True), (2, 0, True)}


def test_a_commonplace_ties_no_rows(tmp_path: Path) -> None:
    rows = [
        (f"Story {i}\nThank you very much for this!", "You are welcome, any time!")
        for i in range(20)
    ]
    more = [(f"{prompt}\n{answer}\nAnd {i}?", "No.") for i, (prompt, answer) in enumerate(rows)]
    assert {partly for _, _, partly in all_found(tmp_path, rows, more)} == {False}
    assert found(tmp_path, rows, more) == {(20 + i, i) for i in range(20)}


def test_texts_without_prompts_that_grow(tmp_path: Path) -> None:
    rows = [
        ("", "One day it rained."),
        ("", "One day it rained.\nThen it froze."),
        ("", "One day"),
        ("", "One day it rained!"),
    ]
    assert found(tmp_path, rows) == {(1, 0)}
