"""The texts that the candidates of a study generate, and the metrics that they are judged by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rung.data.arrow_store import Examples, Texts
from rung.data.model_limits import count_possible_truncations
from rung.data.prepare import Data
from rung.errors import MetricError
from rung.metrics.evaluate import Evaluator
from rung.metrics.metric import CompletionStats, Metric
from rung.recipe import Recipe
from rung.runner.protocol import Runner
from rung.study.folder import candidate_label
from rung.study.ledger import Ledger
from rung.types import Candidate, Generation, Measurement, Scores

SAMPLED_ROWS = 20_000
"""The rows of a split that are read to see what its completions are like."""


def make_evaluator(data: Data, recipe: Recipe) -> Evaluator:
    """The metrics of a study: those that the recipe names, or those that fit the completions.

    Raises:
        MetricError: there is no such metric, or the user's own fails on a row.
    """
    if data.stats.record_format == "text":
        if recipe.metrics or recipe.judge != "loss":
            raise MetricError(
                "The rows are texts without prompts, so nothing is generated and only the loss can "
                "judge."
            )
        return Evaluator((), CompletionStats.of([]))
    texts = _sample(data.train)
    evaluator = Evaluator.of(
        [text.answer for text in texts],
        recipe.metrics,
        recipe.judge,
        data.stats.numbers.convention(recipe.numbers),
        {
            name: [text.answer for text in _sample(data.splits[name])]
            for name in ("validation", "test")
        },
    )
    # A metric that fails is better found now than when everything is trained.
    evaluator.values([Generation(t.answer, t.answer, t.prompt, t.location) for t in texts[:2]])
    return evaluator


def _sample(rows: Examples) -> list[Texts]:
    step = max(1, len(rows) // SAMPLED_ROWS)
    return [rows.texts(row) for row in range(0, len(rows), step)]


def tell_cut_generations(data: Data, positions: int | None, tell: Callable[[str], None]) -> None:
    """Tell where the model has too few positions after a prompt for the longest completion."""
    for name in ("validation", "test"):
        if short := count_possible_truncations(data.splits[name], positions):
            tell(
                f"after {short:,} of {len(data.splits[name]):,} {name} prompts the model's "
                f"{positions:,} positions leave less room than the longest completion takes, so "
                "texts generated there may be cut"
            )


class Generations:
    """The texts of a study's candidates, generated when they are first asked for.

    Where a metric judges, it takes the place of the loss of candidates trained in full: their
    scores are the metric's distance from its best value.

    Args:
        judge: the metric that decides; None for the loss.
        tell: is told when candidates generate.
    """

    def __init__(
        self,
        runner: Runner,
        ledger: Ledger,
        evaluator: Evaluator,
        judge: Metric | None,
        tell: Callable[[str], None],
    ) -> None:
        self.runner, self.ledger, self.tell = runner, ledger, tell
        self.evaluator, self.judge = evaluator, judge
        self._judge_scores: dict[Candidate | None, Scores | None] = {}

    def texts(self, who: Sequence[Candidate | None], split: str) -> list[list[Generation]]:
        """The texts for a split, of candidates trained in full and of the untuned model (None)."""
        kept = {one: self.ledger.generations(split, candidate_label(one)) for one in who}
        if missing := [one for one in who if kept[one] is None]:
            several = f"{len(missing)} candidates generate"
            one = f"{candidate_label(missing[0])} generates"
            self.tell(f"{several if len(missing) > 1 else one} texts for the {split} rows")
            generated = self.runner.generate(missing, split)
            for one_missing, texts in zip(missing, generated, strict=True):
                self.ledger.record_generations(split, candidate_label(one_missing), texts)
                kept[one_missing] = texts
        return [kept[one] or [] for one in who]

    def judge_scores(self, who: Candidate | None) -> Scores | None:
        """The scores in the metric that judges, of a candidate trained in full or untuned."""
        assert self.judge is not None
        if who not in self._judge_scores:
            (texts,) = self.texts([who], "validation")
            self._judge_scores[who] = self.evaluator.scores(self.judge, texts)
        return self._judge_scores[who]

    def as_judged(self, history: Sequence[Measurement]) -> list[Measurement]:
        """The measurements as the strategy is to see them."""
        if self.judge is None:
            return list(history)
        finished = [m.candidate for m in history if m.fraction == 1 and m.scores]
        self.texts(finished, "validation")  # in packs, and not one by one
        return [
            replace(m, scores=self.judge_scores(m.candidate))
            if m.candidate in finished and m.fraction == 1
            else m
            for m in history
        ]
