from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import tiny_tokenizer

from rung.data.audit import audit
from rung.data.prepare import Data, prepare
from rung.recipe import Recipe


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def turns(i: int) -> list[str]:
    return [
        f"Where did {i} go?",
        f"To port {i * 7 % 90}.",
        "And then?",
        f"To hill {i * 3 % 70}.",
        "And last?",
        "Home.",
    ]


def chat(texts: list[str]) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def as_messages(texts: list[str]) -> Any:
    return {"messages": chat(texts)}


def as_chat_pair(texts: list[str]) -> Any:
    return {"prompt": chat(texts)[:-1], "completion": chat(texts)[-1:]}


def as_text(texts: list[str]) -> Any:
    named = [f"{('User', 'Bot')[n % 2]}: {text}" for n, text in enumerate(texts)]
    return {"prompt": " ".join(named[:-1]) + " Bot:", "completion": " " + texts[-1]}


def traveller(data: Data, name: str) -> set[str]:
    return {text.prompt.partition(" go?")[0] for text in data.splits[name].every_text()}


@pytest.mark.parametrize("shape", [as_messages, as_chat_pair, as_text])
@pytest.mark.parametrize("back", [False, True])
def test_a_conversation_given_as_growing_rows_is_on_one_side(
    tmp_path: Path, shape: Any, back: bool
) -> None:
    rows = [shape(turns(i)[:end]) for i in range(200) for end in (2, 4, 6)]
    path = write(tmp_path / "a.jsonl", rows[::-1] if back else rows)
    data = prepare(Recipe(data=path, template="plain"), tiny_tokenizer())
    sides = [traveller(data, name) for name in data.splits]
    assert [
        len(a & b) for a, b in ((sides[0], sides[1]), (sides[0], sides[2]), (sides[1], sides[2]))
    ] == [0, 0, 0]
    assert sum(map(len, sides)) == 200
    assert sum(map(len, data.splits.values())) == 600
    assert data.stats.row_counts == {name: len(rows) for name, rows in data.splits.items()}
    assert (data.stats.grouped_rows, data.stats.ungrouped_rows) == (600, 0)
    assert all(10 < len(side) < 40 for side in sides[1:]), (
        "the splits are as large as they would be"
    )
    for examples in data.splits.values():
        sources = [example.source for example in examples]
        assert len(set(sources)) == len(sources) / 3, "and count as one"


def test_windows_of_a_conversation_are_on_one_side(tmp_path: Path) -> None:
    rows = [as_messages(turns(i)[max(0, end - 4) : end]) for i in range(200) for end in (2, 4, 6)]
    data = prepare(
        Recipe(data=write(tmp_path / "a.jsonl", rows), template="plain"), tiny_tokenizer()
    )
    assert (data.stats.grouped_rows, data.stats.ungrouped_rows) == (600, 0)


def test_rows_that_have_nothing_to_do_with_one_another_stay_where_they_are(tmp_path: Path) -> None:
    single = [as_text(turns(i)[:2]) for i in range(300)]
    before = prepare(Recipe(data=write(tmp_path / "a.jsonl", single)), tiny_tokenizer())
    grown = [as_text(turns(i)[:4]) for i in range(5)]
    after = prepare(Recipe(data=write(tmp_path / "b.jsonl", [*single, *grown])), tiny_tokenizer())
    assert (before.stats.grouped_rows, after.stats.grouped_rows) == (0, 10)
    moved = traveller(before, "test") ^ traveller(after, "test")
    assert moved <= {f"User: Where did {i}" for i in range(5)}


def test_a_split_that_the_user_gave_is_left_as_it_is(tmp_path: Path) -> None:
    rows = [as_messages(turns(i)[:end]) for i in range(200) for end in (2, 4)]
    test = write(tmp_path / "t.jsonl", [as_messages(turns(i)) for i in range(30)])
    data = prepare(
        Recipe(data=write(tmp_path / "a.jsonl", rows), test=test, template="plain"),
        tiny_tokenizer(),
    )
    assert (len(data.test), data.stats.row_counts["test"]) == (30, 30)
    assert not traveller(data, "train") & traveller(data, "validation")


def test_rows_that_all_hang_together_cannot_be_kept_in_one_split(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"What stands on page {i} of it?", "completion": f" A tale of {i} men."}
        for i in range(301)
    ]
    shown = ["".join(row.values()) + "\n" for row in rows]
    more = [
        {"prompt": f"{shown[i]}{shown[i + 1]}And page {i + 900}?", "completion": " None."}
        for i in range(300)
    ]
    data = prepare(Recipe(data=write(tmp_path / "a.jsonl", [*rows, *more])), tiny_tokenizer())
    assert (data.stats.grouped_rows, data.stats.ungrouped_rows) == (0, 601)
    assert len(data.validation) > 30
    assert "same_prompt" in {finding.kind for finding in audit(data)}, "so it is told"
