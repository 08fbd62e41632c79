"""What packs cost on a device: measured on real steps, or estimated from traced ones."""

from __future__ import annotations

from pathlib import Path

import torch
from tests.architectures import ARCHITECTURES
from tests.engine.setups import examples
from transformers import LlamaConfig

from rung.costs.devices import device
from rung.costs.memory_model import candidate_memory
from rung.costs.probes import estimate_costs, measure_costs
from rung.engine.trainer import Trainer
from rung.model.load import load_base
from rung.types import Setting

ROWS = [e for e in examples(97, 32, 40) if len(e.ids) >= 5]
SETTING = Setting(4, 8, "all-linear", 1e-3)


def test_costs_are_measured_on_real_steps_that_leave_nothing(tiny_folder: Path) -> None:
    trainer = Trainer(load_base(str(tiny_folder), "nf4", "fp32"))
    costs = measure_costs(trainer, SETTING, ROWS)
    assert costs.measured
    parameters = trainer.frozen.parameters(SETTING)
    short, long = (costs.size.training([parameters] * 2, tokens, 50) for tokens in (200, 20_000))
    assert 0 < costs.training.seconds(short) < costs.training.seconds(long)
    assert costs.training.seconds(short) < 60
    assert not any("Packed" in type(m).__name__ for m in trainer.model.modules())


def test_a_faster_device_is_faster_and_memory_is_the_same_on_both() -> None:
    """On layers that are wide enough for the peaks to matter."""
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=2048,
        intermediate_size=4096,
        num_hidden_layers=2,
        num_attention_heads=16,
    )
    slow, fast = (
        estimate_costs(config, "nf4", "bf16", SETTING, ROWS, device(name))
        for name in ("l4", "h100")
    )
    training = slow.size.training([10**5], 10**5, 10**4)
    scoring = slow.size.scoring([10**5], 10**5, 10**4)
    assert 2 * fast.training.seconds(training) < slow.training.seconds(training)
    assert 2 * fast.scoring.seconds(scoring) < slow.scoring.seconds(scoring)
    memory = [candidate_memory(slow.frozen, SETTING, torch.bfloat16)]
    assert fast.memory.peak(memory, 4, 32) == slow.memory.peak(memory, 4, 32)
    assert not slow.measured


def test_activation_checkpointing_takes_less_memory_and_more_time() -> None:
    config = ARCHITECTURES["llama"]()
    plain, checkpointed = (
        estimate_costs(config, "nf4", "bf16", SETTING, ROWS, device("l4"), checkpointing)
        for checkpointing in (False, True)
    )
    memory = [candidate_memory(plain.frozen, SETTING, torch.bfloat16)]
    assert checkpointed.memory.peak(memory, 64, 32) < plain.memory.peak(memory, 64, 32)
    step = plain.size.training([10**5], 768, 100)
    assert checkpointed.training.seconds(step) > plain.training.seconds(step)
