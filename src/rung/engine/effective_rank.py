"""How much of its rank a trained adapter uses, and the adapter truncated to a lower rank.

The update ΔW = scale · B A has at most `rank` singular values. They are computed from the factors
alone: with B = Q₁R₁ and Aᵀ = Q₂R₂ they are those of the small matrix R₁R₂ᵀ. Keeping the largest
few gives the nearest matrix of that rank (Eckart & Young, 1936). The loss of a truncated adapter
shows whether the rank was used. It is only evidence: training at a smaller rank need not end where
the truncation of a larger one ends.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from rung.engine.adapter_state import MOMENTS, AdapterState
from rung.types import Candidate


def truncate_rank(
    candidate: Candidate, state: AdapterState, rank: int
) -> tuple[Candidate, AdapterState]:
    """The candidate and its adapter at a lower rank and the same scale, ready for a pack.

    The moments of the optimizer are zero.
    """
    alpha = candidate.scale * (math.sqrt(rank) if candidate.use_rslora else rank)
    tensors: dict[str, Tensor] = {}
    for name in _adapted_layers(state):
        left, values, right = _svd(state, name)
        root = values[:rank].sqrt()
        tensors[f"{name}.A"] = (root[:, None] * right[:rank]).to(state.dtype).contiguous()
        tensors[f"{name}.B"] = (left[:, :rank] * root).to(state.dtype).contiguous()
    moments = {
        f"{key}.{moment}": torch.zeros_like(tensor)
        for key, tensor in tensors.items()
        for moment in MOMENTS
    }
    setting = replace(candidate.setting, rank=rank, alpha=alpha)
    return Candidate(setting, candidate.seed), AdapterState(state.step, tensors | moments)


def effective_rank(state: AdapterState) -> float:
    """The mean over the layers of exp(entropy of σ / Σσ), from 1 to the rank.

    The definition is that of Roy & Vetterli (EUSIPCO 2007).
    """
    ranks = []
    for name in _adapted_layers(state):
        _, values, _ = _svd(state, name)
        shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
        ranks.append(float(torch.special.entr(shares).sum().exp()))
    return math.fsum(ranks) / len(ranks)


def _adapted_layers(state: AdapterState) -> list[str]:
    return sorted({name.removesuffix(".A") for name in state.weights if name.endswith(".A")})


def _svd(state: AdapterState, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """U (out, rank), σ (rank,), Vᵀ (rank, in) of B A, in float64."""
    left, first = torch.linalg.qr(state.tensors[f"{name}.B"].double())
    right, second = torch.linalg.qr(state.tensors[f"{name}.A"].double().T)
    u, values, v = torch.linalg.svd(first @ second.T)
    return left @ u, values, v @ right.T
