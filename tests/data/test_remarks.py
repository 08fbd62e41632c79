from __future__ import annotations

from typing import get_args

from rung.data.remarks import RemarkCounter, RemarkCounts, RemarkKind, remark_messages


def test_rows_and_times_are_counted_with_the_first_place() -> None:
    counter = RemarkCounter()
    counter.add([("unused", "'id'"), ("not_learnt", "turns"), ("not_learnt", "turns")], "line 3")
    counter.add([("not_learnt", "turns")], "line 5")
    counter.add([], "line 6")
    assert counter.counts == [
        ("not_learnt", "turns", 2, 3, "line 3"),
        ("unused", "'id'", 1, 1, "line 3"),
    ]


def test_each_kind_has_one_message_with_the_commonest_subjects_first() -> None:
    counts: RemarkCounts = [
        ("unused", "'a'", 1, 1, "line 9"),
        ("unused", "'b'", 1200, 1200, "line 1"),
        ("not_learnt", "turns of the user", 2, 3, "line 4"),
    ]
    messages = dict(remark_messages(counts))
    assert set(messages) == {"not_learnt", "unused"}
    assert (
        "'b' (in 1,200 rows, the first line 1); 'a' (in 1 row, the first line 9)"
        in (messages["unused"])
    )
    assert "turns of the user (3 in 2 rows, the first line 4)" in messages["not_learnt"]


def test_a_message_names_eight_subjects_and_counts_the_rest() -> None:
    counts: RemarkCounts = [("unused", f"'f{i}'", 1, 1, "line 1") for i in range(10)]
    ((_, message),) = remark_messages(counts)
    assert message.count("the first line 1") == 8
    assert "; and 2 more." in message


def test_every_kind_has_a_message() -> None:
    counts: RemarkCounts = [(kind, "'x'", 1, 1, "line 1") for kind in get_args(RemarkKind)]
    messages = list(remark_messages(counts))
    assert [kind for kind, _ in messages] == list(get_args(RemarkKind))
    assert all("'x' (" in message and message.endswith(".") for _, message in messages)
