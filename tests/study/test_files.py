from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung import atomic
from rung.atomic import write_bytes
from rung.levers import Candidate, Scores
from rung.study.files import StudyFolder, read_scores, write_scores


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 10**6)), min_size=1, max_size=50))
def test_scores_read_back_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, int]]
) -> None:
    scores = Scores(tuple(loss for loss, _ in rows), tuple(tokens for _, tokens in rows))
    path = tmp_path_factory.mktemp("scores") / "a.parquet"
    write_scores(path, scores)
    assert read_scores(path) == scores


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_bytes(path, b"old")

    def broken(handle: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(atomic.os, "fsync", broken)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_each_candidate_and_each_fraction_has_a_place_of_its_own(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    candidate = Candidate(8, 16, "attention", 1e-3)
    paths = {
        folder.scores(),
        folder.scores(candidate),
        folder.scores(candidate, 1 / 3),
        folder.adapter(candidate),
        folder.checkpoint(candidate),
        folder.scores(Candidate(8, 16, "q_proj,v_*", 1e-3)),
    }
    assert len(paths) == 6
    assert all(path.is_relative_to(tmp_path) and "*" not in path.name for path in paths)
