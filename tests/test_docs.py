"""What the documentation says is there, and what is there it says."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, get_args

import rung.commands.data
import rung.data.audit
import rung.data.schema
from rung.metrics.text import METRICS
from rung.report.data import _SHAPES

ROOT = Path(__file__).parents[1]
DATA = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")


def findings() -> set[str]:
    """Every kind of finding, from the code that makes them."""
    kinds = set()
    audit = Path(str(rung.data.audit.__file__)).parent.glob("*.py")
    for path in (*audit, Path(str(rung.commands.data.__file__))):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Name)
                and call.func.id == "Finding"
            ):
                kinds |= {
                    node.value for node in ast.walk(call.args[0]) if isinstance(node, ast.Constant)
                }
    return kinds - {None}


def test_every_metric_and_every_finding_is_in_the_documentation() -> None:
    named = set(re.findall(r"`([a-z0-9_]+)`", DATA))
    assert set(METRICS) <= named
    assert findings() <= named
    assert len(findings()) > 12, "they are found at all"


def test_every_shape_has_a_name_to_be_shown_by() -> None:
    assert set(_SHAPES) == set(get_args(rung.data.schema.Shape))


def test_every_option_that_the_documentation_names_is_one() -> None:
    from typer.main import get_command

    from rung.cli import app

    commands: Any = get_command(app)
    options = [option for command in commands.commands.values() for option in command.params]
    known = {name for option in options for name in (*option.opts, *option.secondary_opts)}
    texts = DATA + (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", texts))
    assert named - known == set()
