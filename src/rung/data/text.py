"""A text file, whatever it is encoded and compressed in; and what it is, where it is no text.

Texts are UTF-8, or UTF-16 and UTF-32, which are known by their byte order mark or by their zeros. In anything else a
file is refused with the line that shows it, as nobody can tell one old encoding from another for certain.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from rung.errors import DataError

Record = tuple[Any, str]
"""What was read, and where: `train.jsonl, line 12`."""
Records = Iterator[Record | DataError]
Tell = Callable[[str], None]
"""Hears what was taken otherwise than somebody might think, as a sentence without its full stop."""

_GZIP = b"\x1f\x8b"
_MARKS = (
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_OTHERS = (
    (
        b"version https://git-lfs",
        "a pointer of Git LFS and not the file; fetch it, say with git lfs pull",
    ),
    (b"PK\x03\x04", "a ZIP archive or a workbook; unpack it, or save the sheet as CSV"),
    (b"\xd0\xcf\x11\xe0", "a workbook of Excel; save the sheet as CSV"),
    (b"PAR1", "a Parquet file; let its name end in .parquet"),
    (b"ARROW1", "an Arrow file; let its name end in .arrow"),
    (b"SQLite format 3", "a database; write the table as CSV"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it"),
    (b"BZh", "compressed with bzip2; unpack it"),
    (b"\xfd7zXZ", "compressed with xz; unpack it"),
    (b"<!doctype html", "a web page; fetch the file itself"),
    (b"<html", "a web page; fetch the file itself"),
)
_START = 64


def open_text(path: Path, newline: str | None = None) -> IO[str]:
    """The text of a file, compressed by gzip or not. Lines end as the platforms have them, also in CR alone.

    Raises:
        DataError: it is a file of another kind.
    """
    opener = _opener(path)
    with opener(path, "rb") as file:
        start = file.read(_START)
    if what := foreign(start):
        raise DataError(f"{path} is {what}.")
    found: IO[str] = opener(path, "rt", encoding=_encoding(start), newline=newline)
    return found


def foreign(start: bytes) -> str:
    """What a file is that begins so, and what to do about it, where it is no text; else nothing."""
    return next((what for mark, what in _OTHERS if start.lower().startswith(mark.lower())), "")


def not_text(path: Path, error: UnicodeDecodeError) -> DataError:
    """What is to be said of a file that is in no encoding of Unicode: the first line that shows it, and the remedy."""
    if error.encoding.startswith(("utf-16", "utf-32")):
        return DataError(
            f"{path} is no {error.encoding.upper()} ({error.reason}); save it in UTF-8."
        )
    marked = False
    with _opener(path)(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                marked |= not line.decode().isascii()
            except UnicodeDecodeError as wrong:
                where = f"{path} is no UTF-8 (byte 0x{line[wrong.start]:02x} in line {number})"
                if wrong.reason == "unexpected end of data" and not file.read(1):
                    return DataError(
                        f"{path} ends in the middle of a letter in line {number}; fetch it anew."
                    )
                if marked:
                    return DataError(
                        f"{where}, and lines before it are; save all of them in UTF-8."
                    )
                return DataError(
                    f"{where}; save it in UTF-8, say with iconv -f {_guess(line)} -t utf-8."
                )
    return DataError(f"{path} is no UTF-8 ({error.reason}); save it in UTF-8.")


def _opener(path: Path) -> Callable[..., IO[Any]]:
    with path.open("rb") as file:
        return gzip.open if path.suffix == ".gz" or file.read(2) == _GZIP else open


def _encoding(start: bytes) -> str:
    for mark, name in _MARKS:
        if start.startswith(mark):
            return name
    # Without a mark, every other byte of mostly Latin letters is 0.
    for zeros, name in ((start[1::2], "utf-16-le"), (start[::2], "utf-16-be")):
        if zeros.count(0) > len(start) / 4:
            return name
    return "utf-8-sig"


def _guess(line: bytes) -> str:
    """The encoding to try. Western Windows has its letters with accents, and its quotes, one at a time."""
    many = sum(map(len, re.findall(rb"[\x80-\xff]{3,}", line)))
    try:
        line.decode("cp1252")
    except UnicodeDecodeError:
        many = len(line)
    high = sum(byte >= 0x80 for byte in line)
    return (
        "cp1252"
        if many <= high / 2
        else "ITS-ENCODING (such as cp1251, gb18030, shift_jis or cp949)"
    )
