"""The study folder: the place of every file of a study.

::

    studies/<name>/
      recipe.yaml  manifest.json  study.db  result.json  lock.json (while a process works on it)
      candidates/<id>/adapter/  candidates/<id>/checkpoint/  candidates/<id>/cooldown@<fraction>/
      scores/<id>@<fraction>.parquet  scores/untuned.parquet  scores/test-<who>.parquet
      generations/<split>-<who>.parquet
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung.atomic import check_writable
from rung.errors import RungError, StudyError
from rung.types import Candidate

SCHEMA = 2
"""The version of `manifest.json` and `result.json`."""
FORMAT = 3
"""The version of what a study keeps and of how its data are read."""
MAX_NAME_BYTES = 200
"""Bytes of a study's name; file systems take 255, or a little fewer."""
UNTUNED = "untuned"
"""What the untuned model is called where candidates are called by their ids."""

_RESERVED = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[\d¹²³]) *(\..*)?", re.IGNORECASE
)
"""Names that Windows takes for a device, whatever their ending."""
_JOINERS = "\u200c\u200d"
"""Invisible, and parts of words in Persian and in the scripts of India, and of emoji."""


def study_folder(studies: Path | str, name: str) -> StudyFolder:
    """The folder of the study of that name.

    Raises:
        StudyError: the name cannot be that of a folder on every system, or leads elsewhere.
    """
    if problem := _name_problem(name):
        shown = name if len(name) <= 60 else f"{name[:60]}…"
        raise StudyError(
            f"--study: {shown!r} cannot be the name of a folder ({problem}); give a name such as "
            "prices-2, and with --studies the folder that it lies in."
        )
    return StudyFolder(Path(os.path.expanduser(studies)) / name)


def _name_problem(name: str) -> str:
    """Why a folder cannot have the name; empty where it can."""
    if bad := [c for c in name if c in '/\\<>:"|?*' or _is_invisible(c)]:
        return f"it contains {bad[0]!r}"
    if not any(unicodedata.category(c)[0] in "LNPS" for c in name):
        return "it has no letters"
    if name[0] in " .-~":
        return f"it starts with '{name[0]}'"
    if name[-1] in f" .{_JOINERS}":
        return f"it ends with '{name[-1]}'"
    if _RESERVED.fullmatch(name):
        return "Windows reserves it for a device"
    if (size := len(name.encode())) > MAX_NAME_BYTES:
        return f"it has {size} bytes, and {MAX_NAME_BYTES} are allowed"
    return ""


def _is_invisible(character: str) -> bool:
    category = unicodedata.category(character)
    return category in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in _JOINERS


@dataclass(frozen=True, slots=True)
class StudyFolder:
    """The paths of one study, and the checks of its folder."""

    path: Path

    def check(self) -> None:
        """Check that a study can start or go on here. Nothing is written.

        Raises:
            FolderError: the folder cannot be written to.
            StudyError: something else lies here, or the study's files are damaged or of another
                version.
        """
        if os.path.isfile(self.path):
            raise StudyError(
                f"'{self.path}' is a file, so it cannot be a study's folder; give another --study."
            )
        check_writable(self.path)
        present = set(os.listdir(self.path)) if self.path.is_dir() else set()
        if self.manifest.name not in present:
            self._check_is_unused(present)
            return
        if missing := {self.recipe.name, self.database.name} - present:
            raise self.damaged(self.path / min(missing), "the file is missing")
        self._check_version(present)

    def _check_is_unused(self, present: set[str]) -> None:
        """A study that was stopped before it started may have left a database and a recipe."""
        own = {self.lock.name, self.database.name, f"{self.database.name}-journal"}
        own |= {self.recipe.name} if self.database.name in present else set()
        if others := sorted(name for name in present - own if not name.startswith(".")):
            raise StudyError(
                f"The folder '{self.path}' is not a study's: it contains '{others[0]}'; give "
                "another --study."
            )

    def _check_version(self, present: set[str]) -> None:
        versions = [(self.manifest, "schema", SCHEMA), (self.manifest, "format", FORMAT)]
        versions += [(self.result, "schema", SCHEMA)] if self.result.name in present else []
        for path, name, this in versions:
            if (version := self._read_json(path).get(name)) != this:
                raise StudyError(
                    f"The study '{self.path}' was made by another version of Rung ({path.name} has "
                    f"{name} {version!r}; this version has {this}); go on with that version, or "
                    "give another --study."
                )

    def read_manifest(self) -> dict[str, Any]:
        """The content of `manifest.json`.

        Raises:
            StudyError: the file is damaged.
        """
        return self._read_json(self.manifest)

    def _read_json(self, path: Path) -> dict[str, Any]:
        with self.reading(path):
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise ValueError("it is not a JSON object")
        return content

    def damaged(self, path: Path, why: object) -> StudyError:
        """The error for a damaged file of the study."""
        reason = " ".join(str(why).split())
        return StudyError(
            f"'{path}' of the study is damaged ({reason[:200]}); put the file back, or remove the "
            f"folder '{self.path}' to start again."
        )

    @contextlib.contextmanager
    def reading(self, path: Path) -> Iterator[None]:
        """Turn whatever goes wrong while a file is read into one error.

        Raises:
            StudyError: the file is damaged.
        """
        try:
            yield
        except RungError:
            raise
        except FileNotFoundError as error:
            raise self.damaged(path, "the file is missing") from error
        except Exception as error:  # a damaged file can hold anything, deep nesting too
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
        """It exists while a process works on the study."""
        return self.path / "lock.json"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    def adapter(self, candidate: Candidate) -> Path:
        return self.path / "candidates" / candidate.id / "adapter"

    def checkpoint(self, candidate: Candidate) -> Path:
        """Where the candidate's training goes on from: before any cooldown."""
        return self.path / "candidates" / candidate.id / "checkpoint"

    def cooldown_copy(self, candidate: Candidate, fraction: float) -> Path:
        """The copy that was cooled down and evaluated at that fraction of the budget."""
        return self.path / "candidates" / candidate.id / f"cooldown@{fraction:.3f}"

    def cooldown_copies(self, candidate: Candidate) -> list[Path]:
        return sorted((self.path / "candidates" / candidate.id).glob("cooldown@*"))

    def scores(self, candidate: Candidate | None = None, fraction: float = 1.0) -> Path:
        """Scores on the validation rows; of the untuned model where no candidate is given."""
        name = f"{candidate.id}@{fraction:.3f}" if candidate else UNTUNED
        return self.path / "scores" / f"{name}.parquet"

    def test_scores(self, who: str) -> Path:
        """Scores on the test rows, of a candidate by its id or of `untuned`."""
        return self.path / "scores" / f"test-{who}.parquet"

    def generations(self, split: str, who: str) -> Path:
        """The texts of a split that a candidate, by its id, or `untuned` generated."""
        return self.path / "generations" / f"{split}-{who}.parquet"


def candidate_label(candidate: Candidate | None) -> str:
    """The candidate's id; `untuned` for None, the untuned model."""
    return candidate.id if candidate else UNTUNED
