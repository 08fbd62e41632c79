"""Score texts by a metric, for the tests of metrics."""

from __future__ import annotations

from collections.abc import Sequence

from rung.metrics.metric import CompletionStats, evaluate
from rung.metrics.registry import METRICS
from rung.types import Generation


def score(
    name: str, texts: Sequence[str], wanted: Sequence[str], stats: CompletionStats | None = None
) -> float:
    """The metric of these texts; by default the wanted ones are also the training completions."""
    rows = [Generation(text, want) for text, want in zip(texts, wanted, strict=True)]
    return evaluate(METRICS[name], rows, stats or CompletionStats.of(wanted)).value
