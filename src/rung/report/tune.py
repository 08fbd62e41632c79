"""What `rung tune` prints at the end: the setting to use, and the evidence for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from rung.report.format import fixed, loss_decimals, setting_words
from rung.report.ladder import ladder_part
from rung.report.layout import marked
from rung.report.levers import levers_part
from rung.report.quality import quality_part, settings_part
from rung.report.sentences import (
    choice_sentence,
    conclusion,
    cost_sentence,
    noise_sentence,
    not_covered_sentence,
)
from rung.tuning.result import Recommendation, StudyResult

CODE_WIDTH = 76
"""Columns of the code to paste."""


def summary(result: StudyResult, folder: Path) -> RenderableType:
    """The answer of a study, at 80 columns or more.

    Args:
        folder: the study's.
    """
    best = result.recommendation
    parts: list[RenderableType] = [Text()]
    for part in (
        _answer(result),
        levers_part(result),
        ladder_part(result),
        quality_part(result),
        settings_part(result),
        _notes(result),
        _code(best),
        _paths(best, folder),
    ):
        if lines := list(part):
            parts += [*lines, Text()]
    return Group(*parts)


def _answer(result: StudyResult) -> Iterator[RenderableType]:
    best, decimals = result.recommendation, loss_decimals(result)
    yield Text.assemble(("Use ", "bold"), (setting_words(best.setting), "bold green"))
    loss = best.validation_loss
    text = f"Validation loss {fixed(loss.mean if loss else best.adapter_validation_loss, decimals)}"
    if loss:
        text += f" ({fixed(loss.low, decimals)} to {fixed(loss.high, decimals)})"
    untuned = fixed(result.baseline.validation_loss, decimals)
    yield Text(f"{text} against {untuned} untuned, in nats a token.")
    for verdict in result.verdicts:
        if verdict.kind == "untuned":
            yield marked(verdict.outcome, f"Against the untuned model: {conclusion(verdict)}.")
    if choice := choice_sentence(result):
        yield Text(choice)


def _notes(result: StudyResult) -> Iterator[RenderableType]:
    peak = max((own.peak_memory_bytes for own in result.settings), default=0)
    yield Text(cost_sentence(result.cost, peak))
    noise = noise_sentence(result.noise, loss_decimals(result))
    raced = any(standing.fraction < 1 for standing in result.standings)
    rest = not_covered_sentence(result.noise is None, raced, list(result.untried))
    yield Text(f"{noise} {rest}", style="dim")


def _code(best: Recommendation) -> Iterator[RenderableType]:
    yield Text("To train with it elsewhere", style="bold")
    # Without an indent and without padding, so that it runs as it is copied.
    yield Text(lora_config(best))


def lora_config(best: Recommendation) -> str:
    """The recommendation as Python to paste."""
    setting, alpha = best.setting, float(best.setting.alpha)
    return (
        "from peft import LoraConfig\n\n"
        f"config = LoraConfig(  # learning rate {setting.learning_rate:g}\n"
        f"    r={setting.rank},\n"
        f"    lora_alpha={int(alpha) if alpha.is_integer() else alpha},\n"
        f"    lora_dropout={setting.dropout},\n"
        f"    use_rslora={setting.use_rslora},\n"
        f"    target_modules={_list(best.target_modules)},\n"
        '    task_type="CAUSAL_LM",\n'
        ")"
    )


def _list(names: Sequence[str]) -> str:
    """A list in Python, in one line or, where that is too long, with a few names a line."""
    quoted = [json.dumps(name, ensure_ascii=False) for name in names]
    one_line = f"[{', '.join(quoted)}]"
    if len(f"    target_modules={one_line},") <= CODE_WIDTH:
        return one_line
    lines = [""]
    for name in quoted:
        if lines[-1] and len(f"{lines[-1]} {name},") > CODE_WIDTH:
            lines.append("")
        lines[-1] += f"{' ' if lines[-1] else '        '}{name},"
    return "\n".join(["[", *lines, "    ]"])


def _paths(best: Recommendation, folder: Path) -> Iterator[RenderableType]:
    for name, path in (("Adapter ", folder / best.adapter), ("Evidence", folder / "result.json")):
        yield Text(f"{name}  {path}", overflow="fold")
