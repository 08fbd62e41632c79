"""Folders that cannot be written to are reported, and nothing is left behind."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rung import atomic
from rung.atomic import (
    check_writable,
    make_folder,
    temporary_folder,
    write_bytes,
    write_folder,
    write_text,
)
from rung.errors import FolderError


def write_empty_folder(path: Path) -> None:
    with write_folder(path):
        pass


WRITERS: dict[str, Callable[[Path], Any]] = {
    "make_folder": make_folder,
    "check_writable": check_writable,
    "write_bytes": lambda path: write_bytes(path / "a", b"a"),
    "write_folder": lambda path: write_empty_folder(path / "a"),
    "temporary_folder": lambda path: temporary_folder(path / "a"),
}
every_writer = pytest.mark.parametrize("write", WRITERS.values(), ids=list(WRITERS))


@every_writer
def test_a_file_in_the_place_of_a_folder_is_reported_and_left_as_it_is(
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


@every_writer
def test_a_name_that_is_too_long_is_reported(tmp_path: Path, write: Callable[[Path], Any]) -> None:
    with pytest.raises(FolderError, match="File name too long"):
        write(tmp_path / ("x" * 300))
    assert os.listdir(tmp_path) == []


@every_writer
def test_a_read_only_file_system_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], Any]
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("mkdir", "open"):
        monkeypatch.setattr(Path, name, refuse)
    monkeypatch.setattr(atomic.tempfile, "mkdtemp", refuse)
    monkeypatch.setattr(atomic.tempfile, "TemporaryFile", refuse)
    with pytest.raises(
        FolderError, match=r"\(Read-only file system\); give another: with --studies for studies"
    ):
        write(tmp_path)


def test_checking_a_folder_makes_none(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert os.listdir(tmp_path) == []


def test_a_file_replaces_the_one_before_it_and_its_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_text(path, "first")
    write_text(path, "ä")
    assert path.read_bytes() == "ä".encode()
    assert os.listdir(path.parent) == ["b.txt"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_bytes(path, b"old")

    def fail(handle: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(atomic.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def interrupt_writing(path: Path) -> None:
    with write_folder(path) as temporary:
        (temporary / "second").write_text("2")
        raise KeyboardInterrupt


def test_a_folder_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with write_folder(path) as temporary:
        (temporary / "first").write_text("1")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt):
        interrupt_writing(path)
    assert os.listdir(tmp_path) == ["a"]
    assert os.listdir(path) == ["first"], "an interrupted write changes nothing"
    with write_folder(path) as temporary:
        (temporary / "third").write_text("3")
    assert os.listdir(path) == ["third"]


def test_what_a_killed_process_left_of_a_folder_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".a.99999").mkdir()
    (tmp_path / ".a.99999" / "half").write_text("")
    write_empty_folder(tmp_path / "a")
    assert os.listdir(tmp_path) == ["a"]
