"""What a chat template shows of a row, and what it leaves out.

A template may have no place for a role, for tools or for thoughts, and leaves them out without an
error. So it is *probed*: the conversation is drawn with a mark in place of every text and
number, and what has no mark in the drawn text has no place in the template. Rows with the same
roles and fields are probed once. If the template knows a role by another name (`tool` for
`observation`), or wants a message in another form, rows are given to it in that form.

A template may also show only a part of a text, such as an answer without its thoughts. That differs
from row to row, so `rung.data.chat.missing_texts` looks for each row's own texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jinja2 import TemplateError

from rung.data.chat.template_marks import Marks
from rung.data.field_values import is_empty
from rung.data.remarks import Remark
from rung.data.rows import Messages, Row

REFUSALS = (
    TemplateError,
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RecursionError,
)
"""The errors that a template may raise for a row that it does not take."""
_TOOL_ROLES = (
    "tool",
    "ipython",
    "observation",
    "function",
    "tool_response",
    "function_response",
    "tool_results",
)
_OTHER_NAMES = dict.fromkeys(_TOOL_ROLES, _TOOL_ROLES) | {"developer": ("system",)}
"""For the name of a role in rows, the names that templates may have for it."""
_CACHE_SIZE = 10_000
"""How many structures of rows are remembered."""

Draw = Callable[[Messages, Sequence[Any], Mapping[str, Any]], str]
"""Makes the text of messages, tools and variables."""


@dataclass(frozen=True, slots=True)
class TemplateView:
    """How rows of one structure are given to a template.

    Attributes:
        roles: for the name of a role in the rows, the name that the template knows.
        forms: the forms in which the template takes messages, see `_FORMS`.
        hidden: a remark on each thing that the template does not show.
    """

    roles: Mapping[str, str] = field(default_factory=dict)
    forms: frozenset[str] = frozenset()
    hidden: frozenset[Remark] = frozenset()

    def apply(self, chat: Messages) -> Messages:
        """The conversation in the form in which it is given to the template."""
        if not (self.roles or self.forms):
            return chat
        return [self._apply_to(message) for message in chat]

    def _apply_to(self, message: dict[str, Any]) -> dict[str, Any]:
        changed = {**message, "role": self.roles.get(message["role"], message["role"])}
        for form in self.forms:
            changed = _FORMS[form](changed)
        return changed

    @property
    def remarks(self) -> Iterator[Remark]:
        yield from self.hidden
        for role, name in self.roles.items():
            subject = f"turns of '{role}' as those of '{name}', which the chat template knows"
            yield "read_as", subject


class TemplateProber:
    """Finds how rows are given to a template.

    Args:
        draw: makes the text of messages, tools and variables with the template.
        template: its source, which names the roles that it knows.
    """

    def __init__(self, draw: Draw, template: str) -> None:
        self._draw = draw
        self._named_roles = {
            role
            for role in {*_OTHER_NAMES, *_TOOL_ROLES, "system"}
            if re.search(f"(['\"]){role}\\1", template)
        }
        self._views: dict[Any, TemplateView] = {}
        self._views_by_turns: dict[Any, TemplateView] = {}

    def view(self, row: Row) -> TemplateView:
        """How the row is given to the template, and what the template does not show of it."""
        chat: Any = [*row.prompt, *row.completion]
        turns = tuple(map(_structure, chat))
        context = (
            len(row.tools),
            tuple((name, _size(value)) for name, value in row.variables.items()),
        )
        if (turns, context) not in self._views:
            # The order of the turns does not change which names and forms the template takes.
            unordered = frozenset(turns), context
            probe = _Probe(self._draw, chat, row)
            if unordered not in self._views_by_turns:
                self._views_by_turns[unordered] = probe.best_view(self._named_roles)
            best = self._views_by_turns[unordered]
            if len(self._views) >= _CACHE_SIZE:
                self._views.clear()
            hidden = probe.hidden(best) or frozenset()
            self._views[turns, context] = replace(best, hidden=hidden)
        return self._views[turns, context]


def _structure(message: dict[str, Any]) -> Any:
    """What two messages have in common that a template takes alike.

    It is the role, the fields, and whether each field is empty.
    """
    if len(message) == 2:
        return message["role"], bool(message["content"].strip())
    fields = (
        (name, len(value) if isinstance(value, list) else not is_empty(value))
        for name, value in message.items()
    )
    return message["role"], *fields


def _size(value: Any) -> Any:
    return len(value) if isinstance(value, list | dict) else value


class _Probe:
    """A conversation with marks, and how much of it the template shows."""

    def __init__(self, draw: Draw, chat: Messages, row: Row) -> None:
        self._draw = draw
        self._chat = chat
        self._marks = Marks()
        self._marked = self._marks.mark_chat(chat)
        self._tools = self._marks.mark_field(list(row.tools), "tools")
        self._variables = dict(row.variables)
        if "documents" in row.variables:
            self._variables["documents"] = self._marks.mark_field(
                row.variables["documents"], "documents"
            )

    def hidden(self, view: TemplateView) -> frozenset[Remark] | None:
        """A remark on each thing that has no mark in the text; None if the template refuses it."""
        try:
            text = self._draw(view.apply(self._marked), self._tools, self._variables)
        except REFUSALS:
            return None
        # A template that writes an object as Python does has no place for it.
        return None if "{'type': 'text'" in text else self._marks.hidden(text)

    def best_view(self, named_roles: Collection[str]) -> TemplateView:
        """The view in which the template shows the most.

        Roles that the template names are preferred to those that it only passes on.
        """
        best = TemplateView()
        hidden = self.hidden(best)
        for role in dict.fromkeys(message["role"] for message in self._chat):
            for name in _OTHER_NAMES.get(role, ()) if role not in named_roles else ():
                view = TemplateView({**best.roles, role: name}, best.forms)
                view_hidden = self.hidden(view) if name in named_roles else None
                if view_hidden is None:
                    continue
                if hidden is None or _count_not_shown(view_hidden) <= _count_not_shown(hidden):
                    best, hidden = view, view_hidden
                    break
        # Each change is tried twice, since one may help only together with another.
        for roles, forms in [*_changes(self._chat)] * 2:
            if hidden is not None and not _count_not_shown(hidden):
                break
            view = TemplateView({**best.roles, **roles}, best.forms | forms)
            view_hidden = self.hidden(view)
            if view_hidden is None:
                continue
            if hidden is None or _count_not_shown(view_hidden) < _count_not_shown(hidden):
                best, hidden = view, view_hidden
        return best


def _count_not_shown(hidden: frozenset[Remark]) -> int:
    return sum(kind == "not_shown" for kind, _ in hidden)


def _changes(chat: Any) -> Iterator[tuple[dict[str, str], set[str]]]:
    """Other names of roles and other forms of messages that the template may know."""
    for role in dict.fromkeys(message["role"] for message in chat):
        for name in _OTHER_NAMES.get(role, ()):
            if name != role:
                yield {role: name}, set()
    for form in _FORMS:
        yield {}, {form}


def _with_json_arguments(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose calls of tools have their arguments as JSON texts."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [_with_json_argument(call) for call in calls]}


def _with_json_argument(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), dict | list):
        return call
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


def _with_content_parts(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose content is a list of one part, as models with vision want it."""
    content = message["content"]
    if not isinstance(content, str):
        return message
    return {**message, "content": [{"type": "text", "text": content}]}


_FORMS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "json_arguments": _with_json_arguments,
    "content_parts": _with_content_parts,
}
"""The forms in which templates want messages. The message says the same in each."""
