"""What `rung inspect` prints: the modules, footprints, an adapter's arithmetic, and servers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rung.commands.inspect import AdapterInfo, Inspection
from rung.model.anatomy import ModuleInfo
from rung.model.serving import ServerSupport
from rung.model.targets import star_numbers
from rung.report.explain import lessons
from rung.report.format import file_size
from rung.report.layout import plain_table

STORAGE_NAMES = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "int8": "int8",
    "nf4": "NF4, double quantisation",
    "nf4_single": "NF4",
}
"""How linear layers are kept, in words."""


def inspection_page(inspection: Inspection, explain: bool = False) -> RenderableType:
    """A model and an adapter for it, at 80 columns or more.

    Args:
        explain: also say what each lever does.
    """
    parts: list[RenderableType] = [
        Text(),
        Text.assemble((inspection.architecture, "bold"), f"  {inspection.model}"),
        Text(_shape(inspection)),
        Text(),
        _module_table(inspection.modules),
        *(Text(note, style="yellow") for note in inspection.notes),
        Text(),
        *_footprints(inspection),
        Text(),
        *_adapter(inspection.adapter),
        Text(),
        *_parameters_by_rank(inspection),
        Text(),
        _servers(inspection.servers),
        Text(),
    ]
    for title, text in lessons(inspection) if explain else ():
        parts += [Text(title, style="bold"), Padding(Text(text), (0, 0, 1, 2))]
    return Group(*parts)


def _shape(inspection: Inspection) -> str:
    shape = inspection.shape
    heads = f", {shape.attention_heads} heads" if shape.attention_heads else ""
    if shape.key_value_heads not in (None, shape.attention_heads):
        heads += f" sharing {shape.key_value_heads} of keys and values"
    return (
        f"{inspection.parameters:,} parameters: {shape.layers} layers of width "
        f"{shape.hidden_size:,}{heads}; vocabulary {shape.vocabulary:,}"
    )


# The modules as a tree.


@dataclass(slots=True)
class _Node:
    """A part of a dotted name: the modules that end there, and the parts that follow."""

    modules: ModuleInfo | None = None
    children: dict[str, _Node] = field(default_factory=dict)

    def counts(self) -> Iterator[int]:
        if self.modules:
            yield self.modules.count
        for child in self.children.values():
            yield from child.counts()


def _module_table(modules: Sequence[ModuleInfo]) -> Table:
    """The modules by their dotted names. Layers that are alike stand once, with their number."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    for _ in range(3):
        table.add_column(justify="right", no_wrap=True)
    root = _Node()
    for one in modules:
        node = root
        for name in one.name.split("."):
            node = node.children.setdefault(name, _Node())
        node.modules = one
    _add_rows(table, root, "", 1)
    return table


def _add_rows(table: Table, parent: _Node, guide: str, parent_count: int) -> None:
    for at, (name, node) in enumerate(parent.children.items()):
        last = at == len(parent.children) - 1
        label, count, below = name, parent_count, node
        if layers := node.children.get("*"):
            # A list of layers has nothing but its layers.
            count, below = max(layers.counts()), layers
            label = f"{name}  {count // parent_count} ×"
        own = below.modules
        branch = f"{guide}{'└─ ' if last else '├─ '}"
        cells = (_matrix(own), _times(own, count), _numbers(own)) if own else ("", "", "")
        table.add_row(Text.assemble((branch, "dim"), label), *map(Text, cells))
        _add_rows(table, below, guide + ("   " if last else "│  "), count)


def _matrix(module: ModuleInfo) -> str:
    if module.inputs is None or module.outputs is None:
        return module.kind
    return f"{module.inputs:,} → {module.outputs:,}"


def _times(module: ModuleInfo, parent_count: int) -> str:
    """How many there are, where that is not the number of the parts that hold them."""
    return "" if module.count == parent_count else f"in all {module.count:,} ×"


def _numbers(module: ModuleInfo) -> str:
    return f"{module.count * module.parameters:,}" if module.parameters else "tied"


# Sizes.


def _footprints(inspection: Inspection) -> Iterator[RenderableType]:
    table = plain_table("linear layers kept in", "reported", "really held")
    for kind, name in STORAGE_NAMES.items():
        reported, held = inspection.footprint_bytes[kind], inspection.held_bytes[kind]
        table.add_row(name, file_size(reported), file_size(held))
    yield table
    yield Text(
        "Reported is what get_memory_footprint() returns: it leaves out the scales of quantised "
        "weights. The embedding, the norms and lm_head are not quantised.",
        style="dim",
    )


def _adapter(adapter: AdapterInfo) -> Iterator[RenderableType]:
    own = adapter.setting
    root = "√" if own.use_rslora else ""
    yield Text.assemble(
        (f"Adapter of rank {own.rank}, alpha {own.alpha:g}, on {own.targets}", "bold"),
        f"  scale {own.alpha:g} / {root}{own.rank} = {adapter.scale:.4g}",
    )
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column()
    table.add_column(justify="right")
    for module, arithmetic in zip(adapter.modules, adapter.arithmetic, strict=True):
        table.add_row(module.module, arithmetic, f"{module.parameters:,}")
    table.add_row("together", "", Text(f"{adapter.parameters:,}", style="bold"))
    yield Padding(table, (0, 0, 0, 2))
    sizes = (f"{size / 1e6:,.1f} MB in {dtype}" for dtype, size in adapter.bytes.items())
    yield Text(f"  {', '.join(sizes)}")


def _parameters_by_rank(inspection: Inspection) -> Iterator[RenderableType]:
    by_targets = inspection.parameters_by_rank
    ranks = list(next(iter(by_targets.values())))
    table = plain_table("parameters at rank", *map(str, ranks))
    for targets, counts in by_targets.items():
        table.add_row(targets, *(_millions(counts[rank]) for rank in ranks))
    yield table
    for group, names in inspection.target_groups.items():
        yield Text(f"{group}: {', '.join(star_numbers(names))}", style="dim")


def _millions(number: int) -> str:
    return f"{number / 1e6:,.1f} M" if number >= 1e5 else f"{number:,}"


def _servers(servers: Sequence[ServerSupport]) -> Table:
    table = Table.grid(padding=(0, 1))
    for one in servers:
        mark = Text("✓", style="green") if one.accepts else Text("✗", style="red")
        table.add_row(mark, one.server, Text(one.message))
    return table
