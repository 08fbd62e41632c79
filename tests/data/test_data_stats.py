from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.data.jsonl import numbered_rows, prepare_data, write_rows

from rung.data.data_stats import DataStats


@pytest.fixture
def stats(tmp_path: Path) -> DataStats:
    rows = [*numbered_rows(400), {"prompt": "p"}, {"prompt": "q", "completion": "-3.5", "id": 4}]
    return prepare_data(write_rows(tmp_path / "a.jsonl", rows), skip_bad_rows=True).stats


def test_rows_of_every_split_and_length_are_counted(stats: DataStats) -> None:
    assert sum(stats.row_counts.values()) == sum(stats.lengths.values()) == 401
    assert stats.made_splits == ["validation", "test"]
    assert (stats.bad_rows, len(stats.bad_row_messages)) == (1, 1)
    assert [remark[:2] for remark in stats.remarks] == [("unused", "'id'")]


def test_json_keeps_everything(stats: DataStats) -> None:
    assert DataStats.from_json(stats.to_json()) == stats


def test_the_covering_length_is_the_least_that_the_share_of_rows_fits_in(stats: DataStats) -> None:
    stats = replace(stats, lengths={10: 50, 20: 49, 99: 1})
    lengths = [stats.covering_length(share) for share in (0.01, 0.5, 0.51, 0.99, 1.0)]
    assert lengths == [10, 10, 20, 20, 99]
