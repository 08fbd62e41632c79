"""What of a candidate is saved, and where it goes on from."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
from tests.engine.rounding import STRICT
from tests.engine.setups import Loader
from tests.runner.runners import A, B, ignore, make_runner

from rung.errors import StudyError
from rung.model.load import Base
from rung.runner.local import LocalRunner
from rung.runner.packing import SavedProgress
from rung.search.strategy import Stage
from rung.study.folder import StudyFolder

HALF, FULL = Stage("race", (A,), 2 / 3), Stage("race", (A,))


def last_step(folder: Path) -> int:
    return max(int(path.name.removeprefix("step-")) for path in folder.iterdir())


def test_a_stage_saves_the_cooldown_start_and_the_cooled_copy(runner: LocalRunner) -> None:
    runner.run(HALF, ignore)
    folder = runner.store.folder
    assert last_step(folder.checkpoint(A)) == 8
    assert last_step(folder.cooldown_copy(A, 2 / 3)) == 10
    runner.run(FULL, ignore)
    assert last_step(folder.checkpoint(A)) == 12
    assert last_step(folder.cooldown_copy(A, 1.0)) == 15
    assert not folder.cooldown_copy(A, 2 / 3).exists(), "it has been measured"


def test_a_candidate_goes_on_from_the_cooldown_start_and_not_from_the_copy(
    runner: LocalRunner,
) -> None:
    assert runner.store.progress(FULL, A) == SavedProgress()
    runner.run(HALF, ignore)
    assert runner.store.progress(FULL, A) == SavedProgress(frozenset({8}))
    assert runner.store.stage_start(FULL, A, 8) == 8
    assert runner.store.load(FULL, A, 8).step == 8


def test_a_candidate_that_was_interrupted_knows_its_pack_and_where_the_stage_began(
    runner: LocalRunner,
) -> None:
    runner.timer.seconds, runner.timer.share = 0, math.inf  # a checkpoint at every step
    runner.run(Stage("race", (A, B), 2 / 3), ignore)
    final, steps = Stage("final", (A, B)), 0
    assert runner.store.progress(final, A).interrupted_pack == (), "the race has ended"

    def stop_after_three(progress: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.run(final, stop_after_three)
    for candidate in (A, B):
        progress = runner.store.progress(final, candidate)
        assert set(progress.interrupted_pack) == {A.id, B.id}
        assert progress.steps == {9, 10}, "the third step was not saved"
        assert runner.store.stage_start(final, candidate, 10) == 8


def test_an_untrained_candidate_starts_from_the_study_s_seed(runner: LocalRunner) -> None:
    state = runner.store.load(FULL, A, 0)
    assert state.step == 0
    assert all(not factor.any() for name, factor in state.weights.items() if name.endswith(".B"))


@pytest.mark.parametrize("file", ["state.safetensors", "state.json"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_it_or_to_the_beginning(
    exact: LocalRunner, tmp_path: Path, file: str
) -> None:
    (uninterrupted,) = exact.run(FULL, ignore)
    exact.store.folder = StudyFolder(tmp_path / "damaged")
    exact.timer.seconds, exact.timer.share = 0, math.inf  # a checkpoint at every step
    exact.run(HALF, ignore)
    first, second = sorted(exact.store.folder.checkpoint(A).iterdir())
    earlier = int(first.name.removeprefix("step-"))
    for path, usable in ((second, {earlier}), (first, set())):
        (path / file).write_bytes((path / file).read_bytes()[:-5])
        assert exact.store.progress(FULL, A).steps == usable
    (ended,) = exact.run(FULL, ignore)
    assert ended.spent == ended.tokens, "it was trained from its beginning"
    assert ended.loss == pytest.approx(uninterrupted.loss, rel=STRICT)


def test_a_stage_goes_on_in_another_process_and_ends_where_one_stage_ends(
    exact: LocalRunner, tiny_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    import torch

    load = Loader(str(tiny_folder), "fp32", torch.float64)
    (whole,) = exact.run(FULL, ignore)
    make_runner(load(), rows_file, tmp_path / "two").run(Stage("race", (A, B), 1 / 3), ignore)
    second = make_runner(load(), rows_file, tmp_path / "two")
    (ended,) = second.run(FULL, ignore)
    assert ended.steps == whole.steps
    assert ended.loss == pytest.approx(whole.loss, rel=STRICT)


def test_an_adapter_is_repaired_from_its_last_checkpoint_and_from_no_earlier_one(
    tiny_base: Base, rows_file: Path, tmp_path: Path
) -> None:
    runner = make_runner(tiny_base, rows_file, tmp_path, checkpoint_seconds=0)
    runner.run(FULL, ignore)
    assert not runner.repair_adapter(A), "it is as it was trained"
    adapter = runner.store.folder.adapter(A) / "adapter_model.safetensors"
    trained = adapter.read_bytes()
    for damage in (b"", trained[:-4] + b"\1\2\3\4", None):
        adapter.unlink()
        if damage is not None:
            adapter.write_bytes(damage)
        assert runner.repair_adapter(A)
        assert adapter.read_bytes() == trained
    cooled = runner.store.folder.cooldown_copy(A, 1.0)
    shutil.rmtree(cooled / f"step-{last_step(cooled):06d}")
    assert not runner.repair_adapter(A), "the adapter can be read, and nothing says it is wrong"
    adapter.unlink()
    for work in (runner.repair_adapter, runner.test_scores):
        with pytest.raises(
            StudyError, match=r"cooldown@1.000' of the study is damaged \(its last checkpoint is"
        ):
            work(A)
    assert not adapter.exists()
