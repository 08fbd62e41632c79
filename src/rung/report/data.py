"""What `rung data` prints: the splits, one row as the model sees it, lengths, metrics, and the audit."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rung.report.tune import metrics_in_words

_SHAPES = {
    "prompt_completion": "prompt and completion",
    "chat_prompt_completion": "prompt and completion, as chats",
    "messages": "conversations",
    "text": "texts",
    "alpaca": "instruction and output (alpaca), as chats",
    "sharegpt": "conversations (sharegpt)",
    "preference": "preference pairs, of which the chosen answer is learnt",
}
_MARKS = {"error": ("✗", "bold red"), "warning": ("!", "yellow"), "note": ("·", "dim")}
_WIDEST_BAR = 40
_SHOWN = 1500
"""Characters of the example that are shown."""


def sheet(found: Mapping[str, Any]) -> RenderableType:
    """The document of `rung data`, at 80 columns or more."""
    head = Text.assemble(
        (str(found["data"]), "bold"), f": {_SHAPES[found['format']]}, for {found['model']}"
    )
    ends = " and ".join(repr(end["text"])[1:-1] for end in found["ends"])
    parts: list[RenderableType] = [Text(), head, Text(), _splits(found), Text()]
    parts += [Text("One row as the model sees it; it learns what stands in ⟦ ⟧:", style="dim")]
    parts += [
        Padding(_example(found["example"]), (0, 0, 0, 2)),
        Text(f"Writing ends at {ends}.", style="dim"),
        Text(),
    ]
    parts += [_lengths(found["lengths"]), Text()]
    if found["metrics"]:
        fits = ", ".join(name.replace("_", " ") for name in found["metrics"])
        parts += [Text(f"Metrics that fit: {fits}.")]
    if trivial := found["trivial"]:
        values = {name: value for name, value in trivial.items() if name != "writes"}
        writes = str(trivial["writes"])
        short = writes if len(writes) <= 60 else f"{writes[:59]}…"
        parts += [
            Text(
                f"Who always writes '{short}' has {metrics_in_words(values)} on the validation rows."
            )
        ]
    parts += [Text(), *_audit(found)]
    return Group(*parts)


def _splits(found: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    table.add_column("split")
    for name in ("read", "too long", "used"):
        table.add_column(name, justify="right")
    for name, rows in found["splits"].items():
        made = " (by a hash)" if name in found["made_splits"] else ""
        table.add_row(
            f"{name}{made}", f"{found['read'][name]:,}", f"{found['too_long'][name]:,}", f"{rows:,}"
        )
    return table


def _example(example: Mapping[str, Any]) -> Text:
    shown = Text()
    pairs = zip(example["text"], example["learned"], strict=True)
    for learned, pieces in itertools.groupby(pairs, key=lambda pair: pair[1]):
        text = "".join(piece for piece, _ in pieces)
        shown.append(f"⟦{text}⟧" if learned else text, style="green" if learned else "")
    if len(shown) > _SHOWN:
        # The end is what matters: there the model learns to stop.
        shown = Text.assemble(shown[: _SHOWN // 2], (" […] ", "dim"), shown[-_SHOWN // 2 :])
    return shown


def _lengths(lengths: Mapping[str, Any]) -> RenderableType:
    said = (
        f"Tokens of a row: half have at most {lengths['median']:,}, 99 % at most {lengths['p99']:,}, the longest "
        f"{lengths['longest']:,}; max_tokens is {lengths['max_tokens']:,}."
    )
    most = max(bar["rows"] for bar in lengths["histogram"])
    grid = Table.grid(padding=(0, 1))
    for justify in ("right", "left", "right"):
        grid.add_column(justify=justify, no_wrap=True)
    for bar in lengths["histogram"]:
        size = bar["rows"] * _WIDEST_BAR / most
        # A row that is there has a mark, however few there are.
        blocks = "█" * round(size) or ("▏" if bar["rows"] else "")
        span = f"{bar['from']:,}–{bar['to']:,}" if bar["to"] > bar["from"] else f"{bar['from']:,}"
        beyond = bar["from"] > lengths["max_tokens"]
        grid.add_row(
            Text(span, style="dim"),
            Text(blocks, style="yellow" if beyond else "cyan"),
            f"{bar['rows']:,}",
        )
    return Group(Text(said), grid)


def _audit(found: Mapping[str, Any]) -> list[RenderableType]:
    if not found["audit"]:
        return [Text("The audit has found nothing to say.", style="green")]
    lines: list[RenderableType] = []
    for finding in found["audit"]:
        mark, style = _MARKS[finding["severity"]]
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=1)
        grid.add_column(overflow="fold")
        grid.add_row(Text(mark, style=style), Text(finding["message"]))
        lines.append(grid)
    return lines
