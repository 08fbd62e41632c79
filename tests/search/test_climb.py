"""The climb against made-up worlds, where the truth about every candidate is known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.errors import TrainingError
from rung.levers import Candidate, LeverSpace, Measurement, Scores
from rung.search.climb import LOOK, Climb, rate_grid
from rung.search.strategy import Decision, Heat

SPACE = LeverSpace((8, 16, 32, 64), (1e-3, 2e-3, 4e-3, 8e-3), "attention")
ROWS = 200
BASELINE = Scores(tuple(8.0 * 5 for _ in range(ROWS)), (5,) * ROWS)

World = Callable[[Candidate, float], float]
"""The true loss of a candidate at a fraction of the budget; infinite where it diverges."""


def measure(world: World, candidate: Candidate, fraction: float, noise: float | dict[int, float]) -> Measurement:
    """The rows are as hard for one candidate as for another; what each adds of its own is `noise`, or its rank's."""
    spread = noise[candidate.rank] if isinstance(noise, dict) else noise
    truth = world(candidate, fraction)
    scores = None
    if math.isfinite(truth):
        hard, own = random.Random("rows"), random.Random(f"{candidate.id}@{fraction}")
        losses = (5 * max(0.0, truth + hard.gauss(0, 0.3) + own.gauss(0, spread)) for _ in range(ROWS))
        scores = Scores(tuple(losses), (5,) * ROWS)
    status = "trained" if scores else "diverged"
    return Measurement(candidate, fraction, 10, 100, status, scores, candidate.rank * 1000, 4000, 1, 1.0)  # type: ignore[arg-type]


def run(
    world: World, space: LeverSpace = SPACE, noise: float | dict[int, float] = 0.02
) -> tuple[Decision, list[Heat], list[Measurement]]:
    """The climb to its end, held to the promises of the protocol on its way."""
    climb, history, heats = Climb(space), [], []
    verdicts: tuple[object, ...] = ()
    for _ in range(20):
        decision = climb.decide(BASELINE, history)
        assert decision.verdicts[: len(verdicts)] == verdicts, "a verdict is never taken back"
        verdicts = decision.verdicts
        if decision.heat is None:
            assert decision.recommended is not None
            return decision, heats, history
        assert decision.recommended is None
        measured = {(m.candidate, m.fraction) for m in history}
        diverged = {m.candidate for m in history if m.scores is None}
        assert len(set(decision.heat.candidates)) == len(decision.heat.candidates)
        assert not {(c, decision.heat.until) for c in decision.heat.candidates} & measured
        assert not set(decision.heat.candidates) & diverged
        heats.append(decision.heat)
        history += [measure(world, c, decision.heat.until, noise) for c in decision.heat.candidates]
    raise AssertionError("the climb does not end")


def hill(best_rate: float = 2e-3, gains: tuple[float, ...] = (0.0, 0.0, 0.0), steep: float = 0.2) -> World:
    """A loss that is quadratic in log2 of the rate, and falls by `gains` with each doubling of the rank."""

    def world(candidate: Candidate, fraction: float) -> float:
        doublings = round(math.log2(candidate.rank / 8))
        away = math.log2(candidate.learning_rate / best_rate)
        return 1.5 + steep * away**2 - sum(gains[:doublings]) + 2 * (1 - fraction)

    return world


def test_it_finds_the_rate_and_stays_low_where_rank_gains_nothing() -> None:
    decision, heats, _ = run(hill(2e-3))
    assert decision.recommended == SPACE.candidate(8, 2e-3)
    assert [heat.phase for heat in heats] == ["learning rate", "learning rate", "rank"]
    ranks = [v for v in decision.verdicts if v.lever == "rank"]
    assert [(v.before, v.to, v.outcome) for v in ranks][:2] == [
        (8, 16, "no_worthwhile_gain"),
        (16, 32, "no_worthwhile_gain"),
    ]


def test_a_rung_that_any_other_is_shown_to_beat_is_not_recommended() -> None:
    def world(candidate: Candidate, fraction: float) -> float:
        return hill(2e-3)(candidate, fraction) - {8: 0.0, 16: 0.04, 32: 0.06, 64: 0.06}[candidate.rank]

    # Rank 32 is best on average, but so noisy that nothing is shown by it; rank 16 is surely better than rank 8.
    decision, _, _ = run(world, noise={8: 0.01, 16: 0.01, 32: 0.8, 64: 0.8})
    shown = {(v.before, v.to): v.outcome for v in decision.verdicts if v.lever == "rank"}
    assert shown[8, 16] == "better"
    assert shown[16, 32] == "undecided"
    assert decision.recommended == SPACE.candidate(16, 2e-3)


def test_it_climbs_while_doubling_is_worth_it_and_no_further() -> None:
    decision, _, history = run(hill(2e-3, (0.1, 0.1, 0.0)))
    assert decision.recommended == SPACE.candidate(32, 2e-3)
    assert {m.candidate.rank for m in history} == {8, 16, 32, 64}
    decision, _, history = run(hill(2e-3, (0.1, 0.0, 0.1)))
    assert decision.recommended == SPACE.candidate(16, 2e-3)
    assert 64 not in {m.candidate.rank for m in history}


def test_a_gain_that_is_sure_but_not_worthwhile_does_not_buy_a_rank() -> None:
    decision, _, _ = run(hill(2e-3, (0.01, 0.0, 0.0)), noise=0.001)
    assert decision.recommended == SPACE.candidate(8, 2e-3)


def test_what_cannot_be_told_apart_is_undecided_and_the_cheaper_one_is_taken() -> None:
    decision, _, _ = run(hill(2e-3, (0.02, 0.02, 0.0)), noise=0.8)
    ranks = [v for v in decision.verdicts if v.lever == "rank"]
    assert {v.outcome for v in ranks} == {"undecided"}
    assert decision.recommended is not None
    assert decision.recommended.rank == 8


@pytest.mark.parametrize(("best", "found"), [(16e-3, 16e-3), (5e-4, 5e-4)])
def test_the_grid_grows_where_the_best_rate_stands_at_its_edge(best: float, found: float) -> None:
    decision, _, _ = run(hill(best))
    assert decision.recommended is not None
    assert decision.recommended.learning_rate == pytest.approx(found)


def test_the_grid_does_not_grow_where_its_edge_is_flat() -> None:
    def world(candidate: Candidate, fraction: float) -> float:
        return 1.5 + (0.2 if candidate.learning_rate > 3e-3 else 0.0) + (1 - fraction)

    _, _, history = run(world, noise=0.2)
    assert min(m.candidate.learning_rate for m in history if m.candidate.rank == 8) == 1e-3


def test_a_grid_that_never_turns_ends_all_the_same() -> None:
    decision, _, _ = run(hill(1e-9, steep=0.01))
    assert decision.recommended is not None


def test_a_rank_whose_best_rate_is_lower_is_not_held_to_the_rate_of_the_first_rung() -> None:
    def world(candidate: Candidate, fraction: float) -> float:
        best = 2e-3 if candidate.rank == 8 else 1e-3
        gain = 0.2 if candidate.rank >= 16 else 0.0
        return 1.5 - gain + 0.5 * math.log2(candidate.learning_rate / best) ** 2 + (1 - fraction)

    decision, _, _ = run(world)
    assert decision.recommended == SPACE.candidate(16, 1e-3)
    moved = [v for v in decision.verdicts if "at rank 16" in v.says]
    assert [(v.before, v.to, v.outcome) for v in moved] == [(2e-3, 1e-3, "better")]


def test_at_the_look_a_slow_rate_leaves_behind_a_fast_one() -> None:
    decision, heats, _ = run(hill(4e-3, steep=0.3))
    assert heats[0].until == LOOK
    assert SPACE.candidate(8, 1e-3) not in heats[1].candidates
    assert "left" not in {v.outcome for v in decision.verdicts}
    assert decision.left[0][0] == SPACE.candidate(8, 1e-3)


def test_at_the_look_a_fast_rate_does_not_leave_since_its_noise_has_not_cooled_down() -> None:
    def world(candidate: Candidate, fraction: float) -> float:
        hot = 100 * candidate.learning_rate * (1 - fraction)
        return 1.5 + 0.3 * abs(math.log2(candidate.learning_rate / 8e-3)) + hot

    decision, heats, _ = run(world)
    assert SPACE.candidate(8, 8e-3) in heats[1].candidates
    assert decision.recommended is not None
    assert decision.recommended.learning_rate == 8e-3


def test_a_rate_that_diverges_leaves_and_the_others_go_on() -> None:
    def world(candidate: Candidate, fraction: float) -> float:
        return math.inf if candidate.learning_rate > 3e-3 else hill(2e-3)(candidate, fraction)

    decision, heats, _ = run(world)
    assert decision.recommended == SPACE.candidate(8, 2e-3)
    assert {c.learning_rate for c in heats[1].candidates} <= {1e-3, 2e-3}
    assert (SPACE.candidate(8, 8e-3), "it diverged") in decision.left


def test_rungs_that_diverge_are_passed_over() -> None:
    def world(candidate: Candidate, fraction: float) -> float:
        return math.inf if candidate.rank > 8 else hill(2e-3)(candidate, fraction)

    decision, _, _ = run(world)
    assert decision.recommended == SPACE.candidate(8, 2e-3)


def test_where_everything_diverges_it_says_so() -> None:
    with pytest.raises(TrainingError, match="diverged"):
        run(lambda candidate, fraction: math.inf)


def test_one_rate_and_one_rank_are_one_heat() -> None:
    space = LeverSpace((16,), (1e-3,), "mlp")
    decision, heats, _ = run(hill(), space)
    assert [heat.candidates for heat in heats] == [(space.candidate(16, 1e-3),)]
    assert decision.recommended == space.candidate(16, 1e-3)


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False), st.floats(2.5e-4, 3e-2), st.tuples(*[st.floats(-0.1, 0.2)] * 3))
def test_a_decision_depends_on_what_was_measured_and_not_on_its_order(
    draw: random.Random, best: float, gains: tuple[float, ...]
) -> None:
    decision, _, history = run(hill(best, gains))
    shuffled = list(history)
    draw.shuffle(shuffled)
    assert Climb(SPACE).decide(BASELINE, shuffled) == decision


def test_the_verdict_on_the_adapter_itself_is_the_last() -> None:
    decision, _, _ = run(hill())
    last = decision.verdicts[-1]
    assert (last.lever, last.before, last.outcome) == ("adapter", "untuned", "better")


def test_wider_models_get_lower_rates() -> None:
    assert rate_grid(576) == (1e-3, 2e-3, 4e-3, 8e-3)
    assert max(rate_grid(8192)) < 1e-3
    assert rate_grid(4096)[1] == pytest.approx(4e-4)
