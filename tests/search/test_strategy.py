"""The contract that every strategy keeps. `worlds.run` checks each stage on the way."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.search.worlds import BASELINE, FULL_TOKENS, SPACE, hill, recommended, run

from rung.errors import TrainingError
from rung.search.climb import Climb
from rung.search.effort import Effort
from rung.search.grid import Grid, Random
from rung.search.strategy import Strategy
from rung.search.tpe import Tpe
from rung.types import Candidate, LeverSpace, Setting

SMALL = LeverSpace((8, 16), (1e-3, 2e-3), ("attention", "mlp"), ("2r", "r"))
STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "climb": lambda: Climb(SPACE),
    "climb, cheap": lambda: Climb(SPACE, effort=Effort(1 / 8, (8,), finalists=1, seeds=(1,))),
    "climb, semifinal": lambda: Climb(SPACE, effort=Effort(semifinalists=6)),
    "climb, extra seeds": lambda: Climb(SPACE, effort=Effort(finalists=2, extra_seeds=5)),
    "climb, fixed rates": lambda: Climb(
        LeverSpace((8, 16, 32), (1e-3, 2e-3), ("mlp",), rates_fixed=True)
    ),
    "climb, one setting": lambda: Climb(LeverSpace((8,), (1e-3,))),
    "grid": lambda: Grid.of(SMALL),
    "random": lambda: Random(SPACE, 6, seed=3),
    "tpe": lambda: Tpe(SPACE, 8.0),
}
every_strategy = pytest.mark.parametrize("make", STRATEGIES.values(), ids=list(STRATEGIES))


@every_strategy
def test_it_ends_with_a_recommendation_that_was_trained_in_full(
    make: Callable[[], Strategy],
) -> None:
    decision, _, history = run(make(), hill())
    assert recommended(decision) in {m.candidate for m in history if m.fraction == 1}


@every_strategy
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.randoms(use_true_random=False),
    st.floats(2.5e-4, 3e-2),
    st.tuples(*[st.floats(-0.1, 0.2)] * 3),
)
def test_a_decision_does_not_depend_on_the_order_of_the_measurements(
    make: Callable[[], Strategy], draw: random.Random, best: float, gains: tuple[float, ...]
) -> None:
    decision, _, history = run(make(), hill(best, gains))
    shuffled = list(history)
    draw.shuffle(shuffled)
    assert make().decide(BASELINE, shuffled) == decision


@every_strategy
def test_any_part_of_the_history_leads_to_the_same_end(make: Callable[[], Strategy]) -> None:
    """A study that was killed in the middle of a stage goes on with what was measured."""
    decision, _, history = run(make(), hill())
    for length in range(0, len(history), max(1, len(history) // 5)):
        partial = make().decide(BASELINE, history[:length])
        assert partial.stage is not None
        later = {(m.candidate, m.fraction) for m in history[length:]}
        assert {(c, partial.stage.fraction) for c in partial.stage.candidates} <= later
    assert make().decide(BASELINE, history) == decision


@every_strategy
def test_candidates_that_diverge_are_not_recommended(make: Callable[[], Strategy]) -> None:
    def world(setting: Setting, fraction: float) -> float:
        return math.inf if setting.learning_rate > 1.5e-3 else hill()(setting, fraction)

    decision, _, _ = run(make(), world)
    assert recommended(decision).learning_rate <= 1.5e-3


@every_strategy
def test_it_is_an_error_if_everything_diverges(make: Callable[[], Strategy]) -> None:
    with pytest.raises(TrainingError, match="diverged"):
        run(make(), lambda setting, fraction: math.inf)


# All settings that the random strategy draws may diverge.
@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "random"])
def test_candidates_that_diverge_late_are_not_recommended(name: str) -> None:
    def world(setting: Setting, fraction: float) -> float:
        late = setting.rank >= 16 and fraction == 1
        return math.inf if late else hill(gains=(0.1, 0.1, 0.1))(setting, fraction)

    decision, _, _ = run(STRATEGIES[name](), world)
    assert recommended(decision).rank == 8


def test_the_random_strategy_draws_each_setting_once_and_others_with_another_seed() -> None:
    drawn = [Random(SPACE, 6, seed=seed).candidates for seed in range(5)]
    assert len(set(drawn)) == 5
    assert all(len(set(candidates)) == 6 for candidates in drawn)
    assert drawn[0] == Random(SPACE, 6, seed=0).candidates


def test_tpe_keeps_to_its_budget_and_finds_the_hill() -> None:
    space = LeverSpace((8, 16), (1e-5, 1e-2), ("attention", "all-linear"))
    decision, _, history = run(Tpe(space, 20.0), hill(2e-3))
    assert 19 * FULL_TOKENS < sum(m.spent for m in history) <= 21 * FULL_TOKENS
    assert 5e-4 < recommended(decision).learning_rate < 8e-3


def test_tpe_says_which_candidates_hyperband_stopped_and_at_which_fraction() -> None:
    decision, _, history = run(Tpe(SPACE, 8.0), hill(2e-3))
    stopped = {c: why for c, why in decision.excluded.items() if why.reason == "stopped_early"}
    assert stopped
    for candidate, why in stopped.items():
        assert why.fraction == max(m.fraction for m in history if m.candidate == candidate) < 1


def test_the_grid_trains_everything_once() -> None:
    _, stages, history = run(Grid.of(SMALL), hill())
    assert [stage.candidates for stage in stages] == [tuple(map(Candidate, SMALL.settings()))]
    assert len(history) == 16


DOUBLED = LeverSpace((8, 16), (1e-3, 2e-3), ("attention", "mlp"), ("2r", "16", "rslora", "4r"))
"""2r is 16 at rank 8, and rslora, 16 / √16, is 4r at rank 16."""


@pytest.mark.parametrize(
    "make",
    [
        lambda: Climb(DOUBLED),
        lambda: Climb(DOUBLED, effort=Effort(semifinalists=6)),
        lambda: Grid.of(DOUBLED),
        lambda: Random(DOUBLED, 100),
        lambda: Tpe(DOUBLED, 8.0),
    ],
    ids=["climb", "climb, semifinal", "grid", "random", "tpe"],
)
def test_a_space_with_two_names_of_one_setting_is_searched_to_the_end(
    make: Callable[[], Strategy],
) -> None:
    decision, _, _ = run(make(), hill())
    assert recommended(decision)


def test_the_grid_leaves_out_the_second_names_of_settings() -> None:
    _, _, history = run(Grid.of(DOUBLED), hill())
    assert DOUBLED.combinations - len(history) == 8
    assert len({(m.candidate.setting.effect, m.candidate.learning_rate) for m in history}) == 24
