"""Checks and conversions of the values of a record's fields."""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Iterable
from typing import Any

from rung.data.row_errors import InvalidRowError

_MAX_LISTED_NAMES = 20
_PYTHON_LITERAL = re.compile(r"\s*\[?\s*\{\s*['\"]")


def parse_nested(value: Any) -> Any:
    """A list or an object that is written as text, as in a cell of a table; other values unchanged.

    The text may be JSON, or a Python literal, which pandas writes into a CSV file.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return _parse_python(value) if _PYTHON_LITERAL.match(value) else value
    return value


def _parse_python(text: str) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def is_empty(value: Any) -> bool:
    """Whether a value carries no information: null, NaN, a blank text, or an empty list."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, list | tuple | dict) and not value)


def has_null(value: Any) -> bool:
    """Whether a value is null or has a null at any depth."""
    if isinstance(value, dict | list):
        return any(map(has_null, value.values() if isinstance(value, dict) else value))
    return value is None


def check_text(text: str, field: str) -> str:
    """The same text.

    Raises:
        InvalidRowError: The text has half of a surrogate pair, so it cannot be encoded.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRowError(
            f'the "{field}" has half of a surrogate pair at character {error.start + 1}, which is '
            "not valid text; write the text again"
        ) from None
    return text


def list_names(names: Iterable[Any]) -> str:
    """The names of fields, quoted and shortened, for a message."""
    names = list(names)
    listed = ", ".join(map(repr, names[:_MAX_LISTED_NAMES]))
    return listed + ", …" * (len(names) > _MAX_LISTED_NAMES) or "no fields"


def describe_kind(value: Any) -> str:
    """What a JSON value is, in words, for a message."""
    kinds = {
        str: "a text",
        list: "a list",
        dict: "an object",
        type(None): "null",
        bool: "true or false",
    }
    return "an empty list" if value == [] else kinds.get(type(value), "a number")
