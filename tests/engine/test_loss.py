from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.engine.rounding import EXACT
from torch import nn

from rung.engine import loss as module
from rung.engine.lora import AdapterGroup, FrozenLinear
from rung.engine.loss import Head, HeadAdapter, completion_loss, plain_completion_loss

D, V, R = 16, 50, 3


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def head_of(bias: bool = False, factor: float = 1.0, cap: float | None = None) -> Head:
    torch.manual_seed(0)
    return Head(FrozenLinear(nn.Linear(D, V, bias=bias).requires_grad_(False)), factor, cap)


def adapter_of(tokens: int, dropout: float) -> HeadAdapter:
    A, B = torch.randn(1, R, D), torch.randn(1, V, R)
    group = AdapterGroup(0, 1, A, B, torch.zeros_like(A), torch.zeros_like(B), dropout)
    return HeadAdapter(group, torch.rand(tokens, D) >= dropout if dropout else None)


@pytest.mark.parametrize("tokens", [1, 7, 8, 20])
@pytest.mark.parametrize(
    "changes", [(), (True,), (False, 0.25), (False, 1.0, 3.0), (True, 0.5, 2.0)],
    ids=["plain", "bias", "factor", "cap", "all"],
)  # fmt: skip
@pytest.mark.parametrize("adapted", [(), (1,), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_loss_and_gradients_are_those_of_cross_entropy(
    tokens: int,
    changes: tuple[Any, ...],
    adapted: tuple[int, ...],
    dropout: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "CHUNK", 8)
    head = head_of(*changes)
    torch.manual_seed(tokens)
    labels, factors = torch.randint(0, V, (tokens,)), torch.tensor([0.5, 2.0, 1.0])
    adapters = [adapter_of(tokens, dropout) if k in adapted else None for k in range(3)]
    hidden = torch.randn(3 * tokens, D, requires_grad=True)
    weights = factors[:, None].expand(3, tokens)
    losses, total = completion_loss(hidden, labels.expand(3, -1), weights, head, adapters)
    (2 * total).backward()
    assert losses.shape == (3, tokens)
    assert not losses.requires_grad
    assert hidden.grad is not None
    for k, (own, grad) in enumerate(
        zip(hidden.detach().chunk(3), hidden.grad.chunk(3), strict=True)
    ):
        own.requires_grad_()
        adapter = adapters[k]
        if adapter is not None:
            adapter.group.A.requires_grad_()
            adapter.group.B.requires_grad_()
        wanted = plain_completion_loss(own, labels, head, adapter)
        (2 * factors[k] * wanted.sum()).backward()
        assert torch.allclose(losses[k], wanted.detach(), rtol=EXACT, atol=EXACT)
        assert own.grad is not None
        assert torch.allclose(grad, own.grad, rtol=EXACT, atol=EXACT)
        if adapter is not None:
            for collected, factor in (
                (adapter.group.grad_A, adapter.group.A),
                (adapter.group.grad_B, adapter.group.B),
            ):
                assert factor.grad is not None
                assert torch.allclose(collected, factor.grad, rtol=EXACT, atol=EXACT)


def test_an_adapter_of_the_head_learns_although_the_states_need_no_gradient() -> None:
    own = adapter_of(4, 0.0)
    anchor = torch.zeros((), requires_grad=True)
    _, total = completion_loss(
        torch.randn(4, D), torch.arange(4)[None], torch.ones(1, 4), head_of(), [own], anchor
    )
    total.backward()
    assert own.group.grad_A.any()
    assert own.group.grad_B.any()


def test_huge_logits_do_not_overflow() -> None:
    weight = torch.tensor([[1.0] * 4, [-1.0] * 4])
    layer = nn.Linear(4, 2, bias=False)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    hidden = torch.full((2, 4), 1e4, requires_grad=True)
    losses, _ = completion_loss(
        hidden, torch.tensor([[0, 1]]), torch.ones(1, 2), Head(FrozenLinear(layer)), [None]
    )
    assert losses.tolist() == [[0.0, 80000.0]]


def test_without_gradients_nothing_is_saved_for_a_backward_pass() -> None:
    with torch.no_grad():
        inputs = (torch.randn(3, D), torch.tensor([[0, 1, 2]]), torch.ones(1, 3))
        losses, total = completion_loss(*inputs, head_of(), [None])
    assert losses.grad_fn is None
    assert total.grad_fn is None


@pytest.mark.parametrize(
    ("config", "factor", "cap"),
    [
        ({}, 1.0, None),
        ({"logit_scale": 0.25}, 0.25, None),
        ({"lm_head_multiplier": 0.5}, 0.5, None),
        ({"logits_scaling": 4.0}, 0.25, None),
        ({"final_logit_softcapping": 30.0}, 1.0, 30.0),
        ({"logits_soft_cap": 20.0, "logit_scale": None}, 1.0, 20.0),
        ({"output_logit_soft_cap": 15.0}, 1.0, 15.0),
    ],
)
def test_the_factor_and_the_cap_of_the_logits_come_from_the_configuration(
    config: dict[str, Any], factor: float, cap: float | None
) -> None:
    head = Head.of(head_of().layer, SimpleNamespace(**config))
    assert (head.factor, head.cap) == (factor, cap)
