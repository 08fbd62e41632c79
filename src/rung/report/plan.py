"""What `rung plan` prints: the climb as it would run, its memory by part, what fits, and what the rows can show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rung.report.format import duration
from rung.search.strategy import in_words


def planned(found: Mapping[str, Any]) -> RenderableType:
    """The document of `rung plan`, at 80 columns or more."""
    cost, where = found["cost"], found["device"]
    name = where.get("title", "this machine")
    price = (
        ""
        if cost["price"] is None
        else f", for {cost['price']:,.2f} at {cost['price_per_hour']:g} an hour"
    )
    head = Text.assemble(
        (f"About {duration(cost['seconds'])}", "bold green"),
        f" on {name}{price}.",
        ("" if where["measured"] else "  An estimate: see below.", "yellow"),
    )
    about = (
        f"{found['model']} on {found['data']}: {cost['candidate_tokens']:,} training tokens, as many as "
        f"{cost['full_trainings']:.1f} single runs of {found['steps']} steps and {found['candidate_tokens']:,} tokens. "
        f"One such run alone takes about {duration(cost['single_run_seconds'])}."
    )
    parts: list[RenderableType] = [
        Text(),
        head,
        Text(about),
        Text(),
        _heats(found),
        Text(),
        _memory(found["memory"]),
    ]
    parts += [Text(), _fits(found["fits"]), Text()]
    if found["rows"]:
        parts += [Text(_rows(found["rows"])), Text()]
    parts += [Text(note, style="dim") for note in found["notes"]]
    return Group(*parts)


def _heats(found: Mapping[str, Any]) -> RenderableType:
    table = _table("heat", "trained to", "candidates", "in packs of", "tokens", "time", "peak")
    for stage in found["stages"]:
        seeds = f" × {stage['seeds']} seeds" if stage["seeds"] > 1 else ""
        table.add_row(
            stage["phase"],
            "the end" if stage["fraction"] == 1 else in_words(stage["until"]),
            f"{stage['settings']}{seeds}",
            ", ".join(map(str, stage["widths"])),
            f"{stage['tokens']:,}",
            duration(stage["seconds"]),
            _gigabytes(stage["peak"]),
        )
    around = found["cost"]["around_seconds"]
    said = f"Around them {duration(around)}: the untuned model, the test split, and what else is not training."
    said += f" Each rung that the ladder goes on by takes about {duration(found['cost']['rung_seconds'])} more."
    return Group(table, Text(said, style="dim"))


def _memory(memory: Mapping[str, Any]) -> Table:
    table = _table("what is held", "")
    kinds = {
        "base": "base, and the process",
        "adapters": "adapters and their gradients",
        "optimizer": "AdamW's moments",
        "activations": "activations",
        "logits": "logits, a chunk of tokens",
        "total": f"{memory['width']} candidates of rank {memory['rank']} together",
        "limit": "what may be held",
    }
    for kind, name in kinds.items():
        table.add_row(Text(name, style="bold" if kind == "total" else ""), _gigabytes(memory[kind]))
    return table


def _fits(fits: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Ranks against widths: the peak of a step in one pass."""
    widths = list(dict.fromkeys(cell["width"] for cell in fits))
    table = _table("rank", *(f"pack of {width}" for width in widths))
    marks = {"in one pass": ("", ""), "in parts": ("*", "yellow"), "no": ("✗", "red")}
    for rank in dict.fromkeys(cell["rank"] for cell in fits):
        cells = [cell for cell in fits if cell["rank"] == rank]
        shown = [
            Text(_gigabytes(c["peak_bytes"]) + marks[c["fits"]][0], style=marks[c["fits"]][1])
            for c in cells
        ]
        table.add_row(str(rank), *shown)
    said = f"The peak of a step in one pass, on {fits[0]['targets']}."
    if any(cell["fits"] == "in parts" for cell in fits):
        said += (
            " * fits when a step is done in parts, which Rung does by itself, with the same result."
        )
    if any(cell["fits"] == "no" for cell in fits):
        said += " ✗ does not fit: the packs are made narrower."
    return Group(table, Text(said, style="dim"))


def _rows(rows: Mapping[str, Any]) -> str:
    return (
        f"What can be seen: with {rows['rows']:,} validation rows and {rows['seeds']} seeds a gain of "
        f"{rows['detectable']:.1%} of the loss would be shown in four of five studies; the rows alone hide what is under "
        f"{rows['detectable_by_rows']:.1%}. To show the margin of {rows['margin']:.1%} takes about "
        f"{rows['rows_for_margin']:,} rows and {rows['seeds_for_margin']:,} seeds, each if the other were no matter. "
        "By the untuned model's losses, and by how runs differed from seed to seed on the recorded tasks (2.5 %)."
    )


def _table(*names: str) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True, show_edge=False
    )
    table.add_column(names[0], overflow="fold")
    for name in names[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:,.1f} GB"
