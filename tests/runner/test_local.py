from __future__ import annotations

import itertools
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.engine.oracle import Loader
from tests.engine.rounding import STRICT

from rung.costs.memory_model import Activations, MemoryModel
from rung.data.prepare import prepare
from rung.engine.trainer import Trainer
from rung.errors import StudyError
from rung.model.load import Base
from rung.recipe import Recipe
from rung.runner.local import LocalRunner
from rung.runner.protocol import StepProgress
from rung.search.strategy import Stage
from rung.study.folder import StudyFolder
from rung.types import Candidate, Setting

A, B = Candidate(Setting(4, 8, "attention", 1e-2)), Candidate(Setting(8, 16, "attention", 3e-3))
WILD = Candidate(Setting(4, 8, "attention", 1e30))


@pytest.fixture
def runner(tiny_base: Base, rows_file: Path, tmp_path: Path) -> LocalRunner:
    return make(tiny_base, rows_file, tmp_path / "study")


@pytest.fixture
def exact(exact_base: Base, rows_file: Path, tmp_path: Path) -> LocalRunner:
    """In float64, but for the adapters: a training may lie no further from another than `STRICT`."""
    return make(exact_base, rows_file, tmp_path / "study")


def make(base: Base, rows: Path, folder: Path, **options: Any) -> LocalRunner:
    recipe = Recipe(data=str(rows), validation=str(rows), test=str(rows), **options)
    return LocalRunner(base, prepare(recipe, base.tokenizer), recipe, StudyFolder(folder))


def quiet(tick: StepProgress) -> None:
    """Nobody listens."""


def test_training_lowers_the_loss_and_is_measured_in_the_order_asked_for(
    runner: LocalRunner,
) -> None:
    baseline = runner.baseline()
    found = runner.run(Stage("rank", (B, A)), quiet)
    assert [m.candidate for m in found] == [B, A]
    for measurement in found:
        assert measurement.loss < baseline.mean - 1
        assert measurement.tokens == runner.full_tokens
        assert measurement.fraction == 1
        assert measurement.steps == 15
        assert measurement.adapter_bytes == 4 * measurement.parameters
        assert measurement.peak_memory_bytes > 10**7
        assert measurement.seconds > 0
        assert measurement.scores is not None
        assert measurement.scores.tokens == baseline.tokens


def test_a_race_in_two_heats_ends_where_one_heat_ends_also_in_another_process(
    exact: LocalRunner, tiny_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    load = Loader(str(tiny_folder), "fp32", torch.float64)
    (whole,) = exact.run(Stage("rank", (A,)), quiet)
    make(load(), rows_file, tmp_path / "two").run(Stage("rank", (A, B), 1 / 3), quiet)
    second = make(load(), rows_file, tmp_path / "two")
    (ended,) = second.run(Stage("rank", (A,)), quiet)
    assert ended.steps == whole.steps
    assert ended.loss == pytest.approx(whole.loss, rel=STRICT)


def test_checkpoints_take_a_twentieth_of_the_time_at_most(
    runner: LocalRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, saved = 0.0, []
    step, save = runner.trainer.step, runner._save

    def trained(*args: Any) -> Any:
        nonlocal now
        now += 100
        return step(*args)

    def slow(*args: Any) -> None:
        nonlocal now
        saved.append(now)
        now += 15
        save(*args)

    monkeypatch.setattr(runner, "clock", lambda: now)
    monkeypatch.setattr(runner.trainer, "step", trained)
    monkeypatch.setattr(runner, "_save", slow)
    runner.run(Stage("rank", (A,)), quiet)
    # After a minute, then whenever more than twenty times 15 s have passed; at the fork, the twelfth step; at the end.
    assert saved == [100, 515, 930, 1245, 1560]


def test_packs_as_narrow_as_one_change_nothing(
    exact: LocalRunner, tiny_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    load = Loader(str(tiny_folder), "fp32", torch.float64)
    narrow = make(load(), rows_file, tmp_path / "narrow", pack_width=1)
    losses = [
        [m.loss for m in runner.run(Stage("rank", (A, B)), quiet)] for runner in (exact, narrow)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=STRICT)


def test_a_candidate_that_diverges_is_measured_as_that(runner: LocalRunner) -> None:
    ticks: list[StepProgress] = []
    wild, well = runner.run(Stage("rank", (WILD, A)), ticks.append)
    assert (wild.status, wild.scores, well.status) == ("diverged", None, "trained")
    assert wild.steps < well.steps
    assert ticks[0].started == 2
    assert ticks[-1].alive == 1
    assert ticks[-1].tokens_left == 0
    left = [tick.tokens_left for tick in ticks]
    assert left == sorted(left, reverse=True)


def test_a_pack_that_diverges_whole_ends_early(runner: LocalRunner) -> None:
    (wild,) = runner.run(Stage("rank", (WILD,)), quiet)
    assert wild.status == "diverged"


def test_the_test_split_is_scored_and_written_to(runner: LocalRunner) -> None:
    runner.run(Stage("rank", (A,)), quiet)
    untuned, tuned = runner.test(None), runner.test(A)
    assert tuned.mean < untuned.mean - 1
    before, after = runner.write([None, A], "test")
    assert [row.wanted for row in before] == [text.after for text in runner.data.test.every_text()]
    assert [row.prompt for row in before] == [row.prompt for row in after]
    right = [sum(row.text.strip() == row.wanted for row in rows) for rows in (before, after)]
    assert right[0] <= right[1]


def test_candidates_write_in_packs_what_each_writes_alone(runner: LocalRunner) -> None:
    runner.run(Stage("rank", (A, B)), quiet)
    both = runner.write([B, A], "validation")
    assert both == [runner.write([one], "validation")[0] for one in (B, A)]
    assert len(both[0]) == min(64, len(runner.validation))
    runner.written_rows = {"validation": 7}
    few = [row.where for row in runner.write([A], "validation")[0]]
    every = [text.where for text in runner.data.validation.every_text()]
    assert few == [every[at * len(every) // 7] for at in range(7)], "spread over all of them"
    runner.written_rows = {"test": 5}
    assert [len(runner.write([A], split)[0]) for split in ("validation", "test")] == [len(every), 5]


@pytest.mark.parametrize(("passes", "steps"), [(0.5, 8), (1, 15), (2.4, 36), (0.0001, 1)])
def test_the_full_budget_is_some_passes(
    tiny_base: Base, rows_file: Path, tmp_path: Path, passes: float, steps: int
) -> None:
    assert make(tiny_base, rows_file, tmp_path, passes=passes).steps == steps


def test_a_judgement_is_a_branch_and_the_training_goes_on_from_before_it(
    runner: LocalRunner,
) -> None:
    (look,) = runner.run(Stage("rank", (A,), 2 / 3), quiet)
    assert (look.steps, look.tokens) == (10, look.spent)
    (end,) = runner.run(Stage("rank", (A,)), quiet)
    # Ten steps, of which the last two cooled down; then from the eighth on to the fifteenth.
    tokens = runner._steps.tokens(0)
    assert end.spent == sum(tokens[8:])
    assert end.tokens == sum(tokens) == runner.full_tokens


@pytest.mark.parametrize("file", ["state.safetensors", "state.json"])
def test_a_checkpoint_that_is_damaged_gives_way_to_the_one_before_it_or_to_the_beginning(
    exact: LocalRunner, file: str
) -> None:
    (whole,) = exact.run(Stage("race", (A,)), quiet)
    exact.folder = StudyFolder(exact.folder.path.with_name("cut"))
    exact.checkpoint_seconds = 0.0
    exact.run(Stage("race", (A,), 2 / 3), quiet)
    first, second = sorted(exact.folder.checkpoint(A).iterdir())
    for path, at in ((second, int(first.name.removeprefix("step-"))), (first, 0)):
        (path / file).write_bytes((path / file).read_bytes()[:-5])
        assert exact._packs(Stage("race", (A,))) == [[(A, at)]]
    (ended,) = exact.run(Stage("race", (A,)), quiet)
    assert ended.loss == pytest.approx(whole.loss, rel=STRICT)


def test_an_adapter_without_its_last_checkpoint_is_not_made_from_an_earlier_one(
    runner: LocalRunner,
) -> None:
    runner.checkpoint_seconds = 0.0
    runner.run(Stage("race", (A,)), quiet)
    assert not runner.restore(A)
    adapter = runner.folder.adapter(A) / "adapter_model.safetensors"
    kept = adapter.read_bytes()
    adapter.unlink()
    assert runner.restore(A)
    assert adapter.read_bytes() == kept
    adapter.unlink()
    shutil.rmtree(max(runner.folder.cooled(A, 1.0).iterdir()))
    for ask in (runner.restore, runner.test):
        with pytest.raises(
            StudyError, match=r"cooled@1.000' of the study is damaged \(its last checkpoint is"
        ):
            ask(A)
    assert not adapter.exists()


def test_a_look_is_judged_by_its_share_of_the_rows_and_by_no_fewer_than_said(
    runner: LocalRunner,
) -> None:
    rows = len(runner.validation)
    for fewest, fraction, wanted in ((16, 0.5, rows // 2), (16, 0.05, 16), (10_000, 0.5, rows)):
        runner.min_race_rows = fewest
        judging = runner._judging(fraction)
        assert len(judging) == wanted
        assert [row for row in runner.validation if row in judging] == judging, (
            "in order, none twice"
        )
    assert runner._judging(1.0) == list(runner.validation)
    runner.min_race_rows = 16
    (measured,) = runner.run(Stage("race", (A,), 0.5), quiet)
    assert measured.scores is not None
    assert len(measured.scores.tokens) == rows // 2


def test_candidates_of_another_seed_see_the_rows_in_another_order(runner: LocalRunner) -> None:
    assert runner._steps.rows(0) != runner._steps.rows(1)
    assert sorted(itertools.chain(*runner._steps.rows(0))) == sorted(
        itertools.chain(*runner._steps.rows(1))
    )
    found = runner.run(Stage("rank", (A, replace(A, seed=1))), quiet)
    assert found[0].scores != found[1].scores


def test_the_same_candidate_of_two_seeds_trains_as_it_does_alone(
    exact_base: Base, rows_file: Path, tmp_path: Path
) -> None:
    both = make(exact_base, rows_file, tmp_path / "both")
    together = both.run(Stage("rank", (A, replace(A, seed=1), B)), quiet)
    both.folder = StudyFolder(tmp_path / "alone")
    alone = [both.run(Stage("rank", (c,)), quiet)[0] for c in (A, replace(A, seed=1), B)]
    assert [m.loss for m in together] == pytest.approx([m.loss for m in alone], rel=STRICT)


def test_the_speed_is_measured_and_leaves_nothing(runner: LocalRunner) -> None:
    assert runner.speed() > 10
    assert not runner.folder.path.exists()


def test_memory_is_measured_only_where_it_is_not_plenty(
    exact: LocalRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = exact
    measured: list[Candidate] = []

    def measure(trainer: Trainer, candidate: Candidate, rows: Any) -> MemoryModel:
        measured.append(candidate)
        return MemoryModel(0, Activations(1.0, 1.0, 0.0), Activations(1.0, 1.0, 0.0))

    monkeypatch.setattr("rung.runner.local.measure", measure)
    runner.memory = 10**11
    (with_plenty,) = runner.run(Stage("race", (A,)), quiet)
    assert measured == []
    assert runner.trainer.training_limit.tokens == math.inf
    assert runner.trainer.frozen.holds_dense, "what is there in plenty makes steps faster"
    runner.memory, runner.folder = 10**8, StudyFolder(runner.folder.path.with_name("tight"))
    (with_little,) = runner.run(Stage("race", (A,)), quiet)
    assert len(measured) == 1
    assert runner.trainer.training_limit.tokens < 10**8
    assert not runner.trainer.frozen.holds_dense
    assert with_little.loss == pytest.approx(with_plenty.loss, rel=STRICT)
