"""Candidates in one short call, for tests."""

from __future__ import annotations

from typing import Any

from rung.types import Candidate, Setting


def candidate_of(
    rank: int,
    alpha: float,
    targets: str,
    learning_rate: float,
    seed: int = 0,
    **levers: Any,
) -> Candidate:
    """A candidate; `levers` are the other levers of its setting, such as `dropout`."""
    return Candidate(Setting(rank, alpha, targets, learning_rate, **levers), seed)
