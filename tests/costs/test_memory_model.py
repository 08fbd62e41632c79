from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.oracle import examples

from rung.costs.memory_model import (
    MEMORY_HEADROOM,
    Activations,
    CandidateMemory,
    MemoryModel,
    bound,
    measure,
    need,
)
from rung.engine.adapter_state import fresh_state
from rung.engine.pack import Pack
from rung.engine.process_memory import give_back_freed_memory, memory_limit, peak_bytes, reset_peak
from rung.engine.trainer import Trainer
from rung.model.load import Base, load_base
from rung.types import Candidate, Setting

MODEL = MemoryModel(10**9, Activations(1e7, 1e6, 4e3), Activations(1e7, 1e5, 4e3))


def test_what_a_candidate_adds_follows_from_the_shapes(tiny_base: Base) -> None:
    frozen = Trainer(tiny_base).frozen
    candidate = Candidate(Setting(8, 16, "q_proj", 1e-3))
    parameters = 2 * 8 * (64 + 64)
    assert need(frozen, candidate, torch.bfloat16) == CandidateMemory(parameters * 18, 2 * 8 * 2)
    assert need(frozen, candidate, torch.float32).state == parameters * 20
    dropping = Candidate(Setting(8, 16, "q_proj", 1e-3, dropout=0.1))
    assert need(frozen, dropping, torch.bfloat16).per_token == 2 * 8 * 2 + 2 * 64


def test_the_state_of_a_pack_is_what_its_tensors_take(tiny_base: Base) -> None:
    trainer = Trainer(tiny_base)
    candidates = [
        Candidate(Setting(8, 16, "attention", 1e-3)),
        Candidate(Setting(4, 8, "all-linear", 1e-3)),
    ]
    with Pack(
        trainer.frozen, candidates, [fresh_state(trainer.frozen, c, 0) for c in candidates]
    ) as pack:
        held = sum(
            t.numel() * t.element_size()
            for group in pack.groups
            for t in (group.weights, group.gradients, group.compute_weights)
        )
        held += sum(m.numel() * 4 for i in range(2) for m in pack.optimizer.moments(i).values())
    assert held == sum(need(trainer.frozen, c, torch.float32).state for c in candidates)


@given(
    st.lists(
        st.builds(CandidateMemory, st.integers(10**6, 10**9), st.integers(0, 10**5)),
        min_size=1,
        max_size=9,
    ),
    st.integers(1, 8),
    st.integers(1, 512),
    st.floats(1e9, 1e11),
)
def test_a_plan_keeps_within_the_memory(
    needs: list[CandidateMemory], rows: int, length: int, memory: float
) -> None:
    width = MODEL.width(needs, rows, length, memory)
    assert 1 <= width <= len(needs)
    room = MODEL.room(needs[:width], length, memory)
    if width > 1:
        assert room >= rows * length, "the rows of one candidate fit"
    if room:
        most = max(n.per_token for n in needs[:width])
        used = (
            MODEL.held
            + sum(n.state for n in needs[:width])
            + MODEL.training.bytes(room, length)
            + room * most
        )
        assert used <= memory * (1 - MEMORY_HEADROOM) + 1


def test_more_memory_is_a_wider_pack_and_more_room() -> None:
    needs = [CandidateMemory(10**8, 1000)] * 8
    widths = [MODEL.width(needs, 4, 64, memory) for memory in (1e9, 1.5e9, 2e9, 1e10)]
    assert widths == sorted(widths)
    assert (widths[0], widths[-1]) == (1, 8)
    assert MODEL.room(needs, 64, 1e9) == 0, "not one row"
    assert 0 < MODEL.room(needs, 64, 3e9) < MODEL.room(needs, 64, 6e9)


def test_the_limit_is_no_more_than_the_machine_has() -> None:
    assert 10**8 < memory_limit(torch.device("cpu")) < 10**14


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "width", "length"), [(4, 8, 12), (64, 4, 100), (16, 8, 100)])
def test_the_peak_of_a_pack_is_foretold(
    tiny_folder: Path, rank: int, width: int, length: int
) -> None:
    """Loosely, since a tiny model's needs drown in the process; `benchmarks/plan.py` has the real ones."""
    trainer = Trainer(load_base(str(tiny_folder), "nf4", "fp32"))
    rows = [e for e in examples(97, 64, length + 1) if len(e.ids) >= 5]
    model = measure(trainer, Candidate(Setting(8, 16, "attention", 1e-3)), rows)
    candidates = [
        Candidate(Setting(rank, 2 * rank, "attention", 1e-3), seed=seed) for seed in range(width)
    ]
    from rung.data.batches import collate

    batch = collate(rows[:16])
    needs = [need(trainer.frozen, c, torch.float32) for c in candidates]
    predicted = model.peak(needs, *batch.ids.shape)
    with Pack(
        trainer.frozen, candidates, [fresh_state(trainer.frozen, c, 0) for c in candidates]
    ) as pack:
        give_back_freed_memory()
        reset_peak(trainer.base.device)
        trainer.step(pack, batch, 1.0)
        peak = peak_bytes(trainer.base.device)
    assert predicted == pytest.approx(peak, rel=0.15)
    assert bound(trainer, needs, batch.ids.shape[0], 128, batch.ids.shape[1]) > peak
