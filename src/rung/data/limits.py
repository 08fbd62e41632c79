"""Whether rows, and texts that are still to be written, fit a model: its positions and its vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rung.data.example import Example
from rung.data.prepare import Data
from rung.errors import DataError


def room_to_write(examples: Sequence[Example]) -> int:
    """How many tokens may be written after each prompt: a quarter more than the longest completion has, for all rows
    alike, so that nothing is given away of a row's own.
    """
    longest = max(len(example.ids) - example.prompt_length for example in examples)
    return longest + longest // 4


def check_rows(data: Data, positions: int | None, vocabulary: int, tokenizer: Any) -> None:
    """
    Args:
        positions: how many tokens the model can tell the places of, if there is a limit.
        vocabulary: how many tokens its embedding, and its output head, have.
        tokenizer: what made the rows.

    Raises:
        DataError: a row is longer than that, or has a token that the embedding lacks, or writing would stop at one.
    """
    lengths = [length for rows in data.splits.values() for length in rows.lengths]
    if positions and (beyond := sum(length > positions for length in lengths)):
        raise DataError(
            f"{beyond:,} of {len(lengths):,} rows have more tokens than the model has positions, {positions:,}, and "
            f"the longest has {max(lengths):,}; give --max-tokens {positions}."
        )
    for token, where in _tokens(data, vocabulary):
        if token >= vocabulary:
            raise DataError(
                f"{where} has the token {tokenizer.convert_ids_to_tokens(token)!r}, number {token} in the tokenizer, "
                f"and the model has an embedding for {vocabulary:,}; give the tokenizer that belongs to the model, or "
                "save the model after resize_token_embeddings()."
            )


def _tokens(data: Data, vocabulary: int) -> Iterator[tuple[int, str]]:
    """The highest token of each row, where one may be beyond the vocabulary, and of the ends; and where it stands."""
    for rows in data.splits.values():
        # Most data are done with the first; only then are rows looked at one by one.
        if rows.highest_token >= vocabulary:
            for row, example in enumerate(rows):
                yield max((*example.ids, *example.separate_prompt)), rows.texts(row).where
    yield from ((token, "The end of each answer") for token in data.facts.ends)


def rows_short_of_room(examples: Sequence[Example], positions: int | None) -> int:
    """How many prompts leave less room to write in than `room_to_write`, before the positions end."""
    asked = [example for example in examples if example.prompt_ids]
    if not positions or not asked:
        return 0
    room = room_to_write(asked)
    return sum(len(example.prompt_ids) + room > positions for example in asked)
