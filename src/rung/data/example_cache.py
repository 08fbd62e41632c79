"""The cache of tokenized data: a folder for each combination of all that tokens depend on."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import shutil
import time
import unicodedata
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rung.atomic import temporary_folder, write_text
from rung.data.builtin import TASKS
from rung.data.data_stats import DataStats
from rung.data.tokenize import RowTokenizer
from rung.data.tokenizer_state import tokenizer_fingerprint
from rung.errors import DataError
from rung.recipe import Recipe

_LIBRARIES = ("transformers", "tokenizers", "jinja2", "pyarrow")
"""The libraries that turn rows into tokens, and that read and store both."""
_STATS_FILE = "stats.json"
_SECONDS_PER_DAY = 86_400.0


def code_versions() -> list[str]:
    """The versions of all that tokens depend on, except the tokenizer.

    These are the libraries, Unicode, and the code of this package.
    """
    code = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        code.update(path.read_bytes())
    return [
        *(f"{name} {version(name)}" for name in _LIBRARIES),
        unicodedata.unidata_version,
        code.hexdigest(),
    ]


def cache_key(
    recipe: Recipe,
    files: dict[str, list[Path]],
    row_tokenizer: RowTokenizer,
    file_notes: list[str],
) -> str:
    """A hash of everything that the examples depend on, including the bytes of the files.

    Raises:
        DataError: A file cannot be read.
    """
    digest = hashlib.sha256()
    paths = [[split, str(path)] for split in files for path in files[split]]
    inputs: list[Any] = [
        code_versions(),
        recipe.data if recipe.data in TASKS else paths,
        [recipe.fields, recipe.learn, recipe.long_rows, recipe.max_tokens],
        file_notes,
        row_tokenizer.fingerprint,
        tokenizer_fingerprint(row_tokenizer.tokenizer),
    ]
    digest.update(json.dumps(inputs).encode())
    for path in itertools.chain.from_iterable(files.values()):
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise DataError(f"The data file '{path}' cannot be read ({error.strerror}).") from None
    return digest.hexdigest()[:24]


def cached_stats(folder: Path, fill: Callable[[Path], DataStats]) -> DataStats:
    """The statistics of a cache folder, which is filled first if it does not exist.

    Args:
        folder: The folder of the cache.
        fill: Writes the examples into the folder that it is given. That folder is renamed when it
            is complete.
    """
    if not (folder / _STATS_FILE).exists():
        _remove_incomplete(folder)
        temporary = temporary_folder(folder)
        try:
            stats = fill(temporary)
            write_text(temporary / _STATS_FILE, stats.to_json())
            with contextlib.suppress(OSError):  # another process may have been faster
                temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return DataStats.from_json((folder / _STATS_FILE).read_text(encoding="utf-8"))


def _remove_incomplete(folder: Path) -> None:
    """Remove what killed processes left: a folder without statistics, and old temporary folders."""
    if folder.exists():
        shutil.rmtree(folder)
    for old in folder.parent.glob(".*-*"):
        if time.time() - old.stat().st_mtime > _SECONDS_PER_DAY:
            shutil.rmtree(old, ignore_errors=True)
