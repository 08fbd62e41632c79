"""Measurements by setting and seed."""

from __future__ import annotations

import pytest
from tests.search.worlds import measure

from rung.search.results import Results
from rung.types import Candidate, Setting

SMALL, LARGE = Setting(8, 16, "mlp", 1e-3), Setting(16, 32, "mlp", 1e-3)


def results_of(losses: dict[Setting, dict[int, float]]) -> Results:
    """Full-budget results by setting and seed; the seeds from 1 on confirm."""
    results = Results((1, 2, 3, 4))
    for setting, by_seed in losses.items():
        for seed, loss in by_seed.items():
            candidate = Candidate(setting, seed)

            def world(setting: Setting, fraction: float, loss: float = loss) -> float:
                return loss

            results.add({candidate: measure(world, candidate, 1.0, 0, 0)}, 1.0)
    return results


def test_settings_are_compared_over_the_seeds_that_all_of_them_have() -> None:
    """The third seed is hard for every setting, and only one setting has it."""
    results = results_of({SMALL: {1: 1.0, 2: 1.1, 3: 2.0}, LARGE: {1: 1.1, 2: 1.2}})
    losses = results.shared_seed_losses([SMALL, LARGE], 1.0)
    assert losses[LARGE] - losses[SMALL] == pytest.approx(0.1)
    assert results.loss(SMALL, 1.0) > results.loss(LARGE, 1.0), (
        "over the seeds that each has, the order is reversed"
    )


def test_without_a_shared_seed_each_setting_has_the_mean_over_its_own() -> None:
    results = results_of({SMALL: {1: 1.0}, LARGE: {2: 1.3}})
    losses = results.shared_seed_losses([SMALL, LARGE], 1.0)
    assert losses[LARGE] - losses[SMALL] == pytest.approx(0.3)


def test_seeds_that_do_not_confirm_count_only_while_there_is_no_other() -> None:
    raced = results_of({SMALL: {0: 1.0}, LARGE: {0: 2.0}})
    assert raced.loss(SMALL, 1.0) == pytest.approx(1.0, rel=0.05)
    confirmed = results_of({SMALL: {0: 1.0, 1: 3.0}, LARGE: {0: 2.0, 1: 2.5}})
    assert confirmed.loss(SMALL, 1.0) > confirmed.loss(LARGE, 1.0)
    before, after = confirmed.paired_scores(SMALL, LARGE, 1.0)
    assert (len(before), len(after)) == (1, 1)
    assert before[0].mean > after[0].mean
