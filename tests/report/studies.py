"""Results of made-up studies: a strategy is run on made-up losses, and its evidence put together.

All but the metrics is as `rung.tuning` makes it.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.report.results import full_climb
from tests.search.worlds import BASELINE, FULL_TOKENS, World, run

from rung.metrics.report import MetricGain, MetricsReport
from rung.search.strategy import Strategy
from rung.tuning.evidence import (
    Runs,
    furthest,
    lever_standings,
    rank_ladder,
    seed_noise_of,
    setting_loss,
    setting_results,
)
from rung.tuning.result import Baseline, Cost, Recommendation, StudyResult
from rung.types import Candidate, LeverSpace, RankUse


def study(
    strategy: Strategy,
    space: LeverSpace,
    world: World,
    row_noise: float = 0.05,
    seed_noise: float = 0.005,
    diverges: Callable[[Candidate], bool] = lambda candidate: False,
) -> StudyResult:
    """The result of a strategy in a world. See `tests.search.worlds.run`."""
    decision, _, history = run(strategy, world, row_noise, seed_noise, diverges=diverges)
    best = decision.recommended
    assert best is not None
    results = Runs.of(history)
    noise = results.noise()
    settings = setting_results(results, noise)
    standings = lever_standings(decision, settings)
    own = [m for candidate, m in results.last.items() if candidate.setting == best.setting]
    loss = results.last[best].loss
    recommendation = Recommendation(
        candidate=best.id,
        setting=best.setting,
        seed=best.seed,
        target_modules=("k_proj", "q_proj"),
        adapter=f"adapters/{best.id}",
        validation_loss=setting_loss(furthest(own), noise),
        adapter_validation_loss=loss,
        test={"loss": loss},
        test_intervals={},
        test_gains={"loss": MetricGain(BASELINE.mean - loss, 0.1, 2.0)},
        rank_use=RankUse(
            best.rank / 3, {rank: loss + 0.01 for rank in space.ranks if rank < best.rank}
        ),
    )
    return full_climb(
        recommendation=recommendation,
        baseline=Baseline(BASELINE.mean, {"loss": BASELINE.mean}, 400, 0, None),
        verdicts=decision.verdicts,
        standings=standings,
        ladder=rank_ladder(space.ranks, best.setting, settings, standings, decision.verdicts),
        metrics=MetricsReport("loss", (), 0, (), None),
        noise=seed_noise_of(noise),
        untried=decision.untried,
        settings=settings,
        cost=Cost(100.0, sum(m.spent for m in history), FULL_TOKENS),
    )
