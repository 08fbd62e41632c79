"""A pack of K candidates against the same trained one after another, by TRL's SFTTrainer with PEFT and by a bare PEFT loop.

The same base (random weights in NF4: speed and memory do not depend on them), rows, batch per candidate, rank and
precision. A rival's K candidates cost it K times one, so one is timed. Each cell is a line as soon as it is known:
seconds a step (median of three segments; the device is waited for between segments only), tokens a second, the peak,
and the share of the rate of a bf16 product measured here.

Cells are K x B x T: candidates, rows of each, tokens of a row; the second half of a row is the completion. `held` cells
keep the dense weights, as the runner does where its bound leaves room (`runner holds` says whether it would).
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import common
import torch
from common import MODULES, RATE, Clock, Report, arguments, place, spread, timed

QUICK = [(8, 4, 64), (1, 4, 64), (8, 4, 512), (1, 4, 512), (32, 4, 64)]
FULL = [(k, 4, t) for t in (64, 256, 512) for k in (1, 4, 8, 16, 32)] + [(8, 1, 64), (32, 1, 64)]
LARGEST = {"8b": 32768, "1b": 65536}
"""Tokens of a step beyond which a cell says nothing new: the device is full, and the step is done in tiles."""


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--bases", default="135m,1b,8b")
    parser.add_argument(
        "--targets",
        default="all-linear",
        help="all-linear, attention, or both with a comma between",
    )
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--cells", nargs="*", help="such as 8x4x64")
    parser.add_argument("--rivals", default="peft,trl", help="peft, trl, both, or none")
    parser.add_argument(
        "--mixed", action="store_true", help="and a pack of twelve settings as the race tries them"
    )
    parser.add_argument(
        "--quantization", default="nf4", choices=["nf4", "bf16"], help="of the base"
    )
    parser.add_argument("--per-base", type=float, default=1e9, help="seconds for each base")
    options = parser.parse_args()
    device, report, clock = place(options), Report(options.out), Clock(options.seconds)

    if "trl" in options.rivals:
        pass
    cells = FULL if options.full else QUICK
    if options.tiny:
        cells = [(1, 2, 16), (4, 2, 16)]
    if options.cells:
        cells = [
            (int(k), int(b), int(t)) for k, b, t in (cell.split("x") for cell in options.cells)
        ]
    rate = common.gemm_rate(device, 8192 if device.type == "cuda" else 256)
    print(
        f"imports {clock.gone:.1f} s; a bf16 product runs at {rate / 1e12:.0f} TFLOP/s", flush=True
    )
    report.add(part="packed", gemm=rate, imports=round(clock.gone, 1))
    bases = options.bases.split(",")
    for at, name in enumerate(bases):
        # What is left of the time, shared out: the largest base takes twice as long as another.
        weights = [2.0 if base == "8b" else 1.0 for base in bases[at:]]
        own = Clock(
            min(options.per_base, (options.seconds - clock.gone) * weights[0] / sum(weights))
        )
        if own.left(5):
            Bench(name, device, report, own, rate, options).run(cells)
        common.clear(device)
    _table(report)


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
        self.name, self.device, self.report, self.clock, self.rate, self.options = (
            name,
            device,
            report,
            clock,
            rate,
            options,
        )

    def run(self, cells: Sequence[tuple[int, int, int]]) -> None:
        options = self.options
        self.base = common.random_base(
            "tiny" if options.tiny else self.name, self.device, quantization=options.quantization
        )
        self.vocabulary = self.base.model.config.vocab_size
        held = (
            round(torch.cuda.memory_allocated(self.device) / 1e9, 2)
            if self.device.type == "cuda"
            else 0
        )
        print(f"\n{self.name}: made in {self.clock.gone:.1f} s, {held} GB", flush=True)
        kinds = options.targets.split(",")
        shapes = list(dict.fromkeys((b, t) for _, b, t in cells))
        for kind in kinds:
            for batch, length in shapes:
                for rival, time in (("peft", self.peft), ("trl", self.trl)):
                    if rival in options.rivals and self.clock.left(6):
                        self.cell(
                            rival,
                            kind,
                            1,
                            batch,
                            length,
                            lambda time=time, k=kind, b=batch, t=length: time(k, b, t),
                        )
        from rung.engine.trainer import Trainer

        self.trainer = Trainer(self.base)
        for kind in kinds:
            for count, batch, length in cells:
                if count * batch * length <= LARGEST.get(self.name, 1 << 20) and self.clock.left(6):
                    # Both ways for eight short rows; else as the device allows.
                    ways = (
                        (False, True)
                        if (count, batch, length) in ((8, 4, 64), (4, 2, 16))
                        else (self.roomy(),)
                    )
                    for dense in ways:
                        self.cell(
                            "rung",
                            kind,
                            count,
                            batch,
                            length,
                            lambda c=common.candidates_of(count, kind), b=batch, t=length, d=dense: (
                                self.rung(c, b, t, d)
                            ),
                        )
        if options.mixed and self.clock.left(8):
            batch, length = (2, 16) if options.tiny else (8, 64)
            self.cell(
                "rung",
                "twelve of the race",
                12,
                batch,
                length,
                lambda: self.rung(common.race_pack(), batch, length, self.roomy()),
            )
        self.base = self.trainer = None

    def roomy(self) -> bool:
        if self.device.type != "cuda":
            return False
        free, _ = torch.cuda.mem_get_info(self.device)
        return self.trainer.frozen.dense_bytes(self.base.dtype) < 0.1 * free

    def cell(
        self,
        side: str,
        kind: str,
        count: int,
        batch: int,
        length: int,
        work: Callable[[], dict[str, Any]],
    ) -> None:
        common.clear(self.device)
        common.reset_peak(self.device)
        begun, found = self.clock.gone, {}
        try:
            found = work()
        except Exception as error:
            found = {
                "error": "out of memory"
                if common.is_out_of_memory(error)
                else f"{type(error).__name__}: {error}"[:300]
            }
        tokens = count * batch * length
        if "step" in found:
            found["tokens_per_second"] = round(tokens / found["step"])
        found["peak_gb"], found["reserved_gb"] = (
            common.peak_gb(self.device),
            common.reserved_gb(self.device),
        )
        row = {
            "part": "packed",
            "base": self.name,
            "side": side,
            "targets": kind,
            "candidates": count,
            "batch": batch,
            "length": length,
            **found,
            "took": round(self.clock.gone - begun, 1),
        }
        self.report.add(**row)
        shown = found.get("error") or (
            f"{1e3 * found['step']:8.1f} ms ({1e3 * found['step_least']:.1f}-{1e3 * found['step_most']:.1f}) "
            f"{found['tokens_per_second']:8d} tok/s {found['peak_gb']:6.2f} GB"
        )
        more = "".join(
            f" {key} {found[key]}"
            for key in ("share", "held", "runner_holds", "tiles")
            if key in found
        )
        print(f"{side:5} {kind:10} {count:2}x{batch}x{length:<4} {shown}{more}", flush=True)

    def rung(self, candidates: list[Any], batch: int, length: int, dense: bool) -> dict[str, Any]:
        from rung.costs.memory_model import bound, need
        from rung.costs.memory_policy import MEMORY_HEADROOM
        from rung.data.batches import collate
        from rung.engine.adapter_state import fresh_state
        from rung.engine.pack import Pack
        from rung.engine.process_memory import memory_limit
        from rung.engine.tiling import TokenLimit
        from rung.engine.trainer import SCORING_BATCH_SIZE

        trainer, frozen = self.trainer, self.trainer.frozen
        trainer.training_limit = TokenLimit()
        frozen.hold_dense(None)
        needs = [need(frozen, candidate, self.base.dtype) for candidate in candidates]
        spare = memory_limit(self.device) * (1 - MEMORY_HEADROOM) - bound(
            trainer, needs, batch, SCORING_BATCH_SIZE, length
        )
        frozen.hold_dense(self.base.dtype if dense else None)
        # One draw for all: eight times 42 million numbers take the CPU seconds.
        first = fresh_state(frozen, candidates[0], 0)
        alike = len({(c.rank, c.targets) for c in candidates}) == 1
        states = [first if alike else fresh_state(frozen, candidate, 0) for candidate in candidates]
        rows = [common.rows_of(length, batch, self.vocabulary, seed) for seed in range(4)]
        turn = iter(range(1 << 30))
        with Pack(frozen, candidates, states) as pack:
            del first, states

            def step() -> None:
                trainer.step(pack, collate(rows[next(turn) % 4], self.device), 1.0)

            found = timed(step, self.device)
            flops = common.step_flops(trainer, candidates, batch, length)
            assert not pack.diverged, pack.diverged
        frozen.hold_dense(None)
        tried = len(candidates) * batch * length
        room = trainer.training_limit.tokens
        return {
            **spread("step", found, 6),
            "flops": flops,
            "share": round(flops / statistics.median(found) / self.rate, 3),
            "held": dense,
            "runner_holds": bool(spare > frozen.dense_bytes(self.base.dtype)),
            **({"tiles": -(-tried // int(room))} if room < tried else {}),
        }

    def peft(self, kind: str, batch: int, length: int) -> dict[str, Any]:
        """PEFT in a bare loop, with logits at completion tokens only."""
        import peft

        from rung.data.batches import collate
        from rung.engine.checkpoint import peft_config

        config = peft_config(common.candidates_of(1, kind)[0], MODULES[kind])
        config.inference_mode = False
        self.guard()
        model = peft.get_peft_model(self.base.model, config).train()
        try:
            optimizer = torch.optim.AdamW(
                [p for p in model.parameters() if p.requires_grad], lr=RATE, fused=True
            )
            rows = [common.rows_of(length, batch, self.vocabulary, seed) for seed in range(4)]
            turn, inner = iter(range(1 << 30)), model.get_base_model()

            def step() -> None:
                made = collate(rows[next(turn) % 4], self.device)
                with torch.autocast(self.device.type, torch.bfloat16):
                    states = inner.model(input_ids=made.ids, use_cache=False).last_hidden_state
                    logits = inner.lm_head(states.flatten(0, 1)[made.positions])
                torch.nn.functional.cross_entropy(logits.float(), made.labels).backward()
                optimizer.step()
                optimizer.zero_grad()

            return spread("step", timed(step, self.device), 6)
        finally:
            self.unload(model)

    def trl(self, kind: str, batch: int, length: int) -> dict[str, Any]:
        """TRL's SFTTrainer as it comes, without gradient checkpointing (its default, and slower)."""
        from datasets import Dataset
        from transformers import TrainerCallback
        from trl import SFTConfig, SFTTrainer

        from rung.engine.checkpoint import peft_config

        warm, segments, device = 4, 3, self.device
        most = warm + 20 * segments
        rows = common.rows_of(length, batch * most, self.vocabulary)
        data = Dataset.from_dict(
            {
                "input_ids": [list(row.ids) for row in rows],
                "labels": [[-100] * row.prompt + list(row.ids[row.prompt :]) for row in rows],
            }
        )
        lora = peft_config(common.candidates_of(1, kind)[0], MODULES[kind])
        lora.inference_mode = False
        found: list[float] = []

        class Watch(TrainerCallback):
            """Times segments of as many steps as fit in 0.4 s; stops after the last."""

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                import time

                at = state.global_step
                if at < warm - 1:
                    return
                if at <= warm or (at - warm) % self.count == 0:
                    common.wait(device)
                    now = time.perf_counter()
                    if at == warm:
                        self.count = max(1, min(20, int(0.4 / (now - self.begun))))
                    elif at > warm:
                        found.append((now - self.begun) / self.count)
                    self.begun = now
                    control.should_training_stop = len(found) == segments

        self.guard()
        cuda = device.type == "cuda"
        config = SFTConfig(
            output_dir=tempfile.mkdtemp(),
            max_steps=most,
            per_device_train_batch_size=batch,
            learning_rate=RATE,
            bf16=True,
            use_cpu=not cuda,
            gradient_checkpointing=False,
            max_length=None,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        with contextlib.redirect_stdout(None):
            made = SFTTrainer(
                model=self.base.model,
                args=config,
                train_dataset=data,
                processing_class=self.base.tokenizer,
                peft_config=lora,
                callbacks=[Watch()],
            )
            model = made.model
            try:
                made.train()
            finally:
                self.unload(model)
        dtypes = "adapters in " + ",".join(
            sorted(
                {
                    str(p.dtype).removeprefix("torch.")
                    for p in made.optimizer.param_groups[0]["params"]
                }
            )
        )
        return {**spread("step", found, 6), "note": dtypes}

    def guard(self) -> None:
        """bitsandbytes repacks weights on some CPUs, and trains wrongly from then on (see rung.engine.lora)."""
        import bitsandbytes

        for module in self.base.model.modules():
            if isinstance(module, bitsandbytes.nn.Linear4bit):
                module.support_avx512bf16_for_cpu = False

    def unload(self, model: Any) -> None:
        """The base as it was."""
        model.unload()
        inner = self.base.model
        if hasattr(inner, "peft_config"):
            del inner.peft_config
        inner.requires_grad_(False)
        inner.eval()
        assert not [name for name, _ in inner.named_modules() if "lora" in name]


def _table(report: Report) -> None:
    """How many times as fast a pack is as each rival, for the cells that have one."""
    rows = [row for row in report.rows if "step" in row]
    rivals = {
        (row["base"], row["targets"], row["batch"], row["length"], row["side"]): row
        for row in rows
        if row["side"] != "rung"
    }
    print(
        "\nbase   targets    cell        held   ms/step  tok/s    x TRL  x PEFT  share  GB    (TRL ms, PEFT ms, GB, GB)"
    )
    for row in rows:
        if row["side"] != "rung":
            continue
        key = (row["base"], row["targets"], row["batch"], row["length"])
        trl, peft = rivals.get((*key, "trl")), rivals.get((*key, "peft"))
        times = [
            f"{row['candidates'] * rival['step'] / row['step']:6.2f}" if rival else "     -"
            for rival in (trl, peft)
        ]
        theirs = ", ".join(f"{1e3 * rival['step']:.1f}" if rival else "-" for rival in (trl, peft))
        held = ", ".join(f"{rival['peak_gb']:.2f}" if rival else "-" for rival in (trl, peft))
        cell = f"{row['candidates']}x{row['batch']}x{row['length']}"
        print(
            f"{row['base']:6} {row['targets'][:10]:10} {cell:11} {row['held']!s:5} {1e3 * row['step']:8.1f} {row['tokens_per_second']:8d} "
            f"{times[0]} {times[1]}  {row['share']:5.2f} {row['peak_gb']:6.2f}  ({theirs}, {held})"
        )


if __name__ == "__main__":
    main()
