"""Tests for a machine with a CUDA device: `make test-gpu`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.candidates import candidate_of
from tests.engine.rounding import FAIR, forward_tolerance, relative_error
from tests.engine.setups import (
    CANDIDATES,
    SCHEDULE,
    SEED,
    Loader,
    assert_same_weights,
    batches,
    examples,
    packed,
    states_of,
)

from rung.costs.memory_model import candidate_memory
from rung.costs.memory_probes import measure_memory
from rung.data.batches import Batch
from rung.engine.adapter_state import AdapterState, fresh_state
from rung.engine.pack import Pack
from rung.engine.process_memory import memory_limit, peak_bytes, reset_peak
from rung.engine.trainer import Trainer
from rung.model.load import Base, load_base
from rung.types import Candidate

pytestmark = pytest.mark.gpu

DROPOUT_CANDIDATE = candidate_of(4, 8, "attention", 1e-3, dropout=0.1)
HEAD_CANDIDATE = candidate_of(4, 8, "attention+lm_head", 1e-3)


@pytest.fixture(autouse=True)
def full_float32() -> None:
    """Products are computed in full float32."""
    torch.backends.cuda.matmul.allow_tf32 = False


def on_gpu(base: Base) -> Trainer:
    assert base.device.type == "cuda"
    return Trainer(base)


def to(batch: Batch, device: torch.device) -> Batch:
    tensors = (t.to(device) for t in (batch.ids, batch.positions, batch.labels, batch.rows))
    return Batch(*tensors, batch.tokens)


def train(
    trainer: Trainer, states: Mapping[Candidate, AdapterState]
) -> dict[Candidate, AdapterState]:
    with packed(trainer, list(states), list(states.values())) as pack:
        for number, batch in enumerate(batches(examples(trainer.model.config.vocab_size))):
            on_device = to(batch, trainer.base.device)
            losses = trainer.step(pack, on_device, SCHEDULE.rate_factor(number))
            assert all(math.isfinite(loss) for loss in losses.tolist())
            assert not pack.diverged
        return states_of(pack)


@pytest.mark.parametrize("quantization", ["fp32", "nf4"])
def test_the_results_do_not_depend_on_how_candidates_are_packed(
    tiny_folder: Path, quantization: str
) -> None:
    load = Loader(str(tiny_folder), quantization, torch.float64)
    candidates = [*CANDIDATES, DROPOUT_CANDIDATE, HEAD_CANDIDATE]
    trainer = on_gpu(load())
    states = dict(zip(candidates, load.states(trainer, candidates), strict=True))
    together = train(trainer, states)
    for candidate, state in states.items():
        assert_same_weights(together, train(on_gpu(load()), {candidate: state}))


def test_the_gradients_of_a_gpu_are_as_exact_as_those_of_a_cpu(tiny_folder: Path) -> None:
    load = Loader(str(tiny_folder), "fp32", torch.float32)
    gpu_losses, gpu_gradients = gradients(load, "cuda")
    _, cpu_gradients = gradients(load, "cpu")
    exact_losses, exact_gradients = gradients(load.exact(), "cpu")
    assert relative_error(gpu_losses, exact_losses) < forward_tolerance()
    for gpu, cpu, exact in zip(gpu_gradients, cpu_gradients, exact_gradients, strict=True):
        assert relative_error(gpu, exact) < FAIR * relative_error(cpu, exact)


def gradients(load: Loader, device: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
    base, candidates = load(), [*CANDIDATES, HEAD_CANDIDATE]
    trainer = Trainer(replace(base, model=base.model.to(device)))
    batch = to(batches(examples(trainer.model.config.vocab_size))[0], trainer.base.device)
    with packed(trainer, candidates, load.states(trainer, candidates)) as pack:
        losses = trainer.gradients(pack, batch).cpu()
        return losses, [group.gradients.cpu() for group in pack.groups]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_candidates_learn_in_a_narrow_precision(tiny_folder: Path, precision: str) -> None:
    trainer = on_gpu(load_base(str(tiny_folder), "nf4", precision))
    rows = examples(trainer.model.config.vocab_size)
    (untuned,) = trainer.score(rows)
    fresh = {candidate: fresh_state(trainer.frozen, candidate, SEED) for candidate in CANDIDATES}
    trained = train(trainer, fresh)
    with packed(trainer, CANDIDATES, [trained[candidate] for candidate in CANDIDATES]) as pack:
        assert min(scores.mean for scores in trainer.score(rows, pack)) < untuned.mean


def test_the_memory_model_predicts_the_peak_of_a_pack(tiny_folder: Path) -> None:
    trainer = on_gpu(load_base(str(tiny_folder), "nf4", "fp32"))
    rows = [row for row in examples(97, 64, 101) if len(row.ids) > 50]
    memory_model = measure_memory(trainer, CANDIDATES[0].setting, rows)
    candidates = [candidate_of(16, 32, "attention", 1e-3, seed=seed) for seed in range(4)]
    batch = to(batches(rows, 8, 1)[0], trainer.base.device)
    states = [fresh_state(trainer.frozen, candidate, 0) for candidate in candidates]
    with Pack(trainer.frozen, candidates, states) as pack:
        reset_peak(trainer.base.device)
        trainer.step(pack, batch, 1.0)
        peak = peak_bytes(trainer.base.device)
    memory = [
        candidate_memory(trainer.frozen, candidate.setting, trainer.base.dtype)
        for candidate in candidates
    ]
    assert memory_model.peak(memory, *batch.ids.shape) == pytest.approx(peak, rel=0.15)
    assert peak < memory_limit(trainer.base.device)
