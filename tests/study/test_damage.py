"""A damaged database or file of scores or texts is one sentence, and stays as it is."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from dataclasses import replace
from pathlib import Path

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.study.records import CANDIDATE, END, SCORES, TEXTS, TRIPLED

from rung.errors import StudyError
from rung.study.folder import StudyFolder
from rung.study.ledger import Ledger
from rung.study.tables import write_generations, write_scores
from rung.types import Generation, RankUse, Scores


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def foreign(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE mine (a)")


def of_another_study(path: Path) -> None:
    path.unlink()
    study = optuna.create_study(storage=f"sqlite:///{path}", study_name="s")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (cut, "is damaged"),
        (foreign, "it is the database of something else"),
        (of_another_study, "it has trials that Rung did not make"),
        (lambda path: path.write_bytes(b""), "it holds no study"),
        (lambda path: path.write_bytes(b"no database" * 1000), "file is not a database"),
        (
            lambda path: optuna.create_study(storage=f"sqlite:///{path}", study_name="more"),
            "it holds s, more",
        ),
    ],
    ids=["cut", "foreign", "of_another_study", "empty", "text", "two studies"],
)
def test_a_database_that_is_damaged_or_of_another_program_is_one_sentence_and_stays_as_it_is(
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
@pytest.mark.parametrize("which", ["scores", "baseline", "generations"])
def test_scores_and_texts_that_are_damaged_are_one_sentence(
    recorded: StudyFolder, damage: object, which: str
) -> None:
    path = {
        "scores": recorded.scores(CANDIDATE, 1.0),
        "baseline": recorded.scores(),
        "generations": recorded.generations("test", "untuned"),
    }[which]
    damage(path)  # type: ignore[operator]
    ledger = Ledger(recorded)
    if which == "generations" and not path.exists():
        assert ledger.generations("test", "untuned") is None, "it is written again"
        return
    with pytest.raises(
        StudyError,
        match=rf"{re.escape(path.name)}' of the study is damaged \(.+\); put the file back",
    ):
        {
            "scores": ledger.history,
            "baseline": ledger.baseline,
            "generations": lambda: ledger.generations("test", "untuned"),
        }[which]()


def test_scores_that_are_gone_are_said_to_be_missing(recorded: StudyFolder) -> None:
    recorded.scores().unlink()
    with pytest.raises(
        StudyError, match=r"untuned.parquet' of the study is damaged \(the file is "
    ):
        Ledger(recorded).baseline()


def test_other_scores_than_were_measured_are_one_sentence(
    recorded: StudyFolder,
) -> None:
    of_other_rows(recorded.scores(CANDIDATE, 1.0))
    with pytest.raises(StudyError, match=r"its loss is 1, and 0.8 was measured"):
        Ledger(recorded).history()


@pytest.mark.parametrize("which", ["baseline", "test"])
@pytest.mark.parametrize(
    ("scores", "says"), [(TRIPLED, "2.4, and 0.8"), (Scores((1.0,), (1,)), "1, and 0.8")]
)
def test_other_scores_of_the_untuned_model_or_the_test_split_are_one_sentence(
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
def test_other_texts_than_were_generated_are_one_sentence(
    recorded: StudyFolder, rows: list[Generation]
) -> None:
    assert Ledger(recorded).generations("test", "untuned") == TEXTS
    write_generations(recorded.generations("test", "untuned"), rows)
    with pytest.raises(
        StudyError, match=r"test-untuned.parquet' of the study is damaged \(it has been changed"
    ):
        Ledger(recorded).check()


def test_texts_that_the_database_does_not_know_are_generated_again(recorded: StudyFolder) -> None:
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
            "UPDATE study_user_attributes SET value_json = '7' WHERE key LIKE 'rank_use%'",
            "not subscriptable",
        ),
        (
            "UPDATE study_user_attributes SET value_json = '{}' WHERE key LIKE 'rank_use%'",
            "truncated_losses",
        ),
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
