"""Splits that Rung makes from the training rows, and checks of all splits."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection

import numpy as np

from rung.data.arrow_store import Examples
from rung.data.data_stats import DataStats
from rung.data.read.split_names import SPLITS
from rung.data.rows import Row, normalize
from rung.errors import DataError
from rung.recipe import Recipe

MIN_ROWS = 20
"""With fewer validation or test rows, a confidence interval would be too wide to be useful."""
MAX_MADE_ROWS = 2000
"""The most rows of a split that Rung makes: more cost time at every evaluation and gain little."""


def split_of(row: Row, made_splits: Collection[str]) -> str:
    """The split of a training row, if other splits are made from the training rows.

    A hash decides: a tenth of the sources goes to each made split. The hash is of the source,
    without case, white space and punctuation, so rows with the same source are in the same split.
    It is of nothing else, so a row stays in its split when other rows are added to the file.
    """
    digest = hashlib.sha256(normalize(row.source).encode()).digest()
    tenth = int.from_bytes(digest[:8], "big") % 10
    split = SPLITS[1:][tenth] if tenth < 2 else "train"
    return split if split in made_splits else "train"


def limit_rows(examples: Examples) -> Examples:
    """At most `MAX_MADE_ROWS` rows: those whose sources have the smallest hashes.

    The other rows are not used at all.
    """
    if len(examples) <= MAX_MADE_ROWS:
        return examples
    sources = np.array([examples[row].source for row in range(len(examples))])
    return Examples(examples.path, np.sort(np.argsort(sources, kind="stable")[:MAX_MADE_ROWS]))


def check_splits(recipe: Recipe, stats: DataStats, splits: dict[str, Examples]) -> None:
    """Check that every split can be used.

    Raises:
        DataError: More rows are too long than the recipe allows, a split has too few rows, or all
            rows of a split for evaluation are of one source.
    """
    _check_long_rows(recipe, stats)
    for split, examples in splits.items():
        _check_row_count(recipe, stats, split, len(examples))
        if split != "train":
            _check_sources(split, examples)


def _check_long_rows(recipe: Recipe, stats: DataStats) -> None:
    rows, long_rows = sum(stats.row_counts.values()), sum(stats.long_rows.values())
    if long_rows <= recipe.max_long_rows * rows:
        return
    share = long_rows / rows
    length = stats.covering_length(1 - recipe.max_long_rows)
    raise DataError(
        f"{long_rows:,} of {rows:,} rows ({share:.1%}) are longer than {recipe.max_tokens:,} "
        f"tokens and would be {'left out' if recipe.long_rows == 'leave-out' else 'cut'}, but at "
        f"most {recipe.max_long_rows:.0%} may be; give --max-tokens {length}, or allow it with "
        f"--max-long-rows {min(1, share + 0.005):.2f}."
    )


def _check_row_count(recipe: Recipe, stats: DataStats, split: str, count: int) -> None:
    if split in stats.made_splits and count < MIN_ROWS:
        raise DataError(
            f"Only {count} rows of {recipe.data} would be in the {split} split, which needs "
            f"{MIN_ROWS}; give more rows, or a --{split} file."
        )
    if count < 2 and stats.row_counts[split] > count:
        raise DataError(
            f"Only {count} of the {stats.row_counts[split]} {split} rows fit in "
            f"{recipe.max_tokens} tokens; raise --max-tokens or shorten the rows."
        )
    if count < 2:
        raise DataError(
            f"The {split} split has {count} row{'' if count == 1 else 's'}; it needs at least 2."
        )


def _check_sources(split: str, examples: Examples) -> None:
    others = itertools.islice((example.source for example in examples), 1, None)
    first = examples[0].source
    if all(source == first for source in others):
        raise DataError(
            f"The {len(examples)} rows of the {split} split are all of one source, by their prompt "
            "or by the field that --fields names, so they count as one row; give rows of more "
            f"sources, or a --{split} file of its own."
        )
