"""What `rung plan` predicts for this device, against what packs take: time and peak memory.

It predicts by the data sheet (a rehearsal on shapes) and by a few measured steps (`--device here`).

A rehearsal takes half a minute of a CPU, so it is made before, without a GPU, with the same engine:

    python plan_check.py --rehearse .kit/sheet.json     (prepare.sh does it where .venv exists)
"""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

import bases
import common
import torch
from common import Clock, Report, arguments, place, timed

GRID = [(1, 64), (8, 64), (12, 64), (1, 256), (8, 256), (8, 512)]
"""Candidates, and tokens of a row. There are eight rows, as in the default recipe."""


def _estimate(name: str, sheet: str, longest: int = 512) -> dict[str, Any]:
    from rung.costs.devices import device as sheet_of
    from rung.costs.probes import estimate_costs
    from rung.types import Setting

    rows = common.rows_of(longest, 16, bases.SHAPES[name]["vocab_size"])
    found = estimate_costs(
        bases.config_of(name),
        "nf4",
        "bf16",
        Setting(8, 16, "all-linear", 1e-3),
        rows,
        sheet_of(sheet),
    )
    print(f"{name}: rehearsed for the {sheet}", flush=True)
    return {
        "training": asdict(found.training),
        "scoring": asdict(found.scoring),
        "memory": asdict(found.memory),
    }


def _paper(sheet: dict[str, Any] | None) -> tuple[Any, Any] | None:
    """The speed of training and the memory model that were written down."""
    from rung.costs.memory_model import Activations, MemoryModel
    from rung.costs.time_model import TimeModel

    if sheet is None:
        return None
    memory = sheet["memory"]
    return TimeModel(**sheet["training"]), MemoryModel(
        memory["held"], Activations(**memory["training"]), Activations(**memory["scoring"])
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--bases", default="135m,8b,1b")
    parser.add_argument("--sheet", default="h100")
    parser.add_argument(
        "--rehearse", type=Path, help="write the rehearsals there, and do nothing else"
    )
    parser.add_argument("--rehearsed", type=Path, default=Path(".kit/sheet.json"))
    options = parser.parse_args()
    if options.rehearse:
        found = {name: _estimate(name, options.sheet) for name in options.bases.split(",")}
        options.rehearse.write_text(json.dumps(found, indent=1) + "\n")
        return
    device, report, clock = place(options), Report(options.out), Clock(options.seconds)
    from rung.costs.memory_model import candidate_memory
    from rung.costs.memory_policy import upper_bound
    from rung.costs.probes import CUDA_CONTEXT_BYTES, measure_costs
    from rung.costs.time_model import adapter_parameters
    from rung.data.batches import collate
    from rung.engine.adapter_state import fresh_state
    from rung.engine.pack import Pack
    from rung.engine.process_memory import memory_limit
    from rung.engine.tiling import TokenLimit
    from rung.engine.trainer import SCORING_BATCH_SIZE, Trainer
    from rung.types import Candidate, Setting

    batch = 2 if options.tiny else 8
    grid = [(1, 16), (4, 16)] if options.tiny else GRID
    sheets = json.loads(options.rehearsed.read_text()) if options.rehearsed.exists() else {}
    for name in options.bases.split(","):
        if not clock.left(20 if not options.tiny else 1):
            print(f"{name}: no time left", flush=True)
            continue
        shape = "tiny" if options.tiny else name
        widest = Setting(8, 16, "all-linear", 1e-3)
        longest = max(length for _, length in grid)
        rows = common.rows_of(longest, 16, bases.SHAPES[shape]["vocab_size"])
        paper = _paper(
            _estimate(shape, options.sheet, longest) if options.tiny else sheets.get(name)
        )
        base = bases.random_base(shape, device)
        trainer = Trainer(base)
        frozen = trainer.frozen
        begun = clock.gone
        costs = measure_costs(trainer, widest, rows)
        source = f"by the sheet {options.sheet}" if paper else "no rehearsal"
        print(f"\n{name}: {source}; measured in {clock.gone - begun:.1f} s", flush=True)
        print("  pack        ms/step  sheet   here    | peak GB  sheet  here   bound", flush=True)
        for width, length in grid:
            if not clock.left(6):
                break
            candidates = [
                Candidate(Setting(16, 32, "all-linear", 1e-3), seed=seed) for seed in range(width)
            ]
            memory = [
                candidate_memory(frozen, candidate.setting, base.dtype) for candidate in candidates
            ]
            made = collate(common.rows_of(length, batch, base.model.config.vocab_size), device)
            workload = costs.size.training(
                adapter_parameters(frozen, candidates), made.ids.numel(), len(made.labels)
            )
            common.clear(device)
            trainer.training_limit = TokenLimit()
            try:
                with Pack(
                    frozen, candidates, [fresh_state(frozen, candidates[0], 0)] * width
                ) as pack:
                    trainer.step(pack, made, 1.0)
                    common.reset_peak(device)
                    seconds = statistics.median(
                        timed(lambda: trainer.step(pack, made, 1.0), device)
                    )
                    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
            except Exception as error:
                print(
                    f"  {width}x{batch}x{length}: {type(error).__name__}: {str(error)[:150]}",
                    flush=True,
                )
                continue
            tiled = trainer.training_limit.tokens < width * made.ids.numel()
            here = costs.training.seconds(workload)
            sheet = paper[0].seconds(workload) if paper else 0.0
            sheet_peak = paper[1].peak(memory, batch, length) - CUDA_CONTEXT_BYTES if paper else 0
            here_peak = costs.memory.peak(memory, batch, length)
            most = upper_bound(trainer, memory, batch, SCORING_BATCH_SIZE, length)
            held = bool(memory_limit(device) * 0.9 - most > frozen.dense_bytes(base.dtype))
            report.add(
                part="plan",
                base=name,
                width=width,
                batch=batch,
                length=length,
                seconds=seconds,
                sheet=sheet,
                here=here,
                peak=peak,
                sheet_peak=sheet_peak,
                here_peak=here_peak,
                bound=most,
                runner_holds=held,
                tiled=tiled,
            )
            off = [f"{value / seconds:5.2f}x" for value in (sheet, here)]
            mem = [
                f"{value / peak:5.2f}x" if peak else "-" for value in (sheet_peak, here_peak, most)
            ]
            print(
                f"  {width:2}x{batch}x{length:<4} {1e3 * seconds:9.1f}  {off[0]}  {off[1]}  | "
                f"{peak / 1e9:6.2f}  {' '.join(mem)}"
                f"{' in tiles' if tiled else ''}{' runner holds' if held else ''}",
                flush=True,
            )
        print(
            "  speeds (s a pass, TFLOP/s of frozen weights and of adapters, GB/s of numbers): "
            f"here {_speeds(costs.training)}; by the sheet {_speeds(paper[0]) if paper else '-'}",
            flush=True,
        )
        report.add(
            part="plan",
            base=name,
            here=_speeds(costs.training),
            sheet=_speeds(paper[0]) if paper else None,
        )
        del base, trainer, costs, frozen
        common.clear(device)


def _speeds(speed: Any) -> list[Any]:
    """In common units: a multiply-add is two operations, moving a number is 28 bytes."""

    def rate(per: float, amount: float) -> float | None:
        return round(amount / per, 1) if per else None

    return [
        round(speed.per_pass, 5),
        rate(speed.per_frozen, 2e-12),
        rate(speed.per_adapter, 2e-12),
        rate(speed.per_update, 28e-9),
    ]


if __name__ == "__main__":
    main()
