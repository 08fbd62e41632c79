"""How much memory a pack took, and how the C library is to hand it out."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """On Linux with glibc: keep freed memory in the process instead of giving it back to the system at once.

    A training step on a CPU allocates and frees its activations layer by layer. glibc maps each anew and the kernel
    fills it with zeros again, page by page: a fifth of a step here. Returns whether it took effect; a user who has
    set MALLOC_* variables has chosen for themselves.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library, such as musl
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 << 20))
    return all(mallopt(key, value) == 1 for key, value in settings)


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

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)
