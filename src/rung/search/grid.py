"""The plain strategies: everything, or some of it at random; each trained to the end, the best one recommended."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rung.search.strategy import Conclusions, Decision, Script, Stage, best, replay
from rung.types import Candidate, LeverSpace, Measurement, Scores, Setting


class Grid:
    """Train every setting that is given, with seed 0 and the full budget. See `Strategy`."""

    def __init__(self, settings: Sequence[Setting], phase: str = "grid") -> None:
        self.candidates, self.phase = tuple(map(Candidate, settings)), phase

    @classmethod
    def of(cls, space: LeverSpace) -> Grid:
        """All settings of the space, with one seed."""
        return cls(space.settings())

    def decide(self, baseline: Scores, history: Sequence[Measurement]) -> Decision:
        return replay(self._script, history)

    def _script(self, conclusions: Conclusions) -> Script:
        answer = yield Stage(self.phase, self.candidates)
        return best(answer.values()).candidate


class Random(Grid):
    """Some settings of the space, drawn without replacement, at the full budget (Bergstra & Bengio, JMLR 13, 2012)."""

    def __init__(self, space: LeverSpace, count: int, seed: int = 0) -> None:
        settings = space.settings()
        drawn = np.random.default_rng(seed).permutation(len(settings))[:count]
        super().__init__([settings[i] for i in drawn], "random")
