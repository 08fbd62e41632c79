"""Eight candidates in one pack, against the same eight trained one after another by PEFT.

Same model (SmolLM2-135M-Instruct, NF4), same rows, same batches in the same order, same precision, same process. PEFT
runs as most people run it: torch's AdamW, logits for every token, and the guard against bitsandbytes' repacking. The
two sides take turns, so that a machine whose speed drifts is unfair to neither; the ratio is what to quote.

    python benchmarks/packed.py [--precision bf16] [--steps 6] [--batch-size 8] [--candidates 8]
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import statistics
import time
from importlib.metadata import version

import bitsandbytes
import peft
import torch
from rich.console import Console
from rich.table import Table

from rung.data.batches import Batch, collate, order
from rung.data.read import read_splits
from rung.data.render import render
from rung.engine.checkpoint import peft_config
from rung.engine.memory import keep_freed_memory
from rung.engine.pack import Pack, fresh_state
from rung.engine.trainer import Trainer
from rung.levers import Candidate
from rung.model.load import load_base
from rung.recipe import DEFAULT_MODEL

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj"]


class Alone:
    """One candidate at a time under PEFT."""

    def __init__(self, precision: str, candidate: Candidate) -> None:
        self.base = load_base(DEFAULT_MODEL, "nf4", precision)
        for module in self.base.model.modules():
            if isinstance(module, bitsandbytes.nn.Linear4bit):
                module.support_avx512bf16_for_cpu = False
        config = peft_config(candidate, MODULES)
        config.inference_mode = False
        self.model = peft.get_peft_model(self.base.model, config)
        self.model.train()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=candidate.learning_rate)
        # With bf16=True the Hugging Face Trainer runs under autocast, and so does this.
        self.cast = (
            torch.autocast("cpu", torch.bfloat16) if self.base.dtype == torch.bfloat16 else contextlib.nullcontext()
        )

    def step(self, batch: Batch) -> None:
        labels = torch.full(batch.ids.shape, -100)
        labels.view(-1)[batch.positions + 1] = batch.labels
        with self.cast:
            loss = self.model(input_ids=batch.ids, labels=labels).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def main() -> None:
    """Time both sides and print them side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", default="auto", choices=["auto", "bf16", "fp32"])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument(
        "--system-malloc", action="store_true", help="leave glibc's memory settings alone, for both sides"
    )
    options = parser.parse_args()
    if not options.system_malloc:
        keep_freed_memory()  # helps both sides

    trainer = Trainer(load_base(DEFAULT_MODEL, "nf4", options.precision))
    candidates = [Candidate(16, 32, "attention", 1e-3, seed=seed) for seed in range(options.candidates)]
    rows = render(read_splits("pronounce").train, trainer.base.tokenizer, 512)
    numbers = order([len(row.ids) for row in rows], options.batch_size, 0, 0)[: options.steps + 1]
    batches = [collate([rows[i] for i in batch]) for batch in numbers]
    alone = Alone(options.precision, candidates[0])
    packed_seconds, alone_seconds = [], []
    states = [fresh_state(trainer.frozen, candidate, 0) for candidate in candidates]
    with Pack(trainer.frozen, candidates, states) as pack:
        for number, batch in enumerate(batches):
            begun = time.perf_counter()
            trainer.step(pack, batch, 1.0)
            between = time.perf_counter()
            # Each of the eight costs the same, so the same adapter stands for all of them.
            for _ in candidates:
                alone.step(batch)
            if number:  # the first step of both is a warm-up
                packed_seconds.append(between - begun)
                alone_seconds.append(time.perf_counter() - between)

    tokens = statistics.mean(batch.tokens for batch in batches[1:]) * len(candidates)
    table = Table(title=f"{len(candidates)} candidates, one step each, {tokens:.0f} tokens in all on average")
    for column in ("", "seconds (median)", "least", "most", "tokens/s"):
        table.add_column(column, justify="right" if column else "left")
    for name, seconds in (("one pack", packed_seconds), ("PEFT, one after another", alone_seconds)):
        middle = statistics.median(seconds)
        table.add_row(name, f"{middle:.2f}", f"{min(seconds):.2f}", f"{max(seconds):.2f}", f"{tokens / middle:.0f}")
    console = Console()
    console.print(table)
    ratios = sorted(a / p for a, p in zip(alone_seconds, packed_seconds, strict=True))
    console.print(
        f"one pack is {statistics.median(ratios):.2f} times as fast (step by step: {ratios[0]:.2f} to {ratios[-1]:.2f})"
    )
    console.print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, {trainer.base.dtype}, batch {options.batch_size}, "
        f"torch {torch.__version__}, peft {version('peft')}, bitsandbytes {version('bitsandbytes')}"
    )


if __name__ == "__main__":
    main()
