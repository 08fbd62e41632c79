"""Opening a text file in any Unicode encoding, compressed by gzip or not.

A text is UTF-8, UTF-16 or UTF-32. The last two are recognised by their byte order mark or by their
zero bytes. A file in another encoding is refused, with the line that shows it: nobody can tell one
old encoding from another with certainty. A file of another kind, such as a ZIP archive, is refused
with its kind and the remedy.
"""

from __future__ import annotations

import codecs
import gzip
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from rung.errors import DataError

Record = tuple[Any, str]
"""A value that was read, and its location: `train.jsonl, line 12`."""
Records = Iterator[Record | DataError]
"""Records in the order of the file. A record that cannot be read is replaced by its error."""
Notify = Callable[[str], None]
"""Takes a note about a file, for the user: a sentence without its full stop. A note says what was
read in a way that the user may not expect."""

_GZIP_MARK = b"\x1f\x8b"
_BYTE_ORDER_MARKS = (
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_OTHER_FILE_KINDS = (
    (
        b"version https://git-lfs",
        "a pointer of Git LFS and not the file itself; fetch the file, for example with git lfs "
        "pull",
    ),
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook; unpack it, or save the sheet as CSV"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook; save the sheet as CSV"),
    (b"PAR1", "a Parquet file; rename it so that its name ends in .parquet"),
    (b"ARROW1", "an Arrow file; rename it so that its name ends in .arrow"),
    (b"SQLite format 3", "an SQLite database; save the table as CSV"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it"),
    (b"BZh", "compressed with bzip2; unpack it"),
    (b"\xfd7zXZ", "compressed with xz; unpack it"),
    (b"<!doctype html", "a web page; download the data file itself"),
    (b"<html", "a web page; download the data file itself"),
)
_START_BYTES = 64


def open_text(path: Path, newline: str | None = None) -> IO[str]:
    """Open a text file for reading, decompressed if it is gzip. Lines may also end in CR alone.

    Raises:
        DataError: The file is of another kind.
    """
    opener = _opener(path)
    with opener(path, "rb") as file:
        start = file.read(_START_BYTES)
    if kind := other_file_kind(start):
        raise DataError(f"{path} is {kind}.")
    text_file: IO[str] = opener(path, "rt", encoding=_encoding(start), newline=newline)
    return text_file


def other_file_kind(start: bytes) -> str:
    """Recognise a file that is not a text file by its first bytes.

    Returns:
        Its kind and the remedy, in words; empty if the bytes may begin a text.
    """
    start = start.lower()
    return next((kind for mark, kind in _OTHER_FILE_KINDS if start.startswith(mark.lower())), "")


def decoding_error(path: Path, error: UnicodeDecodeError) -> DataError:
    """The error for a file in no Unicode encoding: the first line that shows it, and the remedy."""
    if error.encoding.startswith(("utf-16", "utf-32")):
        return DataError(
            f"{path} is not valid {error.encoding.upper()} ({error.reason}); save it in UTF-8."
        )
    utf8_lines = False
    with _opener(path)(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                utf8_lines |= not line.decode().isascii()
            except UnicodeDecodeError as wrong:
                if _is_cut_off(line) and not file.read(1):
                    return DataError(
                        f"{path} ends in the middle of a character in line {number}; fetch the "
                        "file again."
                    )
                problem = (
                    f"{path} is not valid UTF-8 (byte 0x{line[wrong.start]:02x} in line {number})"
                )
                if utf8_lines:
                    return DataError(
                        f"{problem}, but lines before it are; save the whole file in UTF-8."
                    )
                return DataError(
                    f"{problem}; save it in UTF-8, for example with iconv "
                    f"-f {_guess_encoding(line)} -t utf-8."
                )
    return DataError(f"{path} is not valid UTF-8 ({error.reason}); save it in UTF-8.")


def _is_cut_off(line: bytes) -> bool:
    """Whether a line that is not valid UTF-8 only lacks the last bytes of a character."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(line)
    except UnicodeDecodeError:
        return False
    return True


def _opener(path: Path) -> Callable[..., IO[Any]]:
    with path.open("rb") as file:
        return gzip.open if path.suffix == ".gz" or file.read(2) == _GZIP_MARK else open


def _encoding(start: bytes) -> str:
    for mark, name in _BYTE_ORDER_MARKS:
        if start.startswith(mark):
            return name
    # In UTF-16 without a mark, every other byte of mostly Latin letters is 0.
    for half, name in ((start[1::2], "utf-16-le"), (start[::2], "utf-16-be")):
        if half.count(0) > len(start) / 4:
            return name
    return "utf-8-sig"


def _guess_encoding(line: bytes) -> str:
    """The encoding that the user should try.

    In Western European Windows text, accented letters and curly quotes stand one at a time. In
    other old encodings, most letters are bytes from 0x80 on.
    """
    in_runs = sum(map(len, re.findall(rb"[\x80-\xff]{3,}", line)))
    try:
        line.decode("cp1252")
    except UnicodeDecodeError:
        in_runs = len(line)
    high_bytes = sum(byte >= 0x80 for byte in line)
    if in_runs <= high_bytes / 2:
        return "cp1252"
    return "ITS-ENCODING (such as cp1251, gb18030, shift_jis or cp949)"
