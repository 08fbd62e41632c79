"""The simple strategies: train all settings, or a random sample, and recommend the best one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rung.search.strategy import Conclusions, Decision, Script, Stage, best, replay
from rung.types import Candidate, LeverSpace, Measurement, Scores, Setting


class Grid:
    """Train every given setting with seed 0 and the full budget. See `Strategy`."""

    def __init__(self, settings: Sequence[Setting], phase: str = "grid") -> None:
        self.candidates, self.phase = tuple(map(Candidate, settings)), phase

    @classmethod
    def of(cls, space: LeverSpace) -> Grid:
        """All settings of the space."""
        return cls(space.settings())

    def decide(self, baseline: Scores, history: Sequence[Measurement]) -> Decision:
        return replay(self._script, history)

    def _script(self, conclusions: Conclusions) -> Script:
        answer = yield Stage(self.phase, self.candidates)
        return best(answer.values()).candidate


class Random(Grid):
    """A random sample of the space, at the full budget (Bergstra & Bengio, JMLR 13, 2012).

    Args:
        space: where settings are drawn from, without replacement.
        count: how many are drawn.
        seed: of the draw.
    """

    def __init__(self, space: LeverSpace, count: int, seed: int = 0) -> None:
        settings = space.settings()
        drawn = np.random.default_rng(seed).permutation(len(settings))[:count]
        super().__init__([settings[i] for i in drawn], "random")
