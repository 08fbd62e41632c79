"""The meaning of a record: which format it has, and the row that it gives.

The formats are those that TRL trains on, and two more that are converted to conversations:

====================================  ==================================================
fields                                a row
====================================  ==================================================
`prompt` + `completion`, texts        the completion is trained on
`prompt` + `completion`, messages     the same, through the model's chat template
`messages`                            the assistant's turns are trained on
`text`                                all of it is trained on
`instruction` (+ `input`) + `output`  *alpaca*: a question and an answer
`conversations`, `from` and `value`   *sharegpt*: `messages`, with other names
`chosen`, `rejected` (+ `prompt`)     a *preference*: `chosen` is trained on
====================================  ==================================================

Other fields that belong to a conversation become part of it: `system`, `history`, `tools`,
`documents`, `chat_template_kwargs`. A remark is made for each field that is not used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from rung.data.chat.conversation_fields import CONTEXT_FIELDS, RecordFields, unused_field_remark
from rung.data.chat.turns import is_chat
from rung.data.field_hints import hint_for_unknown_fields, likely_field
from rung.data.field_values import describe_kind, is_empty, list_names, parse_nested
from rung.data.remarks import Remark
from rung.data.row_builders import (
    build_alpaca,
    build_chat_pair,
    build_conversation,
    build_pair,
    build_preference,
    build_text,
)
from rung.data.row_errors import InvalidFieldsError, InvalidRowError
from rung.data.rows import Row
from rung.errors import DataError

RecordFormat = Literal[
    "prompt_completion",
    "chat_prompt_completion",
    "messages",
    "text",
    "alpaca",
    "sharegpt",
    "preference",
]
_FIELD_GROUPS = (
    {"prompt", "completion"},
    {"instruction", "input", "output", "history"},
    {"prompt", "chosen", "rejected"},
)
"""Fields that belong together."""
_FORMAT_OF_LIST: dict[str, RecordFormat] = {"messages": "messages", "conversations": "sharegpt"}


class RecordReader:
    """Turns records into rows. The first record decides the format, and all others must have it.

    Attributes:
        fields: The user's name of a field, by Rung's name for it: `{"completion": "answer"}`.
        format: The format; None before the first row.
    """

    def __init__(self, fields: Mapping[str, str] | None = None) -> None:
        self.fields = dict(fields or {})
        self.format: RecordFormat | None = None

    def read(self, record: Any, location: str) -> Row:
        """Turn one record into a row.

        Raises:
            DataError: The record does not have the format. The message begins with `location`.
        """
        if not isinstance(record, dict):
            raise DataError(
                f"{location}: a row must be an object with named fields, but this is "
                f"{describe_kind(record)}."
            )
        fields = RecordFields(self._rename(record, location))
        record_format = self.format or self._detect_format(fields.values, record, location)
        try:
            row = _build_row(record_format, fields)
        except InvalidRowError as error:
            raise error.at(location) from None
        if self.format is None:
            # A text may contain a conversation; then the data set is one of conversations.
            is_conversation = row.kind == "messages" and record_format == "text"
            self.format = "messages" if is_conversation else record_format
        remarks = (*row.remarks, *fields.remarks, *self._unused_fields(record, fields))
        return replace(row, remarks=remarks) if remarks else row

    def _unused_fields(self, record: dict[str, Any], fields: RecordFields) -> list[Remark]:
        used = {
            self.fields.get(name, name)
            for name in fields.used
            if name != "source" or name in self.fields
        }
        return [
            unused_field_remark(name, value)
            for name, value in record.items()
            if name not in used and not is_empty(value)
        ]

    def _rename(self, record: dict[str, Any], location: str) -> dict[str, Any]:
        """The record with Rung's names in the place of the user's.

        A field `source` that the user did not name is ignored: in many data sets it says which
        collection a row comes from.
        """
        missing = [field for field in self.fields.values() if field not in record]
        if missing:
            raise InvalidFieldsError(
                f"{location}: there is no field '{missing[0]}', which --fields names; the fields "
                f"are {list_names(record)}."
            )
        named = {name: record[field] for name, field in self.fields.items()}
        if set(named) <= {"source"} | CONTEXT_FIELDS:
            return {**record, "source": "", **named}
        # Fields that belong to the named ones may already have Rung's names.
        related = {name for group in _FIELD_GROUPS if named.keys() & group for name in group}
        related = (related | CONTEXT_FIELDS) - set(self.fields.values())
        return {**{name: record[name] for name in related & record.keys()}, **named}

    def _detect_format(
        self, fields: dict[str, Any], record: dict[str, Any], location: str
    ) -> RecordFormat:
        for name, list_format in _FORMAT_OF_LIST.items():
            value = parse_nested(fields.get(name))
            if isinstance(value, list) or is_chat(value):
                return list_format
        if "prompt" in fields and "completion" in fields:
            has_chat = is_chat(fields["prompt"]) or is_chat(fields["completion"])
            return "chat_prompt_completion" if has_chat else "prompt_completion"
        if "chosen" in fields and "rejected" in fields:
            return "preference"
        if "instruction" in fields and "output" in fields:
            return "alpaca"
        if "text" in fields:
            return "text"
        if "input_ids" in record:
            raise DataError(
                f"{location}: the row is already tokens (input_ids); give the texts that they were "
                "made from."
            )
        for given, missing in (("prompt", "completion"), ("completion", "prompt")):
            if given in fields:
                likely = likely_field(missing, record.keys() - self.fields.values())
                raise InvalidFieldsError(
                    f'{location}: the row also needs a "{missing}", but its fields are '
                    f"{list_names(record)}; name it with --fields {missing}={likely}."
                )
        hint = hint_for_unknown_fields(record)
        error = InvalidFieldsError if hint.needs_fields else DataError
        raise error(
            f"{location}: the fields {list_names(record)} are of no known format (prompt + "
            "completion, messages, text, instruction + output, conversations); "
            f"{hint.remedy}."
        )


def _build_row(record_format: RecordFormat, fields: RecordFields) -> Row:
    match record_format:
        case "prompt_completion":
            return build_pair(fields)
        case "chat_prompt_completion":
            return build_chat_pair(fields)
        case "messages":
            return build_conversation(fields)
        case "text":
            return build_text(fields)
        case "alpaca":
            return build_alpaca(fields)
        case "sharegpt":
            return build_conversation(fields, "conversations")
        case "preference":
            return build_preference(fields)
