"""Which texts of a conversation are not in the text that a chat template makes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from rung.data.chat.template_marks import CONTROL_FIELDS, ID_FIELDS, READ_FIELDS
from rung.data.remarks import Remark
from rung.data.rows import Messages


def missing_texts(chat: Messages, text: str, hidden: frozenset[Remark]) -> Iterator[Remark]:
    """Remark on each field of a message of which a part is missing from the drawn text.

    Args:
        hidden: what the template never shows; it has a remark already.
    """
    squeezed_text = ""
    for message in chat:
        for name, value in message.items():
            if name not in READ_FIELDS or (isinstance(value, str) and value in text):
                continue
            for part in map(str.strip, _texts(value)):
                forms = (part, _as_json(part))
                if any(form in text for form in forms):
                    continue
                squeezed_text = squeezed_text or _squeeze(text)
                if not any(_squeeze(form) in squeezed_text for form in forms):
                    turns = f"turns of '{message['role']}'"
                    subject = turns if name == "content" else f"'{name}' in {turns}"
                    if ("not_shown", subject) not in hidden:
                        yield "not_shown", f"a part of {subject}"
                    break


def _texts(value: Any) -> Iterator[str]:
    """The texts in a value, without ids and the fields that a template decides by."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, part in value.items():
            if name not in (*CONTROL_FIELDS, *ID_FIELDS):
                yield from _texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)


def _squeeze(text: str) -> str:
    """The text without white space."""
    return "".join(text.split())


def _as_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
