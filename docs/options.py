"""Write docs/options.md from the recipe's fields and the commands: `python docs/options.py`.

`tests/test_docs.py` checks that the page is as this script writes it.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from typer.main import get_command

from rung.cli import app

PAGE = Path(__file__).with_name("options.md")
_WIDTH = 100
_INTRODUCTION = """\
# Commands and options

`rung tune`, `rung plan` and `rung data` take the same options, so that one word can stand in the
place of another. Each option of the groups *Model* to *Study* is also a key of a recipe in YAML,
with its name in snake case (`--max-tokens` is `max_tokens`; `--metric` is `metrics`), and a
keyword argument of `rung.tune`, `rung.plan` and `rung.audit`. Options are laid over the recipe. A
list is written with commas, as one value, or as a list in YAML.

This page is written by `python docs/options.py`.
"""


def page() -> str:
    """The text of the page."""
    commands: Any = get_command(app)
    tune, plan, data, inspect = (
        commands.commands[name] for name in ("tune", "plan", "data", "inspect")
    )
    parts = [_wrapped(_INTRODUCTION), _command(tune, set())]
    shared = {option.name for option in tune.params}
    parts += [_command(plan, shared), _command(data, shared), _command(inspect, set())]
    return "\n".join(parts)


def _command(command: Any, known: set[str]) -> str:
    """A command with its options by group, but for those that are known already."""
    lines = [f"## `rung {command.name}`", "", *_paragraphs(command.help), ""]
    if known:
        lines += ["It takes every option of `rung tune`, and these:", ""]
    group = None
    for option in command.params:
        if option.name in known or option.name == "help":
            continue
        panel = getattr(option, "rich_help_panel", None) or "Arguments and options"
        if panel != group:
            group = panel
            lines += [f"### {group}", ""]
        lines += _option(option)
    return "\n".join(lines) + "\n"


def _option(option: Any) -> list[str]:
    names = [*option.opts, *option.secondary_opts]
    title = ", ".join(f"`{name}`" for name in names if name.startswith("-")) or f"`{option.name}`"
    text = " ".join((option.help or "").split())
    return [*textwrap.wrap(f"- {title}: {text}", _WIDTH, subsequent_indent="  "), ""]


def _paragraphs(text: str) -> list[str]:
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    return "\n\n".join("\n".join(textwrap.wrap(p, _WIDTH)) for p in paragraphs).split("\n")


def _wrapped(text: str) -> str:
    head, *paragraphs = text.strip().split("\n\n")
    return "\n\n".join([head, *("\n".join(_paragraphs(p)) for p in paragraphs)]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
