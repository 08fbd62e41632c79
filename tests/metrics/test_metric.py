"""The value of a metric, its pseudo-values, and what the training completions tell."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.formats.numbers import COMMA
from rung.metrics.metric import CompletionStats, Metric, evaluate, humanize, ratio
from rung.metrics.registry import METRICS, NEED_NUMBERS
from rung.types import Generation

NO_STATS = CompletionStats((), None, "")
ROWS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "1", "2.5", "{}", "x y z", ""]),
        st.sampled_from(["a", "b", "1", "30", "y x"]),
    ),
    min_size=2,
    max_size=12,
)


@given(ROWS, st.sampled_from(sorted(set(METRICS) - {"bleu", "chrf", "rouge_l"})))
def test_the_mean_of_the_pseudo_values_is_the_metric(
    rows: list[tuple[str, str]], name: str
) -> None:
    generations = [Generation(text, wanted) for text, wanted in rows]
    stats = CompletionStats.of([wanted for _, wanted in rows])
    evaluation = evaluate(METRICS[name], generations, stats)
    if name in NEED_NUMBERS and all(stats.read_wanted(wanted) is None for _, wanted in rows):
        assert math.isnan(evaluation.value)
        return
    assert math.isfinite(evaluation.value)
    if METRICS[name].total:
        mean = float(np.mean(evaluation.pseudo_values))
        assert mean == pytest.approx(evaluation.value, abs=1e-9)
    else:
        assert not len(evaluation.pseudo_values)


def test_the_pseudo_value_of_a_mean_is_the_rows_own_value() -> None:
    rows = [Generation("a", "a"), Generation("b", "a"), Generation("a", "a")]
    evaluation = evaluate(METRICS["exact_match"], rows, NO_STATS)
    assert evaluation.pseudo_values == pytest.approx([1, 0, 1])


@pytest.mark.parametrize("name", ["phoneme_error_rate", "macro_f1", "r2", "rmsle"])
def test_the_jackknife_error_is_the_spread_over_other_samples_of_rows(name: str) -> None:
    """The mean standard error against the spread over 400 samples, within a fifth."""
    draw = np.random.default_rng(3)
    stats = CompletionStats(("0", "1", "2"), 1.0, "1")

    def sample(n: int) -> list[Generation]:
        wanted = draw.integers(0, 3, n)
        generated = np.where(draw.random(n) < 0.7, wanted, draw.integers(0, 3, n))
        tails = [
            " x" * int(k) if name == "phoneme_error_rate" else "" for k in draw.integers(0, 4, n)
        ]
        return [
            Generation(f"{a}{tail}", f"{b}{tail[:2]}")
            for a, b, tail in zip(generated, wanted, tails, strict=True)
        ]

    evaluations = [evaluate(METRICS[name], sample(150), stats) for _ in range(400)]
    spread = float(np.std([evaluation.value for evaluation in evaluations]))
    errors = [float(np.std(own.pseudo_values, ddof=1)) / math.sqrt(150) for own in evaluations]
    assert float(np.mean(errors)) == pytest.approx(spread, rel=0.2)


def test_a_label_with_one_row_does_not_spoil_the_error_of_the_others() -> None:
    rows = [Generation("a", "a")] * 40 + [Generation("b", "b")] * 23 + [Generation("a", "c")]
    stats = CompletionStats(("a", "b", "c"), None, "a")
    evaluation = evaluate(METRICS["macro_f1"], rows, stats)
    assert float(np.std(evaluation.pseudo_values, ddof=1)) / 8 < 0.05


def test_rows_that_are_left_out_do_not_change_the_error() -> None:
    stats = CompletionStats.of(["1000", "1200", "1400"])
    rows = [Generation(str(1000 + 10 * i), "1000") for i in range(20)]
    left_out = [Generation("9", "?")] * 20
    own = evaluate(METRICS["mean_absolute_error"], rows, stats)
    more = evaluate(METRICS["mean_absolute_error"], [*rows, *left_out], stats)
    assert own.value == more.value == 95
    own_variance = own.pseudo_values.std() ** 2 / 20
    assert more.pseudo_values.std() ** 2 / 40 == pytest.approx(own_variance, rel=0.06)


@pytest.mark.parametrize(
    ("best_value", "lower_is_better", "losses"),
    [(None, True, [0.25, 3]), (1.0, False, [0.75, -2]), (math.inf, False, [-0.25, -3])],
)
def test_a_metric_becomes_a_loss_and_back(
    best_value: float | None, lower_is_better: bool, losses: list[float]
) -> None:
    metric = Metric("x", best_value, METRICS["exact_match"].counts, ratio)
    assert metric.lower_is_better == lower_is_better
    assert [metric.to_loss(0.25), metric.to_loss(3)] == losses
    assert [metric.to_loss(loss) for loss in losses] == [0.25, 3]


def test_completions_are_labels_if_there_are_few_of_them_and_many_rows_of_each() -> None:
    assert CompletionStats.of(["yes"] * 30 + ["no"] * 10).labels == ("no", "yes")
    assert CompletionStats.of([f"text {i}" for i in range(40)]).labels == ()
    assert CompletionStats.of(["yes", "no"] * 9).labels == (), "fewer than ten rows of each"
    assert CompletionStats.of(["yes"] * 40).labels == (), "there is nothing to choose from"


def test_the_trivial_predictor_generates_the_most_frequent_completion_or_the_median() -> None:
    assert CompletionStats.of(["yes"] * 30 + ["no"] * 10).trivial_text == "yes"
    stats = CompletionStats.of(["10", "20", "60"])
    assert (stats.median, stats.trivial_text) == (20, "20")
    assert CompletionStats.of([]).trivial_text == ""


def test_the_completions_tell_how_numbers_are_written() -> None:
    stats = CompletionStats.of(["3,14", "2,50", "1,75", "1.200,5"] * 3)
    assert (stats.median, stats.trivial_text) == (pytest.approx(2.82), "2,82")
    assert CompletionStats.of(["1,234", "2,345"]).median == pytest.approx(1789.5)
    assert CompletionStats.of(["1,234", "2,345"], COMMA).median == pytest.approx(1.7895)


def test_a_wanted_number_is_the_whole_text_where_all_completions_are_numbers() -> None:
    numbers, sentences = CompletionStats.of(["1", "2"]), CompletionStats.of(["It is 1", "It is 2"])
    assert (numbers.all_numbers, sentences.all_numbers) == (True, False)
    assert (numbers.read_wanted("about 7"), sentences.read_wanted("about 7")) == (None, 7)


def test_a_metrics_name_as_words() -> None:
    assert humanize("mean_absolute_error") == "mean absolute error"
