"""A pack of candidates, against the same candidates trained one after another.

Two rivals: (a) TRL's SFTTrainer with PEFT, as most people run it, and (b) PEFT in a bare loop whose output head
multiplies completion tokens alone. The same model (SmolLM2-135M-Instruct, NF4, rank 16 on the attention), the same
rows, the same precision. Both rivals are guarded against the repacking of bitsandbytes (see rung.engine.lora), without
which they would train wrongly.

Each side is a process of its own, so that none lives on another's memory and settings, and they take turns step by
step, with the machine's matrix products in between: a machine whose speed drifts is unfair to nobody, and the ratios of
a round are what counts. Each of K candidates costs a rival the same, so one step of one candidate is timed, and counts
K times. With --help-rivals they get the memory settings too that Rung makes for itself (rung.engine.process_memory).

    python benchmarks/packed.py                  the whole grid, as a table in Markdown
    python benchmarks/packed.py --quick --json   three cells
    python benchmarks/packed.py --cells 8x4x64   candidates × batch × length
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bitsandbytes
import peft
import torch
from torch.utils.flop_counter import FlopCounterMode

from rung.data.batches import Batch, collate
from rung.data.builtin import pronounce
from rung.data.example import Example
from rung.defaults import DEFAULT_MODEL
from rung.engine.adapter_state import fresh_state
from rung.engine.checkpoint import peft_config
from rung.engine.pack import Pack
from rung.engine.process_memory import (
    give_back_freed_memory,
    keep_freed_memory,
    peak_bytes,
    reset_peak,
    resident_bytes,
)
from rung.engine.trainer import Trainer
from rung.model.load import Base, load_base
from rung.types import Candidate, Setting

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj"]
RANK, RATE = 16, 1e-3
ONE = Candidate(Setting(RANK, 2 * RANK, "attention", RATE))
QUICK = [(8, 4, 64), (8, 1, 32), (1, 4, 64)]
GRID = [
    *((8, batch, length) for batch in (4, 1) for length in (64, 32, 16)),
    *((candidates, 4, 64) for candidates in (4, 2, 1)),
    (1, 1, 32),
]
PRODUCT = 2048
"""The side of the square matrices whose product gives the machine's rate."""

Cell = tuple[int, int, int]


def examples(tokenizer: Any, length: int, count: int) -> list[Example]:
    """Rows of exactly `length` tokens of real text; the second half is the completion."""
    text = "\n".join(prompt + completion for prompt, completion in pronounce()[0])
    ids = tokenizer(text)["input_ids"]
    starts = [i * length % (len(ids) - length) for i in range(count)]
    return [Example(tuple(ids[start : start + length]), length // 2) for start in starts]


def guarded(base: Base) -> Any:
    """The model, with bitsandbytes kept from repacking its weights."""
    for module in base.model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return base.model


class Rung:
    """K candidates in one pack."""

    def __init__(self, precision: str, candidates: int) -> None:
        self.trainer = Trainer(load_base(DEFAULT_MODEL, "nf4", precision))
        chosen = [replace(ONE, seed=seed) for seed in range(candidates)]
        states = [fresh_state(self.trainer.frozen, candidate, 0) for candidate in chosen]
        self.pack = Pack(self.trainer.frozen, chosen, states)

    def step(self, batch: Batch) -> None:
        self.trainer.step(self.pack, batch, 1.0)


class PeftLoop:
    """One candidate under PEFT in a bare loop, with logits at completion tokens only."""

    def __init__(self, precision: str) -> None:
        base = load_base(DEFAULT_MODEL, "nf4", precision)
        config = peft_config(ONE.setting, MODULES)
        config.inference_mode = False
        self.model = peft.get_peft_model(guarded(base), config).train()
        self.optimizer = torch.optim.AdamW(
            [p for p in self.model.parameters() if p.requires_grad], lr=RATE, fused=True
        )
        bf16 = base.dtype == torch.bfloat16
        self.cast: Callable[[], contextlib.AbstractContextManager[Any]] = (
            (lambda: torch.autocast("cpu", torch.bfloat16)) if bf16 else contextlib.nullcontext
        )

    def step(self, batch: Batch) -> None:
        inner = self.model.get_base_model()
        with self.cast():
            states = inner.model(input_ids=batch.ids, use_cache=False).last_hidden_state
            logits = inner.lm_head(states.flatten(0, 1)[batch.positions])
        loss: Any = torch.nn.functional.cross_entropy(logits.float(), batch.labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class Trl:
    """One candidate under TRL's SFTTrainer; its own loop, which waits before each step until `step` is called."""

    def __init__(
        self,
        precision: str,
        rows: list[Example],
        batch_size: int,
        candidate: Candidate = ONE,
        modules: list[str] = MODULES,
    ) -> None:
        from datasets import Dataset
        from transformers import TrainerCallback
        from trl import SFTConfig, SFTTrainer

        base = load_base(DEFAULT_MODEL, "nf4", precision)
        labels = [[-100] * row.prompt_length + list(row.ids[row.prompt_length :]) for row in rows]
        data = Dataset.from_dict({"input_ids": [list(row.ids) for row in rows], "labels": labels})
        wait, tell = self._wait, self._tell

        class Turns(TrainerCallback):  # type: ignore[misc]
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                wait()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                tell()

        config = SFTConfig(
            output_dir=tempfile.mkdtemp(),
            max_steps=len(rows) // batch_size,
            per_device_train_batch_size=batch_size,
            learning_rate=candidate.learning_rate,
            bf16=base.dtype == torch.bfloat16,
            use_cpu=True,
            gradient_checkpointing=False,  # on by default, and slower
            max_length=None,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        lora = peft_config(candidate.setting, modules)
        lora.inference_mode = False
        self.trainer = SFTTrainer(
            model=guarded(base),
            args=config,
            train_dataset=data,
            processing_class=base.tokenizer,
            peft_config=lora,
            callbacks=[Turns()],
        )

    def serve(self) -> None:
        """Train, a step at each line on standard input."""
        with contextlib.redirect_stdout(sys.stderr):
            self.trainer.train()

    def _wait(self) -> None:
        sys.stdin.readline()
        self.begun = time.perf_counter()

    def _tell(self) -> None:
        print(
            json.dumps({"seconds": time.perf_counter() - self.begun}),
            file=sys.__stdout__,
            flush=True,
        )


def gemm_rate(dtype: torch.dtype) -> float:
    """The rate of one large matrix product, in FLOP/s."""
    a, b = torch.randn(2, PRODUCT, PRODUCT).to(dtype)
    a @ b
    begun = time.perf_counter()
    for _ in range(3):
        a @ b
    return 3 * 2 * PRODUCT**3 / (time.perf_counter() - begun)


def serve(side: str, cell: Cell, precision: str, steps: int) -> None:
    """What the process of one side does: a step for each line on standard input, and at the end its memory."""
    device = torch.device("cpu")
    before = resident_bytes()
    candidates, batch_size, length = cell
    tokenizer = load_base(DEFAULT_MODEL, "nf4", precision).tokenizer
    rows = examples(tokenizer, length, batch_size * steps)
    give_back_freed_memory()
    if side == "trl":
        trl = Trl(precision, rows, batch_size)
        reset_peak(device)
        trl.serve()
    else:
        own = Rung(precision, candidates) if side == "rung" else PeftLoop(precision)
        reset_peak(device)
        for start in range(0, len(rows), batch_size):
            batch = collate(rows[start : start + batch_size])
            sys.stdin.readline()
            begun = time.perf_counter()
            own.step(batch)
            print(json.dumps({"seconds": time.perf_counter() - begun}), flush=True)
    peak = peak_bytes(device)
    give_back_freed_memory()
    print(
        json.dumps({"before": before, "peak": peak, "between_steps": resident_bytes()}), flush=True
    )


class Side:
    """One side's process, as the benchmark sees it."""

    def __init__(
        self, name: str, cell: Cell, precision: str, steps: int, keep_memory: bool
    ) -> None:
        command = [sys.executable, __file__, "--serve", name, "--cells", "x".join(map(str, cell))]
        command += [
            "--precision",
            precision,
            "--steps",
            str(steps),
            *(["--keep-memory"] if keep_memory else []),
        ]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def step(self) -> float:
        """Seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self._hear()["seconds"])

    def memory(self) -> dict[str, int]:
        """After the last step."""
        found = self._hear()
        self.process.wait()
        return found

    def _hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            command = self.process.args
            raise SystemExit(f"the process of one side ended early: {command!r}")
        found: dict[str, Any] = json.loads(line)
        return found


def measure(cell: Cell, precision: str, rounds: int, help_rivals: bool) -> dict[str, Any]:
    """Time one cell of the grid; every figure is a median over the rounds, with its least and its most.

    `peak_memory_ratio` leaves activations aside: it compares what the processes hold between two steps, of the pack
    and of PEFT's bare loop, after the C library has given back what is free. `whole_peak_ratio` compares the peaks.
    """
    candidates, batch_size, length = cell
    dtype, flops = _flops(cell, precision)
    # The first two are a warm-up; in the last, the side that has finished is already cleaning up beside the others.
    steps = rounds + 3
    sides = {
        name: Side(name, cell, precision, steps, name == "rung" or help_rivals)
        for name in ("rung", "trl", "peft")
    }
    found = []
    for number in range(steps):
        seconds = {name: side.step() for name, side in sides.items()}
        if 1 < number < steps - 1:
            found.append({**seconds, "rate": gemm_rate(dtype)})
    held = {name: side.memory() for name, side in sides.items()}
    tokens = candidates * batch_size * length
    return {
        "candidates": candidates,
        "batch": batch_size,
        "length": length,
        **_spread("tokens_per_second", [tokens / one["rung"] for one in found]),
        **_spread("vs_trl", [candidates * one["trl"] / one["rung"] for one in found]),
        **_spread("vs_peft_loop", [candidates * one["peft"] / one["rung"] for one in found]),
        **_spread("gemm_fraction", [flops / one["rung"] / one["rate"] for one in found]),
        "trl_tokens_per_second": round(
            batch_size * length / statistics.median(one["trl"] for one in found), 1
        ),
        "gemm_gflops": round(statistics.median(one["rate"] for one in found) / 1e9, 1),
        "step_gflop": round(flops / 1e9, 1),
        "peak_memory_ratio": round(
            held["rung"]["between_steps"] / held["peft"]["between_steps"], 3
        ),
        "whole_peak_ratio": round(held["rung"]["peak"] / held["peft"]["peak"], 3),
        "memory_mb": {
            side: {key: round(value / 1e6) for key, value in own.items()}
            for side, own in held.items()
        },
    }


def _flops(cell: Cell, precision: str) -> tuple[torch.dtype, int]:
    """The dtype that is computed in, and the operations of all matrix products of one step of the pack."""
    candidates, batch_size, length = cell
    ours = Rung(precision, candidates)
    base = ours.trainer.base
    with FlopCounterMode(display=False) as counter:
        ours.step(collate(examples(base.tokenizer, length, batch_size)))
    ours.pack.close()
    return base.dtype, counter.get_total_flops()


def _spread(name: str, values: list[float]) -> dict[str, Any]:
    found = [
        float(f"{value:.4g}") for value in (statistics.median(values), min(values), max(values))
    ]
    return {name: found[0], f"{name}_range": found[1:]}


def machine(precision: torch.dtype) -> str:
    """What the figures were measured on."""
    name = next(
        (
            line.partition(":")[2].strip()
            for line in _lines("/proc/cpuinfo")
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    packages = ", ".join(
        f"{p} {version(p)}" for p in ("torch", "transformers", "peft", "trl", "bitsandbytes")
    )
    return f"{name}, {torch.get_num_threads()} threads, {precision}; Python {platform.python_version()}, {packages}"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def markdown(cells: list[dict[str, Any]]) -> str:
    """The cells as a table."""
    lines = [
        "| candidates × batch × length | tokens/s | × TRL + PEFT | × PEFT loop | share of the GEMM rate | memory |",
        "|---|---|---|---|---|---|",
    ]
    for cell in cells:
        name = f"{cell['candidates']} × {cell['batch']} × {cell['length']}"
        shown = [
            _shown(cell, key)
            for key in ("tokens_per_second", "vs_trl", "vs_peft_loop", "gemm_fraction")
        ]
        held = f"{cell['peak_memory_ratio']} ({cell['whole_peak_ratio']})"
        lines.append(f"| {name} | {' | '.join(shown)} | {held} |")
    return "\n".join(lines)


def _shown(cell: dict[str, Any], key: str) -> str:
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
    parser.add_argument("--cells", nargs="*", help="such as 8x4x64")
    parser.add_argument(
        "--help-rivals", action="store_true", help="give the rivals Rung's memory settings as well"
    )
    parser.add_argument("--serve", choices=["rung", "trl", "peft"], help=argparse.SUPPRESS)
    parser.add_argument("--keep-memory", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    cells: list[Cell] = QUICK if options.quick else GRID
    if options.cells:
        cells = [
            (int(k), int(b), int(t)) for k, b, t in (cell.split("x") for cell in options.cells)
        ]
    if options.keep_memory:
        keep_freed_memory()
    if options.serve:
        serve(options.serve, cells[0], options.precision, options.steps)
        return
    found = []
    for cell in cells:
        print(f"{cell[0]} × {cell[1]} × {cell[2]} …", file=sys.stderr)
        found.append(measure(cell, options.precision, options.steps, options.help_rivals))
    document = {
        "machine": machine(load_base(DEFAULT_MODEL, "nf4", options.precision).dtype),
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "cells": found,
    }
    if options.json:
        print(json.dumps(document, indent=2))
    else:
        print(
            f"{document['date']}, {document['machine']}\n`{document['command']}`\n\n{markdown(found)}"
        )


if __name__ == "__main__":
    main()
