"""The ledger: what has been measured, in an Optuna storage, so that Optuna's tools can read it.

A candidate is a trial. Its measurements are the trial's attributes; its losses are the trial's
intermediate values, by step. The scores of rows lie beside the database as Parquet and are written
first, so a measurement that the database knows of is complete.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from rung.atomic import make_folder
from rung.study.database import StudyDatabase
from rung.study.folder import StudyFolder
from rung.study.tables import read_generations, read_scores, write_generations, write_scores
from rung.types import (
    TARGET_GROUPS,
    Candidate,
    Generation,
    Measurement,
    RankUse,
    Scores,
    Setting,
)

_BASELINE, _SPEED, _SECONDS = "baseline", "tokens_per_second", "wall_seconds"
_TEST, _RANK_USE, _GENERATIONS = "test", "rank_use", "generations"
_NUMBERS = (
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
"""The fields of a measurement that the database keeps."""


class Ledger:
    """The database of one study. It is made where it is missing.

    Raises:
        FolderError: the study's folder cannot be made.
        StudyError: here and wherever something is read: the database or a file of scores or texts
            is damaged, or belongs to something else.
    """

    def __init__(self, folder: StudyFolder) -> None:
        self.folder = folder
        make_folder(folder.path)
        self._database = StudyDatabase(folder)

    def check(self) -> None:
        """Read everything once, so that a damaged file is found before anything is trained."""
        self.history()
        self.baseline()
        self.tokens_per_second()
        self._wall_seconds()
        for key in self._database.attributes():
            kind, _, rest = key.partition(":")
            if kind == _TEST:
                self.test_scores(rest)
            elif kind == _RANK_USE:
                self.rank_use(rest)
            elif kind == _GENERATIONS:
                self.generations(*rest.split(":", 1))

    # Measurements.

    def record(self, measurement: Measurement) -> None:
        """Keep a measurement for good."""
        candidate = measurement.candidate
        if measurement.scores:
            path = self.folder.scores(candidate, measurement.fraction)
            write_scores(path, measurement.scores)
        kept = {name: getattr(measurement, name) for name in _NUMBERS}
        kept["loss"] = measurement.scores.mean if measurement.scores else None
        with self._database.guard():
            trial = self._database.trials.get(candidate.id) or self._new_trial(candidate)
            if measurement.scores:
                trial.report(measurement.loss, measurement.steps)
            earlier = trial.user_attrs.get("measurements", [])
            trial.set_user_attr("measurements", [*earlier, kept])
            if measurement.status == "diverged":
                self._database.study.tell(trial, state=TrialState.FAIL)
            elif measurement.fraction == 1:
                self._database.study.tell(trial, measurement.loss)

    def record_excluded(self, candidate: Candidate) -> None:
        """Keep that a candidate is not trained on."""
        with self._database.guard():
            trial = self._database.trials[candidate.id]
            if self._database.state_of(trial) == TrialState.RUNNING:
                self._database.study.tell(trial, state=TrialState.PRUNED)

    def history(self) -> list[Measurement]:
        """Every measurement, as it was recorded."""
        with self._database.guard():
            return [
                self._measurement(trial.user_attrs["candidate"], kept)
                for trial in self._database.study.get_trials(deepcopy=False)
                for kept in trial.user_attrs.get("measurements", [])
            ]

    # What belongs to the study as a whole.

    def record_baseline(self, scores: Scores) -> None:
        """Keep the untuned model's scores on the validation rows."""
        write_scores(self.folder.scores(), scores)
        self._database.set_attribute(_BASELINE, scores.mean)

    def baseline(self) -> Scores | None:
        """The untuned model's scores on the validation rows, if they were recorded."""
        return self._scores(self.folder.scores(), self._database.attributes().get(_BASELINE))

    def record_test_scores(self, who: str, scores: Scores) -> None:
        """Keep the scores on the test rows of `who`: a candidate's id, or `untuned`."""
        write_scores(self.folder.test_scores(who), scores)
        self._database.set_attribute(f"{_TEST}:{who}", scores.mean)

    def test_scores(self, who: str) -> Scores | None:
        """The scores that `record_test_scores` kept."""
        kept = self._database.attributes().get(f"{_TEST}:{who}")
        return self._scores(self.folder.test_scores(who), kept)

    def record_generations(self, split: str, who: str, rows: Sequence[Generation]) -> None:
        """Keep the texts that `who` generated for the rows of a split."""
        path = self.folder.generations(split, who)
        write_generations(path, rows)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self._database.set_attribute(f"{_GENERATIONS}:{split}:{who}", digest)

    def generations(self, split: str, who: str) -> list[Generation] | None:
        """The texts that `record_generations` kept.

        None where there are none, or where the file is gone: the texts can be generated again.
        """
        path = self.folder.generations(split, who)
        digest = self._database.attributes().get(f"{_GENERATIONS}:{split}:{who}")
        if digest is None or not path.exists():
            return None
        with self.folder.reading(path):
            if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                raise ValueError("it has been changed since it was written")
            return read_generations(path)

    def record_rank_use(self, who: str, rank_use: RankUse) -> None:
        """Keep how much of its rank a candidate uses."""
        losses = {str(rank): loss for rank, loss in rank_use.truncated_losses.items()}
        kept = {"effective_rank": rank_use.effective_rank, "truncated_losses": losses}
        self._database.set_attribute(f"{_RANK_USE}:{who}", kept)

    def rank_use(self, who: str) -> RankUse | None:
        """What `record_rank_use` kept."""
        if (kept := self._database.attributes().get(f"{_RANK_USE}:{who}")) is None:
            return None
        with self._database.guard():
            losses = {int(rank): float(loss) for rank, loss in kept["truncated_losses"].items()}
            return RankUse(float(kept["effective_rank"]), losses)

    def record_tokens_per_second(self, speed: float) -> None:
        """Keep the measured speed, so that a budget of time stays the same when a study goes on."""
        self._database.set_attribute(_SPEED, speed)

    def tokens_per_second(self) -> float | None:
        """The speed that `record_tokens_per_second` kept."""
        if (kept := self._database.attributes().get(_SPEED)) is None:
            return None
        with self._database.guard():
            return _amount("tokens a second", kept)

    def add_seconds(self, seconds: float) -> float:
        """Add to the time that the study has taken over all its runs; returns the sum."""
        total = self._wall_seconds() + seconds
        self._database.set_attribute(_SECONDS, total)
        return total

    def _wall_seconds(self) -> float:
        with self._database.guard():
            return _amount("seconds", self._database.attributes().get(_SECONDS, 0.0))

    def _new_trial(self, candidate: Candidate) -> Any:
        levers = _levers(candidate)
        targets = candidate.targets if candidate.targets in TARGET_GROUPS else "named"
        params = {**levers, "alpha": float(candidate.alpha), "targets": targets}
        return self._database.add_trial(candidate.id, params, levers)

    def _scores(self, path: Path, mean: float | None) -> Scores | None:
        """The scores of a file. Its mean must be the one that the database has."""
        if mean is None:
            return None
        with self.folder.reading(path):
            scores = read_scores(path)
            if scores.mean != mean:
                raise ValueError(f"its loss is {scores.mean:.6g}, and {mean:.6g} was measured")
        return scores

    def _measurement(self, levers: dict[str, Any], kept: dict[str, Any]) -> Measurement:
        values = {key: value for key, value in levers.items() if key not in ("id", "seed")}
        candidate = Candidate(Setting(**values), levers["seed"])
        numbers = {key: value for key, value in kept.items() if key != "loss"}
        measurement = Measurement(candidate=candidate, scores=None, **numbers)
        if measurement.status == "diverged":
            return measurement
        path = self.folder.scores(candidate, measurement.fraction)
        return replace(measurement, scores=self._scores(path, float(kept["loss"])))


def _levers(candidate: Candidate) -> dict[str, Any]:
    """The levers and the seed, by name."""
    return {**asdict(candidate.setting), "seed": candidate.seed}


def _amount(name: str, kept: Any) -> float:
    if not isinstance(kept, int | float) or not 0 <= kept < math.inf:
        raise ValueError(f"it has {kept!r} for {name}")
    return float(kept)
