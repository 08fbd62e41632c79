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

from rung.levers import Candidate, Measurement, Scores
from rung.metrics import Written
from rung.study.files import StudyFolder
from rung.study.ledger import Ledger

SCORES = Scores((1.5, 0.1 + 0.2, 3.0), (1, 2, 3))
TEXTS = [Written(" 달 🌙", "", "p", "a.jsonl, line 1", "s"), Written("\0\n", "x")]
CANDIDATE = Candidate(8, 16, "attention", 1e-3)
LOOK = Measurement(CANDIDATE, 1 / 3, 50, 5000, 5000, "trained", SCORES, 1000, 4000, 10**9, 12.5)
END = replace(LOOK, fraction=1.0, steps=150, tokens=15000)
DIVERGED = replace(LOOK, candidate=Candidate(8, 16, "attention", 1.0), status="diverged", scores=None, steps=7)


def test_what_is_recorded_is_there_after_reopening_to_the_last_bit(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "s")
    ledger = Ledger(folder)
    assert ledger.baseline() is None
    assert ledger.history() == []
    ledger.record_baseline(SCORES)
    for measurement in (LOOK, DIVERGED, END):
        ledger.record(measurement)
    ledger.record_test("untuned", SCORES)
    ledger.record_written("test", "untuned", TEXTS)
    ledger.add_seconds(2.0)
    again = Ledger(folder)
    assert again.baseline() == SCORES
    assert set(again.history()) == {LOOK, DIVERGED, END}
    assert again.test("untuned") == SCORES
    assert again.written("test", "untuned") == TEXTS
    assert again.written("validation", "untuned") is None
    assert again.test(CANDIDATE.id) is None
    assert again.add_seconds(1.0) == 3.0


def test_optuna_sees_candidates_as_trials(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "s")
    ledger = Ledger(folder)
    left = replace(LOOK, candidate=replace(CANDIDATE, rank=4))
    for measurement in (LOOK, END, DIVERGED, left):
        ledger.record(measurement)
    ledger.record_left(left.candidate)
    ledger.record_left(left.candidate)
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{folder.database}")
    states = {trial.user_attrs["candidate"]["id"]: trial for trial in study.trials}
    assert states[CANDIDATE.id].state.name == "COMPLETE"
    assert states[CANDIDATE.id].value == END.loss
    assert states[CANDIDATE.id].intermediate_values == {50: LOOK.loss, 150: END.loss}
    assert states[CANDIDATE.id].params["learning_rate"] == 1e-3
    assert states[DIVERGED.candidate.id].state.name == "FAIL"
    assert states[left.candidate.id].state.name == "PRUNED"
    assert study.best_trial.user_attrs["candidate"]["rank"] == 8


def test_a_candidate_of_other_targets_fits_in_the_same_study(tmp_path: Path) -> None:
    ledger = Ledger(StudyFolder(tmp_path / "s"))
    for targets in ("attention", "mlp", "q_proj,v_proj"):
        ledger.record(replace(END, candidate=replace(CANDIDATE, targets=targets)))
    assert {m.candidate.targets for m in ledger.history()} == {"attention", "mlp", "q_proj,v_proj"}


def test_a_diverged_candidate_has_an_infinite_loss(tmp_path: Path) -> None:
    ledger = Ledger(StudyFolder(tmp_path / "s"))
    ledger.record(DIVERGED)
    assert ledger.history()[0].loss == math.inf


def test_killed_at_any_moment_the_ledger_opens_and_holds_whole_measurements_only(tmp_path: Path) -> None:
    program = textwrap.dedent(
        f"""
        import sys
        from dataclasses import replace
        from rung.study.files import StudyFolder
        from rung.study.ledger import Ledger
        from tests.study.test_ledger import END
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
            [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
        assert process.stdout is not None
        for _ in range(1 + records):
            assert process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        history = Ledger(StudyFolder(tmp_path / "s")).history()
        assert len(history) >= records
        assert all(m.scores == SCORES for m in history)
