"""Draw the picture in the README.

`python docs/picture.py studies/<name> docs/demo.svg "make demo"`
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from pydantic import TypeAdapter
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from rung.report.tune import summary
from rung.tuning.result import StudyResult


def main(study: str, picture: str, command: str) -> None:
    """Write the summary of the study, under its command, as an SVG that fetches nothing."""
    console = Console(
        width=80, record=True, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    console.print(f"[bold]$ {command}[/bold]")
    result = TypeAdapter(StudyResult).validate_json((Path(study) / "result.json").read_bytes())
    console.print(summary(result, Path(study)))
    # Rich's own format names a font on a server.
    form = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    Path(picture).write_text(console.export_svg(title="rung", code_format=form), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
