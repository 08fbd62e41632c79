from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest
import torch

from rung.engine import process_memory
from rung.engine.process_memory import (
    free_bytes,
    give_back_freed_memory,
    is_out_of_memory,
    memory_limit,
    peak_bytes,
    reset_peak,
    resident_bytes,
)

CPU = torch.device("cpu")
MEGABYTE = 2**20


def test_the_peak_is_that_since_the_last_reset() -> None:
    block = torch.ones(100 * MEGABYTE, dtype=torch.uint8)
    high = peak_bytes(CPU)
    del block
    # Other tests may have told the allocator to keep what is freed.
    give_back_freed_memory()
    reset_peak(CPU)
    assert peak_bytes(CPU) < high - 50 * MEGABYTE
    low = peak_bytes(CPU)
    block = torch.ones(100 * MEGABYTE, dtype=torch.uint8)
    assert peak_bytes(CPU) > low + 90 * MEGABYTE
    del block


def test_the_process_may_hold_what_it_has_and_what_is_free() -> None:
    held = resident_bytes()
    limit = memory_limit(CPU)
    assert held < limit <= psutil.virtual_memory().total
    free = free_bytes(CPU)
    # Other processes take and free memory meanwhile.
    assert free == pytest.approx(limit - held, abs=0.1 * psutil.virtual_memory().total)


def test_the_limit_of_a_control_group_bounds_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Group:
        def __init__(self, path: str) -> None:
            self.text = "300000000\n" if path.endswith("memory.max") else "max\n"

        def read_text(self) -> str:
            return self.text

    monkeypatch.setattr(process_memory, "Path", Group)
    monkeypatch.setattr(os, "access", lambda path, mode: True)
    assert memory_limit(CPU) == 300_000_000


def test_a_limit_that_is_given_leaves_what_is_not_held_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_memory, "resident_bytes", lambda: 300)
    assert free_bytes(CPU, 1000) == 700
    assert free_bytes(CPU, 200) == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's settings are Linux's")
@pytest.mark.parametrize(
    ("variables", "took_effect"), [({}, "True"), ({"MALLOC_ARENA_MAX": "2"}, "False")]
)
def test_a_users_own_malloc_settings_are_left_alone(
    variables: dict[str, str], took_effect: str
) -> None:
    imports = "from rung.engine.process_memory import keep_freed_memory"
    paths = {key: value for key, value in os.environ.items() if key == "PYTHONPATH"}
    child = subprocess.run(
        [sys.executable, "-c", f"{imports}; print(keep_freed_memory())"],
        env=paths | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    assert child.stdout.strip() == took_effect


@pytest.mark.parametrize(
    ("error", "out_of_memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 1 bytes."), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_which_errors_say_that_memory_ran_out(error: Exception, out_of_memory: bool) -> None:
    assert is_out_of_memory(error) == out_of_memory
