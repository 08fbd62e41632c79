"""Reading the records of a file in a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rung.data.read.files import read_file
from rung.errors import DataError


def write(path: Path, content: str | bytes) -> Path:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def records(path: Path) -> list[Any]:
    """The values of a file without their locations; errors as their messages."""
    return [
        str(record) if isinstance(record, DataError) else record[0] for record in read_file(path)
    ]


def locations(path: Path) -> list[str]:
    """Where the values of a file are."""
    return [record[1] for record in read_file(path) if not isinstance(record, DataError)]
