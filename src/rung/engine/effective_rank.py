"""How much of its rank a trained adapter uses: the singular values of ΔW, and the adapter cut down to a lower rank.

ΔW = scale · B A has no more than `rank` singular values. They are found from the factors alone: with B = Q₁R₁ and
Aᵀ = Q₂R₂ they are those of the small matrix R₁R₂ᵀ. Cutting after the largest few gives the nearest matrix of that rank
(Eckart & Young, 1936). What the loss of a cut adapter is says whether the rank was used; it is no more than evidence,
since a smaller rank that is trained need not end where a larger one ends that is cut.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from rung.engine.pack import AdapterState
from rung.types import Candidate


def cut(candidate: Candidate, state: AdapterState, rank: int) -> tuple[Candidate, AdapterState]:
    """The adapter cut down to a lower rank, at the same scale, ready for a pack; its moments are zero."""
    alpha = candidate.scale * (math.sqrt(rank) if candidate.use_rslora else rank)
    tensors: dict[str, Tensor] = {}
    for name in _layers(state):
        left, values, right = _svd(state, name)
        root = values[:rank].sqrt()
        tensors[f"{name}.A"] = (root[:, None] * right[:rank]).to(state.dtype).contiguous()
        tensors[f"{name}.B"] = (left[:, :rank] * root).to(state.dtype).contiguous()
    moments = {
        f"{key}.{m}": torch.zeros_like(tensor)
        for key, tensor in tensors.items()
        for m in ("first", "second")
    }
    cut = replace(candidate.setting, rank=rank, alpha=alpha)
    return Candidate(cut, candidate.seed), AdapterState(state.step, tensors | moments)


def effective_rank(state: AdapterState) -> float:
    """The mean over the layers of exp(entropy of σ / Σσ), from 1 to the rank (Roy & Vetterli, EUSIPCO 2007)."""
    found = []
    for name in _layers(state):
        _, values, _ = _svd(state, name)
        shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
        found.append(float(torch.special.entr(shares).sum().exp()))
    return math.fsum(found) / len(found)


def _layers(state: AdapterState) -> list[str]:
    return sorted({name.removesuffix(".A") for name in state.weights if name.endswith(".A")})


def _svd(state: AdapterState, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """U (out, rank), σ (rank,), Vᵀ (rank, in) of B A, in float64."""
    left, first = torch.linalg.qr(state.tensors[f"{name}.B"].double())
    right, second = torch.linalg.qr(state.tensors[f"{name}.A"].double().T)
    u, values, v = torch.linalg.svd(first @ second.T)
    return left @ u, values, v @ right.T
