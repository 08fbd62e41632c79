"""The packing law on this device: packed training against PEFT and torch's AdamW.

These are the cases of tests/engine/test_law.py, which runs on a CPU. Nothing is asserted: each case
prints its worst relative error over all weights after 20 steps, and the bound that it should keep.
So a case that fails does not hide the others.
"""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bases
import common
import torch
from common import Clock, Report, arguments, place
from tests.engine.oracle import Alone
from tests.engine.rounding import relative_error, throughout
from tests.engine.setups import (
    CANDIDATES,
    DROPOUT_CANDIDATES,
    HEAD_CANDIDATES,
    SCHEDULE,
    STEPS,
    Loader,
    batches,
    examples,
    packed,
    states_of,
)
from tests.tiny import tiny_llama, tiny_tokenizer

from rung.data.batches import Batch
from rung.engine.adapter_state import AdapterState
from rung.engine.tiling import TokenLimit
from rung.engine.trainer import Trainer
from rung.model.load import Base
from rung.types import Candidate

UNTUNED_LOSSES: dict[str, float] = {"fp32": 9.404602, "bf16": 9.414677}
"""The untuned loss of SmolLM2-135M-Instruct in NF4 on the 200 validation rows of *pronounce*, in
nats a token, measured on a CPU."""

States = dict[Candidate, AdapterState]


def to(batch: Batch, device: torch.device) -> Batch:
    tensors = (t.to(device) for t in (batch.ids, batch.positions, batch.labels, batch.rows))
    return Batch(*tensors, batch.tokens)


class AloneOnDevice(Alone):
    """The oracle, on the device of its base."""

    def __init__(self, base: Base, *args: Any, **kwargs: Any) -> None:
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


def errors_against_peft(load: Loader, candidates: list[Candidate]) -> dict[str, float]:
    """The worst error of each candidate, and that of the evaluation in the middle."""
    trainer = Trainer(load())
    rows = examples(trainer.model.config.vocab_size)
    steps = [to(batch, trainer.base.device) for batch in batches(rows)]
    states = dict(zip(candidates, load.states(trainer, candidates), strict=True))
    with packed(trainer, candidates, list(states.values())) as pack:
        losses: dict[Candidate, float] = {}
        for number, batch in enumerate(steps):
            if number == STEPS // 2:
                means = [scores.mean for scores in trainer.score(rows, pack)]
                losses = dict(zip(pack.candidates, means, strict=True))
            trainer.step(pack, batch, SCHEDULE.rate_factor(number))
        ended = states_of(pack)
    errors = {"evaluation": 0.0}
    for candidate in candidates:
        alone = AloneOnDevice(load(), candidate, states[candidate])
        for number, batch in enumerate(steps):
            if number == STEPS // 2:
                difference = abs(alone.evaluate(rows) / losses[candidate] - 1)
                errors["evaluation"] = max(errors["evaluation"], difference)
            alone.step(batch)
        errors[candidate.id] = max(
            relative_error(ended[candidate].tensors[key], parameter.detach().cpu())
            for key, parameter in alone.factors.items()
        )
    return errors


def rounding_of_peft(narrow: Loader, wide: Loader, candidates: list[Candidate]) -> dict[str, float]:
    """How far PEFT in a narrow precision ends from PEFT in a wide one, by rounding alone."""
    errors = {}
    for candidate in candidates:
        exact = train_with_peft(wide, candidate)
        rounded = train_with_peft(narrow, candidate)
        errors[candidate.id] = max(relative_error(rounded[key], exact[key]) for key in exact)
    return errors


def train_with_peft(load: Loader, candidate: Candidate) -> dict[str, torch.Tensor]:
    (state,) = load.states(Trainer(load()), [candidate])
    alone = AloneOnDevice(load(), candidate, state)
    for batch in batches(examples(alone.base.model.config.vocab_size)):
        alone.step(batch)
    return {key: parameter.detach().cpu() for key, parameter in alone.factors.items()}


def train(
    load: Loader, candidates: list[Candidate], limit: int | None = None, checkpointing: bool = False
) -> States:
    trainer = Trainer(load())
    trainer.training_limit = TokenLimit(limit)
    if checkpointing:
        trainer.enable_activation_checkpointing()
    with packed(trainer, candidates, load.states(trainer, candidates)) as pack:
        for number, batch in enumerate(batches(examples(trainer.model.config.vocab_size))):
            on_device = to(batch, trainer.base.device)
            trainer.step(pack, on_device, SCHEDULE.rate_factor(number))
        return states_of(pack)


def largest_error(actual: States, expected: States) -> float:
    return max(
        relative_error(actual[candidate].tensors[key], tensor)
        for candidate, state in expected.items()
        for key, tensor in state.weights.items()
    )


def bit_difference(actual: States, expected: States) -> float:
    """Zero where every bit is the same, else the largest error."""
    same = all(
        torch.equal(actual[candidate].tensors[key], tensor)
        for candidate, state in expected.items()
        for key, tensor in state.tensors.items()
    )
    return 0.0 if same else max(largest_error(actual, expected), 1e-30)


Case = tuple[str, float | None, Callable[[], dict[str, float] | float]]
"""A name, the bound of the error if it has one, and what computes the error."""


def cases_of(load: Callable[[str, torch.dtype], Loader], candidates: list[Candidate]) -> list[Case]:
    f32, f64, b16, f16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
    several = [*candidates, DROPOUT_CANDIDATES[0], HEAD_CANDIDATES[1]]

    def law(quantization: str, dtype: torch.dtype, own: list[Candidate]) -> Any:
        return lambda: errors_against_peft(load(quantization, dtype), own)

    def rounding(dtype: torch.dtype) -> Any:
        return lambda: rounding_of_peft(load("nf4", dtype), load("nf4", f32), candidates[:2])

    def split(dtype: torch.dtype, **options: Any) -> Any:
        return lambda: largest_error(
            train(load("nf4", dtype), several, **options), train(load("nf4", dtype), several)
        )

    def repeated(dtype: torch.dtype) -> Any:
        return lambda: bit_difference(
            train(load("nf4", dtype), several), train(load("nf4", dtype), several)
        )

    def apart() -> float:
        alone = {c: s for own in candidates for c, s in train(load("nf4", f32), [own]).items()}
        return largest_error(train(load("nf4", f32), candidates), alone)

    return [
        ("NF4, float32, against PEFT", 1e-4, law("nf4", f32, candidates)),
        ("NF4, bfloat16, against PEFT under autocast", None, law("nf4", b16, candidates)),
        ("  PEFT in bfloat16 against PEFT in float32", None, rounding(b16)),
        ("NF4, float64, against PEFT on dense weights", 1e-10, law("nf4", f64, candidates)),
        ("NF4, float64, dropout", 1e-10, law("nf4", f64, DROPOUT_CANDIDATES)),
        ("NF4, float64, adapted head", 1e-10, law("nf4", f64, HEAD_CANDIDATES)),
        ("float32 base, float32, against PEFT", 1e-4, law("fp32", f32, candidates)),
        ("NF4, float32, dropout", 1e-3, law("nf4", f32, DROPOUT_CANDIDATES)),
        ("NF4, float16 with loss scaling, against PEFT", None, law("nf4", f16, candidates)),
        ("  PEFT in float16 against PEFT in float32", None, rounding(f16)),
        ("float64: tiles of 30 tokens against one pass", 1e-10, split(f64, limit=30)),
        ("float64: activation checkpointing", 1e-10, split(f64, checkpointing=True)),
        ("float32: together against each in a pack of one", 1e-4, apart),
        ("float32: twice the same pack; 0 means the same bits", None, repeated(f32)),
        ("bfloat16: twice the same pack; 0 means the same bits", None, repeated(b16)),
    ]


def run_case(case: Case, clock: Clock, report: Report) -> bool:
    """Run and report a case; returns whether it kept its bound."""
    name, bound, work = case
    started = clock.gone
    try:
        result = work()
    except Exception as error:
        trace = traceback.format_exc()
        lines = [line.strip() for line in trace.splitlines() if "rung/" in line or "kit" in line]
        message = str(error).splitlines()[0][:200] if str(error) else ""
        print(f"ERROR {name}: {type(error).__name__}: {message}", flush=True)
        print("      " + " | ".join(lines)[-600:], flush=True)
        report.add(part="law", case=name, error=trace)
        return False
    errors = result if isinstance(result, dict) else {"all": result}
    worst = max(value for key, value in errors.items() if key != "evaluation")
    kept = bound is None or worst < bound
    verdict = "" if bound is None else "ok" if kept else "OVER"
    limit = "" if bound is None else f" (bound {bound:.0e})"
    evaluation = f", evaluation {errors['evaluation']:.1e}" if "evaluation" in errors else ""
    seconds = clock.gone - started
    print(f"{verdict:5} {name}: {worst:.2e}{limit}{evaluation}, {seconds:.1f} s", flush=True)
    result_row = {"bound": bound, "worst": worst, "errors": errors, "seconds": round(seconds, 1)}
    report.add(part="law", case=name, **result_row)
    return kept


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--real", action="store_true", help="only the real model's untuned loss")
    options = parser.parse_args()
    device, report, clock = place(options), Report(options.out), Clock(options.seconds)
    torch.backends.cuda.matmul.allow_tf32 = False
    if options.real:
        return _untuned_loss(report)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "tiny-llama"
        tiny_llama().save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)

        def load(quantization: str, dtype: torch.dtype) -> Loader:
            loader = Loader(str(folder), quantization, dtype)
            found = loader().device.type
            assert found == device.type, f"the model is on {found}, not on {device.type}"
            return loader

        failed = 0
        for case in cases_of(load, CANDIDATES[:2] if options.tiny else CANDIDATES):
            if clock.left(3):
                failed += not run_case(case, clock, report)
            else:
                print(f"-     {case[0]}: no time left", flush=True)
                report.add(part="law", case=case[0], skipped=True)
            common.clear(device)
    print(f"{failed} over their bound or in error", flush=True)


def _untuned_loss(report: Report) -> None:
    """Compare the real model's untuned loss with that of a CPU."""
    from rung.data.prepare import prepare
    from rung.recipe import Recipe

    for precision, expected in UNTUNED_LOSSES.items():
        base = bases.real_base(precision)
        if base is None:
            print("-     the real model is not installed here", flush=True)
            return
        rows = prepare(Recipe(), base.tokenizer).validation
        loss = Trainer(base).score(rows)[0].mean
        print(
            f"      untuned loss of the real model in {precision}: {loss:.5f} nats a token; "
            f"on a CPU {expected}",
            flush=True,
        )
        report.add(part="law", case=f"untuned loss, {precision}", found=loss, cpu=expected)


if __name__ == "__main__":
    main()
