"""A recipe's data as three splits of examples on the disk: read, split and tokenized in one pass.

Rows are processed in pieces, so memory does not depend on how many there are. The examples are
cached under a key of everything that they depend on: the bytes of the files, the tokenizer, the
options for reading and tokenizing, and the code (see `rung.data.example_cache`). A row that is
longer than `max_tokens` is left out, or cut if the recipe says so. A malformed row is an error,
unless the recipe says to skip such rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung.data.arrow_store import Examples, ExampleWriter
from rung.data.builtin import TASKS
from rung.data.data_stats import DataStats, StatsCollector
from rung.data.example import Example
from rung.data.example_cache import cache_key, cached_stats
from rung.data.read.files import find_files, is_table, read_file
from rung.data.read.split_names import SPLITS
from rung.data.read.text_files import Notify
from rung.data.related.related_rows import RelatedRows, group_related_rows
from rung.data.row_errors import InvalidFieldsError
from rung.data.rows import Row
from rung.data.schema import RecordReader
from rung.data.splits import check_splits, limit_rows, split_of
from rung.data.tokenize import RowTokenizer
from rung.defaults import cache_folder
from rung.errors import DataError
from rung.recipe import Recipe

_PIECE_ROWS = 512
_ROWS_PER_REPORT = 100 * _PIECE_ROWS
_LocatedRow = tuple[Row, str, str]
"""A row, its split, and its location."""


@dataclass(frozen=True)
class Data:
    """A data set: rows to train on, to choose by, and to test with once; and its statistics."""

    train: Examples
    validation: Examples
    test: Examples
    stats: DataStats

    @property
    def splits(self) -> dict[str, Examples]:
        """The three splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def prepare(
    recipe: Recipe,
    tokenizer: Any,
    report_progress: Callable[[str], None] = lambda _: None,
    end_tokens: Iterable[int] = (),
) -> Data:
    """Turn the rows of a study into tokens.

    Args:
        recipe: Its `data` is a built-in task, a file, a folder, or a hub id; its `validation` and
            `test` are files for these splits. A split without a file is made from the training
            rows by a hash: a tenth of the sources each.
        tokenizer: The model's tokenizer.
        report_progress: Takes messages about slow work.
        end_tokens: The tokens that end a text, by the model; the tokenizer's end token is added.

    Raises:
        DataError: A file is missing, empty or malformed, a row is malformed, a split is too small,
            or more rows are too long than the recipe allows.
    """
    row_tokenizer = RowTokenizer(tokenizer, recipe.learn, recipe.template, set(end_tokens))
    file_notes: list[str] = []
    files = _find_split_files(recipe, file_notes.append)
    folder = cache_folder() / "data" / cache_key(recipe, files, row_tokenizer, file_notes)
    writer = _DataWriter(recipe, files, row_tokenizer, file_notes, report_progress)
    stats = cached_stats(folder, writer.write)
    if stats.bad_rows and not recipe.skip_bad_rows:
        raise _bad_row_error(stats.bad_row_messages[0], stats.bad_rows_need_fields)
    splits = {split: Examples(folder / f"{split}.arrow") for split in SPLITS}
    splits |= {split: limit_rows(splits[split]) for split in stats.made_splits}
    check_splits(recipe, stats, splits)
    return Data(**splits, stats=stats)


def _find_split_files(recipe: Recipe, notify: Notify) -> dict[str, list[Path]]:
    """The files of each split; empty for a built-in task."""
    if recipe.data in TASKS:
        if recipe.validation or recipe.test:
            raise DataError(
                f"The built-in task '{recipe.data}' has its own splits; leave --validation and "
                "--test out."
            )
        return {}
    try:
        files = find_files(recipe.data, notify)
    except DataError as error:
        raise DataError(f"{error} The built-in tasks are {', '.join(TASKS)}.") from None
    for split, data in (("validation", recipe.validation), ("test", recipe.test)):
        if data:
            files[split] = _files_for_split(split, data, notify)
    if "train" not in files:
        raise DataError(
            f"'{recipe.data}' has no training split, only {' and '.join(files)}; add one."
        )
    return files


def _files_for_split(split: str, data: str, notify: Notify) -> list[Path]:
    """The files that the user gave for one split.

    These are all files there, or, if they are several splits, the files of this split.

    Raises:
        DataError: There are several splits, and this is none of them.
    """
    files = find_files(data, notify)
    if split not in files and len(files) > 1:
        raise DataError(
            f"--{split}: '{data}' has files of {' and '.join(files)}; give the {split} file itself."
        )
    return files.get(split) or next(iter(files.values()))


def _bad_row_error(message: str, needs_fields: bool) -> DataError:
    # If the fields have other names than expected, every row is bad, and skipping does not help.
    if needs_fields:
        return InvalidFieldsError(message)
    return DataError(f"{message.rstrip('.')}; or leave out such rows with --skip-bad-rows.")


class _DataWriter:
    """Reads, splits and tokenizes the rows of a recipe, and writes them to a folder."""

    def __init__(
        self,
        recipe: Recipe,
        files: dict[str, list[Path]],
        row_tokenizer: RowTokenizer,
        file_notes: list[str],
        report_progress: Callable[[str], None],
    ) -> None:
        self.recipe = recipe
        self.files = files
        self.row_tokenizer = row_tokenizer
        self.report_progress = report_progress
        self.made_splits = [split for split in SPLITS[1:] if files and split not in files]
        self.collector = StatsCollector(list(file_notes))
        self.reader = RecordReader(recipe.fields)

    def write(self, folder: Path) -> DataStats:
        """Write the Arrow file of each split into the folder."""
        is_task = self.recipe.data in TASKS
        rows = _task_rows(self.recipe.data) if is_task else self._file_rows()
        with ExitStack() as stack:
            writers = {
                split: stack.enter_context(ExampleWriter(folder / f"{split}.arrow"))
                for split in SPLITS
            }
            count = 0
            while piece := list(itertools.islice(rows, _PIECE_ROWS)):
                self._write_piece(piece, writers)
                count += len(piece)
                if count % _ROWS_PER_REPORT == 0:
                    self.report_progress(f"{count:,} rows read and tokenized")
        record_format = "prompt_completion" if is_task else str(self.reader.format)
        related = RelatedRows()
        if self.made_splits:
            self.report_progress("looking for related rows")
            related = group_related_rows(folder, ["train", *self.made_splits], record_format)
        end_tokens = self.row_tokenizer.ends
        template_ends = end_tokens - self.row_tokenizer.stops
        stats = self.collector.finish(
            record_format, self.made_splits, related, end_tokens, template_ends
        )
        if not sum(stats.row_counts[split] for split in ("train", *self.made_splits)):
            reason = (
                f"the first bad row is {stats.bad_row_messages[0].rstrip('.')}"
                if stats.bad_rows
                else "it is empty"
            )
            raise DataError(f"'{self.recipe.data}' has no row that can be used; {reason}.")
        return stats

    def _write_piece(self, piece: list[_LocatedRow], writers: dict[str, ExampleWriter]) -> None:
        examples = self.row_tokenizer.tokenize([row for row, _, _ in piece])
        for (row, split, location), example in zip(piece, examples, strict=True):
            if isinstance(example, DataError):
                self._handle_bad_row(DataError(f"{location}: {example}."))
                continue
            is_long = len(example.ids) > self.recipe.max_tokens
            self.collector.add_row(row, split, location, example, is_long)
            if fitting := self._truncate(example) if is_long else example:
                answer = self.row_tokenizer.answer(row, example)
                writers[split].add(fitting, row, answer, location)
                self.collector.numbers.add(answer[1], held=split != "train")

    def _truncate(self, example: Example) -> Example | None:
        """A long row, cut to the limit; None if it is left out or nothing to train on is left."""
        if self.recipe.long_rows == "leave-out":
            return None
        shorter = example.truncate(self.recipe.max_tokens)
        return shorter if shorter.loss_tokens > 0 else None

    def _handle_bad_row(self, error: DataError) -> None:
        if not self.recipe.skip_bad_rows:
            needs_fields = isinstance(error, InvalidFieldsError)
            raise _bad_row_error(str(error), needs_fields) from None
        self.collector.add_bad_row(error)

    def _file_rows(self) -> Iterator[_LocatedRow]:
        for split, paths in self.files.items():
            for path in paths:
                for row, location in self._rows_of(path):
                    is_training = split == "train"
                    yield row, split_of(row, self.made_splits) if is_training else split, location

    def _rows_of(self, path: Path) -> Iterator[tuple[Row, str]]:
        for record in read_file(path, self.collector.file_notes.append):
            if isinstance(record, DataError):
                self._handle_bad_row(record)
                continue
            value, location = record
            try:
                row = self.reader.read(value, location)
            except InvalidFieldsError as error:
                is_first_of_table = self.reader.format is None and is_table(path)
                self._handle_bad_row(_with_header_hint(error) if is_first_of_table else error)
            except DataError as error:
                self._handle_bad_row(error)
            else:
                yield row, location


def _with_header_hint(error: InvalidFieldsError) -> InvalidFieldsError:
    return InvalidFieldsError(
        f"{error} The names are taken from the first line; if that is a row, put a line with the "
        "names of the columns before it."
    )


def _task_rows(task: str) -> Iterator[_LocatedRow]:
    for split, pairs in zip(SPLITS, TASKS[task](), strict=True):
        for number, (prompt, completion) in enumerate(pairs, 1):
            yield Row(prompt, completion), split, f"{task}, {split} row {number}"
