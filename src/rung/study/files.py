"""The study folder: where everything of a study lies, and how scores are kept.

::

    studies/<name>/
      recipe.yaml  manifest.json  study.db  result.json
      candidates/<id>/adapter/  candidates/<id>/checkpoint/  candidates/<id>/cooled@<fraction>/
      scores/<id>@<fraction>.parquet  scores/untuned.parquet  scores/test-<who>.parquet
      written/<split>-<who>.parquet
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rung.atomic import write_bytes, write_text
from rung.levers import Candidate, Scores
from rung.metrics import Written


@dataclass(frozen=True, slots=True)
class StudyFolder:
    """The paths of one study."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def database(self) -> Path:
        return self.path / "study.db"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    def adapter(self, candidate: Candidate) -> Path:
        return self.path / "candidates" / candidate.id / "adapter"

    def checkpoint(self, candidate: Candidate) -> Path:
        """Where the candidate's training can go on from."""
        return self.path / "candidates" / candidate.id / "checkpoint"

    def cooled(self, candidate: Candidate, fraction: float) -> Path:
        """The branch that was cooled down to be judged at that share of the budget."""
        return self.path / "candidates" / candidate.id / f"cooled@{fraction:.3f}"

    def scores(self, candidate: Candidate | None = None, fraction: float = 1.0) -> Path:
        name = f"{candidate.id}@{fraction:.3f}" if candidate else "untuned"
        return self.path / "scores" / f"{name}.parquet"

    def test_scores(self, who: str) -> Path:
        """Of a candidate's id, or of `untuned`."""
        return self.path / "scores" / f"test-{who}.parquet"

    def written(self, split: str, who: str) -> Path:
        """The texts that a candidate, by its id, or the `untuned` model has written."""
        return self.path / "written" / f"{split}-{who}.parquet"


TEXTS = pa.schema({field.name: pa.string() for field in fields(Written)})


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_scores(path: Path, scores: Scores) -> None:
    """One row for each validation row, in order: `loss` in nats, float64, `tokens`, and `source` if rows share one."""
    buffer = io.BytesIO()
    table = {"loss": pa.array(scores.losses, pa.float64()), "tokens": pa.array(scores.tokens, pa.int32())}
    if scores.sources:
        table["source"] = pa.array(scores.sources, pa.int32())
    pq.write_table(pa.table(table), buffer, compression="zstd")
    write_bytes(path, buffer.getvalue())


def write_texts(path: Path, rows: Sequence[Written]) -> None:
    """One row for each text, in order: `text`, `wanted`, `prompt`, `where`."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], TEXTS), buffer, compression="zstd")
    write_bytes(path, buffer.getvalue())


def read_texts(path: Path) -> list[Written]:
    return [Written(**row) for row in pq.read_table(path).to_pylist()]


def read_scores(path: Path) -> Scores:
    table = pq.read_table(path).to_pydict()
    return Scores(tuple(table["loss"]), tuple(table["tokens"]), tuple(table.get("source", ())))
