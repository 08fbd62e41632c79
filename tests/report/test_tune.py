from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from rung.report.tune import Progress, lora_config, summary
from rung.runner.protocol import StepProgress
from rung.search.strategy import Decision, Stage
from rung.types import Candidate, Setting, Verdict


class Clock:
    """A clock that is moved by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


STAGE = Stage(
    "rank",
    (Candidate(Setting(8, 16, "attention", 1e-3)), Candidate(Setting(16, 32, "attention", 1e-3))),
)


def show(terminal: bool) -> tuple[Progress, Clock, io.StringIO]:
    out, clock = io.StringIO(), Clock()
    console = Console(
        file=out, width=80, force_terminal=terminal, force_jupyter=False, color_system=None
    )
    return Progress(console, clock), clock, out


def test_in_a_pipe_every_event_is_a_line_and_progress_comes_twice_a_minute() -> None:
    progress, clock, out = show(terminal=False)
    with progress:
        progress.note("scoring")
        progress.stage(Decision((), stage=STAGE, remaining=1.0), 6000)
        for step in range(1, 61):
            clock.now = float(step)
            progress.tick(StepProgress(200, 2, 2, 12000 - 200 * step))
        progress.verdict(
            Verdict("rank", 8, 16, 0.1, 0.05, 0.15, 0.01, "better", 200, 1, "Rank 8 → 16: better.")
        )
        progress.left(STAGE.candidates[0], "it diverged")
    lines = out.getvalue().splitlines()
    assert lines[0].rstrip() == "· scoring"
    assert (
        lines[1].rstrip() == "· rank: 2 settings of rank 8, 16; alpha 16, 32; attention; at 0.001"
    )
    progresses = [line for line in lines if "tokens/s" in line]
    # 200 tokens/s; at 30 s 6,000 of the heat are left, and a budget of 6,000 after it.
    assert [line.strip() for line in progresses] == [
        "rank  50% · 2 of 2 alive · 200 tokens/s · about 1 min 00 s left",
        "rank 100% · 2 of 2 alive · 200 tokens/s · about 30 s left",
    ]
    assert lines[-2].startswith("▲ Rank 8 → 16")
    assert lines[-1].startswith("× r8-a16-attention-lr0.001-s0 leaves: it diverged")
    assert "\x1b" not in out.getvalue()


def test_in_a_terminal_one_line_lives_and_is_gone_at_the_end() -> None:
    progress, clock, out = show(terminal=True)
    with progress:
        progress.stage(Decision((), stage=STAGE), 6000)
        clock.now = 1.0
        progress.tick(StepProgress(100, 2, 2, 11900))
        progress.verdict(
            Verdict("rank", 8, 16, 0.1, 0.05, 0.15, 0.01, "better", 200, 1, "Rank 8 → 16: better.")
        )
    assert "\x1b[2K" in out.getvalue()
    assert "▲ Rank 8 → 16: better." in out.getvalue()


def candidate(rank: int, **changes: Any) -> dict[str, Any]:
    bounds = {"mean": 1.5, "low": 1.4, "high": 1.6}
    return {
        "id": f"r{rank}", "rank": rank, "alpha": 2 * rank, "targets": "attention", "learning_rate": 0.001,
        "use_rslora": False, "seeds": 1,
        "fraction": 1.0, "validation_loss": bounds, "parameters": 460800 * rank, "peak_memory_bytes": 2.5e9,
        "seconds": 61.4, **changes,
    }  # fmt: skip


DOCUMENT: dict[str, Any] = {
    "study": "s",
    "baseline": {"validation_loss": 8.36, "test": {"loss": 8.3, "exact_match": 0.0},
                 "test_rows": {"loss": 400, "written": 200},
                 "trivial": {"writes": "D IY T", "exact_match": 0.01}},
    "metrics": {"judge": "loss", "names": ["exact_match"], "rows": 64, "settings": [
        {"rank": 32, "alpha": 64, "targets": "all-linear+lm_head", "learning_rate": 0.001, "use_rslora": False,
         "metrics": {"exact_match": {"mean": 0.1, "low": 0.05, "high": 0.15}}},
        {"rank": 16, "alpha": 32, "targets": "attention", "learning_rate": 0.001, "use_rslora": False,
         "metrics": {"exact_match": {"mean": 0.2, "low": 0.1, "high": 0.3}}}],
                "says": ["The loss and exact match disagree: rank 32 is better."]},
    "recommendation": {
        **candidate(16), "candidate": "r16", "target_modules": ["k_proj", "q_proj"], "adapter": "a",
        "validation_loss": {"mean": 1.5, "low": 1.4, "high": 1.6}, "test": {"loss": 1.5, "exact_match": 0.125},
        "test_gains": {"loss": {"gain": 6.8, "low": 6.5, "high": 7.1},
                       "exact_match": {"gain": 0.125, "low": 0.09, "high": 0.16}},
        "adapter_validation_loss": 1.49, "effective_rank": 6.2, "cut": [{"rank": 8, "validation_loss": 1.51}],
    },
    "verdicts": [{"outcome": "undecided", "says": "Rank 16 → 32: undecided."}],
    "noise": {"standard_deviation": 0.0213, "freedom": 4.0},
    "settings": [
        candidate(16, seeds=3), candidate(8, fraction=1 / 8), candidate(32, validation_loss=None),
        candidate(64, alpha=16, use_rslora=True, targets="all-linear+lm_head", seeds=3, learning_rate=0.00015),
    ],
    "cost": {"wall_seconds": 431.0, "candidate_tokens": 100_000, "single_run_tokens": 20_000},
    "not_covered": ["One seed for each candidate."],
}  # fmt: skip


def rendered(width: int = 80, document: dict[str, Any] = DOCUMENT) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(summary(document))
    return out.getvalue()


@pytest.mark.parametrize("written", [0, 400])
def test_where_every_test_row_was_written_to_or_none_nothing_is_said_of_it(written: int) -> None:
    baseline = {**DOCUMENT["baseline"], "test_rows": {"loss": 400, "written": written}}
    assert "All but the loss" not in rendered(document={**DOCUMENT, "baseline": baseline})


def test_the_summary_says_what_to_use_why_at_what_cost_and_what_it_does_not_cover() -> None:
    text = rendered()
    assert "Use rank 16, alpha 32, attention, learning rate 0.001" in text
    assert "Validation loss 1.500 (1.400 to 1.600) against 8.360 untuned" in text
    (line,) = (line for line in text.splitlines() if line.startswith("exact match"))
    assert line.split() == [
        "exact",
        "match",
        "12.5%",
        "0.0%",
        "12.5%",
        "(9.0%",
        "to",
        "16.0%)",
        "1.0%",
    ]
    assert "always 'D IY T'" in text
    assert "on 400 test rows" in text
    assert "All but the loss on 200 of them" in text
    one, other = (line.split("  ") for line in text.splitlines() if "%" in line and "rank" in line)
    assert [part.strip() for part in one if part] == [
        "▸ rank 16, alpha 32, attention, 0.001",
        "20.0% ± 10.0%",
    ]
    assert [part.strip() for part in other if part.strip()] == [
        "rank 32, alpha 64, all-linear+lm_head, 0.001",
        "10.0% ± 5.0%",
    ]
    assert "The loss and exact match disagree: rank 32 is better." in text
    assert "? Rank 16 → 32: undecided." in text
    assert "uses 6.2 (effective rank, by SVD); cut down to 8: 1.510, against 1.490." in " ".join(
        text.split()
    )
    assert "7 min 11 s, 100,000 training tokens, as many as 5.0 single runs" in text
    assert "Not covered: one seed for each candidate." in text


def test_the_table_marks_the_chosen_one_and_says_how_far_each_came() -> None:
    rows = {
        line.split()[0 if line.strip()[0] != "▸" else 1]: line
        for line in rendered().splitlines()
        if "GB" in line
    }
    assert rows["16"].strip().startswith("▸ 16")
    assert "100% × 3  1.500 ± 0.100" in rows["16"]
    assert "12%  1.500 ± 0.100" in rows["8"]
    assert "diverged" in rows["32"]
    assert "16√" in rows["64"]
    assert "varies by 0.021" in " ".join(rendered().split())


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_is_wider_than_the_terminal_and_no_cell_is_cut(width: int) -> None:
    text = rendered(width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert "29.5M" in text


def test_the_line_to_paste_is_python_that_peft_takes() -> None:
    names: dict[str, Any] = {}
    exec(
        lora_config(DOCUMENT["recommendation"]).replace(
            "\n\nLoraConfig(", "\nconfig = LoraConfig("
        ),
        names,
    )
    config = names["config"]
    assert (config.r, config.lora_alpha, config.target_modules) == (16, 32, {"k_proj", "q_proj"})
    assert "use_rslora=True" in lora_config({**DOCUMENT["recommendation"], "use_rslora": True})
