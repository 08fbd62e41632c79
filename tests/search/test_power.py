"""What rows and seeds can show, before anything is trained."""

from __future__ import annotations

import numpy as np
import pytest

from rung.search.power import RUNS_DIFFER, detectable_gain
from rung.types import Candidate, Scores


def untuned(rows: int, deviation: float = 0.3) -> Scores:
    draw = np.random.default_rng(0)
    losses = 4 * (5 + draw.normal(0, deviation * 5, rows))
    return Scores(tuple(losses.tolist()), (4,) * rows)


def test_more_rows_and_more_seeds_show_smaller_gains() -> None:
    shown = [
        detectable_gain(untuned(rows), seeds, 3, 0.01, 0.95).shown
        for rows, seeds in ((50, 3), (200, 3), (200, 9))
    ]
    assert shown == sorted(shown, reverse=True)


def test_so_many_rows_show_the_margin() -> None:
    found = detectable_gain(untuned(200), 3, 3, 0.01, 0.95)
    again = detectable_gain(untuned(found.rows_for_margin), 3, 3, 0.01, 0.95)
    assert again.shown_by_rows == pytest.approx(0.01, rel=0.05)


def test_the_rows_alone_hide_less_than_everything() -> None:
    found = detectable_gain(untuned(200), 3, 3, 0.01, 0.95)
    assert found.shown_by_rows < found.shown
    assert (found.rows, found.seeds) == (200, 3)


def test_what_is_foreseen_of_the_rows_is_what_the_recorded_tasks_showed() -> None:
    """The rule it rests on: the relative error of a difference of two good settings is that of the untuned model."""
    from rung.runner.replay import load_table
    from rung.search.stats import gain_estimate, loss_estimate, seed_noise

    for task in ("pronounce", "price"):
        table = load_table(task)
        best = sorted(table.settings, key=table.loss)[:16]
        results = {s: [table.runs[Candidate(s, seed)][1.0] for seed in table.seeds] for s in best}
        errors = []
        for one in best[:10]:
            for other in best[:10]:
                before, to = results[one][0].scores, results[other][0].scores
                assert before
                assert to
                if one != other:
                    errors.append(gain_estimate([before], [to]).error / before.mean)
        own = loss_estimate([Scores(table.baseline, table.tokens)])
        assert np.median(errors) == pytest.approx(own.error / own.mean, rel=0.2)
        noise = seed_noise({(s, m.candidate.seed): m.loss for s in best for m in results[s]})
        assert noise
        assert noise.value**0.5 / table.loss(best[8]) == pytest.approx(RUNS_DIFFER, rel=0.3)
