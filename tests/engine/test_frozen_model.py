from __future__ import annotations

import pytest
import torch
from tests.candidates import candidate_of
from tests.engine.rounding import EXACT, throughout
from tests.tiny import tiny_llama

from rung.engine.adapter_state import fresh_state
from rung.engine.frozen_model import freeze

SMALL = candidate_of(4, 8, "attention", 1e-3)
LARGE = candidate_of(8, 16, "all-linear", 1e-3)


def test_freezing_replaces_every_linear_layer_and_changes_no_output() -> None:
    model = tiny_llama().double()
    ids = torch.arange(12)[None]
    with throughout(torch.float64):
        before = model(ids).logits
        frozen = freeze(model)
        after = model(ids).logits
    assert len(frozen.layers) == 15
    assert frozen.head == "lm_head"
    assert torch.allclose(after, before, rtol=EXACT, atol=EXACT)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_parameters_are_counted_from_the_shapes() -> None:
    frozen = freeze(tiny_llama())
    # q and o: 64 × 64; k and v: 64 × 32; two layers.
    assert frozen.parameters(SMALL.setting) == 2 * 4 * (2 * (64 + 64) + 2 * (64 + 32))
    weights = fresh_state(frozen, LARGE, 0).weights.values()
    assert frozen.parameters(LARGE.setting) == sum(tensor.numel() for tensor in weights)


def test_the_dense_weights_are_held_and_released_together() -> None:
    frozen = freeze(tiny_llama())
    assert not frozen.release_dense(), "none are held yet"
    frozen.hold_dense(torch.float32)
    assert frozen.holds_dense
    assert all(layer.holds_dense for layer in frozen.layers.values())
    assert frozen.release_dense()
    assert not any(layer.holds_dense for layer in frozen.layers.values())


@pytest.mark.parametrize("held_before", [False, True])
@pytest.mark.parametrize("fits", [False, True])
def test_the_dense_weights_are_held_meanwhile_if_half_of_the_free_memory_is_enough(
    fits: bool, held_before: bool
) -> None:
    frozen = freeze(tiny_llama())
    frozen.hold_dense(torch.float32 if held_before else None)
    free = 2 * frozen.dense_bytes(torch.float32) - (not fits)
    with frozen.dense_if_it_fits(torch.float32, free):
        assert frozen.holds_dense == (fits or held_before)
    assert frozen.holds_dense == held_before
