from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from rung.data.batches import (
    BatchOrder,
    by_length,
    collate,
    left_padded,
    order,
    side_by_side,
    steps_per_pass,
)
from rung.data.example import Example

row_lengths = st.lists(st.integers(1, 50), min_size=1, max_size=300)


class TestOrder:
    @given(row_lengths, st.integers(1, 20), st.integers(0, 5), st.integers(0, 3))
    def test_a_pass_has_every_row_once_in_full_batches_but_one(
        self, lengths: list[int], size: int, seed: int, pass_number: int
    ) -> None:
        batches = order(lengths, size, 0, seed, pass_number)
        assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
        assert len(batches) == steps_per_pass(len(lengths), size)
        assert sum(len(batch) != size for batch in batches) <= 1

    @given(row_lengths, st.integers(1, 20), st.integers(0, 5), st.integers(0, 3))
    def test_the_order_depends_on_its_arguments_alone(
        self, lengths: list[int], size: int, seed: int, pass_number: int
    ) -> None:
        first = order(lengths, size, 0, seed, pass_number)
        assert first == order(lengths, size, 0, seed, pass_number)

    def test_seeds_and_passes_have_different_orders(self) -> None:
        lengths = list(range(1, 101))
        orders = {
            str(order(lengths, 8, 0, seed, pass_number))
            for seed in range(3)
            for pass_number in range(3)
        }
        assert len(orders) == 9

    def test_the_rows_of_a_batch_have_similar_lengths(self) -> None:
        lengths = [1 + i % 40 for i in range(320)]
        padded = sum(
            len(batch) * max(lengths[row] for row in batch) for batch in order(lengths, 8, 0, 0, 0)
        )
        assert padded < 1.15 * sum(lengths)

    @given(row_lengths, st.integers(1, 20), st.integers(0, 3))
    def test_all_seeds_have_batches_of_the_same_size_at_every_step(
        self, lengths: list[int], size: int, pass_number: int
    ) -> None:
        first, second = (order(lengths, size, 0, seed, pass_number) for seed in (1, 2))
        assert [len(batch) for batch in first] == [len(batch) for batch in second]

    def test_all_seeds_have_batches_of_similar_lengths_at_every_step(self) -> None:
        lengths = [1 + i % 40 for i in range(640)]
        steps = zip(*(order(lengths, 8, 0, seed, 0) for seed in (1, 2, 3)), strict=True)
        padded = sum(24 * max(lengths[row] for batch in step for row in batch) for step in steps)
        assert padded < 1.25 * 3 * sum(lengths)


class TestSteps:
    def test_steps_go_through_the_passes_in_order(self) -> None:
        lengths = [1 + i % 9 for i in range(20)]
        steps = BatchOrder(lengths, batch_size=8, passes=1.5, seed=3)
        passes = [rows for number in (0, 1) for rows in order(lengths, 8, 3, 7, number)]
        assert steps.count == 4
        assert steps.rows(7) == passes[:4]
        assert steps.tokens(7) == [sum(lengths[row] for row in rows) for rows in passes[:4]]

    def test_there_is_at_least_one_step(self) -> None:
        assert BatchOrder([5, 5], batch_size=8, passes=0.01, seed=0).count == 1


class TestByLength:
    @given(row_lengths, st.integers(1, 20))
    def test_every_row_is_in_one_batch(self, lengths: list[int], size: int) -> None:
        batches = by_length(lengths, size)
        assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))

    def test_rows_are_sorted_by_length(self) -> None:
        assert by_length([3, 1, 2, 5, 4], 2) == [[1, 2], [0, 4], [3]]

    def test_a_batch_has_rows_of_one_kind(self) -> None:
        assert by_length([3, 1, 2, 5, 4], 2, kinds=[1, 0, 1, 0, 1]) == [[1, 3], [2, 0], [4]]


class TestTensors:
    def test_a_batch_has_the_positions_that_predict_a_trained_token(self) -> None:
        batch = collate([Example((5, 6, 7, 8), 2), Example((9, 3), 1)])
        assert batch.ids.tolist() == [[5, 6, 7, 8], [9, 3, 0, 0]]
        assert batch.positions.tolist() == [1, 2, 4]
        assert batch.labels.tolist() == [7, 8, 3]
        assert batch.rows.tolist() == [0, 0, 1]
        assert batch.tokens == 6
        assert torch.equal(batch.ids.flatten()[batch.positions + 1], batch.labels)

    def test_a_part_of_a_batch_has_the_same_width_and_counts_its_padding(self) -> None:
        batch = collate([Example((5, 6, 7, 8), 2), Example((9, 3), 1)])
        part = batch.part(1, 2)
        assert part.ids.tolist() == [[9, 3, 0, 0]]
        assert part.positions.tolist() == [0]
        assert part.labels.tolist() == [3]
        assert part.rows.tolist() == [0]
        assert part.tokens == 4
        assert batch.part(0, 2) is batch

    def test_candidates_with_the_same_batch_share_its_rows(self) -> None:
        batch = collate([Example((5, 6, 7, 8), 2), Example((9, 3), 1)])
        rows = side_by_side([batch, batch])
        assert rows.alike
        assert torch.equal(rows.ids, batch.ids.repeat(2, 1))
        assert torch.equal(rows.places, batch.positions.repeat(2, 1))
        assert torch.equal(rows.labels, batch.labels.repeat(2, 1))
        assert rows.counted.all()

    def test_batches_of_different_sizes_are_padded_to_the_largest(self) -> None:
        small = collate([Example((5, 6), 1)])
        large = collate([Example((1, 2, 3), 1), Example((7, 8), 1)])
        rows = side_by_side([small, large, small])
        assert not rows.alike
        assert rows.ids.view(3, 2, 3).tolist() == [
            [[5, 6, 0], [0, 0, 0]],
            [[1, 2, 3], [7, 8, 0]],
            [[5, 6, 0], [0, 0, 0]],
        ]
        assert rows.counted.tolist() == [
            [True, False, False],
            [True, True, True],
            [True, False, False],
        ]
        assert rows.places[1].tolist() == [0, 1, 3]
        assert rows.labels[1].tolist() == [2, 3, 8]
        for k, batch in enumerate((small, large, small)):
            counted = rows.counted[k]
            assert torch.equal(rows.labels[k][counted], batch.labels)
            next_tokens = rows.ids.view(3, -1)[k][rows.places[k][counted] + 1]
            assert torch.equal(next_tokens, batch.labels)

    def test_prompts_are_padded_at_the_front(self) -> None:
        ids, mask = left_padded([(5, 6, 7), (8,)])
        assert ids.tolist() == [[5, 6, 7], [0, 0, 8]]
        assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
