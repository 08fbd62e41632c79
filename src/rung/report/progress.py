"""A study's progress in a terminal, in a pipe and in a notebook.

It goes to standard error. In a terminal one line at the bottom is rewritten and everything else
scrolls above it. In a pipe and in a notebook, where lines cannot be rewritten, a line of progress
comes twice a minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from rung.report.format import alpha_words, count, duration, fraction_words, rate_words
from rung.report.layout import hanging, marked
from rung.report.sentences import exclusion_sentence, standing_sentence, verdict_sentence
from rung.runner.protocol import StepProgress
from rung.search.strategy import Exclusion, LeverStanding, Stage
from rung.types import Candidate, Verdict

SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """An `Observer` that shows everything on a console.

    It is a context manager: the live line is removed at the end.

    Args:
        clock: gives the time in seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.clock = console, clock
        self._live: Live | None = None
        self._spinner = Spinner("dots")
        self._stage: Stage | None = None
        self._full_tokens = 0
        self._last_line = clock()
        self._rate_since: float | None = None
        self._tokens = self._timed_tokens = 0

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
        self._print_dim("·", text)
        if self._live:
            self._show_live(Text("working", style="dim"))

    def stage_started(self, stage: Stage, full_tokens: int) -> None:
        self._stage, self._full_tokens = stage, full_tokens
        # Before its first step a stage makes its packs and may measure the memory. That is left out
        # of the rate.
        self._rate_since, self._tokens, self._timed_tokens = None, 0, 0
        until = ""
        if stage.fraction < 1:
            until = f"; to {fraction_words(stage.fraction)} of the training"
        self._print_dim("·", f"{stage.phase}: {candidates_words(stage.candidates)}{until}")

    def step_done(self, progress: StepProgress) -> None:
        assert self._stage is not None
        now = self.clock()
        self._tokens += progress.tokens
        if self._rate_since is None:
            self._rate_since = now
            return
        self._timed_tokens += progress.tokens
        rate = self._timed_tokens / max(now - self._rate_since, 1e-9)
        later = self._stage.remaining * self._full_tokens
        seconds = (progress.remaining_tokens + later) / rate
        share = self._tokens / (self._tokens + progress.remaining_tokens)
        line = (
            f"{self._stage.phase} {share:4.0%} · {progress.running} of {progress.started} running "
            f"· {rate:,.0f} tokens/s · about {duration(seconds)} left"
        )
        if self._live:
            self._show_live(Text(line))
        elif now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._print_dim(" ", line)

    def excluded(self, candidate: Candidate, exclusion: Exclusion) -> None:
        """Only what diverged is shown: that others are behind is what a race is for."""
        if exclusion.reason == "diverged":
            text = Text(exclusion_sentence(candidate, exclusion))
            self.console.print(hanging(Text("×", style="red"), text))

    def standing(self, standing: LeverStanding) -> None:
        self._print_dim("·", standing_sentence(standing))

    def verdict(self, verdict: Verdict) -> None:
        self.console.print(marked(verdict.outcome, verdict_sentence(verdict)))

    def _show_live(self, text: Text) -> None:
        assert self._live is not None
        self._spinner.update(text=text)
        self._live.update(self._spinner)

    def _print_dim(self, mark: str, text: str) -> None:
        self.console.print(hanging(Text(mark, style="dim"), Text(text, style="dim")))


def candidates_words(candidates: Sequence[Candidate]) -> str:
    """What a stage tries: how many settings, the values of each lever, and how many seeds."""
    settings = list(dict.fromkeys(candidate.setting for candidate in candidates))
    ranks = sorted({setting.rank for setting in settings})
    by_alpha = sorted(settings, key=lambda setting: (setting.alpha, setting.use_rslora))
    alphas = dict.fromkeys(map(alpha_words, by_alpha))
    rates = sorted({setting.learning_rate for setting in settings})
    parts = [
        f"{count(len(settings), 'setting')} of rank {', '.join(map(str, ranks))}",
        f"alpha {', '.join(alphas)}",
        ", ".join(sorted({setting.targets for setting in settings})),
        f"learning rate {', '.join(map(rate_words, rates))}",
    ]
    seeds = len({candidate.seed for candidate in candidates})
    return "; ".join(parts) + (f"; {seeds} seeds" if seeds > 1 else "")
