"""JSONL files for tests, and the data that Rung makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.tiny import tiny_tokenizer

from rung.data.prepare import Data, prepare
from rung.recipe import Recipe


def write_rows(path: Path, rows: list[Any]) -> str:
    """Write one row a line, and give the path as the recipe takes it."""
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def numbered_rows(count: int, word: str = "p") -> list[Any]:
    """Rows whose prompts and completions have numbers and are all different."""
    return [{"prompt": f"{word}{i}", "completion": f"c{i}"} for i in range(count)]


def prepare_data(data: str, **options: Any) -> Data:
    """The data of a recipe, with a tokenizer that has a token for each letter."""
    return prepare(Recipe(data=data, **options), tiny_tokenizer())
