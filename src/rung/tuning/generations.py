"""What the models of a study write, and the metrics that it is judged by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rung.data.arrow_store import Examples, Texts
from rung.data.limits import rows_short_of_room
from rung.data.prepare import Data
from rung.errors import MetricError
from rung.metrics.evaluate import Evaluator
from rung.metrics.text import CompletionStats, Metric
from rung.recipe import Recipe
from rung.runner.protocol import Runner
from rung.study.ledger import Ledger
from rung.types import Candidate, Generation, Measurement, Scores

KNOWN_ROWS = 20_000
"""Rows of a split that are looked at to see what the completions are."""


def make_evaluator(data: Data, recipe: Recipe) -> Evaluator:
    """The metrics of a study: those that the recipe names, or those that fit the completions.

    Raises:
        MetricError: there is no such metric, or the user's own fails on a row.
    """
    texts = _known(data.train)
    if data.facts.shape == "text":
        if recipe.metrics or recipe.judge != "loss":
            raise MetricError(
                "The rows are texts without prompts, so nothing is written and the loss alone can judge."
            )
        return Evaluator((), CompletionStats.of([]))
    numbers = data.facts.numbers.convention(recipe.numbers)
    held = {
        name: [text.after for text in _known(data.splits[name])] for name in ("validation", "test")
    }
    quality = Evaluator.of(
        [text.after for text in texts], recipe.metrics, recipe.judge, numbers, held
    )
    # A metric that cannot be worked out is to be known of now, and not when all is trained.
    quality.values(
        [Generation(text.after, text.after, text.before, text.where) for text in texts[:2]]
    )
    return quality


def _known(rows: Examples) -> list[Texts]:
    step = max(1, len(rows) // KNOWN_ROWS)
    return [rows.texts(row) for row in range(0, len(rows), step)]


def tell_room(data: Data, positions: int | None, tell: Callable[[str], None]) -> None:
    """Say, before anything is trained, where the model's positions end before a text that is to be written may."""
    for name in ("validation", "test"):
        if short := rows_short_of_room(data.splits[name], positions):
            tell(
                f"after {short:,} of {len(data.splits[name]):,} {name} prompts the model's {positions:,} positions "
                "leave less room than the longest completion takes, so what is written there may be cut"
            )


class Generations:
    """What the models of a study have written, as far as it was asked for; each writes to the rows of a split once.

    With a metric to judge by, a candidate's loss in full gives way to that metric's distance from its best.
    """

    def __init__(
        self,
        runner: Runner,
        ledger: Ledger,
        quality: Evaluator,
        judge: Metric | None,
        tell: Callable[[str], None],
    ) -> None:
        self.runner, self.ledger, self.quality, self.judge, self.tell = (
            runner,
            ledger,
            quality,
            judge,
            tell,
        )
        self._judged: dict[Candidate | None, Scores | None] = {}

    def of(self, who: Sequence[Candidate | None], split: str) -> list[list[Generation]]:
        """The texts of each of them."""
        if missing := [one for one in who if self.ledger.written(split, name_of(one)) is None]:
            count = (
                f"{len(missing)} candidates write"
                if len(missing) > 1
                else f"{name_of(missing[0])} writes"
            )
            self.tell(f"{count} to the {split} rows")
            for one, texts in zip(missing, self.runner.generate(missing, split), strict=True):
                self.ledger.record_generations(split, name_of(one), texts)
        return [self.ledger.written(split, name_of(one)) or [] for one in who]

    def judged(self, who: Candidate | None) -> Scores | None:
        """What a candidate that was trained in full, or the untuned model, is judged by, where that is a metric."""
        assert self.judge is not None
        if who not in self._judged:
            self._judged[who] = self.quality.scores(self.judge, self.of([who], "validation")[0])
        return self._judged[who]

    def judge_by(self, history: Sequence[Measurement]) -> list[Measurement]:
        """The measurements as the strategy is to see them."""
        if self.judge is None:
            return list(history)
        finished = [m.candidate for m in history if m.fraction == 1 and m.scores]
        self.of(finished, "validation")
        return [
            replace(m, scores=self.judged(m.candidate))
            if m.candidate in finished and m.fraction == 1
            else m
            for m in history
        ]


def name_of(who: Candidate | None) -> str:
    return who.id if who else "untuned"
