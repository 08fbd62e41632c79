"""Rows that are no two samples are kept in one split: where one's prompt has all of another in it, both are of one
source.

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

from rung.data.contained import contained
from rung.data.store import SCHEMA, Examples

LARGEST = 0.1
"""Of all rows: more than that of one source would not leave splits that anything can be judged by."""
_SOURCE = SCHEMA.get_field_index("source")


@dataclass(frozen=True)
class Together:
    """How many rows go on from another, and how many of each split have left it; negative, where they have come to it.
    `apart` counts rows that would belong together and are too many for that.
    """

    rows: int
    left: dict[str, int]
    apart: int


def keep_together(folder: Path, names: Sequence[str]) -> Together:
    """Bring rows that belong together to one split, among those that were made of the same files."""
    parts = [Examples(folder / f"{name}.arrow") for name in names]
    pairs = contained(parts)
    sources = np.concatenate([part.sources() for part in parts])
    part_of = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    distinct, first_row, node = np.unique(sources, return_index=True, return_inverse=True)
    links = coo_array(
        (np.ones(len(pairs.rows), dtype=bool), (node[pairs.rows], node[pairs.inside])), shape=(len(distinct),) * 2
    )
    group = connected_components(links, directed=False)[1]
    size = np.bincount(group[node])
    large = size > LARGEST * len(sources)
    # The first source of a group speaks for it; one that is too large falls into its sources again.
    leader = np.full(len(size), len(distinct))
    np.minimum.at(leader, group, np.arange(len(distinct)))
    spoken = np.where(large[group], np.arange(len(distinct)), leader[group])
    several = np.bincount(group)[group] > 1
    together, apart = (several & ~large[group])[node], (several & large[group])[node]
    goal = part_of[first_row][spoken][node]
    if together.any():
        _rewrite(folder, names, parts, distinct[spoken][node], goal)
    left = {
        name: int(np.sum((part_of == i) & (goal != i)) - np.sum((part_of != i) & (goal == i)))
        for i, name in enumerate(names)
    }
    return Together(int(together.sum()), left, int(apart.sum()))


def _rewrite(
    folder: Path,
    names: Sequence[str],
    parts: Sequence[Examples],
    sources: npt.NDArray[np.uint64],
    goal: npt.NDArray[np.int64],
) -> None:
    """Write each row to the split that it goes to, with its new source."""
    made = [folder / f".{name}.arrow" for name in names]
    with ExitStack() as stack:
        writers: list[Any] = [stack.enter_context(pa.ipc.new_file(str(path), SCHEMA)) for path in made]
        row = 0
        for part in parts:
            for batch in part.batches:
                end = row + batch.num_rows
                column = pa.array([f"{source:016x}" for source in sources[row:end]], SCHEMA.field(_SOURCE).type)
                batch = batch.set_column(_SOURCE, SCHEMA.field(_SOURCE), column)
                for number in np.unique(goal[row:end]):
                    writers[number].write_batch(batch.filter(pa.array(goal[row:end] == number)))
                row = end
    for name, path in zip(names, made, strict=True):
        path.replace(folder / f"{name}.arrow")
