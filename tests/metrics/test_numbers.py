"""Metrics of numbers in texts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.metrics.scoring import score

from rung.metrics.metric import CompletionStats, evaluate
from rung.metrics.registry import METRICS
from rung.types import Generation


def test_errors_of_numbers() -> None:
    texts, wanted = ["$100", "about 1,300.00", "-5"], ["110", "1300", "5"]
    assert score("mean_absolute_error", texts, wanted) == pytest.approx(20 / 3)
    assert score("median_absolute_error", texts, wanted) == 10
    assert score("rmsle", ["99", "7"], ["49", "7"]) == pytest.approx(math.log(2) / math.sqrt(2))
    y, p = np.array([110.0, 1300, 5]), np.array([100.0, 1300, -5])
    assert score("r2", texts, wanted) == pytest.approx(
        1 - ((y - p) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    )


def test_the_bands_of_prices() -> None:
    """Green: within 40 or 20 %. Orange: within 80 or 40 %."""
    wanted = ["100", "100", "100", "1000", "1000", "1000"]
    texts = ["139", "141", "181", "1199", "1399", "1401"]
    assert score("green", texts, wanted) == pytest.approx(2 / 6)
    assert score("green_or_orange", texts, wanted) == pytest.approx(4 / 6)


def test_a_text_without_a_number_counts_as_the_median() -> None:
    stats = CompletionStats.of(["10", "20", "60"])
    assert score("mean_absolute_error", ["cheap", "12"], ["50", "10"], stats) == pytest.approx(
        (30 + 2) / 2
    )
    assert score("answered", ["cheap", "12"], ["50", "10"], stats) == 0.5


def test_the_median_is_also_known_where_the_numbers_stand_in_sentences() -> None:
    stats = CompletionStats.of([f"It costs ${n} in all" for n in (10, 20, 60)])
    assert score("mean_absolute_error", ["no idea"], ["It costs $50 in all"], stats) == 30


def test_r2_of_numbers_that_are_large_beside_their_spread() -> None:
    wanted = [str(1_700_000_000 + 10 * i) for i in range(300)]
    texts = [str(1_700_000_001 + 10 * i) for i in range(300)]
    assert score("r2", texts, wanted) == pytest.approx(
        1 - 300 / np.sum((10 * (np.arange(300) - 149.5)) ** 2)
    )


def test_r2_of_numbers_that_are_all_the_same_is_1_only_without_error() -> None:
    assert score("r2", ["5", "7"], ["5", "5"]) == 0
    assert score("r2", ["5", "5"], ["5", "5"]) == 1


@pytest.mark.parametrize("name", ["r2", "mean_absolute_error", "rmsle"])
def test_a_number_too_large_to_be_meant_counts_as_no_number(name: str) -> None:
    rows = [Generation("9" * 200, "3"), Generation("4", "4"), Generation("1e300", "5")]
    evaluation = evaluate(METRICS[name], rows, CompletionStats((), 4.0, "4"))
    assert math.isfinite(evaluation.value)
    assert np.isfinite(evaluation.pseudo_values).all()


def test_numbers_are_read_as_the_training_rows_write_them() -> None:
    stats = CompletionStats.of(["3,14", "2,50", "1,75", "1.200,5"] * 3)
    assert score("mean_absolute_error", ["1.000,5", "1.000"], ["1.200,5", "1.200"], stats) == 200
    assert score("answered", ["3,14", "about 2,5", "1.5", "3,1,2"], ["1"] * 4, stats) == 0.5, (
        "1.5 and 3,1,2 are not numbers with a decimal comma"
    )
    point = CompletionStats.of(["1.234", "0.5"])
    assert score("mean_absolute_error", ["1,234"], ["1.234"], point) == pytest.approx(1232.766)


@pytest.mark.parametrize(
    ("text", "wanted", "error"),
    [
        ("5", "-$5", 10),
        ("−5", "5", 10),
        ("-5", "−5", 0),
        ("(5)", "-5", 0),
        ("200k", "200000", 0),
        ("2M", "0", 2e6),
    ],
)
def test_the_signs_and_factors_of_numbers_count(text: str, wanted: str, error: float) -> None:
    stats = CompletionStats.of(["1", "2", "3"])
    assert score("mean_absolute_error", [text], [wanted], stats) == error


def test_a_row_whose_wanted_text_has_no_number_is_left_out() -> None:
    stats = CompletionStats.of(["1000", "1200", "1400"])
    for name in ("mean_absolute_error", "median_absolute_error"):
        texts, wanted = ["1300", "1300", "1300"], ["unknown", "1000", "about 7"]
        assert score(name, texts, wanted, stats) == 300
        assert math.isnan(score(name, ["1300"], ["unknown"], stats)), "no rows give no value"
    for name in ("r2", "rmsle", "green"):
        texts, wanted = ["1", "1000", "1500", "1300"], ["unknown", "1000", "1200", "1700"]
        assert score(name, texts, wanted, stats) == pytest.approx(
            score(name, texts[1:], wanted[1:], stats)
        )
        assert math.isnan(score(name, ["1300"], ["unknown"], stats))
