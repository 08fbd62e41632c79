from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from rung.engine.memory import peak_bytes, reset_peak

CPU = torch.device("cpu")


def test_the_peak_is_that_since_the_last_reset() -> None:
    block = torch.ones(100_000_000, dtype=torch.uint8)
    high = peak_bytes(CPU)
    del block
    reset_peak(CPU)
    assert peak_bytes(CPU) < high - 50_000_000
    block = torch.ones(100_000_000, dtype=torch.uint8)
    assert peak_bytes(CPU) >= int(block.numel())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's settings are Linux's")
@pytest.mark.parametrize(("variables", "took_effect"), [({}, "True"), ({"MALLOC_ARENA_MAX": "2"}, "False")])
def test_a_users_own_malloc_settings_are_left_alone(variables: dict[str, str], took_effect: str) -> None:
    program = "from rung.engine.memory import keep_freed_memory; print(keep_freed_memory())"
    found = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == took_effect
