"""Scores and generated texts as Parquet."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.study.records import TEXTS

from rung.study.tables import read_generations, read_scores, write_generations, write_scores
from rung.types import Scores


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 10**6)), min_size=1, max_size=50))
def test_scores_read_back_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, int]]
) -> None:
    scores = Scores(tuple(loss for loss, _ in rows), tuple(tokens for _, tokens in rows))
    path = tmp_path_factory.mktemp("scores") / "a.parquet"
    write_scores(path, scores)
    assert read_scores(path) == scores


def test_the_sources_of_rows_are_kept_where_rows_share_one(tmp_path: Path) -> None:
    scores = Scores((1.0, 2.0, 3.0), (1, 1, 1), (0, 0, 1))
    write_scores(tmp_path / "a.parquet", scores)
    assert read_scores(tmp_path / "a.parquet") == scores


def test_texts_read_back_as_they_were_generated(tmp_path: Path) -> None:
    write_generations(tmp_path / "a.parquet", TEXTS)
    assert read_generations(tmp_path / "a.parquet") == TEXTS
