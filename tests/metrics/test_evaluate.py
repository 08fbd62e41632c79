from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rung.errors import MetricError
from rung.metrics.evaluate import Evaluator, judged_by
from rung.metrics.text import CompletionStats
from rung.types import Candidate, Generation, Setting

A = Candidate(Setting(8, 16, "attention", 1e-3))
B = Candidate(Setting(16, 32, "attention", 1e-3))
LABELS = ["yes", "no"] * 50


def written(right: int, first: int = 0, rows: int = 100) -> list[Generation]:
    """Texts of which `right` are, from the row `first` on."""
    hits = {(first + i) % rows for i in range(right)}
    return [
        Generation("yes" if i in hits else "no", "yes", f"p{i}", f"row {i}", f"s{i}")
        for i in range(rows)
    ]


def test_the_metrics_of_a_run_with_its_rows() -> None:
    quality = Evaluator.of(LABELS)
    assert [one.name for one in quality.metrics] == ["accuracy", "macro_f1"]
    assert quality.values(written(70))["accuracy"] == pytest.approx(0.7)
    found = quality.intervals(written(70))["accuracy"]
    assert found["mean"] == pytest.approx(0.7)
    assert found["high"] - found["low"] == pytest.approx(
        2 * 1.984 * np.sqrt(0.7 * 0.3 / 99), rel=1e-3
    )
    assert quality.trivial(written(70))["accuracy"] in (0, 1), "it always says the same"


def test_runs_are_compared_row_by_row() -> None:
    """Ten rows more are right, and the others are the same: that is far more certain than two averages."""
    gain = Evaluator.of(LABELS).gains(written(60), written(70))["accuracy"]
    assert gain["gain"] == pytest.approx(0.1)
    assert gain["high"] - gain["low"] == pytest.approx(
        2 * 1.984 * np.sqrt(0.1 * 0.9 / 99), rel=1e-3
    )
    assert gain["low"] > 0


def test_rows_that_are_all_of_one_source_have_no_interval() -> None:
    rows = [replace(row, source="s") for row in written(70)]
    assert Evaluator.of(LABELS).intervals(rows) == {}


def test_rows_of_one_source_count_as_one() -> None:
    quality = Evaluator.of(LABELS)
    rows = [replace(row, source=f"s{i // 10}") for i, row in enumerate(written(70))]
    own, shared = (quality.intervals(texts)["accuracy"] for texts in (written(70), rows))
    assert shared["mean"] == own["mean"]
    assert shared["high"] - shared["low"] > 2 * (own["high"] - own["low"])


def test_what_is_judged_by_is_something_to_lower() -> None:
    quality = Evaluator.of(LABELS, judge="metric")
    judge = judged_by("metric", quality)
    assert judge
    scores = quality.scores(judge, written(70))
    assert scores
    assert scores.mean == pytest.approx(0.3)
    assert judged_by("loss", quality) is None


def test_a_named_judge_is_among_the_metrics() -> None:
    quality = Evaluator.of(LABELS, ("token_f1",), "exact_match")
    assert [one.name for one in quality.metrics] == ["exact_match", "token_f1"]
    with pytest.raises(MetricError, match="median_absolute_error has no interval"):
        judged_by("median_absolute_error", Evaluator.of(["1", "2"], judge="median_absolute_error"))
    with pytest.raises(MetricError, match="There is no metric 'best'"):
        Evaluator.of(LABELS, judge="best")


def test_settings_are_compared_over_their_seeds_with_the_noise_of_seeds() -> None:
    quality = Evaluator.of(LABELS)
    runs = {replace(A, seed=s): written(60, 7 * s) for s in (1, 2, 3)}
    runs |= {replace(B, seed=s): written(60 + 10 * s, 7 * s) for s in (1, 2, 3)}
    found = quality.document(runs, replace(A, seed=1), dict.fromkeys(runs, 1.0), "loss")
    assert (found["rows"], found["names"]) == (100, ["accuracy", "macro_f1"])
    b, a = (setting["metrics"]["accuracy"] for setting in found["settings"])
    assert {setting["seeds"] for setting in found["settings"]} == {3}
    assert b["gain"]["gain"] == pytest.approx(0.2)
    assert "gain" not in a, "it is what the others stand beside"
    rows_alone = quality.gains(written(60), written(80))["accuracy"]
    assert b["gain"]["high"] - b["gain"]["low"] > 2 * (rows_alone["high"] - rows_alone["low"])


def test_it_is_said_where_loss_and_metric_disagree() -> None:
    quality = Evaluator.of(LABELS)
    a, b = ([replace(one, seed=seed) for seed in (1, 2, 3)] for one in (A, B))
    runs = {run: written(50, run.seed) for run in a} | {run: written(90, run.seed) for run in b}
    losses = dict.fromkeys(a, 1.0) | dict.fromkeys(b, 1.1)
    (says,) = quality.document(runs, a[0], losses, "loss")["says"]
    assert says.startswith(
        "The loss and accuracy disagree: rank 8 (alpha 16, attention, 0.001) has the lowest loss and 0.5,"
    )
    assert (
        "rank 16 (alpha 32, attention, 0.001) has 0.9; that difference is more than rows and seeds explain"
        in says
    )
    assert (
        quality.document(runs, a[0], dict.fromkeys(a, 1.2) | dict.fromkeys(b, 1.1), "loss")["says"]
        == []
    )
    runs |= {run: written(49 + run.seed, 30 * run.seed) for run in b}
    (says,) = quality.document(runs, a[0], losses, "loss")["says"]
    assert "is no more than rows and seeds explain" in says
    (says,) = quality.document({A: written(50), B: written(90)}, A, {A: 1.0, B: 1.1}, "loss")[
        "says"
    ]
    assert "one seed of each cannot tell that from its luck" in says


def test_texts_that_nobody_wrote_have_no_metrics() -> None:
    quality = Evaluator((), CompletionStats.of([]))
    assert quality.document({A: []}, A, {A: 1.0}, "loss")["names"] == []
    assert quality.values([]) == quality.gains([], []) == {}


def test_no_metric_of_numbers_is_proposed_where_held_out_rows_are_written_otherwise() -> None:
    train = [f"{i},{i % 10}" for i in range(60)]
    point = [text.replace(",", ".") for text in train]

    def first(**held: list[str]) -> str:
        return Evaluator.of(train, held=held).metrics[0].name

    assert first(validation=train, test=train) == first(test=[]) == "mean_absolute_error"
    assert first(validation=train, test=[*train, *point[:5]]) == "mean_absolute_error"
    assert first(validation=train, test=[*train, *point[:10]]) == "exact_match"
    assert first(validation=train, test=[*train, "3 kg"]) == "exact_match"
    with pytest.raises(MetricError, match="the test completions, such as '0.0', have no numbers"):
        Evaluator.of(train, ["rmsle"], held={"validation": train, "test": point})


def test_who_writes_the_median_is_not_right_where_the_wanted_number_cannot_be_read() -> None:
    quality = Evaluator.of([f"{i},5" for i in range(61)])
    rows = [Generation("", "10,5"), Generation("", "12.34"), Generation("", "n/a")]
    assert quality.known.always == "30,5"
    assert quality.trivial(rows)["mean_absolute_error"] == 20
    assert quality.trivial(rows)["median_absolute_error"] == 20
