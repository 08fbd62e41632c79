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
    """Rows of unlike length and difficulty; the true loss is 2 + shift nats a token."""
    tokens = tuple(draw.randint(1, 12) for _ in range(rows))
    hard = hard or [draw.gauss(0, 0.8) for _ in range(rows)]
    return Scores(
        tuple(t * (2 + shift + h + draw.gauss(0, 0.3)) for t, h in zip(tokens, hard, strict=True)),
        tokens,
    )


def draw_run(
    draw: random.Random, like: Scores, hard: list[float], shift: float = 0.0, noise: float = 0.0
) -> Scores:
    """Another run scored on the same rows, off by a draw of the seed's own."""
    off = shift + draw.gauss(0, noise)
    losses = (
        t * (2 + off + h + draw.gauss(0, 0.3)) for t, h in zip(like.tokens, hard, strict=True)
    )
    return Scores(tuple(losses), like.tokens)


def test_the_loss_is_nats_per_token_over_all_rows() -> None:
    assert loss_interval(Scores((2.0, 7.0), (1, 2))).mean == pytest.approx(3.0)


def test_the_interval_covers_the_true_loss_as_often_as_it_says() -> None:
    draw = random.Random(1)
    covered = 0
    for _ in range(2000):
        found = loss_interval(draw_scores(draw, 60))
        covered += found.low <= 2 <= found.high
    # 95 % with a binomial error of 0.5 %; the delta method is a little short of it at 60 rows.
    assert 0.93 <= covered / 2000 <= 0.965


def test_a_paired_gain_is_covered_too_and_is_narrower_than_two_apart() -> None:
    draw = random.Random(2)
    covered, paired, apart = 0, 0.0, 0.0
    for _ in range(1000):
        hard = [draw.gauss(0, 0.8) for _ in range(60)]
        before = draw_scores(draw, 60, 0.1, hard)
        to = draw_run(draw, before, hard)
        gain = gain_estimate([before], [to]).interval()
        covered += gain.low <= 0.1 <= gain.high
        paired += gain.half_width
        apart += math.hypot(loss_interval(before).half_width, loss_interval(to).half_width)
    assert 0.925 <= covered / 1000 <= 0.97
    assert paired < apart / 2


def test_rows_that_share_a_source_count_as_one() -> None:
    scores = draw_scores(random.Random(3), 50)
    copied = Scores(scores.losses * 4, scores.tokens * 4, tuple(range(50)) * 4)
    naive = replace(copied, sources=())
    assert loss_estimate([copied]).error == pytest.approx(loss_estimate([scores]).error)
    assert loss_estimate([naive]).error < 0.52 * loss_estimate([copied]).error
    assert loss_estimate([copied]).variance.freedom == 49


def test_more_seeds_are_not_more_rows() -> None:
    """The same rows scored again tell nothing new of the rows."""
    scores = draw_scores(random.Random(4), 50)
    assert loss_estimate([scores] * 5).error == pytest.approx(loss_estimate([scores]).error)


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.2])
def test_with_the_noise_of_the_seeds_a_gain_is_covered_whatever_that_noise_is(noise: float) -> None:
    draw = random.Random(5)
    covered = without = 0
    trials = 600
    for _ in range(trials):
        hard = [draw.gauss(0, 0.8) for _ in range(60)]
        like = draw_scores(draw, 60, 0.0, hard)
        results = [[draw_run(draw, like, hard, 0.1 * k, noise) for _ in range(3)] for k in range(3)]
        found = seed_noise({(k, s): results[k][s].mean for k in range(3) for s in range(3)})
        assert found is not None
        assert found.freedom == 4
        gain = gain_estimate(results[1], results[0], found.times(2 / 3)).interval()
        covered += gain.low <= 0.1 <= gain.high
        bare = gain_estimate(results[1], results[0]).interval()
        without += bare.low <= 0.1 <= bare.high
    assert covered / trials >= 0.935
    assert noise < 0.1 or without / trials < 0.5, (
        "intervals over the rows alone miss what the seeds do"
    )


def test_the_noise_is_the_residual_of_the_two_way_layout() -> None:
    draw = np.random.default_rng(6)
    table = draw.normal(size=(4, 3)) + 10 * draw.normal(size=(4, 1)) + 10 * draw.normal(size=(1, 3))
    found = seed_noise({(k, s): float(table[k, s]) for k in range(4) for s in range(3)})
    residual = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    assert found is not None
    assert found.freedom == 6
    assert found.value == pytest.approx(float((residual**2).sum()) / 6)


def test_one_setting_has_the_variance_of_its_seeds_and_one_seed_has_none() -> None:
    assert seed_noise({("a", s): x for s, x in enumerate((1.0, 2.0, 4.0))}) == Variance(
        pytest.approx(7 / 3), 2
    )
    assert seed_noise({("a", 0): 1.0, ("b", 0): 2.0}) is None
    assert seed_noise({}) is None


def test_a_runs_own_noise_has_what_its_seed_does_to_all_settings_too() -> None:
    draw = np.random.default_rng(8)
    found = []
    for _ in range(400):
        table = (
            draw.normal(0, 0.03, (3, 4))
            + draw.normal(0, 0.04, (1, 4))
            + np.array([[0.0], [5.0], [9.0]])
        )
        noise = run_noise({(k, s): float(table[k, s]) for k in range(3) for s in range(4)})
        assert noise is not None
        assert 3 <= noise.freedom <= 9, "between the seeds alone and all runs"
        found.append(noise.value)
    assert np.mean(found) == pytest.approx(0.03**2 + 0.04**2, rel=0.1)
    assert run_noise({("a", s): x for s, x in enumerate((1.0, 2.0, 4.0))}) == Variance(
        pytest.approx(7 / 3), 2
    )
    apart = run_noise({("a", 1): 1.0, ("a", 2): 2.0, ("b", 3): 1.0, ("b", 4): 3.0})
    assert apart == Variance(pytest.approx((0.5 + 2) / 2), 2), "seeds that no two settings share"
    assert run_noise({("a", 0): 1.0, ("b", 0): 2.0}) is None


def test_the_interval_of_a_settings_loss_covers_it_where_seeds_do_much_to_all_settings() -> None:
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
    # With three seeds Satterthwaite's degrees of freedom are a little too many.
    assert covered / trials >= 0.925
    assert without / trials < 0.8, "what cancels in a comparison does not cancel here"


def test_variances_add_up_with_the_degrees_of_freedom_of_welch() -> None:
    draw = np.random.default_rng(7)
    one, other = draw.normal(0, 1, 8), draw.normal(0.5, 3, 5)
    parts = [Variance(float(x.var(ddof=1)) / len(x), len(x) - 1) for x in (one, other)]
    total = parts[0] + parts[1]
    theirs = scipy_stats.ttest_ind(one, other, equal_var=False)
    assert total.freedom == pytest.approx(theirs.df)
    interval = Estimate(float(one.mean() - other.mean()), total).interval()
    expected = theirs.confidence_interval()
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


@given(
    st.lists(
        st.tuples(st.floats(0, 50), st.floats(0, 50), st.integers(1, 40)), min_size=2, max_size=30
    )
)
def test_a_gain_is_the_difference_of_the_losses_and_turns_its_sign_with_its_sides(
    rows: list[tuple[float, float, int]],
) -> None:
    tokens = tuple(t for _, _, t in rows)
    a, b = (
        Scores(tuple(x for x, _, _ in rows), tokens),
        Scores(tuple(y for _, y, _ in rows), tokens),
    )
    there, back = gain_estimate([a], [b]).interval(), gain_estimate([b], [a]).interval()
    assert there.mean == pytest.approx(a.mean - b.mean, abs=1e-9)
    assert there.low == pytest.approx(-back.high, abs=1e-9)
    assert there.low <= there.mean <= there.high


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0.001, 0.5))
def test_the_outcomes_share_out_all_intervals(mean: float, half: float, margin: float) -> None:
    interval = Interval(mean, mean - half, mean + half)
    outcome = judge(interval, margin)
    assert (outcome == "no_worthwhile_gain") == (interval.high < margin)
    if outcome == "better":
        assert interval.low > 0
        assert interval.mean >= margin


def test_a_gain_as_large_as_the_minimum_detectable_one_is_shown_as_often_as_it_says() -> None:
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


def test_what_would_decide_does_decide() -> None:
    draw = random.Random(9)
    hard = [draw.gauss(0, 0.8) for _ in range(100)]
    like = draw_scores(draw, 100, 0.0, hard)
    before, to = ([draw_run(draw, like, hard, shift) for _ in range(2)] for shift in (0.05, 0.0))
    gain = gain_estimate(before, to)
    assert judge(gain.interval(0.999), 0.02) == "undecided"
    more = required_sample(before, to, Variance(0.0, math.inf), 0.02, 0.999)
    assert more.rows is not None
    assert more.seeds is None, "without noise from seeds, more of them do not help"
    narrower = Variance(gain.variance.value * 100 / more.rows, more.rows - 1)
    assert judge(Estimate(gain.mean, narrower).interval(0.999), 0.02) != "undecided"
    noisy = required_sample(before, to, Variance(0.1, 4), 0.02)
    assert noisy.rows is None, "no number of rows makes up for the noise of seeds"
    assert noisy.seeds is not None
    assert noisy.seeds > 10


def test_a_further_seed_of_two_settings_makes_their_noise_better_known_by_one_degree_of_freedom() -> (
    None
):
    scores = Scores((1.0,) * 50, (1,) * 50)
    noise, margin = Variance(0.01**2, 2), 0.02
    found = required_sample([scores] * 3, [scores] * 3, noise, margin).seeds
    assert found is not None

    def reach(seeds: int) -> float:
        return float(scipy_stats.t.ppf(0.975, 2 + seeds - 3)) * math.sqrt(2 * noise.value / seeds)

    assert reach(found) < margin <= reach(found - 1)


def test_rows_of_one_source_are_not_counted_apart_in_what_would_decide() -> None:
    draw = random.Random(12)
    hard = [draw.gauss(0, 0.8) for _ in range(60)]
    like = draw_scores(draw, 60, 0.0, hard)
    sources = tuple(row // 10 for row in range(60))
    before, to = (
        [replace(draw_run(draw, like, hard, shift), sources=sources)] for shift in (0.05, 0.0)
    )
    gain = gain_estimate(before, to)
    found = required_sample(before, to, Variance(0.0, math.inf), 0.02, 0.999).rows
    assert found is not None
    narrower = Variance(gain.variance.value * 60 / found, found / 10 - 1)
    assert judge(Estimate(gain.mean, narrower).interval(0.999), 0.02) != "undecided"


def test_a_comparison_of_unlike_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="same rows"):
        gain_estimate([Scores((1.0, 1.0), (1, 2))], [Scores((1.0, 1.0), (2, 1))])


@pytest.mark.parametrize("scores", [Scores((1.0,), (1,)), Scores((1.0, 2.0), (1, 1), (0, 0))])
def test_one_row_or_one_source_has_no_interval(scores: Scores) -> None:
    with pytest.raises(ValueError, match="two rows"):
        loss_interval(scores)


def test_confidence_is_shared_out_over_the_comparisons() -> None:
    assert shared_confidence(1) == pytest.approx(0.95)
    assert shared_confidence(10) == pytest.approx(0.995)
