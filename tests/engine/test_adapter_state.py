from __future__ import annotations

import math

import pytest
import torch
from tests.candidates import candidate_of
from tests.tiny import tiny_llama

from rung.engine.adapter_state import fresh_state
from rung.engine.frozen_model import FrozenModel, freeze

SMALL = candidate_of(4, 8, "attention", 1e-3)
LARGE = candidate_of(8, 16, "all-linear", 1e-3)


@pytest.fixture(scope="module")
def frozen() -> FrozenModel:
    return freeze(tiny_llama())


def test_a_fresh_adapter_is_drawn_as_peft_draws_it_and_changes_nothing_yet(
    frozen: FrozenModel,
) -> None:
    state = fresh_state(frozen, LARGE, 0)
    for key, tensor in state.weights.items():
        if key.endswith(".B"):
            assert not tensor.any()
        else:
            bound = 1 / math.sqrt(tensor.shape[1])  # kaiming_uniform with a = √5
            assert tensor.abs().max() <= bound
            assert abs(float(tensor.std()) - bound / math.sqrt(3)) < 0.01


def test_a_fresh_adapter_depends_on_the_seeds_and_the_layer_alone(frozen: FrozenModel) -> None:
    key = "model.layers.1.self_attn.q_proj.A"
    small, large = (fresh_state(frozen, c, 0).tensors[key] for c in (SMALL, LARGE))
    assert torch.equal(small, large[:4]), "a small rank starts from the first rows of a large one"
    other_seed = candidate_of(4, 8, "attention", 1e-3, seed=1)
    assert not torch.equal(small, fresh_state(frozen, SMALL, 1).tensors[key])
    assert not torch.equal(small, fresh_state(frozen, other_seed, 0).tensors[key])
    other_layer = "model.layers.0.self_attn.q_proj.A"
    assert not torch.equal(small, fresh_state(frozen, SMALL, 0).tensors[other_layer])


def test_the_moments_start_at_zero_and_are_no_weights(frozen: FrozenModel) -> None:
    state = fresh_state(frozen, SMALL, 0)
    assert len(state.tensors) == 3 * len(state.weights)
    for key, weight in state.weights.items():
        for moment in ("first", "second"):
            assert torch.equal(state.tensors[f"{key}.{moment}"], torch.zeros_like(weight))
