"""Tokens that are no words: those that begin a text, end it, or end a turn of a chat."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from rung.data.example import Example, Ids
from rung.data.tokenizer_state import first_tokens


class SpecialTokens:
    """The special tokens of one tokenizer, and which of them end what the model generates.

    Chat templates end turns in different ways, so the tokens that end turns are collected while
    rows are tokenized.

    Args:
        ends: the tokens that end a text, by the model, in addition to the tokenizer's end token.

    Attributes:
        stops: the tokens that end a text, by the model and the tokenizer.
        ends: those, and the tokens that were seen at the end of what is trained on. Generation
            stops at these.
        all: every special token of the tokenizer, without the token for unknown text.
    """

    def __init__(self, tokenizer: Any, ends: Iterable[int] = ()) -> None:
        self._tokenizer = tokenizer
        self.eos: int = tokenizer.eos_token_id
        self.ends = {*ends, self.eos}
        self.stops = frozenset(self.ends)
        self.all = set(getattr(tokenizer, "all_special_ids", ()))
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self.all |= {number for number, token in added.items() if token.special}
        self.all.discard(getattr(tokenizer, "unk_token_id", None))
        # The token for unknown text may be the end token as well, so the ends come last.
        self.all |= self.stops
        self.stop_names = self._names(self.stops)
        self.all_names = self._names(self.all)
        self._first = first_tokens(tokenizer)
        self._ends_between_turns: set[int] = set()
        self._inside_answers: set[int] = set()

    def with_first_tokens(self, ids: Ids) -> Ids:
        """Put the tokenizer's first tokens before a text, unless it has them already."""
        return ids if ids[: len(self._first)] == self._first else self._first + ids

    def with_end(self, ids: Ids, start: int) -> Ids:
        """Put an end token after a chat, unless it has one.

        Not every chat template writes one, and not every tokenizer knows it as the end token. One
        that follows the words from `start` on is remembered as an end.
        """
        if end := self.find_end(ids, start, self.all):
            self.ends.add(ids[end - 1])
            return ids
        return (*ids, self.eos)

    def find_end(self, ids: Ids, start: int, ends: Collection[int]) -> int:
        """The place after the last of the end tokens `ends`.

        It is 0 if there is none from `start` on, or if words follow the last one.
        """
        for place in range(len(ids), start, -1):
            if ids[place - 1] in ends:
                return place
            if not self.is_blank(ids[place - 1 : place]):
                break
        return 0

    def is_blank(self, ids: Ids) -> bool:
        """Whether these are only special tokens and white space."""
        return all(
            token in self.all or not self._tokenizer.decode([token]).strip() for token in ids
        )

    def next_visible(self, ids: Ids, start: int) -> int:
        """The first token from `start` on that is not white space; the end token if none is."""
        visible = (
            token
            for token in ids[start:]
            if token in self.all or self._tokenizer.decode([token]).strip()
        )
        return int(next(visible, self.eos))

    def is_closed(self, ids: Ids, start: int) -> bool:
        """Whether a text ends with an end token that it writes itself; white space may follow."""
        end = self.find_end(ids, start, self.stops)
        return bool(end) and (end == len(ids) or not self._tokenizer.decode(ids[end:]).strip())

    def add_end_between_turns(self, token: int) -> None:
        """Remember a token between this turn and the next, in place of an end token."""
        self._ends_between_turns.add(token)

    def update_ends(self, example: Example) -> None:
        """Let generation stop at the tokens between turns too.

        A token that is also inside answers, such as one after thoughts, is not an end: the
        model would stop after its thoughts.
        """
        for first, end in example.learned_spans:
            self._inside_answers |= self.all.intersection(example.ids[first : end - 1])
        if self._ends_between_turns:
            self.ends |= self._ends_between_turns - self._inside_answers
            self.ends -= (self._ends_between_turns & self._inside_answers) - self.stops

    def strip_stop(self, text: str) -> str:
        """A completion without the end token that it writes itself: no model writes it as text."""
        end = next((name for name in self.stop_names if text.rstrip().endswith(name)), "")
        return text.rstrip().removesuffix(end) if end else text

    def _names(self, ids: Collection[int]) -> tuple[str, ...]:
        """How tokens are written in a text."""
        numbers = sorted(token for token in ids if token is not None)
        return tuple(filter(None, self._tokenizer.convert_ids_to_tokens(numbers)))


def encode(tokenizer: Any, texts: Sequence[str]) -> list[Ids]:
    """The tokens of each text, without the tokenizer's own first and last tokens."""
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return [tuple(ids) for ids in encoded]


def common_prefix_length(beginning: Sequence[Any], whole: Sequence[Any]) -> int:
    """How many tokens or letters both begin with."""
    if whole[: len(beginning)] == beginning:
        return len(beginning)
    return next(i for i, token in enumerate(beginning) if i == len(whole) or whole[i] != token)
