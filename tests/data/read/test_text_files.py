from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from tests.data.read.records import records, write

from rung.errors import DataError

ROW = {"a": "ü 달 🌙"}


@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"],
)
def test_every_unicode_encoding_is_read(tmp_path: Path, encoding: str) -> None:
    lines = "".join(json.dumps(ROW, ensure_ascii=False) + "\n" for _ in range(3)).encode(encoding)
    table = "a,b\nü,1\n".encode(encoding)
    assert records(write(tmp_path / "a.jsonl", lines)) == [ROW] * 3
    assert records(write(tmp_path / "a.csv", table)) == [{"a": "ü", "b": "1"}]


def test_a_gzip_file_is_read_whatever_its_name(tmp_path: Path) -> None:
    lines = gzip.compress((json.dumps(ROW) + "\n").encode() * 3)
    for name in ("a.jsonl.gz", "a.jsonl"):
        assert records(write(tmp_path / name, lines)) == [ROW] * 3


def test_byte_order_marks_between_joined_files_are_ignored(tmp_path: Path) -> None:
    line = (json.dumps(ROW) + "\n").encode("utf-8-sig")
    assert records(write(tmp_path / "a.jsonl", line * 3)) == [ROW] * 3
    rows = json.dumps([ROW, ROW]).encode("utf-8-sig")
    assert records(write(tmp_path / "a.json", rows * 2)) == [ROW] * 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "x\n“curly”, it’s\n".encode("cp1252"),
            "not valid UTF-8 (byte 0x93 in line 2); save it in UTF-8, for example with iconv "
            "-f cp1252 -t utf-8.",
        ),
        (
            "x\ncafé\n".encode("latin-1"),
            "byte 0xe9 in line 2); save it in UTF-8, for example with iconv -f cp1252 -t utf-8.",
        ),
        (
            "x\n달이 뜬다\n".encode("cp949"),
            "iconv -f ITS-ENCODING (such as cp1251, gb18030, shift_jis or cp949)",
        ),
        ("x\nпривет, мир\n".encode("cp1251"), "iconv -f ITS-ENCODING"),
        (
            "ü\n".encode() + "ü\n".encode("cp1252"),
            "byte 0xfc in line 2), but lines before it are; save the whole file in UTF-8",
        ),
        ("x\nü".encode()[:-1], "ends in the middle of a character in line 2; fetch the file again"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
            "a pointer of Git LFS and not the file itself",
        ),
        (b"PK\x03\x04xxxx", "a ZIP archive or an Excel workbook"),
        (b"<!DOCTYPE html>\n<html>", "a web page"),
        (b"PAR1xxxx", "a Parquet file; rename it so that its name ends in .parquet"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_file_that_is_not_unicode_text_is_refused_with_the_remedy(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(DataError) as error:
        records(write(tmp_path / name, content.replace(b"x\n", b'{"a": 1}\n')))
    assert str(error.value).startswith(f"{tmp_path / name} ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
