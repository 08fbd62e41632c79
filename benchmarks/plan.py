"""What a plan predicts, against what packs really take, over a grid of ranks, widths and lengths: memory and time.

Like `rung plan`, it takes a few steps once (`rung.costs.probes.measured`), and then predicts the peak and the time
of every pack. The peaks are of the whole process, as `VmHWM` counts them; times are the median of three steps. Beside
it stand the peaks by a rehearsal, which knows nothing but shapes, over what the process held before.

    python benchmarks/plan.py [--json] [--every N]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

from packed import machine
from packed_sides import examples

from rung.costs.devices import device
from rung.costs.memory_model import bound, need
from rung.costs.probes import measured, rehearsed
from rung.costs.time_model import adapter_numbers
from rung.data.batches import collate
from rung.defaults import DEFAULT_MODEL
from rung.engine.adapter_state import fresh_state
from rung.engine.pack import Pack
from rung.engine.process_memory import (
    give_back_freed_memory,
    keep_freed_memory,
    peak_bytes,
    reset_peak,
)
from rung.engine.trainer import SCORING_BATCH_SIZE, Trainer
from rung.model.anatomy import anatomy
from rung.model.load import PRECISIONS, load_base
from rung.types import Candidate, Setting

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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--every", type=int, default=1, help="take one of so many packs of the grid"
    )
    parser.add_argument("--first", type=int, default=0, help="leave so many out at its start")
    options = parser.parse_args()
    keep_freed_memory()
    trainer = Trainer(load_base(DEFAULT_MODEL, "nf4"))
    base, frozen = trainer.base, trainer.frozen
    precision = next(name for name, dtype in PRECISIONS.items() if dtype == base.dtype)
    rows = examples(base.tokenizer, 128, 16)
    widest = {targets: Setting(8, 16, targets, 1e-3) for targets in ("attention", "all-linear")}
    config = anatomy(DEFAULT_MODEL).model.config
    papers = {
        t: rehearsed(config, "nf4", precision, c, rows, device("t4")) for t, c in widest.items()
    }
    # The runner has one model, for its widest target modules; here both are asked for.
    costs = {targets: measured(trainer, setting, rows) for targets, setting in widest.items()}
    found: list[dict[str, Any]] = []
    for targets, rank, width, length in GRID[options.first :: options.every]:
        candidates = [
            Candidate(Setting(rank, 2 * rank, targets, 1e-3), seed=seed) for seed in range(width)
        ]
        needs = [need(frozen, candidate, base.dtype) for candidate in candidates]
        cost, paper = costs[targets], papers[targets]
        batch = collate(examples(base.tokenizer, length, BATCH))
        load = cost.sizes.training(
            adapter_numbers(frozen, candidates), batch.ids.numel(), len(batch.labels)
        )
        with Pack(
            frozen, candidates, [fresh_state(frozen, candidate, 0) for candidate in candidates]
        ) as pack:
            give_back_freed_memory()
            reset_peak(base.device)
            seconds = []
            for _ in range(4):
                begun = time.perf_counter()
                trainer.step(pack, batch, 1.0)
                seconds.append(time.perf_counter() - begun)
            peak = peak_bytes(base.device)
        held = cost.memory.held
        on_paper = paper.memory.peak(needs, BATCH, length) - paper.memory.held + held
        cell = {"targets": targets, "rank": rank, "width": width, "length": length}
        cell |= {"peak_mb": peak // 10**6, "seconds": round(statistics.median(seconds[1:]), 3)}
        cell["memory_off"] = round(cost.memory.peak(needs, BATCH, length) / peak - 1, 3)
        cell["rehearsed_off"] = round(on_paper / peak - 1, 3)
        cell["time_off"] = round(
            cost.training.seconds(load) / statistics.median(seconds[1:]) - 1, 3
        )
        cell["bounded"] = bound(trainer, needs, BATCH, SCORING_BATCH_SIZE, length) > peak
        found.append(cell)
        if not options.json:
            print(*cell.values(), flush=True)
    summary = {"packs": len(found), "bounded": sum(cell["bounded"] for cell in found)}
    for what in ("memory_off", "rehearsed_off", "time_off"):
        offs = sorted(abs(cell[what]) for cell in found)
        summary[what] = {
            "median": round(statistics.median(offs), 3),
            "p90": offs[int(0.9 * (len(offs) - 1))],
            "worst": offs[-1],
        }
    where = {"machine": machine(base.dtype), "date": time.strftime("%Y-%m-%d")}
    print(json.dumps({**where, **summary, "cells": found}) if options.json else summary)


if __name__ == "__main__":
    main()
