from __future__ import annotations

from rung.data.example import Example

CHAT = Example(tuple(range(10)), 7, spans=((2, 4), (7, 10)))
"""Two answers in ten tokens; the last one begins at 7."""


def test_without_spans_everything_behind_the_prompt_is_trained_on() -> None:
    example = Example((5, 6, 7, 8, 9), 2)
    assert example.learned_spans == ((2, 5),)
    assert example.mask == [0, 0, 1, 1, 1]
    assert example.loss_tokens == 3
    assert example.prompt_ids == (5, 6)


def test_spans_say_what_is_trained_on() -> None:
    assert CHAT.learned_spans == ((2, 4), (7, 10))
    assert CHAT.mask == [0, 0, 1, 1, 0, 0, 0, 1, 1, 1]
    assert CHAT.loss_tokens == 5
    assert CHAT.prompt_ids == tuple(range(7))


def test_nothing_predicts_the_first_token_so_it_has_no_loss() -> None:
    example = Example((5, 6, 7), 0)
    assert example.mask == [1, 1, 1]
    assert example.loss_tokens == 2
    assert example.prompt_ids == ()


def test_a_separate_prompt_is_what_the_model_generates_after() -> None:
    assert Example((5, 6, 7), 1, separate_prompt=(5, 8)).prompt_ids == (5, 8)


def test_a_truncated_example_keeps_the_spans_of_its_beginning() -> None:
    assert CHAT.truncate(9).learned_spans == ((2, 4), (7, 9))
    assert CHAT.truncate(3).learned_spans == ((2, 3),)
    assert CHAT.truncate(3).ids == (0, 1, 2)


def test_if_nothing_of_a_span_is_left_nothing_is_trained_on() -> None:
    short = CHAT.truncate(2)
    assert (short.loss_tokens, short.mask) == (0, [0, 0])


def test_an_example_that_is_truncated_before_its_last_answer_has_no_prompt() -> None:
    merging = Example(CHAT.ids, 7, spans=CHAT.spans, separate_prompt=(0, 11))
    for length in (3, 7):
        short = merging.truncate(length)
        assert (short.prompt_ids, short.prompt_length) == ((), 0)
    assert merging.truncate(8).prompt_ids == (0, 11)
    assert CHAT.truncate(8).prompt_ids == CHAT.prompt_ids
