"""Related rows are kept in one split: they are not independent samples.

Two rows are related if the prompt of one contains the other row, or if both have the same question
and answer. The splits are made by a hash of each row's source, which knows nothing of other rows.
So once all rows are written, related sources become one source, and their rows move to the split
that the first of these sources is in.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rung.data.arrow_store import SCHEMA, Examples
from rung.data.related.contained_rows import find_contained_rows
from rung.data.related.repeated_questions import Flags, RowNumbers, find_repeated_questions

_MAX_SHARE_OF_ROWS = 0.1
"""If more than this share of all rows had one source, the splits would be useless."""
_TEXT_FORMATS = ("prompt_completion", "text", "preference")
"""Formats whose prompts may be plain texts."""
_SOURCE_COLUMN = SCHEMA.get_field_index("source")


@dataclass(frozen=True)
class RelatedRows:
    """What was done with related rows.

    Attributes:
        grouped: The number of rows that share a split because they are related.
        left: For each split, how many rows have left it; negative if more have come.
        ungrouped: The number of related rows that are too many to be put into one split.
    """

    grouped: int = 0
    left: dict[str, int] = field(default_factory=dict)
    ungrouped: int = 0


def group_related_rows(folder: Path, splits: Sequence[str], record_format: str) -> RelatedRows:
    """Move related rows into one split, among the splits that were made from the same files.

    Args:
        folder: Has the Arrow file of each split; files with rows that move are rewritten.
        splits: The names of the splits, training first.
        record_format: The format of the records.
    """
    parts = [Examples(folder / f"{split}.arrow") for split in splits]
    rows, related, weakly = _find_related(parts, record_format)
    if not len(rows):
        return RelatedRows()
    sources = np.concatenate([part.sources() for part in parts])
    part_of_row = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    distinct, first_row, source_of_row = np.unique(sources, return_index=True, return_inverse=True)
    unchanged = np.arange(len(distinct))
    # For each source, the first source of its group.
    leader, ungrouped = unchanged, np.zeros(len(distinct), dtype=bool)
    # Weak relations count too, unless they make a group too large.
    for used in (~weakly, np.ones(len(rows), dtype=bool)):
        groups = _group_sources(
            source_of_row, source_of_row[rows[used]], source_of_row[related[used]]
        )
        leader = np.where(groups.is_too_large, leader, groups.leader)
        ungrouped = (ungrouped & groups.is_too_large) | (
            groups.has_several & groups.is_too_large & (leader == unchanged)
        )
    grouped = np.bincount(leader, minlength=len(unchanged))[leader] > 1
    new_part = part_of_row[first_row][leader][source_of_row]
    if grouped.any():
        _rewrite(folder, splits, parts, distinct[leader][source_of_row], new_part)
    left = {
        split: int(
            np.sum((part_of_row == i) & (new_part != i))
            - np.sum((part_of_row != i) & (new_part == i))
        )
        for i, split in enumerate(splits)
    }
    return RelatedRows(
        int(grouped[source_of_row].sum()), left, int((ungrouped & ~grouped)[source_of_row].sum())
    )


def _find_related(
    parts: Sequence[Examples], record_format: str
) -> tuple[RowNumbers, RowNumbers, Flags]:
    """Pairs of related rows, and whether only their last turns relate them."""
    contained = find_contained_rows(parts)
    repeated = find_repeated_questions(parts, record_format)
    # The last line of a plain text may be asked about another text each time.
    used = ~repeated.last_question_only | (record_format not in _TEXT_FORMATS)
    rows, related = np.concatenate(
        [
            [contained.rows, contained.inside],
            [repeated.rows[used], repeated.first_rows[used]],
        ],
        axis=1,
    )
    return rows, related, np.concatenate([contained.is_partial, repeated.last_question_only[used]])


@dataclass(frozen=True)
class _SourceGroups:
    """Groups of related sources. Each array has a value for each source.

    Attributes:
        leader: The first source of its group.
        is_too_large: Whether its group has too many rows for one split.
        has_several: Whether its group has more than one source.
    """

    leader: RowNumbers
    is_too_large: Flags
    has_several: Flags


def _group_sources(
    source_of_row: RowNumbers, ones: RowNumbers, others: RowNumbers
) -> _SourceGroups:
    """The groups of sources when each of `ones` is related to the same item of `others`."""
    count = int(source_of_row.max(initial=-1)) + 1
    links = coo_array((np.ones(len(ones), dtype=bool), (ones, others)), shape=(count, count))
    group = connected_components(links, directed=False)[1]
    leader = np.full(count, count)
    np.minimum.at(leader, group, np.arange(count))
    is_too_large = np.bincount(group[source_of_row]) > _MAX_SHARE_OF_ROWS * len(source_of_row)
    return _SourceGroups(leader[group], is_too_large[group], np.bincount(group)[group] > 1)


def _rewrite(
    folder: Path,
    splits: Sequence[str],
    parts: Sequence[Examples],
    sources: npt.NDArray[np.uint64],
    new_part: RowNumbers,
) -> None:
    """Write each row to its new split, with its new source."""
    temporary = [folder / f".{split}.arrow" for split in splits]
    source_field = SCHEMA.field(_SOURCE_COLUMN)
    with ExitStack() as stack:
        writers: list[Any] = [
            stack.enter_context(pa.ipc.new_file(str(path), SCHEMA)) for path in temporary
        ]
        start = 0
        for part in parts:
            for batch in part.batches:
                end = start + batch.num_rows
                hexadecimal = [f"{source:016x}" for source in sources[start:end]]
                column = pa.array(hexadecimal, source_field.type)
                batch = batch.set_column(_SOURCE_COLUMN, source_field, column)
                for number in np.unique(new_part[start:end]):
                    chosen = pa.array(new_part[start:end] == number)
                    writers[number].write_batch(batch.filter(chosen))
                start = end
    for split, path in zip(splits, temporary, strict=True):
        path.replace(folder / f"{split}.arrow")
