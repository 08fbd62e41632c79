"""Files and folders that appear complete or not at all, even when the process is killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rung.errors import FolderError


def write_bytes(path: Path, data: bytes) -> None:
    """Write a temporary file beside `path`, flush it to the disk, and rename it to `path`.

    Missing parent folders are made.

    Raises:
        FolderError: The folder cannot be written to.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with _report_unwritable(path.parent):
        opened = temporary.open("wb")
    try:
        with opened as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8; see `write_bytes`."""
    write_bytes(path, text.encode())


@contextlib.contextmanager
def write_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill, and rename it to `path` at the end of the block.

    A folder that is already at `path` is replaced. What a killed process left behind of an earlier
    try is removed first.

    Raises:
        FolderError: The folder cannot be written to.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with _report_unwritable(path.parent):
        for leftover in path.parent.glob(f".{path.name}.*"):
            shutil.rmtree(leftover)
        temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
        _flush_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def temporary_folder(path: Path) -> Path:
    """Make an empty folder beside `path`, for the caller to fill and rename to `path`.

    Raises:
        FolderError: The folder cannot be written to.
    """
    make_folder(path.parent)
    with _report_unwritable(path.parent):
        return Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents.

    Raises:
        FolderError: The folder cannot be made.
    """
    with _report_unwritable(path):
        path.mkdir(parents=True, exist_ok=True)


def check_writable(path: Path) -> None:
    """Check that a folder could be made at `path` and written to, and leave nothing behind.

    Raises:
        FolderError: It could not.
    """
    with _report_unwritable(path):
        existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass


@contextlib.contextmanager
def _report_unwritable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FolderError(
            f"The folder '{path}' cannot be written to ({error.strerror}); give another: with "
            "--studies for studies, in $RUNG_CACHE for converted models and tokenised data."
        ) from error


def _flush_folder(path: Path) -> None:
    """Flush the names in a folder to the disk. Windows does not need it and cannot do it."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
