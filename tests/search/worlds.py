"""Made-up worlds for strategies, where the truth about every candidate is known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from rung.search.strategy import Decision, Stage, Strategy
from rung.types import Candidate, LeverSpace, Measurement, Scores, Setting

ROWS = 200
TOKENS = 5
FULL = 10_000
SPACE = LeverSpace(
    (8, 16, 32, 64),
    (1e-3, 2e-3, 4e-3, 8e-3),
    ("attention", "mlp", "all-linear"),
    ("2r", "r", "4r", "rslora"),
)
BASELINE = Scores(tuple(3.0 * TOKENS for _ in range(ROWS)), (TOKENS,) * ROWS)

World = Callable[[Setting, float], float]
"""The true loss of a setting at a fraction of the budget; infinite where it diverges."""

_HARD = [random.Random("rows").gauss(0, 0.3) for _ in range(ROWS)]


def measure(
    world: World,
    candidate: Candidate,
    fraction: float,
    rows: float = 0.05,
    seeds: float = 0.005,
    before: float = 0.0,
) -> Measurement:
    """`rows` is the deviation of a row's own noise from candidate to candidate, `seeds` that of a run; in nats."""
    truth, scores = world(candidate.setting, fraction), None
    if math.isfinite(truth):
        own = random.Random(f"{candidate.id}@{fraction}")
        truth += own.gauss(0, seeds)
        losses = tuple(TOKENS * max(0.0, truth + hard + own.gauss(0, rows)) for hard in _HARD)
        scores = Scores(losses, (TOKENS,) * ROWS)
    return Measurement(
        candidate,
        fraction,
        max(1, round(100 * fraction)),
        round(FULL * fraction),
        round(FULL * (fraction - 0.8 * before)),
        "trained" if scores else "diverged",
        scores,
        candidate.rank * {"attention": 10, "mlp": 15, "all-linear": 25}.get(candidate.targets, 30),
        4000,
        1,
        1.0,
    )


def run(
    strategy: Strategy,
    world: World,
    rows: float = 0.05,
    seeds: float = 0.005,
    baseline: Scores = BASELINE,
    lost: Callable[[Candidate], bool] = lambda candidate: False,
) -> tuple[Decision, list[Stage], list[Measurement]]:
    """The strategy to its end, held to the promises of the protocol on its way. `lost` are runs that diverge."""
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
        check(decision.stage, history)
        assert not set(decision.stage.candidates) & decision.excluded.keys(), (
            "who has left is not trained on"
        )
        stages.append(decision.stage)
        for candidate in decision.stage.candidates:
            before = max((m.fraction for m in history if m.candidate == candidate), default=0.0)
            one = measure(world, candidate, decision.stage.fraction, rows, seeds, before)
            history.append(replace(one, scores=None, status="diverged") if lost(candidate) else one)
    raise AssertionError("the strategy does not end")


def check(stage: Stage, history: Sequence[Measurement]) -> None:
    """The promises that a heat has to keep."""
    measured = {(m.candidate, m.fraction) for m in history}
    diverged = {m.candidate for m in history if m.scores is None}
    assert stage.candidates
    assert len(set(stage.candidates)) == len(stage.candidates)
    assert not {(c, stage.fraction) for c in stage.candidates} & measured
    assert not set(stage.candidates) & diverged
    assert 0 < stage.fraction <= 1


def hill(
    best_rate: float = 2e-3,
    gains: tuple[float, ...] = (0.0, 0.0, 0.0),
    steep: float = 0.2,
    alpha: float = 0.0,
) -> World:
    """A loss that is quadratic in log2 of scale · rate, and falls by `gains` with each doubling of the rank.

    `alpha` is by how much the loss falls with each doubling of the scale, at the same scale · rate.
    """

    def world(setting: Setting, fraction: float) -> float:
        doublings = round(math.log2(setting.rank / 8))
        away = math.log2(setting.learning_rate * setting.scale / (2 * best_rate))
        targets = {"attention": 0.0, "mlp": -0.02, "all-linear": -0.05}.get(setting.targets, 0.05)
        own = alpha * math.log2(setting.scale / 2)
        return 1.5 + steep * away**2 - sum(gains[:doublings]) + targets - own + 0.5 * (1 - fraction)

    return world
