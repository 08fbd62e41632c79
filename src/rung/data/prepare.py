"""A recipe's data ─▶ three splits of examples on the disk: read, split and tokenised in one pass, once.

Rows go through in pieces, so the memory that it takes does not depend on how many there are. What comes out lies in the
cache under a key of everything that it depends on: the bytes of the files, the tokenizer, how rows are to be read and
rendered, and the code that does it. A row that is longer than `max_tokens` is left out (or cut, if the recipe says so);
a row that is malformed stops it, unless the recipe says to go on without such rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rung.atomic import temporary_folder, write_text
from rung.data.arrow_store import Examples, Writer
from rung.data.builtin import TASKS
from rung.data.example import Example
from rung.data.read import find_files, read_file
from rung.data.remarks import RemarkCounter, RemarkCounts
from rung.data.schema import Reader, Row, normal
from rung.data.split_names import SPLITS
from rung.data.text import Tell
from rung.data.together import Together, keep_together
from rung.data.tokenize import RowTokenizer
from rung.data.tokens import state_of, versions
from rung.defaults import cache_folder
from rung.errors import DataError
from rung.formats.numbers import Column
from rung.recipe import Recipe

MIN_ROWS = 20
"""Fewer validation or test rows than this carry no interval worth printing."""
MADE_ROWS = 2000
"""A split that Rung makes has no more rows than this: they cost time at every judgement, and little is gained."""
_PIECE = 512
_DAY = 86_400.0
_LISTED = 20
"""Bad rows that are listed, beside their count."""


@dataclass(frozen=True)
class Data:
    """The three parts of a data set: to train on, to judge by, and to open once at the end; and what is known of it."""

    train: Examples
    validation: Examples
    test: Examples
    facts: Facts

    @property
    def splits(self) -> dict[str, Examples]:
        return {"train": self.train, "validation": self.validation, "test": self.test}


@dataclass(frozen=True)
class Facts:
    """What was seen when the data were read.

    `shape` is that of the records; `digest` a SHA-256 over every row and its tokens: what says that two studies saw the
    same data.
    `read` counts the rows of each split, `long` those of them that are longer than `max_tokens`, and `lengths` the rows
    of each number of tokens. `made` are the splits that were made by a hash. `bad` counts malformed rows, and `listed`
    says what is wrong with the first of them. `merged` counts rows whose prompt ends in a token that merges with the
    completion. `ends` are the tokens at which writing stops, and `own_ends` those of them that the template alone
    ends its turns with: neither the tokenizer nor the model's generation_config.json names them. `numbers` says how the
    numbers among the training completions are written, and `told` how files were taken otherwise than somebody might
    think. `remarks` are what rows say and their texts do not, counted. `together` counts rows that go on from another
    row and were kept in its split, and `apart` those that were too many for that.
    """

    shape: str
    digest: str
    read: dict[str, int]
    long: dict[str, int]
    lengths: dict[int, int]
    made: list[str]
    bad: int
    listed: list[str]
    merged: int
    ends: list[int]
    own_ends: list[int]
    numbers: Column
    told: list[str]
    remarks: RemarkCounts
    together: int
    apart: int

    @classmethod
    def from_json(cls, text: str) -> Facts:
        found = json.loads(text)
        found["lengths"] = {int(length): count for length, count in found["lengths"].items()}
        return cls(**{**found, "numbers": Column(**found["numbers"])})


def prepare(
    recipe: Recipe,
    tokenizer: Any,
    tell: Callable[[str], None] = lambda _: None,
    ends: Iterable[int] = (),
) -> Data:
    """The rows of a study as tokens.

    Args:
        recipe: its `data` is a built-in task, a file, a folder, or a hub id; `validation` and `test` are files of their
            own. A split that is in none of them is made of the training rows by a hash: a tenth of the sources each.
        tokenizer: the model's.
        tell: hears what takes long.
        ends: the tokens that end a text, by the model, beside the tokenizer's end token.

    Raises:
        DataError: a file that is missing, empty or malformed, a row that is, a split that is too small, or more long
            rows than the recipe allows.
    """
    row_tokenizer = RowTokenizer(tokenizer, recipe.learn, recipe.template, set(ends))
    told: list[str] = []
    files = _files(recipe, told.append)
    folder = cache_folder() / "data" / _key(recipe, files, row_tokenizer, told)
    if not (folder / "facts.json").exists():
        _make(folder, recipe, files, row_tokenizer, told, tell)
    facts = Facts.from_json((folder / "facts.json").read_text(encoding="utf-8"))
    if facts.bad and not recipe.skip_bad_rows:
        raise DataError(_and_skip(facts.listed[0]))
    parts = {name: Examples(folder / f"{name}.arrow") for name in SPLITS}
    parts |= {name: _capped(parts[name]) for name in facts.made}
    _check(recipe, facts, parts)
    return Data(**parts, facts=facts)


def _files(recipe: Recipe, tell: Tell) -> dict[str, list[Path]]:
    """The files of each split; none for a built-in task."""
    own = {"validation": recipe.validation, "test": recipe.test}
    if recipe.data in TASKS:
        if recipe.validation or recipe.test:
            raise DataError(
                f"The built-in task '{recipe.data}' brings its own splits; leave --validation and --test out."
            )
        return {}
    try:
        files = find_files(recipe.data, tell)
    except DataError as error:
        raise DataError(f"{error} The built-in tasks are {', '.join(TASKS)}.") from None
    for name, data in own.items():
        if data:
            files[name] = _files_of(name, data, tell)
    if "train" not in files:
        raise DataError(
            f"In '{recipe.data}' is no training split, only {' and '.join(files)}; add one."
        )
    return files


def _files_of(name: str, data: str, tell: Tell) -> list[Path]:
    """What a user gave to be one split: all that is there, or, where that has splits of its own, the one of that name.

    Raises:
        DataError: it has several, and none of that name.
    """
    found = find_files(data, tell)
    if name not in found and len(found) > 1:
        raise DataError(
            f"--{name}: '{data}' has files of {' and '.join(found)}; give the {name} file itself."
        )
    return found.get(name) or next(iter(found.values()))


def _key(
    recipe: Recipe, files: dict[str, list[Path]], row_tokenizer: RowTokenizer, told: list[str]
) -> str:
    """A hash of everything that the examples follow from."""
    digest = hashlib.sha256()
    about = [
        versions(),
        recipe.data
        if recipe.data in TASKS
        else [[name, str(path)] for name in files for path in files[name]],
        [recipe.fields, recipe.learn, recipe.long_rows, recipe.max_tokens],
        told,
        row_tokenizer.fingerprint,
        state_of(row_tokenizer.tokenizer),
    ]
    digest.update(json.dumps(about).encode())
    for path in itertools.chain.from_iterable(files.values()):
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise DataError(f"The data file '{path}' cannot be read ({error.strerror}).") from None
    return digest.hexdigest()[:24]


@dataclass
class _Seen:
    """What `Facts` is made of, while rows go by."""

    read: Counter[str] = field(default_factory=Counter)
    long: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    listed: list[str] = field(default_factory=list)
    bad: int = 0
    merged: int = 0
    remarks: RemarkCounter = field(default_factory=RemarkCounter)
    told: list[str] = field(default_factory=list)
    numbers: Column = field(default_factory=Column)
    digest: Any = field(default_factory=hashlib.sha256)


Placed = tuple[Row, str, str]
"""A row, its split, and where it stands."""


def _make(
    folder: Path,
    recipe: Recipe,
    files: dict[str, list[Path]],
    row_tokenizer: RowTokenizer,
    told: list[str],
    tell: Callable[[str], None],
) -> None:
    """Fill the folder of the cache. It takes its place when it is whole; another process may have been faster."""
    _sweep(folder)
    made = temporary_folder(folder)
    try:
        facts = _write(made, recipe, files, row_tokenizer, told, tell)
        write_text(made / "facts.json", json.dumps(asdict(facts)))
        with contextlib.suppress(OSError):  # another process may have been faster
            made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Away with what killed processes have left: a folder without its facts, and unfinished ones of other days."""
    if folder.exists() and not (folder / "facts.json").exists():
        shutil.rmtree(folder)
    for old in folder.parent.glob(".*-*"):
        if time.time() - old.stat().st_mtime > _DAY:
            shutil.rmtree(old, ignore_errors=True)


def _write(
    folder: Path,
    recipe: Recipe,
    files: dict[str, list[Path]],
    row_tokenizer: RowTokenizer,
    told: list[str],
    tell: Callable[[str], None],
) -> Facts:
    seen, reader = _Seen(told=list(told)), Reader(recipe.fields)
    made = [name for name in SPLITS[1:] if files and name not in files]

    def bad(error: DataError) -> None:
        if not recipe.skip_bad_rows:
            raise DataError(_and_skip(str(error))) from None
        seen.bad += 1
        seen.listed += [str(error)] * (len(seen.listed) < _LISTED)

    rows = (
        _task(recipe.data)
        if recipe.data in TASKS
        else _rows(files, reader, made, bad, seen.told.append)
    )
    with ExitStack() as stack:
        writers = {name: stack.enter_context(Writer(folder / f"{name}.arrow")) for name in SPLITS}
        passed = 0
        while piece := list(itertools.islice(rows, _PIECE)):
            for (row, split, where), found in zip(
                piece, row_tokenizer.tokenize([row for row, _, _ in piece]), strict=True
            ):
                if isinstance(found, DataError):
                    bad(DataError(f"{where}: {found}."))
                    continue
                example = _fitting(found, recipe)
                _count(seen, row, split, found)
                seen.remarks.add(found.remarks, where)
                seen.long[split] += len(found.ids) > recipe.max_tokens
                if example:
                    answer = row_tokenizer.answer(row, found)
                    writers[split].add(example, row, answer, where)
                    seen.numbers.add(answer[1], held=split != "train")
            passed += len(piece)
            if passed % (100 * _PIECE) == 0:
                tell(f"{passed:,} rows read and tokenised")
    together = Together(0, {}, 0)
    shape = "prompt_completion" if recipe.data in TASKS else str(reader.shape)
    if made:
        tell("looking for rows that go on from others")
        together = keep_together(folder, ["train", *made], shape)
    facts = Facts(
        shape=shape,
        digest=seen.digest.hexdigest(),
        read={name: seen.read[name] - together.left.get(name, 0) for name in SPLITS},
        long={name: seen.long[name] for name in SPLITS},
        lengths=dict(sorted(seen.lengths.items())),
        made=made,
        bad=seen.bad,
        listed=seen.listed,
        merged=seen.merged,
        ends=sorted(row_tokenizer.ends),
        own_ends=sorted(row_tokenizer.ends - row_tokenizer.stops),
        numbers=seen.numbers,
        told=seen.told,
        remarks=seen.remarks.counts,
        together=together.rows,
        apart=together.apart,
    )
    if not sum(facts.read[name] for name in ("train", *made)):
        first = f"; the first of them: {facts.listed[0]}" if facts.bad else ""
        raise DataError(
            f"In '{recipe.data}' is not one row that can be used{first or ', it is empty'}."
        )
    return facts


def _count(seen: _Seen, row: Row, split: str, example: Example) -> None:
    seen.read[split] += 1
    seen.lengths[len(example.ids)] += 1
    # Where a template asks with other words than it shows, no tokens merge.
    seen.merged += bool(example.separate_prompt) and all(
        kind != "not_asked" for kind, _ in example.remarks
    )
    # The same rows through another template or tokenizer are other data.
    about = [
        split,
        row.kind,
        row.prompt,
        row.completion,
        row.tools,
        example.ids,
        example.learned_spans,
        example.separate_prompt,
    ]
    seen.digest.update(json.dumps(about, default=str).encode())


def _fitting(example: Example, recipe: Recipe) -> Example | None:
    if len(example.ids) <= recipe.max_tokens:
        return example
    if recipe.long_rows == "leave-out":
        return None
    cut = example.truncate(recipe.max_tokens)
    return cut if cut.loss_tokens > 0 else None


def _task(name: str) -> Iterator[Placed]:
    for split, pairs in zip(SPLITS, TASKS[name](), strict=True):
        for number, (prompt, completion) in enumerate(pairs, 1):
            yield Row(prompt, completion), split, f"{name}, {split} row {number}"


_HEADED = "The names are those of the first line; if that is a row, put a line with the names of the columns before it."


def _is_table(where: str) -> bool:
    """Whether a row is from a file whose first line has the names."""
    return bool(re.search(r"\.(csv|tsv)(\.gz)?, line \d+$", where, re.IGNORECASE))


def _rows(
    files: dict[str, list[Path]],
    reader: Reader,
    made: list[str],
    bad: Callable[[DataError], None],
    tell: Tell,
) -> Iterator[Placed]:
    for split, paths in files.items():
        for found in itertools.chain.from_iterable(read_file(path, tell) for path in paths):
            if isinstance(found, DataError):
                bad(found)
                continue
            record, where = found
            try:
                row = reader.row(record, where)
            except DataError as error:
                is_first = reader.shape is None and _is_table(where) and "--fields" in str(error)
                bad(DataError(f"{error} {_HEADED}") if is_first else error)
                continue
            yield row, bucket(row, made) if split == "train" else split, where


def bucket(row: Row, made: Iterable[str]) -> str:
    """The split of a training row where `made` are split off by a hash: a tenth of the sources each.

    The hash is of the source, without case, space and punctuation, so that rows which share one stay on the same side;
    and of nothing else, so that a row stays where it is whatever is added to its file.
    """
    number = int.from_bytes(hashlib.sha256(normal(row.source).encode()).digest()[:8], "big") % 10
    name = SPLITS[1:][number] if number < 2 else "train"
    return name if name in made else "train"


def _capped(examples: Examples) -> Examples:
    """At most `MADE_ROWS` of them, those with the smallest hash: the others are not used at all."""
    if len(examples) <= MADE_ROWS:
        return examples
    sources = np.array([examples[row].source for row in range(len(examples))])
    return Examples(examples.path, np.sort(np.argsort(sources, kind="stable")[:MADE_ROWS]))


def _check(recipe: Recipe, facts: Facts, parts: dict[str, Examples]) -> None:
    rows, long = sum(facts.read.values()), sum(facts.long.values())
    if long > recipe.max_long_rows * rows:
        share, most = long / rows, fits(facts.lengths, 1 - recipe.max_long_rows)
        what = "left out" if recipe.long_rows == "leave-out" else "cut"
        raise DataError(
            f"{long:,} of {rows:,} rows ({share:.1%}) are longer than {recipe.max_tokens:,} tokens and would be "
            f"{what}, and {recipe.max_long_rows:.0%} may be; give --max-tokens {most}, or allow it "
            f"with --max-long-rows {min(1, share + 0.005):.2f}."
        )
    for name in SPLITS:
        count = len(parts[name])
        if name in facts.made and count < MIN_ROWS:
            raise DataError(
                f"Of the rows in {recipe.data} only {count} would be left for the {name} split, and it needs "
                f"{MIN_ROWS}; give more rows, or a --{name} file."
            )
        if count < 2 and facts.read[name] > count:
            raise DataError(
                f"Of the {facts.read[name]} {name} rows {count} fit in {recipe.max_tokens} tokens; raise --max-tokens "
                "or shorten the rows."
            )
        if count < 2:
            raise DataError(f"The {name} split has {count} row; it needs at least two.")
        sources = itertools.islice((example.source for example in parts[name]), 1, None)
        if name != "train" and all(source == parts[name][0].source for source in sources):
            raise DataError(
                f"The {count} rows of the {name} split are all of one source, by their prompt or the field that "
                f"--fields names, and they count as one; give rows of more sources, or a --{name} file of its own."
            )


def fits(lengths: dict[int, int], share: float) -> int:
    """The tokens that so large a share of the rows fit in."""
    enough, total = share * sum(lengths.values()), 0
    for length, count in sorted(lengths.items()):
        total += count
        if total >= enough:
            return length
    raise AssertionError("a share is at most the whole")


def _and_skip(error: str) -> str:
    # Where the fields have other names, every row is bad.
    return (
        error
        if "--fields" in error
        else f"{error.rstrip('.')}; or go on without such rows: --skip-bad-rows."
    )
