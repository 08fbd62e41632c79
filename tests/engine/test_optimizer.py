from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.rounding import EXACT

from rung.engine import optimizer as module
from rung.engine.optimizer import PackedAdamW, Schedule


def packed(
    start: list[torch.Tensor], rates: list[float], decay: float = 0.0, loss_scaling: bool = False
) -> PackedAdamW:
    rows = [row.clone().requires_grad_() for row in start]
    return PackedAdamW(
        rows, [torch.zeros_like(row) for row in start], rates, decay, 1.0, loss_scaling
    )


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_every_candidate_is_moved_as_torch_adamw_with_clipping_moves_it_alone(decay: float) -> None:
    torch.manual_seed(0)
    rates = [1e-3, 5e-2, 3e-4]
    start = [torch.randn(size, dtype=torch.float64) for size in (20, 20, 6)]
    gradients = [
        [torch.randn_like(row) * scale for row in start] for scale in (0.01, 1, 30, 1, 0.1, 5)
    ]
    optimizer = packed(start, rates, decay)
    for gradient in gradients:
        for own, g in zip(optimizer.gradients, gradient, strict=True):
            own.copy_(g)
        norms = optimizer.step([0.7] * 3)
        assert norms.tolist() == pytest.approx([float(g.norm()) for g in gradient], rel=EXACT)
        assert all(row.grad is None for row in optimizer.rows)
    for k, rate in enumerate(rates):
        alone = start[k].clone().requires_grad_()
        adamw = torch.optim.AdamW([alone], lr=0.7 * rate, weight_decay=decay)
        for gradient in gradients:
            alone.grad = gradient[k].clone()
            torch.nn.utils.clip_grad_norm_([alone], 1.0)
            adamw.step()
        assert torch.allclose(optimizer.rows[k], alone, rtol=EXACT, atol=EXACT)
        assert optimizer.progress[k].updates == len(gradients)


def test_a_candidate_whose_gradient_is_not_finite_is_not_moved() -> None:
    optimizer = packed([torch.zeros(3), torch.zeros(3)], [0.1, 0.1])
    optimizer.gradients[0].fill_(1.0)
    optimizer.gradients[1].copy_(torch.tensor([1.0, math.nan, 1.0]))
    norms = optimizer.step([1.0, 1.0])
    assert torch.isfinite(norms).tolist() == [True, False]
    assert optimizer.rows[0].any()
    assert not optimizer.rows[1].any()
    assert [p.updates for p in optimizer.progress] == [1, 0]


def test_a_restored_candidate_continues_as_if_it_had_never_stopped() -> None:
    torch.manual_seed(0)
    start, gradients = [torch.randn(5)], [torch.randn(5) for _ in range(6)]
    whole, first = packed(start, [0.1]), packed(start, [0.1])
    for g in gradients:
        whole.gradients[0].copy_(g)
        whole.step([1.0])
    for g in gradients[:3]:
        first.gradients[0].copy_(g)
        first.step([1.0])
    second = packed([first.rows[0].detach()], [0.1])
    second.restore(0, first.progress[0])
    for name, moment in first.moments(0).items():
        second.moments(0)[name].copy_(moment)
    for g in gradients[3:]:
        second.gradients[0].copy_(g)
        second.step([1.0])
    assert torch.equal(second.rows[0], whole.rows[0])


def test_the_loss_scale_moves_as_torchs_scaler_moves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each candidate has its own: halved when its gradient overflows, doubled after good steps."""
    monkeypatch.setattr(module, "LOSS_SCALE_GROWTH_INTERVAL", 3)
    torch.manual_seed(0)
    overflows = [
        (True, False),
        (False, False),
        (False, True),
        (False, False),
        (False, False),
        (True, False),
    ]
    ones = torch.ones(4, dtype=torch.float64)
    optimizer = packed([ones, ones], [0.1, 0.1], loss_scaling=True)
    steps = [(torch.randn_like(ones), torch.randn_like(ones)) for _ in overflows]
    for step, over in zip(steps, overflows, strict=True):
        for k in range(2):
            scaled = step[k] * optimizer.progress[k].loss_scale
            optimizer.gradients[k].copy_(torch.full_like(scaled, math.inf) if over[k] else scaled)
        optimizer.step([1.0, 1.0])
    for k in range(2):
        alone = ones.clone().requires_grad_()
        adamw, scaler = (
            torch.optim.AdamW([alone], lr=0.1, weight_decay=0.0),
            torch.amp.GradScaler("cpu", growth_interval=3),
        )
        for step, over in zip(steps, overflows, strict=True):
            adamw.zero_grad()
            scaler.scale((alone * step[k]).sum()).backward()
            if over[k]:
                assert alone.grad is not None
                alone.grad.fill_(math.inf)
            scaler.unscale_(adamw)
            torch.nn.utils.clip_grad_norm_([alone], 1.0)
            scaler.step(adamw)
            scaler.update()
        assert optimizer.progress[k].loss_scale == scaler.get_scale()
        assert torch.allclose(optimizer.rows[k], alone, rtol=EXACT)


@given(st.integers(1, 500), st.floats(0, 0.5), st.floats(0, 1))
def test_the_rate_rises_then_falls_to_zero_and_is_positive_at_every_step(
    stop: int, warmup: float, cooldown: float
) -> None:
    schedule = Schedule.ending_at(stop, 500, warmup, cooldown)
    factors = [schedule.rate_factor(step) for step in range(stop)]
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[: schedule.cooldown_start] == sorted(factors[: schedule.cooldown_start])
    assert 0 <= schedule.cooldown_start < stop
    assert schedule.rate_factor(stop) == pytest.approx(0, abs=1e-12)


@given(st.integers(1, 500), st.integers(1, 500))
def test_before_the_cooldown_the_rate_does_not_depend_on_the_last_step(
    stop: int, other_stop: int
) -> None:
    one, other = (Schedule.ending_at(end, 500, 0.05, 0.2) for end in (stop, other_stop))
    for step in range(min(one.cooldown_start, other.cooldown_start)):
        assert one.rate_factor(step) == other.rate_factor(step)


def test_the_cooldown_starts_at_the_plateau_and_is_steepest_at_first() -> None:
    factors = [Schedule(2, 6, 10).rate_factor(step) for step in range(10)]
    assert factors == pytest.approx(
        [1 / 3, 2 / 3, 1, 1, 1, 1, 1 - 0.2**0.5, 1 - 0.4**0.5, 1 - 0.6**0.5, 1 - 0.8**0.5]
    )
