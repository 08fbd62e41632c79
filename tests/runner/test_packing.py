"""Which candidates train together, from which step, and which rows measure them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.runner.packing import (
    PlannedPack,
    SavedProgress,
    StageSchedules,
    judging_rows,
    plan_packs,
    split_into_packs,
    spread_evenly,
)
from rung.search.strategy import Stage
from rung.types import Candidate, Setting

SETTING = Setting(4, 8, "attention", 1e-3)
CANDIDATES = [Candidate(SETTING, seed) for seed in range(9)]
A, B, C, D = CANDIDATES[:4]
FRESH = SavedProgress()


def all_fit(candidates: Sequence[Candidate]) -> int:
    return len(candidates)


def at(*steps: int, pack: tuple[Candidate, ...] = ()) -> SavedProgress:
    """Checkpoints of these steps; of an interrupted pack, if there is one."""
    return SavedProgress(frozenset(steps), tuple(candidate.id for candidate in pack))


@given(st.integers(0, 9), st.integers(1, 9), st.integers(1, 9))
def test_packs_are_as_wide_as_the_recipe_and_the_memory_allow_and_as_even_as_possible(
    count: int, most: int, fitting: int
) -> None:
    packs = split_into_packs(CANDIDATES[:count], most, lambda c: min(len(c), fitting))
    assert [candidate for pack in packs for candidate in pack] == CANDIDATES[:count], "in order"
    widths = [len(pack) for pack in packs]
    allowed = min(most, fitting)
    assert all(1 <= width <= allowed for width in widths)
    assert len(packs) == -(-count // allowed), "no more packs than needed"
    assert not widths or max(widths) - min(widths) <= 1


def test_a_pack_is_as_wide_as_the_memory_allows_for_its_own_candidates() -> None:
    def one_of_the_first(candidates: Sequence[Candidate]) -> int:
        return 1 if A in candidates else len(candidates)

    assert split_into_packs([A, B, C], 8, one_of_the_first) == [[A], [B, C]]


def test_candidates_at_the_same_step_train_together_in_the_order_of_the_stage() -> None:
    progress = {B: at(8), A: FRESH, D: at(8), C: FRESH}
    assert plan_packs(progress, 8, all_fit) == [PlannedPack((B, D), 8), PlannedPack((A, C), 0)]


def test_a_candidate_goes_on_from_its_last_checkpoint() -> None:
    assert plan_packs({A: at(4, 8)}, 8, all_fit) == [PlannedPack((A,), 8)]


def test_an_interrupted_pack_goes_on_together_from_the_last_step_that_all_have_saved() -> None:
    progress = {A: at(4, 6, pack=(A, B)), B: at(4, 5, pack=(A, B)), C: FRESH, D: at(6)}
    assert plan_packs(progress, 8, all_fit) == [
        PlannedPack((A, B), 4),
        PlannedPack((C,), 0),
        PlannedPack((D,), 6),
    ]


def test_an_interrupted_pack_is_not_split_again() -> None:
    progress = {A: at(4, pack=(A, B)), B: at(4, pack=(A, B))}
    assert plan_packs(progress, 1, all_fit) == [PlannedPack((A, B), 4)]


def test_a_member_without_a_checkpoint_in_common_goes_on_from_its_own() -> None:
    progress = {A: at(4, pack=(A, B)), B: at(6, pack=(A, B))}
    assert plan_packs(progress, 8, all_fit) == [PlannedPack((A,), 4), PlannedPack((B,), 6)]


def test_a_stage_ends_at_its_fraction_and_cools_down_before_it() -> None:
    schedules = StageSchedules(steps=100, warmup=0.1, cooldown=0.2)
    half = schedules.of(Stage("race", (A,), 0.5))
    assert (half.warmup_steps, half.cooldown_start, half.stop) == (10, 40, 50)
    assert schedules.of(Stage("final", (A,))).stop == 100
    assert schedules.of(Stage("race", (A,), 1e-6)).stop == 1, "at least one step"


@pytest.mark.parametrize(
    ("rows", "fraction", "least", "expected"),
    [(120, 0.5, 16, 60), (120, 0.05, 16, 16), (120, 0.5, 10_000, 120), (120, 1.0, 16, 120)],
)
def test_a_race_is_measured_on_its_share_of_the_rows_and_on_no_fewer_than_the_least(
    rows: int, fraction: float, least: int, expected: int
) -> None:
    assert judging_rows(rows, fraction, least) == expected


@given(st.integers(1, 500), st.data())
def test_rows_are_spread_evenly_in_order_and_none_twice(rows: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, rows))
    chosen = spread_evenly(rows, count)
    assert len(chosen) == count
    assert chosen == sorted(set(chosen))
    assert chosen[0] == 0
    assert chosen[-1] < rows
    gaps = {after - before for before, after in itertools.pairwise(chosen)}
    assert not gaps or max(gaps) - min(gaps) <= 1
