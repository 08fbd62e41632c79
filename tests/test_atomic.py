from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rung import atomic
from rung.atomic import check_writable, folder_beside, folder_whole, make_folder, write_bytes
from rung.errors import FolderError


def whole(path: Path) -> None:
    with folder_whole(path):
        pass


WRITERS: dict[str, Callable[[Path], Any]] = {
    "make_folder": make_folder,
    "check_writable": check_writable,
    "write_bytes": lambda path: write_bytes(path / "a", b"a"),
    "folder_whole": lambda path: whole(path / "a"),
    "folder_beside": lambda path: folder_beside(path / "a"),
}
every = pytest.mark.parametrize("write", WRITERS.values(), ids=list(WRITERS))


@every
def test_a_file_in_the_place_of_a_folder_is_one_sentence_and_stays(
    tmp_path: Path, write: Callable[[Path], Any]
) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(
            FolderError, match=r"The folder '.*file.*' cannot be written to \(.+\); give another"
        ):
            write(path)
    assert (tmp_path / "file").read_text() == "mine"
    assert os.listdir(tmp_path) == ["file"]


@every
def test_a_name_that_is_too_long_is_one_sentence(
    tmp_path: Path, write: Callable[[Path], Any]
) -> None:
    with pytest.raises(FolderError, match="File name too long"):
        write(tmp_path / ("x" * 300))
    assert os.listdir(tmp_path) == []


@every
def test_a_folder_that_is_read_only_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], Any]
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("mkdir", "open"):
        monkeypatch.setattr(Path, name, refuse)
    monkeypatch.setattr(atomic.tempfile, "mkdtemp", refuse)
    monkeypatch.setattr(atomic.tempfile, "TemporaryFile", refuse)
    with pytest.raises(
        FolderError, match=r"\(Read-only file system\); give another, with --studies for studies"
    ):
        write(tmp_path)


def test_seeing_whether_a_folder_can_be_made_makes_none(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert os.listdir(tmp_path) == []
