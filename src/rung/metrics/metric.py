"""What a metric is, and its value with what an interval needs.

Every metric is a smooth function of sums over rows: of matches and rows, of edits and words, of
true and false labels. So each row has counts, and the metric is computed from their sums. Its error
comes from the jackknife (Efron and Stein, Annals of Statistics 9, 1981): the *pseudo-value* of a
row says how the metric changes when the row is left out, and is the row's own value where the
metric is a mean. Two models are compared by the differences between pseudo-values of the same rows,
with the functions that compare losses. Only a median is not such a function: it has no interval.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rung.formats.numbers import POINT, Column, Convention
from rung.types import Generation

Array = npt.NDArray[np.float64]

MAX_LABELS = 20
MIN_ROWS_PER_LABEL = 10
"""Completions are labels where there are at most `MAX_LABELS` different ones, and on average at
least this many rows for each."""


@dataclass(frozen=True, slots=True)
class CompletionStats:
    """What the completions of the training rows are like.

    Attributes:
        labels: the different completions, sorted, where they are labels; else empty.
        median: of the numbers in them; None where there are none.
        trivial_text: what the trivial predictor always generates: the most frequent completion, or
            the median where all are numbers.
        numbers: how their numbers are written, by which all texts are read.
        all_numbers: whether each of them is a number and nothing else, in one unit.
    """

    labels: tuple[str, ...]
    median: float | None
    trivial_text: str
    numbers: Convention = POINT
    all_numbers: bool = False

    @classmethod
    def of(cls, completions: Sequence[str], numbers: Convention | None = None) -> CompletionStats:
        """Look at the completions. They also tell how numbers are written, if that is not given."""
        counts = collections.Counter(text.strip() for text in completions)
        max_labels = min(MAX_LABELS, len(completions) / MIN_ROWS_PER_LABEL)
        labels = tuple(sorted(counts)) if 1 < len(counts) <= max_labels else ()
        column = Column.of(completions)
        numbers = numbers or column.convention()
        values = [value for text in completions if (value := numbers.read_first(text)) is not None]
        median = float(np.median(values)) if values else None
        all_numbers = median is not None and column.is_numeric(numbers)
        if median is not None and all_numbers and not labels:
            trivial_text = numbers.write(median)
        else:
            trivial_text = counts.most_common(1)[0][0] if counts else ""
        return cls(labels, median, trivial_text, numbers, all_numbers)

    def read_wanted(self, text: str) -> float | None:
        """The number in a wanted completion; None where there is none.

        The whole text has to be the number where `all_numbers`, else it is the first in the text.
        """
        return self.numbers.read(text) if self.all_numbers else self.numbers.read_first(text)


Counts = Callable[[Sequence[Generation], CompletionStats], Array]
Total = Callable[[Array], Array]


@dataclass(frozen=True)
class Metric:
    """How generated texts are scored.

    Attributes:
        best_value: the best value where higher is better, infinite where there is no bound. None
            where lower is better; 0 is the best value then.
        counts: gives the counts of each of n rows, (n, k).
        total: the metric from the summed counts, (…, k) ─▶ (…). None where the metric is the median
            of the only count of each row, which no sum gives.
        is_share: whether it is a share, between 0 and 1.
    """

    name: str
    best_value: float | None
    counts: Counts
    total: Total | None
    is_share: bool = False

    @property
    def lower_is_better(self) -> bool:
        return self.best_value is None

    def to_loss(self, value: float) -> float:
        """The value turned into something to lower, and back: the function is its own inverse."""
        if self.best_value is None:
            return value
        return -value if math.isinf(self.best_value) else self.best_value - value


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A metric over n rows: its value, and the rows' pseudo-values (n,), whose mean is the value.

    A median, and a metric of fewer than two rows, have no pseudo-values: (0,).
    """

    value: float
    pseudo_values: Array


def evaluate(
    metric: Metric, generations: Sequence[Generation], stats: CompletionStats
) -> Evaluation:
    """The metric of these generations. Its value is NaN where no row counts.

    Args:
        stats: of the training rows' completions.
    """
    counts = metric.counts(generations, stats)
    if metric.total is None:
        return Evaluation(float(np.median(counts)) if len(counts) else math.nan, np.zeros(0))
    sums, n = counts.sum(axis=0), len(generations)
    value = float(metric.total(sums))
    if n < 2 or math.isnan(value):
        return Evaluation(value, np.zeros(0))
    pseudo_values = n * value - (n - 1) * metric.total(sums - counts)
    # The mean of the pseudo-values corrects a bias of order 1/n. Rung shows and compares the metric
    # itself, so they are shifted to have that for their mean.
    finite = np.isfinite(pseudo_values)
    mean = float(np.mean(pseudo_values[finite])) if finite.any() else value
    return Evaluation(value, np.where(finite, pseudo_values - mean + value, value))


def mean_of(row_value: Callable[[Generation], float]) -> Counts:
    """The counts of a metric that is the mean of a value of each row; its total is `ratio`."""

    def counts(generations: Sequence[Generation], _: CompletionStats) -> Array:
        return np.array([[row_value(row), 1.0] for row in generations])

    return counts


def ratio(sums: Array) -> Array:
    """The first sum over the second; 0 where the second is 0."""
    quotient: Array = np.divide(
        sums[..., 0], sums[..., 1], out=np.zeros(sums.shape[:-1]), where=sums[..., 1] != 0
    )
    return quotient


def humanize(name: str) -> str:
    """A metric's name as words: `exact_match` ─▶ `exact match`."""
    return name.replace("_", " ")
