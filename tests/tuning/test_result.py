"""What a study leaves behind in numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from tests.search.worlds import measure

from rung.search.stats import Variance
from rung.tuning.result import settings
from rung.types import Candidate, Measurement, Setting

SETTING = Candidate(Setting(16, 32, "all-linear", 1e-3))


def ended(*losses: float, setting: Candidate = SETTING) -> dict[Candidate, Measurement]:
    """Runs of the seeds from 0 on, in full."""
    runs = [replace(setting, seed=seed) for seed in range(len(losses))]
    return {
        run: measure(lambda c, f, x=x: x, run, 1.0, 0, 0)
        for run, x in zip(runs, losses, strict=True)
    }  # type: ignore[misc]


def test_the_seed_that_picked_a_setting_is_not_among_those_that_say_how_good_it_is() -> None:
    (found,) = settings(ended(1.0, 1.5, 1.7), Variance(0.01, 5))
    assert (found["seeds"], found["status"]) == (2, "trained")
    assert found["validation_loss"]["mean"] == pytest.approx(1.6, abs=0.05)
    assert found["seconds"] == 3, "its time was spent all the same"


def test_a_setting_that_nobody_confirmed_has_the_seed_that_raced() -> None:
    (found,) = settings(ended(1.0), None)
    assert found["seeds"] == 1
    assert found["validation_loss"]["mean"] == pytest.approx(1.0, abs=0.05)


def test_a_setting_of_which_one_run_diverged_has_no_loss() -> None:
    (found,) = settings(ended(1.0, 1.5, math.inf), None)
    assert (found["status"], found["validation_loss"]) == ("diverged", None)


def test_what_was_confirmed_is_not_mixed_with_what_raced_in_part() -> None:
    raced = replace(SETTING, rank=8)
    part = measure(lambda c, f: 2.0, raced, 0.25, 0, 0)
    found = {one["rank"]: one for one in settings({**ended(1.0, 1.5), raced: part}, None)}
    assert [found[8][key] for key in ("fraction", "status", "seeds")] == [0.25, "left", 1]
    assert [found[16][key] for key in ("fraction", "status", "seeds")] == [1.0, "trained", 1]
