"""Fields of a record that belong to its conversation but are not messages of it.

They are the system message, earlier turns, tools, documents, and variables of the chat template.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rung.data.chat.training_flags import FLAGS
from rung.data.chat.turns import ChatTurn, is_chat, read_turns
from rung.data.field_values import check_text, describe_kind, is_empty, list_names, parse_nested
from rung.data.remarks import Remark
from rung.data.row_errors import InvalidRowError

CONTEXT_FIELDS = {
    "system",
    "system_prompt",
    "tools",
    "functions",
    "documents",
    "chat_template_kwargs",
}
"""Fields that any conversation may have in addition to its messages."""
_IMPORTANT = CONTEXT_FIELDS | {
    "history",
    "images",
    "image",
    "videos",
    "video",
    "audios",
    "audio",
}
"""Fields without which a conversation lacks something."""


class RecordFields:
    """The fields of a record, by Rung's names for them.

    Attributes:
        values: the value of each field.
        used: the fields that a row is made of so far.
        remarks: the remarks on the record.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
        self.used: set[str] = set()
        self.remarks: list[Remark] = []

    @property
    def names(self) -> str:
        """The names of the fields, for a message. An empty `source` is not one of the record's."""
        return list_names(
            name for name, value in self.values.items() if (name, value) != ("source", "")
        )

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a field, which counts as used from now on."""
        self.used.add(name)
        return self.values.get(name, default)


def unused_field_remark(name: str, value: Any) -> Remark:
    """The remark on a field that no part of a row is made of.

    It is `left_out` for a field that the conversation needs, or that may say that a row must not be
    trained on as others are; `unused` for a number or a note.
    """
    is_important = name in _IMPORTANT | FLAGS or isinstance(value, bool)
    return "left_out" if is_important else "unused", f"'{name}'"


def read_history(fields: RecordFields) -> list[ChatTurn]:
    """The earlier turns, in alpaca's field for them: messages, or pairs of question and answer.

    Raises:
        InvalidRowError: It is neither.
    """
    history = parse_nested(fields.get("history"))
    if is_empty(history):
        return []
    if is_chat(history):
        return read_turns(history, "history")
    are_pairs = isinstance(history, list) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in history
    )
    if not are_pairs or not all(isinstance(text, str | None) for pair in history for text in pair):
        raise InvalidRowError(
            '"history" is a list of questions with their answers, [["question", "answer"], …]'
        )
    return [
        ChatTurn({"role": role, "content": check_text(text, "history")})
        for pair in history
        for role, text in zip(("user", "assistant"), pair, strict=True)
        if text
    ]


def read_system(fields: RecordFields, turns: list[ChatTurn]) -> ChatTurn | None:
    """The system message of a field of its own; None if the conversation begins with it already."""
    first = (
        turns[0].message["content"].strip() if turns[0].role in ("system", "developer") else None
    )
    for name in ("system", "system_prompt"):
        text = fields.values.get(name)
        if isinstance(text, str) and text.strip() and first in (None, text.strip()):
            fields.get(name)
            return (
                None if first else ChatTurn({"role": "system", "content": check_text(text, name)})
            )
    return None


def read_tools(fields: RecordFields) -> tuple[Any, ...]:
    """The tools that may be called, in OpenAI's form.

    Raises:
        InvalidRowError: They are not a list of objects.
    """
    for name in ("tools", "functions"):
        if is_empty(tools := parse_nested(fields.get(name))):
            continue
        tools = [parse_nested(tool) for tool in tools] if isinstance(tools, list) else [tools]
        if not all(isinstance(tool, dict) for tool in tools):
            raise InvalidRowError(
                f'"{name}" is a list of the tools\' schemas, and this is '
                f"{describe_kind(fields.values[name])}"
            )
        return tuple(
            {"type": "function", "function": tool} if _is_bare_function(tool) else tool
            for tool in tools
        )
    return ()


def _is_bare_function(tool: dict[str, Any]) -> bool:
    """Whether a tool is a function's schema without the object that OpenAI puts around it."""
    return "name" in tool and not isinstance(tool.get("function"), dict)


def read_variables(fields: RecordFields) -> Mapping[str, Any]:
    """What the row gives to the chat template in addition to messages and tools.

    Raises:
        InvalidRowError: The variables are not an object.
    """
    variables = parse_nested(fields.get("chat_template_kwargs"))
    variables = {} if is_empty(variables) else variables
    if not isinstance(variables, dict):
        raise InvalidRowError(
            '"chat_template_kwargs" is an object with named values, and this is '
            f"{describe_kind(variables)}"
        )
    documents = parse_nested(fields.values.get("documents"))
    are_documents = isinstance(documents, list) and all(isinstance(one, dict) for one in documents)
    if are_documents and documents:
        fields.get("documents")
        return {**variables, "documents": documents}
    return variables
