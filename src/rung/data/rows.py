"""One row of a data set: a prompt and a completion, each a text or messages."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rung.data.remarks import Remark

Messages = list[dict[str, Any]]
"""Each with a `role` and a `content`; other fields are left to the chat template."""
RowKind = Literal["pair", "messages", "text"]


@dataclass(frozen=True, slots=True)
class Row:
    """What the model is given, and what it must generate after it: both texts, or both messages.

    Attributes:
        prompt: What the model is given; empty for a *text*.
        completion: What the model must generate.
        source: Rows of one source (a document, a speaker) are not independent. They stay in one
            split, and count as one where standard errors are computed. By default, rows with the
            same prompt have the same source.
        kind: Of a *pair* the completion is trained on. The *messages* of a conversation are divided
            before the assistant's last turn, and all of the assistant's turns are trained on. A
            *text* is a completion without a prompt.
        tools: The tools that the chat template is given beside the messages.
        variables: Other variables of the chat template.
        untrained_turns: The assistant's turns that are not trained on, as their indices in the
            whole conversation.
        remarks: What the record says and the row does not.
        question: The part of the last turn that asks, if the record marks it.
    """

    prompt: str | Messages
    completion: str | Messages
    source: str = ""
    kind: RowKind = "pair"
    tools: tuple[Any, ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    untrained_turns: tuple[int, ...] = ()
    remarks: tuple[Remark, ...] = field(default=(), compare=False)
    question: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.source:
            object.__setattr__(self, "source", plain_text(self.prompt or self.completion))

    @property
    def expected_text(self) -> str | None:
        """The text that the model must generate; None if there is no prompt to generate after."""
        if self.kind == "text":
            return None
        if isinstance(self.completion, str):
            return self.completion
        return plain_text(self.completion[:1])


def plain_text(part: str | Messages) -> str:
    """The text of a prompt or a completion, without the marks of a chat."""
    if isinstance(part, str):
        return part
    return "\n".join(
        content for message in part if isinstance(content := message.get("content"), str)
    )


def normalize(text: str) -> str:
    """A text without the differences that do not make rows different.

    Removed are case, extra white space, and punctuation except inside of numbers. Characters that
    may be operators stay, and so do marks that belong to letters.
    """
    folded = (text if text.isascii() else unicodedata.normalize("NFKC", text)).casefold()
    # A text of punctuation alone is not made empty.
    return " ".join(_PUNCTUATION.sub(" ", folded).split()) or " ".join(folded.split())


_PUNCTUATION = re.compile(r"""(?![.,]\d)[.,;:!?…'"“”„‘’‚«»‹›()\[\]{}¿¡。、，！？；：「」『』`_]""")
