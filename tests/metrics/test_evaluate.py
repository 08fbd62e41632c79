"""The metrics of a study: values with intervals, gains, and how settings compare."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from rung.errors import MetricError
from rung.metrics.evaluate import Evaluator, judge_metric
from rung.metrics.metric import CompletionStats, Metric, mean_of, ratio
from rung.metrics.report import Disagreement, MetricBounds, MetricInfo, MetricsReport
from rung.types import Candidate, Generation, Setting

RANK_8 = Setting(8, 16, "attention", 1e-3)
RANK_16 = Setting(16, 32, "attention", 1e-3)
LABELS = ["yes", "no"] * 50
SEEDS = (1, 2, 3)
T_99 = 1.984
"""The 97.5 % quantile of Student's t with 99 degrees of freedom."""


def generations(n_correct: int, first: int = 0, rows: int = 100) -> list[Generation]:
    """Texts of which `n_correct` are correct, from the row `first` on."""
    correct = {(first + i) % rows for i in range(n_correct)}
    return [
        Generation("yes" if i in correct else "no", "yes", f"p{i}", f"row {i}", f"s{i}")
        for i in range(rows)
    ]


def candidates(setting: Setting) -> list[Candidate]:
    return [Candidate(setting, seed) for seed in SEEDS]


def width(bounds: MetricBounds) -> float:
    assert bounds.low is not None
    assert bounds.high is not None
    return bounds.high - bounds.low


def test_the_interval_of_a_run_covers_the_choice_of_rows() -> None:
    evaluator = Evaluator.of(LABELS)
    assert [metric.name for metric in evaluator.metrics] == ["accuracy", "macro_f1"]
    assert evaluator.values(generations(70))["accuracy"] == pytest.approx(0.7)
    accuracy = evaluator.intervals(generations(70))["accuracy"]
    assert accuracy.mean == pytest.approx(0.7)
    assert width(accuracy) == pytest.approx(2 * T_99 * np.sqrt(0.7 * 0.3 / 99), rel=1e-3)


def test_the_bounds_of_a_share_stay_between_0_and_1() -> None:
    evaluator = Evaluator.of(LABELS)
    assert evaluator.intervals(generations(99))["accuracy"].high == 1
    assert evaluator.intervals(generations(1))["accuracy"].low == 0


def test_the_trivial_predictor_always_generates_the_same_text() -> None:
    evaluator = Evaluator.of([*LABELS, "yes"])
    assert evaluator.trivial_values(generations(70))["accuracy"] == 1
    assert Evaluator.of([*LABELS, "no"]).trivial_values(generations(70))["accuracy"] == 0


def test_two_runs_are_compared_row_by_row() -> None:
    """Ten more rows are correct and the others unchanged: far more certain than two averages."""
    gain = Evaluator.of(LABELS).gains(generations(60), generations(70))["accuracy"]
    assert gain.gain == pytest.approx(0.1)
    assert gain.high - gain.low == pytest.approx(2 * T_99 * np.sqrt(0.1 * 0.9 / 99), rel=1e-3)
    assert gain.low > 0


def test_rows_of_one_source_count_as_one() -> None:
    evaluator = Evaluator.of(LABELS)
    rows = [replace(row, source=f"s{i // 10}") for i, row in enumerate(generations(70))]
    own, shared = (evaluator.intervals(texts)["accuracy"] for texts in (generations(70), rows))
    assert shared.mean == own.mean
    assert width(shared) > 2 * width(own)


def test_rows_that_are_all_of_one_source_have_no_interval() -> None:
    rows = [replace(row, source="s") for row in generations(70)]
    assert Evaluator.of(LABELS).intervals(rows) == {}


def test_the_scores_of_the_metric_that_judges_are_losses() -> None:
    evaluator = Evaluator.of(LABELS, judge="metric")
    judge = judge_metric("metric", evaluator)
    assert judge
    scores = evaluator.scores(judge, generations(70))
    assert scores
    assert scores.mean == pytest.approx(0.3)
    assert judge_metric("loss", evaluator) is None


def test_a_named_judge_is_added_to_the_metrics() -> None:
    evaluator = Evaluator.of(LABELS, ("token_f1",), "exact_match")
    assert [metric.name for metric in evaluator.metrics] == ["exact_match", "token_f1"]
    with pytest.raises(MetricError, match="There is no metric 'best'"):
        Evaluator.of(LABELS, judge="best")


def test_a_metric_without_an_interval_cannot_judge() -> None:
    evaluator = Evaluator.of(["1", "2"], judge="median_absolute_error")
    with pytest.raises(MetricError, match="median_absolute_error has no interval"):
        judge_metric("median_absolute_error", evaluator)


def test_settings_are_compared_over_their_seeds_with_the_noise_of_seeds() -> None:
    evaluator = Evaluator.of(LABELS)
    runs = {run: generations(60, 7 * run.seed) for run in candidates(RANK_8)}
    runs |= {run: generations(60 + 10 * run.seed, 7 * run.seed) for run in candidates(RANK_16)}
    report = evaluator.report(runs, RANK_8, dict.fromkeys(runs, 1.0), "loss")
    assert (report.rows, report.names) == (100, ("accuracy", "macro_f1"))
    assert [own.seeds for own in report.settings] == [3, 3]
    other, recommended = report.settings
    assert (other.setting, recommended.setting) == (RANK_16, RANK_8)
    assert recommended.metrics["accuracy"].mean == pytest.approx(0.6)
    assert recommended.gains == {}, "the others are compared with it"
    assert other.metrics["accuracy"].mean == pytest.approx(0.8)
    gain = other.gains["accuracy"]
    assert gain.gain == pytest.approx(0.2)
    rows_alone = evaluator.gains(generations(60), generations(80))["accuracy"]
    assert gain.high - gain.low > 2 * (rows_alone.high - rows_alone.low)


def test_the_seed_that_raced_counts_only_where_no_other_seed_was_trained() -> None:
    raced = {Candidate(RANK_8): generations(90), Candidate(RANK_16): generations(50)}
    runs = raced | {run: generations(60, 7 * run.seed) for run in candidates(RANK_8)}
    report = Evaluator.of(LABELS).report(runs, RANK_8, dict.fromkeys(runs, 1.0), "loss")
    by_setting = {own.setting: own for own in report.settings}
    assert (by_setting[RANK_8].seeds, by_setting[RANK_16].seeds) == (3, 1)
    assert by_setting[RANK_8].metrics["accuracy"].mean == pytest.approx(0.6)


def test_a_median_is_reported_without_an_interval() -> None:
    rows = [Generation(str(i), str(2 * i), source=f"s{i}") for i in range(1, 31)]
    evaluator = Evaluator.of([str(i) for i in range(60)], ["median_absolute_error", "rmsle"])
    runs = {Candidate(RANK_8): rows, Candidate(RANK_16): rows}
    report = evaluator.report(runs, RANK_8, dict.fromkeys(runs, 1.0), "loss")
    for own in report.settings:
        assert own.metrics["median_absolute_error"] == MetricBounds(15.5)
        assert own.metrics["rmsle"].low is not None
        assert "median_absolute_error" not in own.gains


def length_error(lower_is_better: bool) -> Metric:
    """A user's own metric: how many characters are missing, or minus that."""
    sign = 1 if lower_is_better else -1
    counts = mean_of(lambda row: sign * float(len(row.wanted) - len(row.text)))
    return Metric("missing", None if lower_is_better else math.inf, counts, ratio)


@pytest.mark.parametrize("lower_is_better", [True, False])
def test_settings_come_best_first_also_by_a_users_own_metric(lower_is_better: bool) -> None:
    evaluator = Evaluator((length_error(lower_is_better),), CompletionStats.of(LABELS))
    runs = {Candidate(RANK_8): generations(90), Candidate(RANK_16): generations(50)}
    report = evaluator.report(runs, RANK_8, dict.fromkeys(runs, 1.0), "loss")
    assert report.metrics == (MetricInfo("missing", lower_is_better),)
    assert [own.setting for own in report.best_first()] == [RANK_8, RANK_16]
    swapped = {Candidate(RANK_8): generations(50), Candidate(RANK_16): generations(90)}
    report = evaluator.report(swapped, RANK_8, dict.fromkeys(runs, 1.0), "loss")
    assert [own.setting for own in report.best_first()] == [RANK_16, RANK_8]
    assert report.settings[0].gains["missing"].gain > 0, "positive is better either way"


def test_a_disagreement_of_loss_and_metric_is_reported_with_what_explains_it() -> None:
    evaluator = Evaluator.of(LABELS)
    rank_8, rank_16 = candidates(RANK_8), candidates(RANK_16)
    runs = {run: generations(50, run.seed) for run in rank_8}
    runs |= {run: generations(90, run.seed) for run in rank_16}
    losses = dict.fromkeys(rank_8, 1.0) | dict.fromkeys(rank_16, 1.1)
    disagreement = evaluator.report(runs, RANK_8, losses, "loss").disagreement
    assert disagreement == Disagreement("accuracy", RANK_8, RANK_16, 0.5, 0.9, explained=False)
    losses_agree = dict.fromkeys(rank_8, 1.2) | dict.fromkeys(rank_16, 1.1)
    assert evaluator.report(runs, RANK_8, losses_agree, "loss").disagreement is None
    runs |= {run: generations(49 + run.seed, 30 * run.seed) for run in rank_16}
    disagreement = evaluator.report(runs, RANK_8, losses, "loss").disagreement
    assert disagreement
    assert disagreement.explained is True


def test_one_seed_of_each_setting_cannot_tell_what_explains_a_disagreement() -> None:
    runs = {Candidate(RANK_8): generations(50), Candidate(RANK_16): generations(90)}
    losses = {Candidate(RANK_8): 1.0, Candidate(RANK_16): 1.1}
    disagreement = Evaluator.of(LABELS).report(runs, RANK_8, losses, "loss").disagreement
    assert disagreement
    assert disagreement.explained is None


def test_without_generated_texts_there_are_no_metrics() -> None:
    evaluator, run = Evaluator((), CompletionStats.of([])), Candidate(RANK_8)
    report = evaluator.report({run: []}, RANK_8, {run: 1.0}, "loss")
    assert report == MetricsReport("loss", (), 0, (), None)
    assert report.names == report.best_first() == ()
    assert evaluator.values([]) == evaluator.gains([], []) == evaluator.intervals([]) == {}


def test_metrics_of_numbers_are_suggested_only_if_the_other_splits_have_the_same_numbers() -> None:
    train = [f"{i},{i % 10}" for i in range(60)]
    point = [text.replace(",", ".") for text in train]

    def first_metric(**held_out: list[str]) -> str:
        return Evaluator.of(train, held_out=held_out).metrics[0].name

    assert first_metric(test=[]) == "mean_absolute_error"
    assert first_metric(validation=train, test=train) == "mean_absolute_error"
    assert first_metric(validation=train, test=[*train, *point[:5]]) == "mean_absolute_error"
    assert first_metric(validation=train, test=[*train, *point[:10]]) == "exact_match"
    assert first_metric(validation=train, test=[*train, "3 kg"]) == "exact_match", "another unit"


def test_a_named_metric_of_numbers_needs_numbers_in_every_split() -> None:
    train = [f"{i},{i % 10}" for i in range(60)]
    point = [text.replace(",", ".") for text in train]
    with pytest.raises(MetricError, match="the test completions, such as '0.0', have no numbers"):
        Evaluator.of(train, ["rmsle"], held_out={"validation": train, "test": point})


def test_the_trivial_predictor_is_not_credited_for_rows_without_a_wanted_number() -> None:
    evaluator = Evaluator.of([f"{i},5" for i in range(61)])
    rows = [Generation("", "10,5"), Generation("", "12.34"), Generation("", "n/a")]
    assert evaluator.completion_stats.trivial_text == "30,5"
    assert evaluator.trivial_values(rows)["mean_absolute_error"] == 20
    assert evaluator.trivial_values(rows)["median_absolute_error"] == 20
