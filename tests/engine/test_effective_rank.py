from __future__ import annotations

import math

import pytest
import torch
from tests.candidates import candidate_of
from tests.engine.rounding import EXACT
from tests.engine.setups import in_dtype, noisy_state

from rung.data.example import Example
from rung.engine.adapter_state import AdapterState
from rung.engine.effective_rank import effective_rank, truncate_rank
from rung.engine.pack import Pack
from rung.engine.trainer import Trainer
from rung.model.load import Base
from rung.types import Candidate

FULL = candidate_of(8, 16, "attention", 1e-3)
ROWS = [Example(tuple(range(3 + i, 12 + i)), 4) for i in range(5)]


def updates(candidate: Candidate, state: AdapterState) -> dict[str, torch.Tensor]:
    names = {name.removesuffix(".A") for name in state.weights if name.endswith(".A")}
    return {n: candidate.scale * state.tensors[f"{n}.B"] @ state.tensors[f"{n}.A"] for n in names}


@pytest.mark.parametrize(
    "candidate", [FULL, candidate_of(8, 16, "all-linear", 1e-3, use_rslora=True)]
)
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_a_truncated_adapter_is_the_nearest_update_of_that_rank(
    exact_base: Base, candidate: Candidate, rank: int
) -> None:
    state = in_dtype(noisy_state(Trainer(exact_base), candidate), torch.float64)
    truncated, truncated_state = truncate_rank(candidate, state, rank)
    assert truncated.rank == rank
    assert truncated.scale == pytest.approx(candidate.scale)
    before, after = updates(candidate, state), updates(truncated, truncated_state)
    for name, whole in before.items():
        left, values, right = torch.linalg.svd(whole, full_matrices=False)
        nearest = left[:, :rank] * values[:rank] @ right[:rank]
        assert torch.allclose(after[name], nearest, rtol=EXACT, atol=EXACT)


def test_truncating_to_the_own_rank_changes_no_loss(exact_base: Base) -> None:
    trainer = Trainer(exact_base)
    state = in_dtype(noisy_state(trainer, FULL), torch.float64)
    losses = []
    for candidate, own in (
        (FULL, state),
        truncate_rank(FULL, state, 8),
        truncate_rank(FULL, state, 1),
    ):
        with Pack(trainer.frozen, [candidate], [own]) as pack:
            losses.append(trainer.score(ROWS, pack)[0].mean)
    assert losses[1] == pytest.approx(losses[0], rel=EXACT)
    assert losses[2] != pytest.approx(losses[0], rel=1e-3)


def test_the_effective_rank_counts_equal_directions_and_hardly_counts_small_ones() -> None:
    drawn = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    orthogonal = torch.linalg.qr(drawn)[0]
    for count in (1, 2, 4):
        values = torch.tensor([1.0] * count + [0.0] * (4 - count), dtype=torch.float64)
        state = AdapterState(0, {"x.A": orthogonal[:4], "x.B": orthogonal[:, :4] * values})
        assert effective_rank(state) == pytest.approx(count, rel=EXACT)
    few = torch.tensor([1.0, 1.0, 1e-6, 1e-6], dtype=torch.float64)
    small = AdapterState(0, {"x.A": orthogonal[:4], "x.B": orthogonal[:, :4] * few})
    # A fraction q of 1e-6 adds q (1 − log q) to the entropy: 1.5e-5, and as much to the rank.
    assert effective_rank(small) == pytest.approx(2, rel=2e-5)
    assert math.isfinite(
        effective_rank(AdapterState(0, {"x.A": orthogonal[:4], "x.B": torch.zeros(6, 4)}))
    )
