from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.levers import Scores
from rung.search.stats import Interval, gain_interval, judge, loss_interval, shared_confidence


def draw_scores(draw: random.Random, rows: int, shift: float = 0.0, hard: list[float] | None = None) -> Scores:
    """Rows of unlike length and difficulty; the true loss is 2 + shift nats a token."""
    tokens = tuple(draw.randint(1, 12) for _ in range(rows))
    hard = hard or [draw.gauss(0, 0.8) for _ in range(rows)]
    return Scores(tuple(t * (2 + shift + h + draw.gauss(0, 0.3)) for t, h in zip(tokens, hard, strict=True)), tokens)


def test_the_loss_is_nats_per_token_over_all_rows() -> None:
    assert loss_interval(Scores((2.0, 7.0), (1, 2))).mean == pytest.approx(3.0)


def test_the_interval_covers_the_true_loss_as_often_as_it_says() -> None:
    draw = random.Random(1)
    trials = 2000
    covered = 0
    for _ in range(trials):
        found = loss_interval(draw_scores(draw, 60))
        covered += found.low <= 2 <= found.high
    # 95 % with a binomial error of 0.5 %; the delta method is a little short of it at 60 rows.
    assert 0.93 <= covered / trials <= 0.965


def test_a_paired_gain_is_covered_too_and_is_narrower_than_two_apart() -> None:
    draw = random.Random(2)
    covered, paired, apart = 0, 0.0, 0.0
    for _ in range(1000):
        hard = [draw.gauss(0, 0.8) for _ in range(60)]
        before = draw_scores(draw, 60, 0.1, hard)
        losses = tuple(t * (2 + h + draw.gauss(0, 0.3)) for t, h in zip(before.tokens, hard, strict=True))
        to = Scores(losses, before.tokens)
        gain = gain_interval(before, to)
        covered += gain.low <= 0.1 <= gain.high
        paired += gain.half_width
        apart += math.hypot(loss_interval(before).half_width, loss_interval(to).half_width)
    assert 0.925 <= covered / 1000 <= 0.97
    assert paired < apart / 2


def test_identical_candidates_are_never_called_better_more_often_than_promised() -> None:
    draw = random.Random(3)
    called = 0
    for _ in range(1000):
        hard = [draw.gauss(0, 0.8) for _ in range(60)]
        before = draw_scores(draw, 60, 0.0, hard)
        losses = tuple(t * (2 + h + draw.gauss(0, 0.3)) for t, h in zip(before.tokens, hard, strict=True))
        called += judge(gain_interval(before, Scores(losses, before.tokens)), 0.0) == "better"
    assert called / 1000 <= 0.04  # one side of 95 % is 2.5 %


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 50), st.integers(1, 40)), min_size=2, max_size=30))
def test_a_gain_is_the_difference_of_the_losses_and_turns_its_sign_with_its_sides(
    rows: list[tuple[float, float, int]],
) -> None:
    tokens = tuple(t for _, _, t in rows)
    a, b = Scores(tuple(x for x, _, _ in rows), tokens), Scores(tuple(y for _, y, _ in rows), tokens)
    there, back = gain_interval(a, b), gain_interval(b, a)
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


def test_a_comparison_of_unlike_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="same rows"):
        gain_interval(Scores((1.0, 1.0), (1, 2)), Scores((1.0, 1.0), (2, 1)))


def test_one_row_has_no_interval() -> None:
    with pytest.raises(ValueError, match="two rows"):
        loss_interval(Scores((1.0,), (1,)))


def test_confidence_is_shared_out_over_the_comparisons() -> None:
    assert shared_confidence(1) == pytest.approx(0.95)
    assert shared_confidence(10) == pytest.approx(0.995)
