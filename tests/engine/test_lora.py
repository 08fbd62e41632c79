"""The packed layer gives what its plain twin gives, and the frozen product changes no weight."""

from __future__ import annotations

import bitsandbytes
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.rounding import EXACT
from torch import Tensor, nn

from rung.engine.lora import AdapterGroup, FrozenLinear, PackedLoraLinear, PassContext
from rung.errors import ModelError


def frozen_layer(bias: bool, four_bit: bool, inputs: int = 64, outputs: int = 48) -> FrozenLinear:
    torch.manual_seed(0)
    if not four_bit:
        return FrozenLinear(nn.Linear(inputs, outputs, bias=bias).requires_grad_(False))
    layer = bitsandbytes.nn.Linear4bit(
        inputs, outputs, bias=bias, compute_dtype=torch.float32, quant_type="nf4"
    )
    return FrozenLinear(layer.to("cpu").requires_grad_(False))


def group_of(
    start: int, candidates: int, rank: int, dtype: torch.dtype = torch.float64
) -> AdapterGroup:
    A, B = draw(candidates, rank, 64), draw(candidates, 48, rank)
    wide = torch.promote_types(dtype, torch.float32)
    gradients = (torch.zeros_like(x, dtype=wide) for x in (A, B))
    return AdapterGroup(start, start + candidates, A.to(dtype), B.to(dtype), *gradients)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def context_of(stop: int, start: int = 0) -> PassContext:
    return PassContext(start, stop, torch.zeros((), requires_grad=True))


def factors_of(
    groups: list[AdapterGroup], stop: int, start: int = 0
) -> list[tuple[Tensor, Tensor] | None]:
    """Each candidate's A and B for the plain twin; None without an adapter."""
    factors: list[tuple[Tensor, Tensor] | None] = [None] * (stop - start)
    for group in groups:
        for k in range(max(group.start, start), min(group.stop, stop)):
            A, B = (x[k - group.start].detach().requires_grad_() for x in (group.A, group.B))
            factors[k - start] = (A, B)
    return factors


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
    """For any ranks, and any range of the pack; rank 0 are candidates without an adapter here."""
    frozen = frozen_layer(bias, four_bit)
    torch.manual_seed(batch)
    groups, stop = [], 0
    for count, rank in sizes:
        if rank:
            groups.append(group_of(stop, count, rank))
        stop += count
    start = data.draw(st.integers(0, stop - 1))
    stop = data.draw(st.integers(start + 1, stop))
    layer = PackedLoraLinear(frozen, groups, context_of(stop, start))
    factors = factors_of(groups, stop, start)
    x = draw((stop - start) * batch, tokens, 64).requires_grad_()
    weights = draw((stop - start) * batch, tokens, 48)
    y = layer(x)
    (y * weights).sum().backward()
    fast = (y.detach(), x.grad)
    x.grad = None
    twin = layer.plain(x, factors)
    (twin * weights).sum().backward()
    for ours, plain in zip(fast, (twin.detach(), x.grad), strict=True):
        assert ours is not None
        assert torch.allclose(ours, plain, rtol=EXACT, atol=EXACT)
    for group in groups:
        for k in range(group.start, group.stop):
            gradients = group.grad_A[k - group.start], group.grad_B[k - group.start]
            own = factors[k - start] if start <= k < stop else None
            if own is None:
                assert not any(gradient.any() for gradient in gradients), "it has no rows here"
                continue
            for gradient, factor in zip(gradients, own, strict=True):
                assert factor.grad is not None
                assert torch.allclose(gradient, factor.grad, rtol=EXACT, atol=EXACT)


def test_rows_that_all_candidates_share_are_multiplied_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Below the first adapted layer the input needs no gradient: one candidate's rows suffice."""
    frozen, groups = frozen_layer(True, True), [group_of(0, 3, 4), group_of(3, 1, 2)]
    layer, factors = PackedLoraLinear(frozen, groups, context_of(4)), factors_of(groups, 4)
    x = draw(2, 5, 64).repeat(4, 1, 1)
    weights = draw(8, 5, 48)
    multiplied, mm = [], torch.mm

    def watched_product(left: Tensor, right: Tensor) -> Tensor:
        multiplied.append(left.shape[0])
        return mm(left, right)

    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "__matmul__", watched_product)
        y = layer(x)
    assert multiplied == [2 * 5], "the frozen product has the rows of one candidate"
    (y * weights).sum().backward()
    twin = layer.plain(x, factors)
    (twin * weights).sum().backward()
    assert torch.allclose(y, twin, rtol=EXACT, atol=EXACT)
    for group in groups:
        for k in range(group.start, group.stop):
            A, _ = factors[k] or (None, None)
            assert A is not None
            assert A.grad is not None
            assert torch.allclose(group.grad_A[k - group.start], A.grad, rtol=EXACT, atol=EXACT)
    # Without gradients no input needs one, but then the rows may differ.
    with torch.no_grad():
        different = draw(8, 5, 64)
        plain = layer.plain(different, factors)
        assert torch.allclose(layer(different), plain, rtol=EXACT, atol=EXACT)


def test_a_layer_that_gets_other_rows_than_the_pass_has_is_an_error() -> None:
    layer = PackedLoraLinear(frozen_layer(False, False), [group_of(0, 2, 4)], context_of(2))
    layer.context.tokens = 12
    assert layer(draw(4, 3, 64)).shape == (4, 3, 48)
    with pytest.raises(
        ModelError, match="gets 7 of the 12 tokens, so an adapter on it cannot be packed"
    ):
        layer(draw(7, 64))


def test_an_evaluation_without_gradients_leaves_the_four_bit_weight_as_it_was() -> None:
    frozen = frozen_layer(False, True)
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
    frozen = frozen_layer(False, True)
    x = torch.randn(7, 64)
    weight = bitsandbytes.functional.dequantize_4bit(
        frozen.base.weight.data, frozen.base.weight.quant_state
    )
    assert torch.equal(frozen(x), x @ weight.T)


@pytest.mark.parametrize("four_bit", [False, True])
def test_the_input_keeps_its_dtype_and_the_gradients_are_float32(four_bit: bool) -> None:
    own = group_of(0, 2, 4, torch.bfloat16)
    layer = PackedLoraLinear(frozen_layer(True, four_bit), [own], context_of(2))
    y = layer(torch.randn(2, 3, 64, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert own.grad_A.dtype == torch.float32
    assert own.grad_A.any()


def test_a_block_may_add_to_a_layers_output_in_place() -> None:
    frozen = frozen_layer(False, False)
    layer = PackedLoraLinear(frozen, [group_of(0, 2, 3)], context_of(2))
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
def test_a_dense_weight_that_is_held_changes_no_bit(four_bit: bool) -> None:
    frozen, x = frozen_layer(True, four_bit), torch.randn(3, 64)
    before = frozen(x)
    frozen.hold_dense(torch.float32)
    assert frozen.holds_dense
    assert torch.equal(frozen(x), before)
    frozen.hold_dense(None)
    assert not frozen.holds_dense
    assert torch.equal(frozen(x), before)
