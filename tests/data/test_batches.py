from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from rung.data.batches import by_length, collate, order, side_by_side, steps_per_pass
from rung.data.example import Example

lengths_of_rows = st.lists(st.integers(1, 50), min_size=1, max_size=300)


@given(lengths_of_rows, st.integers(1, 20), st.integers(0, 5), st.integers(0, 3))
def test_a_pass_has_every_row_once_in_full_batches_but_one(
    lengths: list[int], size: int, seed: int, number: int
) -> None:
    batches = order(lengths, size, 0, seed, number)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert len(batches) == steps_per_pass(len(lengths), size)
    assert sum(len(batch) != size for batch in batches) <= 1
    assert batches == order(lengths, size, 0, seed, number)


def test_seeds_and_passes_have_orders_of_their_own() -> None:
    lengths = list(range(1, 101))
    assert (
        len({str(order(lengths, 8, 0, seed, number)) for seed in range(3) for number in range(3)})
        == 9
    )


def test_rows_of_like_length_stand_together() -> None:
    lengths = [1 + i % 40 for i in range(320)]
    padded = sum(
        len(batch) * max(lengths[row] for row in batch) for batch in order(lengths, 8, 0, 0, 0)
    )
    assert padded < 1.15 * sum(lengths)


@given(lengths_of_rows, st.integers(1, 20), st.integers(0, 3))
def test_seeds_have_batches_of_as_many_rows_at_every_step(
    lengths: list[int], size: int, number: int
) -> None:
    one, other = (order(lengths, size, 0, seed, number) for seed in (1, 2))
    assert [len(batch) for batch in one] == [len(batch) for batch in other]


def test_seeds_side_by_side_have_rows_of_like_length_at_every_step() -> None:
    lengths = [1 + i % 40 for i in range(640)]
    steps = zip(*(order(lengths, 8, 0, seed, 0) for seed in (1, 2, 3)), strict=True)
    padded = sum(24 * max(lengths[row] for batch in step for row in batch) for step in steps)
    assert padded < 1.25 * 3 * sum(lengths)


@given(lengths_of_rows, st.integers(1, 20))
def test_scoring_batches_have_every_row_once(lengths: list[int], size: int) -> None:
    assert sorted(row for batch in by_length(lengths, size) for row in batch) == list(
        range(len(lengths))
    )


def test_a_batch_knows_the_places_that_predict_a_completion() -> None:
    batch = collate([Example((5, 6, 7, 8), 2), Example((9, 3), 1)])
    assert batch.ids.tolist() == [[5, 6, 7, 8], [9, 3, 0, 0]]
    assert batch.positions.tolist() == [1, 2, 4]
    assert batch.labels.tolist() == [7, 8, 3]
    assert batch.rows.tolist() == [0, 0, 1]
    assert batch.tokens == 6
    assert torch.equal(batch.ids.flatten()[batch.positions + 1], batch.labels)


def test_one_batch_for_all_stands_side_by_side_with_itself() -> None:
    batch = collate([Example((5, 6, 7, 8), 2), Example((9, 3), 1)])
    rows = side_by_side([batch, batch])
    assert rows.alike
    assert torch.equal(rows.ids, batch.ids.repeat(2, 1))
    assert torch.equal(rows.places, batch.positions.repeat(2, 1))
    assert rows.counted.all()


def test_batches_of_unlike_rows_and_lengths_are_padded_to_the_largest() -> None:
    small, large = (
        collate([Example((5, 6), 1)]),
        collate([Example((1, 2, 3), 1), Example((7, 8), 1)]),
    )
    rows = side_by_side([small, large, small])
    assert not rows.alike
    assert rows.ids.tolist() == [[5, 6, 0], [0, 0, 0], [1, 2, 3], [7, 8, 0], [5, 6, 0], [0, 0, 0]]
    assert rows.counted.tolist() == [[True, False, False], [True, True, True], [True, False, False]]
    assert rows.places[1].tolist() == [0, 1, 3]
    assert rows.labels[1].tolist() == [2, 3, 8]
    for k, batch in enumerate((small, large, small)):
        there = rows.counted[k]
        assert torch.equal(rows.labels[k][there], batch.labels)
        assert torch.equal(rows.ids.view(3, -1)[k][rows.places[k][there] + 1], batch.labels)
