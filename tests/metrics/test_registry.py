"""Metrics by their names, and which of them suit some completions."""

from __future__ import annotations

import pytest

from rung.errors import MetricError
from rung.metrics.metric import CompletionStats
from rung.metrics.registry import METRICS, SHARES, find_metric, suggest_metrics


def test_metrics_are_found_by_their_names() -> None:
    assert [find_metric(name).name for name in METRICS] == list(METRICS)
    with pytest.raises(MetricError, match="There is no metric 'best'; there are exact_match, "):
        find_metric("best")


def test_shares_are_better_the_higher_and_at_most_1() -> None:
    assert {METRICS[name].best_value for name in SHARES} == {1.0}
    assert "r2" not in SHARES, "it may be below zero"


@pytest.mark.parametrize(
    ("completions", "first"),
    [
        (["12", "$3,400", "7.5"] * 9, "mean_absolute_error"),
        (['{"a": 1}', '{"a": 2}'] * 9, "json_fields"),
        (["positive", "negative"] * 12, "accuracy"),
        (["0", "1"] * 12, "accuracy"),
        ([" CA", " NY", " TX", " WA"] * 6, "exact_match"),
        ([f" D IH {sound} ER1" for sound in ("K", "T", "B")] * 3, "phoneme_error_rate"),
        ([f"city {i}" for i in range(30)], "exact_match"),
        ([f"a long answer, number {i}, of many words" for i in range(30)], "token_f1"),
    ],
)
def test_the_first_suggested_metric_suits_the_completions(
    completions: list[str], first: str
) -> None:
    assert suggest_metrics(completions, CompletionStats.of(completions))[0] == first


@pytest.mark.parametrize(
    "completions",
    [
        [
            ["B", "D", "F G", "K L", "M"][i % 5] + " " + "BDFGHKLMNPRSTVWYZ"[i % 17]
            for i in range(30)
        ],
        ["2024-01-05", "2023-11-30", "1999-12-31"] * 9,
        ["12:30", "9:15", "7:45 pm"] * 9,
        ["1.2.3", "2.0.1", "1.10"] * 9,
        ["00123", "45678", "90210"] * 9,
        ["5 kg", "300 g", "2 kg"] * 9,
        ["3,1,2", "1,2,3", "2,3,1"] * 9,
    ],
)
def test_letters_dates_and_codes_are_not_taken_for_phonemes_or_numbers(
    completions: list[str],
) -> None:
    texts = [f"{text}{' ' * i}" for i, text in enumerate(completions)]
    stats = CompletionStats((), None, "", CompletionStats.of(texts).numbers)
    assert suggest_metrics(texts, stats)[0] == "exact_match"
