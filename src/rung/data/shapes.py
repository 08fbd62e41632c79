"""What a record means: its fields ─▶ what the model is given, and what it is to write.

The shapes are those that TRL trains on, and two more that are turned into chats:

====================================  ==================================================================
fields                                a row
====================================  ==================================================================
`prompt` + `completion`, texts        the completion is learnt
`prompt` + `completion`, messages     the same, through the model's chat template
`messages`                            what the assistant says is learnt
`text`                                all of it is learnt
`instruction` (+ `input`) + `output`  *alpaca*: a question and an answer
`conversations`, `from` and `value`   *sharegpt*: `messages`, with other names
====================================  ==================================================================
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rung.errors import DataError

Messages = list[dict[str, Any]]
"""Each with a `role` and a `content`; what else a message has is left to the chat template."""
Kind = Literal["pair", "messages", "text"]
Shape = Literal["prompt_completion", "chat_prompt_completion", "messages", "text", "alpaca", "sharegpt"]

_GROUPS = ({"prompt", "completion"}, {"instruction", "input", "output"})
_ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bard", "bing", "model"), "assistant"),
    **{name: name for name in ("system", "tool", "function", "observation")},
}


@dataclass(frozen=True, slots=True)
class Row:
    """What the model is given, and what it is to write after it: both texts, or both messages.

    Of a *pair* the completion is learnt. The *messages* of a conversation are parted before the assistant's last turn,
    and all of its turns are learnt. A *text* is a completion without a prompt.

    Rows of one `source` (a document, a speaker) are not independent: they stay in one split, and count as one where
    errors are taken. By default that are the rows with the same prompt.
    """

    prompt: str | Messages
    completion: str | Messages
    source: str = ""
    kind: Kind = "pair"
    tools: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if not self.source:
            object.__setattr__(self, "source", flat(self.prompt or self.completion))

    @property
    def wanted(self) -> str | None:
        """The text that the model is to write, where it is given something to write after."""
        if self.kind == "text":
            return None
        return self.completion if isinstance(self.completion, str) else flat(self.completion[:1])


def flat(part: str | Messages) -> str:
    """The words of a prompt or a completion, without the marks of a chat."""
    if isinstance(part, str):
        return part
    return "\n".join(content for message in part if isinstance(content := message.get("content"), str))


def normal(text: str) -> str:
    """A text without what does not tell rows apart: case, white space, and the marks of sentences, but for those within
    numbers. Signs that may be operators stay, and marks that belong to letters.
    """
    folded = (text if text.isascii() else unicodedata.normalize("NFKC", text)).casefold()
    # A text of marks alone, an emoji say, is what it is.
    return " ".join(_MARKS.sub(" ", folded).split()) or " ".join(folded.split())


_MARKS = re.compile(r"""(?![.,]\d)[.,;:!?…'"“”„‘’‚«»‹›()\[\]{}¿¡。、，！？；：「」『』`_]""")


class Reader:
    """Turns records into rows. The first record decides the shape, and every other must have it.

    Args:
        fields: what the user's fields are called, by the name that they have here: `{"completion": "answer"}`.
    """

    def __init__(self, fields: Mapping[str, str] | None = None) -> None:
        self.fields = dict(fields or {})
        self.shape: Shape | None = None

    def row(self, record: Any, where: str) -> Row:
        """
        Raises:
            DataError: the record has no such shape; the message begins with `where`.
        """
        if not isinstance(record, dict):
            raise DataError(f"{where}: a row is an object with named fields, and this is {_kind(record)}.")
        found = self._named(record, where)
        shape = self.shape or self._shape(found, record, where)
        try:
            row = _READ[shape](found)
        except _UnfitError as error:
            raise DataError(f"{where}: {error}.") from None
        self.shape = shape
        return row

    def _named(self, record: dict[str, Any], where: str) -> dict[str, Any]:
        """The record with the user's names in the place of ours. What is called `source` without having been named so
        is no source: in many sets it says which collection a row came from.
        """
        missing = [field for field in self.fields.values() if field not in record]
        if missing:
            raise DataError(
                f"{where}: there is no field '{missing[0]}', which --fields names; the fields are {_names(record)}."
            )
        named = {name: record[field] for name, field in self.fields.items()}
        if set(named) <= {"source"}:
            return {**record, "source": "", **named}
        # What belongs to the named ones may have our name already.
        beside = {other for group in _GROUPS if named.keys() & group for other in group} | {"tools"}
        beside -= set(self.fields.values())
        return {**{name: record[name] for name in beside & record.keys()}, **named}

    def _shape(self, found: dict[str, Any], record: dict[str, Any], where: str) -> Shape:
        if isinstance(_unpacked(found.get("messages")), list):
            return "messages"
        if isinstance(_unpacked(found.get("conversations")), list):
            return "sharegpt"
        if "prompt" in found and "completion" in found:
            return "chat_prompt_completion" if _is_chat(_unpacked(found["prompt"])) else "prompt_completion"
        if "instruction" in found and "output" in found:
            return "alpaca"
        if "text" in found:
            return "text"
        if "prompt" in found or "completion" in found:
            lacking = "completion" if "prompt" in found else "prompt"
            raise DataError(
                f'{where}: the row needs a "{lacking}" too, and it has {_names(record)}; say which it is with --fields '
                f"{lacking}=…."
            )
        names = [*record, "question", "answer"]
        raise DataError(
            f"{where}: the fields {_names(record)} are of no known shape (prompt + completion, messages, text, "
            f"instruction + output, conversations); say which is which with --fields "
            f"prompt={names[0]},completion={names[1]}."
        )


class _UnfitError(Exception):
    """What is wrong with a record, without where it stands."""


def _pair(found: dict[str, Any]) -> Row:
    prompt, completion = _text(found, "prompt"), _text(found, "completion")
    if not prompt.strip():
        raise _UnfitError('the "prompt" is blank; leave the row out, or give the whole as "text"')
    return Row(prompt, completion, _source(found))


def _chat_pair(found: dict[str, Any]) -> Row:
    prompt, completion = _messages(found, "prompt"), _messages(found, "completion")
    if completion[0]["role"] != "assistant":
        raise _UnfitError(
            f'the "completion" begins with a turn of the {completion[0]["role"]}, and not of the assistant'
        )
    return Row(prompt, completion, _source(found), tools=_tools(found))


def _conversation(found: dict[str, Any], field: str = "messages") -> Row:
    messages = _messages(found, field)
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns:
        raise _UnfitError(f'no message in "{field}" is the assistant\'s, so there is nothing to learn')
    last = turns[-1]
    if not last:
        raise _UnfitError(f'the first message in "{field}" is the assistant\'s only one, and it answers nothing')
    return Row(messages[:last], messages[last:], _source(found), "messages", _tools(found))


def _whole_text(found: dict[str, Any]) -> Row:
    text = _text(found, "text")
    if not text.strip():
        raise _UnfitError('the "text" is blank; leave the row out')
    return Row("", text, _source(found), "text")


def _alpaca(found: dict[str, Any]) -> Row:
    instruction = _text(found, "instruction")
    more = _text(found, "input") if found.get("input") is not None else ""
    asked = f"{instruction}\n\n{more}" if more.strip() else instruction
    if not asked.strip():
        raise _UnfitError('the "instruction" is blank; leave the row out')
    answer = {"role": "assistant", "content": _text(found, "output")}
    return Row([{"role": "user", "content": asked}], [answer], _source(found))


_READ: dict[Shape, Callable[[dict[str, Any]], Row]] = {
    "prompt_completion": _pair,
    "chat_prompt_completion": _chat_pair,
    "messages": _conversation,
    "text": _whole_text,
    "alpaca": _alpaca,
    "sharegpt": lambda found: _conversation(found, "conversations"),
}


def _text(found: dict[str, Any], field: str) -> str:
    """A field as text. Numbers, objects and lists are written as JSON writes them."""
    if field not in found:
        raise _UnfitError(f'the row needs a "{field}" as the first row has, and it has {_names(found)}')
    value = found[field]
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        raise _UnfitError(f'the "{field}" is {"null" if value is None else value}; leave the row out')
    if isinstance(value, str):
        return _sound(value, field)
    if isinstance(value, bytes):
        raise _UnfitError(f'the "{field}" is bytes, and a text is needed')
    if isinstance(value, bool | int | float | dict | list):
        return _sound(json.dumps(value, ensure_ascii=False, default=str), field)
    return str(value)  # a date, a decimal


def _sound(text: str, field: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _UnfitError(
            f'the "{field}" has half a surrogate pair at character {error.start + 1}, which is no text; write it anew'
        ) from None
    return text


def _messages(found: dict[str, Any], field: str) -> Messages:
    if field not in found:
        raise _UnfitError(f'the row needs "{field}" as the first row has, and it has {_names(found)}')
    value = _unpacked(found[field])
    if not isinstance(value, list) or not value:
        raise _UnfitError(f'"{field}" is a list of messages, and this is {_kind(value)}')
    return [_message(message, f'message {number} of "{field}"') for number, message in enumerate(value, 1)]


def _message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise _UnfitError(f"{where} is {_kind(message)}; write an object with role and content")
    role, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
    if not isinstance(role, str) or (content is None and not message.get("tool_calls")):
        raise _UnfitError(f"{where} needs a role and a content, and it has {_names(message)}")
    if "from" in message:
        if role.lower() not in _ROLES:
            raise _UnfitError(f"{where} is from '{role}'; known are {', '.join(_ROLES)}")
        role = _ROLES[role.lower()]
    if isinstance(content, list):
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
            raise _UnfitError(f"{where} has parts that are no text, and only text can be learnt")
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str | None):
        raise _UnfitError(f"{where} has {_kind(content)} for its content; write a text")
    # A column of Parquet or Arrow holds every field for every message, as null where it has none.
    more = {k: v for k, v in message.items() if k not in ("role", "content", "from", "value") and v is not None}
    return {"role": role, "content": _sound(content or "", where), **more}


def _tools(found: dict[str, Any]) -> tuple[Any, ...]:
    tools = _unpacked(found.get("tools"))
    return tuple(tools) if isinstance(tools, list) else ()


def _source(found: dict[str, Any]) -> str:
    source = found.get("source", "")
    if not isinstance(source, str | int):
        raise _UnfitError('"source" names where the row is from, and is a text or a whole number')
    return _sound(str(source), "source")


def _unpacked(value: Any) -> Any:
    """A list that was written as a text, as in a cell of a CSV file."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
    return value


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _names(record: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, record)) or "no fields"


def _kind(value: Any) -> str:
    kinds = {str: "a text", list: "a list", dict: "an object", type(None): "null", bool: "true or false"}
    return "an empty list" if value == [] else kinds.get(type(value), "a number")
