"""What a study looks like in a terminal, in a pipe and in a notebook: its progress, and its answer.

Progress goes to standard error. In a terminal one line at the bottom lives and everything else scrolls above it; in a
pipe and in a notebook, where lines cannot be rewritten, a line of progress comes twice a minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.spinner import Spinner
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from rung.levers import Candidate, Outcome, Verdict
from rung.runner.protocol import Tick
from rung.search.strategy import Decision

_MARKS: dict[Outcome, tuple[str, str]] = {
    "better": ("▲", "green"),
    "no_worthwhile_gain": ("■", "yellow"),
    "undecided": ("?", "cyan"),
}
_PLAIN_SECONDS = 30.0


class Progress:
    """An `Observer` that shows everything on a console. A context manager: the live line goes when it is left."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.clock = console, clock
        self._live: Live | None = None
        self._spinner = Spinner("dots")
        self._decision: Decision | None = None
        self._full_tokens = 0
        self._begun = self._said = clock()
        self._done = 0

    def __enter__(self) -> Progress:
        if self.console.is_terminal and not self.console.is_jupyter:
            self._live = Live(Text(), console=self.console, transient=True, refresh_per_second=8)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def note(self, text: str) -> None:
        self._print("·", "dim", text)
        if self._live:
            self._spinner.update(text=Text("working", style="dim"))
            self._live.update(self._spinner)

    def verdict(self, verdict: Verdict) -> None:
        self._print(*_MARKS[verdict.outcome], verdict.says)

    def left(self, candidate: Candidate, why: str) -> None:
        self._print("×", "red", f"{candidate.id} leaves: {why}")

    def heat(self, decision: Decision, full_tokens: int) -> None:
        assert decision.heat is not None
        self._decision, self._full_tokens = decision, full_tokens
        self._begun, self._done = self.clock(), 0
        part = "" if decision.heat.until == 1 else f", to {decision.heat.until:.0%} of the budget"
        self._print("·", "dim", f"{decision.heat.phase}: {_in_words(decision.heat.candidates)}{part}")

    def tick(self, tick: Tick) -> None:
        assert self._decision is not None
        assert self._decision.heat is not None
        now = self.clock()
        self._done += tick.tokens
        rate = self._done / max(now - self._begun, 1e-9)
        seconds = (tick.tokens_left + self._decision.ahead * self._full_tokens) / rate
        share = self._done / (self._done + tick.tokens_left)
        line = (
            f"{self._decision.heat.phase} {share:4.0%} · {tick.alive} of {tick.started} alive · "
            f"{rate:,.0f} tokens/s · about {_duration(seconds)} left"
        )
        if self._live:
            self._spinner.update(text=Text(line))
            self._live.update(self._spinner)
        elif now - self._said >= _PLAIN_SECONDS:
            self._said = now
            self._print(" ", "dim", line)

    def _print(self, mark: str, style: str, text: str) -> None:
        """A mark and a text whose further lines are indented under the first."""
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=1)
        grid.add_column(overflow="fold")
        grid.add_row(Text(mark, style=style), Text(text, style="dim" if style == "dim" else ""))
        self.console.print(grid)


def summary(found: Mapping[str, Any]) -> RenderableType:
    """The answer of a study, from the document in `result.json`."""
    best, baseline = found["recommendation"], found["baseline"]
    loss = best["validation_loss"]
    head = Text.assemble(
        ("Use ", "bold"),
        (
            f"rank {best['rank']}, alpha {best['alpha']:g}, {best['targets']}, learning rate {best['learning_rate']:g}",
            "bold green",
        ),
    )
    lines = [
        f"Validation loss {loss['mean']:.3f} ({loss['low']:.3f} to {loss['high']:.3f}) against "
        f"{baseline['validation_loss']:.3f} untuned, in nats a token.",
        f"Test split, opened once: {_metrics(best['test'])}.",
        f"Untuned: {_metrics(baseline['test'])}.",
    ]
    cost = found["cost"]
    spent = cost["candidate_tokens"] / cost["single_run_tokens"]
    notes = [
        f"Cost: {_duration(cost['wall_seconds'])}, {cost['candidate_tokens']:,} training tokens, "
        f"as many as {spent:.1f} single runs.",
        "± is half the 95 % interval over the validation rows. Memory is the process's peak while the candidate's pack "
        "trained; seconds are its share of the packs it was in.",
        *(f"ˡ {note}" for note in _leavers(found)),
        *(f"Not covered: {note[0].lower()}{note[1:]}" for note in found["not_covered"]),
    ]
    return Group(
        Text(),
        head,
        *(Text(line) for line in lines),
        Text(),
        _table(found),
        Text(),
        *(Text(note, style="dim") for note in notes),
        Text(),
        *(_sentence(verdict) for verdict in found["verdicts"]),
        Text(),
        Text("To train with it elsewhere:"),
        Padding(Syntax(lora_config(best), "python", background_color="default", word_wrap=True), (0, 0, 0, 2)),
        Text(),
    )


def lora_config(best: Mapping[str, Any]) -> str:
    """The recommendation as a line of PEFT to paste."""
    modules = ", ".join(f'"{name}"' for name in best["target_modules"])
    extra = "    use_rslora=True,\n" if best["use_rslora"] else ""
    if best.get("dropout"):
        extra += f"    lora_dropout={best['dropout']:g},\n"
    return (
        "from peft import LoraConfig\n\n"
        f"LoraConfig(  # learning rate {best['learning_rate']:g}\n"
        f"    r={best['rank']},\n    lora_alpha={best['alpha']:g},\n"
        f"    target_modules=[{modules}],\n{extra}"
        '    task_type="CAUSAL_LM",\n)'
    )


def _table(found: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True, show_edge=False)
    for name in ("rank", "alpha"):
        table.add_column(name, justify="right")
    table.add_column("targets", overflow="fold")
    for name in ("rate", "loss", "parameters", "memory", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    ordered = sorted(found["candidates"], key=lambda c: (c["rank"], c["learning_rate"]))
    for candidate in ordered:
        chosen = candidate["id"] == found["recommendation"]["candidate"]
        table.add_row(
            f"▸ {candidate['rank']}" if chosen else str(candidate["rank"]),
            f"{candidate['alpha']:g}",
            candidate["targets"],
            f"{candidate['learning_rate']:g}",
            _loss(candidate),
            f"{candidate['parameters']:,}",
            f"{candidate['peak_memory_bytes'] / 1e9:.2f} GB",
            f"{candidate['seconds']:.0f}",
            style="bold green" if chosen else "dim" if candidate["status"] != "trained" else "",
        )
    return table


def _loss(candidate: Mapping[str, Any]) -> str:
    bounds = candidate["validation_interval"]
    if bounds is None:
        return "diverged"
    mark = "ˡ" if candidate["status"] == "left" else " "
    return f"{bounds['mean']:.3f} ± {(bounds['high'] - bounds['low']) / 2:.3f}{mark}"


def _leavers(found: Mapping[str, Any]) -> list[str]:
    fractions = {c["fraction"] for c in found["candidates"] if c["status"] == "left"}
    return [f"left early: its loss is the one at {fraction:.0%} of the budget." for fraction in sorted(fractions)]


def _sentence(verdict: Mapping[str, Any]) -> RenderableType:
    outcome: Outcome = verdict["outcome"]
    mark, style = _MARKS[outcome]
    grid = Table.grid(padding=(0, 1))
    grid.add_row(Text(mark, style=style), Text(verdict["says"]))
    return grid


def _metrics(metrics: Mapping[str, float]) -> str:
    shares = ("exact_match", "answered")
    return ", ".join(
        f"{name.replace('_', ' ')} {value:.1%}" if name in shares else f"{name.replace('_', ' ')} {value:,.3f}"
        for name, value in metrics.items()
    )


def _in_words(candidates: tuple[Candidate, ...]) -> str:
    """What a heat tries: the ranks, and the rates."""
    ranks = sorted({c.rank for c in candidates})
    rates = sorted({c.learning_rate for c in candidates})
    return f"rank {', '.join(map(str, ranks))} at {', '.join(f'{rate:g}' for rate in rates)}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return (
        f"{whole // 60} min {whole % 60:02d} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    )
