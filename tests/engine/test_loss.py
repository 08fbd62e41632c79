from __future__ import annotations

import pytest
import torch

from rung.engine import loss as module
from rung.engine.loss import completion_loss, plain_completion_loss


@pytest.mark.parametrize("tokens", [1, 7, 8, 20])
def test_loss_and_gradient_are_those_of_cross_entropy(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 8)
    torch.manual_seed(tokens)
    weight, labels = torch.randn(50, 16), torch.randint(0, 50, (tokens,))
    factors = torch.rand(tokens)
    found = []
    for loss in (completion_loss, plain_completion_loss):
        hidden = torch.randn(tokens, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
        losses = loss(hidden, labels, weight)
        (losses * factors).sum().backward()
        found.append((losses.detach(), hidden.grad))
    for fast, plain in zip(*found, strict=True):
        assert torch.allclose(fast, plain, rtol=1e-5, atol=1e-6)


def test_huge_logits_do_not_overflow() -> None:
    hidden = torch.full((2, 4), 1e4, requires_grad=True)
    losses = completion_loss(hidden, torch.tensor([0, 1]), torch.tensor([[1.0] * 4, [-1.0] * 4]))
    assert losses.tolist() == [0.0, 80000.0]


def test_without_gradients_nothing_is_kept() -> None:
    with torch.no_grad():
        losses = completion_loss(torch.randn(3, 4), torch.tensor([0, 1, 2]), torch.randn(5, 4))
    assert losses.grad_fn is None
