"""Metrics of numbers in texts: absolute and logarithmic errors, r2, and the bands of prices.

A generated text without a number counts as if it had the median of the training rows: a model that
does not answer is no better than one that knows nothing. A row whose wanted text has no number is
left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from rung.metrics.metric import Array, CompletionStats, Counts, Metric, Total, ratio
from rung.types import Generation

GREEN, ORANGE = (40.0, 0.2), (80.0, 0.4)
"""The absolute and the relative error below which a number is in the band; one of them is enough.
The bands are those of a course on guessing prices."""

RowCounts = Callable[[Array, Array], Array]
"""Generated numbers (m,) and wanted numbers (m,) ─▶ counts, (m,) or (m, k)."""


def _answered(generations: Sequence[Generation], stats: CompletionStats) -> Array:
    return np.array(
        [[float(stats.numbers.read_first(row.text) is not None), 1.0] for row in generations]
    )


def _read_numbers(
    generations: Sequence[Generation], stats: CompletionStats
) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
    """Generated and wanted numbers of the m rows that count, (m,); and which of n do, (n,)."""
    median = stats.median or 0.0
    wanted = [stats.read_wanted(row.wanted) for row in generations]
    generated = [
        median if (number := stats.numbers.read_first(row.text)) is None else number
        for row in generations
    ]
    counted = np.array([number is not None for number in wanted], dtype=bool)
    return (
        np.array(generated)[counted],
        np.array([number for number in wanted if number is not None]),
        counted,
    )


def _counts_of(row_counts: RowCounts) -> Counts:
    """The counts of a metric of numbers, with a 1 as the last; all are 0 in a row left out."""

    def counts(generations: Sequence[Generation], stats: CompletionStats) -> Array:
        generated, wanted, counted = _read_numbers(generations, stats)
        if not counted.any():
            return np.zeros((len(generations), 4))
        own = row_counts(generated, wanted)
        own = np.stack([own, np.ones_like(own)], axis=1) if own.ndim == 1 else own
        result = np.zeros((len(generations), own.shape[1]))
        result[counted] = own
        return result

    return counts


def _nan_without_rows(total: Total) -> Total:
    """The total, or NaN where every row was left out."""
    return lambda sums: np.where(sums[..., -1] > 0, total(sums), np.nan)


def _absolute_errors(generated: Array, wanted: Array) -> Array:
    errors: Array = np.abs(generated - wanted)
    return errors


def _absolute_error_column(generations: Sequence[Generation], stats: CompletionStats) -> Array:
    """The errors of the rows that count, (m, 1), for a median."""
    generated, wanted, _ = _read_numbers(generations, stats)
    return _absolute_errors(generated, wanted)[:, None]


def _squared_log_errors(generated: Array, wanted: Array) -> Array:
    return (np.log1p(np.maximum(generated, 0.0)) - np.log1p(np.maximum(wanted, 0.0))) ** 2


def _r2_counts(generated: Array, wanted: Array) -> Array:
    """Squared errors, and the first two powers of the wanted numbers."""
    # Counted from one of them: the squares of large numbers would lose their differences.
    shifted = wanted - wanted[0]
    return np.stack([(generated - wanted) ** 2, shifted, shifted**2, np.ones_like(wanted)], axis=1)


def _r2(sums: Array) -> Array:
    """1 − Σ(y − ŷ)² / Σ(y − ȳ)²."""
    squared_error, first, second, n = np.moveaxis(sums, -1, 0)
    spread = second - first**2 / np.maximum(n, 1)
    # If all wanted numbers are the same there is nothing to explain: 1 for no error, else 0.
    constant = spread <= 1e-12 * second
    r2: Array = 1 - np.divide(
        squared_error,
        spread,
        out=np.array(squared_error > 0, dtype=np.float64),
        where=~constant,
    )
    return r2


def _within(band: tuple[float, float]) -> RowCounts:
    def hits(generated: Array, wanted: Array) -> Array:
        errors = _absolute_errors(generated, wanted)
        inside: Array = ((errors < band[0]) | (errors < band[1] * np.abs(wanted))).astype(
            np.float64
        )
        return inside

    return hits


def _root_mean(sums: Array) -> Array:
    root: Array = np.sqrt(ratio(sums))
    return root


ANSWERED = Metric("answered", 1.0, _answered, ratio, is_share=True)
"""The share of rows whose text has a number; it counts every row."""

NUMBER_METRICS = (
    Metric("mean_absolute_error", None, _counts_of(_absolute_errors), _nan_without_rows(ratio)),
    Metric("median_absolute_error", None, _absolute_error_column, None),
    Metric("rmsle", None, _counts_of(_squared_log_errors), _nan_without_rows(_root_mean)),
    Metric("r2", 1.0, _counts_of(_r2_counts), _nan_without_rows(_r2)),
    Metric("green", 1.0, _counts_of(_within(GREEN)), _nan_without_rows(ratio), is_share=True),
    Metric(
        "green_or_orange", 1.0, _counts_of(_within(ORANGE)), _nan_without_rows(ratio), is_share=True
    ),
)
"""The metrics that leave out rows whose wanted text has no number."""
