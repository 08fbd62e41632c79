"""Which candidates train together, from which step, and which rows measure them.

The local runner and the estimate share these rules, so that a plan has the packs of the climb.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rung.engine.optimizer import Schedule
from rung.search.strategy import Stage
from rung.types import Candidate, Setting

MIN_RACE_ROWS = 64
"""The fewest validation rows that measure a candidate in the race, if there are as many."""

USUAL_SETTING = Setting(16, 32, "all-linear", 1e-3)
"""The setting that the speed of a climb is taken from."""

PackWidth = Callable[[Sequence[Candidate]], int]
"""How many of these candidates, from the first, fit in a pack: at least one."""


@dataclass(frozen=True, slots=True)
class StageSchedules:
    """The learning-rate schedule of every stage of a study.

    Attributes:
        steps: of a candidate's full budget.
        warmup: the share of these steps over which the learning rate rises.
        cooldown: the share of a stage's steps over which it falls.
    """

    steps: int
    warmup: float
    cooldown: float

    def of(self, stage: Stage) -> Schedule:
        """The schedule up to the stage's end."""
        stop = max(1, round(stage.fraction * self.steps))
        return Schedule.ending_at(stop, self.steps, self.warmup, self.cooldown)


@dataclass(frozen=True, slots=True)
class SavedProgress:
    """Where a candidate can go on in a stage.

    Attributes:
        steps: the steps that it has usable checkpoints of.
        interrupted_pack: the ids of the pack that it was in, if this very stage was interrupted.
    """

    steps: frozenset[int] = frozenset()
    interrupted_pack: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedPack:
    """Candidates to train together, all from the same step."""

    candidates: tuple[Candidate, ...]
    first_step: int


def plan_packs(
    progress: Mapping[Candidate, SavedProgress], most: int, width: PackWidth
) -> list[PlannedPack]:
    """Which candidates train together in a stage, and from which step.

    Candidates at the same step are packed in the stage's order. Candidates of an interrupted pack
    form that pack again, at the last step that all of them have a checkpoint of. So every matrix
    product has the shape that it would have had, and the training ends at the same bits.

    Args:
        progress: of each candidate, in the stage's order.
        most, width: see `split_into_packs`.
    """
    together: dict[tuple[int, tuple[str, ...]], list[Candidate]] = {}
    for candidate, own in progress.items():
        pack = own.interrupted_pack
        mates = [p.steps for p in progress.values() if pack and p.interrupted_pack == pack]
        step = max(own.steps.intersection(*mates) or own.steps or {0})
        together.setdefault((step, pack), []).append(candidate)
    return [
        PlannedPack(tuple(members), step)
        for (step, interrupted), candidates in together.items()
        for members in ([candidates] if interrupted else split_into_packs(candidates, most, width))
    ]


def split_into_packs(
    candidates: Sequence[Candidate], most: int, width: PackWidth
) -> list[list[Candidate]]:
    """Candidates in their order, in packs as even as possible.

    Args:
        most: the most candidates of a pack that the recipe allows.
        width: how many candidates the memory allows.
    """
    packs, rest = [], list(candidates)
    while rest:
        widest = width(rest[:most])
        even = math.ceil(len(rest) / math.ceil(len(rest) / widest))
        packs.append(rest[:even])
        rest = rest[even:]
    return packs


def judging_rows(rows: int, fraction: float, least: int = MIN_RACE_ROWS) -> int:
    """How many of so many validation rows measure a candidate at that share of its budget."""
    return min(rows, max(least, math.ceil(rows * fraction)))


def spread_evenly(rows: int, count: int) -> list[int]:
    """The numbers of `count` rows, spread evenly over all `rows`."""
    return [at * rows // count for at in range(count)]
