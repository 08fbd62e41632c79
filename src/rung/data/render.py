"""Rows ─▶ tokens, and which of them are learnt.

The tokens and the mask are those of TRL's SFTTrainer (tested against it). Prompt and completion are tokenised together,
as one text, and the completion begins where that departs from the prompt tokenised alone: usually behind the prompt,
or a token earlier where the two merge. Chats go through the model's own template. One end token is always learnt, or
the model would never stop; padding comes later and is told from it by its place, whatever its number. What a tokenizer
writes of itself stands before a text and never behind it, where the end token and, in a prompt, the completion come.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from jinja2 import TemplateError

from rung.data.shapes import Messages, Row, flat
from rung.data.tokens import first_tokens
from rung.errors import DataError

Learn = Literal["completion", "all"]
Ids = tuple[int, ...]
Spans = tuple[tuple[int, int], ...]

PLAIN = (
    "{% for message in messages %}{{ '### ' + message['role'] | capitalize + ':\\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:\\n' }}{% endif %}"
)
"""The template that is offered where a model has none."""
_TAIL = 3
"""An end token is looked for among so many of the last tokens of a turn; a line end may follow it."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row as tokens.

    `ids[:prompt]` is what stands before the last thing that the model is to write. What is learnt is in `spans`, as
    (first, last + 1), and is everything from `prompt` on where there are none. `given` is what the model is given to
    write after, where that is not `ids[:prompt]`: where the prompt's last token merges with the completion.
    """

    ids: Ids
    prompt: int
    source: str = ""
    spans: Spans = ()
    given: Ids = ()

    @property
    def learned(self) -> Spans:
        """Where the tokens that are learnt stand."""
        return self.spans or ((self.prompt, len(self.ids)),)

    @property
    def mask(self) -> list[int]:
        """1 for each token that is learnt, 0 for the others."""
        mask = [0] * len(self.ids)
        for first, end in self.learned:
            mask[first:end] = [1] * (end - first)
        return mask

    @property
    def completion(self) -> int:
        """How many tokens the loss is taken over: those that are learnt, but for a first one: nothing predicts it."""
        return sum(end - max(1, first) for first, end in self.learned)

    @property
    def written_after(self) -> Ids:
        """What the model is given, to write what comes next; empty where it can be given nothing."""
        return self.given or self.ids[: self.prompt]

    def cut(self, tokens: int) -> Example:
        """The first `tokens` of it."""
        spans = tuple((first, min(end, tokens)) for first, end in self.learned if first < tokens)
        cut = replace(self, ids=self.ids[:tokens], spans=spans or ((tokens, tokens),))
        # Without its last turn there is nothing to write after.
        return cut if self.prompt < tokens else replace(cut, prompt=0, given=())


@dataclass
class Renderer:
    """Makes examples of rows, for one tokenizer.

    Args:
        learn: `completion`, or `all` for the prompts too.
        template: `auto` for the model's own chat template, `plain`, or a file with one in Jinja.
        ends: the tokens that end a text, by the model, beside the tokenizer's end token.

    Attributes:
        ends: with those that have been seen to end what is learnt: where writing stops.
        stops: without them.

    Raises:
        DataError: the template's file is not there.
    """

    tokenizer: Any
    learn: Learn = "completion"
    template: str = "auto"
    ends: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.ends.add(self.tokenizer.eos_token_id)
        self._special = set(getattr(self.tokenizer, "all_special_ids", ()))
        added = getattr(self.tokenizer, "added_tokens_decoder", {})
        self._special |= {number for number, token in added.items() if token.special}
        self._special.discard(getattr(self.tokenizer, "unk_token_id", None))
        # It may be the end token as well.
        self.stops = frozenset(self.ends)
        self._special |= self.stops
        self._first = first_tokens(self.tokenizer)
        if self.template == "auto":
            # One that is shipped as several, by name, has a default among them.
            own = getattr(self.tokenizer, "chat_template", None)
            self._template = own.get("default") if isinstance(own, dict) else own
        else:
            self._template = PLAIN if self.template == "plain" else _read_template(self.template)

    @property
    def fingerprint(self) -> list[Any]:
        """What the examples follow from, beside the rows and the tokenizer."""
        return [self.learn, self._template, sorted(self.stops)]

    def render(self, rows: Sequence[Row]) -> list[Example | DataError]:
        """An example for each row, in their order, or what is wrong with it, without where it stands.

        Raises:
            DataError: the rows are chats, and there is no template.
        """
        found: list[Example | DataError] = []
        for texts, some in itertools.groupby(rows, key=lambda row: isinstance(row.completion, str)):
            group = list(some)
            found += self._texts(group) if texts else self._chats(group)
        return found

    def _texts(self, rows: Sequence[Row]) -> list[Example | DataError]:
        wholes = map(self._begun, self._ids([f"{row.prompt}{row.completion}" for row in rows]))
        prompts = map(self._begun, self._ids([str(row.prompt) for row in rows]))
        return [
            self._example(row, ids if self._is_closed(ids, prompt) else (*ids, self.tokenizer.eos_token_id), prompt)
            for row, ids, prompt in zip(rows, wholes, prompts, strict=True)
        ]

    def _begun(self, ids: Ids) -> Ids:
        """With the tokenizer's first tokens, if the text does not write them itself."""
        return ids if ids[: len(self._first)] == self._first else self._first + ids

    def _is_closed(self, ids: Ids, given: Ids) -> bool:
        """Whether a completion writes its end token itself; white space may follow it."""
        end = self._end(ids, _shared(given, ids), self.stops)
        return bool(end) and (end == len(ids) or not self.tokenizer.decode(ids[end:]).strip())

    def _example(self, row: Row, ids: Ids, given: Ids) -> Example:
        """The one part of a row that is learnt, from where the ids depart from those of what is given."""
        prompt = 0 if row.kind == "text" else _shared(given, ids)
        spans = ((0, len(ids)),) if self.learn == "all" else ()
        return Example(ids, prompt, row.source, spans, () if ids[: len(given)] == given else given)

    def _ended(self, ids: Ids, prompt: int) -> Ids:
        """With an end token, if none is there: not every chat template writes one, nor every tokenizer one."""
        if end := self._end(ids, prompt, self._special):
            self.ends.add(ids[end - 1])
            return ids
        return (*ids, self.tokenizer.eos_token_id)

    @staticmethod
    def _end(ids: Ids, start: int, ends: Collection[int]) -> int:
        """Where one of the end tokens stands, behind it; 0 where none does among the last tokens from `start` on."""
        last = range(len(ids), max(start, len(ids) - _TAIL), -1)
        return next((end for end in last if ids[end - 1] in ends), 0)

    def _chats(self, rows: Sequence[Row]) -> list[Example | DataError]:
        if self._template is None:
            raise DataError(
                "The rows are chats, and the model's tokenizer has no chat template; give --template plain for "
                "'### User: … ### Assistant: …', or a file with a template in Jinja."
            )
        drawn: list[list[str] | DataError] = []
        for row in rows:
            try:
                drawn.append([self._drawn(row, chat, asks) for chat, asks in _stretches(row)])
            except (TemplateError, TypeError, KeyError, ValueError) as error:
                drawn.append(DataError(f"the chat template refuses this row ({error})"))
        ids = iter(self._ids([text for texts in drawn if isinstance(texts, list) for text in texts]))
        if self.template == "plain":  # a model's own writes what it begins with
            ids = map(self._begun, ids)
        return [
            texts if isinstance(texts, DataError) else self._chat(row, list(itertools.islice(ids, len(texts))))
            for row, texts in zip(rows, drawn, strict=True)
        ]

    def _drawn(self, row: Row, chat: Messages, asks: bool) -> str:
        text: str = self.tokenizer.apply_chat_template(
            chat,
            tools=list(row.tools) or None,
            chat_template=self._template,
            add_generation_prompt=asks,
            tokenize=False,
        )
        text.encode()  # half a surrogate pair in some field of a message
        return text

    def _chat(self, row: Row, stretches: list[Ids]) -> Example | DataError:
        """The turns of the assistant in the whole chat, from the tokens of its stretches: see `_stretches`."""
        whole, *marks = stretches
        if row.kind == "pair":
            return self._example(row, self._ended(whole, _shared(marks[0], whole)), marks[0])
        starts, ends = marks[::2], marks[1::2]
        if len(ends) < len(starts):  # the whole ends with the assistant
            whole = self._ended(whole, _shared(starts[-1], whole))
            ends.append(whole)
        spans = [span for turn in zip(starts, ends, strict=True) if (span := self._turn(whole, *turn))]
        if self.learn == "all":
            spans = [(0, len(whole))]
        if not spans:
            return DataError("the chat template shows no turn of the assistant as it would be written")
        given = starts[-1]
        prompt = _shared(given, whole)
        return Example(whole, prompt, row.source, tuple(spans), () if whole[: len(given)] == given else given)

    def _turn(self, whole: Ids, start: Ids, end: Ids) -> tuple[int, int] | None:
        """Where a turn stands in the whole, from what comes before it and what goes to its end; with what follows its
        end token, unless that merges with the next turn.

        A template may show an earlier turn otherwise once others follow, without its thoughts say. Then what stands
        there is not what the model would write, and there is no such turn.
        """
        first = _shared(start, whole)
        for last in (len(end), self._end(end, first, self._special)):
            if last > first and whole[:last] == end[:last]:
                return first, last
        return None

    def answer(self, row: Row, example: Example) -> tuple[str, str]:
        """What the template writes before the answer of a chat, such as the marks of thoughts that are not there, and
        the answer: what the model is to write after that.
        """
        if isinstance(row.completion, str):
            return "", self._without_end(row.completion)
        if not example.written_after:
            return "", flat(row.completion)
        ids, wanted = example.ids[example.prompt :], (row.wanted or "").strip()
        end = next((place for place, token in enumerate(ids) if token in self.ends), len(ids))
        text: str = self.tokenizer.decode(ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        before, found, after = text.rpartition(wanted) if wanted else ("", "", text)
        # A call of a tool, say, stands behind the words of its turn, and is wanted too.
        return (before, wanted) if found and not after.strip() else ("", text.strip())

    def _without_end(self, text: str) -> str:
        """A completion without the end token that it writes itself: nobody writes that as text."""
        end = self.tokenizer.eos_token
        return text.rstrip().removesuffix(end) if end and text.rstrip().endswith(end) else text

    def _ids(self, texts: Sequence[str]) -> list[Ids]:
        """Without the tokenizer's own first and last tokens."""
        if not texts:
            return []
        found = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [tuple(ids) for ids in found]


def _stretches(row: Row) -> Iterator[tuple[Messages, bool]]:
    """The whole chat, and then its beginnings that say where the assistant's turns are: up to each turn, asking for it,
    and with it; but for the last turn with it, which is the whole, if nothing follows.
    """
    assert isinstance(row.prompt, list)
    assert isinstance(row.completion, list)
    chat = row.prompt + row.completion
    yield chat, False
    if row.kind == "pair":
        yield row.prompt, True
        return
    # A turn that begins the chat answers nothing.
    for turn in [i for i, message in enumerate(chat) if i and message["role"] == "assistant"]:
        yield chat[:turn], True
        if turn + 1 < len(chat):
            yield chat[: turn + 1], False


def _shared(beginning: Ids, ids: Ids) -> int:
    """How many tokens both begin with."""
    if ids[: len(beginning)] == beginning:
        return len(beginning)
    return next(i for i, token in enumerate(beginning) if i == len(ids) or ids[i] != token)


def _read_template(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"--template: the file '{path}' cannot be read ({error}); give auto, plain, or a file."
        ) from None


def render(rows: Sequence[Row], tokenizer: Any, max_tokens: int) -> list[Example]:
    """The rows that fit in `max_tokens`, in their order.

    Raises:
        DataError: a row cannot be rendered.
    """
    examples = []
    for example in Renderer(tokenizer).render(rows):
        if isinstance(example, DataError):
            raise example
        examples.append(example)
    return [example for example in examples if len(example.ids) <= max_tokens]
