"""The measures of the house: small files, small classes, short lines, typed edges."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
MAX_FILE, MAX_MEDIAN, MAX_CLASS, MAX_COLUMNS, MAX_README_WORDS = 400, 200, 200, 100, 800
JSON_EDGE = {
    # Records of the user's files are JSON objects.
    "src/rung/data/field_hints.py",
    "src/rung/data/chat/tool_calls.py",
    "src/rung/data/chat/training_flags.py",
    # What a checkpoint and the database keep is JSON.
    "src/rung/engine/checkpoint.py",
    "src/rung/study/database.py",
    # Documents, and a model's configuration.
    "src/rung/api.py",
    "src/rung/cli.py",
    "src/rung/formats/documents.py",
    "src/rung/study/folder.py",
    "src/rung/model/source.py",
}
"""Files whose public functions may have `dict[str, Any]`: what they take or give is JSON."""


def length(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_no_file_is_long_and_half_of_them_are_short() -> None:
    lengths = {str(path.relative_to(ROOT)): length(path) for path in SOURCES}
    assert {path: n for path, n in lengths.items() if n > MAX_FILE} == {}
    assert statistics.median(lengths.values()) < MAX_MEDIAN


def test_no_class_is_long() -> None:
    lengths = {
        f"{path.relative_to(ROOT)}: {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    assert {name: n for name, n in lengths.items() if n > MAX_CLASS} == {}


@pytest.mark.parametrize("path", [*SOURCES, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_line_is_wider_than_100_columns(path: Path) -> None:
    """A row of a table in Markdown cannot be broken, nor can an address."""
    lines = path.read_text(encoding="utf-8").splitlines()
    wide = [
        number
        for number, line in enumerate(lines, 1)
        if len(line) > MAX_COLUMNS and not line.startswith("|") and "https://" not in line
    ]
    assert wide == []


def test_the_readme_can_be_read_in_four_minutes() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= MAX_README_WORDS


def untyped_signatures() -> Iterator[str]:
    """Public functions with `dict[str, Any]` in their signature."""
    for path in SOURCES:
        name = str(path.relative_to(ROOT))
        if name in JSON_EDGE:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                arguments = [*node.args.args, *node.args.kwonlyargs]
                types = [argument.annotation for argument in arguments] + [node.returns]
                if any("dict[str, Any]" in ast.unparse(one) for one in types if one):
                    yield f"{name}: {node.name}"


def test_only_the_edge_to_json_is_untyped() -> None:
    assert list(untyped_signatures()) == []
