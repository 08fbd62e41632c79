"""A recorded table, played back: what a strategy cannot tell from a training."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.search.worlds import hill, measure

from rung.errors import DataError
from rung.runner.protocol import StepProgress
from rung.runner.replay import ReplayRunner, Table, load_table, write_table
from rung.search.climb import Climb
from rung.search.effort import Effort
from rung.search.strategy import Stage
from rung.types import Candidate, Measurement, Scores, Setting

FRACTIONS = (1 / 8, 1 / 4, 1.0)
CANDIDATES = [
    Candidate(Setting(rank, scale * rank, targets, rate), seed=seed)
    for rank in (8, 16)
    for scale in (1, 2)
    for targets in ("attention", "all-linear")
    for rate in (1e-3, 2e-3, 1.0)
    for seed in (0, 1)
]


def world(setting: Setting, fraction: float) -> float:
    return math.inf if setting.learning_rate == 1 else hill()(setting, fraction)


def judged() -> list[Measurement]:
    found: list[Measurement] = []
    for candidate in CANDIDATES:
        before = 0.0
        for fraction in FRACTIONS:
            found.append(measure(world, candidate, fraction, before=before))
            before = fraction
            if not found[-1].scores:
                break
    return found


@pytest.fixture
def table(tmp_path: Path) -> Table:
    path = tmp_path / "table.parquet"
    scores = next(m.scores for m in judged() if m.scores)
    baseline = Scores(tuple(3.0 * tokens for tokens in scores.tokens), scores.tokens)
    write_table(
        path,
        {"letters": judged()},
        {"letters": baseline},
        {"letters": {"recipe": {"cooldown": 0.2}}},
    )
    return load_table("letters", path)


def quiet(_: StepProgress) -> None:
    """Nobody listens."""


def test_a_table_reads_back_as_it_was_written(table: Table) -> None:
    before = {(m.candidate, m.fraction): m for m in judged()}
    after = {(c, fraction): m for c, points in table.runs.items() for fraction, m in points.items()}
    assert after.keys() == before.keys()
    for key, measurement in after.items():
        assert measurement.loss == pytest.approx(before[key].loss, rel=1e-6)
        assert (measurement.tokens, measurement.spent) == (before[key].tokens, before[key].spent)
        assert measurement.status == before[key].status


def test_its_space_is_the_recorded_grid(table: Table) -> None:
    assert table.seeds == (0, 1)
    assert table.fractions == FRACTIONS
    assert set(table.space.settings()) == {c.setting for c in CANDIDATES}
    assert table.space.pinned
    assert table.space.targets[0] == "attention"


def test_the_best_setting_is_the_one_with_the_lowest_mean(table: Table) -> None:
    best = table.best()
    assert best.targets == "all-linear"
    assert table.loss(best) == min(table.loss(setting) for setting in table.settings)
    assert math.isinf(table.loss(replace(best, learning_rate=1.0)))


def test_a_replay_measures_what_was_recorded_and_counts_what_it_costs(table: Table) -> None:
    runner = ReplayRunner(table)
    candidate = Candidate(Setting(8, 16, "attention", 1e-3))
    (look,) = runner.run(Stage("x", (candidate,), 1 / 8), quiet)
    (end,) = runner.run(Stage("x", (candidate,)), quiet)
    assert look.scores == table.runs[candidate][1 / 8].scores
    assert look.spent == look.tokens
    assert end.spent == end.tokens - 0.8 * look.tokens
    assert runner.seconds > 0
    (whole,) = ReplayRunner(table).run(Stage("x", (candidate,)), quiet)
    assert whole.spent == whole.tokens == runner.full_tokens


def test_what_diverged_diverges_at_every_share(table: Table) -> None:
    wild = Candidate(Setting(8, 16, "attention", 1.0))
    for fraction in FRACTIONS:
        (found,) = ReplayRunner(table).run(Stage("x", (wild,), fraction), quiet)
        assert (found.status, found.scores) == ("diverged", None)


def test_a_candidate_that_was_not_recorded_is_played_by_the_nearest(table: Table) -> None:
    near = table.nearest(Setting(12, 24, "attention", 1.2e-3))
    assert near in (Setting(8, 16, "attention", 1e-3), Setting(16, 32, "attention", 1e-3))
    asked = Candidate(Setting(8, 16, "attention", 1.1e-3))
    (found,) = ReplayRunner(table).run(Stage("x", (asked,)), quiet)
    assert found.candidate == asked


def test_a_share_that_was_not_recorded_is_refused(table: Table) -> None:
    with pytest.raises(DataError, match=r"no judgement at 0\.3 of the budget"):
        ReplayRunner(table).run(
            Stage("x", (Candidate(Setting(8, 16, "attention", 1e-3)),), 0.3), quiet
        )


def test_a_draw_varies_the_rows_and_the_seeds_and_keeps_them_paired(table: Table) -> None:
    draw = np.random.default_rng(0)
    stage = Stage(
        "x",
        (
            Candidate(Setting(8, 16, "attention", 1e-3)),
            Candidate(Setting(16, 32, "attention", 1e-3)),
        ),
    )
    found = [ReplayRunner(table, draw).run(stage, quiet) for _ in range(20)]
    assert len({one.loss for one, _ in found}) == 20
    for one, other in found:
        assert one.scores
        assert other.scores
        assert one.scores.tokens == other.scores.tokens


def test_a_draw_shuffles_the_seeds_of_each_setting_by_itself(table: Table) -> None:
    draw = np.random.default_rng(0)
    found = set()
    for _ in range(40):
        runner = ReplayRunner(table, draw)
        runner._rows = None  # so that the losses are those that were recorded
        pair = tuple(Candidate(Setting(rank, 2 * rank, "attention", 1e-3)) for rank in (8, 16))
        played = zip(pair, runner.run(Stage("x", pair), quiet), strict=True)
        found.add(tuple(m.loss == table.runs[candidate][1.0].loss for candidate, m in played))
    assert len(found) == 4, "each of the two is the first or the second seed"


def test_a_climb_on_it_ends_near_the_best(table: Table) -> None:
    runner, history = ReplayRunner(table), []
    climb = Climb(table.space, effort=Effort(seeds=table.seeds))
    while (decision := climb.decide(runner.baseline(), history)).stage:
        history += runner.run(decision.stage, quiet)
    assert decision.recommended is not None
    assert table.loss(decision.recommended.setting) <= 1.02 * table.loss(table.best())


def test_a_file_or_a_task_that_is_not_there_is_said(table: Table, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no table"):
        load_table("letters", tmp_path / "none.parquet")
    with pytest.raises(DataError, match="no task 'sums'; it has letters"):
        load_table("sums", tmp_path / "table.parquet")


@pytest.mark.parametrize("task", ["pronounce", "price"])
def test_the_table_that_comes_with_rung_is_whole_where_it_says_so(task: str) -> None:
    table = load_table(task)
    assert table.seeds == (0, 1)
    assert table.fractions == (1 / 8, 1 / 4, 1 / 2, 1.0)
    assert len(table.settings) == len(table.space.settings()) == 64
    assert Setting(16, 32, "all-linear", 2e-4) in table.settings
    assert table.loss(table.best()) < sum(table.baseline) / sum(table.tokens) / 4
