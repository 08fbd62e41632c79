"""What a study looks like in a terminal, in a pipe and in a notebook: its progress, and its answer.

Progress goes to standard error. In a terminal one line at the bottom lives and everything else scrolls above it; in a
pipe and in a notebook, where lines cannot be rewritten, a line of progress comes twice a minute.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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

from rung.metrics.metric import Metric
from rung.metrics.registry import METRICS, SHARES
from rung.runner.protocol import StepProgress
from rung.search.strategy import Decision, in_words
from rung.types import Candidate, Outcome, Verdict

_MARKS: dict[Outcome, tuple[str, str]] = {
    "better": ("▲", "green"),
    "no_worthwhile_gain": ("■", "yellow"),
    "undecided": ("?", "cyan"),
}
_PLAIN_SECONDS = 30.0
_LEVERS = ("rank", "alpha", "targets", "learning_rate", "use_rslora")
_SHOWN_METRICS = 2


class Progress:
    """An `Observer` that shows everything on a console. A context manager: the live line goes when it is left."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.clock = console, clock
        self._live: Live | None = None
        self._spinner = Spinner("dots")
        self._decision: Decision | None = None
        self._full_tokens = 0
        self._said = clock()
        self._begun: float | None = None
        self._done = self._timed = 0

    def __enter__(self) -> Progress:
        if self.console.is_terminal and not self.console.is_jupyter:
            self._live = Live(Text(), console=self.console, transient=True, refresh_per_second=8)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
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
        if "diverged" in why:
            self._print("×", "red", f"{candidate.id} leaves: {why}")

    def stage(self, decision: Decision, full_tokens: int) -> None:
        assert decision.stage is not None
        self._decision, self._full_tokens = decision, full_tokens
        # Before its first step a heat makes its packs and may measure the memory; that is no part of the rate.
        self._begun, self._done, self._timed = None, 0, 0
        part = (
            ""
            if decision.stage.fraction == 1
            else f"; to {in_words(decision.stage.fraction)} of the budget"
        )
        self._print(
            "·", "dim", f"{decision.stage.phase}: {_values(decision.stage.candidates)}{part}"
        )

    def tick(self, tick: StepProgress) -> None:
        assert self._decision is not None
        assert self._decision.stage is not None
        now = self.clock()
        self._done += tick.tokens
        if self._begun is None:
            self._begun = now
            return
        self._timed += tick.tokens
        rate = self._timed / max(now - self._begun, 1e-9)
        seconds = (tick.remaining_tokens + self._decision.remaining * self._full_tokens) / rate
        share = self._done / (self._done + tick.remaining_tokens)
        line = (
            f"{self._decision.stage.phase} {share:4.0%} · {tick.running} of {tick.started} alive · "
            f"{rate:,.0f} tokens/s · about {duration(seconds)} left"
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
        *found["metrics"]["says"],
        _spectrum(best),
    ]
    cost = found["cost"]
    spent = cost["candidate_tokens"] / cost["single_run_tokens"]
    notes = [
        f"Cost: {duration(cost['wall_seconds'])}, {cost['candidate_tokens']:,} training tokens, "
        f"as many as {spent:.1f} single runs.",
        _plus_minus(found),
        "Trained: the share of the full budget, and with how many seeds; what was trained in part raced for a place "
        "among the others, and is shown at its best rate. Memory is the process's peak meanwhile; time is its share of "
        "the packs it was in.",
        *(f"Not covered: {note[0].lower()}{note[1:]}" for note in found["not_covered"]),
    ]
    return Group(
        Text(),
        head,
        *(Text(line) for line in lines),
        Text(),
        _tested(best, baseline),
        *_written_rows(baseline),
        Text(),
        _table(found),
        *_finalists(found),
        Text(),
        *(Text(note, style="dim") for note in notes),
        Text(),
        *(_sentence(verdict) for verdict in found["verdicts"]),
        Text(),
        Text("To train with it elsewhere:"),
        Padding(
            Syntax(lora_config(best), "python", background_color="default", word_wrap=True),
            (0, 0, 0, 2),
        ),
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


def _tested(best: Mapping[str, Any], baseline: Mapping[str, Any]) -> Table:
    """What the test split says, by each metric: the adapter beside the untuned model and the trivial predictor."""
    trivial = baseline["trivial"] or {}
    table = _plain_table()
    table.add_column(f"on {baseline['test_rows']['loss']:,} test rows", no_wrap=True)
    for name in ("adapter", "untuned", "better by"):
        table.add_column(name, justify="right", no_wrap=True)
    if trivial:
        writes = str(trivial["writes"])
        short = writes if len(writes) <= 24 else f"{writes[:23]}…"
        table.add_column(Text(f"always '{short}'"), justify="right", overflow="fold")
    for name, value in best["test"].items():
        gain = best["test_gains"].get(name)
        by = [_value(name, gain[key]) for key in ("gain", "low", "high")] if gain else []
        table.add_row(
            name.replace("_", " "),
            _value(name, value),
            _value(name, baseline["test"][name]),
            f"{by[0]} ({by[1]} to {by[2]})" if by else "",
            *([_value(name, trivial[name]) if name in trivial else ""] if trivial else []),
        )
    return table


def _written_rows(baseline: Mapping[str, Any]) -> list[RenderableType]:
    """That only some of the test rows were written to, where it is so."""
    rows = baseline["test_rows"]
    if rows["written"] in (0, rows["loss"]):
        return []
    return [Text(f"All but the loss on {rows['written']:,} of them.", style="dim")]


def _finalists(found: Mapping[str, Any]) -> list[RenderableType]:
    """The settings that were trained in full, by the first metrics of what they wrote to validation rows."""
    metrics, best = found["metrics"], found["recommendation"]
    names = metrics["names"][:_SHOWN_METRICS]
    if not names or len(metrics["settings"]) < 2:
        return []
    table = _plain_table()
    table.add_column(f"on {metrics['rows']} validation rows", overflow="fold")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
    first = METRICS.get(names[0])
    for setting in sorted(
        metrics["settings"], key=lambda s: _worth(first, s["metrics"][names[0]]["mean"])
    ):
        chosen = all(setting[lever] == best[lever] for lever in _LEVERS)
        mark = "√" if setting["use_rslora"] else ""
        named = f"rank {setting['rank']}, alpha {setting['alpha']:g}{mark}, {setting['targets']}"
        cells = [_with_reach(name, setting["metrics"][name]) for name in names]
        said = f"{'▸ ' if chosen else '  '}{named}, {setting['learning_rate']:.3g}"
        table.add_row(said, *cells, style="bold green" if chosen else "")
    return [Text(), table]


def _worth(metric: Metric | None, mean: float) -> float:
    """To sort by, the best first; of a user's own metric nobody here knows which way is better."""
    return metric.to_loss(mean) if metric else -mean


def _with_reach(name: str, bounds: Mapping[str, float]) -> str:
    if "low" not in bounds:
        return _value(name, bounds["mean"])
    # A share's bounds end at 0 and 1, and then lie unevenly around it.
    reach = max(bounds["high"] - bounds["mean"], bounds["mean"] - bounds["low"])
    return f"{_value(name, bounds['mean'])} ± {_value(name, reach)}"


def _plain_table() -> Table:
    return Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True, show_edge=False
    )


def _spectrum(best: Mapping[str, Any]) -> str:
    """How much of its rank the adapter uses."""
    said = f"Of its rank {best['rank']} the adapter uses {best['effective_rank']:.1f} (effective rank, by SVD)"
    cut = [f"to {one['rank']}: {one['validation_loss']:.3f}" for one in best["cut"]]
    return (
        f"{said}; cut down {', '.join(cut)}, against {best['adapter_validation_loss']:.3f}."
        if cut
        else f"{said}."
    )


def _plus_minus(found: Mapping[str, Any]) -> str:
    noise = found["noise"]
    if noise is None:
        return "± is half the 95 % interval over the validation rows, for one seed."
    return (
        "± is half the 95 % interval, over the validation rows and, where there are several, over the seeds: from seed "
        f"to seed the loss of one setting varies by {noise['standard_deviation']:.3f} (standard deviation, "
        f"{noise['freedom']:.0f} degrees of freedom)."
    )


def _table(found: Mapping[str, Any]) -> Table:
    """The settings that were trained to the end, and under them the others as far as each came, at their best rates."""
    table = _plain_table()
    for name in ("rank", "alpha"):
        table.add_column(name, justify="right")
    table.add_column("targets", overflow="fold")
    for name in ("rate", "trained", "loss", "size", "memory", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    best = found["recommendation"]
    for setting in _shown(found["settings"]):
        chosen = all(setting[lever] == best[lever] for lever in _LEVERS)
        table.add_row(
            f"▸ {setting['rank']}" if chosen else str(setting["rank"]),
            f"{setting['alpha']:g}{'√' if setting['use_rslora'] else ''}",
            setting["targets"],
            f"{setting['learning_rate']:.3g}",
            f"{setting['fraction']:.0%}{f' × {n}' if (n := setting['seeds']) > 1 else ''}",
            _loss(setting),
            f"{setting['parameters'] / 1e6:.3g}M",
            f"{setting['peak_memory_bytes'] / 1e9:.1f} GB",
            f"{setting['seconds']:.0f} s",
            style="bold green"
            if chosen
            else "dim"
            if setting["fraction"] < 1 or not setting["validation_loss"]
            else "",
        )
    return table


def _shown(settings: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """From the best to the worst; of what was trained in part, the best rate of each setting of the other levers."""
    shown, seen = [], set()
    for setting in sorted(settings, key=_place):
        levers = tuple(setting[lever] for lever in ("rank", "alpha", "targets", "use_rslora"))
        if setting["fraction"] == 1 or levers not in seen:
            shown.append(setting)
        seen.add(levers)
    return shown


def _place(setting: Mapping[str, Any]) -> tuple[object, ...]:
    bounds = setting["validation_loss"]
    return (
        -setting["fraction"],
        math.inf if bounds is None else bounds["mean"],
        setting["rank"],
        setting["alpha"],
    )


def _loss(setting: Mapping[str, Any]) -> str:
    bounds = setting["validation_loss"]
    return (
        f"{bounds['mean']:.3f} ± {(bounds['high'] - bounds['low']) / 2:.3f}"
        if bounds
        else "diverged"
    )


def _sentence(verdict: Mapping[str, Any]) -> RenderableType:
    outcome: Outcome = verdict["outcome"]
    mark, style = _MARKS[outcome]
    grid = Table.grid(padding=(0, 1))
    grid.add_row(Text(mark, style=style), Text(verdict["says"]))
    return grid


def metrics_in_words(metrics: Mapping[str, float]) -> str:
    """Such as `loss 1.234, exact match 5.0%`."""
    return ", ".join(
        f"{name.replace('_', ' ')} {_value(name, value)}" for name, value in metrics.items()
    )


def _value(name: str, value: float) -> str:
    if name in SHARES or name.endswith("error_rate"):
        return f"{value:.1%}"
    return f"{value:,.{max(0, 3 - int(math.log10(max(1, abs(value)))))}f}"


def _values(candidates: tuple[Candidate, ...]) -> str:
    """What a heat tries: how many settings, the values of each lever, and how many seeds."""
    seeds = len({c.seed for c in candidates})
    settings = len({replace(c, seed=0) for c in candidates})
    alphas = sorted({(c.alpha, c.use_rslora) for c in candidates})
    parts = [
        f"{settings} setting{'s' * (settings > 1)} of rank {', '.join(map(str, sorted({c.rank for c in candidates})))}",
        f"alpha {', '.join(f'{alpha:g}' + ('√' if rslora else '') for alpha, rslora in alphas)}",
        ", ".join(sorted({c.targets for c in candidates})),
        f"at {', '.join(f'{rate:g}' for rate in sorted({c.learning_rate for c in candidates}))}",
    ]
    return "; ".join(parts) + (f"; {seeds} seeds" if seeds > 1 else "")


def duration(seconds: float) -> str:
    """Such as `3 min 05 s`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return (
        f"{whole // 60} min {whole % 60:02d} s"
        if whole < 3600
        else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    )
