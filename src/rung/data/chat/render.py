"""Chats as text: the conversation of a row and its beginnings, drawn by a chat template.

A turn's tokens are found in the whole chat by comparing it with the chat before the turn and with
the chat up to the turn's end, so each of these beginnings is drawn as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rung.data.chat.missing_texts import missing_texts
from rung.data.chat.template_probe import REFUSALS, TemplateProber, TemplateView
from rung.data.field_values import is_empty
from rung.data.remarks import Remark
from rung.data.rows import Messages, Row
from rung.data.special_tokens import SpecialTokens, common_prefix_length
from rung.errors import DataError

_OTHER_PROMPT: Remark = (
    "not_asked",
    "the prompt before its last words, such as the system message",
)
_MARK = "qz00000zq"
"""A mark for the last words of a prompt."""


@dataclass(frozen=True, slots=True)
class ChatTexts:
    """The texts that a chat template makes of a row.

    Attributes:
        beginnings: a text for each of `chat_beginnings`; the first is the whole chat.
        prompt: the text that asks for the last answer, if that is not the text before the answer
            in the whole chat.
        remarks: what the row says and the texts do not.
    """

    beginnings: list[str]
    prompt: str | None
    remarks: list[Remark]

    @property
    def all(self) -> list[str]:
        return self.beginnings if self.prompt is None else [*self.beginnings, self.prompt]


class ChatRenderer:
    """Draws chats with one chat template."""

    def __init__(self, tokenizer: Any, template: str, special: SpecialTokens) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._special = special
        self._prober = TemplateProber(self.draw, template)

    def draw(
        self, chat: Messages, tools: Sequence[Any], variables: Mapping[str, Any], asks: bool = False
    ) -> str:
        """The text of some messages; `asks` for an answer at its end."""
        text: str = self._tokenizer.apply_chat_template(
            chat,
            tools=list(tools) or None,
            chat_template=self._template,
            add_generation_prompt=asks,
            tokenize=False,
            **variables,
        )
        text.encode()  # This raises if a field of a message has half a surrogate pair.
        return text

    def render(self, row: Row) -> ChatTexts | DataError:
        """The texts of a row, or what is wrong with it."""
        beginnings = chat_beginnings(row)
        try:
            view = self._prober.view(row)
            chat = self._without_doubled_ends(view, row)
            texts = [
                self.draw(view.apply(chat[:turns]), row.tools, row.variables, asks)
                for turns, asks in beginnings
            ]
            whole = texts[0]
            remarks = [*view.remarks, *missing_texts(view.apply(chat), whole, view.hidden)]
            last_prompt = beginnings.index((len(row.prompt), True))
            prompt = texts[last_prompt]
            draw = partial(self.draw, tools=row.tools, variables=row.variables)
            for i, (turns, asks) in enumerate(beginnings):
                if asks and not whole.startswith(texts[i]):
                    before = text_before_answer(draw, view, chat[: turns + 1], texts[i], whole)
                    # If the place is not found, the turn begins at the end and is empty.
                    texts[i] = before or whole
        except REFUSALS as error:
            reason = str(error).rstrip(".")
            return DataError(
                f"the chat template refuses this row ({reason}); give another with --template"
            )
        if texts[last_prompt] == whole:
            return DataError(
                "the chat template shows the prompt differently once its answer follows; "
                "give another with --template"
            )
        remarks += [
            ("unused", f"'{name}' in 'chat_template_kwargs', which the chat template does not know")
            for name in row.variables
            if name not in self._template and name != "documents"
        ]
        if texts[last_prompt] != prompt:
            return ChatTexts(texts, prompt, [*remarks, _OTHER_PROMPT])
        if not whole.startswith(prompt):
            differs = prompt[common_prefix_length(prompt, whole) :]
            remarks.append(("not_asked", repr(differs)[:40]))
        return ChatTexts(texts, None, remarks)

    def _without_doubled_ends(self, view: TemplateView, row: Row) -> Messages:
        """The conversation without end tokens that both its answers and the template write."""
        chat: Any = [*row.prompt, *row.completion]
        whole = ""
        for i, message in enumerate(chat):
            content = message.get("content")
            if message["role"] != "assistant" or not isinstance(content, str):
                continue
            content = content.rstrip()
            if not content.endswith(self._special.all_names):
                continue
            end = max((name for name in self._special.all_names if content.endswith(name)), key=len)
            whole = whole or self.draw(view.apply(chat), row.tools, row.variables)
            if end in self._special.stop_names or f"{content}{end}" in whole:
                chat[i] = {**message, "content": content.removesuffix(end)}
        return list(chat)


def chat_beginnings(row: Row) -> list[tuple[int, bool]]:
    """The beginnings of a chat to draw: their number of turns, and whether they ask for an answer.

    The first is the whole chat. For a pair the prompt comes next. Then there are two for each of
    `located_turns`: the chat before it, asking for it, and the chat up to its end. The second is
    left out if it is the whole chat.
    """
    turns = len(row.prompt) + len(row.completion)
    beginnings = [(turns, False)]
    if row.kind == "pair":
        beginnings.append((len(row.prompt), True))
    for turn in located_turns(row):
        beginnings.append((turn, True))
        if turn + 1 < turns:
            beginnings.append((turn + 1, False))
    return beginnings


def located_turns(row: Row) -> Sequence[int]:
    """The turns whose place in the whole chat must be found.

    In a conversation they are those of the assistant; a turn that begins the chat answers nothing
    and is not among them. In a pair they are the turns that are not trained on.
    """
    if row.kind == "pair":
        return row.untrained_turns
    chat = [*row.prompt, *row.completion]
    return [i for i, message in enumerate(chat) if i and message["role"] == "assistant"]


def text_before_answer(
    draw: Callable[..., str], view: TemplateView, chat: Messages, asked: str, whole: str
) -> str | None:
    """What the whole chat shows before the last turn of `chat`.

    This is for a template that asks for a turn with other text, `asked`, than it shows before it.
    If the two differ only after the last words of the prompt, the answer begins where they differ.
    A template may also show the prompt itself differently: Mistral's moves the system message
    before the last turn of all. Then the answer is found with a mark in place of those last words.

    Returns:
        The text, or None if the place is not found.
    """
    *before, answer = chat
    last = next(
        (i for i in reversed(range(len(before))) if not is_empty(before[i].get("content"))), None
    )
    if last is None:
        return asked
    marked = [*before[:last], {**before[last], "content": _MARK}, *before[last + 1 :]]
    _, mark, asking = draw(view.apply(marked), asks=True).rpartition(_MARK)
    first_difference = next(
        (i for i, (a, b) in enumerate(zip(asked, whole, strict=False)) if a != b), len(whole)
    )
    if not mark or not asked.endswith(asking) or first_difference >= len(asked) - len(asking):
        return asked
    through_answer = draw(view.apply(chat))
    _, mark, after_mark = draw(view.apply([*marked, answer])).partition(_MARK)
    same = next(
        (i for i, (a, b) in enumerate(zip(asking, after_mark, strict=False)) if a != b),
        min(len(asking), len(after_mark)),
    )
    shown_answer = after_mark[same:]
    begun = through_answer[: len(through_answer) - len(shown_answer)]
    is_found = mark and through_answer.endswith(shown_answer) and whole.startswith(begun)
    return begun if is_found else None
