"""A pack of K candidates against the same ones one after another, with TRL's SFTTrainer or PEFT.

All use the same base (random weights in NF4: speed and memory do not depend on them), rows, batch
for each candidate, rank and precision. K candidates cost a rival K times one, so one is timed. Each
cell is printed as soon as it is known: seconds of a step (the median of three segments; the script
waits for the device only between segments), tokens a second, the peak, and the fraction of the rate
of a bf16 product measured here.

Cells are KxBxT: candidates, rows of each, tokens of a row; the second half of a row is the
completion. In `held` cells the dense weights are held, as the runner does where its bound allows it
(`runner_holds` says whether it would).
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import bases
import common
import torch
from common import Clock, Report, arguments, place, spread, timed
from rivals import time_peft, time_trl

QUICK = [(8, 4, 64), (1, 4, 64), (8, 4, 512), (1, 4, 512), (32, 4, 64)]
FULL = [(k, 4, t) for t in (64, 256, 512) for k in (1, 4, 8, 16, 32)] + [(8, 1, 64), (32, 1, 64)]
LARGEST = {"8b": 32768, "1b": 65536}
"""The most tokens of a step that are tried: above, the device is full and a step is split."""


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--bases", default="135m,1b,8b")
    parser.add_argument("--targets", default="all-linear", help="all-linear, attention, or both")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--cells", nargs="*", help="such as 8x4x64")
    parser.add_argument("--rivals", default="peft,trl", help="peft, trl, both, or none")
    parser.add_argument("--mixed", action="store_true", help="also a pack of twelve settings")
    parser.add_argument("--quantization", default="nf4", choices=["nf4", "bf16"])
    parser.add_argument("--per-base", type=float, default=1e9, help="seconds for each base")
    options = parser.parse_args()
    device, report, clock = place(options), Report(options.out), Clock(options.seconds)
    cells = FULL if options.full else QUICK
    if options.tiny:
        cells = [(1, 2, 16), (4, 2, 16)]
    if options.cells:
        cells = [tuple(int(number) for number in cell.split("x")) for cell in options.cells]
    rate = common.gemm_rate(device, 8192 if device.type == "cuda" else 256)
    imports = round(clock.gone, 1)
    print(f"imports {imports} s; a bf16 product runs at {rate / 1e12:.0f} TFLOP/s", flush=True)
    report.add(part="packed", gemm=rate, imports=imports)
    names = options.bases.split(",")
    for at, name in enumerate(names):
        # The time that is left is divided; the largest base takes twice as long as another.
        weights = [2.0 if later == "8b" else 1.0 for later in names[at:]]
        own_seconds = (options.seconds - clock.gone) * weights[0] / sum(weights)
        own = Clock(min(options.per_base, own_seconds))
        if own.left(5):
            Bench(name, device, report, own, rate, options).run(cells)
        common.clear(device)
    _print_table(report)


class Bench:
    """All cells of one base."""

    def __init__(
        self,
        name: str,
        device: torch.device,
        report: Report,
        clock: Clock,
        rate: float,
        options: Any,
    ) -> None:
        self.name, self.device, self.report = name, device, report
        self.clock, self.rate, self.options = clock, rate, options
        shape = "tiny" if options.tiny else name
        self.base = bases.random_base(shape, device, quantization=options.quantization)
        cuda = device.type == "cuda"
        held = torch.cuda.memory_allocated(device) / 1e9 if cuda else 0.0
        print(f"\n{name}: made in {clock.gone:.1f} s, {held:.2f} GB", flush=True)

    def run(self, cells: Sequence[tuple[int, int, int]]) -> None:
        from rung.engine.trainer import Trainer

        targets = self.options.targets.split(",")
        for own in targets:
            self.run_rivals(own, list(dict.fromkeys((b, t) for _, b, t in cells)))
        self.trainer = Trainer(self.base)
        for own in targets:
            for count, batch, length in cells:
                if count * batch * length <= LARGEST.get(self.name, 1 << 20) and self.clock.left(6):
                    self.run_pack(own, count, batch, length)
        if self.options.mixed and self.clock.left(8):
            batch, length = (2, 16) if self.options.tiny else (8, 64)
            mixed = common.race_pack()
            self.cell(
                "rung",
                "twelve of the race",
                (len(mixed), batch, length),
                lambda: self.time_pack(mixed, batch, length, self.has_room()),
            )

    def run_rivals(self, targets: str, shapes: list[tuple[int, int]]) -> None:
        for batch, length in shapes:
            for rival, time_rival in (("peft", time_peft), ("trl", time_trl)):
                if rival in self.options.rivals and self.clock.left(6):
                    self.cell(
                        rival,
                        targets,
                        (1, batch, length),
                        lambda: time_rival(self.base, self.device, targets, batch, length),
                    )

    def run_pack(self, targets: str, count: int, batch: int, length: int) -> None:
        # Eight short rows are timed with and without dense weights, others as the device allows.
        both = (count, batch, length) in ((8, 4, 64), (4, 2, 16))
        candidates = common.candidates_of(count, targets)
        for dense in (False, True) if both else (self.has_room(),):
            self.cell(
                "rung",
                targets,
                (count, batch, length),
                lambda: self.time_pack(candidates, batch, length, dense),
            )

    def has_room(self) -> bool:
        """Whether the dense weights take less than a tenth of the device's free memory."""
        if self.device.type != "cuda":
            return False
        free, _ = torch.cuda.mem_get_info(self.device)
        return self.trainer.frozen.dense_bytes(self.base.dtype) < 0.1 * free

    def cell(
        self,
        side: str,
        targets: str,
        shape: tuple[int, int, int],
        work: Callable[[], dict[str, Any]],
    ) -> None:
        """Run one cell, print it and report it."""
        count, batch, length = shape
        common.clear(self.device)
        common.reset_peak(self.device)
        started = self.clock.gone
        try:
            result = work()
        except Exception as error:
            full = common.is_out_of_memory(error)
            message = f"{type(error).__name__}: {error}"[:300]
            result = {"error": "out of memory" if full else message}
        if "step" in result:
            result["tokens_per_second"] = round(count * batch * length / result["step"])
        result["peak_gb"] = common.peak_gb(self.device)
        result["reserved_gb"] = common.reserved_gb(self.device)
        row = {"base": self.name, "side": side, "targets": targets}
        row |= {"candidates": count, "batch": batch, "length": length, **result}
        self.report.add(part="packed", **row, took=round(self.clock.gone - started, 1))
        text = result.get("error") or (
            f"{1e3 * result['step']:8.1f} ms "
            f"({1e3 * result['step_least']:.1f}-{1e3 * result['step_most']:.1f}) "
            f"{result['tokens_per_second']:8d} tok/s {result['peak_gb']:6.2f} GB"
        )
        for key in ("share", "held", "runner_holds", "tiles"):
            text += f" {key} {result[key]}" if key in result else ""
        print(f"{side:5} {targets:10} {count:2}x{batch}x{length:<4} {text}", flush=True)

    def time_pack(
        self, candidates: list[Any], batch: int, length: int, dense: bool
    ) -> dict[str, Any]:
        from rung.costs.memory_model import candidate_memory
        from rung.costs.memory_policy import MEMORY_HEADROOM, upper_bound
        from rung.data.batches import collate
        from rung.engine.adapter_state import fresh_state
        from rung.engine.pack import Pack
        from rung.engine.process_memory import memory_limit
        from rung.engine.tiling import TokenLimit
        from rung.engine.trainer import SCORING_BATCH_SIZE

        trainer, frozen, dtype = self.trainer, self.trainer.frozen, self.base.dtype
        trainer.training_limit = TokenLimit()
        frozen.hold_dense(None)
        memory = [candidate_memory(frozen, candidate.setting, dtype) for candidate in candidates]
        most = upper_bound(trainer, memory, batch, SCORING_BATCH_SIZE, length)
        spare = memory_limit(self.device) * (1 - MEMORY_HEADROOM) - most
        frozen.hold_dense(dtype if dense else None)
        # One draw for all, because eight times 42 million numbers take the CPU seconds.
        first = fresh_state(frozen, candidates[0], 0)
        same_shape = len({(c.rank, c.targets) for c in candidates}) == 1
        states = [first if same_shape else fresh_state(frozen, c, 0) for c in candidates]
        vocabulary = self.base.model.config.vocab_size
        rows = itertools.cycle([common.rows_of(length, batch, vocabulary, i) for i in range(4)])
        with Pack(frozen, candidates, states) as pack:
            del first, states
            seconds = timed(
                lambda: trainer.step(pack, collate(next(rows), self.device), 1.0), self.device
            )
            flops = common.step_flops(trainer, candidates, batch, length)
            assert not pack.diverged, pack.diverged
        frozen.hold_dense(None)
        tokens, limit = len(candidates) * batch * length, trainer.training_limit.tokens
        return {
            **spread("step", seconds, 6),
            "flops": flops,
            "share": round(flops / statistics.median(seconds) / self.rate, 3),
            "held": dense,
            "runner_holds": bool(spare > frozen.dense_bytes(dtype)),
            **({"tiles": -(-tokens // int(limit))} if limit < tokens else {}),
        }


def _print_table(report: Report) -> None:
    """How many times as fast a pack is as each rival, for the cells that a rival has."""
    rows = [row for row in report.rows if "step" in row]
    rivals = {
        (row["base"], row["targets"], row["batch"], row["length"], row["side"]): row
        for row in rows
        if row["side"] != "rung"
    }
    print(
        "\nbase   targets    cell        held   ms/step  tok/s    x TRL  x PEFT  share  GB", end=""
    )
    print("    (TRL ms, PEFT ms, GB, GB)")
    for row in rows:
        if row["side"] != "rung":
            continue
        key = (row["base"], row["targets"], row["batch"], row["length"])
        own = [rivals.get((*key, side)) for side in ("trl", "peft")]
        ratios = [
            f"{row['candidates'] * rival['step'] / row['step']:6.2f}" if rival else "     -"
            for rival in own
        ]
        theirs = [f"{1e3 * rival['step']:.1f}" if rival else "-" for rival in own]
        theirs += [f"{rival['peak_gb']:.2f}" for rival in own if rival]
        cell = f"{row['candidates']}x{row['batch']}x{row['length']}"
        print(
            f"{row['base']:6} {row['targets'][:10]:10} {cell:11} {row['held']!s:5} "
            f"{1e3 * row['step']:8.1f} {row['tokens_per_second']:8d} {' '.join(ratios)}  "
            f"{row['share']:5.2f} {row['peak_gb']:6.2f}  ({', '.join(theirs)})"
        )


if __name__ == "__main__":
    main()
