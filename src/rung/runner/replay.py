"""The replay runner: real trainings, recorded once, played back in no time.

A *table* holds every setting of a grid, trained with the engine on real data with several seeds and judged at several
shares of the budget: `benchmarks/record.py` makes one, docs/replay.md describes it, and `load_table()` reads the one
that comes with Rung. A strategy cannot tell a replay from a training, so it can be run thousands of times in minutes.

A replay can vary what chance decides: which validation rows there are (drawn anew, with replacement), and, setting by
setting, which recorded seed is which. That makes as many worlds of a table as there are ways to order its runs; what a
seed does to all settings alike is then a part of the noise.
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
from rung.types import Candidate, Generation, LeverSpace, Measurement, RankUse, Scores

TABLE = Path(__file__).with_name("replay.parquet")

LEVERS = ("rank", "alpha", "targets", "learning_rate", "use_rslora", "dropout", "seed")

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
"""One row for each judgement. `losses` are the summed losses of each validation row in nats, empty where the candidate
diverged; the tokens of those rows, the untuned model's losses and the recipe are in the file's metadata, as `rung`."""


@dataclass(frozen=True)
class Table:
    """The recorded judgements of one task.

    `runs` has a measurement by candidate and fraction; `tokens` counts the completion tokens of each validation row,
    and `baseline` has the untuned model's losses.
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
    def settings(self) -> tuple[Candidate, ...]:
        """Those that have been recorded in full with every seed, with seed 0."""
        whole = [
            replace(c, seed=0)
            for c, points in self.runs.items()
            if 1.0 in points or _diverged(points)
        ]
        return tuple(
            setting for setting in dict.fromkeys(whole) if whole.count(setting) == len(self.seeds)
        )

    @property
    def space(self) -> LeverSpace:
        """The grid, as a strategy may search it."""
        settings = self.settings
        alphas = sorted({c.alpha / c.rank for c in settings}, reverse=True)
        return LeverSpace(
            tuple(sorted({c.rank for c in settings})),
            tuple(sorted({c.learning_rate for c in settings})),
            tuple(
                sorted({c.targets for c in settings}, key=lambda targets: (len(targets), targets))
            ),
            tuple(f"{ratio:g}r" for ratio in alphas),
            pinned=True,
        )

    @property
    def full_tokens(self) -> int:
        """The training tokens of one candidate's full budget."""
        return max(m.tokens for points in self.runs.values() for m in points.values())

    def loss(self, setting: Candidate) -> float:
        """The mean loss over the seeds at the full budget, over all rows; infinite where one diverged."""
        ends = [self.runs[replace(setting, seed=seed)].get(1.0) for seed in self.seeds]
        return math.fsum(end.loss if end else math.inf for end in ends) / len(ends)

    def best(self) -> Candidate:
        """The setting with the lowest loss."""
        return min(self.settings, key=self.loss)

    def nearest(self, setting: Candidate) -> Candidate:
        """The recorded setting that is nearest: of the same targets, then in rank, scale and rate, by ratio."""
        if setting in self.settings:
            return setting

        def distance(other: Candidate) -> tuple[bool, float, float, float]:
            return (
                other.targets != setting.targets,
                abs(math.log(other.rank / setting.rank)),
                abs(math.log(other.scale / setting.scale)),
                abs(math.log(other.learning_rate / setting.learning_rate)),
            )

        return min(self.settings, key=distance)


class ReplayRunner:
    """See `Runner`. Nothing is trained; `seconds` counts the recorded time.

    Args:
        table: of one task.
        draw: decides which rows there are and which recorded seed is which of each setting; None leaves both as they
            were recorded.
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
        self._reached: dict[Candidate, int] = {}

    @property
    def full_tokens(self) -> int:
        return self.table.full_tokens

    def tokens_per_second(self) -> float:
        ends = [points[1.0] for points in self.table.runs.values() if 1.0 in points]
        return math.fsum(end.tokens for end in ends) / math.fsum(end.seconds for end in ends)

    def baseline(self) -> Scores:
        return self._scores(self.table.baseline)

    def run(self, stage: Stage, tick: Callable[[StepProgress], None]) -> list[Measurement]:
        found = [self._measure(candidate, stage.fraction) for candidate in stage.candidates]
        tick(StepProgress(sum(m.spent for m in found), len(found), len(found), 0))
        return found

    def test_scores(self, candidate: Candidate | None) -> Scores:
        """There is no test split in a table: the validation rows of a recorded run."""
        if candidate is None:
            return self.baseline()
        end = self.table.runs[self._recorded(candidate)][1.0].scores
        assert end is not None, "a candidate is looked at after it has been trained"
        return end

    def repair_adapter(self, candidate: Candidate) -> bool:
        return False

    def generate(
        self, candidates: Sequence[Candidate | None], split: str
    ) -> list[list[Generation]]:
        """A table holds no texts."""
        return [[] for _ in candidates]

    def measure_rank_use(self, candidate: Candidate, ranks: Sequence[int]) -> RankUse:
        """A table holds no weights."""
        return RankUse(math.nan, {})

    def _recorded(self, candidate: Candidate) -> Candidate:
        """The recorded candidate that plays this one."""
        setting = self.table.nearest(replace(candidate, seed=0))
        return replace(setting, seed=self._seeds[setting][candidate.seed % len(self.table.seeds)])

    def _measure(self, candidate: Candidate, fraction: float) -> Measurement:
        points = self.table.runs[self._recorded(candidate)]
        kept = points.get(fraction) or next((m for m in points.values() if not m.scores), None)
        if kept is None:
            raise DataError(
                f"The table has no judgement at {fraction:g} of the budget; it has {sorted(points)}."
            )
        # What goes on later does so from where the cooling began.
        spent = kept.tokens - self._reached.get(candidate, 0)
        self._reached[candidate] = round(kept.tokens * (1 - self.table.cooldown))
        self.seconds += kept.seconds * spent / max(1, kept.spent)
        scores = self._scores(kept.scores.losses) if kept.scores else None
        return replace(kept, candidate=candidate, fraction=fraction, spent=spent, scores=scores)

    def _scores(self, losses: Sequence[float]) -> Scores:
        if self._rows is None:
            return Scores(tuple(losses), self.table.tokens)
        drawn, tokens = np.asarray(losses)[self._rows], np.asarray(self.table.tokens)[self._rows]
        return Scores(tuple(drawn.tolist()), tuple(tokens.tolist()))


def load_table(task: str, path: Path = TABLE) -> Table:
    """The recorded judgements of a task.

    Raises:
        DataError: there is no such file, or no such task in it.
    """
    if not path.exists():
        raise DataError(f"There is no table '{path}'; record one with benchmarks/record.py.")
    found = pq.read_table(path)
    about = json.loads(found.schema.metadata[b"rung"])
    if task not in about:
        raise DataError(f"The table '{path}' has no task '{task}'; it has {', '.join(about)}.")
    tokens = tuple(about[task]["row_tokens"])
    runs: dict[Candidate, dict[float, Measurement]] = {}
    for row in found.to_pylist():
        if row["task"] == task:
            candidate = Candidate(**{lever: row[lever] for lever in LEVERS})
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
    judged: Mapping[str, Sequence[Measurement]],
    baselines: Mapping[str, Scores],
    about: Mapping[str, Any],
) -> None:
    """Write the judgements of some tasks, and what is to be said of each: its recipe, where and when it was made."""
    rows = [
        {
            "task": task,
            **{lever: getattr(m.candidate, lever) for lever in LEVERS},
            **{
                name: getattr(m, name)
                for name in (
                    "fraction",
                    "steps",
                    "tokens",
                    "spent",
                    "status",
                    "seconds",
                    "parameters",
                )
            },
            "losses": m.scores.losses if m.scores else (),
        }
        for task, measurements in judged.items()
        for m in measurements
    ]
    metadata = {
        task: {
            **about[task],
            "row_tokens": baselines[task].tokens,
            "baseline": baselines[task].losses,
        }
        for task in judged
    }
    table = pa.Table.from_pylist(rows, SCHEMA.with_metadata({"rung": json.dumps(metadata)}))
    pq.write_table(table, path, compression="zstd", compression_level=19)


def _diverged(points: Mapping[float, Measurement]) -> bool:
    return any(m.scores is None for m in points.values())
