from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.tiny import tiny_tokenizer

from rung.data.model_limits import check_model_limits, count_possible_truncations, max_new_tokens
from rung.data.prepare import Data, prepare
from rung.errors import DataError
from rung.recipe import Recipe


@pytest.fixture
def data(tmp_path: Path) -> Data:
    """Rows of 12 tokens, a long one of 31, and a tilde, the token 96."""
    rows = [{"prompt": f"row {i:04}:", "completion": "ab"} for i in range(60)]
    rows[40] = {"prompt": "a longer row:", "completion": "abcdefghijklmnop~"}
    paths = {}
    for name in ("train", "validation", "test"):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows if name == "train" else rows[:30])))
        paths[name] = str(path)
    return prepare(
        Recipe(data=paths["train"], validation=paths["validation"], test=paths["test"]),
        tiny_tokenizer(),
    )


def test_rows_that_fit_are_let_pass(data: Data) -> None:
    check_model_limits(data, 31, 97, tiny_tokenizer())
    check_model_limits(data, None, 97, tiny_tokenizer())


def test_a_row_beyond_the_positions_is_counted_with_the_remedy(data: Data) -> None:
    with pytest.raises(DataError) as caught:
        check_model_limits(data, 30, 97, tiny_tokenizer())
    assert str(caught.value) == (
        "1 of 120 rows have more tokens than the model has positions, 30, and the longest has 31; give --max-tokens 30."
    )


def test_a_token_beyond_the_embedding_is_named_with_its_row(data: Data) -> None:
    with pytest.raises(
        DataError, match=r"train\.jsonl, line 41 has the token '.+', number 96 in the tokenizer"
    ):
        check_model_limits(data, None, 96, tiny_tokenizer())


def test_the_room_to_write_is_a_quarter_more_than_the_longest_completion(data: Data) -> None:
    assert max_new_tokens(data.train) == 18 + 4
    assert max_new_tokens(data.validation) == 3


def test_prompts_whose_texts_may_reach_the_end_of_the_positions_are_counted(data: Data) -> None:
    rows = data.train
    assert count_possible_truncations(rows, None) == 0
    assert count_possible_truncations(rows, 13 + 22) == 0
    assert count_possible_truncations(rows, 13 + 21) == 1
    assert count_possible_truncations(rows, 9 + 21) == 60
