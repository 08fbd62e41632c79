"""A recipe in a file."""

from __future__ import annotations

from pathlib import Path


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path
