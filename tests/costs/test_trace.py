"""A step that nobody runs, against the same step run: its operations and its memory follow from shapes alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.architectures import ARCHITECTURES
from tests.engine.oracle import examples

from rung.costs.devices import device, devices
from rung.costs.memory_model import need
from rung.costs.probes import measured, rehearsed
from rung.costs.time_model import Load, Sizes, Speed
from rung.costs.trace import Watch, blank_state, rehearsal
from rung.data.batches import collate
from rung.engine.pack import Pack
from rung.engine.trainer import Trainer
from rung.errors import RecipeError
from rung.model.anatomy import anatomy
from rung.model.load import Base, load_base
from rung.types import Candidate, Setting

ROWS = [e for e in examples(97, 32, 40) if len(e.ids) >= 5]
A = Candidate(Setting(4, 8, "all-linear", 1e-3))


def test_what_is_held_is_seen_while_it_is_held() -> None:
    with Watch() as watch:
        kept = torch.zeros(1000)
        assert watch.held == 4000
        work = watch.see(lambda: (torch.ones(500) + torch.ones(500)).sum())
        assert 6000 <= work.peak <= 6100, "two of 2,000 bytes, their sum, and a number"
        assert watch.held == 4000, "it has gone again"
        view = kept[:10]
        assert watch.held == 4000, "a view holds nothing of its own"
        del kept, view
    assert watch.held == 0


def test_operations_are_counted_with_what_they_move() -> None:
    with Watch() as watch:
        a, b = torch.zeros(8, 16), torch.zeros(16, 4)
        ((flops, moved),) = watch.see(lambda: a @ b).operations
    assert flops == 2 * 8 * 16 * 4
    assert moved == 4 * (8 * 16 + 16 * 4 + 8 * 4)


def test_a_roofline_is_bound_by_arithmetic_or_by_memory() -> None:
    with Watch() as watch:
        a, b = torch.zeros(8, 16), torch.zeros(16, 4)
        work = watch.see(lambda: a @ b)
    assert work.seconds(1024, 1e9, 0.0) == pytest.approx(1.0)
    assert work.seconds(1e9, 896, 0.5) == pytest.approx(1.5)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "phi3", "mixtral"])
@pytest.mark.parametrize("quantization", ["nf4", "int8", "bf16"])
def test_any_architecture_can_be_rehearsed(name: str, quantization: str) -> None:
    candidate = Candidate(Setting(4, 8, "attention", 1e-3))
    with rehearsal(ARCHITECTURES[name](), quantization, "bf16") as (trainer, watch):
        with Pack(trainer.frozen, [candidate], [blank_state(trainer.frozen, candidate)]) as pack:
            step = watch.see(lambda: trainer.gradients(pack, collate(ROWS[:4])))
            score = watch.see(lambda: trainer.row_losses(pack, collate(ROWS[:4])))
        trainer.enable_activation_checkpointing()
        with Pack(trainer.frozen, [candidate], [blank_state(trainer.frozen, candidate)]) as pack:
            lean = watch.see(lambda: trainer.gradients(pack, collate(ROWS[:4])))
    assert step.peak > lean.peak > 0
    assert score.peak < step.peak
    flops = [sum(f for f, _ in work.operations) for work in (score, step, lean)]
    assert flops == sorted(flops), "forwards; and backwards; and forwards once more"


def test_the_base_of_a_rehearsal_is_what_is_really_held(tiny_folder: Path) -> None:
    found = anatomy(str(tiny_folder))
    for quantization in ("nf4", "bf16"):
        with rehearsal(found.model.config, quantization, "bf16") as (_, watch):
            held = watch.held
        kind = {"nf4": "nf4", "bf16": "bfloat16"}[quantization]
        assert held == pytest.approx(found.footprint().held[kind], rel=0.01)


def test_a_rehearsed_step_holds_what_the_same_step_holds(tiny_base: Base) -> None:
    """The same engine with the same shapes in float32, watched in both cases."""
    trainer, batch = Trainer(tiny_base, attention=("sdpa", "sdpa")), collate(ROWS[:8])
    with Watch() as watch, Pack(trainer.frozen, [A], [blank_state(trainer.frozen, A)]) as pack:
        trainer.gradients(pack, batch)  # some things are made once, and then held
        real = watch.see(lambda: trainer.gradients(pack, batch))
    with (
        rehearsal(tiny_base.model.config, "fp32", "fp32") as (paper, seen),
        Pack(paper.frozen, [A], [blank_state(paper.frozen, A)]) as pack,
    ):
        found = seen.see(lambda: paper.gradients(pack, collate(ROWS[:8])))
    assert found.peak == pytest.approx(real.peak, rel=0.05)
    assert sum(f for f, _ in found.operations) == pytest.approx(
        sum(f for f, _ in real.operations), rel=0.02
    )


def test_loads_add_up_and_speeds_are_found_again() -> None:
    sizes, true = Sizes(10**8, 10**7), Speed(0.1, 1e-12, 3e-12, 1e-9)
    loads = [
        sizes.training([r * 10**5] * k, tokens, tokens / 4)
        for k, r, tokens in ((1, 8, 256), (1, 8, 768), (1, 64, 512), (4, 64, 192), (4, 16, 100))
    ]
    found = Speed.through(loads, [true.seconds(load) for load in loads])
    total = Load()
    for load in loads:
        total += load
    assert found.seconds(total) == pytest.approx(sum(true.seconds(load) for load in loads))
    assert found.seconds(loads[0].times(2)) == pytest.approx(2 * true.seconds(loads[0]))


def test_costs_are_calibrated_by_real_steps_that_leave_nothing(tiny_folder: Path) -> None:
    trainer = Trainer(load_base(str(tiny_folder), "nf4", "fp32"))
    costs = measured(trainer, A, ROWS)
    assert costs.measured
    load = costs.sizes.training([trainer.frozen.parameters(A)] * 2, 200, 50)
    assert 0 < costs.training.seconds(load) < 60
    assert not any("Packed" in type(m).__name__ for m in trainer.model.modules())


def test_a_faster_device_is_faster_and_memory_is_the_same_on_both() -> None:
    config = ARCHITECTURES["llama"]()
    slow, fast = (
        rehearsed(config, "nf4", "bf16", A, ROWS, device(name)) for name in ("l4", "h100")
    )
    load = slow.sizes.training([10**5], 10**5, 10**4)
    assert fast.training.seconds(load) <= slow.training.seconds(load)
    needs = [need(slow.frozen, A, torch.bfloat16)]
    assert fast.memory.peak(needs, 4, 32) == slow.memory.peak(needs, 4, 32)
    assert not slow.measured


def test_every_device_has_its_peaks_and_their_source() -> None:
    for name, one in devices().items():
        assert name == name.lower()
        assert 8 <= one.memory_gb <= 200
        assert 50 <= one.tflops <= 2500
        assert 200 <= one.bandwidth_gb <= 10_000
        assert one.source
    assert device("T4").precision == "fp16"
    assert {"t4", "l4", "a10", "a100", "h100", "rtx4090"} <= devices().keys()
    with pytest.raises(RecipeError, match="no device 'tpu'; give here, or one of t4,"):
        device("tpu")
