"""The packed layer against its plain twin, and the frozen product against the trap it exists for."""

from __future__ import annotations

import bitsandbytes
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rung.engine.lora import FrozenLinear, PackedLoraLinear


def make(bias: bool, four_bit: bool, inputs: int = 64, outputs: int = 48) -> FrozenLinear:
    torch.manual_seed(0)
    if not four_bit:
        return FrozenLinear(nn.Linear(inputs, outputs, bias=bias).requires_grad_(False))
    layer = bitsandbytes.nn.Linear4bit(inputs, outputs, bias=bias, compute_dtype=torch.float32, quant_type="nf4")
    return FrozenLinear(layer.to("cpu").requires_grad_(False))


@settings(max_examples=25, deadline=None)
@given(
    candidates=st.integers(1, 5),
    batch=st.integers(1, 3),
    tokens=st.integers(1, 6),
    rank=st.integers(1, 9),
    bias=st.booleans(),
    four_bit=st.booleans(),
)
def test_forward_and_gradients_are_those_of_the_plain_twin(
    candidates: int, batch: int, tokens: int, rank: int, bias: bool, four_bit: bool
) -> None:
    frozen = make(bias, four_bit)
    torch.manual_seed(candidates)
    A, B = torch.randn(candidates, rank, 64), torch.randn(candidates, 48, rank)
    layer = PackedLoraLinear(frozen, A, B, torch.rand(candidates) + 0.5)
    x = torch.randn(candidates * batch, tokens, 64, requires_grad=True)
    weights = torch.randn(candidates * batch, tokens, 48)
    found = []
    for forward in (layer, layer.plain):
        x.grad = layer.A.grad = layer.B.grad = None
        y = forward(x)
        (y * weights).sum().backward()
        assert x.grad is not None
        found.append((y.detach(), x.grad, layer.A.grad, layer.B.grad))
    for fast, plain in zip(*found, strict=True):
        assert torch.allclose(fast, plain, rtol=1e-4, atol=1e-4)


def test_padding_to_a_wider_rank_changes_nothing_and_has_no_gradient() -> None:
    frozen = make(False, True)
    A, B = torch.randn(1, 3, 64), torch.randn(1, 48, 3)
    wide_A, wide_B = torch.zeros(1, 8, 64), torch.zeros(1, 48, 8)
    wide_A[:, :3], wide_B[:, :, :3] = A, B
    narrow, wide = (PackedLoraLinear(frozen, a, b, torch.ones(1)) for a, b in ((A, B), (wide_A, wide_B)))
    x = torch.randn(2, 5, 64)
    assert torch.allclose(narrow(x), wide(x), atol=1e-6)
    wide(x).square().sum().backward()
    assert wide.A.grad is not None
    assert wide.B.grad is not None
    assert not wide.A.grad[:, 3:].any()
    assert not wide.B.grad[:, :, 3:].any()


def test_an_evaluation_without_gradients_leaves_the_four_bit_weight_as_it_was() -> None:
    frozen = make(False, True)
    frozen.eval()
    before = frozen.base.weight.data.clone()
    with torch.no_grad():
        first = frozen(torch.ones(3, 64))
    x = torch.ones(3, 64, requires_grad=True)
    frozen(x).sum().backward()
    assert torch.equal(frozen.base.weight.data, before)
    assert torch.equal(frozen(torch.ones(3, 64)), first)
    assert x.grad is not None
    assert torch.allclose(x.grad[0], frozen.dense(torch.float32).sum(0), rtol=1e-5, atol=1e-5)


def test_the_frozen_product_is_the_dequantised_weight_to_the_last_bit() -> None:
    frozen = make(False, True)
    x = torch.randn(7, 64)
    weight = bitsandbytes.functional.dequantize_4bit(frozen.base.weight.data, frozen.base.weight.quant_state)
    assert torch.equal(frozen(x), x @ weight.T)


@pytest.mark.parametrize("four_bit", [False, True])
def test_the_input_keeps_its_dtype(four_bit: bool) -> None:
    layer = PackedLoraLinear(make(True, four_bit), torch.randn(2, 4, 64), torch.randn(2, 48, 4), torch.ones(2))
    y = layer(torch.randn(2, 3, 64, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert layer.A.grad is not None
    assert layer.A.grad.dtype == torch.float32
