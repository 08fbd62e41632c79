"""What rows and seeds can show, before anything is trained."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rung.runner.replay import load_table
from rung.search.power import SEED_DEVIATION, detectable_gain
from rung.search.stats import gain_estimate, loss_estimate, seed_noise
from rung.types import Candidate, Scores


def untuned(rows: int, deviation: float = 0.3) -> Scores:
    draw = np.random.default_rng(0)
    losses = 4 * (5 + draw.normal(0, deviation * 5, rows))
    return Scores(tuple(losses.tolist()), (4,) * rows)


def test_more_rows_and_more_seeds_show_smaller_gains() -> None:
    few, more_rows, more_seeds = (
        detectable_gain(untuned(rows), seeds, 3, 0.01, 0.95).detectable
        for rows, seeds in ((50, 3), (200, 3), (200, 9))
    )
    assert few > more_rows > more_seeds > 0


def test_the_rows_for_the_margin_show_the_margin() -> None:
    power = detectable_gain(untuned(200), 3, 3, 0.01, 0.95)
    again = detectable_gain(untuned(power.rows_for_margin), 3, 3, 0.01, 0.95)
    assert again.detectable_by_rows == pytest.approx(0.01, rel=0.05)


def test_without_the_noise_of_seeds_a_smaller_gain_is_detectable() -> None:
    power = detectable_gain(untuned(200), 3, 3, 0.01, 0.95)
    assert 0 < power.detectable_by_rows < power.detectable
    assert (power.rows, power.seeds) == (200, 3)


@pytest.mark.parametrize("task", ["pronounce", "price"])
def test_the_noise_that_is_assumed_is_that_of_the_recorded_tasks(task: str) -> None:
    """The relative error of a difference of two good settings is that of the untuned model."""
    table = load_table(task)
    settings = sorted(table.settings, key=table.loss)[:16]
    runs = {s: [table.runs[Candidate(s, seed)][1.0] for seed in table.seeds] for s in settings}
    errors = []
    for one, other in itertools.permutations(settings[:10], 2):
        before, after = runs[one][0].scores, runs[other][0].scores
        assert before
        assert after
        errors.append(gain_estimate([before], [after]).error / before.mean)
    loss = loss_estimate([Scores(table.baseline, table.tokens)])
    assert np.median(errors) == pytest.approx(loss.error / loss.mean, rel=0.2)
    noise = seed_noise({(s, m.candidate.seed): m.loss for s in settings for m in runs[s]})
    assert noise
    assert noise.value**0.5 / table.loss(settings[8]) == pytest.approx(SEED_DEVIATION, rel=0.3)
