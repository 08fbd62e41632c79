"""What `rung plan` prints: the study as it would run, its memory, and what its rows can show."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rung.commands.plan import PackFit, Plan, PlannedMemory, PlannedPower
from rung.costs.memory_policy import Fit
from rung.report.format import count, duration, fraction_words, gigabytes
from rung.report.layout import plain_table
from rung.search.power import SEED_DEVIATION

_FIT_MARKS: dict[Fit, tuple[str, str]] = {
    "in one pass": ("", ""),
    "in parts": ("*", "yellow"),
    "no": ("✗", "red"),
}
"""What stands behind a peak, and its colour."""


def plan_page(plan: Plan) -> RenderableType:
    """What a study will take, at 80 columns or more."""
    parts: list[RenderableType] = [
        Text(),
        _headline(plan),
        Text(_study(plan)),
        Text(),
        _stages(plan),
        Text(),
        _memory(plan.memory),
        Text(),
        _fits(plan.fits),
        Text(),
    ]
    if plan.power:
        parts += [Text(power_sentence(plan.power)), Text()]
    parts += [Text(note, style="dim") for note in plan.notes]
    return Group(*parts)


def _headline(plan: Plan) -> Text:
    cost = plan.cost
    price = ""
    if cost.price is not None:
        price = f", for {cost.price:,.2f} at {cost.price_per_hour:g} an hour"
    return Text.assemble(
        (f"About {duration(cost.seconds)}", "bold green"),
        f" on {plan.device.title}{price}.",
        ("" if plan.device.measured else " An estimate: see below.", "yellow"),
    )


def _study(plan: Plan) -> str:
    cost = plan.cost
    return (
        f"{plan.model} on {plan.data}: {cost.candidate_tokens:,} training tokens, as many as "
        f"{cost.full_trainings:.1f} single runs of {count(plan.steps, 'step')} and "
        f"{plan.candidate_tokens:,} tokens. One single run takes about "
        f"{duration(cost.single_run_seconds)}."
    )


def _stages(plan: Plan) -> RenderableType:
    table = plain_table(
        "stage", "trained to", "candidates", "in packs of", "tokens", "time", "peak"
    )
    table.columns[1].justify = "left"
    for stage in plan.stages:
        seeds = f" × {stage.seeds} seeds" if stage.seeds > 1 else ""
        table.add_row(
            stage.phase,
            "the end" if stage.fraction == 1 else fraction_words(stage.fraction),
            f"{stage.settings}{seeds}",
            ", ".join(map(str, stage.widths)),
            f"{stage.tokens:,}",
            duration(stage.seconds),
            gigabytes(stage.peak),
        )
    text = (
        f"{duration(plan.cost.other_seconds)} of the time is not training: loading the model, "
        "scoring the untuned model and the test split, generating texts. Each further rank of the "
        f"ladder takes about {duration(plan.cost.ladder_step_seconds)} more."
    )
    return Group(table, Text(text, style="dim"))


def _memory(memory: PlannedMemory) -> Table:
    table = plain_table("memory", "")
    rows = [
        ("the process with the base", memory.base),
        ("adapters and their gradients", memory.adapters),
        ("AdamW's moments", memory.optimizer),
        ("activations", memory.activations),
        ("logits of a chunk of tokens", memory.logits),
    ]
    for name, size in rows:
        table.add_row(name, gigabytes(size))
    total = f"together, for {count(memory.width, 'candidate')} of rank {memory.rank}"
    table.add_row(total, gigabytes(memory.total), style="bold")
    table.add_row("what the process may hold", gigabytes(memory.limit))
    return table


def _fits(fits: Sequence[PackFit]) -> RenderableType:
    """Ranks against pack widths: the peak of a step in one pass."""
    widths = list(dict.fromkeys(fit.width for fit in fits))
    table = plain_table("rank", *(f"pack of {width}" for width in widths))
    for rank in dict.fromkeys(fit.rank for fit in fits):
        cells = []
        for fit in fits:
            if fit.rank == rank:
                mark, colour = _FIT_MARKS[fit.fits]
                cells.append(Text(f"{gigabytes(fit.peak_bytes)}{mark}", style=colour))
        table.add_row(str(rank), *cells)
    text = f"The peak of a step in one pass, on {fits[0].targets}."
    if any(fit.fits == "in parts" for fit in fits):
        text += (
            " * fits if the step is done in parts: Rung does so by itself, with the same result."
        )
    if any(fit.fits == "no" for fit in fits):
        text += " ✗ does not fit: Rung makes narrower packs."
    return Group(table, Text(text, style="dim"))


def power_sentence(power: PlannedPower) -> str:
    """Which gains the validation rows and the seeds can show."""
    gains = power.gains
    return (
        f"With {count(gains.rows, 'validation row')} and {count(gains.seeds, 'seed')}, four of "
        f"five studies would show a gain of {gains.detectable:.1%} of the loss, or of "
        f"{gains.detectable_by_rows:.1%} if seeds made no difference. To show the margin of "
        f"{power.margin:.1%} takes about {count(gains.rows_for_margin, 'row')} if seeds made no "
        f"difference, or about {count(gains.seeds_for_margin, 'seed')} if rows made none. This is "
        "estimated from the untuned model's losses, and from how much runs varied from seed to "
        f"seed on recorded tasks ({SEED_DEVIATION:.1%})."
    )
