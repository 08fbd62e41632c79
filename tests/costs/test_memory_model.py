"""What a pack takes, from shapes and fitted passes."""

from __future__ import annotations

import pytest
import torch

from rung.costs.memory_model import (
    Activations,
    CandidateMemory,
    MemoryModel,
    candidate_memory,
    fit_activations,
)
from rung.engine.adapter_state import fresh_state
from rung.engine.pack import Pack
from rung.engine.trainer import Trainer
from rung.model.load import Base
from rung.types import Candidate, Setting


def test_what_a_candidate_adds_follows_from_the_shapes(tiny_base: Base) -> None:
    frozen = Trainer(tiny_base).frozen
    setting = Setting(8, 16, "q_proj", 1e-3)
    parameters = 2 * 8 * (64 + 64)
    own = candidate_memory(frozen, setting, torch.bfloat16)
    assert own == CandidateMemory(parameters * 18, 2 * 8 * 2)
    assert candidate_memory(frozen, setting, torch.float32).state == parameters * 20
    with_dropout = Setting(8, 16, "q_proj", 1e-3, dropout=0.1)
    masks = 2 * 64
    per_token = candidate_memory(frozen, with_dropout, torch.bfloat16).per_token
    assert per_token == own.per_token + masks


def test_the_state_of_a_pack_is_what_its_tensors_take(tiny_base: Base) -> None:
    frozen = Trainer(tiny_base).frozen
    candidates = [
        Candidate(Setting(8, 16, "attention", 1e-3)),
        Candidate(Setting(4, 8, "all-linear", 1e-3)),
    ]
    with Pack(frozen, candidates, [fresh_state(frozen, c, 0) for c in candidates]) as pack:
        held = sum(
            t.numel() * t.element_size()
            for group in pack.groups
            for t in (group.weights, group.gradients, group.compute_weights)
        )
        held += sum(m.numel() * 4 for i in range(2) for m in pack.optimizer.moments(i).values())
    expected = [candidate_memory(frozen, c.setting, torch.float32).state for c in candidates]
    assert held == sum(expected)


def test_the_peak_is_the_base_the_candidates_and_one_pass_over_all_their_rows() -> None:
    model = MemoryModel(10**9, Activations(1e7, 1e6, 4e3), Activations(0, 0, 0))
    candidates = [CandidateMemory(10**8, 10), CandidateMemory(2 * 10**8, 20)]
    rows, length = 4, 64
    tokens = 2 * rows * length
    own = 3 * 10**8 + (10 + 20) * rows * length
    expected = 10**9 + own + 1e7 + tokens * (1e6 + length * 4e3)
    assert model.peak(candidates, rows, length) == expected


def test_as_many_tokens_fit_as_take_no_more_than_the_limit() -> None:
    activations = Activations(1e7, 1e6, 4e3)
    limit, length, extra = 5e9, 64, 100.0
    tokens = activations.tokens_within(limit, length, extra)
    assert activations.bytes(tokens, length) + extra * tokens <= limit
    assert activations.bytes(tokens + 1, length) + extra * (tokens + 1) > limit


def test_passes_that_were_not_seen_to_grow_may_have_any_number_of_tokens() -> None:
    flat = Activations(1e7, 0.0, 0.0)
    assert flat.tokens_within(1e7, 64) > 10**12
    assert flat.tokens_within(1e7 - 1, 64) == 0


def test_activations_are_fitted_to_the_peaks_of_passes() -> None:
    true = Activations(1e7, 2e5, 3e2)
    shapes = [(64, 16), (256, 64), (512, 32), (768, 64)]
    fitted = fit_activations(shapes, [true.bytes(*shape) for shape in shapes])
    assert fitted.fixed == pytest.approx(true.fixed)
    assert fitted.per_token == pytest.approx(true.per_token)
    assert fitted.per_pair == pytest.approx(true.per_pair)
