"""For a machine with a CUDA device: `make test-gpu`. Written without one; the README says what has been run where."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.engine.oracle import CANDIDATES, SCHEDULE, SEED, Loader, batches, examples, packed
from tests.engine.rounding import FAIR, TRAINED, forward_tolerance, relative_error

from rung.costs.memory_model import measure, need
from rung.data.batches import Batch
from rung.engine.adapter_state import AdapterState, fresh_state
from rung.engine.pack import Pack
from rung.engine.process_memory import memory_limit, peak_bytes, reset_peak
from rung.engine.trainer import Trainer
from rung.model.load import Base, load_base
from rung.types import Candidate, Setting

pytestmark = pytest.mark.gpu

DROPPING = Candidate(Setting(4, 8, "attention", 1e-3, dropout=0.1))
HEAD = Candidate(Setting(4, 8, "attention+lm_head", 1e-3))


@pytest.fixture(autouse=True)
def exact() -> None:
    """Products in full float32, and kernels that add up in one order."""
    torch.backends.cuda.matmul.allow_tf32 = False


def on_gpu(base: Base) -> Trainer:
    assert base.device.type == "cuda"
    return Trainer(base)


def to(batch: Batch, device: torch.device) -> Batch:
    tensors = (t.to(device) for t in (batch.ids, batch.positions, batch.labels, batch.rows))
    return Batch(*tensors, batch.tokens)


def train(made: Trainer, states: Mapping[Candidate, AdapterState]) -> dict[Candidate, AdapterState]:
    with packed(made, list(states), list(states.values())) as pack:
        for number, batch in enumerate(batches(examples(made.model.config.vocab_size))):
            losses = made.step(pack, to(batch, made.base.device), SCHEDULE.rate_factor(number))
            assert all(math.isfinite(loss) for loss in losses.tolist())
            assert not pack.diverged
        return {candidate: pack.state(i) for i, candidate in enumerate(pack.candidates)}


@pytest.mark.parametrize("quantization", ["fp32", "nf4"])
def test_how_a_pack_is_split_changes_nothing(tiny_folder: Path, quantization: str) -> None:
    load, candidates = (
        Loader(str(tiny_folder), quantization, torch.float64),
        [*CANDIDATES, DROPPING, HEAD],
    )
    made = on_gpu(load())
    states = dict(zip(candidates, load.states(made, candidates), strict=True))
    together = train(made, states)
    for candidate, state in states.items():
        alone = train(on_gpu(load()), {candidate: state})[candidate]
        for key, tensor in alone.weights.items():
            assert relative_error(together[candidate].tensors[key], tensor) < TRAINED, (
                candidate.id,
                key,
            )


def test_a_gpu_gives_the_gradients_of_a_cpu(tiny_folder: Path) -> None:
    """In float32: no further from the exact ones than a CPU's are."""
    load = Loader(str(tiny_folder), "fp32", torch.float32)
    (losses, found), (_, theirs), (exact_losses, exact) = (
        gradients(load, "cuda"),
        gradients(load, "cpu"),
        gradients(load.exact(), "cpu"),
    )
    assert relative_error(losses, exact_losses) < forward_tolerance()
    for one, other, wanted in zip(found, theirs, exact, strict=True):
        assert relative_error(one, wanted) < FAIR * relative_error(other, wanted)


def gradients(load: Loader, device: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
    base = load()
    made, candidates = Trainer(replace(base, model=base.model.to(device))), [*CANDIDATES, HEAD]
    batch = to(batches(examples(made.model.config.vocab_size))[0], made.base.device)
    with packed(made, candidates, load.states(made, candidates)) as pack:
        return made.gradients(pack, batch).cpu(), [group.gradients.cpu() for group in pack.groups]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_narrow_precision_learns(tiny_folder: Path, precision: str) -> None:
    made = on_gpu(load_base(str(tiny_folder), "nf4", precision))
    rows = examples(made.model.config.vocab_size)
    (before,) = made.score(rows)
    ended = train(
        made, {candidate: fresh_state(made.frozen, candidate, SEED) for candidate in CANDIDATES}
    )
    with packed(made, CANDIDATES, [ended[candidate] for candidate in CANDIDATES]) as pack:
        assert min(score.mean for score in made.score(rows, pack)) < before.mean


def test_the_peak_of_a_pack_is_foretold(tiny_folder: Path) -> None:
    made = on_gpu(load_base(str(tiny_folder), "nf4", "fp32"))
    rows = [row for row in examples(97, 64, 101) if len(row.ids) > 50]
    model = measure(made, CANDIDATES[0], rows)
    candidates = [Candidate(Setting(16, 32, "attention", 1e-3), seed=seed) for seed in range(4)]
    batch = to(batches(rows, 8, 1)[0], made.base.device)
    with Pack(
        made.frozen, candidates, [fresh_state(made.frozen, c, 0) for c in candidates]
    ) as pack:
        reset_peak(made.base.device)
        made.step(pack, batch, 1.0)
        actual = peak_bytes(made.base.device)
    needs = [need(made.frozen, candidate, made.base.dtype) for candidate in candidates]
    assert model.peak(needs, *batch.ids.shape) == pytest.approx(actual, rel=0.15)
    assert actual < memory_limit(made.base.device)
