"""For a machine with a CUDA device: `make test-gpu`. Written without one; the README says what has been run where."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tests.engine.oracle import CANDIDATES, SCHEDULE, SEED, batches, examples, packed, relative_error

from rung.data.batches import Batch
from rung.engine.memory import memory_limit, peak_bytes, reset_peak
from rung.engine.pack import AdapterState, Pack, fresh_state
from rung.engine.plan import measure, need
from rung.engine.trainer import Trainer
from rung.levers import Candidate
from rung.model.load import Base, load_base

pytestmark = pytest.mark.gpu

DROPPING = Candidate(4, 8, "attention", 1e-3, dropout=0.1)
HEAD = Candidate(4, 8, "attention+lm_head", 1e-3)


@pytest.fixture(autouse=True)
def exact() -> None:
    """Products in full float32, and kernels that add up in one order."""
    torch.backends.cuda.matmul.allow_tf32 = False


def trainer(folder: Path, quantization: str, precision: str) -> Trainer:
    made = Trainer(load_base(str(folder), quantization, precision))
    assert made.base.device.type == "cuda"
    return made


def to(batch: Batch, device: torch.device) -> Batch:
    tensors = (t.to(device) for t in (batch.ids, batch.positions, batch.labels, batch.rows))
    return Batch(*tensors, batch.tokens)


def train(made: Trainer, candidates: list[Candidate]) -> dict[Candidate, AdapterState]:
    states = [fresh_state(made.frozen, candidate, SEED) for candidate in candidates]
    with packed(made, candidates, states) as pack:
        for number, batch in enumerate(batches(examples(made.model.config.vocab_size))):
            losses = made.step(pack, to(batch, made.base.device), SCHEDULE.share(number))
            assert all(math.isfinite(loss) for loss in losses.tolist())
            assert not pack.lost
        return {candidate: pack.state(i) for i, candidate in enumerate(pack.candidates)}


@pytest.mark.parametrize("quantization", ["fp32", "nf4"])
def test_how_a_pack_is_split_changes_nothing(tiny_folder: Path, quantization: str) -> None:
    candidates = [*CANDIDATES, DROPPING, HEAD]
    together = train(trainer(tiny_folder, quantization, "fp32"), candidates)
    for candidate in candidates:
        alone = train(trainer(tiny_folder, quantization, "fp32"), [candidate])[candidate]
        for key, tensor in alone.weights.items():
            assert relative_error(together[candidate].tensors[key], tensor) < 1e-4, (candidate.id, key)


def test_a_gpu_gives_the_gradients_of_a_cpu(tiny_folder: Path) -> None:
    on_gpu = trainer(tiny_folder, "fp32", "fp32")
    base = load_base(str(tiny_folder), "fp32", "fp32")
    on_cpu = Trainer(Base(base.model.to("cpu"), base.tokenizer, base.source, base.dtype))
    batch = batches(examples(on_cpu.model.config.vocab_size))[0]
    found = []
    for made in (on_gpu, on_cpu):
        states = [fresh_state(made.frozen, candidate, SEED) for candidate in (*CANDIDATES, HEAD)]
        with Pack(made.frozen, [*CANDIDATES, HEAD], states) as pack:
            losses = made.gradients(pack, to(batch, made.base.device))
            found.append((losses.cpu(), [group.gradients.cpu() for group in pack.groups]))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-5)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert relative_error(one, other) < 1e-4


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_narrow_precision_learns(tiny_folder: Path, precision: str) -> None:
    made = trainer(tiny_folder, "nf4", precision)
    rows = examples(made.model.config.vocab_size)
    (before,) = made.score(rows)
    ended = train(made, CANDIDATES)
    with packed(made, CANDIDATES, [ended[candidate] for candidate in CANDIDATES]) as pack:
        assert min(score.mean for score in made.score(rows, pack)) < before.mean


def test_the_peak_of_a_pack_is_foretold(tiny_folder: Path) -> None:
    made = trainer(tiny_folder, "nf4", "fp32")
    rows = [row for row in examples(97, 64, 101) if len(row.ids) > 50]
    model = measure(made, CANDIDATES[0], rows)
    candidates = [Candidate(16, 32, "attention", 1e-3, seed=seed) for seed in range(4)]
    batch = to(batches(rows, 8, 1)[0], made.base.device)
    with Pack(made.frozen, candidates, [fresh_state(made.frozen, c, 0) for c in candidates]) as pack:
        reset_peak(made.base.device)
        made.step(pack, batch, 1.0)
        actual = peak_bytes(made.base.device)
    needs = [need(made.frozen, candidate, made.base.dtype) for candidate in candidates]
    assert model.peak(needs, *batch.ids.shape) == pytest.approx(actual, rel=0.15)
    assert actual < memory_limit(made.base.device)
