"""The documents of Rung as JSON: `result.json` and what `--json` prints.

A document is a frozen dataclass, so its fields have names and types. Infinite numbers and NaN
become null: JSON has neither.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter

Document = TypeVar("Document")


def to_json(document: object) -> dict[str, Any]:
    """A document as JSON values: the fields as keys, tuples as lists."""
    content: dict[str, Any] = json.loads(_adapter(type(document)).dump_json(document))
    return content


def from_json(kind: type[Document], content: str | bytes) -> Document:
    """Read a document back.

    Raises:
        ValueError: the content is not such a document.
    """
    document: Document = _adapter(kind).validate_json(content)
    return document


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
