"""Marks in place of a conversation's texts, which show what a chat template shows."""

from __future__ import annotations

from typing import Any

from rung.data.chat.training_flags import FLAGS
from rung.data.chat.turns import SHAREGPT_FIELDS
from rung.data.remarks import Remark, RemarkKind
from rung.data.rows import Messages

THOUGHT_FIELDS = ("reasoning_content", "thinking", "reasoning", "thought", "thoughts")
READ_FIELDS = ("content", "tool_calls", "tools", "functions", *THOUGHT_FIELDS)
"""The fields of a message that the model reads. Other fields are about the message."""
ID_FIELDS = ("id", "tool_call_id")
CONTROL_FIELDS = ("role", "type", "required")
"""The fields that a template decides by. It need not show them."""
_FIRST_NUMBER = 90_000_000
"""A number this large is not in a text by chance."""


class Marks:
    """Puts marks in place of texts and numbers, and remembers what each mark stands for."""

    def __init__(self) -> None:
        self._marks_of: list[tuple[Remark, list[str]]] = []
        self._id_marks: dict[str, str] = {}
        self._count = 0

    def mark_chat(self, chat: Messages) -> Messages:
        """The conversation with marks. Only the roles stay as they are."""
        return [
            {
                name: value
                if name == "role"
                else self.mark_field(value, name, f"turns of '{message['role']}'")
                for name, value in message.items()
            }
            for message in chat
        ]

    def mark_field(self, value: Any, name: str, turns: str = "") -> Any:
        """A field with marks; it belongs to `turns`, or to the whole row."""
        marks: list[str] = []
        if name == "tool_calls" and isinstance(value, list):
            ids: list[str] = []
            marked: Any = [self._mark_call(call, marks, ids) for call in value]
            self._marks_of.append((("unused", f"'id' of 'tool_calls' in {turns}"), ids))
        else:
            marked = self._mark(value, name, marks)
        subject = turns if name == "content" else f"'{name}' in {turns}" if turns else f"'{name}'"
        self._marks_of.append(((_kind(name, value, turns), subject), marks))
        return marked

    def hidden(self, text: str) -> frozenset[Remark]:
        """A remark on each thing whose marks are missing from a text.

        If only some of them are missing, the remark is on a part of it.
        """
        is_shown: dict[Remark, list[bool]] = {}
        for remark, marks in self._marks_of:
            is_shown.setdefault(remark, []).extend(mark in text for mark in marks)
        return frozenset(
            (kind, f"a part of {subject}" if any(shown) else subject)
            for (kind, subject), shown in is_shown.items()
            if not all(shown)
        )

    def _mark_call(self, call: Any, marks: list[str], ids: list[str]) -> Any:
        if not isinstance(call, dict):
            return self._mark(call, "", marks)
        return {
            name: self._mark(part, name, ids if name == "id" else marks)
            for name, part in call.items()
        }

    def _mark(self, value: Any, name: str, marks: list[str]) -> Any:
        """The value with marks, which are added to `marks`."""
        if isinstance(value, dict):
            return {name: self._mark(part, name, marks) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return [self._mark(part, name, marks) for part in value]
        if (
            name in CONTROL_FIELDS
            or value is None
            or (isinstance(value, str) and not value.strip())
        ):
            return value
        if isinstance(value, bool):
            # A truth value stays as it is. Where a template shows it, it shows its name too.
            marks.append(str(name))
            return value
        self._count += 1
        if isinstance(value, int | float):
            marks.append(str(_FIRST_NUMBER + self._count))
            return _FIRST_NUMBER + self._count
        if not isinstance(value, str):
            return value
        # Mistral's templates take ids of nine letters and digits only, and some templates look up a
        # call by its id.
        mark = f"qz{self._count:05}zq"
        if name in ID_FIELDS:
            mark = self._id_marks.setdefault(value, mark)
        marks.append(mark)
        return mark


def _kind(name: str, value: Any, turns: str) -> RemarkKind:
    """The kind of remark on a field that the template does not show."""
    if name in READ_FIELDS or not turns:
        return "not_shown"
    return "left_out" if isinstance(value, bool) or name in FLAGS | SHAREGPT_FIELDS else "unused"
