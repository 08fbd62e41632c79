from __future__ import annotations

import math

import pytest
import torch
from tests.candidates import candidate_of
from tests.tiny import tiny_llama

from rung.engine.adapter_state import fresh_state
from rung.engine.frozen_model import freeze
from rung.engine.lora import FrozenLinear, PackedLoraLinear
from rung.engine.pack import MAX_RUNAWAY_STEPS, Pack, divergence

SMALL = candidate_of(4, 8, "attention", 1e-3)
LARGE = candidate_of(8, 16, "all-linear", 1e-3)


def packed_layers(model: torch.nn.Module) -> int:
    return sum(isinstance(module, PackedLoraLinear) for module in model.modules())


def test_a_pack_is_put_into_the_model_and_taken_out_without_a_trace() -> None:
    model = tiny_llama()
    frozen = freeze(model)
    ids = torch.arange(12)[None]
    before = model(ids).logits
    with Pack(frozen, [SMALL, LARGE], [fresh_state(frozen, c, 0) for c in (SMALL, LARGE)]) as pack:
        assert len(pack) == 2
        assert packed_layers(model) == 14
    assert packed_layers(model) == 0
    assert sum(isinstance(module, FrozenLinear) for module in model.modules()) == 15
    assert torch.equal(model(ids).logits, before)


def test_candidates_alike_in_rank_layers_and_dropout_are_grouped() -> None:
    frozen = freeze(tiny_llama())
    same, dropout = (
        candidate_of(4, 16, "attention", 1e-2, seed=1),
        candidate_of(4, 8, "attention", 1e-3, dropout=0.1),
    )
    candidates = [SMALL, LARGE, dropout, same]
    with Pack(frozen, candidates, [fresh_state(frozen, c, 0) for c in candidates]) as pack:
        assert [group.candidates for group in pack.groups] == [[SMALL, same], [dropout], [LARGE]]
        assert [(group.start, group.stop) for group in pack.groups] == [(0, 2), (2, 3), (3, 4)]
        assert pack.candidates == [SMALL, same, dropout, LARGE]


def test_a_state_comes_out_as_it_went_in_beside_any_other_candidates() -> None:
    frozen = freeze(tiny_llama())
    states = {candidate: fresh_state(frozen, candidate, 0) for candidate in (SMALL, LARGE)}
    for state in states.values():
        for tensor in state.tensors.values():
            tensor.add_(torch.rand_like(tensor))
    for order in ([SMALL], [SMALL, LARGE], [LARGE, SMALL]):
        with Pack(frozen, order, [states[candidate] for candidate in order]) as pack:
            assert set(pack.candidates) == set(order)
            for index, candidate in enumerate(pack.candidates):
                tensors, expected = pack.state(index).tensors, states[candidate].tensors
                assert tensors.keys() == expected.keys()
                assert all(torch.equal(tensors[key], expected[key]) for key in tensors)


def test_when_the_last_candidate_leaves_the_frozen_layers_are_back() -> None:
    model = tiny_llama()
    frozen = freeze(model)
    with Pack(frozen, [SMALL], [fresh_state(frozen, SMALL, 0)]) as pack:
        pack.drop([0])
        assert len(pack) == 0
        assert packed_layers(model) == 0


@pytest.mark.parametrize(
    ("loss", "norm", "runaway_steps", "loss_scale", "reason"),
    [
        (5.0, 1.0, MAX_RUNAWAY_STEPS - 1, None, ""),
        (math.nan, 1.0, 0, None, "the loss is not a number"),
        (math.inf, 1.0, 0, 1024.0, "the loss is not a number"),
        (5.0, math.nan, 0, None, "the gradient is not a number"),
        (5.0, math.inf, 0, 1.0, ""),
        (5.0, math.inf, 0, 0.5, "no loss scale keeps the gradient finite in float16"),
        (10.0, 1.0, 8, None, "the loss was above 9.0 nats a token for 8 steps in a row"),
    ],
)
def test_when_a_candidate_counts_as_diverged(
    loss: float, norm: float, runaway_steps: int, loss_scale: float | None, reason: str
) -> None:
    assert divergence(loss, norm, 9.0, runaway_steps, loss_scale) == reason


def test_one_reasonable_loss_starts_the_count_of_runaway_steps_anew() -> None:
    frozen = freeze(tiny_llama())
    with Pack(frozen, [SMALL], [fresh_state(frozen, SMALL, 0)]) as pack:
        for loss in [10.0] * (MAX_RUNAWAY_STEPS - 1) + [5.0] + [10.0] * (MAX_RUNAWAY_STEPS - 1):
            pack.check_divergence([loss], [1.0], limit=9.0)
        assert pack.diverged == {}
        pack.check_divergence([10.0], [1.0], limit=9.0)
        assert list(pack.diverged) == [0]
