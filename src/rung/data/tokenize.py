"""Rows ─▶ tokens, and which of them are learnt.

The tokens and the mask are those of TRL's SFTTrainer (tested against it). Prompt and completion are tokenised together,
as one text, and the completion begins where that departs from the prompt tokenised alone: usually behind the prompt,
or a token earlier where the two merge. Chats go through the model's own template. One end token is always learnt, or
the model would never stop; padding comes later and is told from it by its place, whatever its number. What a tokenizer
writes of itself stands before a text and never behind it, where the end token and, in a prompt, the completion come.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rung.data.probe import REFUSALS, Prober, View, before_answer, cut_off
from rung.data.schema import Messages, Row, flat
from rung.data.tokens import first_tokens
from rung.data.told import Told
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
_OTHERWISE: Told = (
    "not_asked",
    "what stands before the last words of the prompt, such as those of the system",
)
_REWRITTEN: Told = (
    "not_learnt",
    "turns of the assistant that the chat template shows otherwise once others follow",
)
_FIRST: Told = (
    "not_learnt",
    "turns of the assistant that begin a conversation, which nothing asks for",
)


@dataclass(frozen=True, slots=True)
class Example:
    """One row as tokens.

    `ids[:prompt]` is what stands before the last thing that the model is to write. What is learnt is in `spans`, as
    (first, last + 1), and is everything from `prompt` on where there are none. `given` is what the model is given to
    write after, where that is not `ids[:prompt]`: where the prompt's last token merges with the completion.

    `told` is what the row says and these tokens do not; it is counted when the data are read, and not kept.
    """

    ids: Ids
    prompt: int
    source: str = ""
    spans: Spans = ()
    given: Ids = ()
    told: tuple[Told, ...] = field(default=(), compare=False)

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
        self._inner_ends: set[int] = set()
        self._within: set[int] = set()
        self._closing = self._names(self.stops), self._names(self._special)
        self._first = first_tokens(self.tokenizer)
        if self.template == "auto":
            # One that is shipped as several, by name, has a default among them.
            own = getattr(self.tokenizer, "chat_template", None)
            self._template = own.get("default") if isinstance(own, dict) else own
        else:
            self._template = PLAIN if self.template == "plain" else _read_template(self.template)
        self._prober = Prober(self._draw, self._template or "")

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
        return [_telling(example, row.told) for row, example in zip(rows, found, strict=True)]

    def _texts(self, rows: Sequence[Row]) -> list[Example | DataError]:
        wholes = map(self._begun, self._ids([f"{row.prompt}{row.completion}" for row in rows]))
        prompts = map(self._begun, self._ids([str(row.prompt) for row in rows]))
        return [
            self._example(
                row,
                ids if self._is_closed(ids, prompt) else (*ids, self.tokenizer.eos_token_id),
                prompt,
            )
            for row, ids, prompt in zip(rows, wholes, prompts, strict=True)
        ]

    def _begun(self, ids: Ids) -> Ids:
        """With the tokenizer's first tokens, if the text does not write them itself."""
        return ids if ids[: len(self._first)] == self._first else self._first + ids

    def _is_closed(self, ids: Ids, given: Ids) -> bool:
        """Whether a completion writes its end token itself; white space may follow it."""
        end = self._end(ids, _shared(given, ids), self.stops)
        return bool(end) and (end == len(ids) or not self.tokenizer.decode(ids[end:]).strip())

    def _example(self, row: Row, ids: Ids, begun: Ids, given: Ids | None = None) -> Example:
        """The one part of a row that is learnt, from where the ids depart from those of what it begins with."""
        prompt = 0 if row.kind == "text" else _shared(begun, ids)
        spans = ((0, len(ids)),) if self.learn == "all" else ()
        given = given or begun
        return Example(ids, prompt, row.source, spans, () if ids[: len(given)] == given else given)

    def _ended(self, ids: Ids, prompt: int) -> Ids:
        """With an end token, if none is there: not every chat template writes one, nor every tokenizer one."""
        if end := self._end(ids, prompt, self._special):
            self.ends.add(ids[end - 1])
            return ids
        return (*ids, self.tokenizer.eos_token_id)

    def _end(self, ids: Ids, start: int, ends: Collection[int]) -> int:
        """Where one of the end tokens stands, behind it; 0 where none does from `start` on, or words follow it."""
        for end in range(len(ids), start, -1):
            if ids[end - 1] in ends:
                return end
            if not self._says_nothing(ids[end - 1 : end]):
                break
        return 0

    def _chats(self, rows: Sequence[Row]) -> list[Example | DataError]:
        if self._template is None:
            raise DataError(
                "The rows are chats, and the model's tokenizer has no chat template; give --template plain for "
                "'### User: … ### Assistant: …', or a file with a template in Jinja."
            )
        drawn = [self._drawn(row) for row in rows]
        ids = iter(
            self._ids([text for texts, _ in drawn if isinstance(texts, list) for text in texts])
        )
        if self.template == "plain":  # a model's own writes what it begins with
            ids = map(self._begun, ids)
        return [
            texts
            if isinstance(texts, DataError)
            else _telling(
                self._stopping(self._chat(row, list(itertools.islice(ids, len(texts))))), told
            )
            for row, (texts, told) in zip(rows, drawn, strict=True)
        ]

    def _drawn(self, row: Row) -> tuple[list[str] | DataError, list[Told]]:
        """The texts of the stretches of a row, and what they do not say of it."""
        assert self._template is not None
        try:
            view = self._prober.view(row)
            chat = self._unclosed(view, row)
            texts = [
                self._draw(view.applied(chat[:end]), row.tools, row.variables, asks)
                for end, asks in _stretches(row)
            ]
            told = [*view.told, *cut_off(view.applied(chat), texts[0], view.unseen)]
            # Where the answer that is judged is asked for.
            judged = 1 if row.kind == "pair" else 1 + 2 * _parted(row).index(len(row.prompt))
            asked = texts[judged]
            for i, (turn, asks) in enumerate(_stretches(row)):
                if asks and not texts[0].startswith(texts[i]):
                    draw = partial(self._draw, tools=row.tools, variables=row.variables)
                    # Without a place of its own a turn begins where nothing is left.
                    texts[i] = (
                        before_answer(draw, view, chat[: turn + 1], texts[i], texts[0]) or texts[0]
                    )
        except REFUSALS as error:
            says = f"the chat template refuses this row ({str(error).rstrip('.')}); give another with --template"
            return DataError(says), []
        if texts[judged] == texts[0]:
            says = (
                "the chat template shows what comes before the answer otherwise once that is there"
            )
            return DataError(f"{says}; give another with --template"), []
        told += [
            ("unused", f"'{name}' in 'chat_template_kwargs', which the chat template does not know")
            for name in row.variables
            if name not in self._template and name != "documents"
        ]
        if texts[judged] != asked:
            told.append(_OTHERWISE)
            texts.append(asked)
        elif not texts[0].startswith(asked):
            told.append(("not_asked", repr(asked[_shared(asked, texts[0]) :])[:40]))
        return texts, told

    def _unclosed(self, view: View, row: Row) -> Messages:
        """The conversation, without the end tokens that its answers write themselves and the template, too."""
        chat: Any = [*row.prompt, *row.completion]
        always, doubled = self._closing
        text = ""
        for i, message in enumerate(chat):
            said = message.get("content")
            if (
                message["role"] != "assistant"
                or not isinstance(said, str)
                or not said.rstrip().endswith(doubled)
            ):
                continue
            said = said.rstrip()
            end = max((name for name in doubled if said.endswith(name)), key=len)
            text = text or self._draw(view.applied(chat), row.tools, row.variables)
            if end in always or f"{said}{end}" in text:
                chat[i] = {**message, "content": said.removesuffix(end)}
        return list(chat)

    def _draw(
        self, chat: Messages, tools: Sequence[Any], variables: Mapping[str, Any], asks: bool = False
    ) -> str:
        text: str = self.tokenizer.apply_chat_template(
            chat,
            tools=list(tools) or None,
            chat_template=self._template,
            add_generation_prompt=asks,
            tokenize=False,
            **variables,
        )
        text.encode()  # half a surrogate pair in some field of a message
        return text

    def _chat(self, row: Row, stretches: list[Ids]) -> Example | DataError:
        """The turns of the assistant in the whole chat, from the tokens of its stretches: see `_stretches`."""
        # What the model is given, where that is not what stands before its answer.
        asked = stretches.pop() if len(stretches) > len([*_stretches(row)]) else None
        whole, *marks = stretches
        turns = _parted(row)
        if row.kind == "pair":
            begun, *marks = marks
            pair = self._example(row, self._ended(whole, _shared(begun, whole)), begun, asked)
            return (
                _silenced(pair, [self._place(pair.ids, marks, turns, i) for i in row.silent])
                if turns
                else pair
            )
        if turns[-1] + 1 == len(row.prompt) + len(row.completion):
            whole = self._ended(whole, _shared(marks[-1], whole))
        begun, places = (
            marks[2 * turns.index(len(row.prompt))],
            {i: self._place(whole, marks, turns, i) for i in turns},
        )
        example = replace(self._example(row, whole, begun, asked), spans=((0, len(whole)),))
        if self.learn == "all":
            return _silenced(example, [places.get(i) for i in row.silent])
        wanted = [i for i in turns if i not in row.silent]
        spans = tuple(place for i in wanted if (place := places[i]))
        if not spans:
            return DataError(
                "the chat template shows no turn of the assistant as it would be written"
            )
        first = row.prompt[0]["role"] == "assistant" and 0 not in row.silent  # type: ignore[index]
        told = (_REWRITTEN,) * (len(wanted) - len(spans)) + (_FIRST,) * first
        return replace(example, spans=spans, told=told)

    def _place(
        self, whole: Ids, marks: Sequence[Ids], turns: Sequence[int], turn: int
    ) -> tuple[int, int] | None:
        """Where one of the `_parted` turns stands in the whole."""
        if turn not in turns:
            return None
        start, *end = marks[2 * turns.index(turn) :][:2]
        return self._turn(whole, start, end[0] if end else whole)

    def _turn(self, whole: Ids, start: Ids, end: Ids) -> tuple[int, int] | None:
        """Where a turn stands in the whole, from what comes before it and what goes to its end; with what follows its
        end token, unless that merges with the next turn.

        A template may show an earlier turn otherwise once others follow, without its thoughts say. Then what stands
        there is not what the model would write, and there is no such turn.
        """
        first, both = _shared(start, whole), _shared(end, whole)
        for last in (len(end), self._end(end, first, self._special)):
            if first < last <= both:
                if end_token := self._end(end[:last], first, self._special):
                    self.ends.add(end[end_token - 1])
                return first, last
        if first >= both or not self._says_nothing(end[both:]):
            return None
        # A template may end the whole chat with a token of its own, behind the one that ends each turn,
        if last := self._end(whole[:both], first, self._special):
            self.ends.add(whole[last - 1])
        # or in its place: then what begins the next turn comes behind this one's.
        elif (
            both < len(end)
            and {end[both], whole[both], self._word(whole, both + 1)} <= self._special
        ):
            self._inner_ends.add(whole[both])
            return first, both + 1
        return first, both

    def _word(self, ids: Ids, start: int) -> int:
        """The first token from `start` on that is no white space; an end token where none is."""
        words = (
            token
            for token in ids[start:]
            if token in self._special or self.tokenizer.decode([token]).strip()
        )
        return int(next(words, self.tokenizer.eos_token_id))

    def _stopping(self, example: Example | DataError) -> Example | DataError:
        """Writing stops at tokens that end turns within a chat too, unless they part what is within a turn, such as its
        thoughts.
        """
        if isinstance(example, DataError):
            return example
        for first, end in example.learned:
            self._within |= self._special.intersection(example.ids[first : end - 1])
        if self._inner_ends:
            self.ends |= self._inner_ends - self._within
            self.ends -= (self._inner_ends & self._within) - self.stops
        return example

    def _says_nothing(self, ids: Ids) -> bool:
        """Whether these are but end tokens and white space."""
        return all(
            token in self._special or not self.tokenizer.decode([token]).strip() for token in ids
        )

    def answer(self, row: Row, example: Example) -> tuple[str, str]:
        """What the template writes before the answer of a chat, such as the marks of thoughts that are not there, and
        the answer: what the model is to write after that.
        """
        if isinstance(row.completion, str):
            return "", self._without_end(row.completion)
        if not example.written_after:
            return "", flat(row.completion)
        # Its turn, where that is known; nobody ends it where all is learnt.
        turn = next((end for first, end in example.learned if first == example.prompt), None)
        ids, wanted = (
            example.ids[example.prompt : turn],
            self._without_end(row.wanted or "").strip(),
        )
        end = next((place for place, token in enumerate(ids) if token in self.ends), len(ids))
        text: str = self.tokenizer.decode(
            ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        before, found, after = text.rpartition(wanted) if wanted else ("", "", text)
        # A call of a tool, say, stands behind the words of its turn, and is wanted too.
        return (before, wanted) if found and not after.strip() else ("", text.strip())

    def _without_end(self, text: str) -> str:
        """A completion without the end token that it writes itself: nobody writes that as text."""
        end = next((name for name in self._closing[0] if text.rstrip().endswith(name)), "")
        return text.rstrip().removesuffix(end) if end else text

    def _names(self, ids: Collection[int]) -> tuple[str, ...]:
        """How tokens are written in a text."""
        return tuple(
            filter(
                None, self.tokenizer.convert_ids_to_tokens(sorted(i for i in ids if i is not None))
            )
        )

    def _ids(self, texts: Sequence[str]) -> list[Ids]:
        """Without the tokenizer's own first and last tokens."""
        if not texts:
            return []
        found = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [tuple(ids) for ids in found]


def _stretches(row: Row) -> Iterator[tuple[int, bool]]:
    """The beginnings of a chat that are drawn, as their number of turns, and whether an answer is asked for: the whole;
    of a pair its prompt; and for each of the `_parted` turns what comes before it, asking for it, and what goes to its
    end, unless that is the whole.
    """
    turns = len(row.prompt) + len(row.completion)
    yield turns, False
    if row.kind == "pair":
        yield len(row.prompt), True
    for turn in _parted(row):
        yield turn, True
        if turn + 1 < turns:
            yield turn + 1, False


def _parted(row: Row) -> Sequence[int]:
    """The turns whose place in the whole is looked for: of a conversation those of the assistant, of a pair those that
    are not learnt. A turn that begins the chat answers nothing.
    """
    if row.kind == "pair":
        return row.silent
    chat = [*row.prompt, *row.completion]
    return [i for i, message in enumerate(chat) if i and message["role"] == "assistant"]


def _silenced(example: Example, holes: Sequence[tuple[int, int] | None]) -> Example | DataError:
    """The example without what stands in the holes, which is not to be learnt."""
    spans = example.learned
    for hole in holes:
        if hole is None:
            return DataError(
                "the chat template shows a turn otherwise that is not to be learnt, once others follow"
            )
        parts = [
            part
            for first, end in spans
            for part in ((first, min(end, hole[0])), (max(first, hole[1]), end))
        ]
        spans = tuple((first, end) for first, end in parts if first < end)
    return replace(example, spans=spans)


def _telling(example: Example | DataError, told: Sequence[Told]) -> Example | DataError:
    """The example with more that is told of it."""
    return (
        replace(example, told=(*example.told, *told))
        if told and isinstance(example, Example)
        else example
    )


def _shared(beginning: Sequence[Any], ids: Sequence[Any]) -> int:
    """How many tokens or letters both begin with."""
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
