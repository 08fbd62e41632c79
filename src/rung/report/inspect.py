"""What `rung inspect` prints: the module tree, footprints, an adapter's arithmetic, servers, and the lessons."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rung.report.explain import lessons

_NUMBER = re.compile(r"\.\d+\.")
_KEPT = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "int8": "int8",
    "nf4": "NF4, double quantisation",
    "nf4_single": "NF4",
}


def structure(found: Mapping[str, Any], explain: bool = False) -> RenderableType:
    """The document of `rung inspect`, at 80 columns or more."""
    shape = found["shape"]
    heads = f", {shape['attention_heads']} heads" if shape["attention_heads"] else ""
    if shape["key_value_heads"] not in (None, shape["attention_heads"]):
        heads += f" sharing {shape['key_value_heads']} of keys and values"
    head = Text.assemble((found["architecture"], "bold"), f"  {found['model']}")
    about = (
        f"{found['parameters']:,} parameters: {shape['layers']} layers of width {shape['hidden_size']:,}{heads}; "
        f"vocabulary {shape['vocabulary']:,}"
    )
    parts: list[RenderableType] = [Text(), head, Text(about), Text(), _tree(found["modules"])]
    parts += [Text(note, style="yellow") for note in found["notes"]]
    parts += [
        Text(),
        _footprints(found),
        Text(),
        *_adapter(found["adapter"]),
        Text(),
        _ladder(found),
        Text(),
    ]
    parts += [_servers(found["servers"]), Text()]
    for title, text in lessons(found) if explain else ():
        parts += [Text(title, style="bold"), Padding(Text(text), (0, 0, 1, 2))]
    return Group(*parts)


def _tree(modules: Sequence[Mapping[str, Any]]) -> Table:
    """The modules by their dotted names; a star is a row of layers that are alike, and says how many."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    for _ in range(3):
        table.add_column(justify="right", no_wrap=True)
    tree: dict[str, Any] = {}
    for part in modules:
        node = tree
        for name in part["name"].split("."):
            node = node.setdefault(name, {})
        node[""] = part
    _grow(table, tree, "", 1)
    return table


def _grow(table: Table, tree: Mapping[str, Any], guide: str, times: int) -> None:
    children = [(name, node) for name, node in tree.items() if name]
    for at, (name, node) in enumerate(children):
        last = at == len(children) - 1
        label, count, below = name, times, node
        if "*" in node:
            # The row itself has nothing but its layers.
            count, below = max(_counts(node["*"])), node["*"]
            label = f"{name}  {count // times} ×"
        own = below.get("")
        branch = f"{guide}{'└─ ' if last else '├─ '}"
        cells = (_size_of(own), _times(own, count), _numbers(own)) if own else ("", "", "")
        table.add_row(Text.assemble((branch, "dim"), label), *(Text(cell) for cell in cells))
        _grow(table, below, guide + ("   " if last else "│  "), count)


def _counts(tree: Mapping[str, Any]) -> list[int]:
    own = [tree[""]["count"]] if "" in tree else []
    return own + [count for name, node in tree.items() if name for count in _counts(node)]


def _size_of(part: Mapping[str, Any]) -> str:
    if part["in"] is None:
        return str(part["kind"])
    return f"{part['in']:,} → {part['out']:,}"


def _numbers(part: Mapping[str, Any]) -> str:
    return f"{part['count'] * part['parameters']:,}" if part["parameters"] else "tied"


def _times(part: Mapping[str, Any], around: int) -> str:
    """How often it is there, where that is not how often what holds it is."""
    return "" if part["count"] == around else f"in all {part['count']:,} ×"


def _footprints(found: Mapping[str, Any]) -> RenderableType:
    table = _plain("linear layers kept in", "printed", "really held")
    for kind, name in _KEPT.items():
        table.add_row(
            name, _gigabytes(found["footprint_bytes"][kind]), _gigabytes(found["held_bytes"][kind])
        )
    note = (
        "Printed is what get_memory_footprint() says, which leaves out the scales of quantised weights. The embedding, "
        "norms and lm_head are not quantised."
    )
    return Group(table, Text(note, style="dim"))


def _adapter(adapter: Mapping[str, Any]) -> list[RenderableType]:
    scaled = f"{adapter['alpha']:g} / {'√' if adapter['use_rslora'] else ''}{adapter['rank']} = {adapter['scale']:.4g}"
    head = Text.assemble(
        (
            f"Adapter of rank {adapter['rank']}, alpha {adapter['alpha']:g}, on {adapter['targets']}",
            "bold",
        ),
        f"  scale {scaled}",
    )
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column()
    table.add_column(justify="right")
    for share in adapter["modules"]:
        table.add_row(share["module"], share["arithmetic"], f"{share['parameters']:,}")
    table.add_row("together", "", Text(f"{adapter['parameters']:,}", style="bold"))
    sizes = adapter["bytes"]
    said = f"{sizes['float32'] / 1e6:,.1f} MB in float32, {sizes['bfloat16'] / 1e6:,.1f} MB in bfloat16"
    return [head, Padding(table, (0, 0, 0, 2)), Text(f"  {said}")]


def _ladder(found: Mapping[str, Any]) -> RenderableType:
    by_targets = found["parameters_by_rank"]
    ranks = list(next(iter(by_targets.values())))
    table = _plain("parameters at rank", *ranks)
    for targets, counts in by_targets.items():
        table.add_row(targets, *(_millions(counts[rank]) for rank in ranks))
    groups = [
        Text(f"{word}: {_folded(names)}", style="dim")
        for word, names in found["target_groups"].items()
    ]
    return Group(table, *groups)


def _folded(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(_NUMBER.sub(".*.", name) for name in names))


def _servers(servers: Sequence[Mapping[str, Any]]) -> Table:
    table = Table.grid(padding=(0, 1))
    for one in servers:
        mark = Text("✓", style="green") if one["accepts"] else Text("✗", style="red")
        table.add_row(mark, one["server"], Text(one["message"]))
    return table


def _plain(*names: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    table.add_column(names[0], overflow="fold")
    for name in names[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f} M" if count >= 1e5 else f"{count:,}"
