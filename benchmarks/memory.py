"""What the memory plan predicts, against what packs really take, over a grid of ranks, widths and lengths.

Like the runner, it measures a few steps once (`rung.engine.plan.measure`), and then predicts the peak of every pack.
The peaks are of the whole process, as `VmHWM` counts them.

    python benchmarks/memory.py [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

from packed import examples, machine

from rung.data.batches import collate
from rung.engine.memory import give_back_freed_memory, keep_freed_memory, peak_bytes, reset_peak
from rung.engine.pack import Pack, fresh_state
from rung.engine.plan import bound, measure, need
from rung.engine.trainer import SCORED_ROWS, Trainer
from rung.levers import Candidate
from rung.model.load import load_base
from rung.recipe import DEFAULT_MODEL

BATCH = 4
GRID = [
    (targets, rank, width, length)
    for targets in ("attention", "all-linear")
    for rank in (4, 16, 64, 256)
    for width in (1, 2, 4, 8)
    for length in (16, 64, 128)
]


def main() -> None:
    """Measure, predict, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--every", type=int, default=1, help="take one of so many packs of the grid")
    parser.add_argument("--first", type=int, default=0, help="leave so many out at its start")
    options = parser.parse_args()
    keep_freed_memory()
    trainer = Trainer(load_base(DEFAULT_MODEL, "nf4"))
    base, frozen = trainer.base, trainer.frozen
    models = {
        targets: measure(trainer, Candidate(8, 16, targets, 1e-3), examples(base.tokenizer, 128, 16))
        for targets in ("attention", "all-linear")
    }
    found: list[dict[str, Any]] = []
    for targets, rank, width, length in GRID[options.first :: options.every]:
        candidates = [Candidate(rank, 2 * rank, targets, 1e-3, seed=seed) for seed in range(width)]
        needs = [need(frozen, candidate, base.dtype) for candidate in candidates]
        predicted = models[targets].peak(needs, BATCH, length)
        batch = collate(examples(base.tokenizer, length, BATCH))
        with Pack(frozen, candidates, [fresh_state(frozen, candidate, 0) for candidate in candidates]) as pack:
            give_back_freed_memory()
            reset_peak(base.device)
            for _ in range(2):
                trainer.step(pack, batch, 1.0)
            actual = peak_bytes(base.device)
        cell = {"targets": targets, "rank": rank, "width": width, "length": length}
        off = predicted / actual - 1
        bounded = bound(trainer, needs, BATCH, SCORED_ROWS, length) > actual
        found.append({**cell, "predicted_mb": predicted // 10**6, "actual_mb": actual // 10**6, "off": round(off, 4)})
        found[-1]["bounded"] = bounded
        if not options.json:
            print(*found[-1].values(), flush=True)
    offs = sorted(abs(float(cell["off"])) for cell in found)
    summary = {"median_off": statistics.median(offs), "worst_off": offs[-1], "packs": len(offs)}
    summary["bounded"] = sum(cell["bounded"] for cell in found)
    if options.json:
        where = {"machine": machine(base.dtype), "date": time.strftime("%Y-%m-%d")}
        print(json.dumps({**where, **summary, "cells": found}))
    else:
        print(summary)


if __name__ == "__main__":
    main()
