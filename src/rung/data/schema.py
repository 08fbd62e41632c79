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
`chosen`, `rejected` (+ `prompt`)     a *preference*: `chosen` is learnt
====================================  ==================================================================

What belongs to a conversation besides, in fields of its own, comes into it: `system`, `history`, `tools`, `documents`,
`chat_template_kwargs`. RecordFields that no part of a row is made of are told.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rung.data.conversation_fields import (
    CONTEXT_FIELDS,
    RecordFields,
    read_history,
    read_system,
    read_tools,
    read_variables,
    unused_field_remark,
)
from rung.data.remarks import Remark
from rung.data.turns import (
    PassContext,
    UnfitError,
    has_null,
    is_chat,
    is_empty,
    kind_of,
    names,
    read_turns,
    sound,
    unpacked,
)
from rung.errors import DataError

Messages = list[dict[str, Any]]
"""Each with a `role` and a `content`; what else a message has is left to the chat template."""
Kind = Literal["pair", "messages", "text"]
Shape = Literal[
    "prompt_completion",
    "chat_prompt_completion",
    "messages",
    "text",
    "alpaca",
    "sharegpt",
    "preference",
]

_GROUPS = (
    {"prompt", "completion"},
    {"instruction", "input", "output", "history"},
    {"prompt", "chosen", "rejected"},
)
_ASKED = ("question", "query", "instruction", "prompt", "input", "context", "source", "text")
_ANSWERED = (
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
"""What the fields of a pair are often called."""
_QUESTIONS = ("question", "query", "input", "context")
"""And what a preference may answer, that is called otherwise than a prompt."""
_NUMBERS = ("id", "idx", "index", "uid", "uuid", "_id", "unnamed: 0")
"""And those that number rows."""


@dataclass(frozen=True, slots=True)
class Row:
    """What the model is given, and what it is to write after it: both texts, or both messages.

    Of a *pair* the completion is learnt. The *messages* of a conversation are parted before the assistant's last turn,
    and all of its turns are learnt. A *text* is a completion without a prompt.

    Rows of one `source` (a document, a speaker) are not independent: they stay in one split, and count as one where
    errors are taken. By default that are the rows with the same prompt.

    `variables` are given to the chat template beside messages and `tools`. `silent` turns of the assistant, by their
    place in the whole chat, are not learnt. `told` is what the record says and the row does not. `question` is the part
    of the last turn that is asked about, where the record says so.
    """

    prompt: str | Messages
    completion: str | Messages
    source: str = ""
    kind: Kind = "pair"
    tools: tuple[Any, ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    silent: tuple[int, ...] = ()
    told: tuple[Remark, ...] = field(default=(), compare=False)
    question: str = field(default="", compare=False)

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
    return "\n".join(
        content for message in part if isinstance(content := message.get("content"), str)
    )


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
            raise DataError(
                f"{where}: a row is an object with named fields, and this is {kind_of(record)}."
            )
        found = RecordFields(self._named(record, where))
        shape = self.shape or self._shape(found.values, record, where)
        try:
            row = _READ[shape](found)
        except UnfitError as error:
            raise DataError(f"{where}: {error}.") from None
        # A text may hold a conversation, and then that is what is judged.
        self.shape = self.shape or (
            "messages" if row.kind == "messages" and shape == "text" else shape
        )
        used = {
            self.fields.get(name, name)
            for name in found.used
            if name != "source" or name in self.fields
        }
        unused = (
            name for name, value in record.items() if name not in used and not is_empty(value)
        )
        found.told += [unused_field_remark(name, record[name]) for name in unused]
        return replace(row, told=(*row.told, *found.told)) if found.told else row

    def _named(self, record: dict[str, Any], where: str) -> dict[str, Any]:
        """The record with the user's names in the place of ours. What is called `source` without having been named so
        is no source: in many sets it says which collection a row came from.
        """
        missing = [field for field in self.fields.values() if field not in record]
        if missing:
            raise DataError(
                f"{where}: there is no field '{missing[0]}', which --fields names; the fields are {names(record)}."
            )
        named = {name: record[field] for name, field in self.fields.items()}
        if set(named) <= {"source"} | CONTEXT_FIELDS:
            return {**record, "source": "", **named}
        # What belongs to the named ones may have our name already.
        beside = {
            other for group in _GROUPS if named.keys() & group for other in group
        } | CONTEXT_FIELDS
        beside -= set(self.fields.values())
        return {**{name: record[name] for name in beside & record.keys()}, **named}

    def _shape(self, found: dict[str, Any], record: dict[str, Any], where: str) -> Shape:
        for name, shape in _LISTS.items():
            value = unpacked(found.get(name))
            if isinstance(value, list) or is_chat(value):
                return shape
        if "prompt" in found and "completion" in found:
            chat = is_chat(found["prompt"]) or is_chat(found["completion"])
            return "chat_prompt_completion" if chat else "prompt_completion"
        if "chosen" in found and "rejected" in found:
            return "preference"
        if "instruction" in found and "output" in found:
            return "alpaca"
        if "text" in found:
            return "text"
        if "input_ids" in record:
            raise DataError(
                f"{where}: the row is tokens already (input_ids); give the texts that they were made of."
            )
        if "prompt" in found or "completion" in found:
            lacking = "completion" if "prompt" in found else "prompt"
            known, others = (
                _ASKED if lacking == "prompt" else _ANSWERED,
                record.keys() - self.fields.values(),
            )
            likely = next((name for name in known if name in others), "…")
            raise DataError(
                f'{where}: the row needs a "{lacking}" too, and it has {names(record)}; say which it is with --fields '
                f"{lacking}={likely}."
            )
        raise DataError(
            f"{where}: the fields {names(record)} are of no known shape (prompt + completion, messages, text, "
            f"instruction + output, conversations); {_remedy(record)}."
        )


_LISTS: dict[str, Shape] = {"messages": "messages", "conversations": "sharegpt"}


_NUMPY = re.compile(r"\s*\[\s*\{['\"](role|from|content|value)['\"]:")


def _remedy(record: dict[str, Any]) -> str:
    """What to do about fields of no known shape: by what they hold, and by what they are called."""
    if is_chat(record):
        return 'these are of one message; write {"messages": […]} with all of a conversation for each row'
    if chats := [name for name, value in record.items() if is_chat(value)]:
        return f"say where the messages are with --fields messages={chats[0]}"
    if any(isinstance(value, str) and _NUMPY.match(value) for value in record.values()):
        return "the turns are written as numpy prints a list, from which they cannot be read back; save JSON or Parquet"
    if {"custom_id", "method", "body"} <= record.keys() or {
        "custom_id",
        "response",
    } <= record.keys():
        return "this is a batch of OpenAI's; join each request's messages and its answer, and give them as messages"
    if lists := [value for value in record.values() if isinstance(value, list) and value]:
        if len(lists) == len(record) > 1 and len({len(value) for value in lists}) == 1:
            return f"these are columns of {len(lists[0]):,}; write one object for each row"
        if len(record) == 1:
            return 'write the turns of a conversation as [{"role": "user", "content": …}, …]'
    lower = {str(name).lower(): name for name, value in record.items() if not is_empty(value)}
    asked, answered = (
        next((lower[name] for name in known if name in lower), None)
        for known in (_ASKED, _ANSWERED)
    )
    rest = [
        name for low, name in lower.items() if name not in (asked, answered) and low not in _NUMBERS
    ]
    asked = asked or (rest.pop(0) if rest else None)
    answered = answered or (rest.pop(0) if rest else None)
    if asked and answered:
        return f"say which is which with --fields prompt={asked},completion={answered}"
    return f"say what is learnt with --fields text={asked or answered or '…'}"


def _pair(found: RecordFields, answer: str = "completion") -> Row:
    for name in ("prompt", answer):
        if not isinstance(value := found.values.get(name), str) and is_chat(value):
            raise UnfitError(
                f'the "{name}" is messages, and in the first row both are texts; write all rows alike'
            )
        if is_chat(value):
            found.told.append(("as_json", f"messages that are a text in '{name}'"))
    prompt, completion = _text(found, "prompt"), _text(found, answer)
    if not prompt.strip():
        raise UnfitError('the "prompt" is blank; leave the row out, or give the whole as "text"')
    return Row(prompt, completion, _source(found))


def _chat_pair(found: RecordFields) -> Row:
    return _answered(
        found, _turns_of(found, "prompt", "user"), _turns_of(found, "completion", "assistant")
    )


def _turns_of(found: RecordFields, field: str, role: str) -> list[PassContext]:
    """The messages of a field; a text is one of that role, unless it is the text of messages."""
    value = _present(found, field)
    if not isinstance(value, str):
        return read_turns(value, field)
    if is_chat(value):
        turns = read_turns(value, field)
        told: Remark = ("read_as", f"a text for the '{field}' as the messages that it holds")
        return [replace(turns[0], told=(*turns[0].told, told)), *turns[1:]]
    if not value.strip() and role == "user":
        raise UnfitError(f'the "{field}" is blank; leave the row out')
    told = ("read_as", f"a text for the '{field}' as a turn of the {role}")
    return [PassContext({"role": role, "content": sound(value, field)}, told=(told,))]


def _answered(
    found: RecordFields,
    prompt: list[PassContext],
    answer: list[PassContext],
    field: str = "completion",
) -> Row:
    """A chat, of which is learnt what comes behind the prompt. Where the answer is the whole conversation, that holds
    the prompt too, and what is learnt is its last turn of the assistant.
    """
    if (first := answer[0].role) == "assistant":
        return _chat(found, prompt + answer, len(prompt))
    said = [turn.message["content"] for turn in answer]
    turns = [i for i, turn in enumerate(answer) if turn.role == "assistant"]
    if not turns or any(turn.message["content"] not in said for turn in prompt):
        raise UnfitError(
            f'the "{field}" begins with a turn of the {first}, and not of the assistant'
        )
    return _chat(found, answer, turns[-1])


def _preference(found: RecordFields) -> Row:
    """A prompt, where there is one, and two answers, of which the better is learnt."""
    asked, chosen = not is_empty(found.values.get("prompt")), _present(found, "chosen")
    found.get("rejected")
    if not asked and not is_empty(found.values.get("instruction")):
        prompt = read_history(found) + _instruction(found)
        return _better(_answered(found, prompt, _answers(found, "chosen"), "chosen"))
    if not asked and (
        name := next((name for name in _QUESTIONS if not is_empty(found.values.get(name))), None)
    ):
        raise UnfitError(
            f'"chosen" answers something; say which field that is with --fields prompt={name}'
        )
    if is_chat(chosen) or (asked and is_chat(found.values["prompt"])):
        prompt = _turns_of(found, "prompt", "user") if asked else []
        row = _answered(found, prompt, _turns_of(found, "chosen", "assistant"), "chosen")
    else:
        row = _pair(found, "chosen") if asked else _whole_text(found, "chosen")
    return _better(row)


def _better(row: Row) -> Row:
    told: Remark = (
        "read_as",
        "preference pairs, of which 'chosen' is learnt and 'rejected' is not used",
    )
    return replace(row, told=(*row.told, told))


def _conversation(found: RecordFields, field: str = "messages") -> Row:
    if field == "messages" and field not in found.values and is_chat(found.values.get("text")):
        return _whole_text(found)
    turns = read_turns(_present(found, field), field)
    if not any(turn.role == "assistant" for turn in turns):
        roles = ", ".join(dict.fromkeys(f"'{turn.role}'" for turn in turns))
        raise UnfitError(
            f'no message in "{field}" is the assistant\'s, so there is nothing to learn; the roles are {roles}'
        )
    return _chat(found, turns, 0, "messages")


def _whole_text(found: RecordFields, field: str = "text") -> Row:
    if is_chat(found.values.get(field)):
        found.told.append(("read_as", f"messages in '{field}' as a conversation"))
        return _conversation(found, field)
    text = _text(found, field)
    if not text.strip():
        raise UnfitError(f'the "{field}" is blank; leave the row out')
    return Row("", text, _source(found), "text")


def _alpaca(found: RecordFields) -> Row:
    before, asked, answer = read_history(found), _instruction(found), _answers(found, "output")
    # As LLaMA-Factory has it, the answers of before are learnt too.
    row = (
        _chat(found, before + asked + answer, 0, "messages")
        if before
        else _answered(found, asked, answer, "output")
    )
    question = found.values.get("input")
    return replace(row, question=question) if isinstance(question, str) else row


def _instruction(found: RecordFields) -> list[PassContext]:
    """What alpaca's fields ask."""
    if is_chat(found.values.get("instruction")):
        if not is_empty(found.values.get("input")):
            raise UnfitError(
                'the "instruction" is messages, and beside it stands an "input"; put that into them'
            )
        return _turns_of(found, "instruction", "user")
    parts = [
        _text(found, "instruction"),
        _text(found, "input") if found.get("input") is not None else "",
    ]
    asked = "\n\n".join(part for part in parts if part.strip())
    if not asked:
        raise UnfitError('the "instruction" is blank; leave the row out')
    return [PassContext({"role": "user", "content": asked})]


def _answers(found: RecordFields, field: str) -> list[PassContext]:
    """A text as a turn of the assistant, or messages."""
    if is_chat(found.values.get(field)):
        return _turns_of(found, field, "assistant")
    return [PassContext({"role": "assistant", "content": _text(found, field)})]


_READ: dict[Shape, Callable[[RecordFields], Row]] = {
    "prompt_completion": _pair,
    "chat_prompt_completion": _chat_pair,
    "messages": _conversation,
    "text": _whole_text,
    "alpaca": _alpaca,
    "sharegpt": lambda found: _conversation(found, "conversations"),
    "preference": _preference,
}


def _chat(found: RecordFields, turns: list[PassContext], start: int, kind: Kind = "pair") -> Row:
    """A row of a whole chat. Of a *pair* what comes from turn `start` on is learnt, of *messages* every turn of the
    assistant, but for those that say that they are not to be.
    """
    if system := read_system(found, turns):
        turns, start = [system, *turns], start + 1
    # A turn that begins the chat answers nothing.
    answers = [i for i, turn in enumerate(turns) if i >= max(start, 1) and turn.role == "assistant"]
    if not answers:
        raise UnfitError("the first message is the assistant's only one, and it answers nothing")
    learnt = [i for i in answers if turns[i].learnt is not False]
    if not learnt:
        raise UnfitError(
            "every turn of the assistant says that it is not to be learnt; leave the row out"
        )
    cut = learnt[0] if kind == "pair" else learnt[-1]
    told: list[Remark] = [one for turn in turns for one in turn.told]
    told += (
        ("not_learnt", f"turns of the {turn.role} that say they are to be")
        for i, turn in enumerate(turns)
        if turn.learnt and i not in learnt
    )
    within = dict.fromkeys(
        turn.role for turn in turns[cut:] if kind == "pair" and turn.role != "assistant"
    )
    told += (
        ("read_as", f"turns of the {role} within a completion as a part of it, which is learnt")
        for role in within
    )
    messages = [turn.message for turn in turns]
    # What comes before a pair's completion is not learnt anyhow.
    silent = [
        i
        for i, turn in enumerate(turns)
        if turn.learnt is False and (kind == "messages" or i > cut)
    ]
    return Row(
        messages[:cut],
        messages[cut:],
        _source(found),
        kind,
        read_tools(found),
        read_variables(found),
        tuple(i for i in silent if turns[i].role == "assistant"),
        tuple(told),
    )


def _present(found: RecordFields, field: str) -> Any:
    if field not in found.values:
        raise UnfitError(f'the row needs "{field}" as the first row has, and it has {found.names}')
    return found.get(field)


def _text(found: RecordFields, field: str) -> str:
    """A field as text. Numbers, objects and lists are written as JSON writes them."""
    if field not in found.values:
        raise UnfitError(
            f'the row needs a "{field}" as the first row has, and it has {found.names}'
        )
    value = found.get(field)
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        raise UnfitError(
            f'the "{field}" is {"null" if value is None else value}; leave the row out'
        )
    if isinstance(value, str):
        return sound(value, field)
    if isinstance(value, bytes):
        raise UnfitError(f'the "{field}" is bytes, and a text is needed')
    if not isinstance(value, str) and is_chat(value):
        raise UnfitError(f'the "{field}" is messages, and a text is needed')
    if isinstance(value, dict | list):
        nulls = ", with nulls (a column of Parquet or Arrow has some for the fields of other rows)"
        found.told.append(("as_json", f"'{field}'{nulls if has_null(value) else ''}"))
    if isinstance(value, bool | int | float | dict | list):
        return sound(json.dumps(value, ensure_ascii=False, default=str), field)
    return str(value)  # a date, a decimal


def _source(found: RecordFields) -> str:
    source = found.get("source", "")
    if not isinstance(source, str | int):
        raise UnfitError('"source" names where the row is from, and is a text or a whole number')
    return sound(str(source), "source")
