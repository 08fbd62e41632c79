"""Rows of prompt and completion: from a JSONL file, or from a built-in task."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from rung.data.tasks import TASKS
from rung.errors import DataError

MIN_ROWS = 20
"""Fewer validation or test rows than this carry no interval worth printing."""


@dataclass(frozen=True, slots=True)
class Row:
    """What the model is given, and what it is to write after it. `prompt + completion` is the whole text.

    Rows of one `source` (a document, a speaker) are not independent: they stay in one split, and count as one where
    errors are taken. By default that are the rows with the same prompt.
    """

    prompt: str
    completion: str
    source: str = ""

    def __post_init__(self) -> None:
        if not self.source:
            object.__setattr__(self, "source", self.prompt)


@dataclass(frozen=True, slots=True)
class Splits:
    """The three parts of a data set: to train on, to judge by, and to open once at the end."""

    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    test: tuple[Row, ...]

    @property
    def digest(self) -> str:
        """A SHA-256 over every row: what says that two studies saw the same data."""
        text = json.dumps(
            [[(r.prompt, r.completion) for r in part] for part in (self.train, self.validation, self.test)]
        )
        return hashlib.sha256(text.encode()).hexdigest()


def read_splits(data: str, validation: str | None = None, test: str | None = None) -> Splits:
    """The rows of a study.

    Args:
        data: the name of a built-in task, or a JSONL file with `prompt` and `completion` in each row.
        validation: a file of its own; without it, a tenth of the prompts are split off `data` by their hash.
        test: likewise.

    Raises:
        DataError: a file that is missing, empty or not JSONL, a row without its fields, a split that is too small.
    """
    if data in TASKS:
        if validation or test:
            raise DataError(f"The built-in task '{data}' brings its own splits; leave --validation and --test out.")
        return Splits(*(tuple(Row(*pair) for pair in part) for part in TASKS[data]()))
    rows = read_rows(Path(data))
    # The hash of the source decides, so that rows which share one stay on the same side.
    held = {"validation": validation, "test": test}
    parts: dict[str, tuple[Row, ...]] = {name: read_rows(Path(path)) for name, path in held.items() if path}
    for residue, name in enumerate(held):
        if name not in parts:
            parts[name] = tuple(row for row in rows if _bucket(row) == residue)
            rows = tuple(row for row in rows if _bucket(row) != residue)
            if len(parts[name]) < MIN_ROWS:
                raise DataError(
                    f"Of the rows in {data} only {len(parts[name])} would be left for the {name} split, and it needs "
                    f"{MIN_ROWS}; give more rows, or a --{name} file."
                )
    for name, part in parts.items():
        if len(part) < 2:
            raise DataError(f"The {name} split has {len(part)} row; an interval needs at least two.")
    if not rows:
        raise DataError(f"No training rows are left in {data} once its splits are taken; give more rows.")
    return Splits(rows, parts["validation"], parts["test"])


def read_rows(path: Path) -> tuple[Row, ...]:
    """The rows of one JSONL file. Blank lines are passed over.

    Raises:
        DataError: see `read_splits`; the message names the line.
    """
    try:
        # Not splitlines(), which also splits at characters that JSON allows inside a text, such as U+2028.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise DataError(
            f"There is no data file '{path}'; give the path of a JSONL file, or one of {', '.join(TASKS)}."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The data file '{path}' cannot be read ({error}); give a UTF-8 JSONL file.") from None
    rows = tuple(_row(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip())
    if not rows:
        raise DataError(f'The data file \'{path}\' is empty; write one {{"prompt": …, "completion": …}} a line.')
    return rows


def _row(line: str, where: str) -> Row:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: this is not JSON ({error.msg}); write one object a line.") from None
    if not isinstance(found, dict):
        raise DataError(
            f'{where}: a row is an object with "prompt" and "completion", and this is a {type(found).__name__}.'
        )
    for field in ("prompt", "completion"):
        if not isinstance(found.get(field), str):
            has = ", ".join(map(repr, found)) or "no fields"
            raise DataError(f'{where}: the row needs a text in "{field}", and it has {has}.')
        if not found[field].strip():
            raise DataError(f'{where}: the "{field}" is blank; leave the row out.')
    source = found.get("source", "")
    if not isinstance(source, str | int):
        raise DataError(f'{where}: "source" names where the row is from, and is a text or a whole number.')
    return Row(found["prompt"], found["completion"], str(source))


def _bucket(row: Row) -> int:
    return int.from_bytes(hashlib.sha256(row.source.encode()).digest()[:8], "big") % 10
