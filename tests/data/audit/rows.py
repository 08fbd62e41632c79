"""What the tests of the audit share: rows without findings, and the findings on some rows."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.tiny import tiny_tokenizer

from rung.data.audit import Finding, audit
from rung.data.prepare import Data, prepare
from rung.recipe import Recipe

WORDS = [f"w{i}" for i in range(400)]


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def random_rows(count: int, seed: int, words: int = 20) -> list[dict[str, str]]:
    """Prompts of many words and completions of two, which have nothing in common."""
    draw = random.Random(seed)
    return [
        {
            "prompt": "Say this: " + " ".join(draw.choices(WORDS, k=words)),
            "completion": " " + " ".join(draw.choices(WORDS, k=2)),
        }
        for _ in range(count)
    ]


def random_splits() -> tuple[list[dict[str, str]], list[dict[str, str]], list[dict[str, str]]]:
    """Rows to train on, to validate and to test, without findings."""
    return random_rows(300, 1), random_rows(120, 2), random_rows(120, 3)


def splits_with(completions: list[str]) -> list[list[dict[str, str]]]:
    """Splits in which the completions are these in turn."""
    return [
        [{**row, "completion": completions[i % len(completions)]} for i, row in enumerate(split)]
        for split in random_splits()
    ]


def read(
    tmp_path: Path,
    train: list[Any],
    validation: list[Any],
    test: list[Any],
    tokenizer: Any = None,
    ends: tuple[int, ...] = (),
    **options: Any,
) -> Data:
    """The splits as Rung reads them: the files are train.jsonl, validation.jsonl and test.jsonl."""
    files = [
        write(tmp_path / f"{name}.jsonl", split)
        for name, split in (("train", train), ("validation", validation), ("test", test))
    ]
    recipe = Recipe(data=files[0], validation=files[1], test=files[2], **options)
    return prepare(recipe, tokenizer or tiny_tokenizer(), end_tokens=ends)


def audit_splits(
    tmp_path: Path, train: list[Any], validation: list[Any], test: list[Any], **options: Any
) -> dict[str, Finding]:
    """The findings on the texts of these splits, by their kind."""
    return by_kind(audit(read(tmp_path, train, validation, test, **options)))


def by_kind(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.kind: finding for finding in findings}
