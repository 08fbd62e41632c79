"""The contract that every strategy keeps; `worlds.run` holds each heat to it on the way."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.search.worlds import BASELINE, SPACE, hill, run

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
    "climb, thrifty": lambda: Climb(SPACE, effort=Effort(1 / 8, (8,), finalists=1, seeds=(1,))),
    "climb, semifinal": lambda: Climb(SPACE, effort=Effort(semifinalists=6)),
    "climb, more seeds": lambda: Climb(SPACE, effort=Effort(finalists=2, more=5)),
    "climb, pinned": lambda: Climb(LeverSpace((8, 16, 32), (1e-3, 2e-3), ("mlp",), pinned=True)),
    "climb, one setting": lambda: Climb(LeverSpace((8,), (1e-3,))),
    "grid": lambda: Grid.of(SMALL),
    "random": lambda: Random(SPACE, 6, seed=3),
    "tpe": lambda: Tpe(SPACE, 8.0),
}
every = pytest.mark.parametrize("make", STRATEGIES.values(), ids=list(STRATEGIES))


@every
def test_it_ends_with_a_recommendation_that_was_trained_in_full(
    make: Callable[[], Strategy],
) -> None:
    decision, stages, _ = run(make(), hill())
    assert stages
    assert decision.recommended is not None


@every
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.randoms(use_true_random=False),
    st.floats(2.5e-4, 3e-2),
    st.tuples(*[st.floats(-0.1, 0.2)] * 3),
)
def test_a_decision_depends_on_what_was_measured_and_not_on_its_order(
    make: Callable[[], Strategy], draw: random.Random, best: float, gains: tuple[float, ...]
) -> None:
    decision, _, history = run(make(), hill(best, gains))
    shuffled = list(history)
    draw.shuffle(shuffled)
    assert make().decide(BASELINE, shuffled) == decision


@every
def test_any_prefix_of_the_history_leads_on_to_the_same_end(make: Callable[[], Strategy]) -> None:
    """A study that was killed in the middle of a heat goes on with what was measured."""
    decision, _, history = run(make(), hill())
    for length in range(0, len(history), max(1, len(history) // 5)):
        partial = make().decide(BASELINE, history[:length])
        assert partial.stage is not None
        known = {(m.candidate, m.fraction) for m in history[length:]}
        assert {(c, partial.stage.fraction) for c in partial.stage.candidates} <= known
    assert make().decide(BASELINE, history) == decision


@every
def test_candidates_that_diverge_are_passed_over(make: Callable[[], Strategy]) -> None:
    def world(setting: Setting, fraction: float) -> float:
        return math.inf if setting.learning_rate > 1.5e-3 else hill()(setting, fraction)

    decision, _, _ = run(make(), world)
    assert decision.recommended is not None
    assert decision.recommended.learning_rate <= 1.5e-3


@every
def test_where_everything_diverges_it_says_so(make: Callable[[], Strategy]) -> None:
    with pytest.raises(TrainingError, match="diverged"):
        run(make(), lambda candidate, fraction: math.inf)


@pytest.mark.parametrize(
    "name", [name for name in STRATEGIES if name != "random"]
)  # what is drawn may all diverge
def test_candidates_that_diverge_late_are_passed_over_too(name: str) -> None:
    def world(setting: Setting, fraction: float) -> float:
        late = setting.rank >= 16 and fraction == 1
        return math.inf if late else hill(gains=(0.1, 0.1, 0.1))(setting, fraction)

    decision, _, _ = run(STRATEGIES[name](), world)
    assert decision.recommended is not None
    assert decision.recommended.rank == 8


def test_random_search_draws_other_settings_with_another_seed_and_each_once() -> None:
    drawn = [Random(SPACE, 6, seed=seed).candidates for seed in range(5)]
    assert len(set(drawn)) == 5
    assert all(len(set(candidates)) == 6 for candidates in drawn)


def test_tpe_keeps_to_its_budget_and_finds_the_hill() -> None:
    space = LeverSpace((8, 16), (1e-5, 1e-2), ("attention", "all-linear"))
    decision, _, history = run(Tpe(space, 20.0), hill(2e-3))
    assert sum(m.spent for m in history) <= 21 * 10_000
    assert decision.recommended is not None
    assert 5e-4 < decision.recommended.learning_rate < 8e-3


def test_a_grid_trains_everything_once() -> None:
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
def test_a_space_with_settings_by_two_names_is_searched_to_the_end(
    make: Callable[[], Strategy],
) -> None:
    decision, _, history = run(make(), hill())
    assert decision.recommended is not None
    if isinstance(make(), Grid):
        assert DOUBLED.combinations - len(history) == 8
        assert (
            len(
                {
                    (
                        m.candidate.rank,
                        m.candidate.scale,
                        m.candidate.targets,
                        m.candidate.learning_rate,
                    )
                    for m in history
                }
            )
            == 24
        )
