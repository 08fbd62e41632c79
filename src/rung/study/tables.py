"""How a study keeps rows: scores and generated texts, as Parquet files written atomically."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rung.atomic import write_bytes, write_text
from rung.types import Generation, Scores

_GENERATION_SCHEMA = pa.schema({field.name: pa.string() for field in fields(Generation)})


def write_json(path: Path, value: Any) -> None:
    """Write JSON for people and programs: indented, in UTF-8."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_scores(path: Path, scores: Scores) -> None:
    """One row for each scored row, in order.

    Columns: `loss` (float64, nats), `tokens` (int32), and `source` (int32) where rows share one.
    """
    columns = {
        "loss": pa.array(scores.losses, pa.float64()),
        "tokens": pa.array(scores.tokens, pa.int32()),
    }
    if scores.sources:
        columns["source"] = pa.array(scores.sources, pa.int32())
    _write(path, pa.table(columns))


def read_scores(path: Path) -> Scores:
    columns = pq.read_table(path).to_pydict()
    return Scores(
        tuple(columns["loss"]), tuple(columns["tokens"]), tuple(columns.get("source", ()))
    )


def write_generations(path: Path, rows: Sequence[Generation]) -> None:
    """One row for each text, in order, with the fields of `Generation` as columns."""
    _write(path, pa.Table.from_pylist([asdict(row) for row in rows], _GENERATION_SCHEMA))


def read_generations(path: Path) -> list[Generation]:
    return [Generation(**row) for row in pq.read_table(path).to_pylist()]


def _write(path: Path, table: pa.Table) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_bytes(path, buffer.getvalue())
