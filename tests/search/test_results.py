"""What was measured, by setting."""

from __future__ import annotations

import pytest
from tests.search.worlds import measure

from rung.search.results import Results
from rung.types import Candidate, Setting

ONE, OTHER = Setting(8, 16, "mlp", 1e-3), Setting(16, 32, "mlp", 1e-3)


def runs_of(losses: dict[Setting, dict[int, float]]) -> Results:
    """The settings' runs in full, by seed; the seeds from 1 on confirm."""
    results = Results((1, 2, 3, 4))
    for setting, by_seed in losses.items():
        for seed, loss in by_seed.items():
            run = Candidate(setting, seed)
            results.keep({run: measure(lambda c, f, x=loss: x, run, 1.0, 0, 0)}, 1.0)  # type: ignore[misc]
    return results


def test_settings_are_ranked_by_the_seeds_that_all_of_them_have() -> None:
    """The third seed is a hard one for everybody, and only one of the settings has it."""
    results = runs_of({ONE: {1: 1.0, 2: 1.1, 3: 2.0}, OTHER: {1: 1.1, 2: 1.2}})
    shared = results.losses([ONE, OTHER], 1.0)
    assert shared[OTHER] - shared[ONE] == pytest.approx(0.1)
    assert results.loss(ONE, 1.0) > results.loss(OTHER, 1.0), (
        "over whatever seeds each has, it looks the other way round"
    )


def test_where_no_seed_is_shared_each_has_its_own() -> None:
    results = runs_of({ONE: {1: 1.0}, OTHER: {2: 1.3}})
    shared = results.losses([ONE, OTHER], 1.0)
    assert shared[OTHER] - shared[ONE] == pytest.approx(0.3)
