"""The plain strategies: everything, or some of it at random; each trained to the end, the best one recommended."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rung.levers import Candidate, LeverSpace, Measurement, Scores
from rung.search.strategy import Ask, Course, Decision, Notes, best, follow


class Grid:
    """Every candidate that is given, at the full budget. See `Strategy`."""

    def __init__(self, candidates: Sequence[Candidate], phase: str = "grid") -> None:
        self.candidates, self.phase = tuple(candidates), phase

    @classmethod
    def of(cls, space: LeverSpace) -> Grid:
        """All settings of the space, with one seed."""
        return cls(space.candidates())

    def decide(self, baseline: Scores, history: Sequence[Measurement]) -> Decision:
        return follow(self._course, history)

    def _course(self, notes: Notes) -> Course:
        answer = yield Ask(self.phase, self.candidates)
        return best(answer.values()).candidate


class Random(Grid):
    """Some settings of the space, drawn without replacement, at the full budget (Bergstra & Bengio, JMLR 13, 2012)."""

    def __init__(self, space: LeverSpace, count: int, seed: int = 0) -> None:
        settings = space.candidates()
        drawn = np.random.default_rng(seed).permutation(len(settings))[:count]
        super().__init__([settings[i] for i in drawn], "random")
