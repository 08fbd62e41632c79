"""A recorded table, and the runner that plays it back."""

from __future__ import annotations

import math
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
DIVERGING_RATE = 1.0
CANDIDATES = [
    Candidate(Setting(rank, scale * rank, targets, rate), seed=seed)
    for rank in (8, 16)
    for scale in (1, 2)
    for targets in ("attention", "all-linear")
    for rate in (1e-3, 2e-3, DIVERGING_RATE)
    for seed in (0, 1)
]
SETTING = Setting(8, 16, "attention", 1e-3)


def world(setting: Setting, fraction: float) -> float:
    return math.inf if setting.learning_rate == DIVERGING_RATE else hill()(setting, fraction)


def recordings() -> list[Measurement]:
    measurements: list[Measurement] = []
    for candidate in CANDIDATES:
        trained = 0.0
        for fraction in FRACTIONS:
            measurements.append(measure(world, candidate, fraction, trained=trained))
            trained = fraction
            if not measurements[-1].scores:
                break
    return measurements


@pytest.fixture
def table(tmp_path: Path) -> Table:
    path = tmp_path / "table.parquet"
    scores = next(m.scores for m in recordings() if m.scores)
    baseline = Scores(tuple(3.0 * tokens for tokens in scores.tokens), scores.tokens)
    write_table(
        path,
        {"letters": recordings()},
        {"letters": baseline},
        {"letters": {"recipe": {"cooldown": 0.2}}},
    )
    return load_table("letters", path)


def ignore(_: StepProgress) -> None:
    """For a caller that shows no progress."""


def test_a_table_reads_back_as_it_was_written(table: Table) -> None:
    written = {(m.candidate, m.fraction): m for m in recordings()}
    read = {(c, fraction): m for c, points in table.runs.items() for fraction, m in points.items()}
    assert read.keys() == written.keys()
    for key, measurement in read.items():
        assert measurement.loss == pytest.approx(written[key].loss, rel=1e-6)
        assert (measurement.tokens, measurement.spent) == (written[key].tokens, written[key].spent)
        assert measurement.status == written[key].status


def test_the_space_of_a_table_is_the_recorded_grid(table: Table) -> None:
    assert table.seeds == (0, 1)
    assert table.fractions == FRACTIONS
    assert set(table.space.settings()) == {c.setting for c in CANDIDATES}
    assert table.space.rates_fixed
    assert table.space.targets[0] == "attention"


def test_the_best_setting_has_the_lowest_mean_loss_over_the_seeds(table: Table) -> None:
    losses: dict[Setting, list[float]] = {c.setting: [] for c in CANDIDATES}
    for m in recordings():
        if m.fraction == 1 or not m.scores:
            losses[m.candidate.setting].append(m.loss)
    means = {setting: sum(by_seed) / 2 for setting, by_seed in losses.items()}
    best = table.best()
    assert best == min(means, key=means.__getitem__)
    assert table.loss(best) == pytest.approx(means[best])
    diverging = Setting(best.rank, best.alpha, best.targets, DIVERGING_RATE)
    assert math.isinf(table.loss(diverging))


def test_a_replay_gives_what_was_recorded_and_counts_its_cost(table: Table) -> None:
    runner = ReplayRunner(table)
    candidate = Candidate(SETTING)
    (race,) = runner.run(Stage("x", (candidate,), 1 / 8), ignore)
    (end,) = runner.run(Stage("x", (candidate,)), ignore)
    assert race.scores == table.runs[candidate][1 / 8].scores
    assert race.spent == race.tokens
    assert end.spent == end.tokens - 0.8 * race.tokens
    assert runner.seconds > 0
    (whole,) = ReplayRunner(table).run(Stage("x", (candidate,)), ignore)
    assert whole.spent == whole.tokens == runner.full_tokens


def test_what_diverged_diverges_at_every_fraction(table: Table) -> None:
    diverging = Candidate(Setting(8, 16, "attention", DIVERGING_RATE))
    for fraction in FRACTIONS:
        (m,) = ReplayRunner(table).run(Stage("x", (diverging,), fraction), ignore)
        assert (m.status, m.scores) == ("diverged", None)


def test_the_nearest_recorded_setting_stands_for_one_that_was_not_recorded(table: Table) -> None:
    assert table.nearest(Setting(12, 24, "attention", 1.2e-3)) == Setting(16, 32, "attention", 1e-3)
    assert table.nearest(Setting(9, 9, "mlp", 3e-3)).rank == 8, "modules that the table lacks"
    candidate = Candidate(Setting(8, 16, "attention", 1.1e-3))
    (m,) = ReplayRunner(table).run(Stage("x", (candidate,)), ignore)
    assert m.candidate == candidate
    assert m.scores == table.runs[Candidate(SETTING)][1.0].scores


def test_a_fraction_that_was_not_recorded_is_an_error(table: Table) -> None:
    with pytest.raises(DataError, match=r"no measurement at 0\.3 of the budget; it has 0\.125"):
        ReplayRunner(table).run(Stage("x", (Candidate(SETTING),), 0.3), ignore)


PAIR = (Candidate(SETTING), Candidate(Setting(16, 32, "attention", 1e-3)))


def test_a_draw_varies_the_rows_and_keeps_them_paired(table: Table) -> None:
    draw = np.random.default_rng(0)
    replays = [ReplayRunner(table, draw).run(Stage("x", PAIR), ignore) for _ in range(20)]
    assert len({one.loss for one, _ in replays}) == 20
    for one, other in replays:
        assert one.scores
        assert other.scores
        assert one.scores.tokens == other.scores.tokens


def test_a_draw_shuffles_the_seeds_of_each_setting_independently(table: Table) -> None:
    draw = np.random.default_rng(0)
    orders = set()
    for _ in range(40):
        runner = ReplayRunner(table, draw)
        for candidate in PAIR:
            played = {runner.recorded(Candidate(candidate.setting, seed)) for seed in (0, 1)}
            assert {(c.setting, c.seed) for c in played} == {
                (candidate.setting, 0),
                (candidate.setting, 1),
            }
        orders.add(tuple(runner.recorded(candidate).seed for candidate in PAIR))
    assert orders == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_a_climb_on_a_table_ends_near_the_best(table: Table) -> None:
    runner, history = ReplayRunner(table), []
    climb = Climb(table.space, effort=Effort(seeds=table.seeds))
    while (decision := climb.decide(runner.baseline(), history)).stage:
        history += runner.run(decision.stage, ignore)
    assert decision.recommended is not None
    assert table.loss(decision.recommended.setting) <= 1.02 * table.loss(table.best())


def test_a_missing_file_or_task_is_an_error(table: Table, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no table"):
        load_table("letters", tmp_path / "none.parquet")
    with pytest.raises(DataError, match="no task 'sums'; it has letters"):
        load_table("sums", tmp_path / "table.parquet")


@pytest.mark.parametrize("task", ["pronounce", "price"])
def test_the_table_that_comes_with_rung_is_complete(task: str) -> None:
    table = load_table(task)
    assert table.seeds == (0, 1)
    assert table.fractions == (1 / 8, 1 / 4, 1 / 2, 1.0)
    assert len(table.settings) == len(table.space.settings()) == 64
    assert Setting(16, 32, "all-linear", 2e-4) in table.settings
    assert table.loss(table.best()) < sum(table.baseline) / sum(table.tokens) / 4
