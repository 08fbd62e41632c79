"""What the documentation says exists, and what exists is in the documentation."""

from __future__ import annotations

import ast
import importlib.util
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from typer.main import get_command

import rung.commands.data
import rung.data.audit
import rung.data.schema
from rung.cli import app
from rung.metrics.registry import METRICS
from rung.metrics.report import MetricsReport
from rung.recipe import Recipe
from rung.report.data import SHAPE_NAMES
from rung.tuning.result import LadderStep, StudyResult
from rung.types import Setting, Verdict

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
DATA = (DOCS / "data.md").read_text(encoding="utf-8")
PAGES = {path.name: path.read_text(encoding="utf-8") for path in DOCS.glob("*.md")}
README = (ROOT / "README.md").read_text(encoding="utf-8")


def findings() -> set[str]:
    """Every kind of finding, from the code that makes them."""
    package = Path(str(rung.data.audit.__file__)).parent
    files = [*package.glob("*.py"), Path(str(rung.commands.data.__file__))]
    kinds = set()
    for file in files:
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            named = isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
            if named and call.func.id == "Finding":
                constants = [n for n in ast.walk(call.args[0]) if isinstance(n, ast.Constant)]
                kinds |= {node.value for node in constants}
    return kinds - {None}


def options() -> set[str]:
    commands: Any = get_command(app)
    params = [param for command in commands.commands.values() for param in command.params]
    names = {name for param in params for name in (*param.opts, *param.secondary_opts)}
    return {name for name in names if name.startswith("--")}


def test_every_metric_and_every_finding_is_in_the_documentation() -> None:
    named = set(re.findall(r"`([a-z0-9_]+)`", DATA))
    assert set(METRICS) <= named
    assert findings() <= named
    assert len(findings()) > 12, "they are found at all"


def test_every_shape_has_a_name_to_be_shown_by() -> None:
    assert set(SHAPE_NAMES) == set(get_args(rung.data.schema.RecordFormat))


def test_the_page_of_options_is_as_its_script_writes_it() -> None:
    spec = importlib.util.spec_from_file_location("options_page", DOCS / "options.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert PAGES["options.md"] == module.page()


def test_every_option_and_command_is_in_the_documentation() -> None:
    commands: Any = get_command(app)
    for option in options():
        assert f"`{option}`" in PAGES["options.md"], option
    for command in commands.commands:
        assert f"rung {command}" in README
        assert f"`rung {command}`" in PAGES["options.md"]
    for field in Recipe.model_fields:
        assert field in PAGES["options.md"] or field.replace("_", "-") in PAGES["options.md"]


def test_every_option_that_the_documentation_names_exists() -> None:
    texts = README + DATA + PAGES["architecture.md"] + PAGES["options.md"]
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", texts))
    assert named - options() - {"--help", "--version"} == set()


def test_every_link_to_a_file_leads_somewhere() -> None:
    for folder, text in [(ROOT, README), *((DOCS, text) for text in PAGES.values())]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (folder / target).exists(), target


def test_every_field_of_the_result_is_described() -> None:
    """Those of the study's result, and of the documents in it."""
    for kind in documents(StudyResult):
        for field in fields(kind):
            assert f"`{field.name}`" in PAGES["result.md"], f"{kind.__name__}.{field.name}"
    assert {StudyResult, Verdict, LadderStep, MetricsReport, Setting} <= documents(StudyResult)


def documents(kind: Any) -> set[Any]:
    """The dataclasses that a type is made of."""
    if not is_dataclass(kind):
        return set().union(*map(documents, get_args(kind)))
    inner = get_type_hints(kind).values()
    return {kind}.union(*(documents(one) for one in inner if one is not kind))
