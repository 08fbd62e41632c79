"""The packing law on this device: packed against PEFT and torch's AdamW, as tests/engine/test_law.py has it on a CPU.

Nothing is asserted: each case is a line with its worst relative error over all weights after 20 steps, and the bound that
it is held to. So one case that fails does not hide the others.
"""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import torch
from common import Clock, Report, arguments, place
from tests.engine.oracle import (
    CANDIDATES,
    SCHEDULE,
    STEPS,
    Alone,
    Loader,
    batches,
    examples,
    packed,
)
from tests.engine.rounding import relative_error, throughout
from tests.tiny import tiny_llama, tiny_tokenizer

from rung.data.batches import Batch
from rung.engine.tiling import TokenLimit
from rung.engine.trainer import Trainer
from rung.types import Candidate, Setting

HEADS = [
    Candidate(Setting(4, 8, "lm_head", 1e-3)),
    Candidate(Setting(8, 16, "attention+lm_head", 3e-3, dropout=0.2)),
    Candidate(Setting(8, 16, "attention", 3e-3)),
]
DROPPING = [
    Candidate(Setting(4, 8, "attention", 1e-3, dropout=0.1)),
    Candidate(Setting(8, 16, "all-linear", 3e-3, dropout=0.3), seed=2),
    Candidate(Setting(4, 8, "attention", 1e-3)),
]


def to(batch: Batch, device: torch.device) -> Batch:
    return Batch(
        *(t.to(device) for t in (batch.ids, batch.positions, batch.labels, batch.rows)),
        batch.tokens,
    )


class Here(Alone):
    """The oracle, on the device of its base."""

    def __init__(self, base: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(base, *args, **kwargs)
        self.device = base.device
        for parameter in self.factors.values():
            parameter.data = parameter.data.to(self.device)
        kind = self.device.type
        self.scaler = torch.amp.GradScaler(kind, enabled=base.dtype == torch.float16)
        narrow = base.dtype in (torch.bfloat16, torch.float16)
        self.cast = (
            (lambda: torch.autocast(kind, base.dtype))
            if narrow
            else (lambda: throughout(base.dtype))
        )

    def loss(self, batch: Batch) -> torch.Tensor:
        batch = to(batch, self.device)
        labels = torch.full(batch.ids.shape, -100, device=self.device)
        labels.view(-1)[batch.positions + 1] = batch.labels
        with self.cast():
            logits = self.model(input_ids=batch.ids, use_cache=False).logits
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        )


class OnDevice(Loader):
    """Loads onto the device that was asked for: the tests' loader takes a GPU where there is one."""

    def __init__(
        self, model: str, quantization: str, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(model, quantization, dtype)
        self.device = device

    def __call__(self) -> Any:
        base = super().__call__()
        assert base.device.type == self.device.type, (base.device, self.device)
        return base


def alone_errors(load: Loader, candidates: list[Candidate]) -> dict[str, float]:
    """The worst error of each candidate, and of the evaluation in the middle."""
    trainer = Trainer(load())
    device = trainer.base.device
    rows = examples(trainer.model.config.vocab_size)
    steps = [to(batch, device) for batch in batches(rows)]
    states = dict(zip(candidates, load.states(trainer, candidates), strict=True))
    with packed(trainer, candidates, list(states.values())) as pack:
        scored = {}
        for number, batch in enumerate(steps):
            if number == STEPS // 2:
                scored = dict(
                    zip(pack.candidates, [s.mean for s in trainer.score(rows, pack)], strict=True)
                )
            trainer.step(pack, batch, SCHEDULE.rate_factor(number))
        ended = {candidate: pack.state(i) for i, candidate in enumerate(pack.candidates)}
    found = {}
    for candidate in candidates:
        alone = Here(load(), candidate, states[candidate])
        evaluated = 0.0
        for number, batch in enumerate(steps):
            if number == STEPS // 2:
                evaluated = abs(alone.evaluate(rows) / scored[candidate] - 1)
            alone.step(batch)
        errors = [
            relative_error(ended[candidate].tensors[key], p.detach().cpu())
            for key, p in alone.factors.items()
        ]
        found[candidate.id] = max(errors)
        found["evaluation"] = max(found.get("evaluation", 0.0), evaluated)
    return found


def peft_ends(load: Loader, candidate: Candidate) -> dict[str, torch.Tensor]:
    base = load()
    (state,) = load.states(Trainer(load()), [candidate])
    alone = Here(base, candidate, state)
    for batch in batches(examples(base.model.config.vocab_size)):
        alone.step(batch)
    return {key: p.detach().cpu() for key, p in alone.factors.items()}


def trained(
    load: Loader, candidates: list[Candidate], room: int | None = None, checkpointing: bool = False
) -> dict[Candidate, Any]:
    trainer = Trainer(load())
    trainer.training_limit = TokenLimit(room)
    if checkpointing:
        trainer.enable_activation_checkpointing()
    with packed(trainer, candidates, load.states(trainer, candidates)) as pack:
        for number, batch in enumerate(batches(examples(trainer.model.config.vocab_size))):
            trainer.step(pack, to(batch, trainer.base.device), SCHEDULE.rate_factor(number))
        return {candidate: pack.state(i) for i, candidate in enumerate(pack.candidates)}


def apart(one: dict[Candidate, Any], other: dict[Candidate, Any]) -> float:
    return max(
        relative_error(other[c].tensors[key], t)
        for c, state in one.items()
        for key, t in state.weights.items()
    )


def equal(one: dict[Candidate, Any], other: dict[Candidate, Any]) -> float:
    """Zero where every bit is the same."""
    same = all(
        torch.equal(other[c].tensors[key], t)
        for c, state in one.items()
        for key, t in state.tensors.items()
    )
    return 0.0 if same else max(apart(one, other), 1e-30)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--real", action="store_true", help="the real model's untuned loss, and nothing else"
    )
    options = parser.parse_args()
    device, report, clock = place(options), Report(options.out), Clock(options.seconds)
    torch.backends.cuda.matmul.allow_tf32 = False
    if options.real:
        return _real(options, device, report, clock)
    few = CANDIDATES[:2] if options.tiny else CANDIDATES
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "tiny-llama"
        tiny_llama().save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)

        def load(quantization: str, dtype: torch.dtype = torch.float32) -> Loader:
            return OnDevice(str(folder), quantization, dtype, device)

        def law(
            quantization: str, dtype: torch.dtype, candidates: list[Candidate]
        ) -> Callable[[], dict[str, float]]:
            return lambda: alone_errors(load(quantization, dtype), candidates)

        def rounding(dtype: torch.dtype) -> Callable[[], dict[str, float]]:
            """How far rounding alone takes PEFT from its own run in float32, beside the pack's distance from PEFT."""

            def work() -> dict[str, float]:
                found = {}
                for candidate in few[:2]:
                    narrow, wide = (
                        peft_ends(load("nf4", dtype), candidate),
                        peft_ends(load("nf4"), candidate),
                    )
                    found[f"{candidate.id} (PEFT's own)"] = max(
                        relative_error(narrow[key], wide[key]) for key in wide
                    )
                return found

            return work

        f32, f64, b16, f16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
        ours: list[Candidate] = [*few, DROPPING[0], HEADS[1]]
        cases: list[tuple[str, float | None, Callable[[], Any]]] = [
            ("NF4, float32, against PEFT", 1e-4, law("nf4", f32, few)),
            ("NF4, bfloat16, against PEFT under autocast", None, law("nf4", b16, few)),
            ("  PEFT in bfloat16 against PEFT in float32", None, rounding(b16)),
            ("NF4, float64, against PEFT on dense weights", 1e-10, law("nf4", f64, few)),
            ("NF4, float64, dropout", 1e-10, law("nf4", f64, DROPPING)),
            ("NF4, float64, adapted head", 1e-10, law("nf4", f64, HEADS)),
            ("float32 base, float32, against PEFT", 1e-4, law("fp32", f32, few)),
            ("NF4, float32, dropout", 1e-3, law("nf4", f32, DROPPING)),
            ("NF4, float16 with loss scaling, against PEFT", None, law("nf4", f16, few)),
            ("  PEFT in float16 against PEFT in float32", None, rounding(f16)),
            (
                "float64: tiles of 30 tokens against one pass",
                1e-10,
                lambda: apart(
                    trained(load("nf4", f64), ours), trained(load("nf4", f64), ours, room=30)
                ),
            ),
            (
                "float64: blocks computed again in the backward pass",
                1e-10,
                lambda: apart(
                    trained(load("nf4", f64), ours),
                    trained(load("nf4", f64), ours, checkpointing=True),
                ),
            ),
            (
                "float32: apart from alone, each in a pack of one",
                1e-4,
                lambda: apart(
                    {c: s for x in few for c, s in trained(load("nf4"), [x]).items()},
                    trained(load("nf4"), few),
                ),
            ),
            (
                "float32: twice the same pack; 0 is the same bits",
                None,
                lambda: equal(trained(load("nf4"), ours), trained(load("nf4"), ours)),
            ),
            (
                "bfloat16: twice the same pack; 0 is the same bits",
                None,
                lambda: equal(trained(load("nf4", b16), ours), trained(load("nf4", b16), ours)),
            ),
        ]
        failed = 0
        for name, bound, work in cases:
            if not clock.left(3):
                print(f"-     {name}: no time left", flush=True)
                report.add(part="law", case=name, skipped=True)
                continue
            begun = clock.gone
            try:
                found = work()
                found = found if isinstance(found, dict) else {"all": found}
                worst = max(value for key, value in found.items() if key != "evaluation")
                verdict = "" if bound is None else "ok" if worst < bound else "OVER"
                failed += verdict == "OVER"
                shown = "".join(
                    f", evaluation {found['evaluation']:.1e}" if "evaluation" in found else ""
                )
                print(
                    f"{verdict:5} {name}: {worst:.2e}{'' if bound is None else f' (bound {bound:.0e})'}{shown}, {clock.gone - begun:.1f} s",
                    flush=True,
                )
                report.add(
                    part="law",
                    case=name,
                    bound=bound,
                    worst=worst,
                    errors=found,
                    seconds=round(clock.gone - begun, 1),
                )
            except Exception as error:
                failed += 1
                trace = traceback.format_exc()
                print(
                    f"ERROR {name}: {type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}",
                    flush=True,
                )
                print(
                    "      "
                    + " | ".join(
                        line.strip()
                        for line in trace.splitlines()
                        if "rung/" in line or "kit" in line
                    )[-600:],
                    flush=True,
                )
                report.add(part="law", case=name, error=trace)
            common.clear(device)
    print(f"{failed} over their bound or in error", flush=True)


UNTUNED: dict[str, float] = {"fp32": 9.404602, "bf16": 9.414677}
"""What SmolLM2-135M-Instruct in NF4 loses on the 200 validation rows of *pronounce*, untuned, nats a token, on a CPU."""


def _real(options: Any, device: torch.device, report: Report, clock: Clock) -> None:
    """The real model: its untuned loss is a number that a CPU has given too."""
    for precision in ("fp32", "bf16"):
        base = common.real_base(precision)
        if base is None:
            print("-     the real model is not here", flush=True)
            return
        from rung.data.prepare import prepare
        from rung.recipe import Recipe

        rows = prepare(Recipe(), base.tokenizer).validation
        found = Trainer(base).score(rows)[0].mean
        wanted = UNTUNED.get(precision)
        print(
            f"      untuned loss of the real model in {precision}: {found:.5f} nats a token; on a CPU {wanted}",
            flush=True,
        )
        report.add(part="law", case=f"untuned loss, {precision}", found=found, cpu=wanted)


if __name__ == "__main__":
    main()
