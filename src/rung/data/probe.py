"""What a chat template shows of a row, and what it does not.

A template may have no place for a role, for tools, for thoughts: then they vanish without a word. So it is *probed*:
the conversation is drawn with a mark in the place of every text and number, and what has no mark in the text has no
place in the template. Rows with the same roles and fields are probed once. Where the template knows a role by another
name (`tool` for `observation`), or wants a message in another form, rows are given to it so.

A template may also show a part of a text only, such as an answer without its thoughts. So besides, each row's own texts
are looked for in what was drawn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jinja2 import TemplateError

from rung.data.schema import Messages, Row
from rung.data.told import Kind, Told
from rung.data.turns import FLAGS, SAYING, is_empty

REFUSALS = (
    TemplateError,
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RecursionError,
)
"""What a template may raise at a row that it does not take."""
_TOOLS = (
    "tool",
    "ipython",
    "observation",
    "function",
    "tool_response",
    "function_response",
    "tool_results",
)
_ROLES = dict.fromkeys(_TOOLS, _TOOLS) | {"developer": ("system",)}
"""What templates may call a role, by what rows call it."""
_THOUGHTS = ("reasoning_content", "thinking", "reasoning", "thought", "thoughts")
_SAID = ("content", "tool_calls", "tools", "functions", *_THOUGHTS)
"""What the model reads of a message; other fields are about it."""
_IDS = ("id", "tool_call_id")
_LAWS = ("role", "type", "required")
"""What a template decides by, and need not show."""
_MARK = "qz00000zq"
"""Stands for one text."""
_HELD = 10_000
"""Structures that are remembered."""

Draw = Callable[[Messages, Sequence[Any], Mapping[str, Any]], str]


@dataclass(frozen=True, slots=True)
class View:
    """How a template takes the rows of one structure: under which names, and what it does not show of them."""

    roles: Mapping[str, str] = field(default_factory=dict)
    forms: frozenset[str] = frozenset()
    unseen: frozenset[Told] = frozenset()

    def applied(self, chat: Messages) -> Messages:
        """The conversation as it is given to the template."""
        if not (self.roles or self.forms):
            return chat
        return [self._message(message) for message in chat]

    def _message(self, message: dict[str, Any]) -> dict[str, Any]:
        made = {**message, "role": self.roles.get(message["role"], message["role"])}
        for form in self.forms:
            made = _FORMS[form](made)
        return made

    @property
    def told(self) -> Iterator[Told]:
        yield from self.unseen
        for role, other in self.roles.items():
            yield (
                "read_as",
                f"turns of '{role}' as those of '{other}', which the chat template knows",
            )


class Prober:
    """Finds how a template takes rows.

    Args:
        draw: the text of messages, tools and variables.
        template: what draws it, in which stand the roles that it knows.
    """

    def __init__(self, draw: Draw, template: str) -> None:
        self._draw = draw
        self._named = {
            role
            for role in {*_ROLES, *_TOOLS, "system"}
            if re.search(f"(['\"]){role}\\1", template)
        }
        self._views: dict[Any, View] = {}
        self._best: dict[Any, View] = {}

    def view(self, row: Row) -> View:
        chat: Any = [*row.prompt, *row.completion]
        turns = tuple(map(_turn, chat))
        beside = (
            len(row.tools),
            tuple((name, _scalar(value)) for name, value in row.variables.items()),
        )
        if (found := self._views.get((turns, beside))) is None:
            # Which names and forms the template takes does not depend on how the turns follow each other.
            kinds = frozenset(turns), beside
            probe = _Probe(self._draw, chat, row)
            if kinds not in self._best:
                self._best[kinds] = probe.best(self._named)
            found = replace(
                self._best[kinds], unseen=probe.unseen(self._best[kinds]) or frozenset()
            )
            if len(self._views) >= _HELD:
                self._views.clear()
            self._views[turns, beside] = found
        return found


def _turn(message: dict[str, Any]) -> Any:
    """What messages that a template takes alike have in common: role, fields, and whether they say something."""
    if len(message) == 2:
        return message["role"], bool(message["content"].strip())
    fields = (
        (name, len(value) if isinstance(value, list) else not is_empty(value))
        for name, value in message.items()
    )
    return message["role"], *fields


def _scalar(value: Any) -> Any:
    return len(value) if isinstance(value, list | dict) else value


class _Probe:
    """A conversation with marks, and what of it a template shows."""

    def __init__(self, draw: Draw, chat: Messages, row: Row) -> None:
        self._draw, self._chat, self._marks = draw, chat, _Marks()
        self._marked = [self._marks.message(message) for message in chat]
        self._tools = self._marks.field(list(row.tools), "tools")
        self._variables = dict(row.variables)
        if "documents" in row.variables:
            self._variables["documents"] = self._marks.field(
                row.variables["documents"], "documents"
            )

    def unseen(self, view: View) -> frozenset[Told] | None:
        """What has no mark in the text; nothing, if the template refuses it."""
        try:
            text = self._draw(view.applied(self._marked), self._tools, self._variables)
        except REFUSALS:
            return None
        # A template that writes an object as Python does has no place for it.
        return None if "{'type': 'text'" in text else self._marks.unseen(text)

    def best(self, named: Collection[str] = ()) -> View:
        """The view in which the template shows the most, with roles that it names before those that it passes on."""
        best = View()
        missing = self.unseen(best)
        for role in dict.fromkeys(message["role"] for message in self._chat):
            for name in _ROLES.get(role, ()) if role not in named else ():
                known = View({**best.roles, role: name}, best.forms)
                found = self.unseen(known) if name in named else None
                if found is not None and (missing is None or _said(found) <= _said(missing)):
                    best, missing = known, found
                    break
        # Twice: what a change is worth may show with another only.
        for roles, forms in [*_changes(self._chat)] * 2:
            if missing is not None and not _said(missing):
                break
            other = View({**best.roles, **roles}, best.forms | forms)
            found = self.unseen(other)
            if found is not None and (missing is None or _said(found) < _said(missing)):
                best, missing = other, found
        return best


def _said(unseen: frozenset[Told]) -> int:
    return sum(kind == "not_shown" for kind, _ in unseen)


def _changes(chat: Any) -> Iterator[tuple[dict[str, str], set[str]]]:
    """Roles and forms in which the template may know what the conversation has."""
    for role in dict.fromkeys(message["role"] for message in chat):
        yield from (({role: other}, set[str]()) for other in _ROLES.get(role, ()) if other != role)
    yield from (({}, {form}) for form in _FORMS)


def _with_texts(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose calls have their arguments as texts of JSON."""
    calls = message.get("tool_calls")
    return (
        {**message, "tool_calls": [_with_text(call) for call in calls]}
        if isinstance(calls, list)
        else message
    )


def _with_text(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), dict | list):
        return call
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


def _with_parts(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose content is a list of one part, as models have it that see."""
    content = message["content"]
    return (
        {**message, "content": [{"type": "text", "text": content}]}
        if isinstance(content, str)
        else message
    )


_FORMS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "texts": _with_texts,
    "parts": _with_parts,
}
"""What templates ask of messages in different ways, and what is the same message."""


class _Marks:
    """Marks in the place of texts and numbers, and what each stands for."""

    def __init__(self) -> None:
        self._places: list[tuple[Told, list[str]]] = []
        self._ids: dict[str, str] = {}
        self._count = 0

    def message(self, message: dict[str, Any]) -> dict[str, Any]:
        role = message["role"]
        return {
            name: value if name == "role" else self.field(value, name, f"turns of '{role}'")
            for name, value in message.items()
        }

    def field(self, value: Any, name: str, of: str = "") -> Any:
        """A field with marks, of a message or of the whole row."""
        about: list[str] = []
        if name == "tool_calls" and isinstance(value, list):
            ids: list[str] = []
            made: Any = [self._call(call, about, ids) for call in value]
            self._places.append((("unused", f"'id' of 'tool_calls' in {of}"), ids))
        else:
            made = self._marked(value, name, about)
        what = of if name == "content" else f"'{name}' in {of}" if of else f"'{name}'"
        kind: Kind = "left_out" if isinstance(value, bool) or name in FLAGS | SAYING else "unused"
        self._places.append((("not_shown" if name in _SAID or not of else kind, what), about))
        return made

    def _call(self, call: Any, about: list[str], ids: list[str]) -> Any:
        if not isinstance(call, dict):
            return self._marked(call, "", about)
        return {
            name: self._marked(part, name, ids if name == "id" else about)
            for name, part in call.items()
        }

    def _marked(self, value: Any, name: str, marks: list[str]) -> Any:
        if isinstance(value, dict):
            return {name: self._marked(part, name, marks) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return [self._marked(part, name, marks) for part in value]
        if name in _LAWS or value is None or (isinstance(value, str) and not value.strip()):
            return value
        if isinstance(value, bool):
            # True stays true; its name stands in the text where it is shown.
            marks.append(str(name))
            return value
        self._count += 1
        if isinstance(value, int | float):
            marks.append(str(90_000_000 + self._count))
            return 90_000_000 + self._count
        if not isinstance(value, str):
            return value
        # Mistral's templates want nine letters and figures for an id, and some look a call up by it.
        mark = f"qz{self._count:05}zq"
        if name in _IDS:
            mark = self._ids.setdefault(value, mark)
        marks.append(mark)
        return mark

    def unseen(self, text: str) -> frozenset[Told]:
        """What has no mark in the text, or not everywhere, or not all of its marks."""
        shown: dict[Told, list[bool]] = {}
        for told, marks in self._places:
            shown.setdefault(told, []).extend(mark in text for mark in marks)
        return frozenset(
            (kind, f"a part of {what}" if any(seen) else what)
            for (kind, what), seen in shown.items()
            if not all(seen)
        )


def cut_off(chat: Messages, text: str, unseen: frozenset[Told]) -> Iterator[Told]:
    """Of which texts of a conversation something is missing in what was drawn, beside what the template never shows."""
    squeezed = ""
    for message in chat:
        for name, value in message.items():
            if name not in _SAID or (isinstance(value, str) and value in text):
                continue
            for own in map(str.strip, _texts(value)):
                if own in text or _json(own) in text:
                    continue
                squeezed = squeezed or "".join(text.split())
                if not any("".join(form.split()) in squeezed for form in (own, _json(own))):
                    what = f"turns of '{message['role']}'"
                    what = what if name == "content" else f"'{name}' in {what}"
                    if ("not_shown", what) not in unseen:
                        yield "not_shown", f"a part of {what}"
                    break


def before_answer(
    draw: Callable[..., str], view: View, chat: Messages, asked: str, whole: str
) -> str | None:
    """What the whole shows before the last turn of `chat`, where it does not begin with what asks for that turn.

    A template may ask with other words than it shows, behind the last ones of the prompt: then the answer stands where
    the two depart. It may also show the prompt itself otherwise, as Mistral's does, which has the system's words before
    the last turn of all: then the place is found by a mark for those last words. Nothing where it is not found.
    """
    *before, answer = chat
    last = next(
        (i for i in reversed(range(len(before))) if not is_empty(before[i].get("content"))), None
    )
    if last is None:
        return asked
    marked = [*before[:last], {**before[last], "content": _MARK}, *before[last + 1 :]]
    _, found, tail = draw(view.applied(marked), asks=True).rpartition(_MARK)
    departs = next(
        (i for i, (a, b) in enumerate(zip(asked, whole, strict=False)) if a != b), len(whole)
    )
    if not found or not asked.endswith(tail) or departs >= len(asked) - len(tail):
        return asked
    fraction = draw(view.applied(chat))
    _, found, rest = draw(view.applied([*marked, answer])).partition(_MARK)
    same = next(
        (i for i, (a, b) in enumerate(zip(tail, rest, strict=False)) if a != b),
        min(len(tail), len(rest)),
    )
    begun = fraction[: len(fraction) - len(rest[same:])]
    return begun if found and fraction.endswith(rest[same:]) and whole.startswith(begun) else None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, part in value.items():
            if name not in (*_LAWS, *_IDS):
                yield from _texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
