from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from rung.data.read.files import read_file
from rung.errors import DataError

ROW = {"a": "ü 달 🌙"}


def records(path: Path, content: bytes) -> list[Any]:
    path.write_bytes(content)
    return [str(found) if isinstance(found, DataError) else found[0] for found in read_file(path)]


@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"],
)
def test_encodings_of_unicode_are_read_with_a_mark_and_without(
    tmp_path: Path, encoding: str
) -> None:
    lines = "".join(json.dumps(ROW, ensure_ascii=False) + "\n" for _ in range(3))
    assert records(tmp_path / "a.jsonl", lines.encode(encoding)) == [ROW] * 3
    assert records(tmp_path / "b.jsonl", gzip.compress(lines.encode(encoding))) == [ROW] * 3, (
        "whatever it is called"
    )
    assert records(tmp_path / "a.csv", "a,b\nü,1\n".encode(encoding)) == [{"a": "ü", "b": "1"}]


def test_a_mark_between_files_that_were_put_one_behind_another(tmp_path: Path) -> None:
    line = (json.dumps(ROW) + "\n").encode("utf-8-sig")
    assert records(tmp_path / "a.jsonl", line * 3) == [ROW] * 3
    assert records(tmp_path / "a.json", json.dumps([ROW, ROW]).encode("utf-8-sig") * 2) == [ROW] * 4


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            "x\n“curly”, it’s\n".encode("cp1252"),
            "no UTF-8 (byte 0x93 in line 2); save it in UTF-8, say with iconv -f cp1252",
        ),
        (
            "x\ncafé\n".encode("latin-1"),
            "byte 0xe9 in line 2); save it in UTF-8, say with iconv -f cp1252 -t utf-8.",
        ),
        (
            "x\n달이 뜬다\n".encode("cp949"),
            "iconv -f ITS-ENCODING (such as cp1251, gb18030, shift_jis or cp949)",
        ),
        ("x\nпривет, мир\n".encode("cp1251"), "iconv -f ITS-ENCODING"),
        ("ü\n".encode() + "ü\n".encode("cp1252"), "byte 0xfc in line 2), and lines before it are"),
        ("x\nü".encode()[:-1], "ends in the middle of a letter in line 2; fetch it anew"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
            "a pointer of Git LFS and not the file",
        ),
        (b"PK\x03\x04xxxx", "a ZIP archive or a workbook"),
        (b"<!DOCTYPE html>\n<html>", "a web page"),
        (b"PAR1xxxx", "a Parquet file; let its name end in .parquet"),
    ],
)
def test_what_is_no_text_in_unicode_is_refused_with_the_remedy(
    tmp_path: Path, content: bytes, says: str
) -> None:
    for name in ("a.csv", "a.jsonl"):
        with pytest.raises(DataError) as error:
            records(tmp_path / name, content.replace(b"x\n", b'{"a": 1}\n'))
        assert says in str(error.value)
        assert "\n" not in str(error.value)


def test_a_pointer_in_the_place_of_a_parquet_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.parquet is a pointer of Git LFS"):
        records(
            tmp_path / "a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"
        )
