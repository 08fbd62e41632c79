from __future__ import annotations

import re

import pyarrow.parquet as pq

import rung.data.tasks
from rung.data.read import read_splits


def test_pronounce_has_fixed_splits_of_distinct_words() -> None:
    splits = read_splits("pronounce")
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [1200, 200, 400]
    rows = [*splits.train, *splits.validation, *splits.test]
    assert len({row.prompt for row in rows}) == 1800
    for row in rows:
        assert re.fullmatch(r"Say [a-z]+:", row.prompt)
        assert re.fullmatch(r"( [A-Z]{1,2})+", row.completion), "sounds without stress digits"
    # Known from the dictionary, not from this code.
    known = {row.prompt: row.completion for row in rows}
    assert known["Say deflector:"] == " D IH F L EH K T ER"


def test_price_has_a_prompt_of_properties_and_two_significant_figures() -> None:
    splits = read_splits("price")
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [2400, 400, 600]
    rows = [*splits.train, *splits.validation, *splits.test]
    assert len({row.prompt for row in rows}) == 3400, "no stone stands on two sides"
    for row in rows:
        assert re.fullmatch(r"Diamond: [\d.]+ carat, [\w ]+ cut, color [D-J], clarity \w+\. Price: \$", row.prompt), (
            row.prompt
        )
        assert re.fullmatch(r"[1-9]\d0*", row.completion), row.completion


def test_the_price_file_says_where_it_is_from() -> None:
    path = rung.data.tasks.Path(rung.data.tasks.__file__).with_name("price.parquet")
    metadata = pq.read_schema(path).metadata
    assert b"ggplot2" in metadata[b"source"]
    assert b"MIT" in metadata[b"licence"]
