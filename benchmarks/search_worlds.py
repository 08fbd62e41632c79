"""Climbs in artificial worlds: false claims, power, and the coverage of intervals.

An artificial world is like the recorded ones: a loss in nats per token, and its deviations from run
to run, and from row to row of a difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rung.runner.replay import load_table
from rung.search.climb import Climb
from rung.search.effort import Effort
from rung.search.stats import gain_estimate, loss_estimate, run_noise, seed_noise
from rung.search.strategy import Decision, Stage, Strategy
from rung.types import Candidate, LeverSpace, Measurement, Scores, Setting

MARGIN = 0.01
SPACE = LeverSpace(
    (8, 16, 32, 64), (1e-3, 2e-3, 4e-3, 8e-3), ("attention", "mlp", "all-linear"), ("2r", "r", "4r")
)
ROWS, TOKENS = 200, 8
LOSS = 1.5
SEED_DEVIATION = 0.01
ROW_DEVIATION = 0.14


@dataclass
class World:
    """Artificial trainings. Each run has noise of its own.

    Attributes:
        draw: the source of all randomness.
        gain: by how much a candidate's loss is below `LOSS`.
        noise: the deviation of a run's loss, in nats per token.
    """

    draw: np.random.Generator
    gain: Callable[[Candidate], float] = lambda candidate: 0.0
    noise: float = SEED_DEVIATION

    def __post_init__(self) -> None:
        self.row_difficulties = self.draw.normal(0, 0.5, ROWS)

    def baseline(self) -> Scores:
        return Scores(tuple(np.full(ROWS, 3.0 * TOKENS).tolist()), (TOKENS,) * ROWS)

    def run(self, stage: Stage) -> list[Measurement]:
        return [self.measure(candidate, stage.fraction) for candidate in stage.candidates]

    def measure(self, candidate: Candidate, fraction: float) -> Measurement:
        of_run = self.draw.normal(0, self.noise) + 0.3 * (1 - fraction)
        of_rows = self.draw.normal(0, ROW_DEVIATION / math.sqrt(2), ROWS)
        losses = TOKENS * (LOSS - self.gain(candidate) + self.row_difficulties + of_run + of_rows)
        scores = Scores(tuple(losses.tolist()), (TOKENS,) * ROWS)
        size = candidate.rank * {"attention": 10, "mlp": 15}.get(candidate.targets, 25)
        return Measurement(
            candidate, fraction, 10, 1000, 1000, "trained", scores, size, size, 0, 1.0
        )


def play(
    strategy: Strategy, baseline: Scores, run: Callable[[Stage], Sequence[Measurement]]
) -> tuple[Decision, list[Measurement]]:
    """Run a strategy to its end; its last decision, and all measurements."""
    history: list[Measurement] = []
    while True:
        decision = strategy.decide(baseline, history)
        if decision.stage is None:
            return decision, history
        history += run(decision.stage)


def null(climbs: int, draw: np.random.Generator, effort: Effort) -> dict[str, Any]:
    """The share of climbs that call anything better where all candidates are the same."""
    false = 0
    for _ in range(climbs):
        world = World(draw)
        decision, _ = play(Climb(SPACE, MARGIN, effort), world.baseline(), world.run)
        false += claims_a_gain(decision)
    return {"climbs": climbs, "false_better": false / climbs}


def claims_a_gain(decision: Decision) -> bool:
    """Whether any setting is called better than another."""
    return any(v.outcome == "better" and v.kind != "untuned" for v in decision.verdicts)


def null_of_table(task: str, climbs: int, draw: np.random.Generator) -> dict[str, Any]:
    """The same with the noise of recorded runs.

    Every candidate is one recorded setting. The error of each of its runs is the difference of two
    recorded seeds of some setting, over √2 and with either sign. The rows are drawn anew.
    """
    table = load_table(task)
    differences = {
        fraction: [
            np.subtract(runs[0].scores.losses, runs[1].scores.losses) / math.sqrt(2)
            for setting in table.settings
            if len(runs := [table.runs[Candidate(setting, s)][fraction] for s in table.seeds]) == 2
            and runs[0].scores
            and runs[1].scores
        ]
        for fraction in table.fractions
    }
    best, tokens = table.best(), np.array(table.tokens)
    false = 0
    for _ in range(climbs):
        rows = draw.integers(len(tokens), size=len(tokens))

        def measure(candidate: Candidate, fraction: float, rows: Any = rows) -> Measurement:
            recorded = table.runs[Candidate(best, table.seeds[0])][fraction]
            assert recorded.scores
            number = draw.integers(len(differences[fraction]))
            error = differences[fraction][number] * draw.choice([-1, 1])
            losses = (np.array(recorded.scores.losses) + error)[rows]
            scores = Scores(tuple(losses.tolist()), tuple(tokens[rows].tolist()))
            return replace(recorded, candidate=candidate, scores=scores, parameters=candidate.rank)

        baseline = Scores(
            tuple(np.array(table.baseline)[rows].tolist()), tuple(tokens[rows].tolist())
        )
        decision, _ = play(
            Climb(SPACE, MARGIN),
            baseline,
            lambda stage: [measure(c, stage.fraction) for c in stage.candidates],
        )
        false += claims_a_gain(decision)
    return {"climbs": climbs, "false_better": false / climbs}


def power(
    climbs: int, draw: np.random.Generator, noise: float, seeds: int, extra_seeds: int
) -> dict[str, float]:
    """How often a climb calls rank 16 better than rank 8, where it is by twice the margin.

    Args:
        noise: the deviation of a run's loss, in nats per token.
        seeds: how many confirm.
        extra_seeds: how many more an undecided pair may get.
    """
    space = replace(SPACE, targets=("attention",), alphas=("2r",), ranks=(8, 16))
    effort = Effort(seeds=tuple(range(1, seeds + 1)), extra_seeds=extra_seeds)
    better, no_gain, seeds_used = 0, 0, 0
    for _ in range(climbs):
        world = World(draw, lambda c: 2 * MARGIN * LOSS if c.rank > 8 else 0.0, noise)
        decision, history = play(Climb(space, MARGIN, effort), world.baseline(), world.run)
        outcomes = {
            v.outcome
            for v in decision.verdicts
            if v.before and (v.kind, v.before.rank, v.after.rank) == ("confirmation", 8, 16)
        }
        better += "better" in outcomes
        no_gain += "no_worthwhile_gain" in outcomes
        seeds_used += len({m.candidate.seed for m in history} - {0})
    return {
        "noise": noise / LOSS,
        "seeds": seeds,
        "extra_seeds": extra_seeds,
        "power": better / climbs,
        "called_no_gain": no_gain / climbs,
        "seeds_used": seeds_used / climbs,
    }


def coverage(trials: int, draw: np.random.Generator, seeds: int = 3) -> float:
    """How often the 95 % interval of a gain between two confirmed settings holds the true one."""
    held = 0
    for _ in range(trials):
        world = World(draw, lambda c: 0.1 if c.rank > 8 else 0.0)
        runs = {
            (rank, seed): world.measure(
                Candidate(Setting(rank, 16, "mlp", 1e-3), seed=seed), 1.0
            ).scores
            for rank in (8, 16, 32)
            for seed in range(seeds)
        }
        noise = seed_noise({key: scores.mean for key, scores in runs.items() if scores})
        assert noise is not None
        before, after = ([s for (r, _), s in runs.items() if r == rank and s] for rank in (8, 16))
        interval = gain_estimate(before, after, noise.times(2 / seeds)).interval()
        # The difficulty of the rows is the same on both sides, so the true gain is that of the
        # settings.
        held += interval.low <= 0.1 <= interval.high
    return held / trials


def coverage_of_loss(trials: int, draw: np.random.Generator, seeds: int = 3) -> float:
    """How often the 95 % interval of a confirmed setting's own loss holds the true one.

    What a seed does to all settings alike varies as much here as what it does to one, and the rows
    vary less than either.
    """
    held = 0
    for _ in range(trials):
        of_seeds, of_rows = draw.normal(0, SEED_DEVIATION, seeds), draw.normal(0, 0.05, ROWS)
        losses = LOSS + of_seeds + draw.normal(0, SEED_DEVIATION, (2, seeds))  # (settings, seeds)
        noise = run_noise(
            {(setting, seed): loss for (setting, seed), loss in np.ndenumerate(losses)}
        )
        assert noise is not None
        runs = [
            Scores(tuple((TOKENS * (loss + of_rows)).tolist()), (TOKENS,) * ROWS)
            for loss in losses[0]
        ]
        interval = loss_estimate(runs, noise.times(1 / seeds)).interval()
        held += interval.low <= LOSS <= interval.high
    return held / trials
