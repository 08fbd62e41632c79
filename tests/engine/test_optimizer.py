from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_cosine_schedule_with_warmup

from rung.engine.optimizer import PackedAdamW, schedule


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_every_candidate_is_moved_as_torch_adamw_with_clipping_moves_it_alone(decay: float) -> None:
    torch.manual_seed(0)
    rates = [1e-3, 5e-2, 3e-4]
    start = [torch.randn(3, 4, 5), torch.randn(3, 6)]
    gradients = [[torch.randn_like(p) * scale for p in start] for scale in (0.01, 1, 30, 1, 0.1, 5)]
    stacked = [p.clone().requires_grad_() for p in start]
    packed = PackedAdamW(stacked, rates, decay, 1.0)
    for gradient in gradients:
        for p, g in zip(stacked, gradient, strict=True):
            p.grad = g.clone()
        norms = packed.step(0.7)
        wanted = [math.sqrt(sum(float(g[k].square().sum()) for g in gradient)) for k in range(3)]
        assert norms.tolist() == pytest.approx(wanted, rel=1e-5)
        assert all(p.grad is None for p in stacked)
    for k, rate in enumerate(rates):
        own = [p[k].clone().requires_grad_() for p in start]
        alone = torch.optim.AdamW(own, lr=0.7 * rate, weight_decay=decay)
        for gradient in gradients:
            for p, g in zip(own, gradient, strict=True):
                p.grad = g[k].clone()
            torch.nn.utils.clip_grad_norm_(own, 1.0)
            alone.step()
        for p, q in zip(stacked, own, strict=True):
            assert torch.allclose(p[k], q, rtol=1e-6, atol=1e-7)


def test_a_gradient_that_is_not_finite_spoils_its_own_candidate_only() -> None:
    p = torch.zeros(2, 3, requires_grad=True)
    packed = PackedAdamW([p], [0.1, 0.1], 0.0, 1.0)
    p.grad = torch.tensor([[1.0, 1.0, 1.0], [1.0, math.nan, 1.0]])
    norms = packed.step(1.0)
    assert torch.isfinite(norms).tolist() == [True, False]
    assert torch.isfinite(p[0]).all()


@given(st.integers(1, 500), st.floats(0, 0.5))
def test_the_schedule_rises_then_falls_to_nearly_nothing(steps: int, warmup: float) -> None:
    shares = [schedule(step, steps, warmup) for step in range(steps)]
    top = shares.index(max(shares))
    assert all(0 < share <= 1 for share in shares)
    assert shares[: top + 1] == sorted(shares[: top + 1])
    assert shares[top:] == sorted(shares[top:], reverse=True)
    assert schedule(steps, steps, warmup) == pytest.approx(0, abs=1e-12)


def test_after_the_warm_up_it_is_the_cosine_of_transformers() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimizer, 10, 100).lr_lambdas[0]
    assert [schedule(step, 100, 0.1) for step in range(10, 101)] == pytest.approx([theirs(s) for s in range(10, 101)])
