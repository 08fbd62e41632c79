"""Files that appear whole or not at all, whenever the process is killed; and folders that cannot be written to."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rung.errors import FolderError


def write_bytes(path: Path, data: bytes) -> None:
    """Write beside `path`, flush to the disk, rename onto it. Makes the folders above it.

    Raises:
        FolderError: nothing can be written there.
    """
    make_folder(path.parent)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with _writable(path.parent):
        opened = beside.open("wb")
    try:
        with opened as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """`write_bytes`, in UTF-8."""
    write_bytes(path, text.encode())


@contextlib.contextmanager
def folder_whole(path: Path) -> Iterator[Path]:
    """A folder to fill, which takes its place at `path` when all that is in it has been written.

    What a killed process left of an earlier try goes, and so does a folder that is already there.

    Raises:
        FolderError: nothing can be written there.
    """
    make_folder(path.parent)
    made = path.with_name(f".{path.name}.{os.getpid()}")
    with _writable(path.parent):
        for old in path.parent.glob(f".{path.name}.*"):
            shutil.rmtree(old)
        made.mkdir()
    try:
        yield made
        if path.exists():
            shutil.rmtree(path)
        made.rename(path)
        _flush_folder(path.parent)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def folder_beside(path: Path) -> Path:
    """An empty folder beside `path`, to be filled and renamed to it.

    Raises:
        FolderError: nothing can be written there.
    """
    make_folder(path.parent)
    with _writable(path.parent):
        return Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, where they are not there.

    Raises:
        FolderError: it cannot be made, or cannot be written to.
    """
    with _writable(path):
        path.mkdir(parents=True, exist_ok=True)


def check_writable(path: Path) -> None:
    """See whether a folder could be made and written to; nothing is left of that.

    Raises:
        FolderError: it could not.
    """
    with _writable(path):
        there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        with tempfile.TemporaryFile(dir=there):
            pass


@contextlib.contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FolderError(
            f"The folder '{path}' cannot be written to ({error.strerror}); give another, with --studies for studies, "
            "and in $RUNG_CACHE for what is kept between them."
        ) from error


def _flush_folder(path: Path) -> None:
    """See to it that the names in a folder are on the disk; Windows neither needs nor knows that."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
