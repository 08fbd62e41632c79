"""What is printed, as text."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType


def printed(*parts: RenderableType, width: int = 80) -> str:
    """What a pipe of that width gets, without the spaces at the ends of lines."""
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, force_jupyter=False)
    for part in parts:
        console.print(part)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def words(text: str) -> str:
    """The text with single spaces, for sentences that are broken over lines."""
    return " ".join(text.split())
