"""What a study shows while it runs."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console
from tests.report.render import words
from tests.report.results import ALPHA, RANK_ABOVE, RANK_BELOW, STANDINGS

from rung.report.progress import Progress, candidates_words
from rung.runner.protocol import StepProgress
from rung.search.strategy import Exclusion, Stage
from rung.tuning.observer import Observer
from rung.types import Candidate, Setting, Verdict


class Clock:
    """A clock that is moved by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


SETTINGS = Setting(8, 16, "attention", 1e-3), Setting(16, 32, "attention", 1e-3)
STAGE = Stage("race", tuple(map(Candidate, SETTINGS)), remaining=1.0)


def show(terminal: bool) -> tuple[Progress, Clock, io.StringIO]:
    out, clock = io.StringIO(), Clock()
    console = Console(
        file=out, width=80, force_terminal=terminal, force_jupyter=False, color_system=None
    )
    return Progress(console, clock), clock, out


def test_in_a_pipe_every_event_is_a_line_and_progress_comes_twice_a_minute() -> None:
    progress, clock, out = show(terminal=False)
    observer: Observer = progress
    with progress:
        observer.note("scoring")
        observer.stage_started(STAGE, 6000)
        for step in range(1, 61):
            clock.now = float(step)
            observer.step_done(StepProgress(200, 2, 2, 12000 - 200 * step))
        observer.verdict(RANK_BELOW)
        observer.excluded(STAGE.candidates[0], Exclusion("diverged"))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert lines[:2] == [
        "· scoring",
        "· race: 2 settings of rank 8, 16; alpha 16, 32; attention; learning rate 0.001",
    ]
    # 200 tokens/s; at 30 s 6,000 of the stage are left, and a full budget of 6,000 after it.
    assert [line.strip() for line in lines if "tokens/s" in line] == [
        "race  50% · 2 of 2 running · 200 tokens/s · about 1 min 00 s left",
        "race 100% · 2 of 2 running · 200 tokens/s · about 30 s left",
    ]
    assert lines[-3].startswith("▲ Rank 16 → 32")
    assert lines[-2].startswith("  "), "a long text goes on under its first line"
    assert lines[-1].startswith("× r8-a16-attention-lr0.001-s0 diverged")
    assert "\x1b" not in out.getvalue()


def test_in_a_terminal_one_line_lives_and_is_gone_at_the_end() -> None:
    progress, clock, out = show(terminal=True)
    with progress:
        progress.stage_started(STAGE, 6000)
        for now in (1.0, 2.0):
            clock.now = now
            progress.step_done(StepProgress(100, 2, 2, 11900))
        progress.verdict(RANK_BELOW)
        # Live draws eight times a second by the real clock, so the line is drawn here.
        progress.console.print()
    text = out.getvalue()
    assert "\x1b[2K" in text
    assert "▲ Rank 16 → 32 (all-linear, in full, 4 seeds): better" in text
    assert "100 tokens/s" in text
    assert text.rpartition("\x1b[2K")[2].strip("\x1b[?25h1A\n ") == "", "the line is gone"


def test_the_time_before_the_first_step_is_left_out_of_the_rate() -> None:
    progress, clock, out = show(terminal=False)
    with progress:
        progress.stage_started(STAGE, 6000)
        clock.now = 100.0  # making packs
        progress.step_done(StepProgress(200, 2, 2, 11800))
        clock.now = 101.0
        progress.step_done(StepProgress(200, 2, 2, 11600))
    assert "200 tokens/s" in out.getvalue()


@pytest.mark.parametrize(
    ("judged", "mark"),
    [(RANK_BELOW, "▲"), (RANK_ABOVE, "?"), (ALPHA, "?")],
)
def test_a_verdict_is_marked_by_its_outcome(judged: Verdict, mark: str) -> None:
    progress, _, out = show(terminal=False)
    progress.verdict(judged)
    assert out.getvalue().startswith(f"{mark} ")
    assert max(map(len, out.getvalue().splitlines())) <= 80


def test_only_candidates_that_diverged_are_shown_as_excluded() -> None:
    progress, _, out = show(terminal=False)
    for exclusion in (Exclusion("behind", 0.25, 1.5, 1.4), Exclusion("stopped_early", 0.25)):
        progress.excluded(STAGE.candidates[0], exclusion)
    assert out.getvalue() == ""


def test_the_standings_of_the_race_are_told() -> None:
    progress, _, out = show(terminal=False)
    progress.standing(STANDINGS[0])
    assert words(out.getvalue()).startswith(
        "· Learning rate after a quarter of the training, the best first: 0.001 (1.601),"
    )


def test_a_stage_tells_what_it_tries() -> None:
    progress, _, out = show(terminal=False)
    rslora = Setting(8, 16, "mlp", 2e-3, use_rslora=True)
    candidates = [Candidate(s, seed) for s in (*SETTINGS, rslora) for seed in (1, 2)]
    assert candidates_words(candidates) == (
        "3 settings of rank 8, 16; alpha 16, 16 rsLoRA, 32; attention, mlp; learning rate 0.001, "
        "0.002; 2 seeds"
    )
    progress.stage_started(replace(STAGE, fraction=0.125), 6000)
    assert words(out.getvalue()).endswith("; to an eighth of the training")
