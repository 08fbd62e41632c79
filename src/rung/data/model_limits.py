"""Whether rows, and the texts that will be generated, fit a model's positions and vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rung.data.example import Example
from rung.data.prepare import Data
from rung.errors import DataError


def max_new_tokens(examples: Sequence[Example]) -> int:
    """How many tokens may be generated after each prompt.

    This is a quarter more than the longest completion. It is the same for all rows, so that it
    reveals nothing about a row's own completion.
    """
    longest = max(len(example.ids) - example.prompt_length for example in examples)
    return longest + longest // 4


def check_model_limits(data: Data, positions: int | None, vocabulary: int, tokenizer: Any) -> None:
    """Check that a model can take all rows.

    Args:
        data: The rows.
        positions: The most tokens that the model has positions for, if there is a limit.
        vocabulary: The number of tokens in the model's embedding and its output head.
        tokenizer: The tokenizer of the rows.

    Raises:
        DataError: A row has more tokens than the model has positions, or a row or the end of an
            answer has a token that is not in the embedding.
    """
    lengths = [length for examples in data.splits.values() for length in examples.lengths]
    if positions and (too_long := sum(length > positions for length in lengths)):
        raise DataError(
            f"{too_long:,} of {len(lengths):,} rows have more tokens than the model has positions, "
            f"{positions:,}, and the longest has {max(lengths):,}; give --max-tokens {positions}."
        )
    for token, location in _highest_tokens(data, vocabulary):
        if token >= vocabulary:
            raise DataError(
                f"{location} has the token {tokenizer.convert_ids_to_tokens(token)!r}, which is "
                f"number {token} in the tokenizer, but the model's embedding has only "
                f"{vocabulary:,} tokens; give the tokenizer that belongs to the model, or save the "
                "model after resize_token_embeddings()."
            )


def _highest_tokens(data: Data, vocabulary: int) -> Iterator[tuple[int, str]]:
    """The highest token of each row that may be beyond the vocabulary, and the end tokens.

    Yields:
        Each token with its location.
    """
    for examples in data.splits.values():
        # This is seldom true, so rows are seldom read one by one.
        if examples.highest_token >= vocabulary:
            for row, example in enumerate(examples):
                highest = max((*example.ids, *example.separate_prompt))
                yield highest, examples.texts(row).location
    yield from ((token, "The end of each answer") for token in data.stats.end_tokens)


def count_possible_truncations(examples: Sequence[Example], positions: int | None) -> int:
    """How many prompts leave fewer than `max_new_tokens` positions for the generated text."""
    with_prompt = [example for example in examples if example.prompt_ids]
    if not positions or not with_prompt:
        return 0
    new_tokens = max_new_tokens(with_prompt)
    return sum(len(example.prompt_ids) + new_tokens > positions for example in with_prompt)
