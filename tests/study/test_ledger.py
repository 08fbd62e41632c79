from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rung.errors import StudyError
from rung.study.folder import StudyFolder
from rung.study.ledger import Ledger
from rung.study.tables import write_generations, write_scores
from rung.types import Candidate, Generation, Measurement, RankUse, Scores, Setting

SCORES = Scores((1.5, 0.1 + 0.2, 3.0), (1, 2, 3))
TRIPLED = Scores(tuple(3 * loss for loss in SCORES.losses), SCORES.tokens)
TEXTS = [Generation(" 달 🌙", "", "p", "a.jsonl, line 1", "s"), Generation("\0\n", "x")]
CANDIDATE = Candidate(Setting(8, 16, "attention", 1e-3))
PART = Measurement(CANDIDATE, 1 / 3, 50, 5000, 5000, "trained", SCORES, 1000, 4000, 10**9, 12.5)
END = replace(PART, fraction=1.0, steps=150, tokens=15000)
DIVERGED = replace(
    PART,
    candidate=Candidate(Setting(8, 16, "attention", 1.0)),
    status="diverged",
    scores=None,
    steps=7,
)


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
    assert again.test("untuned") == SCORES
    assert again.written("test", "untuned") == TEXTS
    assert again.written("validation", "untuned") is None
    assert again.test(CANDIDATE.id) is None
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
def test_the_database_lies_in_its_own_folder_whatever_that_is_called(
    tmp_path: Path, name: str
) -> None:
    folder = StudyFolder(tmp_path / f"in {name}" / name)
    Ledger(folder).record(END)
    assert Ledger(folder).history() == [END]
    assert [path.name for path in tmp_path.iterdir()] == [f"in {name}"]
    assert [path.name for path in folder.path.parent.iterdir()] == [name]
    assert folder.database.stat().st_size > 0


def test_a_folder_may_be_named_by_its_way_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Ledger(StudyFolder(Path("a?b") / "s")).record(END)
    assert Ledger(StudyFolder(tmp_path / "a?b" / "s")).history() == [END]


@pytest.fixture
def recorded(tmp_path: Path) -> StudyFolder:
    folder = StudyFolder(tmp_path / "s")
    ledger = Ledger(folder)
    ledger.record_baseline(SCORES)
    ledger.record(END)
    ledger.record_generations("test", "untuned", TEXTS)
    folder.manifest.touch()
    return folder


def test_a_study_goes_on_when_its_folder_has_another_name(recorded: StudyFolder) -> None:
    moved = StudyFolder(recorded.path.rename(recorded.path.with_name("other")))
    assert Ledger(moved).history() == [END]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def foreign(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE mine (a)")


def optunas(path: Path) -> None:
    path.unlink()
    study = optuna.create_study(storage=f"sqlite:///{path}", study_name="s")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (cut, "is damaged"),
        (foreign, "it is the database of something else"),
        (optunas, "it has trials that are not of Rung's making"),
        (lambda path: path.write_bytes(b""), "it has no study in it"),
        (lambda path: path.write_bytes(b"no database" * 1000), "file is not a database"),
        (
            lambda path: optuna.create_study(storage=f"sqlite:///{path}", study_name="more"),
            "it has s, more in it",
        ),
    ],
    ids=["cut", "foreign", "optunas", "empty", "text", "two studies"],
)
def test_a_database_that_is_damaged_or_anothers_is_one_sentence_and_stays_as_it_is(
    recorded: StudyFolder, damage: object, says: str
) -> None:
    damage(recorded.database)  # type: ignore[operator]
    before = recorded.database.read_bytes()
    with pytest.raises(
        StudyError, match=rf"study.db' of the study is damaged \(.*{says}|{says}"
    ) as error:
        Ledger(recorded).history()
    assert "\n" not in str(error.value)
    assert recorded.database.read_bytes() == before


def of_other_rows(path: Path) -> None:
    pq.write_table(pa.table({"loss": [1.0], "tokens": [1]}), path)


def of_other_columns(path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), path)


@pytest.mark.parametrize(
    "damage",
    [cut, of_other_columns, lambda path: path.write_text("{}"), lambda path: path.unlink()],
)
@pytest.mark.parametrize("which", ["scores", "baseline", "written"])
def test_scores_and_texts_that_are_damaged_are_one_sentence(
    recorded: StudyFolder, damage: object, which: str
) -> None:
    path = {
        "scores": recorded.scores(CANDIDATE, 1.0),
        "baseline": recorded.scores(),
        "written": recorded.generations("test", "untuned"),
    }[which]
    damage(path)  # type: ignore[operator]
    ledger = Ledger(recorded)
    if which == "written" and not path.exists():
        assert ledger.generations("test", "untuned") is None, "it is written again"
        return
    with pytest.raises(
        StudyError,
        match=rf"{re.escape(path.name)}' of the study is damaged \(.+\); put the file back",
    ):
        {
            "scores": ledger.history,
            "baseline": ledger.baseline,
            "written": lambda: ledger.generations("test", "untuned"),
        }[which]()


def test_scores_that_are_not_those_that_were_measured_are_one_sentence(
    recorded: StudyFolder,
) -> None:
    of_other_rows(recorded.scores(CANDIDATE, 1.0))
    with pytest.raises(StudyError, match=r"its loss is 1, and 0.8 was measured"):
        Ledger(recorded).history()


@pytest.mark.parametrize("which", ["baseline", "test"])
@pytest.mark.parametrize(
    ("scores", "says"), [(TRIPLED, "2.4, and 0.8"), (Scores((1.0,), (1,)), "1, and 0.8")]
)
def test_nor_are_other_scores_believed_of_the_untuned_model_or_the_test_split(
    recorded: StudyFolder, which: str, scores: Scores, says: str
) -> None:
    ledger = Ledger(recorded)
    ledger.record_test_scores("untuned", SCORES)
    ledger.check()
    path = recorded.scores() if which == "baseline" else recorded.test_scores("untuned")
    write_scores(path, scores)
    for read in (
        ledger.check,
        ledger.baseline if which == "baseline" else lambda: ledger.test_scores("untuned"),
    ):
        with pytest.raises(
            StudyError,
            match=rf"{path.name}' of the study is damaged \(its loss is {says} was measured",
        ):
            read()


@pytest.mark.parametrize(
    "rows", [TEXTS[:1], [replace(TEXTS[0], text="other"), TEXTS[1]], [replace(TEXTS[0], text=None)]]
)
def test_nor_are_other_texts(recorded: StudyFolder, rows: list[Generation]) -> None:
    assert Ledger(recorded).generations("test", "untuned") == TEXTS
    write_generations(recorded.generations("test", "untuned"), rows)
    with pytest.raises(
        StudyError, match=r"test-untuned.parquet' of the study is damaged \(it has been changed"
    ):
        Ledger(recorded).check()


def test_texts_that_the_database_does_not_know_of_are_written_again(recorded: StudyFolder) -> None:
    write_generations(
        recorded.generations("validation", CANDIDATE.id), TEXTS[:1]
    )  # and then the process was killed
    ledger = Ledger(recorded)
    assert ledger.generations("validation", CANDIDATE.id) is None
    ledger.record_generations("validation", CANDIDATE.id, TEXTS)
    assert Ledger(recorded).generations("validation", CANDIDATE.id) == TEXTS


def execute(folder: StudyFolder, command: str) -> None:
    with sqlite3.connect(folder.database) as database:
        assert database.execute(command).rowcount > 0


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("DELETE FROM trials", "rows of trials are missing"),
        (
            "UPDATE study_user_attributes SET value_json = '7' WHERE key LIKE 'spectrum%'",
            "not subscriptable",
        ),
        ("UPDATE study_user_attributes SET value_json = '{}' WHERE key LIKE 'spectrum%'", "cut"),
        (
            "UPDATE study_user_attributes SET value_json = '\"x\"' WHERE key = 'wall_seconds'",
            "'x' for seconds",
        ),
        (
            "UPDATE study_user_attributes SET value_json = '-1' WHERE key = 'tokens_per_second'",
            "-1 for tokens a second",
        ),
        (
            "UPDATE study_user_attributes SET value_json = '[' WHERE key = 'baseline'",
            "Expecting value",
        ),
        ("UPDATE trial_user_attributes SET value_json = '[]'", "list indices"),
        ("DROP TABLE study_user_attributes", "it is the database of something else"),
    ],
)
def test_a_database_with_junk_in_it_is_one_sentence(
    recorded: StudyFolder, command: str, says: str
) -> None:
    ledger = Ledger(recorded)
    ledger.record_rank_use(CANDIDATE.id, RankUse(1.5, {4: 2.0}))
    ledger.record_tokens_per_second(100.0)
    ledger.add_seconds(1.0)
    Ledger(recorded).check()
    if command.startswith("DROP"):
        with sqlite3.connect(recorded.database) as database:
            database.execute(command)
    else:
        execute(recorded, command)
    with pytest.raises(StudyError, match=rf"study.db' of the study is damaged \(.*{says}") as error:
        Ledger(recorded).check()
    assert "\n" not in str(error.value)


def test_a_database_that_another_program_has_locked_is_not_damaged(
    recorded: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(recorded)
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda *given, **how: connect(*given, **{**how, "timeout": 0.01})
    )
    with contextlib.closing(connect(recorded.database)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for ask in (lambda: Ledger(recorded), ledger.history):
            with pytest.raises(
                StudyError, match=r"study.db' is locked by another program .*; close that, and give"
            ):
                ask()
    assert Ledger(recorded).history() == [END]


def test_a_rank_an_alpha_and_a_rate_at_their_bounds_can_be_kept(tmp_path: Path) -> None:
    ledger = Ledger(StudyFolder(tmp_path / "s"))
    for rank, alpha, rate in ((1, 1e-3, 1e-9), (65_536, 1e6, 1 - 2**-53)):
        ledger.record(
            replace(END, candidate=replace(CANDIDATE, rank=rank, alpha=alpha, learning_rate=rate))
        )
    assert len(ledger.history()) == 2
