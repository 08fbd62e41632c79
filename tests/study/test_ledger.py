"""The ledger keeps every measurement, and is one of Optuna's studies."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from tests.study.records import CANDIDATE, DIVERGED, END, PART, SCORES, TEXTS

from rung.study.folder import StudyFolder
from rung.study.ledger import Ledger
from rung.types import Candidate, Setting


def test_what_is_recorded_is_there_after_reopening_to_the_last_bit(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "s")
    ledger = Ledger(folder)
    assert ledger.baseline() is None
    assert ledger.history() == []
    ledger.record_baseline(SCORES)
    for measurement in (PART, DIVERGED, END):
        ledger.record(measurement)
    ledger.record_test_scores("untuned", SCORES)
    ledger.record_generations("test", "untuned", TEXTS)
    ledger.add_seconds(2.0)
    again = Ledger(folder)
    assert again.baseline() == SCORES
    assert set(again.history()) == {PART, DIVERGED, END}
    assert again.test_scores("untuned") == SCORES
    assert again.generations("test", "untuned") == TEXTS
    assert again.generations("validation", "untuned") is None
    assert again.test_scores(CANDIDATE.id) is None
    assert again.add_seconds(1.0) == 3.0


def test_optuna_sees_candidates_as_trials(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "s")
    ledger = Ledger(folder)
    left = replace(PART, candidate=Candidate(replace(CANDIDATE.setting, rank=4)))
    for measurement in (PART, END, DIVERGED, left):
        ledger.record(measurement)
    ledger.record_excluded(left.candidate)
    ledger.record_excluded(left.candidate)
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{folder.database}")
    states = {trial.user_attrs["candidate"]["id"]: trial for trial in study.trials}
    assert states[CANDIDATE.id].state.name == "COMPLETE"
    assert states[CANDIDATE.id].value == END.loss
    assert states[CANDIDATE.id].intermediate_values == {50: PART.loss, 150: END.loss}
    assert states[CANDIDATE.id].params["learning_rate"] == 1e-3
    assert states[DIVERGED.candidate.id].state.name == "FAIL"
    assert states[left.candidate.id].state.name == "PRUNED"
    assert study.best_trial.user_attrs["candidate"]["rank"] == 8


def test_a_candidate_of_other_targets_fits_in_the_same_study(tmp_path: Path) -> None:
    ledger = Ledger(StudyFolder(tmp_path / "s"))
    for targets in ("attention", "mlp", "q_proj,v_proj"):
        ledger.record(
            replace(END, candidate=Candidate(replace(CANDIDATE.setting, targets=targets)))
        )
    assert {m.candidate.targets for m in ledger.history()} == {"attention", "mlp", "q_proj,v_proj"}


def test_a_diverged_candidate_has_an_infinite_loss(tmp_path: Path) -> None:
    ledger = Ledger(StudyFolder(tmp_path / "s"))
    ledger.record(DIVERGED)
    assert ledger.history()[0].loss == math.inf


def test_killed_at_any_moment_the_ledger_opens_and_holds_whole_measurements_only(
    tmp_path: Path,
) -> None:
    program = textwrap.dedent(
        f"""
        import sys
        from dataclasses import replace
        from rung.study.folder import StudyFolder
        from rung.study.ledger import Ledger
        from tests.study.records import END
        from pathlib import Path
        ledger = Ledger(StudyFolder(Path({str(tmp_path)!r}) / "s"))
        print("ready", flush=True)
        for seed in range(len(ledger.history()), 10**6):
            ledger.record(replace(END, candidate=replace(END.candidate, seed=seed)))
            print(seed, flush=True)
        """
    )
    for records in (1, 4):
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert process.stdout is not None
        for _ in range(1 + records):
            assert process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        history = Ledger(StudyFolder(tmp_path / "s")).history()
        assert len(history) >= records
        assert all(m.scores == SCORES for m in history)


@pytest.mark.parametrize("name", ["what?now", "50% #a", "a%20b", "{x}", "a&b=c", "数据", "s"])
def test_the_database_lies_in_its_own_folder_whatever_its_name(tmp_path: Path, name: str) -> None:
    folder = StudyFolder(tmp_path / f"in {name}" / name)
    Ledger(folder).record(END)
    assert Ledger(folder).history() == [END]
    assert [path.name for path in tmp_path.iterdir()] == [f"in {name}"]
    assert [path.name for path in folder.path.parent.iterdir()] == [name]
    assert folder.database.stat().st_size > 0


def test_a_folder_may_be_named_by_a_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Ledger(StudyFolder(Path("a?b") / "s")).record(END)
    assert Ledger(StudyFolder(tmp_path / "a?b" / "s")).history() == [END]


def test_a_study_goes_on_when_its_folder_has_another_name(recorded: StudyFolder) -> None:
    moved = StudyFolder(recorded.path.rename(recorded.path.with_name("other")))
    assert Ledger(moved).history() == [END]


def test_a_rank_an_alpha_and_a_rate_at_their_bounds_can_be_kept(tmp_path: Path) -> None:
    ledger = Ledger(StudyFolder(tmp_path / "s"))
    for rank, alpha, rate in ((1, 1e-3, 1e-9), (65_536, 1e6, 1 - 2**-53)):
        ledger.record(replace(END, candidate=Candidate(Setting(rank, alpha, "attention", rate))))
    assert len(ledger.history()) == 2
