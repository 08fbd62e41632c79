"""What belongs to a conversation and stands in fields of a row's own: the system's words, the turns before, tools,
documents, and variables of the chat template.
"""

from __future__ import annotations

from typing import Any

from rung.data.told import Told
from rung.data.turns import (
    FLAGS,
    PassContext,
    UnfitError,
    is_chat,
    is_empty,
    kind_of,
    names,
    read_turns,
    sound,
    unpacked,
)

BESIDE = {"system", "system_prompt", "tools", "functions", "documents", "chat_template_kwargs"}
"""Fields that any conversation may have beside it."""
_GIVEN = BESIDE | {"history", "images", "image", "videos", "video", "audios", "audio"}


class Fields:
    """The fields of a record by the names that they have here, which of them were asked for, and what is told."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
        self.used: set[str] = set()
        self.told: list[Told] = []

    @property
    def names(self) -> str:
        """Those that the record has: it may have no `source`."""
        return names(name for name, value in self.values.items() if (name, value) != ("source", ""))

    def get(self, name: str, default: Any = None) -> Any:
        self.used.add(name)
        return self.values.get(name, default)


def left_out(name: str, value: Any) -> Told:
    """What is told of a field that no part of a row is made of. What a conversation lacks without it, and what may say
    that a row is not to be learnt as others are, matters more than a number or a note.
    """
    return "left_out" if name in _GIVEN | FLAGS or isinstance(
        value, bool
    ) else "unused", f"'{name}'"


def read_history(found: Fields) -> list[PassContext]:
    """What alpaca's rows say of the turns before: messages, or pairs of a question and an answer."""
    history = unpacked(found.get("history"))
    if is_empty(history):
        return []
    if is_chat(history):
        return read_turns(history, "history")
    pairs = isinstance(history, list) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in history
    )
    if not pairs or not all(isinstance(text, str | None) for pair in history for text in pair):
        raise UnfitError(
            '"history" is a list of questions with their answers, [["question", "answer"], …]'
        )
    return [
        PassContext({"role": role, "content": sound(text, "history")})
        for pair in history
        for role, text in zip(("user", "assistant"), pair, strict=True)
        if text
    ]


def read_system(found: Fields, turns: list[PassContext]) -> PassContext | None:
    """What a field of its own says to the system, unless the conversation begins with that."""
    first = (
        turns[0].message["content"].strip() if turns[0].role in ("system", "developer") else None
    )
    for name in ("system", "system_prompt"):
        text = found.values.get(name)
        if isinstance(text, str) and text.strip() and first in (None, text.strip()):
            found.get(name)
            return None if first else PassContext({"role": "system", "content": sound(text, name)})
    return None


def read_tools(found: Fields) -> tuple[Any, ...]:
    """The tools that may be called, in the form of OpenAI."""
    for name in ("tools", "functions"):
        if is_empty(tools := unpacked(found.get(name))):
            continue
        tools = [unpacked(tool) for tool in tools] if isinstance(tools, list) else [tools]
        if not all(isinstance(tool, dict) for tool in tools):
            raise UnfitError(
                f'"{name}" is a list of the tools\' schemas, and this is {kind_of(found.values[name])}'
            )
        bare = [("name" in tool and not isinstance(tool.get("function"), dict)) for tool in tools]
        return tuple(
            {"type": "function", "function": tool} if alone else tool
            for tool, alone in zip(tools, bare, strict=True)
        )
    return ()


def read_variables(found: Fields) -> dict[str, Any]:
    """What the row gives to the chat template beside messages and tools."""
    variables = unpacked(found.get("chat_template_kwargs"))
    variables = {} if is_empty(variables) else variables
    if not isinstance(variables, dict):
        raise UnfitError(
            f'"chat_template_kwargs" is an object with named values, and this is {kind_of(variables)}'
        )
    documents = unpacked(found.values.get("documents"))
    if (
        isinstance(documents, list)
        and documents
        and all(isinstance(one, dict) for one in documents)
    ):
        found.get("documents")
        return {**variables, "documents": documents}
    return variables
