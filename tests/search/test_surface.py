"""The surface through a race, in worlds of which the truth is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from tests.search.worlds import SPACE, World, hill, measure

from rung.search.axes import Axes
from rung.search.surface import INTERVAL_SHRINKAGE, LOSS_CLIP, Surface, design
from rung.types import Candidate, LeverSpace, Scores, Setting

LADDER = LeverSpace(
    (8, 16, 32, 64), (1e-3, 2e-3, 4e-3, 8e-3), ("attention", "all-linear"), ("2r", "r")
)
POOL = LADDER.settings()


def fit(
    world: World,
    settings: Sequence[Setting],
    row_noise: float = 0.02,
    seed_noise: float = 0.0,
    shrinkage: float | None = None,
) -> Surface:
    scores = [measure(world, Candidate(s), 1.0, row_noise, seed_noise).scores for s in settings]
    return Surface.fit(Axes(POOL), settings, scores, shrinkage)


def test_the_first_settings_differ_in_every_lever_and_are_always_the_same() -> None:
    pool = SPACE.settings()
    first = design(Axes(pool), pool, 12)
    assert len(set(first)) == 12
    for lever, values in (("rank", 4), ("targets", 3), ("learning_rate", 2)):
        assert len({getattr(setting, lever) for setting in first}) >= values
    assert first == design(Axes(pool), pool, 12)


def test_a_pool_that_is_smaller_than_the_round_is_tried_as_a_whole() -> None:
    pool = POOL[:5]
    assert set(design(Axes(pool), pool, 12)) == set(pool)


def test_a_design_that_goes_on_from_known_settings_is_that_of_one_round() -> None:
    whole = design(Axes(POOL), POOL, 12)
    rest = [setting for setting in POOL if setting not in whole[:8]]
    assert design(Axes(POOL), rest, 4, whole[:8]) == whole[8:]


def test_it_proposes_what_could_be_the_best_and_nothing_twice() -> None:
    world = hill(2e-3, steepness=0.05)
    first = design(Axes(POOL), POOL, 12)
    surface = fit(world, first)
    proposed = surface.propose(POOL, 8)
    assert not set(proposed) & set(first)
    best = min(world(setting, 1.0) for setting in POOL if setting not in first)
    assert min(world(setting, 1.0) for setting in proposed) == pytest.approx(best, abs=0.01)
    assert surface.propose(first, 8) == []


def test_what_is_pending_is_not_proposed_again() -> None:
    surface = fit(hill(2e-3, steepness=0.05), design(Axes(POOL), POOL, 12))
    pending = surface.propose(POOL, 4)
    assert not set(surface.propose(POOL, 4, pending)) & set(pending)


def test_it_predicts_the_loss_of_settings_that_were_not_tried() -> None:
    world = hill(2e-3, steepness=0.02)
    tried = design(Axes(POOL), POOL, 24)
    rest = [setting for setting in POOL if setting not in tried]
    predicted = np.exp(fit(world, tried).predict(rest))
    assert np.abs(predicted - [world(setting, 1.0) for setting in rest]).max() < 0.03


def test_all_runs_inform_about_a_lever_and_not_two_alone() -> None:
    noise = 0.1

    def world(setting: Setting, fraction: float) -> float:
        return 1.5 - 0.3 * (setting.targets == "all-linear")

    surface = fit(world, design(Axes(POOL), POOL, 20), 0.001, noise, INTERVAL_SHRINKAGE)
    before = POOL[0]
    gain = surface.gain(before, replace(before, targets="all-linear"))
    assert abs(gain.mean - 0.3) < 3 * gain.error
    assert gain.error < math.sqrt(2) * noise, "less than the error of two runs alone"


def test_its_intervals_hold_the_truth() -> None:
    """A world with noise, in which 8 → 16 is a gain, and 16 → 32 is none."""
    draw = np.random.default_rng(3)
    held, tokens = [], (5,) * 50
    settings = design(Axes(POOL), POOL, 20)

    def loss(setting: Setting) -> float:
        return 2.0 - 0.2 * (setting.rank > 8) + 0.05 * math.log2(setting.learning_rate / 2e-3) ** 2

    for _ in range(150):
        losses = [loss(s) * math.exp(draw.normal(0, 0.05)) for s in settings]
        scores = [Scores(tuple(5 * run + draw.normal(0, 0.1, 50)), tokens) for run in losses]
        surface = Surface.fit(Axes(POOL), settings, scores, INTERVAL_SHRINKAGE)
        for ranks in ((8, 16), (16, 32)):
            before, after = (LADDER.setting(rank, 2e-3) for rank in ranks)
            interval = surface.gain(before, after).interval()
            held.append(interval.low <= loss(before) - loss(after) <= interval.high)
    assert np.mean(held) > 0.92


def test_a_setting_that_diverged_counts_as_a_clipped_loss() -> None:
    def world(setting: Setting, fraction: float) -> float:
        return math.inf if setting.learning_rate == 8e-3 else 1.5

    settings = design(Axes(POOL), POOL, 20)
    surface = fit(world, settings)
    diverged = [setting for setting in settings if setting.learning_rate == 8e-3]
    assert diverged
    assert {surface.smoothed_losses[setting] for setting in diverged} == {math.inf}
    assert np.isfinite(surface.coefficients).all()
    gain = surface.gain(diverged[0], replace(diverged[0], learning_rate=2e-3))
    assert 0 < gain.mean < 1.5 * (math.exp(2 * LOSS_CLIP) - 1)


def test_the_order_of_the_runs_does_not_matter() -> None:
    settings = design(Axes(POOL), POOL, 16)
    surface, reverse = fit(hill(), settings), fit(hill(), settings[::-1])
    assert np.allclose(surface.predict(POOL), reverse.predict(POOL), atol=1e-9)
    assert surface.noise.value == pytest.approx(reverse.noise.value)


def test_the_rows_of_a_clipped_loss_have_no_influence_on_a_gain() -> None:
    settings = design(Axes(POOL), POOL, 20)
    tokens = (5,) * 50
    draw = np.random.default_rng(0)
    scores = [Scores(tuple(5 * (1.5 + draw.normal(0, 0.02, 50))), tokens) for _ in settings]
    errors = []
    for row_noise in (0.0, 3.0):
        clipped = Scores(tuple(5 * (20 + draw.normal(0, row_noise, 50))), tokens)
        surface = Surface.fit(Axes(POOL), settings, [clipped, *scores[1:]])
        errors.append(surface.gain(settings[1], settings[2]).error)
    assert errors[0] == pytest.approx(errors[1])
