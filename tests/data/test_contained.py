from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rung.data.contained
from rung.data.contained import ANYWHERE, FIRST, FIRST_LINES, contained
from rung.data.render import Example
from rung.data.shapes import Row
from rung.data.store import Examples, Writer

Pairs = list[tuple[str, str]]


def stored(path: Path, rows: Pairs) -> Examples:
    with Writer(path) as writer:
        for prompt, answer in rows:
            writer.add(Example((1, 2), 1), Row(prompt, answer), ("", answer), "")
    return Examples(path)


def found(folder: Path, *parts: Pairs) -> set[tuple[int, int]]:
    stores = [stored(folder / f"{number}.arrow", rows) for number, rows in enumerate(parts)]
    pairs = contained(stores)
    return set(zip(pairs.rows.tolist(), pairs.inside.tolist(), strict=True))


def letters(text: str) -> str:
    """The plain twin's view of a text: letters and digits, with a bar where words and lines end."""
    return "".join(char.lower() if char.isalnum() else "\n" if char == "\n" else " " for char in text)


def plainly(rows: Pairs) -> set[tuple[int, int]]:
    """The same pairs, by trying every stretch of every prompt; for texts in ASCII."""
    first: dict[str, int] = {}
    for number, (prompt, answer) in enumerate(rows):
        bare = "".join(letters(prompt + answer).split())
        if letters(prompt).split() and letters(answer).split() and len(bare) >= FIRST_LINES:
            first.setdefault(bare, number)
    pairs = set()
    for number, (prompt, _) in enumerate(rows):
        marked = letters(prompt)
        for needle, inside in first.items():
            for begin in range(len(marked)):
                for end in range(begin + 1, len(marked) + 1):
                    if "".join(marked[begin:end].split()) != needle or " " in (marked[begin], marked[end - 1]):
                        continue
                    if "\n" in (marked[begin], marked[end - 1]) or (end < len(marked) and marked[end].isalnum()):
                        continue
                    gap = marked[end:]
                    line = not gap.strip() or "\n" in gap[: len(gap) - len(gap.lstrip())]
                    if not marked[:begin].split():
                        fits = len(needle) >= (FIRST_LINES if line else FIRST)
                    else:
                        fits = len(needle) >= ANYWHERE and not marked[begin - 1].isalnum()
                    if fits:
                        pairs.add((number, inside))
    return pairs


WORDS = st.lists(st.sampled_from(["ab", "c", "Hello", "77", "dialogue", "x.", "\n", "of all kinds\n"]), max_size=7)
TEXTS = WORDS.map(" ".join)


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=5), st.data())
def test_the_pairs_are_those_of_plain_comparison(
    tmp_path_factory: pytest.TempPathFactory, rows: Pairs, data: st.DataObject
) -> None:
    grown = data.draw(st.lists(st.tuples(TEXTS, st.sampled_from(rows or [("", "")]), TEXTS, TEXTS), max_size=3))
    rows = [*rows, *((f"{lead}{row[0]} {row[1]}{more}", answer) for lead, row, more, answer in grown)]
    folder = tmp_path_factory.mktemp("c")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rung.data.contained, "_PIECE", data.draw(st.sampled_from([1, 50, 1000])))
        assert found(folder, rows[:2], rows[2:]) == plainly(rows)


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


def test_letters_of_scripts_without_spaces(tmp_path: Path) -> None:
    assert found(tmp_path, [("你从哪里来", "我从海边来"), ("你从哪里来我从海边来你呢", "山上")]) == {(1, 0)}


def test_what_all_prompts_show_is_a_frame(tmp_path: Path) -> None:
    shown = ("Question: what is two and two? Answer:", " it is four")
    rows = [(f"{shown[0]}{shown[1]}\nQuestion: what is {i} and {i}? Answer:", f" it is {2 * i}") for i in range(150)]
    assert found(tmp_path, [shown, *rows]) == set()
    assert len(found(tmp_path, [shown, *rows[:90]])) == 90
