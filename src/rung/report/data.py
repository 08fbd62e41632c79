"""What `rung data` prints: splits, one row as the model sees it, lengths, metrics, the audit."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rung.commands.data import AuditFinding, DataReport, ExampleRow, Lengths, TrivialPredictor
from rung.data.audit import Severity
from rung.report.format import metric_name, metric_value, shortened
from rung.report.layout import hanging, plain_table

SHAPE_NAMES = {
    "prompt_completion": "prompt and completion",
    "chat_prompt_completion": "prompt and completion, as chats",
    "messages": "conversations",
    "text": "texts",
    "alpaca": "instruction and output (alpaca), as chats",
    "sharegpt": "conversations (sharegpt)",
    "preference": "preference pairs, of which the chosen answer is learned",
}
"""The shapes of rows, in words."""
SEVERITY_MARKS: dict[Severity, tuple[str, str]] = {
    "error": ("✗", "bold red"),
    "warning": ("!", "yellow"),
    "note": ("·", "dim"),
}
MAX_BAR = 40
"""Cells of the longest bar."""
MAX_EXAMPLE = 1500
"""Characters of the example that are shown."""
MAX_TRIVIAL_TEXT = 60


def data_page(report: DataReport) -> RenderableType:
    """A data set as a model would see it, at 80 columns or more."""
    parts: list[RenderableType] = [
        Text(),
        Text.assemble((report.data, "bold"), f": {SHAPE_NAMES[report.format]}, for {report.model}"),
        Text(),
        _splits(report),
        Text(),
        Text("One row as the model sees it; the model learns what is in ⟦ ⟧:", style="dim"),
        Padding(_example(report.example), (0, 0, 0, 2)),
        Text(f"A generated text ends at {_ends(report)}.", style="dim"),
        Text(),
        *_lengths(report.lengths),
        Text(),
    ]
    if report.metrics:
        parts.append(Text(f"Metrics that suit these data: {_names(report.metrics)}."))
    if report.trivial:
        parts.append(Text(_trivial(report.trivial)))
    return Group(*parts, Text(), *_audit(report.audit))


def _splits(report: DataReport) -> Table:
    table = plain_table("split", "read", "too long", "used")
    for name, rows in report.splits.items():
        made = " (split off by a hash)" if name in report.made_splits else ""
        table.add_row(
            f"{name}{made}", f"{report.read[name]:,}", f"{report.too_long[name]:,}", f"{rows:,}"
        )
    return table


def _ends(report: DataReport) -> str:
    return " and ".join(repr(end.text)[1:-1] for end in report.ends)


def _example(example: ExampleRow) -> Text:
    text = Text()
    pairs = zip(example.text, example.learned, strict=True)
    for learned, tokens in itertools.groupby(pairs, key=lambda pair: pair[1]):
        part = "".join(token for token, _ in tokens)
        text.append(f"⟦{part}⟧" if learned else part, style="green" if learned else "")
    if len(text) > MAX_EXAMPLE:
        # The end is kept: there the model learns to stop.
        half = MAX_EXAMPLE // 2
        text = Text.assemble(text[:half], (" […] ", "dim"), text[-half:])
    return text


def _lengths(lengths: Lengths) -> Iterator[RenderableType]:
    yield Text(
        f"Tokens of a row: half of the rows have at most {lengths.median:,}, 99 % at most "
        f"{lengths.p99:,}, the longest has {lengths.longest:,}; max_tokens is "
        f"{lengths.max_tokens:,}."
    )
    most = max(bar.rows for bar in lengths.histogram)
    grid = Table.grid(padding=(0, 1))
    for justify in ("right", "left", "right"):
        grid.add_column(justify=justify, no_wrap=True)
    for bar in lengths.histogram:
        # Rows have a mark however few they are.
        blocks = "█" * round(bar.rows * MAX_BAR / most) or ("▏" if bar.rows else "")
        span = f"{bar.first:,}–{bar.last:,}" if bar.last > bar.first else f"{bar.first:,}"
        colour = "yellow" if bar.first > lengths.max_tokens else "cyan"
        grid.add_row(Text(span, style="dim"), Text(blocks, style=colour), f"{bar.rows:,}")
    yield grid


def _names(metrics: Sequence[str]) -> str:
    return ", ".join(map(metric_name, metrics))


def _trivial(trivial: TrivialPredictor) -> str:
    values = ", ".join(
        f"{metric_name(name)} {metric_value(name, value)}"
        for name, value in trivial.metrics.items()
    )
    text = shortened(trivial.writes, MAX_TRIVIAL_TEXT)
    return f"Always answering '{text}' gives {values} on the validation rows."


def _audit(findings: Sequence[AuditFinding]) -> Iterator[RenderableType]:
    if not findings:
        yield Text("The audit found nothing.", style="green")
    for finding in findings:
        mark, style = SEVERITY_MARKS[finding.severity]
        yield hanging(Text(mark, style=style), Text(finding.says))
