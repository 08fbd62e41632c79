"""The packed layer against its plain twin, and the frozen product against the trap it exists for."""

from __future__ import annotations

import bitsandbytes
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.rounding import EXACT
from torch import Tensor, nn

from rung.engine.lora import FrozenLinear, PackedLoraLinear, Part, PassContext
from rung.errors import ModelError


def make(bias: bool, four_bit: bool, inputs: int = 64, outputs: int = 48) -> FrozenLinear:
    torch.manual_seed(0)
    if not four_bit:
        return FrozenLinear(nn.Linear(inputs, outputs, bias=bias).requires_grad_(False))
    layer = bitsandbytes.nn.Linear4bit(
        inputs, outputs, bias=bias, compute_dtype=torch.float32, quant_type="nf4"
    )
    return FrozenLinear(layer.to("cpu").requires_grad_(False))


def part(start: int, candidates: int, rank: int, dtype: torch.dtype = torch.float64) -> Part:
    A, B = draw(candidates, rank, 64), draw(candidates, 48, rank)
    collected = (
        torch.zeros_like(x, dtype=torch.promote_types(dtype, torch.float32)) for x in (A, B)
    )
    return Part(start, start + candidates, A.to(dtype), B.to(dtype), *collected)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def turn(stop: int, start: int = 0) -> PassContext:
    return PassContext(start, stop, torch.zeros((), requires_grad=True))


def factors(
    parts: list[Part], stop: int, start: int = 0
) -> list[tuple[torch.Tensor, torch.Tensor] | None]:
    """Each candidate's A and B, ready for the plain twin; None where it has none."""
    found: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * (stop - start)
    for p in parts:
        for k in range(max(p.start, start), min(p.stop, stop)):
            own = (
                p.A[k - p.start].detach().requires_grad_(),
                p.B[k - p.start].detach().requires_grad_(),
            )
            found[k - start] = own
    return found


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 9)), min_size=1, max_size=4),
    batch=st.integers(1, 3),
    tokens=st.integers(1, 6),
    bias=st.booleans(),
    four_bit=st.booleans(),
    data=st.data(),
)
def test_forward_and_gradients_are_those_of_the_plain_twin(
    sizes: list[tuple[int, int]],
    batch: int,
    tokens: int,
    bias: bool,
    four_bit: bool,
    data: st.DataObject,
) -> None:
    """Of any mixture of ranks, with candidates that do not target the layer (rank 0), for any stretch of the pack."""
    frozen = make(bias, four_bit)
    torch.manual_seed(batch)
    parts, stop = [], 0
    for count, rank in sizes:
        if rank:
            parts.append(part(stop, count, rank))
        stop += count
    start = data.draw(st.integers(0, stop - 1))
    stop = data.draw(st.integers(start + 1, stop))
    layer, own = PackedLoraLinear(frozen, parts, turn(stop, start)), factors(parts, stop, start)
    x = draw((stop - start) * batch, tokens, 64).requires_grad_()
    weights = draw((stop - start) * batch, tokens, 48)
    y = layer(x)
    (y * weights).sum().backward()
    fast = (y.detach(), x.grad)
    x.grad = None
    twin = layer.plain(x, own)
    (twin * weights).sum().backward()
    for one, other in zip(fast, (twin.detach(), x.grad), strict=True):
        assert one is not None
        assert torch.allclose(one, other, rtol=EXACT, atol=EXACT)
    for p in parts:
        for k in range(p.start, p.stop):
            factor = own[k - start] if start <= k < stop else None
            for collected, wanted in zip((p.grad_A, p.grad_B), factor or (None, None), strict=True):
                found = collected[k - p.start]
                if wanted is None:
                    assert not found.any(), "no gradient reaches a candidate that has no rows here"
                else:
                    assert wanted.grad is not None
                    assert torch.allclose(found, wanted.grad, rtol=EXACT, atol=EXACT)


def test_rows_that_are_still_the_same_are_multiplied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the first adapted layer the input needs no gradient: one candidate's rows stand for all."""
    frozen, parts = make(True, True), [part(0, 3, 4), part(3, 1, 2)]
    layer, own = PackedLoraLinear(frozen, parts, turn(4)), factors(parts, 4)
    x = draw(2, 5, 64).repeat(4, 1, 1)
    weights = draw(8, 5, 48)
    y = layer(x)
    (y * weights).sum().backward()
    twin = layer.plain(x, own)
    (twin * weights).sum().backward()
    assert torch.allclose(y, twin, rtol=EXACT, atol=EXACT)
    for p in parts:
        for k in range(p.start, p.stop):
            factor = own[k]
            assert factor is not None
            assert factor[0].grad is not None
            assert torch.allclose(p.grad_A[k - p.start], factor[0].grad, rtol=EXACT, atol=EXACT)
    # Rows that differ, and need no gradient because nothing does, are not taken for the same.
    with torch.no_grad():
        different = draw(8, 5, 64)
        assert torch.allclose(layer(different), layer.plain(different, own), rtol=EXACT, atol=EXACT)


def test_a_layer_that_is_given_other_rows_than_the_pass_has_says_so() -> None:
    layer = PackedLoraLinear(make(False, False), [part(0, 2, 4)], turn(2))
    layer.turn.tokens = 12
    assert layer(draw(4, 3, 64)).shape == (4, 3, 48)
    with pytest.raises(
        ModelError, match="sees 7 tokens of 12, so an adapter on it cannot be packed"
    ):
        layer(draw(7, 64))


def test_an_evaluation_without_gradients_leaves_the_four_bit_weight_as_it_was() -> None:
    frozen = make(False, True)
    frozen.eval()
    before = frozen.base.weight.data.clone()
    with torch.no_grad():
        first = frozen(torch.ones(3, 64, dtype=torch.float64))
    x = torch.ones(3, 64, dtype=torch.float64, requires_grad=True)
    frozen(x).sum().backward()
    assert torch.equal(frozen.base.weight.data, before)
    assert torch.equal(frozen(x.detach()), first)
    assert x.grad is not None
    assert torch.allclose(x.grad[0], frozen.dense(torch.float64).sum(0), rtol=EXACT, atol=EXACT)


def test_the_frozen_product_is_the_dequantised_weight_to_the_last_bit() -> None:
    frozen = make(False, True)
    x = torch.randn(7, 64)
    weight = bitsandbytes.functional.dequantize_4bit(
        frozen.base.weight.data, frozen.base.weight.quant_state
    )
    assert torch.equal(frozen(x), x @ weight.T)


@pytest.mark.parametrize("four_bit", [False, True])
def test_the_input_keeps_its_dtype_and_the_gradients_are_float32(four_bit: bool) -> None:
    own = part(0, 2, 4, torch.bfloat16)
    layer = PackedLoraLinear(make(True, four_bit), [own], turn(2))
    y = layer(torch.randn(2, 3, 64, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert own.grad_A.dtype == torch.float32
    assert own.grad_A.any()


def test_a_block_may_add_to_what_a_layer_gives_in_place() -> None:
    frozen = make(False, False)
    layer = PackedLoraLinear(frozen, [part(0, 2, 3)], turn(2))
    x = torch.randn(4, 5, 64, dtype=torch.float64, requires_grad=True)

    def gradient(add: bool) -> torch.Tensor:
        x.grad = None
        for y in (layer(x), frozen(x)):
            total = y.add_(1.0) if add else y + 1.0
            (total * torch.arange(48)).sum().backward()
        assert x.grad is not None
        return x.grad

    assert torch.equal(gradient(add=True), gradient(add=False))


@pytest.mark.parametrize("four_bit", [False, True])
def test_a_weight_that_is_held_gives_the_same_bits(four_bit: bool) -> None:
    frozen, x = make(True, four_bit), torch.randn(3, 64)
    before = frozen(x)
    frozen.keep(torch.float32)
    assert torch.equal(frozen(x), before)
    frozen.keep(None)
    assert torch.equal(frozen(x), before)
