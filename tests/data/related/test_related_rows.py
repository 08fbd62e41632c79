from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.data.jsonl import prepare_data, write_rows

from rung.data.audit import audit
from rung.data.prepare import Data


def journey(i: int) -> list[str]:
    """The turns of a conversation about a traveller."""
    return [
        f"Where did {i} go?",
        f"To port {i * 7 % 90}.",
        "And then?",
        f"To hill {i * 3 % 70}.",
        "And last?",
        "Home.",
    ]


def as_turns(texts: list[str]) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def as_messages(texts: list[str]) -> Any:
    return {"messages": as_turns(texts)}


def as_chat_pair(texts: list[str]) -> Any:
    return {"prompt": as_turns(texts)[:-1], "completion": as_turns(texts)[-1:]}


def as_text(texts: list[str]) -> Any:
    named = [f"{('User', 'Bot')[n % 2]}: {text}" for n, text in enumerate(texts)]
    return {"prompt": " ".join(named[:-1]) + " Bot:", "completion": " " + texts[-1]}


def read(path: Path, rows: list[Any], **options: Any) -> Data:
    return prepare_data(write_rows(path, rows), template="plain", **options)


def travellers(data: Data, split: str) -> set[str]:
    return {text.prompt.partition(" go?")[0] for text in data.splits[split].every_text()}


@pytest.mark.parametrize("row_format", [as_messages, as_chat_pair, as_text])
@pytest.mark.parametrize("is_reversed", [False, True])
def test_the_rows_of_a_growing_conversation_are_in_one_split_and_have_one_source(
    tmp_path: Path, row_format: Callable[[list[str]], Any], is_reversed: bool
) -> None:
    rows = [row_format(journey(i)[:turns]) for i in range(200) for turns in (2, 4, 6)]
    data = read(tmp_path / "a.jsonl", rows[::-1] if is_reversed else rows)
    of_splits = [travellers(data, split) for split in data.splits]
    assert sum(map(len, of_splits)) == len(set.union(*of_splits)) == 200
    assert all(10 < len(held_out) < 40 for held_out in of_splits[1:]), "no split is much smaller"
    assert sum(map(len, data.splits.values())) == 600
    assert data.stats.row_counts == {split: len(rows) for split, rows in data.splits.items()}
    assert (data.stats.grouped_rows, data.stats.ungrouped_rows) == (600, 0)
    for examples in data.splits.values():
        sources = [example.source for example in examples]
        assert len(set(sources)) == len(sources) / 3


def test_windows_of_a_conversation_are_in_one_split(tmp_path: Path) -> None:
    rows = [
        as_messages(journey(i)[max(0, turns - 4) : turns])
        for i in range(200)
        for turns in (2, 4, 6)
    ]
    stats = read(tmp_path / "a.jsonl", rows).stats
    assert (stats.grouped_rows, stats.ungrouped_rows) == (600, 0)


def test_unrelated_rows_stay_in_their_split(tmp_path: Path) -> None:
    rows = [as_text(journey(i)[:2]) for i in range(300)]
    before = read(tmp_path / "a.jsonl", rows)
    grown = [as_text(journey(i)[:4]) for i in range(5)]
    after = read(tmp_path / "b.jsonl", [*rows, *grown])
    assert (before.stats.grouped_rows, after.stats.grouped_rows) == (0, 10)
    moved = travellers(before, "test") ^ travellers(after, "test")
    assert moved <= {f"User: Where did {i}" for i in range(5)}


def test_a_split_that_the_user_gave_is_not_changed(tmp_path: Path) -> None:
    rows = [as_messages(journey(i)[:turns]) for i in range(200) for turns in (2, 4)]
    test = write_rows(tmp_path / "t.jsonl", [as_messages(journey(i)) for i in range(30)])
    data = read(tmp_path / "a.jsonl", rows, test=test)
    assert (len(data.test), data.stats.row_counts["test"]) == (30, 30)
    assert not travellers(data, "train") & travellers(data, "validation")


def test_related_rows_that_are_too_many_for_one_split_are_not_moved(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"What stands on page {i} of it?", "completion": f" A tale of {i} men."}
        for i in range(301)
    ]
    texts = ["".join(row.values()) + "\n" for row in rows]
    chained = [
        {"prompt": f"{texts[i]}{texts[i + 1]}And page {i + 900}?", "completion": " None."}
        for i in range(300)
    ]
    data = read(tmp_path / "a.jsonl", [*rows, *chained])
    assert (data.stats.grouped_rows, data.stats.ungrouped_rows) == (0, 601)
    assert len(data.validation) > 30
    assert "same_prompt" in {finding.kind for finding in audit(data)}, "the user is warned"
