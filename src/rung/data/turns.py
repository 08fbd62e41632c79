"""What a message of a conversation says: who speaks, what, and whether it is to be learnt.

Sets of conversations call the same things by many names. Whoever is plainly the user or the assistant is called so, and
calls of tools have one form, that of OpenAI and of transformers' templates. What else a message has is left to the chat
template, and told where that does not show it (`rung.data.template_probe`).
"""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rung.data.remarks import Remark

ROLES = {
    **dict.fromkeys(("human", "user", "prompter"), "user"),
    **dict.fromkeys(
        ("gpt", "assistant", "chatgpt", "bard", "bing", "model", "bot", "chatbot", "ai"),
        "assistant",
    ),
    **dict.fromkeys(("function_call", "tool_call"), "assistant"),
    **{
        name: name for name in ("system", "developer", "tool", "function", "observation", "ipython")
    },
    **{name: name for name in ("function_response", "tool_response", "tool_results")},
}
"""What roles are called here, by what sets call them. Which of the last two lines a template knows, the probe finds."""
_CALLS = ("function_call", "tool_call")
_WEIGHTS = ("weight", "loss_weight")
_LEARNT = (
    *(*_WEIGHTS, "train", "training", "trainable", "is_trainable", "train_on_turn", "learn"),
    *("loss", "loss_mask", "calculate_loss", "compute_loss", "has_loss"),
)
_NOT_LEARNT = ("masked", "is_masked", "ignore", "ignored", "ignore_loss")
"""Fields in which a turn says whether it is to be learnt, as OpenAI, Axolotl, ms-swift and others write it."""
FLAGS = {*_LEARNT, *_NOT_LEARNT, "mask", "sample_weight"}
"""With those that may mean either."""
_TRUTHS = {"true": True, "false": False, "yes": True, "no": False, "on": True, "off": False}
_SAID = ("content", "value", "tool_calls")
SAYING = {"from", "value"}
"""Where a turn that says as well who speaks and what, by the other names, says it otherwise."""
_TEXTS = (None, "text", "input_text", "output_text")


class UnfitError(Exception):
    """What is wrong with a record, without where it stands."""


@dataclass(frozen=True, slots=True)
class PassContext:
    """A message as chat templates take it; whether it says itself that it is to be learnt; and what is told of it."""

    message: dict[str, Any]
    learnt: bool | None = None
    told: tuple[Remark, ...] = ()

    @property
    def role(self) -> str:
        return str(self.message["role"])


def read_turns(value: Any, field: str) -> list[PassContext]:
    """The messages of a field.

    Raises:
        UnfitError: it is no list of messages.
    """
    value = _listed(unpacked(value))
    if not isinstance(value, list) or not value:
        raise UnfitError(f'"{field}" is a list of messages, and this is {kind_of(value)}')
    return [
        _turn(message, f'message {number} of "{field}"') for number, message in enumerate(value, 1)
    ]


def is_chat(value: Any) -> bool:
    """Whether these are messages, or a text of them. A text may be JSON for its own sake, so every message of it must
    be one, with a role that is known.
    """
    messages = _listed(unpacked(value))
    if (
        not isinstance(messages, list)
        or not messages
        or not all(isinstance(message, dict) for message in messages)
    ):
        return False
    if not isinstance(value, str):
        first = messages[0]
        return any(said in first for said in _SAID) and (
            "role" in first or str(first.get("from")).strip().lower() in ROLES
        )
    return all(
        str(message.get("role", message.get("from"))).lower() in ROLES
        and isinstance(message.get("content", message.get("value")), str | list)
        for message in messages
    )


def unpacked(value: Any) -> Any:
    """A list or an object that was written as a text, as in a cell of a table: as JSON, or as Python does, which is
    what pandas puts into a CSV file.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return _of_python(value) if _PYTHON.match(value) else value
    return value


_PYTHON = re.compile(r"\s*\[?\s*\{\s*['\"]")


def _of_python(text: str) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _listed(value: Any) -> Any:
    """One message as a list of it; and the messages of an object that has a list for each of their fields, as
    `datasets` keeps a sequence of objects.
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


def _turn(message: Any, where: str) -> PassContext:
    if not isinstance(message, dict):
        raise UnfitError(f"{where} is {kind_of(message)}; write an object with role and content")
    speaker = "from" if is_empty(message.get("role")) and "from" in message else "role"
    said = "value" if is_empty(message.get("content")) and "value" in message else "content"
    called, content = message.get(speaker), message.get(said)
    if not isinstance(called, str) or (
        content is None and not (message.get("tool_calls") or _old_call(message))
    ):
        raise UnfitError(f"{where} needs a role and a content, and it has {names(message)}")
    lower = called.strip().lower()
    if speaker == "from" and lower not in ROLES:
        raise UnfitError(f"{where} is from '{called}'; known are {', '.join(ROLES)}")
    role = ROLES.get(lower, called)
    told: tuple[Remark, ...] = ()
    if speaker == "role" and role != lower and role != called:
        told = (("read_as", f"turns of '{called}' as those of the {role}"),)
    # A column of Parquet or Arrow holds every field for every message, as null or empty where it has none.
    more = {
        field: value
        for field, value in message.items()
        if field not in (speaker, said)
        and not is_empty(value)
        # The same by another name says nothing more.
        and not (field == "from" and ROLES.get(str(value).lower()) == role)
        and not (field == "value" and value == content)
    }
    given = [*more]
    learnt = _learnt(more, where) if more else None
    told += tuple(
        ("read_as", f"'{name}' in turns as whether they are to be learnt")
        for name in given
        if name not in more
    )
    text = sound(_content(content, where), where)
    if lower in _CALLS and (calls := _calls(text)):
        text, more["tool_calls"] = "", calls
    elif "tool_calls" in more or _old_call(more):
        calls = _calls(more.get("tool_calls") or more.pop("function_call", None))
        if not calls:
            raise UnfitError(
                f"{where} has tool_calls that are none; each has a function with a name and arguments"
            )
        more["tool_calls"] = calls
        if has_null(more["tool_calls"]):
            told += (("read_as", "nulls inside calls of tools as arguments that are null"),)
    return PassContext({"role": role, "content": text, **more}, learnt, told)


def _content(content: Any, where: str) -> str:
    """The words of a message; of its parts, where it has several."""
    if isinstance(content, list):
        texts = [part if isinstance(part, str) else _part(part) for part in content]
        if None in texts:
            raise UnfitError(f"{where} has parts that are no text, and only text can be learnt")
        return "".join(map(str, texts))
    if not isinstance(content, str | None):
        raise UnfitError(f"{where} has {kind_of(content)} for its content; write a text")
    return content or ""


def _part(part: Any) -> str | None:
    if (
        not isinstance(part, dict)
        or not isinstance(part.get("text"), str)
        or part.get("type") not in _TEXTS
    ):
        return None
    beside = [
        name for name, value in part.items() if name not in ("type", "text") and not is_empty(value)
    ]
    return None if beside else str(part["text"])


def _learnt(more: dict[str, Any], where: str) -> bool | None:
    """What a message says of being learnt; the fields that say it are taken out of it."""
    said: set[bool] = set()
    for field in (*_LEARNT, *_NOT_LEARNT):
        value = more.get(field)
        if (truth := _truth(value)) in (0, 1):
            learnt = bool(truth) != (field in _NOT_LEARNT)
            del more[field]
            # That a turn is not masked is nothing out of the ordinary.
            said |= {learnt} if field in _LEARNT or not learnt else set()
        elif field in _WEIGHTS and truth is not None:
            raise UnfitError(
                f"{where} has the {field} {value}, and a turn is learnt or not; write 1 or 0"
            )
    return None if not said else False not in said


def _truth(value: Any) -> float | None:
    """A truth as it is written in data, as 1 or 0, or another number; nothing, where it is neither."""
    if isinstance(value, str):
        value = _TRUTHS.get(value.strip().lower(), value)
    try:
        return float(value) if isinstance(value, bool | int | float | str) else None
    except (ValueError, OverflowError):
        return None


def _old_call(message: dict[str, Any]) -> bool:
    """Whether it calls a function as OpenAI's first form of it did."""
    call = message.get("function_call")
    return isinstance(call, dict) and "name" in call and not message.get("tool_calls")


def _calls(value: Any) -> list[Any] | None:
    """Calls of tools in the form of OpenAI, with their arguments as objects; nothing, where they are no calls."""
    calls = unpacked(value)
    calls = [calls] if isinstance(calls, dict) else calls
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        return None
    made = []
    for given in calls:
        call = {name: value for name, value in given.items() if value is not None}
        if not isinstance(function := call.get("function"), dict):
            own = {name: value for name, value in call.items() if name in ("id", "type")}
            function = {name: value for name, value in call.items() if name not in own}
            call = {"type": "function", **own}
        if "name" not in function:
            return None
        if isinstance(function.get("arguments"), str) and isinstance(
            found := unpacked(function["arguments"]), dict | list
        ):
            function = {**function, "arguments": found}
        made.append({**call, "function": function})
    return made


def has_null(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(has_null, value.values() if isinstance(value, dict) else value))
    return value is None


def is_empty(value: Any) -> bool:
    """Whether a field says nothing."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, list | tuple | dict) and not value)


def sound(text: str, field: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UnfitError(
            f'the "{field}" has half a surrogate pair at character {error.start + 1}, which is no text; write it anew'
        ) from None
    return text


def names(record: Iterable[Any]) -> str:
    own = list(record)
    return ", ".join(map(repr, own[:20])) + ", …" * (len(own) > 20) or "no fields"


def kind_of(value: Any) -> str:
    kinds = {
        str: "a text",
        list: "a list",
        dict: "an object",
        type(None): "null",
        bool: "true or false",
    }
    return "an empty list" if value == [] else kinds.get(type(value), "a number")
