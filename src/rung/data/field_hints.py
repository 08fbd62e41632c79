"""What to do about a record whose fields are of no known format, by their contents and names."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from rung.data.chat.turns import is_chat
from rung.data.field_values import is_empty

_PROMPT_NAMES = ("question", "query", "instruction", "prompt", "input", "context", "source", "text")
_COMPLETION_NAMES = (
    "answer",
    "response",
    "output",
    "completion",
    "target",
    "answers",
    "label",
    "summary",
    "solution",
)
"""Common names of a prompt and of a completion, the most likely first."""
_ROW_NUMBER_NAMES = ("id", "idx", "index", "uid", "uuid", "_id", "unnamed: 0")
_NUMPY_TURNS = re.compile(r"\s*\[\s*\{['\"](role|from|content|value)['\"]:")


@dataclass(frozen=True)
class FieldHint:
    """A remedy in words, and whether it is to name fields with `--fields`."""

    remedy: str
    needs_fields: bool = False


def likely_field(missing: str, names: Collection[str]) -> str:
    """The name that is probably the missing `prompt` or `completion`; `…` if none is."""
    known = _PROMPT_NAMES if missing == "prompt" else _COMPLETION_NAMES
    return next((name for name in known if name in names), "…")


def hint_for_unknown_fields(record: dict[str, Any]) -> FieldHint:
    """The remedy for a record whose fields are of no known format."""
    if is_chat(record):
        return FieldHint(
            'these are the fields of one message; write {"messages": […]} with a whole '
            "conversation in each row"
        )
    if chats := [name for name, value in record.items() if is_chat(value)]:
        return FieldHint(f"name the messages with --fields messages={chats[0]}", needs_fields=True)
    if any(isinstance(value, str) and _NUMPY_TURNS.match(value) for value in record.values()):
        return FieldHint(
            "the turns are written as numpy prints a list, which cannot be read back; save JSON or "
            "Parquet"
        )
    fields = record.keys()
    if {"custom_id", "method", "body"} <= fields or {"custom_id", "response"} <= fields:
        return FieldHint(
            "this is a batch file of OpenAI; join the messages of each request and its answer, and "
            "give them as messages"
        )
    if lists := [value for value in record.values() if isinstance(value, list) and value]:
        if len(lists) == len(record) > 1 and len({len(value) for value in lists}) == 1:
            return FieldHint(f"these are columns of {len(lists[0]):,}; write one object per row")
        if len(record) == 1:
            return FieldHint(
                'write the turns of a conversation as [{"role": "user", "content": …}, …]'
            )
    return _hint_by_names(record)


def _hint_by_names(record: dict[str, Any]) -> FieldHint:
    names = {str(name).lower(): name for name, value in record.items() if not is_empty(value)}
    prompt = next((names[name] for name in _PROMPT_NAMES if name in names), None)
    completion = next((names[name] for name in _COMPLETION_NAMES if name in names), None)
    others = [
        name
        for lower, name in names.items()
        if name not in (prompt, completion) and lower not in _ROW_NUMBER_NAMES
    ]
    prompt = prompt or (others.pop(0) if others else None)
    completion = completion or (others.pop(0) if others else None)
    if prompt and completion:
        remedy = f"name the two with --fields prompt={prompt},completion={completion}"
    else:
        remedy = f"name the text to train on with --fields text={prompt or completion or '…'}"
    return FieldHint(remedy, needs_fields=True)
