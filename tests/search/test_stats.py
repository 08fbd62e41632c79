"""Estimates of losses and gains, their intervals, and what is decided from them."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from rung.search.stats import (
    Estimate,
    Interval,
    Variance,
    gain_estimate,
    judge,
    loss_estimate,
    loss_interval,
    minimum_detectable,
    required_sample,
    run_noise,
    seed_noise,
    shared_confidence,
)
from rung.types import Scores


def draw_scores(
    draw: random.Random, rows: int, shift: float = 0.0, hard: list[float] | None = None
) -> Scores:
    """Rows of different lengths and difficulties. The true loss is 2 + shift nats per token."""
    tokens = tuple(draw.randint(1, 12) for _ in range(rows))
    hard = hard or [draw.gauss(0, 0.8) for _ in range(rows)]
    return Scores(
        tuple(t * (2 + shift + h + draw.gauss(0, 0.3)) for t, h in zip(tokens, hard, strict=True)),
        tokens,
    )


def draw_run(
    draw: random.Random, like: Scores, hard: list[float], shift: float = 0.0, noise: float = 0.0
) -> Scores:
    """Another run on the same rows. `noise` is the deviation of what its seed does to it."""
    total = shift + draw.gauss(0, noise)
    losses = (
        t * (2 + total + h + draw.gauss(0, 0.3)) for t, h in zip(like.tokens, hard, strict=True)
    )
    return Scores(tuple(losses), like.tokens)


def test_the_loss_is_nats_per_token_over_all_rows() -> None:
    assert loss_interval(Scores((2.0, 7.0), (1, 2))).mean == pytest.approx(3.0)


def test_an_interval_holds_the_true_loss_as_often_as_its_confidence_says() -> None:
    draw = random.Random(1)
    covered = 0
    for _ in range(2000):
        interval = loss_interval(draw_scores(draw, 60))
        covered += interval.low <= 2 <= interval.high
    # 95 % with a binomial error of 0.5 %. The delta method has a little less at 60 rows.
    assert 0.93 <= covered / 2000 <= 0.965


def test_the_interval_of_a_paired_gain_holds_too_and_is_narrower_than_two_separate_ones() -> None:
    draw = random.Random(2)
    covered, paired, separate = 0, 0.0, 0.0
    for _ in range(1000):
        hard = [draw.gauss(0, 0.8) for _ in range(60)]
        before = draw_scores(draw, 60, 0.1, hard)
        after = draw_run(draw, before, hard)
        gain = gain_estimate([before], [after]).interval()
        covered += gain.low <= 0.1 <= gain.high
        paired += gain.half_width
        separate += math.hypot(loss_interval(before).half_width, loss_interval(after).half_width)
    assert 0.925 <= covered / 1000 <= 0.97
    assert paired < separate / 2


def test_rows_that_share_a_source_count_as_one() -> None:
    scores = draw_scores(random.Random(3), 50)
    copied = Scores(scores.losses * 4, scores.tokens * 4, tuple(range(50)) * 4)
    naive = replace(copied, sources=())
    assert loss_estimate([copied]).error == pytest.approx(loss_estimate([scores]).error)
    assert loss_estimate([naive]).error < 0.52 * loss_estimate([copied]).error
    assert loss_estimate([copied]).variance.degrees_of_freedom == 49


def test_more_seeds_are_not_more_rows() -> None:
    """The same rows, scored again, say nothing new about the rows."""
    scores = draw_scores(random.Random(4), 50)
    assert loss_estimate([scores] * 5).error == pytest.approx(loss_estimate([scores]).error)


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.2])
def test_with_the_noise_of_seeds_an_interval_holds_however_large_that_noise_is(
    noise: float,
) -> None:
    draw = random.Random(5)
    covered = without = 0
    trials = 600
    for _ in range(trials):
        hard = [draw.gauss(0, 0.8) for _ in range(60)]
        like = draw_scores(draw, 60, 0.0, hard)
        results = [[draw_run(draw, like, hard, 0.1 * k, noise) for _ in range(3)] for k in range(3)]
        estimate = seed_noise({(k, s): results[k][s].mean for k in range(3) for s in range(3)})
        assert estimate is not None
        assert estimate.degrees_of_freedom == 4
        gain = gain_estimate(results[1], results[0], estimate.times(2 / 3)).interval()
        covered += gain.low <= 0.1 <= gain.high
        bare = gain_estimate(results[1], results[0]).interval()
        without += bare.low <= 0.1 <= bare.high
    assert covered / trials >= 0.935
    assert noise < 0.1 or without / trials < 0.5, (
        "an interval over the rows alone misses what the seeds do"
    )


def test_the_noise_is_the_residual_of_the_two_way_layout() -> None:
    draw = np.random.default_rng(6)
    table = draw.normal(size=(4, 3)) + 10 * draw.normal(size=(4, 1)) + 10 * draw.normal(size=(1, 3))
    noise = seed_noise({(k, s): float(table[k, s]) for k in range(4) for s in range(3)})
    residual = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    assert noise is not None
    assert noise.degrees_of_freedom == 6
    assert noise.value == pytest.approx(float((residual**2).sum()) / 6)


def test_one_setting_has_the_variance_of_its_seeds_and_one_seed_has_none() -> None:
    assert seed_noise({("a", s): x for s, x in enumerate((1.0, 2.0, 4.0))}) == Variance(
        pytest.approx(7 / 3), 2
    )
    assert seed_noise({("a", 0): 1.0, ("b", 0): 2.0}) is None
    assert seed_noise({}) is None


def test_the_noise_of_a_run_contains_what_its_seed_does_to_all_settings() -> None:
    draw = np.random.default_rng(8)
    values = []
    for _ in range(400):
        table = (
            draw.normal(0, 0.03, (3, 4))
            + draw.normal(0, 0.04, (1, 4))
            + np.array([[0.0], [5.0], [9.0]])
        )
        noise = run_noise({(k, s): float(table[k, s]) for k in range(3) for s in range(4)})
        assert noise is not None
        assert 3 <= noise.degrees_of_freedom <= 9, "between that of the seeds and that of all runs"
        values.append(noise.value)
    assert np.mean(values) == pytest.approx(0.03**2 + 0.04**2, rel=0.1)
    assert run_noise({("a", s): x for s, x in enumerate((1.0, 2.0, 4.0))}) == Variance(
        pytest.approx(7 / 3), 2
    )
    apart = run_noise({("a", 1): 1.0, ("a", 2): 2.0, ("b", 3): 1.0, ("b", 4): 3.0})
    assert apart == Variance(pytest.approx((0.5 + 2) / 2), 2), "seeds that no two settings share"
    assert run_noise({("a", 0): 1.0, ("b", 0): 2.0}) is None


def test_the_interval_of_a_settings_loss_holds_where_seeds_do_much_to_all_settings() -> None:
    draw, trials = random.Random(11), 1000
    covered = without = 0
    for _ in range(trials):
        hard = [draw.gauss(0, 0.1) for _ in range(60)]
        like = draw_scores(draw, 60, 0.0, hard)
        shifts = [draw.gauss(0, 0.1) for _ in range(3)]
        results = [[draw_run(draw, like, hard, shift, 0.02) for shift in shifts] for _ in range(2)]
        cells = {(k, s): results[k][s].mean for k in range(2) for s in range(3)}
        own, paired = run_noise(cells), seed_noise(cells)
        assert own is not None
        assert paired is not None
        whole, narrow = (
            loss_estimate(results[0], noise.times(1 / 3)).interval() for noise in (own, paired)
        )
        covered += whole.low <= 2 <= whole.high
        without += narrow.low <= 2 <= narrow.high
    # With three seeds Satterthwaite's degrees of freedom are slightly too high.
    assert covered / trials >= 0.925
    assert without / trials < 0.8, "what cancels in a comparison does not cancel here"


def test_variances_add_up_with_welchs_degrees_of_freedom() -> None:
    draw = np.random.default_rng(7)
    one, other = draw.normal(0, 1, 8), draw.normal(0.5, 3, 5)
    parts = [Variance(float(x.var(ddof=1)) / len(x), len(x) - 1) for x in (one, other)]
    total = parts[0] + parts[1]
    theirs = scipy_stats.ttest_ind(one, other, equal_var=False)
    assert total.degrees_of_freedom == pytest.approx(theirs.df)
    interval = Estimate(float(one.mean() - other.mean()), total).interval()
    expected = theirs.confidence_interval()
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


@given(
    st.lists(
        st.tuples(st.floats(0, 50), st.floats(0, 50), st.integers(1, 40)), min_size=2, max_size=30
    )
)
def test_a_gain_is_the_difference_of_the_losses_and_changes_sign_with_the_sides(
    rows: list[tuple[float, float, int]],
) -> None:
    tokens = tuple(t for _, _, t in rows)
    a, b = (
        Scores(tuple(x for x, _, _ in rows), tokens),
        Scores(tuple(y for _, y, _ in rows), tokens),
    )
    gain, reverse = gain_estimate([a], [b]).interval(), gain_estimate([b], [a]).interval()
    assert gain.mean == pytest.approx(a.mean - b.mean, abs=1e-9)
    assert gain.low == pytest.approx(-reverse.high, abs=1e-9)
    assert gain.low <= gain.mean <= gain.high


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0.001, 0.5))
def test_every_interval_has_one_outcome(mean: float, half: float, margin: float) -> None:
    interval = Interval(mean, mean - half, mean + half)
    outcome = judge(interval, margin)
    assert (outcome == "no_worthwhile_gain") == (interval.high < margin)
    better = interval.low > 0 and interval.mean >= margin
    assert (outcome == "better") == (better and interval.high >= margin)


def test_the_minimum_detectable_gain_is_shown_as_often_as_the_power_says() -> None:
    draw, error, freedom = np.random.default_rng(8), 0.3, 6
    true = minimum_detectable(Estimate(0.0, Variance(error**2, freedom)), power=0.8)
    shown = 0
    for _ in range(4000):
        variance = error**2 * float(draw.chisquare(freedom)) / freedom
        shown += (
            Estimate(true + error * float(draw.normal()), Variance(variance, freedom))
            .interval()
            .low
            > 0
        )
    assert 0.77 <= shown / 4000 <= 0.85


def test_the_required_rows_decide() -> None:
    draw = random.Random(9)
    hard = [draw.gauss(0, 0.8) for _ in range(100)]
    like = draw_scores(draw, 100, 0.0, hard)
    before, after = ([draw_run(draw, like, hard, shift) for _ in range(2)] for shift in (0.05, 0.0))
    gain = gain_estimate(before, after)
    assert judge(gain.interval(0.999), 0.02) == "undecided"
    required = required_sample(before, after, Variance(0.0, math.inf), 0.02, 0.999)
    assert required.rows is not None
    assert required.seeds is None, "without noise of seeds, more seeds do not help"
    narrower = Variance(gain.variance.value * 100 / required.rows, required.rows - 1)
    assert judge(Estimate(gain.mean, narrower).interval(0.999), 0.02) != "undecided"
    noisy = required_sample(before, after, Variance(0.1, 4), 0.02)
    assert noisy.rows is None, "no number of rows helps against the noise of seeds"
    assert noisy.seeds is not None
    assert noisy.seeds > 10


def test_a_further_seed_adds_one_degree_of_freedom_to_the_noise_of_two_settings() -> None:
    scores = Scores((1.0,) * 50, (1,) * 50)
    noise, margin = Variance(0.01**2, 2), 0.02
    required = required_sample([scores] * 3, [scores] * 3, noise, margin).seeds
    assert required is not None

    def half_width(seeds: int) -> float:
        return float(scipy_stats.t.ppf(0.975, 2 + seeds - 3)) * math.sqrt(2 * noise.value / seeds)

    assert half_width(required) < margin <= half_width(required - 1)


def test_rows_of_one_source_count_as_one_in_the_required_sample() -> None:
    draw = random.Random(12)
    hard = [draw.gauss(0, 0.8) for _ in range(60)]
    like = draw_scores(draw, 60, 0.0, hard)
    sources = tuple(row // 10 for row in range(60))
    before, after = (
        [replace(draw_run(draw, like, hard, shift), sources=sources)] for shift in (0.05, 0.0)
    )
    gain = gain_estimate(before, after)
    rows = required_sample(before, after, Variance(0.0, math.inf), 0.02, 0.999).rows
    assert rows is not None
    narrower = Variance(gain.variance.value * 60 / rows, rows / 10 - 1)
    assert judge(Estimate(gain.mean, narrower).interval(0.999), 0.02) != "undecided"


def test_a_comparison_of_different_rows_is_an_error() -> None:
    with pytest.raises(ValueError, match="same rows"):
        gain_estimate([Scores((1.0, 1.0), (1, 2))], [Scores((1.0, 1.0), (2, 1))])


@pytest.mark.parametrize("scores", [Scores((1.0,), (1,)), Scores((1.0, 2.0), (1, 1), (0, 0))])
def test_one_row_or_one_source_has_no_interval(scores: Scores) -> None:
    with pytest.raises(ValueError, match="two rows"):
        loss_interval(scores)


def test_the_error_is_shared_by_the_comparisons() -> None:
    assert shared_confidence(1) == pytest.approx(0.95)
    assert shared_confidence(10) == pytest.approx(0.995)
