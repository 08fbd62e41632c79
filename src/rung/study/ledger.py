"""The ledger: what has been tried, in an Optuna storage, so that Optuna's own tools can look into it.

A candidate is a trial; its measurements are the trial's attributes, its losses the trial's intermediate values, by
step. The rows' scores lie beside the database as Parquet, and are written first: a measurement that the database knows
of is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import sqlite3
import urllib.parse
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState

from rung.atomic import make_folder
from rung.errors import RungError, StudyError
from rung.study.folder import StudyFolder, read_scores, read_texts, write_scores, write_texts
from rung.types import (
    ALPHA_RANGE,
    MAX_RANK,
    MIN_LEARNING_RATE,
    TARGET_GROUPS,
    Candidate,
    Generation,
    Measurement,
    RankUse,
    Scores,
)

_BASELINE = "baseline"


class Ledger:
    """One study's part of the database. It is made when it is not there.

    Raises:
        FolderError: the study's folder cannot be made.
        StudyError: here and where something is read: the database or a file of scores or texts is damaged, or
            belongs to something else.
    """

    def __init__(self, folder: StudyFolder) -> None:
        self.folder = folder
        make_folder(folder.path)
        with self._asking():
            self._study = _opened(folder)
            self._trials = self._find_trials()

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Whatever the database is asked, or told, is so in here."""
        try:
            yield
        except RungError:
            raise
        except (
            Exception
        ) as error:  # a database that is broken breaks SQLAlchemy and Optuna in any way
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            if isinstance(cause, sqlite3.OperationalError) and "locked" in str(cause):
                raise StudyError(
                    f"'{self.folder.database}' is locked by another program ({cause}); close that, and give the same "
                    "command again."
                ) from error
            raise self.folder.damaged(self.folder.database, cause) from error

    def check(self) -> None:
        """Read all that is kept, so that a file which is damaged is known of now."""
        self.history()
        self.baseline()
        self.speed()
        self._seconds()
        for key in self._kept():
            kind, _, rest = key.partition(":")
            if kind == "test":
                self.test(rest)
            elif kind == "spectrum":
                self.rank_use(rest)
            elif kind == "written":
                self.written(*rest.split(":", 1))

    def record_baseline(self, scores: Scores) -> None:
        """Keep the untuned model's scores."""
        write_scores(self.folder.scores(), scores)
        self._keep(_BASELINE, scores.mean)

    def baseline(self) -> Scores | None:
        """The untuned model's scores, if they have been recorded."""
        return self._scores(self.folder.scores(), self._kept().get(_BASELINE))

    def record(self, measurement: Measurement) -> None:
        """Keep one measurement for good."""
        candidate = measurement.candidate
        if measurement.scores:
            write_scores(self.folder.scores(candidate, measurement.fraction), measurement.scores)
        kept = {
            key: getattr(measurement, key)
            for key in (
                "fraction",
                "steps",
                "tokens",
                "spent",
                "status",
                "parameters",
                "adapter_bytes",
                "peak_memory_bytes",
                "seconds",
                "reason",
            )
        }
        kept["loss"] = measurement.scores.mean if measurement.scores else None
        with self._asking():
            trial = self._trials.get(candidate.id) or self._begin(candidate)
            if measurement.scores:
                trial.report(measurement.loss, measurement.steps)
            trial.set_user_attr("measurements", [*trial.user_attrs.get("measurements", []), kept])
            if measurement.status == "diverged":
                self._study.tell(trial, state=TrialState.FAIL)
            elif measurement.fraction == 1:
                self._study.tell(trial, measurement.loss)

    def record_excluded(self, candidate: Candidate) -> None:
        """Keep that a candidate is not trained on."""
        with self._asking():
            trial = self._trials[candidate.id]
            if self._state(trial) == TrialState.RUNNING:
                self._study.tell(trial, state=TrialState.PRUNED)

    def history(self) -> list[Measurement]:
        """Every measurement, as it was recorded."""
        with self._asking():
            return [
                self._measurement(trial.user_attrs["candidate"], kept)
                for trial in self._study.get_trials(deepcopy=False)
                for kept in trial.user_attrs.get("measurements", [])
            ]

    def record_test(self, who: str, scores: Scores) -> None:
        """Keep the scores on the test split of `who`: a candidate's id, or `untuned`."""
        write_scores(self.folder.test_scores(who), scores)
        self._keep(f"test:{who}", scores.mean)

    def test(self, who: str) -> Scores | None:
        """What `record_test` kept."""
        return self._scores(self.folder.test_scores(who), self._kept().get(f"test:{who}"))

    def record_generations(self, split: str, who: str, rows: Sequence[Generation]) -> None:
        """Keep the texts that `who` has written to the rows of a split."""
        path = self.folder.written(split, who)
        write_texts(path, rows)
        self._keep(f"written:{split}:{who}", hashlib.sha256(path.read_bytes()).hexdigest())

    def written(self, split: str, who: str) -> list[Generation] | None:
        """What `record_written` kept; nothing where the file is gone, which can be written again."""
        path, kept = self.folder.written(split, who), self._kept().get(f"written:{split}:{who}")
        if kept is None or not path.exists():
            return None
        with self.folder.reading(path):
            if hashlib.sha256(path.read_bytes()).hexdigest() != kept:
                raise ValueError("it has been changed since it was written")
            return read_texts(path)

    def record_rank_use(self, who: str, rank_use: RankUse) -> None:
        """Keep how much of its rank a candidate uses."""
        cut = {str(rank): loss for rank, loss in rank_use.cut.items()}
        self._keep(f"spectrum:{who}", {"effective_rank": rank_use.effective_rank, "cut": cut})

    def rank_use(self, who: str) -> RankUse | None:
        """What `record_spectrum` kept."""
        if (kept := self._kept().get(f"spectrum:{who}")) is None:
            return None
        with self._asking():
            cut = {int(rank): float(loss) for rank, loss in kept["cut"].items()}
            return RankUse(float(kept["effective_rank"]), cut)

    def record_speed(self, tokens_per_second: float) -> None:
        """Keep what a pack trains in a second, so that a budget of time stays the same when the study goes on."""
        self._keep("tokens_per_second", tokens_per_second)

    def speed(self) -> float | None:
        """What `record_speed` kept."""
        if (kept := self._kept().get("tokens_per_second")) is None:
            return None
        with self._asking():
            return _amount("tokens a second", kept)

    def add_seconds(self, seconds: float) -> float:
        """Add to the time that the study has taken, over all its runs; returns the sum."""
        total = self._seconds() + seconds
        self._keep("wall_seconds", total)
        return total

    def _seconds(self) -> float:
        with self._asking():
            return _amount("seconds", self._kept().get("wall_seconds", 0.0))

    def _kept(self) -> dict[str, Any]:
        """What the database has of the study as a whole."""
        with self._asking():
            kept: dict[str, Any] = self._study.user_attrs
            return kept

    def _keep(self, key: str, value: Any) -> None:
        with self._asking():
            self._study.set_user_attr(key, value)

    def _find_trials(self) -> dict[str, Any]:
        """The trial of each candidate, by its id."""
        trials = self._study.get_trials(deepcopy=False)
        if any("candidate" not in trial.user_attrs for trial in trials):
            raise ValueError("it has trials that are not of Rung's making")
        return {
            trial.user_attrs["candidate"]["id"]: optuna.trial.Trial(self._study, trial._trial_id)
            for trial in trials
        }

    def _state(self, trial: Any) -> TrialState:
        return next(
            t.state for t in self._study.get_trials(deepcopy=False) if t.number == trial.number
        )

    def _begin(self, candidate: Candidate) -> Any:
        params = {
            "rank": candidate.rank,
            "alpha": float(candidate.alpha),
            "target_modules": candidate.targets if candidate.targets in TARGET_GROUPS else "named",
            "learning_rate": candidate.learning_rate,
            "use_rslora": candidate.use_rslora,
            "dropout": candidate.dropout,
            "seed": candidate.seed,
        }
        levers = {"id": candidate.id, **candidate.as_dict()}
        # In one transaction: asking for an enqueued trial takes two, and a process killed between them would leave one
        # that the next candidate is given.
        self._study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.RUNNING,
                params=params,
                distributions={name: _distribution(name) for name in params},
                user_attrs={"candidate": levers},
            )
        )
        self._trials = self._find_trials()
        return self._trials[candidate.id]

    def _scores(self, path: Path, mean: float | None) -> Scores | None:
        """The scores in a file, whose mean is the one that was kept; nothing where none was."""
        if mean is None:
            return None
        with self.folder.reading(path):
            scores = read_scores(path)
            if scores.mean != mean:
                raise ValueError(f"its loss is {scores.mean:.6g}, and {mean:.6g} was measured")
        return scores

    def _measurement(self, levers: dict[str, Any], kept: dict[str, Any]) -> Measurement:
        candidate = Candidate(**{key: value for key, value in levers.items() if key != "id"})
        fields = {key: value for key, value in kept.items() if key != "loss"}
        measurement = Measurement(candidate=candidate, scores=None, **fields)
        if measurement.status == "diverged":
            return measurement
        path = self.folder.scores(candidate, measurement.fraction)
        return replace(measurement, scores=self._scores(path, float(kept["loss"])))


def _amount(name: str, kept: Any) -> float:
    if not isinstance(kept, int | float) or not 0 <= kept < math.inf:
        raise ValueError(f"it has {kept!r} for {name}")
    return float(kept)


def _opened(folder: StudyFolder) -> optuna.Study:
    """The study in the folder's database.

    Raises:
        Exception: of any kind, where the database is damaged or belongs to something else.
    """
    # An address has its own meaning for ? and #, and Optuna for braces; quoted, every path is one.
    address = f"file:{urllib.parse.quote(str(folder.database.absolute()))}"
    with contextlib.closing(sqlite3.connect(f"{address}?mode=rwc", uri=True)) as database:
        (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise ValueError(found)
        if orphan := database.execute("PRAGMA foreign_key_check").fetchone():
            raise ValueError(f"rows of {orphan[2]} are missing")
        tables = {
            name
            for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
    begun = folder.manifest.exists()
    if begun and not tables:
        raise ValueError("it has no study in it")
    needed = {"version_info", "studies", "trials"}
    needed |= {"study_user_attributes", "trial_user_attributes", "trial_values"} if begun else set()
    if tables and not needed <= tables:
        raise ValueError("it is the database of something else")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = optuna.storages.RDBStorage(f"sqlite:///{urllib.parse.quote(address)}?uri=true")
    names = optuna.get_all_study_names(storage)
    # A study keeps its name when its folder gets another.
    if len(names) > 1 or (begun and not names) or (names and not begun and names != [folder.name]):
        raise ValueError(f"it has {', '.join(names) or 'no study'} in it")
    return optuna.create_study(
        storage=storage, study_name=(names or [folder.name])[0], load_if_exists=True
    )


def _distribution(name: str) -> BaseDistribution:
    """The widest range that a lever can have: Optuna wants the same one for each trial."""
    ranges: dict[str, BaseDistribution] = {
        "rank": IntDistribution(1, MAX_RANK, log=True),
        "alpha": FloatDistribution(*ALPHA_RANGE, log=True),
        "learning_rate": FloatDistribution(MIN_LEARNING_RATE, 1.0, log=True),
        "target_modules": CategoricalDistribution([*TARGET_GROUPS, "named"]),
        "use_rslora": CategoricalDistribution([False, True]),
        "dropout": FloatDistribution(0.0, 1.0),
        "seed": IntDistribution(0, 2**31 - 1),
    }
    return ranges[name]
