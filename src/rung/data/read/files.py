"""Finding the files of a data set, and reading the records of a file of any format.

Files are streamed: no file is ever held in memory as a whole. A record that cannot be read is
replaced by its error, and reading goes on: the caller decides whether a bad row stops it.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from rung.data.read.arrow_files import read_arrow, read_parquet
from rung.data.read.csv_files import read_csv
from rung.data.read.json_files import read_json
from rung.data.read.split_names import by_split
from rung.data.read.text_files import Notify, Records, decoding_error
from rung.errors import DataError

_FileReader = Callable[[Path, Notify], Records]
_READERS: dict[str, _FileReader] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), read_json),
    **dict.fromkeys((".csv", ".tsv"), read_csv),
    ".parquet": read_parquet,
    ".arrow": read_arrow,
}
_ENDINGS = ".jsonl, .json, .csv, .tsv, .parquet or .arrow"
_METADATA_NAMES = re.compile(r"dataset_infos?\.json|state\.json|dataset_dict\.json|cache-.*\.arrow")
"""Files that `datasets` writes beside the data."""


def is_hub_id(data: str) -> bool:
    """Whether a text has the form `owner/name` or `owner/name:configuration` and is not a path."""
    return (
        bool(re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", data))
        and not _reader_of(Path(data))
        and not Path(data).exists()
    )


def is_table(path: Path) -> bool:
    """Whether the first line of the file names its columns."""
    return _reader_of(path) is read_csv


def find_files(data: str, notify: Notify = lambda _: None) -> dict[str, list[Path]]:
    """Find the files of a data set, by split. Files that name no split are `train`.

    Args:
        data: A file, a folder of files, or a hub id, which `datasets` downloads.
        notify: Takes notes for the user, such as which files are left out.

    Raises:
        DataError: The path does not exist, or it has no file that Rung can read.
    """
    path = Path(data)
    if path.is_dir():
        return _files_in_folder(path, notify)
    if path.is_file():
        if not _reader_of(path):
            raise _unknown_ending(path, ", or a folder of them")
        return {"train": [path]}
    if is_hub_id(data):
        return _download(data, notify)
    raise DataError(
        f"There is no data file '{data}'; give {_ENDINGS}, a folder of them, a hub id, or a "
        "built-in task."
    )


def _files_in_folder(folder: Path, notify: Notify) -> dict[str, list[Path]]:
    files = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        is_hidden = any(part.startswith((".", "_")) for part in name.parts)
        is_metadata = _METADATA_NAMES.fullmatch(name.name)
        if path.is_file() and not is_hidden and _reader_of(path) and not is_metadata:
            files.append((name, [path]))
    if not files:
        raise DataError(f"The folder '{folder}' has no file of rows; put {_ENDINGS} files into it.")
    return _sort_into_splits(files, notify)


def _sort_into_splits(
    named: Sequence[tuple[Path, list[Path]]], notify: Notify
) -> dict[str, list[Path]]:
    return {
        split: [path for paths in groups for path in paths]
        for split, groups in by_split(named, notify).items()
    }


def _download(data: str, notify: Notify) -> dict[str, list[Path]]:
    import datasets
    from datasets.exceptions import DatasetsError
    from huggingface_hub.utils import logging

    # The hub's client warns at each retry. The user needs only the error at the end.
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    name, _, configuration = data.partition(":")
    try:
        splits = datasets.load_dataset(name, configuration or None)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise DataError(
            f"The data set '{data}' cannot be downloaded from the hub ({reason}); give owner/name, "
            "or owner/name:configuration, or the path of a file."
        ) from None
    named = [
        (Path(str(split)), [Path(file["filename"]) for file in rows.cache_files])
        for split, rows in splits.items()
    ]
    return _sort_into_splits(named, notify)


def read_file(path: Path, notify: Notify = lambda _: None) -> Records:
    """Read the records of one file.

    Args:
        path: The file; its ending decides the format.
        notify: Takes notes for the user about what is read in an unexpected way.

    Yields:
        Each record with its location, or the error in its place.

    Raises:
        DataError: The file itself cannot be read.
    """
    reader = _reader_of(path)
    if not reader:
        raise _unknown_ending(path)
    try:
        yield from reader(path, notify)
    except UnicodeDecodeError as error:
        raise decoding_error(path, error) from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"The data file '{path}' cannot be read ({reason}).") from None


def _unknown_ending(path: Path, or_else: str = "") -> DataError:
    return DataError(f"The data file '{path}' ends in '{path.suffix}'; give {_ENDINGS}{or_else}.")


def _reader_of(path: Path) -> _FileReader | None:
    """The reader for a file, by its ending. Of the formats, only texts may be compressed."""
    suffixes = path.suffixes
    if suffixes and suffixes[-1] == ".gz":
        inner = [suffix for suffix in suffixes[-2:-1] if suffix not in (".parquet", ".arrow")]
        return _READERS.get(inner[0].lower()) if inner else None
    return _READERS.get(path.suffix.lower())
