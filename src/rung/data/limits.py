"""Whether rows, and texts that are still to be written, fit a model: its positions and its vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

from rung.data.prepare import Data
from rung.data.render import Example
from rung.errors import DataError


def room_to_write(examples: Sequence[Example]) -> int:
    """How many tokens may be written after each prompt: a quarter more than the longest completion has, for all rows
    alike, so that nothing is given away of a row's own.
    """
    longest = max(len(example.ids) - example.prompt for example in examples)
    return longest + longest // 4


def check_rows(data: Data, positions: int | None, vocabulary: int) -> None:
    """
    Args:
        positions: how many tokens the model can tell the places of, if there is a limit.
        vocabulary: how many tokens its embedding has.

    Raises:
        DataError: a row is longer than that, or has a token that the embedding lacks.
    """
    lengths = [length for rows in data.splits.values() for length in rows.lengths]
    if positions and (beyond := sum(length > positions for length in lengths)):
        raise DataError(
            f"{beyond:,} of {len(lengths):,} rows have more tokens than the model has positions, {positions:,}, and "
            f"the longest has {max(lengths):,}; give --max-tokens {positions}."
        )
    for rows in data.splits.values():
        # Most data are done with the first; only then are rows looked at one by one.
        if rows.highest_token < vocabulary:
            continue
        for row, example in enumerate(rows):
            if (token := max((*example.ids, *example.given))) >= vocabulary:
                raise DataError(
                    f"{rows.texts(row).where}: the token {token} is none of the {vocabulary:,} of the model's "
                    "embedding; give the tokenizer that belongs to the model, or resize the embedding and save it."
                )


def rows_short_of_room(examples: Sequence[Example], positions: int | None) -> int:
    """How many prompts leave less room to write in than `room_to_write`, before the positions end."""
    asked = [example for example in examples if example.written_after]
    if not positions or not asked:
        return 0
    room = room_to_write(asked)
    return sum(len(example.written_after) + room > positions for example in asked)
