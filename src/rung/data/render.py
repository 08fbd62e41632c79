"""Rows ─▶ tokens, and which of them are the completion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rung.data.read import Row
from rung.errors import DataError


@dataclass(frozen=True, slots=True)
class Example:
    """One row as tokens: `ids[:prompt]` is what the model is given, the rest what it is scored on."""

    ids: tuple[int, ...]
    prompt: int
    source: str = ""

    @property
    def completion(self) -> int:
        """How many tokens the loss is taken over, the end token included."""
        return len(self.ids) - self.prompt


def render(rows: Sequence[Row], tokenizer: Any, max_tokens: int) -> list[Example]:
    """The rows that fit in `max_tokens`, in their order.

    Prompt and completion are tokenised apart, so that the model is trained on the very prompt tokens that it will be
    given; the end token is the completion's last and is learnt, or the model would never stop.
    """
    prompts = tokenizer([row.prompt for row in rows])["input_ids"]
    completions = tokenizer([row.completion for row in rows], add_special_tokens=False)["input_ids"]
    end = tokenizer.eos_token_id
    examples = (
        Example((*prompt, *completion, end), len(prompt), row.source)
        for row, prompt, completion in zip(rows, prompts, completions, strict=True)
    )
    return [example for example in examples if len(example.ids) <= max_tokens and example.prompt]


def render_split(rows: Sequence[Row], tokenizer: Any, max_tokens: int, name: str) -> list[Example]:
    """`render`, for a split that must not come out empty.

    Raises:
        DataError: fewer than two rows fit.
    """
    examples = render(rows, tokenizer, max_tokens)
    if len(examples) < 2:
        raise DataError(
            f"Of the {len(rows)} {name} rows {len(examples)} fit in {max_tokens} tokens; "
            "raise max_tokens or shorten the rows."
        )
    return examples
