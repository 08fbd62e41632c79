"""Documents as JSON: fields become keys, tuples become lists, infinity becomes null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from rung.formats.documents import to_json
from rung.types import Setting


@dataclass(frozen=True, slots=True)
class Part:
    """A document in a document."""

    name: str
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """A document with every kind of field that Rung's documents have."""

    schema: int
    part: Part
    parts: tuple[Part, ...]
    by_rank: Mapping[int, float]
    setting: Setting | None
    note: str | None = None


DOCUMENT = Document(2, Part("a", (1.5, 2)), (Part("b", ()),), {8: 0.5}, None, "√ rank")


def test_fields_are_keys_and_tuples_are_lists() -> None:
    assert to_json(DOCUMENT) == {
        "schema": 2,
        "part": {"name": "a", "values": [1.5, 2.0]},
        "parts": [{"name": "b", "values": []}],
        "by_rank": {"8": 0.5},
        "setting": None,
        "note": "√ rank",
    }


def test_fields_come_in_the_order_of_the_class() -> None:
    assert list(to_json(DOCUMENT)) == ["schema", "part", "parts", "by_rank", "setting", "note"]


def test_a_setting_has_its_fields_and_no_computed_ones() -> None:
    content = to_json(Setting(8, 16, "attention", 1e-3))
    assert content == {
        "rank": 8,
        "alpha": 16,
        "targets": "attention",
        "learning_rate": 1e-3,
        "use_rslora": False,
        "dropout": 0.0,
    }


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_a_number_that_json_does_not_have_is_null(number: float) -> None:
    content = to_json(Document(2, Part("a", (number,)), (), {1: number}, None))
    assert (content["part"]["values"], content["by_rank"]) == ([None], {"1": None})
    assert json.loads(json.dumps(content, allow_nan=False)) == content


def test_a_number_keeps_every_bit() -> None:
    numbers = (0.1 + 0.2, 1e-300, 2.0**60 + 2**8, 5e-324)
    assert to_json(Part("a", numbers))["values"] == list(numbers)
