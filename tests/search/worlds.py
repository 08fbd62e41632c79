"""Artificial worlds for strategies: the true loss of every setting is known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from rung.search.strategy import Decision, Stage, Strategy
from rung.types import Candidate, LeverSpace, Measurement, Scores, Setting

ROWS = 200
TOKENS = 5
FULL_TOKENS = 10_000
SPACE = LeverSpace(
    (8, 16, 32, 64),
    (1e-3, 2e-3, 4e-3, 8e-3),
    ("attention", "mlp", "all-linear"),
    ("2r", "r", "4r", "rslora"),
)
RANKS = LeverSpace((8, 16, 32, 64), (1e-3, 2e-3, 4e-3, 8e-3))
"""Ranks and learning rates alone."""
BASELINE = Scores(tuple(3.0 * TOKENS for _ in range(ROWS)), (TOKENS,) * ROWS)
FAR_BASELINE = Scores(tuple(8.0 * TOKENS for _ in range(ROWS)), (TOKENS,) * ROWS)
"""An untuned model's scores that ask for the output head."""
PARAMETERS_PER_RANK = {"attention": 10, "mlp": 15, "all-linear": 25}

World = Callable[[Setting, float], float]
"""The true loss of a setting at a fraction of the budget; infinite if it diverges there."""

_ROW_DIFFICULTIES = [random.Random("rows").gauss(0, 0.3) for _ in range(ROWS)]


def measure(
    world: World,
    candidate: Candidate,
    fraction: float,
    row_noise: float = 0.05,
    seed_noise: float = 0.005,
    trained: float = 0.0,
) -> Measurement:
    """A measurement that follows from the world, the candidate and the fraction.

    Args:
        row_noise: the deviation of a row's loss from candidate to candidate, in nats per token.
        seed_noise: the deviation of a run's loss from seed to seed, in nats per token.
        trained: the fraction that the candidate was measured at before.
    """
    loss, scores = world(candidate.setting, fraction), None
    if math.isfinite(loss):
        draw = random.Random(f"{candidate.id}@{fraction}")
        loss += draw.gauss(0, seed_noise)
        losses = tuple(
            TOKENS * max(0.0, loss + difficulty + draw.gauss(0, row_noise))
            for difficulty in _ROW_DIFFICULTIES
        )
        scores = Scores(losses, (TOKENS,) * ROWS)
    return Measurement(
        candidate,
        fraction,
        max(1, round(100 * fraction)),
        round(FULL_TOKENS * fraction),
        round(FULL_TOKENS * (fraction - 0.8 * trained)),
        "trained" if scores else "diverged",
        scores,
        candidate.rank * PARAMETERS_PER_RANK.get(candidate.targets, 30),
        4000,
        1,
        1.0,
    )


def run(
    strategy: Strategy,
    world: World,
    row_noise: float = 0.05,
    seed_noise: float = 0.005,
    baseline: Scores = BASELINE,
    diverges: Callable[[Candidate], bool] = lambda candidate: False,
) -> tuple[Decision, list[Stage], list[Measurement]]:
    """Run the strategy to its end, and check at each step what the protocol promises.

    Args:
        diverges: runs that diverge, beside those that diverge in the world.

    Returns:
        The last decision, all stages, and all measurements.
    """
    history: list[Measurement] = []
    stages: list[Stage] = []
    verdicts: tuple[object, ...] = ()
    for _ in range(200):
        decision = strategy.decide(baseline, history)
        assert decision.verdicts[: len(verdicts)] == verdicts, "a verdict is never taken back"
        verdicts = decision.verdicts
        if decision.stage is None:
            assert decision.recommended is not None
            assert any(m.candidate == decision.recommended and m.fraction == 1 for m in history)
            return decision, stages, history
        assert decision.recommended is None
        check_stage(decision, history)
        stages.append(decision.stage)
        for candidate in decision.stage.candidates:
            trained = max((m.fraction for m in history if m.candidate == candidate), default=0.0)
            fraction = decision.stage.fraction
            m = measure(world, candidate, fraction, row_noise, seed_noise, trained)
            if diverges(candidate):
                m = replace(m, scores=None, status="diverged")
            history.append(m)
    raise AssertionError("the strategy does not end")


def check_stage(decision: Decision, history: Sequence[Measurement]) -> None:
    """Check what the protocol promises of a stage."""
    stage = decision.stage
    assert stage is not None
    assert stage.candidates
    assert 0 < stage.fraction <= 1
    candidates = set(stage.candidates)
    assert len(candidates) == len(stage.candidates), "each candidate once"
    assert not candidates & {m.candidate for m in history if m.fraction == stage.fraction}
    assert not candidates & {m.candidate for m in history if m.scores is None}
    assert not candidates & decision.excluded.keys()


def hill(
    best_rate: float = 2e-3,
    gains: tuple[float, ...] = (0.0, 0.0, 0.0),
    steepness: float = 0.2,
    scale_gain: float = 0.0,
) -> World:
    """A world whose loss is quadratic in log2(scale · learning rate).

    Args:
        best_rate: the best learning rate at a scale of two.
        gains: by how much the loss falls with each doubling of the rank, from 8 on.
        steepness: the coefficient of the square.
        scale_gain: by how much the loss falls with each doubling of the scale, at the same
            scale · learning rate.
    """

    def world(setting: Setting, fraction: float) -> float:
        doublings = round(math.log2(setting.rank / 8))
        distance = math.log2(setting.learning_rate * setting.scale / (2 * best_rate))
        of_targets = {"attention": 0.0, "mlp": -0.02, "all-linear": -0.05}
        return (
            1.5
            + steepness * distance**2
            - sum(gains[:doublings])
            + of_targets.get(setting.targets, 0.05)
            - scale_gain * math.log2(setting.scale / 2)
            + 0.5 * (1 - fraction)
        )

    return world


def recommended(decision: Decision) -> Candidate:
    assert decision.recommended is not None
    return decision.recommended


def candidates_of(phase: str, stages: Sequence[Stage]) -> list[Candidate]:
    return [c for stage in stages if stage.phase == phase for c in stage.candidates]
