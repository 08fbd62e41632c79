"""The replay runner: trainings that were recorded once, and are played back in no time.

A *table* holds every setting of a grid, trained by the engine on real data with several seeds, and
measured at several fractions of the budget. `benchmarks/record.py` records one, docs/replay.md
describes it, and `load_table` reads the one that comes with Rung. A strategy cannot tell a replay
from a training, so it can be run thousands of times in minutes.

A replay can vary what chance decides. It can draw the validation rows anew, with replacement, and
it can shuffle, for each setting, which recorded seed is which. So one table gives as many different
worlds as there are orders of its runs. What a seed does to all settings alike becomes a part of the
noise.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rung.errors import DataError
from rung.runner.protocol import StepProgress
from rung.search.strategy import Stage
from rung.types import Candidate, Generation, LeverSpace, Measurement, RankUse, Scores, Setting

TABLE = Path(__file__).with_name("replay.parquet")

LEVERS = ("rank", "alpha", "targets", "learning_rate", "use_rslora", "dropout")
"""The columns that make a setting."""
MEASURED = ("fraction", "steps", "tokens", "spent", "status", "seconds", "parameters")
"""The columns that are fields of a measurement."""

SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("rank", pa.int32()),
        ("alpha", pa.float64()),
        ("targets", pa.string()),
        ("learning_rate", pa.float64()),
        ("use_rslora", pa.bool_()),
        ("dropout", pa.float64()),
        ("seed", pa.int32()),
        ("fraction", pa.float64()),
        ("steps", pa.int32()),
        ("tokens", pa.int64()),
        ("spent", pa.int64()),
        ("status", pa.string()),
        ("seconds", pa.float64()),
        ("parameters", pa.int64()),
        ("losses", pa.list_(pa.float32())),
    ]
)
"""One row for each measurement.

`losses` has the summed loss of each validation row in nats; it is empty for a candidate that
diverged. The metadata of the file has, as JSON under `rung`, the recipe of each task, the tokens of
the rows and the untuned model's losses.
"""


@dataclass(frozen=True)
class Table:
    """The recorded measurements of one task.

    Attributes:
        task: its name.
        runs: the measurements of each candidate, by the fraction of the budget.
        tokens: the number of completion tokens of each validation row.
        baseline: the untuned model's loss of each validation row, in nats.
        cooldown: the share of a run in which the learning rate cools down.
    """

    task: str
    runs: Mapping[Candidate, Mapping[float, Measurement]] = field(repr=False)
    tokens: tuple[int, ...] = field(repr=False)
    baseline: tuple[float, ...] = field(repr=False)
    cooldown: float = 0.2

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({candidate.seed for candidate in self.runs}))

    @property
    def fractions(self) -> tuple[float, ...]:
        return tuple(sorted({fraction for points in self.runs.values() for fraction in points}))

    @cached_property
    def settings(self) -> tuple[Setting, ...]:
        """The settings that every seed was recorded of, to the end or to where it diverged."""
        complete = [
            candidate.setting
            for candidate, points in self.runs.items()
            if 1.0 in points or _diverged(points)
        ]
        return tuple(s for s in dict.fromkeys(complete) if complete.count(s) == len(self.seeds))

    @property
    def space(self) -> LeverSpace:
        """The grid, as a strategy may search it."""
        settings = self.settings
        alphas = sorted({s.alpha / s.rank for s in settings}, reverse=True)
        targets = sorted({s.targets for s in settings}, key=lambda t: (len(t), t))
        return LeverSpace(
            tuple(sorted({s.rank for s in settings})),
            tuple(sorted({s.learning_rate for s in settings})),
            tuple(targets),
            tuple(f"{ratio:g}r" for ratio in alphas),
            rates_fixed=True,
        )

    @property
    def full_tokens(self) -> int:
        """The training tokens of one candidate's full budget."""
        return max(m.tokens for points in self.runs.values() for m in points.values())

    def loss(self, setting: Setting) -> float:
        """The mean full-budget loss over the seeds, over all rows; infinite if one diverged."""
        ends = [self.runs[Candidate(setting, seed)].get(1.0) for seed in self.seeds]
        return math.fsum(end.loss if end else math.inf for end in ends) / len(ends)

    def best(self) -> Setting:
        """The setting with the lowest loss."""
        return min(self.settings, key=self.loss)

    def nearest(self, setting: Setting) -> Setting:
        """The recorded setting that is nearest.

        It has the same target modules, if the table has them. Then rank, scale and learning rate
        count, in this order, each by its ratio.
        """
        if setting in self.settings:
            return setting

        def distance(other: Setting) -> tuple[bool, float, float, float]:
            return (
                other.targets != setting.targets,
                abs(math.log(other.rank / setting.rank)),
                abs(math.log(other.scale / setting.scale)),
                abs(math.log(other.learning_rate / setting.learning_rate)),
            )

        return min(self.settings, key=distance)


class ReplayRunner:
    """Plays a table back; see `Runner`. Nothing is trained.

    Args:
        table: of one task.
        draw: decides which validation rows there are, and for each setting which recorded seed is
            which. None leaves both as they were recorded.

    Attributes:
        seconds: the recorded time of everything that was played back so far.
    """

    def __init__(self, table: Table, draw: np.random.Generator | None = None) -> None:
        self.table = table
        self.seconds = 0.0
        self._rows: npt.NDArray[np.int64] | None = None
        self._seeds = dict.fromkeys(table.settings, table.seeds)
        if draw is not None:
            self._rows = draw.integers(len(table.tokens), size=len(table.tokens))
            orders = draw.permuted(np.tile(table.seeds, (len(table.settings), 1)), axis=1).tolist()
            self._seeds = dict(zip(table.settings, map(tuple, orders), strict=True))
        self._tokens_at_cooldown: dict[Candidate, int] = {}

    @property
    def full_tokens(self) -> int:
        return self.table.full_tokens

    def tokens_per_second(self) -> float:
        ends = [points[1.0] for points in self.table.runs.values() if 1.0 in points]
        return math.fsum(end.tokens for end in ends) / math.fsum(end.seconds for end in ends)

    def baseline(self) -> Scores:
        return self._scores(self.table.baseline)

    def run(self, stage: Stage, on_step: Callable[[StepProgress], None]) -> list[Measurement]:
        """Look up the measurement of each candidate.

        Raises:
            DataError: The table has no measurement at the stage's fraction.
        """
        measurements = [self._measure(c, stage.fraction) for c in stage.candidates]
        candidates = len(measurements)
        on_step(StepProgress(sum(m.spent for m in measurements), candidates, candidates, 0))
        return measurements

    def test_scores(self, candidate: Candidate | None) -> Scores:
        """A table has no test rows, so these are the scores on its validation rows."""
        if candidate is None:
            return self.baseline()
        scores = self.table.runs[self.recorded(candidate)][1.0].scores
        assert scores is not None, "a candidate is tested after it was trained"
        return scores

    def repair_adapter(self, candidate: Candidate) -> bool:
        """A table has no adapters."""
        return False

    def generate(
        self, candidates: Sequence[Candidate | None], split: str
    ) -> list[list[Generation]]:
        """A table has no texts."""
        return [[] for _ in candidates]

    def measure_rank_use(self, candidate: Candidate, ranks: Sequence[int]) -> RankUse:
        """A table has no weights."""
        return RankUse(math.nan, {})

    def recorded(self, candidate: Candidate) -> Candidate:
        """The recorded candidate whose measurements stand for this one."""
        setting = self.table.nearest(candidate.setting)
        return Candidate(setting, self._seeds[setting][candidate.seed % len(self.table.seeds)])

    def _measure(self, candidate: Candidate, fraction: float) -> Measurement:
        points = self.table.runs[self.recorded(candidate)]
        point = points.get(fraction) or next((m for m in points.values() if not m.scores), None)
        if point is None:
            raise DataError(
                f"The table has no measurement at {fraction:g} of the budget; it has"
                f" {', '.join(f'{recorded:g}' for recorded in sorted(points))}."
            )
        # A candidate that goes on does so from where its cooldown started.
        spent = point.tokens - self._tokens_at_cooldown.get(candidate, 0)
        self._tokens_at_cooldown[candidate] = round(point.tokens * (1 - self.table.cooldown))
        self.seconds += point.seconds * spent / max(1, point.spent)
        scores = self._scores(point.scores.losses) if point.scores else None
        return replace(point, candidate=candidate, fraction=fraction, spent=spent, scores=scores)

    def _scores(self, losses: Sequence[float]) -> Scores:
        if self._rows is None:
            return Scores(tuple(losses), self.table.tokens)
        drawn, tokens = np.asarray(losses)[self._rows], np.asarray(self.table.tokens)[self._rows]
        return Scores(tuple(drawn.tolist()), tuple(tokens.tolist()))


def load_table(task: str, path: Path = TABLE) -> Table:
    """Read the recorded measurements of a task.

    Raises:
        DataError: The file is missing, or it has no such task.
    """
    if not path.exists():
        raise DataError(f"There is no table '{path}'; record one with benchmarks/record.py.")
    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[b"rung"])
    if task not in about:
        raise DataError(f"The table '{path}' has no task '{task}'; it has {', '.join(about)}.")
    tokens = tuple(about[task]["row_tokens"])
    runs: dict[Candidate, dict[float, Measurement]] = {}
    for row in table.to_pylist():
        if row["task"] == task:
            candidate = Candidate(Setting(**{lever: row[lever] for lever in LEVERS}), row["seed"])
            runs.setdefault(candidate, {})[row["fraction"]] = Measurement(
                candidate,
                row["fraction"],
                row["steps"],
                row["tokens"],
                row["spent"],
                row["status"],
                Scores(tuple(row["losses"]), tokens) if row["losses"] else None,
                row["parameters"],
                4 * row["parameters"],
                0,
                row["seconds"],
            )
    return Table(
        task, runs, tokens, tuple(about[task]["baseline"]), about[task]["recipe"]["cooldown"]
    )


def write_table(
    path: Path,
    measurements: Mapping[str, Sequence[Measurement]],
    baselines: Mapping[str, Scores],
    about: Mapping[str, Any],
) -> None:
    """Write a table.

    Args:
        path: of the file.
        measurements: by task.
        baselines: the untuned model's scores, by task.
        about: what else the metadata says of each task: its recipe, when and with which versions it
            was recorded.
    """
    rows = [
        {
            "task": task,
            **{lever: getattr(m.candidate.setting, lever) for lever in LEVERS},
            "seed": m.candidate.seed,
            **{name: getattr(m, name) for name in MEASURED},
            "losses": m.scores.losses if m.scores else (),
        }
        for task, of_task in measurements.items()
        for m in of_task
    ]
    metadata = {
        task: {
            **about[task],
            "row_tokens": baselines[task].tokens,
            "baseline": baselines[task].losses,
        }
        for task in measurements
    }
    table = pa.Table.from_pylist(rows, SCHEMA.with_metadata({"rung": json.dumps(metadata)}))
    pq.write_table(table, path, compression="zstd", compression_level=19)


def _diverged(points: Mapping[float, Measurement]) -> bool:
    return any(m.scores is None for m in points.values())
