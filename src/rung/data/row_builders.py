"""Rows from records whose format is known, one function for each format."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

from rung.data.chat.conversation_fields import (
    RecordFields,
    read_history,
    read_system,
    read_tools,
    read_variables,
)
from rung.data.chat.turns import ChatTurn, is_chat, read_turns
from rung.data.field_values import check_text, has_null, is_empty
from rung.data.remarks import Remark
from rung.data.row_errors import InvalidRowError
from rung.data.rows import Row, RowKind

_QUESTION_FIELDS = ("question", "query", "input", "context")
"""Common names of what a preference answers, other than `prompt`."""


def build_pair(fields: RecordFields, completion_field: str = "completion") -> Row:
    """A prompt and a completion that are texts."""
    for name in ("prompt", completion_field):
        value = fields.values.get(name)
        if not is_chat(value):
            continue
        if not isinstance(value, str):
            raise InvalidRowError(
                f'the "{name}" is messages, but in the first row both are texts; write all rows in '
                "the same way"
            )
        fields.remarks.append(("as_json", f"messages that are a text in '{name}'"))
    prompt, completion = _text(fields, "prompt"), _text(fields, completion_field)
    if not prompt.strip():
        raise InvalidRowError(
            'the "prompt" is blank; leave the row out, or give the whole row as "text"'
        )
    return Row(prompt, completion, _source(fields))


def build_chat_pair(fields: RecordFields) -> Row:
    """A prompt and a completion of which at least one is messages."""
    prompt = _turns(fields, "prompt", "user")
    return _build_answered(fields, prompt, _turns(fields, "completion", "assistant"), "completion")


def build_conversation(fields: RecordFields, field: str = "messages") -> Row:
    """A conversation of which all turns of the assistant are trained on."""
    if field == "messages" and field not in fields.values and is_chat(fields.values.get("text")):
        return build_text(fields)
    turns = read_turns(_required(fields, field), field)
    if not any(turn.role == "assistant" for turn in turns):
        roles = ", ".join(dict.fromkeys(f"'{turn.role}'" for turn in turns))
        raise InvalidRowError(
            f'no message in "{field}" is the assistant\'s, so there is nothing to train on; the '
            f"roles are {roles}"
        )
    return _build_chat(fields, turns, 0, "messages")


def build_text(fields: RecordFields, field: str = "text") -> Row:
    """A text that is trained on as a whole, or the conversation that the field contains."""
    if is_chat(fields.values.get(field)):
        fields.remarks.append(("read_as", f"messages in '{field}' as a conversation"))
        return build_conversation(fields, field)
    text = _text(fields, field)
    if not text.strip():
        raise InvalidRowError(f'the "{field}" is blank; leave the row out')
    return Row("", text, _source(fields), "text")


def build_alpaca(fields: RecordFields) -> Row:
    """An instruction, perhaps with an input and earlier turns, and its answer."""
    history, question = read_history(fields), _instruction(fields)
    answer = _answer(fields, "output")
    if history:
        # As in LLaMA-Factory, the answers of the history are trained on too.
        row = _build_chat(fields, history + question + answer, 0, "messages")
    else:
        row = _build_answered(fields, question, answer, "output")
    asked = fields.values.get("input")
    return replace(row, question=asked) if isinstance(asked, str) else row


def build_preference(fields: RecordFields) -> Row:
    """Two answers, of which the chosen one is trained on, and a prompt if there is one."""
    remark: Remark = (
        "read_as",
        "preference pairs, of which 'chosen' is trained on and 'rejected' is not used",
    )
    row = _build_chosen(fields)
    return replace(row, remarks=(*row.remarks, remark))


def _build_chosen(fields: RecordFields) -> Row:
    has_prompt = not is_empty(fields.values.get("prompt"))
    chosen = _required(fields, "chosen")
    fields.get("rejected")  # used in the sense that no remark is made of it
    if not has_prompt and not is_empty(fields.values.get("instruction")):
        prompt = read_history(fields) + _instruction(fields)
        return _build_answered(fields, prompt, _answer(fields, "chosen"), "chosen")
    if not has_prompt:
        for name in _QUESTION_FIELDS:
            if not is_empty(fields.values.get(name)):
                raise InvalidRowError(
                    f'"chosen" is the answer to another field; name that field with --fields '
                    f"prompt={name}",
                    needs_fields=True,
                )
    if is_chat(chosen) or (has_prompt and is_chat(fields.values["prompt"])):
        prompt = _turns(fields, "prompt", "user") if has_prompt else []
        return _build_answered(fields, prompt, _turns(fields, "chosen", "assistant"), "chosen")
    return build_pair(fields, "chosen") if has_prompt else build_text(fields, "chosen")


def _build_answered(
    fields: RecordFields, prompt: list[ChatTurn], answer: list[ChatTurn], field: str
) -> Row:
    """A conversation of which the turns after the prompt are trained on.

    If the answer is the whole conversation, it contains the prompt too. Then its last turn of the
    assistant is trained on.
    """
    first_role = answer[0].role
    if first_role == "assistant":
        return _build_chat(fields, prompt + answer, len(prompt))
    contents = [turn.message["content"] for turn in answer]
    assistant_turns = [i for i, turn in enumerate(answer) if turn.role == "assistant"]
    if not assistant_turns or any(turn.message["content"] not in contents for turn in prompt):
        raise InvalidRowError(
            f'the "{field}" begins with a turn of the {first_role}; it must begin with a turn of '
            "the assistant"
        )
    return _build_chat(fields, answer, assistant_turns[-1])


def _build_chat(
    fields: RecordFields, turns: list[ChatTurn], start: int, kind: RowKind = "pair"
) -> Row:
    """A row from a whole conversation.

    In a *pair* the turns from `start` on are trained on; in *messages*, every turn of the
    assistant. A turn that says not to train on it is not.
    """
    if system := read_system(fields, turns):
        turns, start = [system, *turns], start + 1
    # A turn that begins the conversation answers nothing.
    answers = [i for i, turn in enumerate(turns) if i >= max(start, 1) and turn.role == "assistant"]
    if not answers:
        raise InvalidRowError(
            "the first message is the only one of the assistant, and it answers nothing"
        )
    trained = [i for i in answers if turns[i].is_trained is not False]
    if not trained:
        raise InvalidRowError(
            "every turn of the assistant says not to train on it; leave the row out"
        )
    split = trained[0] if kind == "pair" else trained[-1]
    # The turns before a pair's completion are not trained on anyway.
    untrained = [
        i
        for i, turn in enumerate(turns)
        if turn.is_trained is False
        and turn.role == "assistant"
        and (kind == "messages" or i > split)
    ]
    messages = [turn.message for turn in turns]
    return Row(
        prompt=messages[:split],
        completion=messages[split:],
        source=_source(fields),
        kind=kind,
        tools=read_tools(fields),
        variables=read_variables(fields),
        untrained_turns=tuple(untrained),
        remarks=tuple(_chat_remarks(turns, trained, turns[split:] if kind == "pair" else [])),
    )


def _chat_remarks(
    turns: list[ChatTurn], trained: list[int], completion: list[ChatTurn]
) -> list[Remark]:
    remarks = [remark for turn in turns for remark in turn.remarks]
    remarks += (
        ("not_learnt", f"turns of the {turn.role} that say to train on them")
        for i, turn in enumerate(turns)
        if turn.is_trained and i not in trained
    )
    other_roles = dict.fromkeys(turn.role for turn in completion if turn.role != "assistant")
    remarks += (
        ("read_as", f"turns of the {role} within a completion as a part of it, which is trained on")
        for role in other_roles
    )
    return remarks


def _turns(fields: RecordFields, field: str, role: str) -> list[ChatTurn]:
    """The messages of a field. A text is one turn of the role, unless it contains messages."""
    value = _required(fields, field)
    if not isinstance(value, str):
        return read_turns(value, field)
    if is_chat(value):
        turns = read_turns(value, field)
        remark: Remark = ("read_as", f"a text for the '{field}' as the messages that it contains")
        return [replace(turns[0], remarks=(*turns[0].remarks, remark)), *turns[1:]]
    if not value.strip() and role == "user":
        raise InvalidRowError(f'the "{field}" is blank; leave the row out')
    remark = ("read_as", f"a text for the '{field}' as a turn of the {role}")
    return [ChatTurn({"role": role, "content": check_text(value, field)}, remarks=(remark,))]


def _instruction(fields: RecordFields) -> list[ChatTurn]:
    """The question of alpaca's fields."""
    if is_chat(fields.values.get("instruction")):
        if not is_empty(fields.values.get("input")):
            raise InvalidRowError(
                'the "instruction" is messages, so the "input" beside it cannot be used; put it '
                "into the messages"
            )
        return _turns(fields, "instruction", "user")
    parts = [_text(fields, "instruction")]
    if fields.get("input") is not None:
        parts.append(_text(fields, "input"))
    question = "\n\n".join(part for part in parts if part.strip())
    if not question:
        raise InvalidRowError('the "instruction" is blank; leave the row out')
    return [ChatTurn({"role": "user", "content": question})]


def _answer(fields: RecordFields, field: str) -> list[ChatTurn]:
    """A text as a turn of the assistant, or messages."""
    if is_chat(fields.values.get(field)):
        return _turns(fields, field, "assistant")
    return [ChatTurn({"role": "assistant", "content": _text(fields, field)})]


def _required(fields: RecordFields, field: str) -> Any:
    if field not in fields.values:
        raise InvalidRowError(
            f'the row needs a "{field}", as the first row has, but its fields are {fields.names}'
        )
    return fields.get(field)


def _text(fields: RecordFields, field: str) -> str:
    """A field as text. Numbers, objects and lists are written as JSON."""
    value = _required(fields, field)
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        raise InvalidRowError(
            f'the "{field}" is {"null" if value is None else value}; leave the row out'
        )
    if isinstance(value, str):
        return check_text(value, field)
    if isinstance(value, bytes):
        raise InvalidRowError(f'the "{field}" is bytes, but it must be a text')
    if is_chat(value):
        raise InvalidRowError(f'the "{field}" is messages, but it must be a text')
    if isinstance(value, dict | list):
        nulls = ", with nulls (a column of Parquet or Arrow has some for the fields of other rows)"
        fields.remarks.append(("as_json", f"'{field}'{nulls if has_null(value) else ''}"))
    if isinstance(value, bool | int | float | dict | list):
        return check_text(json.dumps(value, ensure_ascii=False, default=str), field)
    return str(value)  # a date or a decimal number


def _source(fields: RecordFields) -> str:
    source = fields.get("source", "")
    if not isinstance(source, str | int):
        raise InvalidRowError(
            '"source" says where the row is from, so it must be a text or a whole number'
        )
    return check_text(str(source), "source")
