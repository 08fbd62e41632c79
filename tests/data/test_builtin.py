from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as pq

import rung.data.builtin
from rung.data.builtin import price, pronounce


def test_pronounce_has_fixed_splits_of_distinct_words() -> None:
    assert [len(split) for split in pronounce()] == [1200, 200, 400]
    pairs = [pair for split in pronounce() for pair in split]
    assert len({prompt for prompt, _ in pairs}) == 1800
    for prompt, completion in pairs:
        assert re.fullmatch(r"Say [a-z]+:", prompt)
        assert re.fullmatch(r"( [A-Z]{1,2})+", completion), "sounds without stress digits"


def test_pronounce_gives_the_pronunciation_of_the_dictionary() -> None:
    pairs = dict(pair for split in pronounce() for pair in split)
    assert pairs["Say deflector:"] == " D IH F L EH K T ER"


def test_price_has_a_prompt_of_properties_and_two_significant_figures() -> None:
    assert [len(split) for split in price()] == [2400, 400, 600]
    pairs = [pair for split in price() for pair in split]
    assert len({prompt for prompt, _ in pairs}) == 3400, "no diamond is in two splits"
    for prompt, completion in pairs:
        assert re.fullmatch(
            r"Diamond: [\d.]+ carat, [\w ]+ cut, color [D-J], clarity \w+\. Price: \$", prompt
        ), prompt
        assert re.fullmatch(r"[1-9]\d0*", completion), completion


def test_the_price_file_names_its_source_and_licence() -> None:
    path = Path(rung.data.builtin.__file__).with_name("price.parquet")
    metadata = pq.read_schema(path).metadata
    assert b"ggplot2" in metadata[b"source"]
    assert b"MIT" in metadata[b"licence"]
