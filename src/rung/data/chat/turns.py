"""The turns of a conversation: who speaks, what the turn contains, and whether to train on it.

Data sets give many names to the same things. Here the user and the assistant always have these
names, and tool calls always have one form. Other fields of a message are left to the chat template;
a remark is made if the template does not show them (see `rung.data.chat.template_probe`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rung.data.chat.tool_calls import has_function_call, read_tool_calls
from rung.data.chat.training_flags import take_training_flags
from rung.data.field_values import (
    check_text,
    describe_kind,
    has_null,
    is_empty,
    list_names,
    parse_nested,
)
from rung.data.remarks import Remark
from rung.data.row_errors import InvalidRowError

_TOOL_ROLES = (
    *("tool", "function", "observation", "ipython"),
    *("function_response", "tool_response", "tool_results"),
)
_CALL_ROLES = ("function_call", "tool_call")
ROLES = {
    **dict.fromkeys(("human", "user", "prompter"), "user"),
    **dict.fromkeys(
        ("gpt", "assistant", "chatgpt", "bard", "bing", "model", "bot", "chatbot", "ai"),
        "assistant",
    ),
    **dict.fromkeys(_CALL_ROLES, "assistant"),
    **{role: role for role in ("system", "developer", *_TOOL_ROLES)},
}
"""The name of each role here, by its name in a data set. The template probe finds which of the
tools' roles a template knows."""
_CONTENT_FIELDS = ("content", "value", "tool_calls")
SHAREGPT_FIELDS = {"from", "value"}
"""ShareGPT's names of a message's role and content. A message that also has a role and a content
says something else in them."""
_TEXT_PART_TYPES = (None, "text", "input_text", "output_text")


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """One turn of a conversation.

    Attributes:
        message: The message as chat templates take it, with at least `role` and `content`.
        is_trained: Whether the message itself says to train on it; None if it does not say.
        remarks: What was read in an unexpected way.
    """

    message: dict[str, Any]
    is_trained: bool | None = None
    remarks: tuple[Remark, ...] = ()

    @property
    def role(self) -> str:
        return str(self.message["role"])


def read_turns(value: Any, field: str) -> list[ChatTurn]:
    """Read the messages of a field.

    Raises:
        InvalidRowError: The value is not a list of messages.
    """
    messages = _as_list(parse_nested(value))
    if not isinstance(messages, list) or not messages:
        raise InvalidRowError(
            f'"{field}" must be a list of messages, but it is {describe_kind(messages)}'
        )
    return [
        _read_turn(message, f'message {number} of "{field}"')
        for number, message in enumerate(messages, 1)
    ]


def is_chat(value: Any) -> bool:
    """Whether a value is messages, or a text that contains them.

    A text may be JSON for its own sake. So it counts only if each of its items is a message with a
    known role.
    """
    messages = _as_list(parse_nested(value))
    if (
        not isinstance(messages, list)
        or not messages
        or not all(isinstance(message, dict) for message in messages)
    ):
        return False
    if not isinstance(value, str):
        first = messages[0]
        return any(field in first for field in _CONTENT_FIELDS) and (
            "role" in first or str(first.get("from")).strip().lower() in ROLES
        )
    return all(
        str(message.get("role", message.get("from"))).lower() in ROLES
        and isinstance(message.get("content", message.get("value")), str | list)
        for message in messages
    )


def _as_list(value: Any) -> Any:
    """The messages in a value that is one message, or an object of columns; other values unchanged.

    `datasets` stores a sequence of objects as one object with a list for each field.
    """
    if not isinstance(value, dict) or not value.keys() & {"role", "from"}:
        return value
    columns = list(value.values())
    if (
        all(isinstance(column, list) for column in columns)
        and len({len(column) for column in columns}) == 1
    ):
        return [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]
    return [value]


def _read_turn(message: Any, location: str) -> ChatTurn:
    if not isinstance(message, dict):
        raise InvalidRowError(
            f"{location} is {describe_kind(message)}; write an object with role and content"
        )
    role_field = "from" if is_empty(message.get("role")) and "from" in message else "role"
    content_field = (
        "value" if is_empty(message.get("content")) and "value" in message else "content"
    )
    given_role, content = message.get(role_field), message.get(content_field)
    has_calls = message.get("tool_calls") or has_function_call(message)
    if not isinstance(given_role, str) or (content is None and not has_calls):
        raise InvalidRowError(
            f"{location} needs a role and a content, but its fields are {list_names(message)}"
        )
    role_key = given_role.strip().lower()
    if role_field == "from" and role_key not in ROLES:
        raise InvalidRowError(
            f"{location} is from '{given_role}'; the known roles are {', '.join(ROLES)}"
        )
    role = ROLES.get(role_key, given_role)
    remarks: list[Remark] = []
    if role_field == "role" and role not in (role_key, given_role):
        remarks.append(("read_as", f"turns of '{given_role}' as turns of the {role}"))
    # In Parquet and Arrow every message has every field, as null or empty if it has no value.
    more = {
        field: value
        for field, value in message.items()
        if field not in (role_field, content_field)
        and not is_empty(value)
        and not _repeats(field, value, role, content)
    }
    given_fields = list(more)
    is_trained = take_training_flags(more, location) if more else None
    remarks += (
        ("read_as", f"'{field}' in turns as whether to train on them")
        for field in given_fields
        if field not in more
    )
    text = check_text(_content_text(content, location), location)
    if role_key in _CALL_ROLES and (calls := read_tool_calls(text)):
        text, more["tool_calls"] = "", calls
    elif "tool_calls" in more or has_function_call(more):
        remarks += _convert_calls(more, location)
    return ChatTurn({"role": role, "content": text, **more}, is_trained, tuple(remarks))


def _repeats(field: str, value: Any, role: str, content: Any) -> bool:
    """Whether a field says the role or the content again under ShareGPT's name."""
    if field == "from":
        return ROLES.get(str(value).lower()) == role
    return field == "value" and bool(value == content)


def _convert_calls(message: dict[str, Any], location: str) -> list[Remark]:
    """Give the message's tool calls the one form.

    Returns:
        The remarks on them.

    Raises:
        InvalidRowError: The field does not hold tool calls.
    """
    calls = read_tool_calls(message.get("tool_calls") or message.pop("function_call", None))
    if not calls:
        raise InvalidRowError(
            f"{location} has tool_calls that are not tool calls; give each a function with a name "
            "and arguments"
        )
    message["tool_calls"] = calls
    if has_null(calls):
        return [("read_as", "nulls inside of tool calls as arguments that are null")]
    return []


def _content_text(content: Any, location: str) -> str:
    """The text of a message's content, which may be a list of parts."""
    if isinstance(content, list):
        texts = [part if isinstance(part, str) else _part_text(part) for part in content]
        if None in texts:
            raise InvalidRowError(
                f"{location} has parts that are not text, and Rung trains on text only"
            )
        return "".join(map(str, texts))
    if not isinstance(content, str | None):
        raise InvalidRowError(
            f"{location} has {describe_kind(content)} as its content; write a text"
        )
    return content or ""


def _part_text(part: Any) -> str | None:
    """The text of one part of a content; None if the part has anything else in it."""
    if (
        not isinstance(part, dict)
        or not isinstance(part.get("text"), str)
        or part.get("type") not in _TEXT_PART_TYPES
    ):
        return None
    others = [
        name for name, value in part.items() if name not in ("type", "text") and not is_empty(value)
    ]
    return None if others else str(part["text"])
