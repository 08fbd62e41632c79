"""The three sides of benchmarks/packed.py: what each trains, and the process in which it does so.

    python benchmarks/packed_sides.py SIDE 8x4x64 --precision bf16 --steps 9

A side takes one step for each line on standard input and answers with its seconds. After the last
step it prints its memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import bitsandbytes
import peft
import torch

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

SIDES = ("rung", "trl", "peft")
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj"]
RANK, LEARNING_RATE = 16, 1e-3
ONE = Candidate(Setting(RANK, 2 * RANK, "attention", LEARNING_RATE))

Cell = tuple[int, int, int]
"""Candidates, rows of a batch, tokens of a row."""


def read_cell(text: str) -> Cell:
    """The cell of a text such as `8x4x64`."""
    candidates, batch, length = (int(number) for number in text.split("x"))
    return candidates, batch, length


class Side(Protocol):
    def step(self, batch: Batch) -> None: ...


def examples(tokenizer: Any, length: int, count: int) -> list[Example]:
    """Rows of exactly `length` tokens of real text; the second half of each is the completion."""
    text = "\n".join(prompt + completion for prompt, completion in pronounce()[0])
    ids = tokenizer(text)["input_ids"]
    starts = [i * length % (len(ids) - length) for i in range(count)]
    return [Example(tuple(ids[start : start + length]), length // 2) for start in starts]


def model_without_repacking(base: Base) -> Any:
    """The model, whose weights bitsandbytes does not repack; see rung.engine.lora."""
    for module in base.model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return base.model


class PackSide:
    """K candidates in one pack."""

    def __init__(self, precision: str, candidates: int) -> None:
        self.trainer = Trainer(load_base(DEFAULT_MODEL, "nf4", precision))
        members = [replace(ONE, seed=seed) for seed in range(candidates)]
        states = [fresh_state(self.trainer.frozen, candidate, 0) for candidate in members]
        self.pack = Pack(self.trainer.frozen, members, states)

    def step(self, batch: Batch) -> None:
        self.trainer.step(self.pack, batch, 1.0)


class PeftLoop:
    """One candidate under PEFT in a bare loop, with logits at completion tokens only."""

    def __init__(self, precision: str) -> None:
        base = load_base(DEFAULT_MODEL, "nf4", precision)
        config = peft_config(ONE.setting, MODULES)
        config.inference_mode = False
        self.model = peft.get_peft_model(model_without_repacking(base), config).train()
        self.optimizer = torch.optim.AdamW(
            [p for p in self.model.parameters() if p.requires_grad], lr=LEARNING_RATE, fused=True
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
    """One candidate under TRL's SFTTrainer, whose own loop waits for a line before each step."""

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
        wait, answer = self._wait, self._answer

        class StepByStep(TrainerCallback):  # type: ignore[misc]
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                wait()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                answer()

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
            model=model_without_repacking(base),
            args=config,
            train_dataset=data,
            processing_class=base.tokenizer,
            peft_config=lora,
            callbacks=[StepByStep()],
        )

    def train(self) -> None:
        """Train, one step for each line on standard input."""
        with contextlib.redirect_stdout(sys.stderr):
            self.trainer.train()

    def _wait(self) -> None:
        sys.stdin.readline()
        self.started = time.perf_counter()

    def _answer(self) -> None:
        answer = {"seconds": time.perf_counter() - self.started}
        print(json.dumps(answer), file=sys.__stdout__, flush=True)


def serve(side: str, cell: Cell, precision: str, steps: int) -> None:
    """Take a step for each line on standard input; print its seconds, and the memory at the end."""
    device = torch.device("cpu")
    before = resident_bytes()
    candidates, batch_size, length = cell
    tokenizer = load_base(DEFAULT_MODEL, "nf4", precision).tokenizer
    rows = examples(tokenizer, length, batch_size * steps)
    give_back_freed_memory()
    if side == "trl":
        trl = Trl(precision, rows, batch_size)
        reset_peak(device)
        trl.train()
    else:
        own: Side = PackSide(precision, candidates) if side == "rung" else PeftLoop(precision)
        reset_peak(device)
        for start in range(0, len(rows), batch_size):
            batch = collate(rows[start : start + batch_size])
            sys.stdin.readline()
            started = time.perf_counter()
            own.step(batch)
            print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)
    peak = peak_bytes(device)
    give_back_freed_memory()
    memory = {"before": before, "peak": peak, "between_steps": resident_bytes()}
    print(json.dumps(memory), flush=True)


def main() -> None:
    """Serve one side."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("cell", type=read_cell)
    parser.add_argument("--precision", default="auto", choices=["auto", "bf16", "fp32"])
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--keep-memory", action="store_true", help="keep freed memory, as Rung")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    if options.keep_memory:
        keep_freed_memory()
    serve(options.side, options.cell, options.precision, options.steps)


if __name__ == "__main__":
    main()
