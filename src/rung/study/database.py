"""The Optuna study in a folder's SQLite database: opened, checked, and guarded against damage."""

from __future__ import annotations

import contextlib
import sqlite3
import urllib.parse
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState

from rung.errors import RungError, StudyError
from rung.study.folder import StudyFolder
from rung.types import ALPHA_RANGE, MAX_RANK, MIN_LEARNING_RATE, TARGET_GROUPS

_TABLES = {"version_info", "studies", "trials"}
_TABLES_OF_A_STUDY = {"study_user_attributes", "trial_user_attributes", "trial_values"}


class StudyDatabase:
    """The study's database. It is made where it is missing.

    Raises:
        StudyError: here and from `guard`: the database is damaged, locked by another program, or
            belongs to something else.
    """

    def __init__(self, folder: StudyFolder) -> None:
        self.folder = folder
        with self.guard():
            self.study = _open_study(folder)
            self.trials = self._trials_by_id()

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Everything that is asked of the database runs in here, so that errors become ours."""
        try:
            yield
        except RungError:
            raise
        except Exception as error:  # a damaged database breaks SQLAlchemy and Optuna in any way
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            if _is_lock(cause):
                raise StudyError(
                    f"'{self.folder.database}' is locked by another program ({cause}); close that, "
                    "and give the same command again."
                ) from error
            raise self.folder.damaged(self.folder.database, cause) from error

    def attributes(self) -> dict[str, Any]:
        """What is kept of the study as a whole."""
        with self.guard():
            attributes: dict[str, Any] = self.study.user_attrs
            return attributes

    def set_attribute(self, key: str, value: Any) -> None:
        with self.guard():
            self.study.set_user_attr(key, value)

    def add_trial(self, id: str, params: dict[str, Any], levers: dict[str, Any]) -> Any:
        """A new trial for a candidate.

        It is added in one transaction. Optuna's own `ask` takes two, and a process that is killed
        between them leaves a trial that the next candidate is given.
        """
        self.study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.RUNNING,
                params=params,
                distributions=_distributions(params),
                user_attrs={"candidate": {"id": id, **levers}},
            )
        )
        self.trials = self._trials_by_id()
        return self.trials[id]

    def state_of(self, trial: Any) -> TrialState:
        trials = self.study.get_trials(deepcopy=False)
        return next(t.state for t in trials if t.number == trial.number)

    def _trials_by_id(self) -> dict[str, Any]:
        trials = self.study.get_trials(deepcopy=False)
        if any("candidate" not in trial.user_attrs for trial in trials):
            raise ValueError("it has trials that Rung did not make")
        return {
            trial.user_attrs["candidate"]["id"]: optuna.trial.Trial(self.study, trial._trial_id)
            for trial in trials
        }


def _is_lock(error: BaseException) -> bool:
    locks = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode in locks


def _open_study(folder: StudyFolder) -> optuna.Study:
    """The study in the folder's database, which is made where it is missing.

    Raises:
        Exception: of any kind, where the database is damaged or belongs to something else.
    """
    # In an address ? and # have a meaning, and braces have one for Optuna; so the path is quoted.
    address = f"file:{urllib.parse.quote(str(folder.database.absolute()))}"
    has_started = folder.manifest.exists()
    _check(address, has_started)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        url = f"sqlite:///{urllib.parse.quote(address)}?uri=true"
        storage = optuna.storages.RDBStorage(url)
    names = optuna.get_all_study_names(storage)
    # A study keeps its name when its folder is renamed.
    belongs = len(names) == 1 if has_started else names in ([], [folder.name])
    if not belongs:
        raise ValueError(f"it holds {', '.join(names) or 'no study'}")
    name = (names or [folder.name])[0]
    return optuna.create_study(storage=storage, study_name=name, load_if_exists=True)


def _check(address: str, has_started: bool) -> None:
    """Look for damage with SQLite's own means, and for the tables that Optuna makes."""
    with contextlib.closing(sqlite3.connect(f"{address}?mode=rwc", uri=True)) as database:
        (answer,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if answer != "ok":
            raise ValueError(answer)
        if orphan := database.execute("PRAGMA foreign_key_check").fetchone():
            raise ValueError(f"rows of {orphan[2]} are missing")
        rows = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        tables = {name for (name,) in rows}
    if has_started and not tables:
        raise ValueError("it holds no study")
    required = _TABLES | (_TABLES_OF_A_STUDY if has_started else set())
    if tables and not required <= tables:
        raise ValueError("it is the database of something else")


def _distributions(names: Iterable[str]) -> dict[str, BaseDistribution]:
    """The widest range of each lever. Optuna wants the same range for every trial."""
    ranges: dict[str, BaseDistribution] = {
        "rank": IntDistribution(1, MAX_RANK, log=True),
        "alpha": FloatDistribution(*ALPHA_RANGE, log=True),
        "learning_rate": FloatDistribution(MIN_LEARNING_RATE, 1.0, log=True),
        "targets": CategoricalDistribution([*TARGET_GROUPS, "named"]),
        "use_rslora": CategoricalDistribution([False, True]),
        "dropout": FloatDistribution(0.0, 1.0),
        "seed": IntDistribution(0, 2**31 - 1),
    }
    return {name: ranges[name] for name in names}
