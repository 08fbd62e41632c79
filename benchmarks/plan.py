"""What `rung plan` predicts of packs, against what they really take: memory and time.

As `rung plan` does, it measures a few steps once (`rung.costs.probes.measure_costs`), and then
predicts the peak and the time of every pack of a grid of target modules, ranks, widths and lengths.
A peak is that of the whole process, as `VmHWM` counts it. A time is the median of three steps.

Beside it stands the peak by an estimate (`rung.costs.probes.estimate_costs`), which knows nothing
but shapes. It is added to what the process held before.

    python benchmarks/plan.py [--json] [--every N] [--first N]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

from packed import machine
from packed_sides import examples

from rung.costs.devices import device
from rung.costs.memory_model import candidate_memory
from rung.costs.memory_policy import upper_bound
from rung.costs.probes import DeviceCosts, estimate_costs, measure_costs
from rung.costs.time_model import adapter_parameters
from rung.data.batches import Batch, collate
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
TARGETS = ("attention", "all-linear")
GRID = [
    (targets, rank, width, length)
    for targets in TARGETS
    for rank in (4, 16, 64, 256)
    for width in (1, 2, 4, 8)
    for length in (16, 64, 128)
]
ERRORS = ("memory_error", "estimated_memory_error", "time_error")


@dataclass(frozen=True)
class PackResult:
    """One pack.

    Attributes:
        peak_mb, seconds: what a step of it took.
        memory_error, estimated_memory_error, time_error: the prediction over that, less one.
        bounded: whether the upper bound was above the peak.
    """

    targets: str
    rank: int
    width: int
    length: int
    peak_mb: int
    seconds: float
    memory_error: float
    estimated_memory_error: float
    time_error: float
    bounded: bool


def measure_step(trainer: Trainer, candidates: list[Candidate], batch: Batch) -> tuple[int, float]:
    """The peak of the process in bytes, and the median seconds of a step."""
    frozen, seconds = trainer.frozen, []
    states = [fresh_state(frozen, candidate, 0) for candidate in candidates]
    with Pack(frozen, candidates, states) as pack:
        give_back_freed_memory()
        reset_peak(trainer.base.device)
        for _ in range(4):  # the first step allocates
            begun = time.perf_counter()
            trainer.step(pack, batch, 1.0)
            seconds.append(time.perf_counter() - begun)
        peak = peak_bytes(trainer.base.device)
    return peak, statistics.median(seconds[1:])


def compare(
    trainer: Trainer,
    measured: DeviceCosts,
    estimated: DeviceCosts,
    targets: str,
    rank: int,
    width: int,
    length: int,
) -> PackResult:
    """Run one pack, and compare it with both predictions."""
    base, frozen = trainer.base, trainer.frozen
    setting = Setting(rank, 2 * rank, targets, 1e-3)
    candidates = [Candidate(setting, seed) for seed in range(width)]
    memory = [candidate_memory(frozen, setting, base.dtype)] * width
    batch = collate(examples(base.tokenizer, length, BATCH))
    peak, seconds = measure_step(trainer, candidates, batch)
    work = measured.size.training(
        adapter_parameters(frozen, candidates), batch.ids.numel(), len(batch.labels)
    )
    estimate = estimated.memory.peak(memory, BATCH, length) - estimated.memory.held
    bound = upper_bound(trainer, memory, BATCH, SCORING_BATCH_SIZE, length)
    return PackResult(
        targets,
        rank,
        width,
        length,
        peak // 10**6,
        round(seconds, 3),
        round(measured.memory.peak(memory, BATCH, length) / peak - 1, 3),
        round((estimate + measured.memory.held) / peak - 1, 3),
        round(measured.training.seconds(work) / seconds - 1, 3),
        bound > peak,
    )


def summarize(results: list[PackResult]) -> dict[str, Any]:
    """How large the errors are, whatever their sign."""
    summary: dict[str, Any] = {
        "packs": len(results),
        "bounded": sum(result.bounded for result in results),
    }
    for name in ERRORS:
        errors = sorted(abs(getattr(result, name)) for result in results)
        summary[name] = {
            "median": round(statistics.median(errors), 3),
            "p90": errors[int(0.9 * (len(errors) - 1))],
            "worst": errors[-1],
        }
    return summary


def main() -> None:
    """Measure, predict and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--every", type=int, default=1, help="take one of so many packs")
    parser.add_argument("--first", type=int, default=0, help="leave out so many at the start")
    options = parser.parse_args()
    keep_freed_memory()
    trainer = Trainer(load_base(DEFAULT_MODEL, "nf4"))
    base = trainer.base
    precision = next(name for name, dtype in PRECISIONS.items() if dtype == base.dtype)
    rows = examples(base.tokenizer, 128, 16)
    # The runner has one model, for its widest target modules; here both are asked for.
    widest = {targets: Setting(8, 16, targets, 1e-3) for targets in TARGETS}
    config = anatomy(DEFAULT_MODEL).model.config
    estimated = {
        targets: estimate_costs(config, "nf4", precision, setting, rows, device("t4"))
        for targets, setting in widest.items()
    }
    measured = {t: measure_costs(trainer, setting, rows) for t, setting in widest.items()}
    results = []
    for targets, rank, width, length in GRID[options.first :: options.every]:
        result = compare(
            trainer, measured[targets], estimated[targets], targets, rank, width, length
        )
        results.append(result)
        if not options.json:
            print(*asdict(result).values(), flush=True)
    summary = summarize(results)
    if options.json:
        where = {"machine": machine(base.dtype), "date": time.strftime("%Y-%m-%d")}
        packs = [asdict(result) for result in results]
        print(json.dumps({**where, **summary, "packs_measured": packs}))
    else:
        print(summary)


if __name__ == "__main__":
    main()
