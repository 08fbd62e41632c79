"""The documents of Rung as JSON: `result.json` and what `--json` prints.

A document is a frozen dataclass, so its fields have names and types. Infinite numbers and NaN
become null: JSON has neither.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from pydantic import TypeAdapter


def to_json(document: object) -> dict[str, Any]:
    """A document as JSON values: the fields as keys, tuples as lists."""
    kind: Any = type(document)
    content: dict[str, Any] = json.loads(_adapter(kind).dump_json(document))
    return content


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
