"""Which finalist is recommended, and how it compares with the untuned model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from tests.search.worlds import BASELINE, ROWS, TOKENS, measure

from rung.search.confirmation import Confirmation
from rung.search.effort import Effort
from rung.search.results import Results
from rung.search.stats import gain_estimate
from rung.search.verdicts import NATS
from rung.types import Candidate, Scores, Setting

SMALL, MIDDLE, LARGE = (Setting(rank, 2 * rank, "mlp", 1e-3) for rank in (8, 16, 32))
CONFIDENCE = 0.95
EFFORT = Effort(seeds=(1, 2, 3), extra_seeds=5)


def confirmation_of(losses: Mapping[Setting, Mapping[int, float]]) -> Confirmation:
    """Finalists with these losses, in nats per token, by seed. The margin is 1 %."""
    results = Results(EFFORT.all_seeds)
    for setting, by_seed in losses.items():
        for seed, loss in by_seed.items():
            candidate = Candidate(setting, seed)
            scores = Scores((TOKENS * loss,) * ROWS, (TOKENS,) * ROWS)
            m = replace(measure(lambda s, f: 1.0, candidate, 1.0), scores=scores)
            results.add({candidate: m}, 1.0)
    return Confirmation(results, 0.01, EFFORT, NATS, BASELINE)


def constant(loss: float, seeds: int = 3) -> dict[int, float]:
    """The same loss for each seed, but for a little noise that averages out."""
    noise = [(-1) ** seed * 1e-4 for seed in range(seeds)]
    mean = sum(noise) / seeds
    return {seed + 1: loss + noise[seed] - mean for seed in range(seeds)}


def test_the_cheapest_setting_within_the_margin_of_the_best_is_recommended() -> None:
    losses = {SMALL: constant(1.03), MIDDLE: constant(1.005), LARGE: constant(1.0)}
    assert confirmation_of(losses).recommend(list(losses), CONFIDENCE) == MIDDLE


def test_of_equally_many_parameters_the_better_one_is_recommended() -> None:
    other = Setting(8, 16, "mlp", 2e-3)
    losses = {SMALL: constant(1.004), other: constant(1.0), LARGE: constant(1.0)}
    assert confirmation_of(losses).recommend(list(losses), CONFIDENCE) == other


def test_a_cheaper_setting_beyond_the_margin_is_not_recommended_though_nothing_is_certain() -> None:
    losses = {SMALL: {1: 1.05}, LARGE: {1: 1.0}}
    assert confirmation_of(losses).recommend(list(losses), CONFIDENCE) == LARGE
    noisy = {SMALL: {1: 1.0, 2: 1.2, 3: 1.0}, LARGE: {1: 1.2, 2: 0.9, 3: 1.0}}
    assert confirmation_of(noisy).recommend(list(noisy), CONFIDENCE) == LARGE


def test_a_setting_within_the_margin_is_not_recommended_if_another_is_certainly_better() -> None:
    """Over the three seeds of all it is within the margin, over the eight of two it is not."""
    small = {**constant(1.0095), **dict.fromkeys((4, 5, 6, 7, 8), 1.03)}
    large = {**constant(1.0), **dict.fromkeys((4, 5, 6, 7, 8), 1.0)}
    losses = {SMALL: small, LARGE: large, MIDDLE: constant(1.5)}
    confirmation = confirmation_of(losses)
    verdict = confirmation.verdict(SMALL, LARGE, CONFIDENCE)
    assert (verdict.outcome, verdict.seeds) == ("better", 8)
    assert confirmation.recommend(list(losses), CONFIDENCE) == LARGE
    without_extra = {
        setting: {s: by_seed[s] for s in (1, 2, 3)} for setting, by_seed in losses.items()
    }
    assert confirmation_of(without_extra).recommend(list(losses), CONFIDENCE) == SMALL


def test_the_verdict_on_the_untuned_model_contains_the_noise_of_seeds() -> None:
    losses = {SMALL: {1: 0.9, 2: 1.0, 3: 1.1}, LARGE: {1: 0.95, 2: 1.0, 3: 1.15}}
    confirmation = confirmation_of(losses)
    verdict = confirmation.verdict_on_untuned(SMALL)
    assert (verdict.kind, verdict.before, verdict.after) == ("untuned", None, SMALL)
    assert verdict.gain == pytest.approx(BASELINE.mean - 1.0)
    rows_alone = gain_estimate(
        [BASELINE],
        [m.scores for m in confirmation.results.measurements(SMALL, 1.0) if m.scores],
    ).interval()
    assert verdict.low < rows_alone.low - 0.1
    assert verdict.high > rows_alone.high + 0.1


def test_a_pair_goes_from_the_cheaper_to_the_more_expensive_setting() -> None:
    confirmation = confirmation_of({LARGE: constant(1.0), SMALL: constant(1.2)})
    assert confirmation.comparisons([LARGE, SMALL], [(LARGE, SMALL)]) == [(SMALL, LARGE)]


def test_the_rank_step_of_the_best_finalist_is_compared_too() -> None:
    losses = {LARGE: constant(1.1), SMALL: constant(1.2), MIDDLE: constant(1.0)}
    pairs = confirmation_of(losses).comparisons(list(losses), [(SMALL, LARGE)])
    assert pairs == [(SMALL, LARGE), (MIDDLE, LARGE)]
