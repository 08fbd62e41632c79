"""A pack of candidates, compared with the same candidates trained one after another.

There are two rivals: (a) TRL's SFTTrainer with PEFT, as most people run it, and (b) PEFT in a bare
loop whose output head multiplies only completion tokens. All use the same model
(SmolLM2-135M-Instruct, NF4, rank 16 on the attention), the same rows and the same precision. Both
rivals are protected from the repacking of bitsandbytes (see rung.engine.lora), without which they
would train wrongly.

Each side has a process of its own, so that none uses another's memory and settings. They take turns
step by step, with the machine's matrix products in between: a machine whose speed drifts is fair to
all, and the ratios of a round count. Each of K candidates costs a rival the same, so one step of
one candidate is timed and counts K times. With --help-rivals they also get the memory settings that
Rung makes for itself (rung.engine.process_memory).

    python benchmarks/packed.py                  the whole grid, as a table in Markdown
    python benchmarks/packed.py --quick --json   three cells
    python benchmarks/packed.py --cells 8x4x64   candidates × batch × length
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import statistics
import subprocess
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from packed_sides import SIDES, Cell, PackSide, examples, read_cell
from torch.utils.flop_counter import FlopCounterMode

from rung.data.batches import collate
from rung.defaults import DEFAULT_MODEL
from rung.model.load import load_base

QUICK = [(8, 4, 64), (8, 1, 32), (1, 4, 64)]
GRID = [
    *((8, batch, length) for batch in (4, 1) for length in (64, 32, 16)),
    *((candidates, 4, 64) for candidates in (4, 2, 1)),
    (1, 1, 32),
]
PRODUCT_SIDE = 2048
"""The side of the square matrices whose product gives the machine's rate."""
WARM_UP_STEPS = 2


def gemm_rate(dtype: torch.dtype) -> float:
    """The rate of one large matrix product, in FLOP/s."""
    a, b = torch.randn(2, PRODUCT_SIDE, PRODUCT_SIDE).to(dtype)
    a @ b
    started = time.perf_counter()
    for _ in range(3):
        a @ b
    return 3 * 2 * PRODUCT_SIDE**3 / (time.perf_counter() - started)


class SideProcess:
    """The process of one side; see packed_sides.py."""

    def __init__(
        self, name: str, cell: Cell, precision: str, steps: int, keep_memory: bool
    ) -> None:
        self.name = name
        command = [sys.executable, str(Path(__file__).with_name("packed_sides.py")), name]
        command += ["x".join(map(str, cell)), "--precision", precision, "--steps", str(steps)]
        command += ["--keep-memory"] if keep_memory else []
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def step(self) -> float:
        """Let it take a step; returns the seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self._answer()["seconds"])

    def memory(self) -> dict[str, int]:
        """Its memory in bytes, after the last step."""
        memory = self._answer()
        self.process.wait()
        return memory

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"The process of the side '{self.name}' ended too early.")
        answer: dict[str, Any] = json.loads(line)
        return answer


def measure(cell: Cell, precision: str, rounds: int, help_rivals: bool) -> dict[str, Any]:
    """Time one cell of the grid; every figure is a median over the rounds, with its range.

    `peak_memory_ratio` leaves activations aside: it compares what the processes of the pack and of
    PEFT's bare loop hold between two steps, after the C library has returned what is free.
    `whole_peak_ratio` compares the peaks.
    """
    candidates, batch_size, length = cell
    dtype, flops = _flops(cell, precision)
    # In the last step, a side that has finished already cleans up beside the others.
    steps = WARM_UP_STEPS + rounds + 1
    sides = {
        name: SideProcess(name, cell, precision, steps, name == "rung" or help_rivals)
        for name in SIDES
    }
    timings = []
    for number in range(steps):
        seconds = {name: side.step() for name, side in sides.items()}
        if WARM_UP_STEPS <= number < steps - 1:
            timings.append({**seconds, "rate": gemm_rate(dtype)})
    memory = {name: side.memory() for name, side in sides.items()}
    tokens, row_tokens = candidates * batch_size * length, batch_size * length
    trl_seconds = statistics.median(timing["trl"] for timing in timings)
    gemm = statistics.median(timing["rate"] for timing in timings)
    between_steps = memory["rung"]["between_steps"] / memory["peft"]["between_steps"]
    return {
        "candidates": candidates,
        "batch": batch_size,
        "length": length,
        **_spread("tokens_per_second", [tokens / t["rung"] for t in timings]),
        **_spread("vs_trl", [candidates * t["trl"] / t["rung"] for t in timings]),
        **_spread("vs_peft_loop", [candidates * t["peft"] / t["rung"] for t in timings]),
        **_spread("gemm_fraction", [flops / t["rung"] / t["rate"] for t in timings]),
        "trl_tokens_per_second": round(row_tokens / trl_seconds, 1),
        "gemm_gflops": round(gemm / 1e9, 1),
        "step_gflop": round(flops / 1e9, 1),
        "peak_memory_ratio": round(between_steps, 3),
        "whole_peak_ratio": round(memory["rung"]["peak"] / memory["peft"]["peak"], 3),
        "memory_mb": {
            name: {key: round(value / 1e6) for key, value in own.items()}
            for name, own in memory.items()
        },
    }


def _flops(cell: Cell, precision: str) -> tuple[torch.dtype, int]:
    """The dtype of the computation, and the FLOP of all matrix products in one step of the pack."""
    candidates, batch_size, length = cell
    side = PackSide(precision, candidates)
    base = side.trainer.base
    with FlopCounterMode(display=False) as counter:
        side.step(collate(examples(base.tokenizer, length, batch_size)))
    side.pack.close()
    return base.dtype, counter.get_total_flops()


def _spread(name: str, values: list[float]) -> dict[str, Any]:
    """The median, and the least and the most, in four digits."""
    median, least, most = (
        float(f"{value:.4g}") for value in (statistics.median(values), min(values), max(values))
    )
    return {name: median, f"{name}_range": [least, most]}


def machine(precision: torch.dtype) -> str:
    """The processor and the versions that the figures were measured with."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.machine()
    packages = ", ".join(
        f"{package} {version(package)}"
        for package in ("torch", "transformers", "peft", "trl", "bitsandbytes")
    )
    return (
        f"{name}, {torch.get_num_threads()} threads, {precision}; "
        f"Python {platform.python_version()}, {packages}"
    )


def markdown(cells: list[dict[str, Any]]) -> str:
    """The cells as a table."""
    lines = [
        "| candidates × batch × length | tokens/s | × TRL + PEFT | × PEFT loop "
        "| fraction of the GEMM rate | memory |",
        "|---|---|---|---|---|---|",
    ]
    for cell in cells:
        name = f"{cell['candidates']} × {cell['batch']} × {cell['length']}"
        keys = ("tokens_per_second", "vs_trl", "vs_peft_loop", "gemm_fraction")
        values = " | ".join(_with_range(cell, key) for key in keys)
        memory = f"{cell['peak_memory_ratio']} ({cell['whole_peak_ratio']})"
        lines.append(f"| {name} | {values} | {memory} |")
    return "\n".join(lines)


def _with_range(cell: dict[str, Any], key: str) -> str:
    least, most = cell[f"{key}_range"]
    digits = 0 if key == "tokens_per_second" else 2
    return f"{cell[key]:.{digits}f} ({least:.{digits}f}–{most:.{digits}f})"


def main() -> None:
    """Time the cells and print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="three cells")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--precision", default="auto", choices=["auto", "bf16", "fp32"])
    parser.add_argument("--steps", type=int, default=6, help="rounds, after two to warm up")
    parser.add_argument("--cells", nargs="*", type=read_cell, help="such as 8x4x64")
    parser.add_argument(
        "--help-rivals", action="store_true", help="give the rivals Rung's memory settings as well"
    )
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    measured = []
    for cell in options.cells or (QUICK if options.quick else GRID):
        print(f"{cell[0]} × {cell[1]} × {cell[2]} …", file=sys.stderr)
        measured.append(measure(cell, options.precision, options.steps, options.help_rivals))
    document = {
        "machine": machine(load_base(DEFAULT_MODEL, "nf4", options.precision).dtype),
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "cells": measured,
    }
    if options.json:
        print(json.dumps(document, indent=2))
    else:
        print(f"{document['date']}, {document['machine']}\n`{document['command']}`\n")
        print(markdown(measured))


if __name__ == "__main__":
    main()
