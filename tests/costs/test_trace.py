"""A step that nobody runs, against the same step run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.architectures import ARCHITECTURES
from tests.engine.setups import examples

from rung.costs.trace import OperationTracer, blank_state, fake_trainer
from rung.data.batches import collate
from rung.engine.pack import Pack
from rung.engine.trainer import Trainer
from rung.model.anatomy import anatomy
from rung.model.load import Base
from rung.types import Candidate, Setting

ROWS = [e for e in examples(97, 32, 40) if len(e.ids) >= 5]
ALL_LINEAR = Candidate(Setting(4, 8, "all-linear", 1e-3))
ATTENTION = Candidate(Setting(4, 8, "attention", 1e-3))


def test_bytes_count_as_held_while_they_are_held() -> None:
    with OperationTracer() as tracer:
        kept = torch.zeros(1000)
        assert tracer.held == 4000
        trace = tracer.trace(lambda: (torch.ones(500) + torch.ones(500)).sum())
        assert 6000 <= trace.peak <= 6100, "two of 2,000 bytes, their sum, and a number"
        assert tracer.held == 4000, "the three are freed again"
        view = kept[:10]
        assert tracer.held == 4000, "a view holds nothing of its own"
        del kept, view
    assert tracer.held == 0


def test_operations_are_counted_with_the_bytes_that_they_move() -> None:
    with OperationTracer() as tracer:
        a, b = torch.zeros(8, 16), torch.zeros(16, 4)
        ((flops, moved),) = tracer.trace(lambda: a @ b).operations
    assert flops == 2 * 8 * 16 * 4
    assert moved == 4 * (8 * 16 + 16 * 4 + 8 * 4)


def test_an_operation_is_bound_by_arithmetic_or_by_memory() -> None:
    with OperationTracer() as tracer:
        a, b = torch.zeros(8, 16), torch.zeros(16, 4)
        trace = tracer.trace(lambda: a @ b)
    assert trace.seconds(1024, 1e9, 0.0) == pytest.approx(1.0)
    assert trace.seconds(1e9, 896, 0.5) == pytest.approx(1.5)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "phi3", "mixtral"])
@pytest.mark.parametrize("quantization", ["nf4", "int8", "bf16"])
def test_any_architecture_can_be_traced(name: str, quantization: str) -> None:
    batch = collate(ROWS[:4])
    with fake_trainer(ARCHITECTURES[name](), quantization, "bf16") as (trainer, tracer):
        frozen = trainer.frozen
        with Pack(frozen, [ATTENTION], [blank_state(frozen, ATTENTION)]) as pack:
            step = tracer.trace(lambda: trainer.gradients(pack, batch))
            score = tracer.trace(lambda: trainer.row_losses(pack, batch))
        trainer.enable_activation_checkpointing()
        with Pack(frozen, [ATTENTION], [blank_state(frozen, ATTENTION)]) as pack:
            checkpointed = tracer.trace(lambda: trainer.gradients(pack, batch))
    assert step.peak > checkpointed.peak > 0
    assert score.peak < step.peak
    forwards, with_backwards, recomputed = (
        sum(operation.flops for operation in trace.operations)
        for trace in (score, step, checkpointed)
    )
    assert 0 < forwards < with_backwards < recomputed


@pytest.mark.parametrize(("quantization", "kind"), [("nf4", "nf4"), ("bf16", "bfloat16")])
def test_the_base_of_a_fake_trainer_takes_what_is_really_held(
    tiny_folder: Path, quantization: str, kind: str
) -> None:
    model = anatomy(str(tiny_folder))
    with fake_trainer(model.model.config, quantization, "bf16") as (_, tracer):
        held = tracer.held
    assert held == pytest.approx(model.footprint().with_scales[kind], rel=0.01)


def test_a_fake_step_holds_and_computes_what_the_same_real_step_does(tiny_base: Base) -> None:
    """The same engine with the same shapes in float32, traced in both cases."""
    trainer, batch = Trainer(tiny_base, attention=("sdpa", "sdpa")), collate(ROWS[:8])
    state = blank_state(trainer.frozen, ALL_LINEAR)
    with OperationTracer() as tracer, Pack(trainer.frozen, [ALL_LINEAR], [state]) as pack:
        trainer.gradients(pack, batch)  # some things are made once and then held
        real = tracer.trace(lambda: trainer.gradients(pack, batch))
    with (
        fake_trainer(tiny_base.model.config, "fp32", "fp32") as (fake, tracer),
        Pack(fake.frozen, [ALL_LINEAR], [blank_state(fake.frozen, ALL_LINEAR)]) as pack,
    ):
        traced = tracer.trace(lambda: fake.gradients(pack, collate(ROWS[:8])))
    assert traced.peak == pytest.approx(real.peak, rel=0.05)
    flops = [sum(operation.flops for operation in t.operations) for t in (traced, real)]
    assert flops[0] == pytest.approx(flops[1], rel=0.02)
