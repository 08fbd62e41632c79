"""Files that appear whole or not at all, whenever the process is killed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


def write_bytes(path: Path, data: bytes) -> None:
    """Write beside `path`, flush to the disk, rename onto it. Makes the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
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
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for old in path.parent.glob(f".{path.name}.*"):
        shutil.rmtree(old)
    made = path.with_name(f".{path.name}.{os.getpid()}")
    made.mkdir()
    try:
        yield made
        if path.exists():
            shutil.rmtree(path)
        made.rename(path)
        _flush_folder(path.parent)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _flush_folder(path: Path) -> None:
    """See to it that the names in a folder are on the disk; Windows neither needs nor knows that."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
