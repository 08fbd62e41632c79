from __future__ import annotations

import math

import torch
from tests.engine.rounding import EXACT, throughout
from tests.tiny import tiny_llama

from rung.engine.adapter_state import fresh_state
from rung.engine.frozen_model import freeze
from rung.engine.lora import FrozenLinear, PackedLoraLinear
from rung.engine.pack import Pack
from rung.types import Candidate, Setting

SMALL, LARGE = (
    Candidate(Setting(4, 8, "attention", 1e-3)),
    Candidate(Setting(8, 16, "all-linear", 1e-3)),
)


def test_freezing_covers_every_linear_layer_and_changes_no_output() -> None:
    model = tiny_llama().double()
    ids = torch.arange(12)[None]
    with throughout(torch.float64):
        before = model(ids).logits
        frozen = freeze(model)
        after = model(ids).logits
    assert len(frozen.layers) == 15
    assert frozen.head == "lm_head"
    assert torch.allclose(after, before, rtol=EXACT, atol=EXACT)
    assert not any(p.requires_grad for p in model.parameters())


def test_parameters_are_counted_from_the_shapes() -> None:
    frozen = freeze(tiny_llama())
    # q and o: 64 × 64; k and v: 64 × 32; two layers.
    assert frozen.parameters(SMALL) == 2 * 4 * (2 * (64 + 64) + 2 * (64 + 32))
    state = fresh_state(frozen, LARGE, 0)
    assert frozen.parameters(LARGE) == sum(tensor.numel() for tensor in state.weights.values())


def test_a_fresh_adapter_is_drawn_as_peft_draws_it_and_says_nothing_yet() -> None:
    frozen = freeze(tiny_llama())
    state = fresh_state(frozen, LARGE, 0)
    for key, tensor in state.weights.items():
        if key.endswith(".B"):
            assert not tensor.any()
        else:
            bound = 1 / math.sqrt(tensor.shape[1])  # kaiming_uniform with a = √5
            assert tensor.abs().max() <= bound
            assert abs(float(tensor.std()) - bound / math.sqrt(3)) < 0.01


def test_the_first_numbers_depend_on_the_seeds_and_the_layer_alone() -> None:
    frozen = freeze(tiny_llama())
    key = "model.layers.1.self_attn.q_proj.A"
    small, large = (
        fresh_state(frozen, SMALL, 0).tensors[key],
        fresh_state(frozen, LARGE, 0).tensors[key],
    )
    assert torch.equal(small, large[:4]), "a small rank starts from the first rows of a large one"
    assert not torch.equal(small, fresh_state(frozen, SMALL, 1).tensors[key])
    other = Candidate(Setting(4, 8, "attention", 1e-3), seed=1)
    assert not torch.equal(small, fresh_state(frozen, other, 0).tensors[key])
    assert not torch.equal(
        small, fresh_state(frozen, SMALL, 0).tensors["model.layers.0.self_attn.q_proj.A"]
    )


def test_a_pack_is_put_in_and_taken_out_without_a_trace() -> None:
    model = tiny_llama()
    frozen = freeze(model)
    ids = torch.arange(12)[None]
    before = model(ids).logits
    with Pack(frozen, [SMALL, LARGE], [fresh_state(frozen, c, 0) for c in (SMALL, LARGE)]) as pack:
        assert len(pack) == 2
        assert sum(isinstance(m, PackedLoraLinear) for m in model.modules()) == 14
    assert sum(isinstance(m, PackedLoraLinear) for m in model.modules()) == 0
    assert sum(isinstance(m, FrozenLinear) for m in model.modules()) == 15
    assert torch.equal(model(ids).logits, before)


def test_a_state_goes_in_and_comes_out_bit_by_bit_in_any_company() -> None:
    frozen = freeze(tiny_llama())
    states = {c: fresh_state(frozen, c, 0) for c in (SMALL, LARGE)}
    for state in states.values():
        for tensor in state.tensors.values():
            tensor.add_(torch.rand_like(tensor))
    for order in ([SMALL], [SMALL, LARGE], [LARGE, SMALL]):
        with Pack(frozen, order, [states[c] for c in order]) as pack:
            assert set(pack.candidates) == set(order)
            for index, candidate in enumerate(pack.candidates):
                back = pack.state(index).tensors
                assert back.keys() == states[candidate].tensors.keys()
                assert all(torch.equal(back[key], states[candidate].tensors[key]) for key in back)


def test_the_last_to_leave_gives_the_layers_back() -> None:
    model = tiny_llama()
    frozen = freeze(model)
    with Pack(frozen, [SMALL], [fresh_state(frozen, SMALL, 0)]) as pack:
        pack.drop([0])
        assert len(pack) == 0
        assert not any(isinstance(m, PackedLoraLinear) for m in model.modules())
