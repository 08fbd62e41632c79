"""Chats as tokens: the turns of the assistant are found in the tokens of the whole chat.

A turn begins where the whole chat differs from the text that asks for the turn, and ends where it
differs from the chat up to the turn's end. So no text is cut into parts before it is tokenized.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rung.data.chat.render import ChatRenderer, chat_beginnings
from rung.data.example import Example, Ids, Spans
from rung.data.remarks import Remark
from rung.data.rows import Row
from rung.data.special_tokens import SpecialTokens, common_prefix_length, encode
from rung.errors import DataError

Learn = Literal["completion", "all"]

_REWRITTEN: Remark = (
    "not_learnt",
    "turns of the assistant that the chat template shows differently once more turns follow",
)
_FIRST: Remark = (
    "not_learnt",
    "turns of the assistant that begin a conversation, so no prompt asks for them",
)


class ChatTokenizer:
    """Makes examples of chats, with one tokenizer and one chat template.

    Args:
        add_first_tokens: put the tokenizer's first tokens before each text. A model's own template
            writes them itself.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: str,
        special: SpecialTokens,
        learn: Learn,
        add_first_tokens: bool,
    ) -> None:
        self._tokenizer = tokenizer
        self._special = special
        self._learn = learn
        self._add_first_tokens = add_first_tokens
        self._renderer = ChatRenderer(tokenizer, template, special)

    def tokenize(self, rows: Sequence[Row]) -> list[Example | DataError]:
        """An example for each row, in their order, or what is wrong with it."""
        rendered = [self._renderer.render(row) for row in rows]
        encoded = encode(
            self._tokenizer,
            [text for texts in rendered if not isinstance(texts, DataError) for text in texts.all],
        )
        if self._add_first_tokens:
            encoded = [self._special.with_first_tokens(ids) for ids in encoded]
        ids = iter(encoded)
        examples: list[Example | DataError] = []
        for row, texts in zip(rows, rendered, strict=True):
            if isinstance(texts, DataError):
                examples.append(texts)
                continue
            beginnings = list(itertools.islice(ids, len(texts.beginnings)))
            prompt = None if texts.prompt is None else next(ids)
            example = self._example(row, _Beginnings.of(row, beginnings), prompt)
            if isinstance(example, Example):
                self._special.update_ends(example)
                example = add_remarks(example, texts.remarks)
            examples.append(example)
        return examples

    def _example(self, row: Row, chat: _Beginnings, prompt: Ids | None) -> Example | DataError:
        """The example of a row; `prompt` asks for its answer, if that is not what precedes it."""
        if row.kind == "pair":
            return self._pair(row, chat, prompt)
        last = max(chat.before)
        whole = chat.whole
        if last + 1 == len(row.prompt) + len(row.completion):
            start = common_prefix_length(chat.before[last], whole)
            whole = self._special.with_end(whole, start)
        places = {turn: self._find_turn(whole, chat, turn) for turn in chat.before}
        example = make_example(row, whole, chat.before[len(row.prompt)], self._learn, prompt)
        example = replace(example, spans=((0, len(whole)),))
        if self._learn == "all":
            return _without_spans(example, [places.get(turn) for turn in row.untrained_turns])
        wanted = [turn for turn in chat.before if turn not in row.untrained_turns]
        spans = tuple(place for turn in wanted if (place := places[turn]))
        if not spans:
            return DataError(
                "the chat template shows no turn of the assistant as the model would generate it"
            )
        assert not isinstance(row.prompt, str)
        begins = row.prompt[0]["role"] == "assistant" and 0 not in row.untrained_turns
        remarks = (_REWRITTEN,) * (len(wanted) - len(spans)) + (_FIRST,) * begins
        return replace(example, spans=spans, remarks=remarks)

    def _pair(self, row: Row, chat: _Beginnings, prompt: Ids | None) -> Example | DataError:
        assert chat.prompt is not None
        start = common_prefix_length(chat.prompt, chat.whole)
        whole = self._special.with_end(chat.whole, start)
        example = make_example(row, whole, chat.prompt, self._learn, prompt)
        if not row.untrained_turns:
            return example
        return _without_spans(
            example, [self._find_turn(whole, chat, turn) for turn in row.untrained_turns]
        )

    def _find_turn(self, whole: Ids, chat: _Beginnings, turn: int) -> tuple[int, int] | None:
        """The place of a turn in the whole chat, with what follows its end token.

        What follows is left out if it merges with the next turn. There is no place if the template
        shows the turn differently once others follow, such as without its thoughts: the whole chat
        then has something else than the model would generate.
        """
        through = chat.through.get(turn, whole)
        first = common_prefix_length(chat.before[turn], whole)
        both = common_prefix_length(through, whole)
        special = self._special
        for last in (len(through), special.find_end(through, first, special.all)):
            if first < last <= both:
                if end := special.find_end(through[:last], first, special.all):
                    special.ends.add(through[end - 1])
                return first, last
        if first >= both or not special.is_blank(through[both:]):
            return None
        # A template may end the whole chat with a token of its own, after each turn's end token.
        if end := special.find_end(whole[:both], first, special.all):
            special.ends.add(whole[end - 1])
        # Or that token replaces the last end token, and the next turn begins after this one.
        elif (
            both < len(through)
            and {through[both], whole[both], special.next_visible(whole, both + 1)} <= special.all
        ):
            special.add_end_between_turns(whole[both])
            return first, both + 1
        return first, both


@dataclass(frozen=True, slots=True)
class _Beginnings:
    """The tokens of a chat and of its beginnings, see `chat_beginnings`.

    Attributes:
        prompt: of a pair the tokens that ask for its completion.
        before: for each located turn the tokens that ask for it.
        through: the tokens up to its end; there are none for a turn that ends the chat.
    """

    whole: Ids
    prompt: Ids | None
    before: dict[int, Ids]
    through: dict[int, Ids]

    @classmethod
    def of(cls, row: Row, encoded: Sequence[Ids]) -> _Beginnings:
        prompt, before, through = None, dict[int, Ids](), dict[int, Ids]()
        rest = iter(zip(chat_beginnings(row), encoded, strict=True))
        _, whole = next(rest)
        if row.kind == "pair":
            _, prompt = next(rest)
        for (turns, asks), ids in rest:
            if asks:
                before[turns] = ids
            else:
                through[turns - 1] = ids
        return cls(whole, prompt, before, through)


def make_example(row: Row, ids: Ids, prompt: Ids, learn: Learn, asked: Ids | None) -> Example:
    """An example that is trained on from where its tokens differ from those of its prompt.

    Args:
        asked: what asks for the answer, if that is not `prompt`.
    """
    prompt_length = 0 if row.kind == "text" else common_prefix_length(prompt, ids)
    spans: Spans = ((0, len(ids)),) if learn == "all" else ()
    asked = asked or prompt
    separate_prompt = () if ids[: len(asked)] == asked else asked
    return Example(ids, prompt_length, row.source, spans, separate_prompt)


def add_remarks(example: Example, remarks: Sequence[Remark]) -> Example:
    return replace(example, remarks=(*example.remarks, *remarks)) if remarks else example


def _without_spans(
    example: Example, silent: Sequence[tuple[int, int] | None]
) -> Example | DataError:
    """The example without some spans, which are not to be trained on."""
    spans = example.learned_spans
    for hole in silent:
        if hole is None:
            return DataError(
                "the chat template shows a turn that is not to be trained on differently once "
                "others follow, so the turn cannot be left out"
            )
        parts = [
            part
            for first, end in spans
            for part in ((first, min(end, hole[0])), (max(first, hole[1]), end))
        ]
        spans = tuple((first, end) for first, end in parts if first < end)
    return replace(example, spans=spans)
