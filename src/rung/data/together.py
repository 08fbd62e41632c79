"""Rows that are no two samples are kept in one split: where one's prompt has all of another in it, or both ask and
answer the same, both are of one source.

The splits are made by a hash of each row's source, which knows nothing of other rows. So once all rows are written,
those that belong together move to the split that the first of their sources fell into.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rung.data.arrow_store import SCHEMA, Examples
from rung.data.asked import alike
from rung.data.contained_rows import find_contained_rows

LARGEST = 0.1
"""Of all rows: more than that of one source would not leave splits that anything can be judged by."""
TEXTS = ("prompt_completion", "text", "preference")
"""The shapes whose prompts may be plain texts."""
Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
_SOURCE = SCHEMA.get_field_index("source")


@dataclass(frozen=True)
class Together:
    """How many rows go on from another, or repeat it, and how many of each split have left it; negative, where they
    have come to it. `apart` counts rows that would belong together and are too many for that.
    """

    rows: int
    left: dict[str, int]
    apart: int


def keep_together(folder: Path, names: Sequence[str], shape: str) -> Together:
    """Bring rows that belong together to one split, among those that were made of the same files."""
    parts = [Examples(folder / f"{name}.arrow") for name in names]
    within, same = find_contained_rows(parts), alike(parts, shape)
    # The last line of a plain text may be asked of another text each time.
    used = ~same.loosely | (shape not in TEXTS)
    rows, others = np.concatenate(
        [[within.rows, within.inside], [same.rows[used], same.first[used]]], axis=1
    )
    loosely = np.concatenate([within.is_partial, same.loosely[used]])
    if not len(rows):
        return Together(0, {}, 0)
    sources = np.concatenate([part.sources() for part in parts])
    part_of = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    distinct, first_row, node = np.unique(sources, return_index=True, return_inverse=True)
    own = np.arange(len(distinct))
    spoken, apart = own, np.zeros(len(distinct), dtype=bool)
    # What has only the last turns in common is taken in where that does not hang all together.
    for chosen in (~loosely, np.ones(len(rows), dtype=bool)):
        leader, large, several = _groups(node, node[rows[chosen]], node[others[chosen]])
        spoken = np.where(large, spoken, leader)
        apart = (apart & large) | (several & large & (spoken == own))
    together = np.bincount(spoken, minlength=len(own))[spoken] > 1
    goal = part_of[first_row][spoken][node]
    if together.any():
        _rewrite(folder, names, parts, distinct[spoken][node], goal)
    left = {
        name: int(np.sum((part_of == i) & (goal != i)) - np.sum((part_of != i) & (goal == i)))
        for i, name in enumerate(names)
    }
    return Together(int(together[node].sum()), left, int((apart & ~together)[node].sum()))


def _groups(node: Numbers, ones: Numbers, others: Numbers) -> tuple[Numbers, Flags, Flags]:
    """For each source, the first one of its group; whether that is too large; and whether it has several. `node` is the
    source of each row, and `ones` are linked with `others`.
    """
    count = int(node.max(initial=-1)) + 1
    links = coo_array((np.ones(len(ones), dtype=bool), (ones, others)), shape=(count, count))
    group = connected_components(links, directed=False)[1]
    leader = np.full(count, count)
    np.minimum.at(leader, group, np.arange(count))
    large = np.bincount(group[node]) > LARGEST * len(node)
    return leader[group], large[group], np.bincount(group)[group] > 1


def _rewrite(
    folder: Path,
    names: Sequence[str],
    parts: Sequence[Examples],
    sources: npt.NDArray[np.uint64],
    goal: Numbers,
) -> None:
    """Write each row to the split that it goes to, with its new source."""
    made = [folder / f".{name}.arrow" for name in names]
    with ExitStack() as stack:
        writers: list[Any] = [
            stack.enter_context(pa.ipc.new_file(str(path), SCHEMA)) for path in made
        ]
        row = 0
        for part in parts:
            for batch in part.batches:
                end = row + batch.num_rows
                column = pa.array(
                    [f"{source:016x}" for source in sources[row:end]], SCHEMA.field(_SOURCE).type
                )
                batch = batch.set_column(_SOURCE, SCHEMA.field(_SOURCE), column)
                for number in np.unique(goal[row:end]):
                    writers[number].write_batch(batch.filter(pa.array(goal[row:end] == number)))
                row = end
    for name, path in zip(names, made, strict=True):
        path.replace(folder / f"{name}.arrow")
