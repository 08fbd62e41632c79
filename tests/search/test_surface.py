"""The surface through a race, against worlds of which the truth is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from tests.search.worlds import SPACE, World, hill, measure

from rung.search.surface import INTERVAL_SHRINKAGE, LOSS_CLIP, Axes, Surface, design
from rung.types import Candidate, LeverSpace, Scores, Setting

LADDER = LeverSpace(
    (8, 16, 32, 64), (1e-3, 2e-3, 4e-3, 8e-3), ("attention", "all-linear"), ("2r", "r")
)
POOL = LADDER.settings()


def through(
    world: World,
    settings: list[Setting],
    rows: float = 0.02,
    seeds: float = 0.0,
    shrinkage: float | None = None,
) -> Surface:
    scores = [measure(world, Candidate(setting), 1.0, rows, seeds).scores for setting in settings]
    return Surface.through(Axes(POOL), settings, scores, shrinkage)


def test_the_first_settings_differ_in_every_lever_and_come_out_the_same_each_time() -> None:
    pool = SPACE.settings()
    first = design(Axes(pool), pool, 12)
    assert len(set(first)) == 12
    for lever, values in (("rank", 4), ("targets", 3), ("learning_rate", 2)):
        assert len({getattr(setting, lever) for setting in first}) >= values
    assert first == design(Axes(pool), pool, 12)


def test_a_pool_that_is_smaller_than_the_pack_is_tried_as_a_whole() -> None:
    pool = POOL[:5]
    assert set(design(Axes(pool), pool, 12)) == set(pool)


def test_what_could_be_the_best_is_tried_next_and_nothing_twice() -> None:
    world = hill(2e-3, steep=0.05)
    first = design(Axes(POOL), POOL, 12)
    surface = through(world, first)
    following = surface.next(POOL, 8)
    assert not set(following) & set(first)
    losses = sorted(world(setting, 1.0) for setting in POOL if setting not in first)
    assert min(world(setting, 1.0) for setting in following) == pytest.approx(losses[0], abs=0.01)
    assert surface.next(first, 8) == []


def test_a_setting_that_nobody_tried_is_foretold() -> None:
    world = hill(2e-3, steep=0.02)
    known = design(Axes(POOL), POOL, 24)
    rest = [setting for setting in POOL if setting not in known]
    foretold = np.exp(through(world, known).expected(rest))
    assert np.abs(foretold - [world(setting, 1.0) for setting in rest]).max() < 0.03


def test_all_runs_say_something_of_a_lever_and_not_two_alone() -> None:
    noise = 0.1

    def world(setting: Setting, fraction: float) -> float:
        return 1.5 - 0.3 * (setting.targets == "all-linear")

    surface = through(world, design(Axes(POOL), POOL, 20), 0.001, noise, INTERVAL_SHRINKAGE)
    before = POOL[0]
    gain = surface.gain(before, replace(before, targets="all-linear"))
    assert abs(gain.mean - 0.3) < 3 * gain.error
    assert gain.error < math.sqrt(2) * noise, "two runs alone would tell so much"


def test_its_intervals_hold_the_truth() -> None:
    """A world with diminishing returns and noise; the doubling 16 → 32 is worth nothing, and 8 → 16 is."""
    rng = np.random.default_rng(3)
    held, tokens = [], (5,) * 50
    settings = design(Axes(POOL), POOL, 20)

    def loss(setting: Setting) -> float:
        return 2.0 - 0.2 * (setting.rank > 8) + 0.05 * math.log2(setting.learning_rate / 2e-3) ** 2

    for _ in range(150):
        results = [loss(s) * math.exp(rng.normal(0, 0.05)) for s in settings]
        scores = [Scores(tuple(5 * run + rng.normal(0, 0.1, 50)), tokens) for run in results]
        surface = Surface.through(Axes(POOL), settings, scores, INTERVAL_SHRINKAGE)
        for low, high in ((8, 16), (16, 32)):
            one, other = (LADDER.setting(rank, 2e-3) for rank in (low, high))
            interval = surface.gain(one, other).interval()
            held.append(interval.low <= loss(one) - loss(other) <= interval.high)
    assert np.mean(held) > 0.92


def test_one_that_diverged_is_as_bad_as_can_be_and_no_worse() -> None:
    def world(setting: Setting, fraction: float) -> float:
        return math.inf if setting.learning_rate == 8e-3 else 1.5

    settings = design(Axes(POOL), POOL, 20)
    surface = through(world, settings)
    diverged = [setting for setting in settings if setting.learning_rate == 8e-3]
    assert diverged
    assert {surface.judged[setting] for setting in diverged} == {math.inf}
    assert np.isfinite(surface.coefficients).all()
    gain = surface.gain(diverged[0], replace(diverged[0], learning_rate=2e-3))
    assert 0 < gain.mean < 1.5 * (math.exp(2 * LOSS_CLIP) - 1)


def test_the_order_of_the_runs_does_not_matter() -> None:
    settings = design(Axes(POOL), POOL, 16)
    one, other = through(hill(), settings), through(hill(), settings[::-1])
    assert np.allclose(one.expected(POOL), other.expected(POOL), atol=1e-9)
    assert one.noise.value == pytest.approx(other.noise.value)
