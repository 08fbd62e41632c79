"""The local runner on a tiny model: what it promises to the loop."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from tests.engine.rounding import STRICT
from tests.engine.setups import Loader
from tests.runner.runners import A_SEED_1, A, B, ignore, make_runner

from rung.costs import memory_policy
from rung.costs.memory_model import Activations, MemoryModel
from rung.model.load import Base
from rung.runner.local import LocalRunner
from rung.search.strategy import Stage
from rung.study.folder import StudyFolder
from rung.types import Generation


def test_training_lowers_the_loss_and_is_measured_in_the_order_of_the_stage(
    runner: LocalRunner,
) -> None:
    baseline = runner.baseline()
    measurements = runner.run(Stage("final", (B, A)), ignore)
    assert [m.candidate for m in measurements] == [B, A]
    for measurement in measurements:
        assert measurement.loss < baseline.mean - 1
        assert measurement.tokens == runner.full_tokens
        assert measurement.fraction == 1
        assert measurement.steps == 15
        assert measurement.adapter_bytes == 4 * measurement.parameters
        assert measurement.peak_memory_bytes > 10**7
        assert measurement.seconds > 0
        assert measurement.scores is not None
        assert measurement.scores.tokens == baseline.tokens


def test_packs_as_narrow_as_one_change_nothing(
    exact: LocalRunner, tiny_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    base = Loader(str(tiny_folder), "fp32", torch.float64)()
    narrow = make_runner(base, rows_file, tmp_path / "narrow", pack_width=1)
    wide_losses, narrow_losses = (
        [m.loss for m in runner.run(Stage("final", (A, B)), ignore)] for runner in (exact, narrow)
    )
    assert wide_losses == pytest.approx(narrow_losses, rel=STRICT)


def test_tight_memory_changes_no_loss(
    exact: LocalRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_byte_a_token = Activations(1.0, 1.0, 0.0)
    model = MemoryModel(0, one_byte_a_token, one_byte_a_token)
    monkeypatch.setattr(memory_policy, "measure_memory", lambda *_: model)
    exact.memory.limit = 10**11
    (with_plenty,) = exact.run(Stage("race", (A,)), ignore)
    assert exact.trainer.training_limit.tokens == math.inf
    assert exact.trainer.frozen.holds_dense, "memory that is not needed makes steps faster"
    exact.memory.limit, exact.store.folder = 10**8, StudyFolder(tmp_path / "tight")
    (with_little,) = exact.run(Stage("race", (A,)), ignore)
    assert exact.trainer.training_limit.tokens < 10**8
    assert not exact.trainer.frozen.holds_dense
    assert with_little.loss == pytest.approx(with_plenty.loss, rel=STRICT)


def test_the_limit_of_the_recipe_is_the_runner_s(
    tiny_base: Base, rows_file: Path, tmp_path: Path
) -> None:
    assert make_runner(tiny_base, rows_file, tmp_path, memory="2GB").memory.limit == 2 * 10**9


def test_a_trained_candidate_scores_and_generates_better_than_the_untuned_model(
    tiny_base: Base, rows_file: Path, tmp_path: Path
) -> None:
    runner = make_runner(tiny_base, rows_file, tmp_path, passes=4)
    runner.run(Stage("final", (A,)), ignore)
    untuned, tuned = runner.test_scores(None), runner.test_scores(A)
    assert tuned.mean < untuned.mean - 1
    before, after = runner.generate([None, A], "test")
    assert [row.wanted for row in before] == [text.answer for text in runner.data.test.every_text()]
    assert [row.prompt for row in before] == [row.prompt for row in after]

    def right(rows: list[Generation]) -> int:
        return sum(row.text.strip() == row.wanted for row in rows)

    assert right(before) < right(after)


def test_candidates_generate_in_packs_what_each_generates_alone(runner: LocalRunner) -> None:
    runner.run(Stage("final", (A, B)), ignore)
    together = runner.generate([B, A], "validation")
    assert together == [runner.generate([one], "validation")[0] for one in (B, A)]
    assert len(together[0]) == min(64, len(runner.validation))


def test_rows_to_generate_for_are_limited_by_split_and_spread_over_all(
    runner: LocalRunner,
) -> None:
    every = [text.location for text in runner.data.validation.every_text()]
    runner.generated_rows = {"validation": 7}
    few = [row.where for row in runner.generate([None], "validation")[0]]
    assert few == [every[at * len(every) // 7] for at in range(7)]
    runner.generated_rows = {"test": 5}
    counts = [len(runner.generate([None], split)[0]) for split in ("validation", "test")]
    assert counts == [len(every), 5]


def test_lower_ranks_of_a_trained_candidate_are_scored(runner: LocalRunner) -> None:
    (measured,) = runner.run(Stage("final", (B,)), ignore)
    use = runner.measure_rank_use(B, [1, 4, 8])
    assert 1 <= use.effective_rank <= 8
    assert set(use.truncated_losses) == {1, 4, 8}
    assert use.truncated_losses[8] == pytest.approx(measured.loss, rel=1e-4), "nothing is cut"
    assert use.truncated_losses[1] > use.truncated_losses[8]
    assert runner.measure_rank_use(B, []).truncated_losses == {}


@pytest.mark.parametrize(("passes", "steps"), [(0.5, 8), (1, 15), (2.4, 36), (0.0001, 1)])
def test_the_full_budget_is_some_passes(
    tiny_base: Base, rows_file: Path, tmp_path: Path, passes: float, steps: int
) -> None:
    assert make_runner(tiny_base, rows_file, tmp_path, passes=passes).steps == steps


def test_a_cooled_copy_is_measured_and_the_training_goes_on_from_the_cooldown_start(
    runner: LocalRunner,
) -> None:
    (raced,) = runner.run(Stage("race", (A,), 2 / 3), ignore)
    assert (raced.steps, raced.tokens) == (10, raced.spent)
    (ended,) = runner.run(Stage("race", (A,)), ignore)
    # Ten steps, of which the last two cooled down; then from the eighth on to the fifteenth.
    tokens = runner.batches.tokens(0)
    assert ended.spent == sum(tokens[8:])
    assert ended.tokens == sum(tokens) == runner.full_tokens


def test_a_race_is_measured_on_some_of_the_rows_spread_over_all_of_them(
    runner: LocalRunner,
) -> None:
    runner.min_race_rows = 16
    tokens = runner.baseline().tokens
    (measured,) = runner.run(Stage("race", (A,), 0.5), ignore)
    assert measured.scores is not None
    assert measured.scores.tokens == tokens[::2]


def test_candidates_of_another_seed_see_the_rows_in_another_order(runner: LocalRunner) -> None:
    orders = [runner.batches.rows(seed) for seed in (0, 1)]
    assert orders[0] != orders[1]
    assert sorted(itertools.chain(*orders[0])) == sorted(itertools.chain(*orders[1]))
    one, other = runner.run(Stage("final", (A, A_SEED_1)), ignore)
    assert one.scores != other.scores


def test_the_same_setting_with_two_seeds_trains_in_a_pack_as_each_does_alone(
    exact: LocalRunner, tmp_path: Path
) -> None:
    candidates = (A, A_SEED_1, B)
    together = exact.run(Stage("final", candidates), ignore)
    exact.store.folder = StudyFolder(tmp_path / "alone")
    alone = [exact.run(Stage("final", (c,)), ignore)[0] for c in candidates]
    assert [m.loss for m in together] == pytest.approx([m.loss for m in alone], rel=STRICT)


def test_the_speed_is_measured_and_leaves_nothing(runner: LocalRunner) -> None:
    assert runner.tokens_per_second() > 10
    assert not runner.store.folder.path.exists()
