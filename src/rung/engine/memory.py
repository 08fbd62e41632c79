"""How much memory a pack takes, what to do when it is not there, and how the C library is to hand it out."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil
import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """On Linux with glibc: keep freed memory in the process instead of giving it back to the system at once.

    A training step on a CPU allocates and frees its activations layer by layer. glibc maps each anew and the kernel
    fills it with zeros again, page by page: a fifth of a step here. Returns whether it took effect; a user who has
    set MALLOC_* variables has chosen for themselves.
    """
    if not sys.platform.startswith("linux") or any(
        name.startswith("MALLOC_") for name in os.environ
    ):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library, such as musl
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 << 20))
    return all(mallopt(key, value) == 1 for key, value in settings)


def give_back_freed_memory() -> None:
    """On Linux with glibc: give the system what is free in the process, so that `resident_bytes` says what is held."""
    gc.collect()
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):  # another C library, such as musl
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def resident_bytes() -> int:
    """The memory of this process, shared libraries included."""
    return int(psutil.Process().memory_info().rss)


def memory_limit(device: torch.device) -> int:
    """What this process may hold in all: what it has, and what is free; bounded by its control group and its limits."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        held: int = torch.cuda.memory_allocated(device)
        return held + int(free)
    bounds: list[int] = [psutil.virtual_memory().available + resident_bytes()]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = Path(path).read_text().strip() if os.access(path, os.R_OK) else "max"
        if text != "max":
            bounds.append(int(text))
    return min(bounds)


def reset_peak(device: torch.device) -> None:
    """Begin to watch for a new peak. On a CPU outside Linux the peak stays the process's own, from its start."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        clear = Path("/proc/self/clear_refs")
        if clear.exists() and os.access(clear, os.W_OK):
            clear.write_text("5")


def peak_bytes(device: torch.device) -> int:
    """The most memory that was in use since `reset_peak`: of the GPU, or resident in this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (
        1 if sys.platform == "darwin" else 1024
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that memory ran out: of a GPU, of torch on a CPU, or of Python."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY)


_OUT_OF_MEMORY = (
    "can't allocate memory",  # torch's allocator on a CPU
    "bad_alloc",  # C++
    "could not create a memory",  # oneDNN
    "out of memory",
)


class TokenLimit:
    """How many tokens, padding and all candidates counted, one pass through the model may have.

    A pass that ran out of memory is done again in halves, and after `PATIENCE` passes that went well the room doubles
    again, up to what it was. By the packing law no result depends on it.
    """

    PATIENCE = 64

    def __init__(self, tokens: int | None = None) -> None:
        self.most = math.inf if tokens is None else tokens
        self.tokens = self.most
        self._patience = self.PATIENCE
        self._good = 0

    def shrink(self, tried: int) -> None:
        """A pass of `tried` tokens did not fit."""
        self.tokens = tried // 2
        self._good = 0
        # What failed twice will be tried again less often.
        self._patience *= 2

    def worked(self) -> None:
        """A pass fitted."""
        self._good += 1
        if self.tokens < self.most and self._good >= self._patience:
            self.tokens, self._good = min(2 * self.tokens, self.most), 0


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of a step, done in one pass: candidates `start` to `stop` on rows `first` to `last` of the batch."""

    start: int
    stop: int
    first: int
    last: int

    def tokens(self, width: int) -> int:
        """With their padding, for rows of `width` tokens."""
        return (self.stop - self.start) * (self.last - self.first) * width


def tiles(candidates: int, rows: int, width: int, room: float) -> list[Tile]:
    """A step in as few passes as the room allows: split by candidates first, which is what costs the least, then by
    rows. Never smaller than one row of one candidate, whatever the room.
    """
    together = min(candidates, int(max(1, min(room, 2**62) // (rows * width))))
    at_once = rows if rows * width <= room else int(max(1, room // width))
    return [
        Tile(start, stop, first, last)
        for start, stop in _even(candidates, together)
        for first, last in _even(rows, at_once)
    ]


def _even(count: int, most: int) -> list[tuple[int, int]]:
    """`count` in as few stretches of at most `most` as can be, as even as can be."""
    pieces = -(-count // most)
    edges = [round(piece * count / pieces) for piece in range(pieces + 1)]
    return list(pairwise(edges))
