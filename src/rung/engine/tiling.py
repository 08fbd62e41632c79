"""Split a pass through the model into tiles that fit into memory, and retry where memory runs out.

A tile is some of the candidates on some rows of the batch. By the packing law no result depends on
how a pass is split.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from rung.engine.process_memory import is_out_of_memory
from rung.errors import TrainingError


class TokenLimit:
    """How many tokens one pass through the model may have, over all candidates, with padding.

    A pass that ran out of memory is repeated in halves. After `PATIENCE` passes that succeeded the
    limit doubles again, up to its first value; the patience doubles with every failure.

    Attributes:
        maximum: the first value, infinite without a limit.
        tokens: the limit now.
    """

    PATIENCE = 64

    def __init__(self, tokens: int | None = None) -> None:
        self.maximum = math.inf if tokens is None else tokens
        self.tokens = self.maximum
        self._patience = self.PATIENCE
        self._succeeded = 0

    def shrink(self, tried: int) -> None:
        """Lower the limit after a pass of `tried` tokens ran out of memory."""
        self.tokens = tried // 2
        self._succeeded = 0
        self._patience *= 2

    def count_success(self) -> None:
        """Count a pass that succeeded, and raise the limit again after enough of them."""
        self._succeeded += 1
        if self.tokens < self.maximum and self._succeeded >= self._patience:
            self.tokens, self._succeeded = min(2 * self.tokens, self.maximum), 0


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of a step: candidates `start` to `stop` on rows `first` to `last` of the batch."""

    start: int
    stop: int
    first: int
    last: int

    @property
    def width(self) -> int:
        """The number of candidates."""
        return self.stop - self.start

    def tokens(self, length: int) -> int:
        """The tokens of the tile, padding included, with rows of `length` tokens."""
        return self.width * (self.last - self.first) * length


def tiles(candidates: int, rows: int, length: int, limit: float) -> list[Tile]:
    """Split a step into as few tiles of at most `limit` tokens as possible.

    It is split by candidates first, which costs the least, and then by rows. A tile never has less
    than one row of one candidate, whatever the limit.

    Args:
        length: the tokens of a row, padding included.
    """
    together = min(candidates, int(max(1, min(limit, 2**62) // (rows * length))))
    at_once = rows if rows * length <= limit else int(max(1, limit // length))
    return [
        Tile(start, stop, first, last)
        for start, stop in _even_ranges(candidates, together)
        for first, last in _even_ranges(rows, at_once)
    ]


def run_in_tiles(
    limit: TokenLimit,
    shape: tuple[int, int, int],
    start_over: Callable[[], None],
    run: Callable[[Tile], None],
    free_first: Callable[[], bool],
    free_last: Callable[[], bool],
) -> None:
    """Run a pass in as few tiles as the limit allows; repeat it where memory runs out.

    Before a retry memory is freed by `free_first`; else the limit is lowered; and where one row of
    one candidate was too much already, memory is freed by `free_last`.

    Args:
        limit: is lowered, or raised again, as the pass shows.
        shape: how many candidates, rows, and tokens of the longest row there are.
        start_over: called before each attempt; it must discard what an earlier one left.
        run: computes one tile.
        free_first, free_last: free memory, and return whether there was anything to free.

    Raises:
        TrainingError: one row of one candidate does not fit into memory.
    """
    candidates, rows, length = shape
    while True:
        start_over()
        tried = 0
        try:
            for tile in tiles(candidates, rows, length, limit.tokens):
                tried = tile.tokens(length)
                run(tile)
            limit.count_success()
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside the handler, where the error no longer keeps the tensors of the failed pass alive.
        if free_first():
            continue
        if tried > length:
            limit.shrink(tried)
        elif not free_last():
            raise TrainingError(
                f"Memory ran out with one row of {length} tokens; give shorter rows with "
                "--max-tokens, or a smaller model."
            )


def _even_ranges(count: int, largest: int) -> list[tuple[int, int]]:
    """Split `count` into as few ranges of at most `largest` as possible, of nearly equal length."""
    pieces = -(-count // largest)
    edges = [round(piece * count / pieces) for piece in range(pieces + 1)]
    return list(pairwise(edges))
