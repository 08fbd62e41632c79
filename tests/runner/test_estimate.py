"""The estimate of a stage, against the local runner's stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.engine.setups import examples
from tests.runner.runners import A_SEED_1, A, B, ignore, make_runner
from tests.tiny import tiny_llama

from rung.costs.devices import device
from rung.costs.memory_policy import MEMORY_HEADROOM
from rung.costs.probes import DeviceCosts, estimate_costs
from rung.data.prepare import prepare
from rung.model.load import Base
from rung.recipe import Recipe
from rung.runner.estimate import EstimateRunner
from rung.search.strategy import Stage
from rung.types import Candidate, Setting

PLENTY = 16e9


@pytest.fixture(scope="module")
def costs() -> DeviceCosts:
    rows = [e for e in examples(97, 32, 40) if len(e.ids) >= 5]
    setting = Setting(8, 16, "all-linear", 1e-3)
    return estimate_costs(tiny_llama().config, "fp32", "fp32", setting, rows, device("t4"))


def make_estimate(
    costs: DeviceCosts, base: Base, rows: Path, limit: float = PLENTY, **options: Any
) -> EstimateRunner:
    recipe = Recipe(data=str(rows), validation=str(rows), test=str(rows), **options)
    data = prepare(recipe, base.tokenizer)
    return EstimateRunner(costs, recipe, data.train, data.validation, limit)


def test_it_counts_the_steps_and_tokens_of_the_local_runner(
    costs: DeviceCosts, tiny_base: Base, rows_file: Path, tmp_path: Path
) -> None:
    estimate = make_estimate(costs, tiny_base, rows_file)
    local = make_runner(tiny_base, rows_file, tmp_path)
    assert estimate.steps == local.steps
    assert estimate.full_tokens == local.full_tokens
    # The last stage continues two candidates and starts a third one, in a pack of its own.
    for stage in (Stage("race", (A, B), 2 / 3), Stage("final", (A, A_SEED_1, B))):
        for made_up, real in zip(
            estimate.run(stage, ignore), local.run(stage, ignore), strict=True
        ):
            assert made_up.candidate == real.candidate
            assert (made_up.fraction, made_up.steps) == (real.fraction, real.steps)
            assert (made_up.tokens, made_up.spent) == (real.tokens, real.spent)
            assert made_up.parameters == real.parameters
    race, final = estimate.stages
    assert (race.phase, race.settings, race.seeds, race.widths) == ("race", 2, 1, (2,))
    assert final.widths == (2, 1)
    assert race.tokens + final.tokens > 3 * estimate.full_tokens, "cooldowns come on top"


def test_tight_memory_makes_packs_narrower_and_keeps_the_peak_within_it(
    costs: DeviceCosts, tiny_base: Base, rows_file: Path
) -> None:
    candidates = tuple(Candidate(Setting(64, 128, "all-linear", 1e-3), seed) for seed in range(6))
    roomy = make_estimate(costs, tiny_base, rows_file, pack_width=6)
    state = roomy.candidate_memory(candidates)[0].state
    limit = (costs.memory.held + 3.5 * state) / (1 - MEMORY_HEADROOM)
    tight = make_estimate(costs, tiny_base, rows_file, limit, pack_width=6)
    for estimate in (roomy, tight):
        estimate.run(Stage("race", candidates), ignore)
    assert roomy.stages[0].widths == (6,)
    assert sum(tight.stages[0].widths) == 6
    assert len(tight.stages[0].widths) >= 2
    assert tight.stages[0].peak <= limit * (1 - MEMORY_HEADROOM) < roomy.stages[0].peak
    assert tight.stages[0].tokens == roomy.stages[0].tokens


def test_more_training_takes_more_time(
    costs: DeviceCosts, tiny_base: Base, rows_file: Path
) -> None:
    estimate = make_estimate(costs, tiny_base, rows_file)
    stages = (Stage("a", (A,), 1 / 3), Stage("b", (A_SEED_1,)), Stage("c", (A, A_SEED_1)))
    for stage in stages:
        estimate.run(stage, ignore)
    third, whole, rest = (stage.seconds for stage in estimate.stages)
    assert 0 < third < whole
    assert rest > 0
    assert estimate.tokens_per_second() > 0


def test_it_scores_and_generates_in_time_that_grows_with_the_rows(
    costs: DeviceCosts, tiny_base: Base, rows_file: Path
) -> None:
    estimate = make_estimate(costs, tiny_base, rows_file)
    few, many = estimate.validation[:10], estimate.validation
    for seconds in (estimate.scoring_seconds, estimate.generation_seconds):
        assert 0 < seconds(A, few) < seconds(A, many)
        assert seconds(None, many) <= seconds(A, many)
    assert estimate.generation_seconds(A, many) > estimate.scoring_seconds(A, many)


def test_made_up_losses_fall_with_the_parameters_and_are_the_same_in_every_plan(
    costs: DeviceCosts, tiny_base: Base, rows_file: Path
) -> None:
    small, large = (Candidate(Setting(r, 2 * r, "attention", 1e-3)) for r in (4, 64))
    stage = Stage("race", (small, large))
    first, second = (
        make_estimate(costs, tiny_base, rows_file).run(stage, ignore) for _ in range(2)
    )
    assert first == second
    assert first[1].loss < first[0].loss
    baseline = make_estimate(costs, tiny_base, rows_file).baseline()
    assert first[0].loss < baseline.mean
