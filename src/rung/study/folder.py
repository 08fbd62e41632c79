"""The study folder: where everything of a study lies, and how scores are kept.

::

    studies/<name>/
      recipe.yaml  manifest.json  study.db  result.json  lock.json (while a process works on it)
      candidates/<id>/adapter/  candidates/<id>/checkpoint/  candidates/<id>/cooled@<fraction>/
      scores/<id>@<fraction>.parquet  scores/untuned.parquet  scores/test-<who>.parquet
      written/<split>-<who>.parquet
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rung.atomic import check_writable, write_bytes, write_text
from rung.errors import RungError, StudyError
from rung.types import Candidate, Generation, Scores

SCHEMA = 1
"""Of `manifest.json` and `result.json`: which version of them this is."""
LONGEST_NAME = 200
"""Bytes of a study's name; file systems take 255, or a little fewer."""
FORMAT = 2
"""Of what a study keeps, and of how its data are read: a study of another one cannot be gone on with."""
_RESERVED = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[\d¹²³]) *(\..*)?", re.IGNORECASE
)
"""What Windows takes for a device, whatever its ending."""
_JOINERS = "\u200c\u200d"
"""Unseen, and a part of words in Persian and in the scripts of India, and of emoji."""


def study_folder(studies: Path | str, name: str) -> StudyFolder:
    """The folder of the study of that name, in the folder of the studies.

    Raises:
        StudyError: it is no name for a folder, on one system or another, or names one elsewhere.
    """
    if odd := [c for c in name if c in '/\\<>:"|?*' or _unseen(c)]:
        why = f"{odd[0]!r} is in it"
    elif not any(unicodedata.category(c)[0] in "LNPS" for c in name):
        why = "there are no letters in it"
    elif name[0] in " .-~" or name[-1] in f" .{_JOINERS}":
        why = f"it begins with '{name[0]}'" if name[0] in " .-~" else f"it ends with '{name[-1]}'"
    elif _RESERVED.fullmatch(name):
        why = "Windows keeps it for a device"
    elif len(name.encode()) > LONGEST_NAME:
        why = f"it has {len(name.encode())} bytes, and may have {LONGEST_NAME}"
    else:
        return StudyFolder(Path(os.path.expanduser(studies)) / name)
    shown = name if len(name) <= 60 else f"{name[:60]}…"
    raise StudyError(
        f"--study: {shown!r} is no name for a folder ({why}); give one such as prices-2, and with --studies the "
        "folder that it lies in."
    )


def _unseen(character: str) -> bool:
    return (
        unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        and character not in _JOINERS
    )


@dataclass(frozen=True, slots=True)
class StudyFolder:
    """The paths of one study."""

    path: Path

    def check(self) -> None:
        """See whether a study can begin or go on here; nothing is written.

        Raises:
            FolderError: nothing can be written here.
            StudyError: something else lies here, or the study's own files are damaged or of another version.
        """
        if os.path.isfile(self.path):
            raise StudyError(
                f"'{self.path}' is a file, so it cannot be a study's folder; give another --study."
            )
        check_writable(self.path)
        there = set(os.listdir(self.path)) if self.path.is_dir() else set()
        if self.manifest.name not in there:
            # A study that was stopped before it began has a database, and then a recipe.
            own = {self.lock.name, self.database.name, f"{self.database.name}-journal"}
            own |= {self.recipe.name} if self.database.name in there else set()
            if others := sorted(name for name in there - own if not name.startswith(".")):
                raise StudyError(
                    f"The folder '{self.path}' is no study's: there is '{others[0]}' in it; give another --study."
                )
            return
        if missing := {self.recipe.name, self.database.name} - there:
            raise self.damaged(self.path / min(missing), "it is not there")
        for path in (self.manifest, self.result):
            if path.name in there and (version := self._read(path).get("schema")) != SCHEMA:
                raise StudyError(
                    f"'{path}' was written by another version of Rung (schema {version!r}, and this one has {SCHEMA}); "
                    "go on with that one, or give another --study."
                )
        if (version := self.read_manifest().get("format")) != FORMAT:
            raise StudyError(
                f"The study '{self.path}' was begun by a version of Rung that read data or kept studies in another way "
                f"(format {version!r}, and this one has {FORMAT}); give this one a --study of its own."
            )

    def read_manifest(self) -> dict[str, Any]:
        """
        Raises:
            StudyError: it is damaged.
        """
        return self._read(self.manifest)

    def _read(self, path: Path) -> dict[str, Any]:
        with self.reading(path):
            found = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(found, dict):
                raise ValueError("it is no JSON object")
        return found

    def damaged(self, path: Path, why: object) -> StudyError:
        """The error that says so."""
        says = " ".join(str(why).split())
        return StudyError(
            f"'{path}' of the study is damaged ({says[:200]}); put the file back, or take the folder "
            f"'{self.path}' away to begin anew."
        )

    @contextlib.contextmanager
    def reading(self, path: Path) -> Iterator[None]:
        """Whatever goes wrong while this file is read.

        Raises:
            StudyError: something has.
        """
        try:
            yield
        except RungError:
            raise
        except Exception as error:  # a file may have anything in it, nested without end too
            raise self.damaged(path, error) from error

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
    def lock(self) -> Path:
        """There while a process works on the study."""
        return self.path / "lock.json"

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


TEXTS = pa.schema({field.name: pa.string() for field in fields(Generation)})


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_scores(path: Path, scores: Scores) -> None:
    """One row for each validation row, in order: `loss` in nats, float64, `tokens`, and `source` if rows share one."""
    buffer = io.BytesIO()
    table = {
        "loss": pa.array(scores.losses, pa.float64()),
        "tokens": pa.array(scores.tokens, pa.int32()),
    }
    if scores.sources:
        table["source"] = pa.array(scores.sources, pa.int32())
    pq.write_table(pa.table(table), buffer, compression="zstd")
    write_bytes(path, buffer.getvalue())


def write_texts(path: Path, rows: Sequence[Generation]) -> None:
    """One row for each text, in order: `text`, `wanted`, `prompt`, `where`."""
    buffer = io.BytesIO()
    pq.write_table(
        pa.Table.from_pylist([asdict(row) for row in rows], TEXTS), buffer, compression="zstd"
    )
    write_bytes(path, buffer.getvalue())


def read_texts(path: Path) -> list[Generation]:
    return [Generation(**row) for row in pq.read_table(path).to_pylist()]


def read_scores(path: Path) -> Scores:
    table = pq.read_table(path).to_pydict()
    return Scores(tuple(table["loss"]), tuple(table["tokens"]), tuple(table.get("source", ())))
