"""The memory of this process: what it may hold, what it holds, its peak, and its allocator."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from pathlib import Path

import psutil
import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """On Linux with glibc: keep freed memory in the process instead of returning it to the system.

    A training step on a CPU allocates and frees its activations layer by layer. By default glibc
    maps each of them anew, and the kernel fills every page with zeros: a fifth of a step here.
    Where the user has set a MALLOC_* variable, nothing is changed.

    Returns:
        Whether the setting took effect.
    """
    set_by_user = any(name.startswith("MALLOC_") for name in os.environ)
    if set_by_user or not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library, such as musl
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 << 20))
    return all(mallopt(key, value) == 1 for key, value in settings)


def give_back_freed_memory() -> None:
    """On Linux with glibc: return the process's free memory to the system.

    After that, `resident_bytes` counts only the memory that is in use.
    """
    gc.collect()
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):  # another C library, such as musl
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def resident_bytes() -> int:
    """The bytes of memory that this process takes, shared libraries included."""
    return int(psutil.Process().memory_info().rss)


def memory_limit(device: torch.device) -> int:
    """The bytes that this process may hold in all: what it holds already, and what is free.

    On a CPU the limit of the control group bounds them.
    """
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


def free_bytes(device: torch.device, limit: int | None = None) -> int:
    """The bytes that this process may still take, under `limit` or else under `memory_limit`."""
    held = torch.cuda.memory_allocated(device) if device.type == "cuda" else resident_bytes()
    return max(0, (limit or memory_limit(device)) - held)


def reset_peak(device: torch.device) -> None:
    """Start a new peak. On a CPU outside Linux, `peak_bytes` is always that since the start."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        clear = Path("/proc/self/clear_refs")
        if clear.exists() and os.access(clear, os.W_OK):
            clear.write_text("5")


def peak_bytes(device: torch.device) -> int:
    """The most bytes in use since `reset_peak`: on the GPU, or resident in this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that memory ran out: on a GPU, in torch on a CPU, or in Python."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)


_OUT_OF_MEMORY = (
    "can't allocate memory",  # torch's allocator on a CPU
    "bad_alloc",  # C++
    "could not create a memory",  # oneDNN
    "out of memory",
)
